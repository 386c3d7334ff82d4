"""A text encoder that was trained here, as a folder: `config.json`, `model.safetensors`, `tokenizer.json`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from kxbatch.errors import ConfigError
from kxbatch.models.encoders.folders import TRAINED_ARCHITECTURE, architecture, read_json
from kxbatch.models.text_encoder_config import TextEncoderConfig
from kxbatch.models.tokenization import ROLES, FastTokenizer

WEIGHTS, CONFIG, TOKENIZER = "model.safetensors", "config.json", "tokenizer.json"
_NAMED = 3  # tensors a message names


@dataclass(frozen=True)
class TrainedText:
    """What `config.json` says.

    Attributes:
        encoder: its architecture.
        max_length: tokens of a text that are read, special ones counted.
        pooling: how token vectors become one, where nobody says otherwise.
        special: ids of the special tokens, by `ROLES`.
    """

    encoder: TextEncoderConfig
    max_length: int
    pooling: str
    special: dict[str, int]

    def to_json(self) -> dict[str, Any]:
        """The contents of `config.json`."""
        return {
            "architecture": TRAINED_ARCHITECTURE,
            "max_length": self.max_length,
            "pooling": self.pooling,
            "special": self.special,
            "encoder": self.encoder.to_json(),
        }

    @classmethod
    def read(cls, folder: Path) -> TrainedText:
        """Of a folder.

        Raises:
            ConfigError: it holds no such encoder, or not all of it.
        """
        missing = [name for name in (CONFIG, WEIGHTS, TOKENIZER) if not (folder / name).is_file()]
        if missing:
            raise ConfigError(f"'{folder}' is no trained text encoder: {', '.join(missing)} missing")
        found = read_json(folder / CONFIG)
        if architecture(folder) is None:
            raise ConfigError(
                f"'{folder / CONFIG}' names no architecture; a trained text encoder says '{TRAINED_ARCHITECTURE}'"
            )
        try:
            special = {role: int(found["special"][role]) for role in ROLES}
            encoder = TextEncoderConfig.from_json(found["encoder"])
            return cls(encoder, int(found["max_length"]), str(found["pooling"]), special)
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"'{folder / CONFIG}': not as it was written: {error!r}") from error
        except ConfigError as error:
            raise ConfigError(f"'{folder / CONFIG}': {error}") from None

    def tokenizer(self, folder: Path) -> FastTokenizer:
        """The tokenizer beside it.

        Raises:
            ConfigError: it does not belong to this encoder.
        """
        tokenizer = FastTokenizer.read_with(folder / TOKENIZER, self.special)
        if tokenizer.vocabulary > self.encoder.vocabulary:
            raise ConfigError(
                f"'{folder}': tokenizer.json has {tokenizer.vocabulary} tokens, config.json {self.encoder.vocabulary}; "
                "they do not belong together"
            )
        return tokenizer


def load_weights(model: nn.Module, folder: Path) -> None:
    """Put the weights of a folder into a model, in place.

    Raises:
        ConfigError: the file is damaged, or names or shapes are not those of the model.
    """
    try:
        weights = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"'{folder / WEIGHTS}' cannot be read: {error}") from error
    wrong = _mismatches(model.state_dict(), weights)
    if wrong:
        more = f" and {len(wrong) - _NAMED} more" if len(wrong) > _NAMED else ""
        raise ConfigError(
            f"'{folder}': {', '.join(wrong[:_NAMED])}{more}; config.json and model.safetensors do not belong together"
        )
    model.load_state_dict(weights)


def _mismatches(expected: dict[str, Tensor], found: dict[str, Tensor]) -> list[str]:
    wrong = [f"no tensor '{name}'" for name in sorted(expected.keys() - found.keys())]
    wrong += [f"a tensor '{name}' of no meaning" for name in sorted(found.keys() - expected.keys())]
    for name in sorted(expected.keys() & found.keys()):
        here, there = list(expected[name].shape), list(found[name].shape)
        if here != there:
            wrong.append(f"'{name}' has shape {there}, not {here}")
    return wrong
