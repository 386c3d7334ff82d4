"""What an encoder is: texts in, one vector a text out. Plain values only; importing this loads nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from kxbatch.errors import ConfigError, nearest

POOLINGS = ("auto", "cls", "pooler", "last-mean", "first-last-mean")
PRECISIONS = ("auto", "fp32", "bf16")
MIN_NORM = 1e-8


@dataclass(frozen=True)
class Encoded:
    """Vectors of texts, in the order of the texts.

    Attributes:
        vectors: float32 [n, d], C-contiguous.
        truncated: bool [n], true where the text was longer than the encoder reads.
    """

    vectors: npt.NDArray[np.float32]
    truncated: npt.NDArray[np.bool_]


class Encoder(Protocol):
    """Turns texts into vectors; the same texts and settings give the same bytes, call after call."""

    @property
    def dim(self) -> int:
        """Length d of a vector."""

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Vectors [n, d] of n texts, in their order; n may be 0."""


@dataclass(frozen=True)
class EncoderSettings:
    """How to load and run an encoder.

    Attributes:
        model: hub id `org/name`, folder, `package:<distribution>` or `callable:<module>:<function>`.
        pooling: one of `POOLINGS`; `auto` is the model's own, else `last-mean`.
        device: `auto`, `cpu`, `cuda`, `cuda:1`, ...; `auto` is a GPU where there is one.
        precision: one of `PRECISIONS`; `auto` is bf16 where the device computes in it, else fp32.
        max_length: most tokens of a text that are read, special tokens counted; None: the model's own limit.
        prompt: put before each text; empty: the model's default prompt, if it names one.
        normalize: scale every vector to length 1.
        threads: CPU threads.
        trust_remote_code: run Python code that comes with the model.
        offline: never ask a model hub.
        token_budget: most tokens in one batch, padding counted; None: what suits the device.
    """

    model: str
    pooling: str = "auto"
    device: str = "auto"
    precision: str = "auto"
    max_length: int | None = None
    prompt: str = ""
    normalize: bool = False
    threads: int = 1
    trust_remote_code: bool = False
    offline: bool = False
    token_budget: int | None = None

    def __post_init__(self) -> None:
        for key, value, allowed in (
            ("pooling", self.pooling, POOLINGS),
            ("precision", self.precision, PRECISIONS),
        ):
            if value not in allowed:
                raise ConfigError(f"{key} = '{value}': allowed are {', '.join(allowed)}{nearest(value, allowed)}")
        for key, number in (("threads", self.threads), ("token_budget", self.token_budget)):
            if number is not None and number < 1:
                raise ConfigError(f"{key} = {number}: at least 1")


@dataclass(frozen=True)
class ModelIdentity:
    """Which model it is, by content.

    Attributes:
        id: the model's name for people: hub id, folder, package with its version, or function.
        kind: `hub`, `folder`, `package` or `callable`.
        digest: changes whenever the vectors could: a hub revision, or the sha256 of what is loaded.
    """

    id: str
    kind: Literal["hub", "folder", "package", "callable"]
    digest: str


def finished(vectors: npt.NDArray[np.float32], truncated: npt.NDArray[np.bool_], *, normalize: bool) -> Encoded:
    """The result of an encoder, scaled to length 1 (norms clipped at 1e-8) where that is asked for."""
    if normalize:
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors = vectors / np.maximum(norms, np.float32(MIN_NORM))
    return Encoded(np.ascontiguousarray(vectors, dtype=np.float32), truncated)


def refuse(settings: EncoderSettings, kind: str, *fields: str) -> None:
    """Say no to settings that this kind of encoder would have to ignore.

    Raises:
        ConfigError: a field is not at its default.
    """
    plain = EncoderSettings(settings.model)
    for name in fields:
        value = getattr(settings, name)
        if value != getattr(plain, name):
            raise ConfigError(
                f"model = '{settings.model}': {name} = {value!r} has no meaning for {kind}; leave {name} out"
            )
