"""`extract`: marks entities in texts of any length, nested ones too. docs/extract.md has the formulas."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from kxbatch.spec.model import StageConfig
from kxbatch.stages.base import Column, Context, Mapped, Stage, trained_path, trained_stage, trained_stages
from kxbatch.stages.ner import LEAVES
from kxbatch.stages.rows import rejections

if TYPE_CHECKING:
    from kxbatch.models.extraction.finder import Entities, Finder

ENTITY = pa.struct(
    [
        ("start", pa.int32()),
        ("end", pa.int32()),
        ("type", pa.dictionary(pa.int32(), pa.string())),
        ("score", pa.float32()),
        ("text", pa.string()),
    ]
)


class ExtractConfig(StageConfig):
    """Marks entities in a text column."""

    kind: Literal["extract"] = "extract"
    column: str | None = Field(None, description="text column; absent: the only one of the input")
    model: str = Field(description="'stage:<name>', or the folder of an extractor that a ner stage trained")
    threshold: float | None = Field(
        None,
        description="score above which a span is an entity, in log odds; absent: 0, for a CRF what its best tags say",
    )
    policy: Literal["nested", "flat"] = Field(
        "nested", description="all entities, or none that overlaps one with a better score"
    )
    max_width: int | None = Field(None, ge=1, description="tokens of the longest entity; absent: any")
    max_length: int | None = Field(
        None, ge=4, description="tokens of a window, special ones counted; absent: as in training"
    )
    overlap: int | None = Field(
        None, ge=0, description="tokens that neighbouring windows of a long text share; absent: a quarter of a window"
    )
    batch_rows: int = Field(32, ge=1, description="windows that go through the model together")
    precision: Literal["auto", "fp32", "bf16"] = Field("fp32", description="auto: bf16 where the device has it")
    device: str = Field("auto", description="'cpu', 'cuda' or auto")

    @model_validator(mode="after")
    def _windows_get_on(self) -> ExtractConfig:
        room = None if self.max_length is None else self.max_length - 2  # special tokens
        if room is not None and self.overlap is not None and self.overlap >= room:
            raise ValueError(
                f"overlap = {self.overlap}: a window of max_length = {self.max_length} holds {room} tokens beside special "
                "ones, and shares fewer with the next one"
            )
        return self


class Extract(Stage[ExtractConfig]):
    """Null texts are set aside; one without a word has no entities."""

    config_type = ExtractConfig
    _finder: Finder

    @classmethod
    def reads(cls, config: ExtractConfig) -> Column:
        """A text column."""
        return Column(config.column, "text")

    @classmethod
    def adds(cls, config: ExtractConfig) -> tuple[Column, ...]:
        """The entities."""
        return (Column("entities", "other"),)

    @classmethod
    def takes(cls, config: ExtractConfig) -> dict[str, tuple[str, ...]]:
        """The stage that trains its model, if one does."""
        return trained_stages((config.model, (LEAVES,)))

    def identity(self) -> dict[str, str]:
        """Digest of a model from outside the job."""
        if trained_stage(self.config.model) is not None:
            return {}
        from kxbatch.models.extraction.trained import TrainedExtractor, extractor_digest

        TrainedExtractor.read(Path(self.config.model))
        return {"model_digest": extractor_digest(Path(self.config.model))}

    def open(self, context: Context) -> None:
        """Load the model."""
        from kxbatch.models.extraction.finder import Finder, FinderSettings

        config = self.config
        settings = FinderSettings(
            threshold=config.threshold,
            policy=config.policy,
            max_width=config.max_width,
            max_length=config.max_length,
            overlap=config.overlap,
            batch_rows=config.batch_rows,
        )
        self._finder = Finder.load(
            Path(trained_path(config.model, context)),
            settings,
            threads=context.threads,
            device=context.device(config.device),
            precision=config.precision,
        )

    def map(self, table: pa.Table, context: Context) -> Mapped:
        """Entities of the texts."""
        column = table.column(self.column).cast(pa.string())
        reasons = np.full(len(table), "", object)
        reasons[column.is_null().to_numpy()] = "null-text"
        texts = column.drop_null().to_pylist()
        found = self._finder.find(texts)
        entities = _lists(found, texts, self._finder.types)
        context.counters["entities"] += len(found.rows)
        for number, name in enumerate(self._finder.types):
            context.counters[f"entities.{name}"] += int(np.sum(found.types == number))
        context.counters["texts_without_entities"] += int(
            pc.sum(pc.equal(pc.list_value_length(entities), 0)).as_py() or 0
        )
        words = {"null-text": f"column '{self.column}' is null"}
        return Mapped({"entities": entities}, rejections(table, reasons, words))


def _lists(found: Entities, texts: list[str], types: tuple[str, ...]) -> pa.Array:
    surfaces = [texts[row][a:b] for row, a, b in zip(found.rows, found.starts, found.ends, strict=True)]
    columns = [
        pa.array(found.starts),
        pa.array(found.ends),
        pa.DictionaryArray.from_arrays(pa.array(found.types), pa.array(types, pa.string())),
        pa.array(found.scores),
        pa.array(surfaces, pa.string()),
    ]
    starts = np.searchsorted(found.rows, np.arange(len(texts) + 1)).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(starts), pa.StructArray.from_arrays(columns, fields=list(ENTITY)))


STAGE = Extract
