"""`masked-lm`: trains a text encoder from scratch to guess masked words.

Devlin et al., BERT (2019); the recipe of GAU-alpha (Su 2022) is in docs/masked-lm.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from kxbatch.errors import ConfigError
from kxbatch.models.text_encoder_config import Block, Init, Normalizer, NormKind, NormPlace, TextEncoderConfig
from kxbatch.spec.model import Config, Operational, StageConfig
from kxbatch.spec.training import TrainingConfig
from kxbatch.stages.base import Column, Context, Survey, TrainStage, trained_stage, trained_stages
from kxbatch.stages.rows import rejections, usable_texts

if TYPE_CHECKING:
    from kxbatch.stages.task import Task

BYTES_PER_TOKEN = 4  # about; only for telling short texts from long ones
_ANY_VOCABULARY = 1_000_000


class TextModelConfig(Config):
    """`[stage.model]`: the architecture of a text encoder. Its vocabulary is that of the tokenizer."""

    dim: int = Field(256, ge=1, description="width of the stream")
    layers: int = Field(
        4, ge=1, description="GAU layers, or attention blocks, each of which is as large as two of those"
    )
    block: Block = Field("gau", description="Gated Attention Units, or attention + FFN")
    expansion: int | None = Field(None, ge=1, description="width of a GAU's gates and values; absent: 2 dim")
    key_dim: int = Field(128, ge=2, description="width of a GAU's queries and keys")
    heads: int = Field(4, ge=1, description="heads of an attention block")
    normalizer: Normalizer = Field("softmax_plus", description="how scores become weights")
    base_length: int = Field(
        512, ge=2, description="length at which softmax_plus is softmax; the n of squared_relu; the L of softmax_beyond"
    )
    norm: NormPlace = Field("post", description="after the residual sum, or before the branch")
    norm_kind: NormKind = Field("rmsnorm", description="without gains in either case")
    bias: bool = Field(False, description="projections with biases")
    init: Init = Field("gau-alpha", description="first weights, and the residual's factor")
    dropout: float = Field(0.0, ge=0, lt=1, description="of the embedding and of each branch")
    checkpointing: Annotated[bool, Operational] = Field(
        False, description="compute layers a second time in the backward pass, which saves memory"
    )
    rope_base: float = Field(10_000.0, gt=1, description="of the rotary positions")

    @model_validator(mode="after")
    def _fields_go_together(self) -> TextModelConfig:
        try:
            self.architecture(_ANY_VOCABULARY, 0)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return self

    def architecture(self, vocabulary: int, pad: int) -> TextEncoderConfig:
        """With the tokenizer's part."""
        return TextEncoderConfig(vocabulary=vocabulary, pad_id=pad, **self.model_dump())


class MaskedLmConfig(StageConfig):
    """Trains a text encoder on a text column."""

    leaves: ClassVar[str] = "text encoder"

    kind: Literal["masked-lm"] = "masked-lm"
    column: str | None = Field(None, description="text column; absent: the only one of the input")
    tokenizer: str = Field(description="'stage:<name>', a tokenizer.json, a folder with one, or a hub id")
    max_length: int = Field(128, ge=4, description="tokens of a sequence, special ones counted")
    model: TextModelConfig = TextModelConfig()
    initialize: str | None = Field(
        None, description="'stage:<name>' or folder of an encoder of the same architecture, to start from"
    )
    mask_share: float = Field(0.15, gt=0, lt=1, description="share of the words to be guessed")
    segmenter: Literal["none", "jieba"] = Field("none", description="what joins Chinese characters to words")
    pack: bool = Field(
        False, description="join the texts of a batch and cut them into sequences of max_length, in place of one a text"
    )
    evaluate_lengths: tuple[Annotated[int, Field(ge=4)], ...] = Field(
        (), description="lengths at which held-out texts, joined and cut, are guessed in the end"
    )
    init_report: bool = Field(False, description="leave statistics of the layers before training")
    pooling: Literal["cls", "last-mean", "first-last-mean"] = Field(
        "last-mean", description="how an embed stage makes a vector of tokens where it does not say otherwise"
    )
    offline: Annotated[bool, Operational] = Field(False, description="never ask a model hub")
    training: TrainingConfig = TrainingConfig()

    @model_validator(mode="after")
    def _evaluation_has_rows(self) -> MaskedLmConfig:
        if self.evaluate_lengths and not self.training.validation_share:
            raise ValueError("evaluate_lengths needs held-out texts: set training.validation_share")
        if len(set(self.evaluate_lengths)) < len(self.evaluate_lengths):
            raise ValueError("evaluate_lengths names a length twice")
        return self


class MaskedLmStage(TrainStage[MaskedLmConfig]):
    """Null, empty and blank texts are set aside: there is nothing to guess in them."""

    config_type = MaskedLmConfig

    @classmethod
    def reads(cls, config: MaskedLmConfig) -> Column:
        """A text column."""
        return Column(config.column, "text")

    @classmethod
    def takes(cls, config: MaskedLmConfig) -> dict[str, tuple[str, ...]]:
        """Stages that train its tokenizer, and the encoder it starts from; an encoder has its tokenizer with it."""
        return trained_stages(
            (config.tokenizer, ("tokenizer", "text encoder")),
            (config.initialize, ("text encoder",)),
        )

    @property
    def survey_depends_on(self) -> tuple[str, ...]:
        """What is set aside depends on nothing, sizes on how much of a text is read."""
        return ("max_length", "pack")

    def identity(self) -> dict[str, str]:
        """Digests of what comes from outside the job, and whose words are whole."""
        from kxbatch.models.encoders import identify, identify_tokenizer

        config, found = self.config, {}
        if trained_stage(config.tokenizer) is None:
            found["tokenizer_digest"] = identify_tokenizer(config.tokenizer, offline=config.offline)
        if config.initialize is not None and trained_stage(config.initialize) is None:
            found["initialize_digest"] = identify(config.initialize, offline=True).digest
        if config.segmenter == "jieba":
            from kxbatch.models.segmenter import jieba_version

            found["segmenter_version"] = jieba_version()
        return found

    def survey(self, table: pa.Table, context: Context) -> Survey:
        """Bytes of each text, as far as they are read; all alike where texts are joined."""
        texts, reasons, words = usable_texts(table, self.column)
        # nothing of joined texts is padded, and sorted by size one step would have 100 times the tokens of another
        most = 1 if self.config.pack else self.config.max_length * BYTES_PER_TOKEN
        sizes = np.minimum(pc.binary_length(texts).to_numpy(), most).astype(np.int32)
        return Survey(sizes, rejections(table, reasons, words))

    def task(self, context: Context) -> Task:
        """The model, and how texts become its batches."""
        from kxbatch.stages.tasks.masked_lm import MaskedLmTask

        return MaskedLmTask(self.config, self.column, context)


STAGE = MaskedLmStage
