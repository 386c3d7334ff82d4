"""log p(x) from importance weights that come in chunks, in memory that does not grow with their number.

`log p(x) = log E_q[w]`, `w = p(x|z) p(z) / q(z|x)`; the mean of K weights is unbiased, its logarithm is low by about
`Var(w) / (2 K E[w]^2)` (Burda, Grosse and Salakhutdinov 2016).

Letters: N rows, K samples of a row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Estimates:
    """What K weights say about each of N rows; float64 tensors [N].

    Attributes:
        log_density: `log(sum_i w_i / K)`, nats.
        elbo: mean of `log w_i`, nats: what one sample gives on average.
        stderr: Monte-Carlo standard error of `log_density` by the delta method, `sd(w) / (mean(w) sqrt(K))`; NaN for K = 1.
        ess: effective sample size `(sum w)^2 / sum w^2` (Kong 1992), 1 to K.
        largest: share of the largest weight in their sum.
    """

    log_density: Tensor
    elbo: Tensor
    stderr: Tensor
    ess: Tensor
    largest: Tensor


class Weights:
    """Running sums over the weights of N rows, relative to the largest weight so far."""

    def __init__(self, rows: int, device: torch.device | str = "cpu") -> None:
        self._most = torch.full((rows,), -math.inf, dtype=torch.float64, device=device)
        self._sum, self._squares, self._logs = (torch.zeros(rows, dtype=torch.float64, device=device) for _ in range(3))
        self._count = 0

    def add(self, log_weights_NK: Tensor) -> None:
        """More samples of every row."""
        new_NK = log_weights_NK.double()
        most = torch.maximum(self._most, new_NK.max(dim=1).values)
        base = torch.where(torch.isfinite(most), most, torch.zeros_like(most))  # of a row whose weights are all 0
        shrunk = torch.exp(self._most - base)
        weights_NK = torch.exp(new_NK - base[:, None])
        self._sum = self._sum * shrunk + weights_NK.sum(1)
        self._squares = self._squares * shrunk.square() + weights_NK.square().sum(1)
        self._logs = self._logs + new_NK.sum(1)
        self._most, self._count = most, self._count + new_NK.shape[1]

    def estimates(self) -> Estimates:
        """From all samples so far."""
        k = self._count
        base = torch.where(torch.isfinite(self._most), self._most, torch.zeros_like(self._most))
        ess = self._sum.square() / self._squares
        spread = (k / ess - 1).clamp_min(0) / max(1, k - 1)
        stderr = spread.sqrt() if k > 1 else torch.full_like(spread, math.nan)
        largest = torch.exp(self._most - base) / self._sum
        return Estimates(self._sum.log() + base - math.log(k), self._logs / k, stderr, ess, largest)


def ladder(samples: int) -> list[int]:
    """Numbers of samples from 1 to `samples`, each of which divides the next: 1, 2, 4, 8, 40, 200, 1000 for 1000."""
    steps, rest, factor = [1], samples, 2
    while rest > 1:
        if rest % factor:
            factor = factor + 1 if factor * factor <= rest else rest
            continue
        rest //= factor
        steps.append(steps[-1] * factor)
    return steps


def by_samples(log_weights_NK: Tensor) -> Tensor:
    """The estimate from fewer samples: mean over the disjoint groups of k of the K samples, for each k of `ladder(K)`.

    A mean over groups has less noise than a single group, and it never falls with k, row by row: groups nest, and the
    logarithm is concave (Jensen).

    Returns:
        float64 [N, len(ladder(K))], nats; the first is the ELBO, the last the estimate from all samples.
    """
    rows, samples = log_weights_NK.shape
    level_NG, found, width = log_weights_NK.double(), [], 1
    for size in ladder(samples):
        level_NG = level_NG.reshape(rows, samples // size, size // width).logsumexp(2) - math.log(size // width)
        found.append(level_NG.mean(1))
        width = size
    return torch.stack(found, dim=1)
