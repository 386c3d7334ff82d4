"""Encoders of transformers as an extractor keeps them: the same modules again, and no more tokens than they have positions for."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kxbatch.errors import ConfigError
from kxbatch.models.extraction.token_encoder import (
    OwnTokenEncoder,
    TransformersTokenEncoder,
    check_length,
    token_encoder,
)
from kxbatch.models.text_encoder import TextEncoder
from kxbatch.models.text_encoder_config import TextEncoderConfig

transformers = pytest.importorskip("transformers")
SMALL = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
HALF = {"encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 16}
HALF |= {name.replace("encoder", "decoder"): value for name, value in HALF.items()}
COMMON = {"vocab_size": 20, "max_position_embeddings": 24, "pad_token_id": 0}


def model(kind: str) -> Any:
    """A small one with random weights; of an encoder-decoder its encoder, as `load_model` gives it."""
    torch.manual_seed(0)
    if kind == "Bart":
        return transformers.BartModel(transformers.BartConfig(d_model=16, **HALF, **COMMON)).get_encoder()
    return getattr(transformers, f"{kind}Model")(getattr(transformers, f"{kind}Config")(**SMALL, **COMMON))


@pytest.mark.parametrize("kind", ["Bert", "Roberta", "Bart"])
def test_what_is_written_makes_the_same_encoder(kind: str) -> None:
    encoder = TransformersTokenEncoder(model(kind)).eval()
    again = token_encoder(encoder.to_json()).eval()
    again.load_state_dict(encoder.state_dict())
    ids, valid = torch.randint(1, 20, (2, 9)), torch.ones(2, 9, dtype=torch.bool)
    with torch.inference_mode():
        torch.testing.assert_close(again(ids, valid), encoder(ids, valid), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("kind", "positions"), [("Bert", 24), ("Roberta", 23)]
)  # its table begins after the padding id
def test_sequences_longer_than_the_positions_are_refused(kind: str, positions: int) -> None:
    encoder = TransformersTokenEncoder(model(kind))
    check_length(encoder, positions)
    encoder(torch.ones(1, positions, dtype=torch.long), torch.ones(1, positions, dtype=torch.bool))
    with pytest.raises(ConfigError, match=f"max_length = {positions + 1}: the encoder has positions for {positions}"):
        check_length(encoder, positions + 1)


def test_encoders_of_ours_take_any_length() -> None:
    config = TextEncoderConfig(vocabulary=20, dim=16, layers=1, key_dim=8)
    check_length(OwnTokenEncoder(TextEncoder(config)), 10**6)
