"""What a variational autoencoder is made of, as plain values that go into a JSON file and come back the same."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from kxbatch.errors import ConfigError
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
    def discrete(self) -> bool:
        """Whether rows have probabilities, not densities."""
        return self.likelihood != "gaussian"

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> VaeArchitecture:
        """From what `to_json` gave.

        Raises:
            ConfigError: something is missing, unknown, or cannot be.
        """
        names = {field.name for field in fields(cls)}
        if set(found) != names:
            raise ConfigError(f"not the fields of an autoencoder: {', '.join(sorted(set(found) ^ names))}")
        choices = (("network", Network), ("activation", Activation), ("likelihood", LikelihoodKind), ("scale", Scale))
        for name, kind in choices:
            if found[name] not in get_args(kind):
                raise ConfigError(f"{name} = {found[name]!r}; allowed: {', '.join(get_args(kind))}")
        shape = None if found["shape"] is None else tuple(found["shape"])
        return cls(**(found | {"hidden": tuple(found["hidden"]), "shape": shape}))
