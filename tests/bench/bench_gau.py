"""A training step of GAU layers against attention + FFN blocks of torch's own kernels, d = 768, bf16, one thread.

    python -m tests.bench.bench_gau [--quick]

Forward and backward of four GAU layers and of two blocks, which have as many parameters (GAU: 2.8 % more), on 4 096 tokens
in texts of one length, no padding. The peers are Post-Norm: `scaled_dot_product_attention` with 12 heads and a GELU FFN,
once with `nn.RMSNorm` (what a GAU has here) and once with `nn.LayerNorm` (torch's faster kernel). They have *no* rotary
positions, which a GAU pays for. CPU seconds, medians of interleaved runs. The limit is what the layers' matrix products
alone would take at the best rate that torch's bf16 product reaches in the same run.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kxbatch.models.attention import Frame
from kxbatch.models.text_encoder import GauLayer, Mask, TextEncoderConfig

DIM, HEADS, KEYS, TOKENS = 768, 12, 128, 4096
UNIT = "tokens / CPU s"
Mode = Literal["weights", "autocast"]


class PeerBlock(nn.Module):
    """Attention and FFN, Post-Norm, as torch's parts give it."""

    def __init__(self, norm: type[nn.RMSNorm] | type[nn.LayerNorm]) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(DIM, 3 * DIM, bias=False), nn.Linear(DIM, DIM, bias=False)
        self.wide, self.back = nn.Linear(DIM, 4 * DIM, bias=False), nn.Linear(4 * DIM, DIM, bias=False)
        self.norms = nn.ModuleList([norm(DIM), norm(DIM)])

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = self.norms[0](x + self.out(mixed))
        y: Tensor = self.norms[1](x + self.back(F.gelu(self.wide(x))))
        return y


class GauStack(nn.Module):
    """The layers of a text encoder, without its embedding."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.config = TextEncoderConfig(1, dim=DIM, layers=layers, key_dim=KEYS)
        self.layers = nn.ModuleList([GauLayer(self.config) for _ in range(layers)])

    def forward(self, x: Tensor) -> Tensor:
        frame = Frame.of(self.config, Mask.full(x.shape[0], x.shape[1]), x)
        for layer in self.layers:
            x = layer(x, frame)
        return x


def step(model: nn.Module, x: Tensor, mode: Mode) -> None:
    """Forward and backward, gradients of all weights and of the input."""
    model.zero_grad(set_to_none=True)
    given = x.detach().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16) if mode == "autocast" else nullcontext():
        made = model(given)
    made.backward(torch.ones_like(made))


def flops(layers: int, length: int) -> int:
    """Of the matrix products of a step of GAU layers: twice the multiplications, three times for both directions."""
    inner = 2 * DIM
    forward = 2 * (DIM * (2 * inner + KEYS) + inner * DIM + length * (KEYS + inner))
    return 3 * layers * TOKENS * forward


def products() -> dict[str, tuple[int, Callable[[], object]]]:
    """bf16 products of sizes that suit torch, with their FLOPs; the best of them is the limit."""
    found: dict[str, tuple[int, Callable[[], object]]] = {}
    for m, k, n in ((2048, 2048, 2048), (4096, 768, 3072), (4096, 1536, 768)):
        a, b = torch.randn(m, k).bfloat16(), torch.randn(n, k).bfloat16()
        found[f"{m} x {k} x {n}"] = (2 * m * k * n, lambda a=a, b=b: F.linear(a, b))  # type: ignore[misc]
    return found


def seconds(work: dict[str, Callable[[], object]], runs: int) -> dict[str, float]:
    """CPU seconds of each, the median of interleaved runs after one that does not count."""
    taken: dict[str, list[float]] = {name: [] for name in work}
    for run in range(runs + 1):
        for name, call in work.items():
            start = time.process_time()
            call()
            if run:
                taken[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


def compare(mode: Mode, length: int, blocks: int, runs: int) -> list[dict[str, Any]]:
    """Three rows: against each peer, and the share of the limit."""
    torch.manual_seed(0)
    dtype = torch.bfloat16 if mode == "weights" else torch.float32
    x = torch.randn(TOKENS // length, length, DIM, dtype=dtype)
    models: dict[str, nn.Module] = {
        "gau": GauStack(2 * blocks),
        "RMSNorm": nn.Sequential(*[PeerBlock(nn.RMSNorm) for _ in range(blocks)]),
        "LayerNorm": nn.Sequential(*[PeerBlock(nn.LayerNorm) for _ in range(blocks)]),
    }
    work: dict[str, Callable[[], object]] = {
        name: lambda model=model: step(model, x, mode)  # type: ignore[misc]
        for name, model in models.items()
    }
    for model in models.values():
        model.to(dtype)
    matrices = products()
    taken = seconds(work | {name: call for name, (_, call) in matrices.items()}, runs)
    peak = max(count / taken[name] for name, (count, _) in matrices.items())
    reached = flops(2 * blocks, length) / taken["gau"]
    limit = TOKENS * peak / flops(2 * blocks, length)
    what = f"bf16 {mode}, n = {length}"
    rows = [
        _row(f"GAU x2, attention + FFN with {peer}, {what}", TOKENS / taken["gau"], TOKENS / taken[peer], limit, 1.05)
        for peer in ("RMSNorm", "LayerNorm")
    ]
    share = _row(f"GAU x2, share of the bf16 product's rate, {what}", reached / 1e9, peak / 1e9, peak / 1e9, 0.75)
    return [*rows, share | {"unit": "GFLOP / CPU s"}]


def _row(name: str, ours: float, peer: float, limit: float, target: float) -> dict[str, Any]:
    return {
        "name": name,
        "ours": round(ours, 1),
        "peer": round(peer, 1),
        "limit": round(limit, 1),
        "unit": UNIT,
        "ratio": round(ours / peer, 3),
        "target": target,
        "environment": environment(),
    }


def environment() -> str:
    """Machine, torch, threads, and what else the machine was doing."""
    return (
        f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, 1 thread, torch {torch.__version__}, "
        f"load {os.getloadavg()[0]:.1f} of {os.cpu_count()} cores"
    )


def rows(quick: bool) -> list[dict[str, Any]]:
    """Measures everything.

    Args:
        quick: one block against two layers and three runs, in place of two against four and five.
    """
    blocks, runs = (1, 3) if quick else (2, 5)
    torch.set_num_threads(1)
    modes: tuple[Mode, ...] = ("weights", "autocast")
    return [row for mode in modes for length in (512, 1024) for row in compare(mode, length, blocks, runs)]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    for row in rows(parser.parse_args().quick):
        print(
            f"{row['name']:<70} {row['ours']:>8} against {row['peer']:>8}  limit {row['limit']:>8} {row['unit']}  "
            f"ratio {row['ratio']:>6}  target {row['target']}  ({row['environment']})"
        )


if __name__ == "__main__":
    main()
