"""`embed`: texts to vectors, by any of five kinds of encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from kxbatch.data.vectors import to_arrow
from kxbatch.spec.model import Operational, StageConfig
from kxbatch.stages.base import Column, Context, Mapped, Stage, trained_path, trained_stage, trained_stages
from kxbatch.stages.rows import rejections, usable_texts

if TYPE_CHECKING:
    from kxbatch.models.encoders import Encoder


class EmbedConfig(StageConfig):
    """Embeds a text column."""

    kind: Literal["embed"] = "embed"
    column: str | None = Field(None, description="text column; absent: the only one of the input")
    model: str = Field(
        description="hub id, folder, 'package:<distribution>', 'callable:<module>:<function>' or 'stage:<name>'"
    )
    pooling: Literal["auto", "cls", "pooler", "last-mean", "first-last-mean"] = Field(
        "auto", description="how token vectors become one; auto: as the model says, else last-mean"
    )
    max_length: int | None = Field(None, ge=2, description="tokens of a text that are read; absent: the model's limit")
    prompt: str = Field("", description="put before every text")
    normalize: bool = Field(False, description="scale every vector to length 1")
    precision: Literal["auto", "fp32", "bf16"] = Field("auto", description="auto: bf16 where the device has it")
    device: str = Field("auto", description="'cpu', 'cuda' or auto")
    trust_remote_code: bool = Field(False, description="let the model folder bring its own code")
    offline: Annotated[bool, Operational] = Field(False, description="never ask a model hub")
    token_budget: int | None = Field(
        None, ge=64, description="most tokens of one batch, padding counted; absent: 1024 on CPU, 65 536 on GPU"
    )


class Embed(Stage[EmbedConfig]):
    """Null, empty and blank texts are set aside: a vector of nothing would be everybody's neighbour."""

    config_type = EmbedConfig
    _encoder: Encoder

    @classmethod
    def reads(cls, config: EmbedConfig) -> Column:
        """A text column."""
        return Column(config.column, "text")

    @classmethod
    def adds(cls, config: EmbedConfig) -> tuple[Column, ...]:
        """`embedding`."""
        return (Column("embedding", "vector"),)

    @classmethod
    def takes(cls, config: EmbedConfig) -> dict[str, tuple[str, ...]]:
        """The stage that trains its encoder, if one does."""
        return trained_stages((config.model, ("text encoder",)))

    def identity(self) -> dict[str, str]:
        """Id and content digest of the model; what a stage leaves is told apart by the engine."""
        if trained_stage(self.config.model) is not None:
            return {}
        from kxbatch.models.encoders import identify

        found = identify(self.config.model, offline=self.config.offline)
        return {"model": found.id, "model_digest": found.digest}

    def open(self, context: Context) -> None:
        """Load the encoder."""
        from kxbatch.models.encoders import EncoderSettings, load

        config = self.config
        self._encoder = load(
            EncoderSettings(
                model=trained_path(config.model, context),
                pooling=config.pooling,
                device=context.device(config.device),
                precision=config.precision,
                max_length=config.max_length,
                prompt=config.prompt,
                normalize=config.normalize,
                threads=context.threads,
                trust_remote_code=config.trust_remote_code,
                offline=config.offline,
                token_budget=config.token_budget,
            )
        )

    def map(self, table: pa.Table, context: Context) -> Mapped:
        """Encode the texts that say something."""
        good, reasons, words = usable_texts(table, self.column)
        encoded = self._encoder.encode(good.to_pylist())
        context.counters[f"shards_in_{getattr(self._encoder, 'precision', 'fp32')}"] += 1
        context.counters["truncated_texts"] += int(encoded.truncated.sum())
        finite = np.isfinite(encoded.vectors).all(axis=1)
        reasons[np.flatnonzero(reasons == "")[~finite]] = "not-finite"
        words["not-finite"] = f"the encoder '{self.config.model}' gave NaN or infinite elements"
        return Mapped({"embedding": to_arrow(encoded.vectors[finite])}, rejections(table, reasons, words))


STAGE = Embed
