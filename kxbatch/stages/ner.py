"""`ner`: trains a model that marks entities in texts, nested or not.

Su, "GlobalPointer" (2021) and "Efficient GlobalPointer" (2022); a linear-chain CRF over BIO tags is there to compare with.
docs/extract.md has the formulas.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from kxbatch.data.arrays import Arrays
from kxbatch.data.quarantine import Rejected
from kxbatch.errors import DataError
from kxbatch.spec.model import Operational, StageConfig
from kxbatch.spec.training import TrainingConfig
from kxbatch.stages.base import Column, Context, Survey, TrainStage, trained_stage, trained_stages
from kxbatch.stages.lost_spans import LostSpans
from kxbatch.stages.masked_lm import TextModelConfig
from kxbatch.stages.rows import rejections, usable_texts
from kxbatch.stages.vae import fitted_rows

if TYPE_CHECKING:
    from kxbatch.stages.task import Task

LEAVES = "extractor"
_TYPES = "types"  # JSON of the types that occur, as bytes: facts are arrays


class NerConfig(StageConfig):
    """Trains an extractor of entities on texts with marked spans."""

    leaves: ClassVar[str] = LEAVES

    kind: Literal["ner"] = "ner"
    column: str | None = Field(None, description="text column; absent: the only one of the input")
    labels: str = Field("labels", description="column of right spans: list<struct<start, end, type>>, ends exclusive")
    types: tuple[str, ...] | None = Field(
        None, min_length=1, description="types of entities; rows with others are set aside; absent: those that occur"
    )
    fit_on: str | None = Field(None, description="boolean column: only its true rows are learned from; absent: all")
    head: Literal["efficient-globalpointer", "globalpointer", "crf"] = Field(
        "efficient-globalpointer",
        description="what scores spans; crf: BIO tags, which cannot say nested ones, for comparison",
    )
    head_size: int = Field(64, ge=2, multiple_of=2, description="width of a head's queries and keys")
    rope: bool = Field(True, description="rotary positions in the head")
    head_bias: bool = Field(True, description="projections of the head with biases")
    r_drop: float = Field(
        0.0, ge=0, description="weight of the divergence of two passes with other dropout; 0: one pass"
    )
    tokenizer: str | None = Field(
        None, description="'stage:<name>', a tokenizer.json, a folder with one, or a hub id, for a new encoder"
    )
    model: TextModelConfig | None = Field(None, description="a new encoder; absent: the defaults of a text encoder")
    encoder: str | None = Field(
        None,
        description="an encoder to start from, with its tokenizer: 'stage:<name>', its folder, or that of a Hugging Face "
        "encoder, or a hub id",
    )
    max_length: int = Field(
        128,
        ge=4,
        description="tokens of a sequence, special ones counted; of a longer text one window is drawn each epoch",
    )
    offline: Annotated[bool, Operational] = Field(False, description="never ask a model hub")
    training: TrainingConfig = TrainingConfig(validation_share=0.02)

    @model_validator(mode="after")
    def _encoder_is_told(self) -> NerConfig:
        if (self.encoder is None) == (self.tokenizer is None):
            raise ValueError("set either encoder, which has its tokenizer with it, or the tokenizer of a new one")
        if self.encoder is not None and self.model is not None:
            raise ValueError("[stage.model] is of a new encoder; encoder has one already: leave one of them out")
        if self.types is not None and (len(set(self.types)) < len(self.types) or "" in self.types):
            raise ValueError("types names a type twice, or one that has no name")
        if self.head == "crf" and (self.r_drop or not self.rope):
            raise ValueError("head = 'crf' has no r_drop and no rope; leave them out")
        if self.r_drop and self.encoder is None and not (self.model or TextModelConfig()).dropout:
            raise ValueError("r_drop compares two passes with other dropout: set model.dropout above 0")
        return self


class NerStage(TrainStage[NerConfig]):
    """Rows without a text, without a list of spans, and those whose spans cannot be right are set aside."""

    config_type = NerConfig

    def __init__(self, config: NerConfig, column: str) -> None:
        super().__init__(config, column)
        self._lost = LostSpans(config)

    @classmethod
    def reads(cls, config: NerConfig) -> Column:
        """The texts."""
        return Column(config.column, "text")

    @classmethod
    def also_reads(cls, config: NerConfig) -> tuple[str, ...]:
        """The spans, and which rows to learn from."""
        return (config.labels, *((config.fit_on,) if config.fit_on else ()))

    @classmethod
    def takes(cls, config: NerConfig) -> dict[str, tuple[str, ...]]:
        """Stages that train its tokenizer or its encoder."""
        return trained_stages(
            (config.tokenizer, ("tokenizer", "text encoder")),
            (config.encoder, ("text encoder",)),
        )

    @property
    def survey_depends_on(self) -> tuple[str, ...]:
        """Columns, which types are right, and what a window holds."""
        return ("labels", "types", "fit_on", "max_length")

    def identity(self) -> dict[str, str]:
        """Digests of a tokenizer or an encoder from outside the job."""
        from kxbatch.models.encoders import identify, identify_tokenizer

        config, found = self.config, {}
        if config.tokenizer is not None and trained_stage(config.tokenizer) is None:
            found["tokenizer_digest"] = identify_tokenizer(config.tokenizer, offline=config.offline)
        if config.encoder is not None and trained_stage(config.encoder) is None:
            found["encoder_digest"] = identify(config.encoder, offline=config.offline).digest
        return found

    def survey(self, table: pa.Table, context: Context) -> Survey:
        """Characters of each text, and the types that occur in those to learn from; counts spans that nothing can find."""
        from kxbatch.models.extraction.labels import Labels

        _, reasons, words = usable_texts(table, self.column)
        texts = table.column(self.column).cast(pa.string())
        lengths = pc.fill_null(pc.utf8_length(texts), 0).to_numpy().astype(np.int64)
        labels = Labels.read(table.column(self.config.labels), self.config.labels)
        faults = {row: one for row, one in labels.faults(lengths, self.config.types).items() if reasons[row] == ""}
        ids = table.column("id")
        rejected = [Rejected(row, str(ids[row].as_py()), one.reason, one.words) for row, one in faults.items()]
        rejected = sorted([*rejections(table, reasons, words), *rejected], key=lambda one: one.row)
        good, learns = np.ones(len(table), np.bool_), fitted_rows(table, self.config.fit_on)
        good[[one.row for one in rejected]] = False
        chosen = good & learns
        spans = labels.spans.of_rows(chosen)
        self._lost.count(texts.filter(pa.array(chosen)), spans, context)
        facts = {_TYPES: np.frombuffer(json.dumps(sorted(spans.types.unique().to_pylist())).encode(), np.uint8)}
        return Survey(lengths[chosen].astype(np.int32), rejected, np.flatnonzero(good & ~learns), facts)

    def remarks(self, counters: Mapping[str, float]) -> list[str]:
        """Spans that are lost on any model."""
        return list(self._lost.remarks(counters))

    def combine(self, facts: Iterator[Arrays]) -> Arrays:
        """The types of all shards.

        Raises:
            DataError: no span anywhere.
        """
        found = sorted({name for one in facts for name in read_types(one)})
        types = self.config.types or tuple(found)
        if not found:
            raise DataError(f"column '{self.config.labels}': no row to learn from has a span; nothing can be learned")
        return {_TYPES: np.frombuffer(json.dumps(types).encode(), np.uint8)}

    def task(self, context: Context) -> Task:
        """The model, and how texts become its batches."""
        from kxbatch.stages.tasks.ner import NerTask

        return NerTask(self.config, self.column, context)


def read_types(facts: Arrays) -> tuple[str, ...]:
    """The types that surveys found."""
    return tuple(json.loads(bytes(facts[_TYPES])))


STAGE = NerStage
