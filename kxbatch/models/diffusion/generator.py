"""Samples of a diffusion model: noise, led back to data along some of the times it was trained with.

Letters: B samples, D values of a sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kxbatch.errors import ConfigError, nearest
from kxbatch.kernels.diffusion import Ancestral, Ddim, RowNoise, Rule, decode, sample, spaced_times
from kxbatch.models.diffusion.model import ClassName, DiffusionModel
from kxbatch.models.generation import Made, form_of, turn
from kxbatch.models.latents import Latents, draw_latents

SamplingSolver = Literal["ddim", "ddpm", "heun", "midpoint"]
MOST_NAMED = 20


@dataclass(frozen=True)
class Sampling:
    """How samples are drawn.

    Attributes:
        solver: `ddim` (Song, Meng and Ermon 2021); `ddpm`: ancestral steps (Ho et al. 2020); `heun` or
            `midpoint`: the ODE in second order, which asks the network twice a step.
        steps: of T; None: 50, or all of fewer.
        eta: of `ddim`: 0 draws no noise after the start, 1 is ancestral sampling with small noise.
        variance: of `ddpm`: 1 is the large one, 0 the small one, what is between is interpolated.
        guidance: 1 follows the class as it was learned, more harder, 0 not at all.
        classes: that samples take in turn, by name; None: all that the model knows; empty: no class.
    """

    solver: SamplingSolver = "ddim"
    steps: int | None = None
    eta: float = 0.0
    variance: float = 1.0
    guidance: float = 1.0
    classes: tuple[str, ...] | None = None

    def class_numbers(self, known: Sequence[ClassName], *, unconditional: bool) -> list[int] | None:
        """Numbers of the classes that samples take in turn; None where there are none.

        Args:
            known: classes of the model.
            unconditional: whether it can go without.

        Raises:
            ConfigError: the model knows no such class, or cannot be sampled so.
        """
        names = [str(name) for name in known]
        for name in self.classes or ():
            if name not in names:
                shown = ", ".join(names[:MOST_NAMED]) + (", ..." if len(names) > MOST_NAMED else "")
                raise ConfigError(
                    f"classes: the model knows no class '{name}'{nearest(name, names)} (has: {shown or 'none'})"
                )
        if self.guidance != 1 and (not names or self.classes == ()):
            raise ConfigError(f"guidance = {self.guidance:g}: there is no class to be guided to; leave it out")
        if names and not unconditional and (self.guidance != 1 or self.classes == ()):
            raise ConfigError(
                "the model has only learned to see classes: it can neither go without nor be guided; train it with class_dropout "
                "above 0, or leave out guidance and classes = []"
            )
        if not names or self.classes == ():
            return None
        return [names.index(name) for name in self.classes or names]

    def times(self, total: int) -> list[int]:
        """The times that are stepped through, of `total`.

        Raises:
            ConfigError: there are not so many.
        """
        if self.steps is not None and self.steps > total:
            raise ConfigError(f"steps = {self.steps}: the model was trained with {total}; take as many or fewer")
        return spaced_times(total, self.steps or min(50, total))


class DiffusionGenerator:
    """See `kxbatch.models.generation.Generator`.

    Args:
        model: on its device.
        samplings: how; batches take them in turn.
        latents: how x_T is chosen, under each of the samplings in turn. None: it is not, and nothing is told of it.
        seed: of the noise, 0 to 2^63 - 1.

    Raises:
        ConfigError: the model cannot be sampled so.
    """

    def __init__(
        self, model: DiffusionModel, samplings: Sequence[Sampling], latents: Sequence[Latents] | None, seed: int
    ) -> None:
        self._model, self._seed, self._tells = model, seed, latents is not None
        self._turns = list(product(samplings, latents or (Latents(),)))
        for sampling in samplings:
            sampling.times(model.schedule.steps)
            self._classes = sampling.class_numbers(model.classes, unconditional=model.unconditional)
        self.form = form_of(model.values, model.shape, model.scaling.levels)
        self.device = model.device.type

    @torch.inference_mode()
    def generate(self, sample_ids: Sequence[int]) -> Made:
        """What the steps end in, in the units of the data: whole levels where there are levels."""
        model, (sampling, latents) = self._model, turn(sample_ids, self._turns)
        drawn = draw_latents(latents, self._seed, sample_ids, model.values, model.device)
        times = sampling.times(model.schedule.steps)
        denoiser = model.denoiser(self._class_numbers(sample_ids), sampling.guidance)
        if sampling.solver in ("heun", "midpoint"):
            x0_BD = decode(denoiser, drawn.values, times, sampling.solver)
        else:
            rule: Rule = Ancestral(sampling.variance) if sampling.solver == "ddpm" else Ddim(sampling.eta)
            noise = RowNoise(self._seed, sample_ids)
            x0_BD = sample(denoiser, rule, times, noise, (model.values,), start_BD=drawn.values)
        with np.errstate(over="ignore"):  # such a row is not finite, which is seen later
            x_BD = model.to_values(x0_BD).astype(np.float32)
        return Made(x_BD, self._told(sampling, sample_ids) | (drawn.columns if self._tells else {}))

    def _told(self, sampling: Sampling, sample_ids: Sequence[int]) -> dict[str, npt.NDArray[Any]]:
        """Steps, eta or variance, guidance and class, where there are such."""
        rows, steps = len(sample_ids), len(sampling.times(self._model.schedule.steps))
        found: dict[str, npt.NDArray[Any]] = {"steps": np.full(rows, steps, np.int32)}
        if sampling.solver == "ddim":
            found["eta"] = np.full(rows, sampling.eta, np.float32)
        if sampling.solver == "ddpm":
            found["variance"] = np.full(rows, sampling.variance, np.float32)
        if self._classes is not None:
            names = np.array([str(self._model.classes[number]) for number in self._classes], object)
            found["guidance"] = np.full(rows, sampling.guidance, np.float32)
            found["class"] = names[np.asarray(sample_ids) % len(names)]
        return found

    def _class_numbers(self, sample_ids: Sequence[int]) -> Tensor | None:
        if self._classes is None:
            return None
        return torch.tensor(self._classes)[torch.tensor(list(sample_ids)) % len(self._classes)]
