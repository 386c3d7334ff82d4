"""Encoders that give one state for each token, of either kind: trained here from scratch, or a Hugging Face one.

Shapes: B texts, L tokens, D width.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kxbatch.errors import ConfigError
from kxbatch.models.encoders import EncoderSettings, folders, hub, loading
from kxbatch.models.masked_lm import MaskedLm
from kxbatch.models.masks import Mask
from kxbatch.models.text_encoder import TextEncoder
from kxbatch.models.text_encoder_config import TextEncoderConfig
from kxbatch.models.tokenization import FastTokenizer, load_tokenizer
from kxbatch.models.trained_text import TrainedText, load_weights


class OwnTokenEncoder(nn.Module):
    """A text encoder of ours.

    Attributes:
        dim: D.
        positions: most tokens of a sequence; None: any.
    """

    positions: int | None = None

    def __init__(self, encoder: TextEncoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.dim = encoder.config.dim

    def forward(self, ids_BL: Tensor, valid_BL: Tensor) -> Tensor:
        """[B, L, D]."""
        states_BLD: Tensor = self.encoder(ids_BL, Mask.padding(valid_BL))
        return states_BLD

    def to_json(self) -> dict[str, Any]:
        """What `token_encoder` makes one of."""
        return {"own": self.encoder.config.to_json()}


class TransformersTokenEncoder(nn.Module):
    """A Hugging Face encoder.

    Attributes:
        dim: D.
        positions: most tokens of a sequence.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.model.pooler = None
        self.dim = int(model.config.hidden_size)
        self.positions: int | None = loading.positions_of(model)

    def forward(self, ids_BL: Tensor, valid_BL: Tensor) -> Tensor:
        """[B, L, D]."""
        states_BLD: Tensor = self.model(input_ids=ids_BL, attention_mask=valid_BL.long()).last_hidden_state
        return states_BLD

    def to_json(self) -> dict[str, Any]:
        """What `token_encoder` makes one of."""
        return {"transformers": json.loads(self.model.config.to_json_string(use_diff=False))}


TokenEncoder = OwnTokenEncoder | TransformersTokenEncoder


def check_length(encoder: TokenEncoder, max_length: int) -> None:
    """Whether sequences may be that long.

    Raises:
        ConfigError: the encoder has fewer positions.
    """
    if encoder.positions is not None and max_length > encoder.positions:
        raise ConfigError(
            f"max_length = {max_length}: the encoder has positions for {encoder.positions} tokens; "
            "take that or less, longer texts are read in windows"
        )


def token_encoder(found: dict[str, Any]) -> TokenEncoder:
    """With new weights, from what `to_json` gave.

    Raises:
        ConfigError: it is nothing known.
    """
    if "own" in found:
        return OwnTokenEncoder(TextEncoder(TextEncoderConfig.from_json(found["own"])))
    try:
        from transformers import AutoConfig, AutoModel

        given = dict(found["transformers"])
        model = AutoModel.from_config(AutoConfig.for_model(given.pop("model_type"), **given))
        return TransformersTokenEncoder(model.get_encoder() if model.config.is_encoder_decoder else model)
    except ImportError as error:
        raise ConfigError("this model needs transformers; run: pip install 'kxbatch[hf]'") from error
    except (KeyError, ValueError, TypeError) as error:
        raise ConfigError(f"neither an encoder of ours nor one of transformers: {error}") from error


def start_from(reference: str, *, offline: bool) -> tuple[TokenEncoder, FastTokenizer]:
    """The encoder that a folder or a hub id names, with its weights, and its tokenizer.

    Raises:
        ConfigError: there is none, or its tokenizer gives no offsets.
    """
    folder, tokenizer = _folder(reference, offline=offline), tokenizer_of(reference, offline=offline)
    if folders.architecture(folder) is not None:
        model = MaskedLm(TrainedText.read(folder).encoder)
        load_weights(model, folder)
        return OwnTokenEncoder(model.encoder), tokenizer
    settings = EncoderSettings(str(folder), offline=offline)
    found, _ = loading.load_model(folders.read_folder(folder), settings, torch.float32)
    return TransformersTokenEncoder(found), tokenizer


def tokenizer_of(reference: str, *, offline: bool) -> FastTokenizer:
    """The tokenizer of the encoder that a folder or a hub id names, without its weights.

    Raises:
        ConfigError: there is none, or it gives no offsets.
    """
    folder = _folder(reference, offline=offline)
    if folders.architecture(folder) is not None:
        return TrainedText.read(folder).tokenizer(folder)
    return load_tokenizer(str(folder), offline=offline)


def _folder(reference: str, *, offline: bool) -> Path:
    path = Path(reference).expanduser()
    return path if path.is_dir() else hub.snapshot(reference, offline=offline)
