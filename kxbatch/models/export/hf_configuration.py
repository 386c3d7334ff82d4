"""Configuration of a text encoder that kxbatch trained, for transformers. Shipped with converted models as it is."""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig


class KxbatchConfig(PretrainedConfig):  # type: ignore[misc]  # mypy does not look into transformers
    """What `config.json` says.

    Attributes:
        text_encoder: the architecture, field by field.
        pooling: how `pooler_output` is made: `cls`, `last-mean` or `first-last-mean`.
    """

    model_type = "kxbatch-text-encoder"

    def __init__(self, text_encoder: dict[str, Any] | None = None, pooling: str = "last-mean", **others: Any) -> None:
        self.text_encoder = text_encoder or {}
        self.pooling = pooling
        super().__init__(**others)
