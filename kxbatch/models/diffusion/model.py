"""A trained diffusion model: a denoiser for any classes and guidance, and what its values mean.

Letters: B samples, D values of one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from kxbatch.errors import ConfigError, nearest
from kxbatch.kernels.diffusion import Denoiser, Predict, Prediction, Schedule, guide
from kxbatch.models.diffusion.networks import Network
from kxbatch.models.diffusion.scaling import Scaling

ClassName = str | int


@dataclass(frozen=True, eq=False)
class DiffusionModel:
    """Network, schedule and units.

    Attributes:
        network: in evaluation mode, on its device.
        schedule: the one it was trained with.
        prediction: what the network says.
        scaling: between values and units of the model.
        shape: height, width, channels of an image, whose values lie in a row in this order; None for a vector.
        classes: by number; empty for a model without.
        unconditional: whether it has learned to go without a class.
    """

    network: nn.Module
    schedule: Schedule
    prediction: Prediction
    scaling: Scaling
    shape: tuple[int, int, int] | None = None
    classes: tuple[ClassName, ...] = ()
    unconditional: bool = True

    @property
    def values(self) -> int:
        """D."""
        return len(self.scaling.centre)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next(self.network.parameters()).device

    def class_numbers(self, names: Sequence[ClassName]) -> Tensor:
        """Numbers of classes by name, int64 [B].

        Raises:
            ConfigError: there is no such class.
        """
        places = {name: number for number, name in enumerate(self.classes)}
        for name in names:
            if name not in places:
                known = ", ".join(map(str, self.classes[:20])) or "none"
                hint = nearest(str(name), map(str, self.classes))
                raise ConfigError(f"classes of the model are {known}; it knows no class {name!r}{hint}")
        return torch.tensor([places[name] for name in names], dtype=torch.int64)

    def denoiser(self, class_B: Tensor | None = None, guidance: float = 1.0, *, clip: bool | None = None) -> Denoiser:
        """The denoiser of samples of these classes.

        Args:
            class_B: int64 [B], number of each sample's class, in the order of the samples it is asked about; None: without a class.
            guidance: 1 is plain conditional sampling, more follows the class harder at twice the cost, 0 leaves it out.
            clip: keep x_0 within [-1, 1]; None: for levels only, whose units these are.

        Raises:
            ConfigError: the model has no classes, or has not learned to go without.
        """
        if class_B is not None and not self.classes:
            raise ConfigError("classes are asked for, but the model was trained without: train it with class_column")
        needs_none = bool(self.classes) and (class_B is None or guidance != 1)
        if needs_none and not self.unconditional:
            raise ConfigError(
                "the model has only learned to see classes, so it can neither go without nor be guided: name a class of every"
                " sample and take guidance 1, or train it with class_dropout above 0"
            )
        clips = self.scaling.levels is not None if clip is None else clip
        return Denoiser(self.schedule, self._predict(class_B, guidance), self.prediction, 1.0 if clips else None)

    def _predict(self, class_B: Tensor | None, guidance: float) -> Predict:
        network = cast(Network, self.network)
        if class_B is None or guidance == 0:
            return lambda x_BD, t_B: network(x_BD, t_B)
        if guidance == 1:
            return lambda x_BD, t_B: network(x_BD, t_B, class_B.to(x_BD.device))

        def guided(x_BD: Tensor, t_B: Tensor) -> Tensor:
            told_B = torch.cat([class_B.to(t_B.device), torch.full_like(t_B, len(self.classes))])
            said = network(torch.cat([x_BD, x_BD]), torch.cat([t_B, t_B]), told_B)
            return guide(said[: len(x_BD)], said[len(x_BD) :], guidance)

        return guided

    def units(self, values: npt.NDArray[np.float64]) -> Tensor:
        """Values [B, D] in the units of the model, float32 on its device."""
        return torch.from_numpy(self.scaling(values)).to(self.device)

    def to_values(self, x0_BD: Tensor) -> npt.NDArray[np.float64]:
        """Samples [B, D] as values, float64; whole levels where there are levels."""
        return self.scaling.back(x0_BD.detach().float().cpu().numpy())
