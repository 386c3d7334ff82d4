"""What a variational autoencoder is made of, as plain values that go into a JSON file and come back the same."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from kxbatch.models.likelihoods import LikelihoodKind, Scale

Network = Literal["mlp", "conv"]
Activation = Literal["relu", "gelu", "tanh", "silu"]


@dataclass(frozen=True)
class VaeArchitecture:
    """A variational autoencoder.

    Attributes:
        values: numbers of a row, D.
        shape: height, width, channels of an image; None for a vector.
        network: `"mlp"`, or `"conv"` for images.
        hidden: widths of the encoder's hidden layers (`mlp`; the decoder has them in reverse), or channels of its convolutions,
            each of which halves height and width.
        latent: latent dimensions, L.
        activation: after each hidden layer.
        dropout: of the encoder's hidden layers while it trains.
        likelihood: what the decoder's numbers mean.
        levels: of `discretised-logistic`.
        scale: where the likelihood's scale comes from.
        scale_size: the fixed scale, or the first one; in units of the model.
        scale_floor: the smallest scale.
    """

    values: int
    latent: int
    shape: tuple[int, int, int] | None = None
    network: Network = "mlp"
    hidden: tuple[int, ...] = (200, 200)
    activation: Activation = "gelu"
    dropout: float = 0.0
    likelihood: LikelihoodKind = "gaussian"
    levels: int = 256
    scale: Scale = "per-dimension"
    scale_size: float = 1.0
    scale_floor: float = 0.01

    @property
    def widest(self) -> int:
        """Numbers of the largest layer for one row or sample, but for the decoder's last."""
        if self.shape is None or self.network == "mlp":
            return max(self.values, *self.hidden)
        return self.shape[0] * self.shape[1] * max(self.shape[2], *self.hidden)

    @property
    def discrete(self) -> bool:
        """Whether rows have probabilities, not densities."""
        return self.likelihood != "gaussian"

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)
