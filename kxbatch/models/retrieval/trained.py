"""A retriever that was trained here, as a folder: `config.json`, `model.safetensors`, `tokenizer.json`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from kxbatch.errors import ConfigError
from kxbatch.models.encoders.folders import read_json
from kxbatch.models.folder_digest import folder_digest
from kxbatch.models.text_encoder_config import TextEncoderConfig

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
ARCHITECTURE = "kxbatch-retriever"
Order = Literal["spm", "smp"]


class _Config(BaseModel):
    """What `config.json` must be; anybody may have written it."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    architecture: Literal["kxbatch-retriever"]
    max_question: int
    shifts: int
    order: Order
    tokenizer_digest: str
    encoder: dict[str, Any]


@dataclass(frozen=True)
class TrainedPrefixLm:
    """What `config.json` says.

    Attributes:
        encoder: the architecture.
        max_question: tokens of the longest question it was trained for.
        shifts: tokens before each one that its vector is joined with.
        order: of the parts of the keys it writes.
        tokenizer_digest: of the graph's tokenizer it was trained with.
    """

    encoder: TextEncoderConfig
    max_question: int
    shifts: int
    order: Order
    tokenizer_digest: str

    def to_json(self) -> dict[str, Any]:
        """The contents of `config.json`."""
        return {
            "architecture": ARCHITECTURE,
            "max_question": self.max_question,
            "shifts": self.shifts,
            "order": self.order,
            "tokenizer_digest": self.tokenizer_digest,
            "encoder": self.encoder.to_json(),
        }

    @classmethod
    def read(cls, folder: Path) -> TrainedPrefixLm:
        """Of a folder.

        Raises:
            ConfigError: it holds no retriever, or not all of it.
        """
        missing = [name for name in (CONFIG, WEIGHTS, TOKENIZER) if not (folder / name).is_file()]
        if missing:
            raise ConfigError(f"'{folder}' is no trained retriever: {', '.join(missing)} missing")
        try:
            found = _Config.model_validate(read_json(folder / CONFIG))
            encoder = TextEncoderConfig.from_json(found.encoder)
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(str(part) for part in problem["loc"])
            raise ConfigError(f"'{folder / CONFIG}' is not of a retriever: {where}: {problem['msg']}") from None
        except ConfigError as error:
            raise ConfigError(f"'{folder / CONFIG}': {error}") from None
        return cls(encoder, found.max_question, found.shifts, found.order, found.tokenizer_digest)

    def check_start(self, folder: Path) -> None:
        """A training that starts from the model of a folder must be of the same architecture, tokenizer and order.

        Raises:
            ConfigError: it is not.
        """
        start = TrainedPrefixLm.read(folder)
        differing = start.encoder.differences(self.encoder)
        differing += [
            f"{name} {getattr(start, name)} -> {getattr(self, name)}"
            for name in ("shifts", "order", "tokenizer_digest")
            if getattr(start, name) != getattr(self, name)
        ]
        if differing:
            raise ConfigError(
                f"initialize = '{folder}': another model: {', '.join(differing)}; set [stage.model] and the graph to what "
                "it was trained with, or leave initialize out"
            )


def retriever_digest(folder: Path) -> str:
    """Of its files: equal content, equal digest."""
    return folder_digest(folder, (CONFIG, WEIGHTS, TOKENIZER))
