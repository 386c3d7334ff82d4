"""What a text encoder is made of, as plain values that go into a JSON file and come back the same."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from kxbatch.errors import ConfigError, nearest

Block = Literal["gau", "attention"]
Normalizer = Literal[
    "softmax_plus",
    "softmax",
    "softmax_beyond",
    "squared_relu",
    "squared_relu_true",
    "squared_relu_paper",
    "squared_relu_sum",
]
NormPlace = Literal["post", "pre"]
NormKind = Literal["rmsnorm", "layernorm"]
Init = Literal["gau-alpha", "lecun", "std-0.02", "deepnorm-adam", "deepnorm-sgd", "deepnorm-lamb"]

_CHOICES: dict[str, tuple[str, ...]] = {
    "block": get_args(Block),
    "normalizer": get_args(Normalizer),
    "norm": get_args(NormPlace),
    "norm_kind": get_args(NormKind),
    "init": get_args(Init),
}
_COUNTS = ("vocabulary", "dim", "layers", "key_dim", "heads")


@dataclass(frozen=True)
class TextEncoderConfig:
    """A text encoder.

    Attributes:
        vocabulary: number of tokens, rows of the embedding.
        dim: width of the stream, d.
        layers: GAU layers, or attention + FFN blocks. Two GAU layers have the parameters of one such block (12 d^2, and
            a little for the keys), so a fair pair is `layers = 24` of the one and `layers = 12` of the other.
        block: `"gau"`, or `"attention"`: multi-head attention and a GELU FFN of width 4 d, each with its residual.
        expansion: width of U and V in a GAU, e; None for 2 d. The attention block does not use it.
        key_dim: width of queries and keys in a GAU, s. The attention block does not use it.
        heads: heads of the attention block. A GAU has one.
        normalizer: how scores become weights, see `kxbatch.models.normalizers`.
        base_length: the number of keys at which `softmax_plus` equals softmax; the fixed n of `squared_relu`; the
            training length L of `softmax_beyond`.
        norm: normalisation after the residual sum, or before the branch.
        norm_kind: neither kind has gains.
        bias: whether projections have biases, and queries and keys of a GAU offsets.
        init: see `kxbatch.models.initialisation`.
        dropout: of the embedding and of each branch.
        checkpointing: compute the layers a second time in the backward pass in place of keeping what they made.
        pad_id: the token of padding. Masks decide what is padding; this is for those who make them.
        rope_base: of the rotary positions.
    """

    vocabulary: int
    dim: int = 256
    layers: int = 4
    block: Block = "gau"
    expansion: int | None = None
    key_dim: int = 128
    heads: int = 4
    normalizer: Normalizer = "softmax_plus"
    base_length: int = 512
    norm: NormPlace = "post"
    norm_kind: NormKind = "rmsnorm"
    bias: bool = False
    init: Init = "gau-alpha"
    dropout: float = 0.0
    checkpointing: bool = False
    pad_id: int = 0
    rope_base: float = 10000.0

    def __post_init__(self) -> None:
        for name, allowed in _CHOICES.items():
            _choice(name, getattr(self, name), allowed)
        for name in _COUNTS:
            _integer(name, getattr(self, name), 1)
        if self.expansion is not None:
            _integer("expansion", self.expansion, 1)
        _integer("base_length", self.base_length, 2)  # its logarithm is a divisor
        _integer("pad_id", self.pad_id, 0)
        self._check_together()

    def _check_together(self) -> None:
        for name in ("bias", "checkpointing"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"{name} = {getattr(self, name)!r}: true or false")
        if not _number(self.dropout) or not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout = {self.dropout!r}: a number from 0 to below 1")
        if not _number(self.rope_base) or not 1 < self.rope_base < float("inf"):
            raise ConfigError(f"rope_base = {self.rope_base!r}: a number above 1; the usual one is 10000")
        if self.pad_id >= self.vocabulary:
            raise ConfigError(f"pad_id = {self.pad_id}: the vocabulary ends at {self.vocabulary - 1}")
        if self.block == "attention" and self.dim % self.heads:
            raise ConfigError(f"heads = {self.heads}: must divide dim = {self.dim}")
        if self.query_width % 2:
            key = "key_dim" if self.block == "gau" else "dim / heads"
            raise ConfigError(f"{key} = {self.query_width}: must be even, rotary positions turn pairs")
        if self.residual_scale != 1 and self.norm == "pre":
            raise ConfigError(f"init = {self.init!r} with norm = 'pre': DeepNorm is for norm = 'post'")

    @property
    def inner(self) -> int:
        """Width of U and V, e."""
        return self.expansion or 2 * self.dim

    @property
    def query_width(self) -> int:
        """Width of a query of one head."""
        return self.key_dim if self.block == "gau" else self.dim // self.heads

    @property
    def residual_scale(self) -> float:
        """The alpha of `x' = norm(alpha x + F(x))`; 1 but for DeepNorm.

        Su, "Training 1000-layer Transformers" (2022), from Wang et al., DeepNet (2022): (2N)^(1/2) for Adam, (2N)^(1/4)
        for SGD, 1 for LAMB, with N = `layers`.
        """
        exponent = {"deepnorm-adam": 1 / 2, "deepnorm-sgd": 1 / 4}.get(self.init, 0.0)
        return float((2 * self.layers) ** exponent)

    def to_json(self) -> dict[str, Any]:
        """All fields, as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> TextEncoderConfig:
        """What `to_json` wrote.

        Raises:
            ConfigError: a field is missing, unknown or wrong.
        """
        names = [field.name for field in fields(cls)]
        for name in values:
            if name not in names:
                raise ConfigError(f"text encoder: {name!r} is no field of it{nearest(name, names)}")
        missing = [name for name in names if name not in values]
        if missing:
            raise ConfigError(f"text encoder: {', '.join(missing)} missing; a stored encoder names every field")
        return cls(**values)

    def differences(self, other: TextEncoderConfig) -> list[str]:
        """The fields in which `other` differs, as `"layers 6 -> 12"`."""
        mine, theirs = self.to_json(), other.to_json()
        return [f"{name} {mine[name]} -> {theirs[name]}" for name in mine if mine[name] != theirs[name]]


def _choice(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{name} = {value!r}: allowed are {', '.join(allowed)}{nearest(str(value), allowed)}")


def _integer(name: str, value: object, low: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise ConfigError(f"{name} = {value!r}: a whole number, {low} or more")


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
