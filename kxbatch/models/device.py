"""Where a model computes, and in which precision."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import torch

from kxbatch.errors import ConfigError

CPU_TOKENS = 1024  # what one core keeps in its caches; measured best between 512 and 1024
GPU_TOKENS = 65_536
_MAPPED_FROM, _TRIMMED_FROM = 32 * 2**20, 64 * 2**20  # bytes
_M_MMAP_THRESHOLD, _M_TRIM_THRESHOLD = -3, -1  # of mallopt(3)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def resolve_device(device: str) -> str:
    """`auto` is a GPU where there is one.

    Raises:
        ConfigError: torch knows no such device here.
    """
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise ConfigError(f"device = '{device}': write 'auto', 'cpu', 'cuda' or 'cuda:<number>'") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device = '{device}': this torch ({torch.__version__}) sees no GPU; use 'cpu' or 'auto'")
    return device


def resolve_precision(precision: str, device: str) -> str:
    """`auto` is bf16 where the device has instructions for it, else fp32. fp16 is never used: CPUs emulate it."""
    if precision != "auto":
        return precision
    if device == "cpu":
        return "bf16" if cpu_has_bf16() else "fp32"
    return "bf16" if torch.cuda.is_bf16_supported() else "fp32"


def cpu_has_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the CPU multiplies bf16 matrices itself; without the instructions bf16 is far slower than fp32."""
    if not cpuinfo.is_file():
        return False
    words = set(cpuinfo.read_text(errors="replace").split())
    return bool(words & {"avx512_bf16", "amx_bf16"})


def run_batches(work: Callable[[int], None], batches: int, threads: int, device: str) -> None:
    """Do every batch.

    On a CPU each batch has one thread of its own: nothing waits at barriers inside operations, a batch stays in one
    core's caches, and the result does not depend on the number of threads. A GPU takes them one after another.
    """
    if device != "cpu":
        for i in range(batches):
            work(i)
        return
    keep_freed_memory()
    with _one_thread_each(), ThreadPoolExecutor(max(1, min(threads, batches))) as pool:
        for _ in pool.map(work, range(batches)):
            pass


@cache
def keep_freed_memory() -> None:
    """Tell glibc to hold on to what was freed, up to 64 MB.

    A layer's output of a few megabytes goes back to the kernel as soon as it is freed, and comes back page by page, zeroed: a
    quarter of the time of a small network on a CPU. Other C libraries have no such call, and are left as they are.
    """
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _MAPPED_FROM)
        libc.mallopt(_M_TRIM_THRESHOLD, _TRIMMED_FROM)


@contextmanager
def _one_thread_each() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
