"""The GAU page's formulas in float64 numpy, one row and one pair at a time: slow, and nothing shared with the code."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


def silu(x: Matrix) -> Matrix:
    return x / (1 + np.exp(-x))


def rope(x: Matrix, base: float) -> Matrix:
    """Rows turned by their index, as complex numbers."""
    half = x.shape[1] // 2
    speed = base ** (-np.arange(half) / half)
    turned = (x[:, :half] + 1j * x[:, half:]) * np.exp(1j * np.arange(len(x))[:, None] * speed)
    return np.concatenate([turned.real, turned.imag], axis=1)


def row_weights(normalizer: str, scores: Matrix, base: int) -> Matrix:
    """Weights of one row from its valid scores q.k / sqrt(s)."""
    n = len(scores)
    if normalizer.startswith("softmax"):
        factor = {
            "softmax": 1.0,
            "softmax_plus": math.log(max(n, 16)) / math.log(base),
            "softmax_beyond": max(1.0, math.log(n) / math.log(base)),
        }[normalizer]
        powers = np.exp(factor * scores - np.max(factor * scores))
        return powers / powers.sum()
    squared = np.maximum(scores, 0) ** 2
    divisors = {"squared_relu": base, "squared_relu_true": n, "squared_relu_paper": n * n}
    divisor = divisors.get(normalizer) or (squared.sum() or 1.0)
    return squared / divisor


def gau(x: Matrix, w: dict[str, Matrix], seen: NDArray[np.bool_], normalizer: str, base: int, theta: float) -> Matrix:
    """One text [L, D]; `seen[i, j]`: whether query i sees key j. `w` are the layer's weights by their names."""
    u, v, z = (silu(x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", np.zeros(1))) for name in "uvz")
    offset = w.get("offset", np.zeros((2, 1)))
    q = rope(z * w["scale"][0] + offset[0], theta)
    k = rope(z * w["scale"][1] + offset[1], theta)
    mixed = np.zeros_like(v)
    for i in range(len(x)):
        keys = np.flatnonzero(seen[i])
        scores = np.array([q[i] @ k[j] for j in keys]) / math.sqrt(z.shape[1])
        for weight, j in zip(row_weights(normalizer, scores, base), keys, strict=True):
            mixed[i] += weight * v[j]
    return (u * mixed) @ w["out.weight"].T + w.get("out.bias", np.zeros(1))


def seen_pairs(kind: str, length: int, valid: int, source: int) -> NDArray[np.bool_]:
    """Who sees whom, pair by pair."""
    rules = {
        "full": lambda i, j: True,
        "padding": lambda i, j: j < valid,
        "causal": lambda i, j: j <= i and j < valid,
        "prefix": lambda i, j: (j < source or j <= i) and j < valid,
    }
    return np.array([[rules[kind](i, j) for j in range(length)] for i in range(length)])
