"""What a generator begins with: latents of the prior, or chosen ones among many.

The latents of a batch are chosen together, from pools that are drawn for this batch alone. So they are the same whatever else is
drawn, as all samples are.

Letters: B samples of a batch, L numbers of a latent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kxbatch.kernels.diffusion import START, RowNoise
from kxbatch.kernels.hub_prior import sample_hubs, truncate

LatentKind = Literal["prior", "hubs", "shortest"]


@dataclass(frozen=True)
class Latents:
    """How latents are chosen.

    Attributes:
        kind: `prior`: none is; `hubs`: those that are near neighbours of many others of their pool (Liang et al. 2022);
            `shortest`: the shortest of the pool, as many as it has hubs, which is plain truncation.
        pool: latents drawn in a round.
        k: length of the neighbour lists.
        threshold: smallest k-occurrence of a hub.
        quantile: in place of a threshold, the quantile of the pool's k-occurrences that a hub reaches.
        rounds: pools drawn for a batch at most.
    """

    kind: LatentKind = "prior"
    pool: int = 10_000
    k: int = 5
    threshold: int | None = None
    quantile: float | None = None
    rounds: int = 20


@dataclass(frozen=True, eq=False)
class Drawn:
    """Latents of a batch.

    Attributes:
        values: float32 [B, L].
        columns: what is told of them: `latents`, `k_occurrence` (-1: not counted) and `acceptance`, the share of the pools
            that was good enough.
    """

    values: Tensor
    columns: dict[str, npt.NDArray[Any]]


def draw_latents(
    how: Latents, seed: int, sample_ids: Sequence[int], width: int, device: str | torch.device = "cpu"
) -> Drawn:
    """The latents of a batch.

    Args:
        how: they are chosen.
        seed: of all noise.
        sample_ids: B numbers of samples, a whole batch.
        width: L.
        device: where they are wanted.

    Raises:
        FatalError: too few pass; names the acceptance rate and the largest k-occurrence seen.
    """
    if how.kind == "prior":
        return _told(how, RowNoise(seed, sample_ids).draw(START, (width,), device=device))
    stream, rows = (seed, sample_ids[0]), len(sample_ids)
    settings = {"pool": how.pool, "k": how.k, "threshold": how.threshold, "quantile": how.quantile}
    with torch.inference_mode(False):  # the neighbour search writes into tensors from threads of its own
        hubs = sample_hubs(width, rows, stream, max_rounds=how.rounds, **settings)  # type: ignore[arg-type]  # of mixed types
    if how.kind == "hubs":
        values = torch.from_numpy(hubs.latents).to(device)
        return _told(how, values, hubs.acceptance, hubs.k_occurrence.astype(np.int32))
    short = truncate(width, rows, stream, acceptance=hubs.acceptance, pool=how.pool)
    return _told(how, torch.from_numpy(short).to(device), hubs.acceptance)


def _told(how: Latents, values: Tensor, acceptance: float = 1.0, found: npt.NDArray[np.int32] | None = None) -> Drawn:
    rows = len(values)
    columns = {
        "latents": np.full(rows, how.kind, object),
        "k_occurrence": np.full(rows, -1, np.int32) if found is None else found,
        "acceptance": np.full(rows, acceptance, np.float32),
    }
    return Drawn(values, columns)
