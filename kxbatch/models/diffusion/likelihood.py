"""A lower bound on log p(x) of rows: minus the variational bound of a trained diffusion model, and what it is made of.

The network is asked once for every row, draw and time. A row's noise belongs to its key, the draw and the time, so the row has the
same bound beside any other rows, but for rounding: torch rounds a row by its place in a batch.

Letters: N rows, D values of a row, S steps that end above time 0, G groups of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from kxbatch.data.row_draws import Keys, seeds
from kxbatch.errors import ConfigError
from kxbatch.kernels.diffusion import Ancestral, RowNoise, Rule, spaced_times, variational_bound
from kxbatch.kernels.diffusion.decoders import LEVELS
from kxbatch.models.device import run_batches
from kxbatch.models.diffusion.model import DiffusionModel

Floats = npt.NDArray[np.float64]
MOST_GROUPS = 128  # of the steps: what is kept of a calibration row
_STREAM = 7  # of the noise; others draw from 1 to 6
_NUMBERS_AT_ONCE = {"cpu": 2**16, "cuda": 2**21}  # values of a batch: layers are wider, but stay in a CPU's caches
_MOST_ROWS = {"cpu": 256, "cuda": 8192}


@dataclass(frozen=True)
class RowBounds:
    """Of N rows; means over the draws.

    Attributes:
        log_density: float64 [N], nats: minus the bound, of log p in the units of the data.
        stderr: float64 [N], Monte-Carlo standard error of it; NaN with one draw.
        prior: float64 [N], bits per value that tell x_T from noise.
        steps: float64 [N, G], of all steps of a group together.
        decoder: float64 [N], of the last step. Of a density it may be negative, and is in the units of the model.
    """

    log_density: Floats
    stderr: Floats
    prior: Floats
    steps: Floats
    decoder: Floats


class BoundScorer:
    """The bound by a trained model, without a class where the model knows classes.

    The variance of a step is fixed (Ho et al. 2020, section 3.2). For real numbers it is their large one, exact for N(0, I) and
    close for all that is smooth at the scale of the first noise; for whole levels, which are not, the middle of large and small.

    Args:
        model: on its device.
        steps: how many of its T times are stepped through, at even distances; None: all. Fewer are a model of their own.
        draws: of the noise, for each row and time.
        seed: of the noise.
        threads: of a CPU; a batch has one of them, so their number changes nothing.

    Raises:
        ConfigError: there are not so many times, or the model has not learned to go without a class.
    """

    def __init__(
        self, model: DiffusionModel, *, steps: int | None = None, draws: int = 1, seed: int = 0, threads: int = 1
    ) -> None:
        self.times = bound_times(model.schedule.steps, steps)
        self.groups = time_groups(len(self.times) - 1)
        self._model, self._draws, self._seed, self._threads = model, draws, seed, threads
        self._denoiser = model.denoiser()
        levels = model.scaling.levels
        self.rule: Rule = Ancestral(1.0 if levels is None else 0.5)
        self._log_jacobian = 0.0 if levels is not None else -float(np.log(model.scaling.spread).sum())

    def estimate(self, values: Floats, keys: Keys) -> RowBounds:
        """The bounds of rows.

        Args:
            values: [N, D], in the units of the data; whole levels where the model has levels.
            keys: uint64 [N], of the rows.
        """
        rows, groups = len(values), len(self.groups)
        found = RowBounds(*(np.empty((rows, groups) if at == 3 else rows) for at in range(5)))
        step = self._rows_at_once()
        cuts = [slice(at, min(at + step, rows)) for at in range(0, rows, step)]

        def work(number: int) -> None:
            some = cuts[number]
            for name, array in vars(self._batch(values[some], keys[some])).items():
                getattr(found, name)[some] = array

        run_batches(work, len(cuts), self._threads, self._model.device.type)
        return found

    def _batch(self, values: Floats, keys: Keys) -> RowBounds:
        """Draw after draw: only sums are kept."""
        model, count = self._model, self._draws
        with np.errstate(over="ignore"):  # such a row has no bound, which is seen later
            x0_BD = model.units(values)
        levels = model.scaling.levels
        # Welford's mean and sum of squares: a bound is large, its differences between draws are small
        mean, squares = np.zeros(len(values)), np.zeros(len(values))
        terms = np.zeros((len(self.groups) + 2, len(values)))
        for draw in range(count):
            bound = variational_bound(
                self._denoiser,
                self.rule,
                self.times,
                x0_BD,
                row_noise(keys, self._seed, draw),
                decoder="density" if levels is None else "levels",
                levels=levels or LEVELS,
            )
            steps = bound.steps.cpu().numpy()
            grouped = [steps[:, group].sum(axis=1) for group in self.groups]
            terms += np.stack([bound.prior.cpu().numpy(), *grouped, bound.decoder.cpu().numpy()]) / count
            nats = bound.total.cpu().numpy() * (model.values * np.log(2))
            away = nats - mean
            mean += away / (draw + 1)
            squares += away * (nats - mean)
        stderr = np.sqrt(squares / (count - 1) / count) if count > 1 else np.full(len(values), np.nan)
        return RowBounds(self._log_jacobian - mean, stderr, terms[0], terms[1:-1].T, terms[-1])

    def _rows_at_once(self) -> int:
        kind = self._model.device.type
        return max(1, min(_MOST_ROWS[kind], _NUMBERS_AT_ONCE[kind] // self._model.values))


def bound_times(total: int, kept: int | None) -> list[int]:
    """The times that are stepped through.

    Raises:
        ConfigError: there are not so many.
    """
    if kept is not None and kept > total:
        raise ConfigError(f"steps = {kept}: the model was trained with {total}; take as many or fewer")
    return spaced_times(total, kept or total)


def time_groups(steps: int, most: int = MOST_GROUPS) -> list[slice]:
    """Neighbouring steps told together, earliest first: one by one where there is little noise, later ever more.

    Args:
        steps: S.
        most: groups, at most.
    """
    if steps <= most:
        return [slice(at, at + 1) for at in range(steps)]
    edges = np.unique(np.rint(np.geomspace(1, steps + 1, most + 1)).astype(int)) - 1
    return [slice(int(first), int(last)) for first, last in pairwise(edges)]


def row_noise(keys: Keys | Sequence[int], seed: int, draw: int) -> RowNoise:
    """The noise of rows by their keys, for one of the draws."""
    return RowNoise(seed % 2**64, seeds(np.asarray(keys, np.uint64), draw, _STREAM))
