"""`prefix-lm`: trains a model that spells the key of a fact, question in, from scratch.

The question is read in both directions, the key is written from left to right by the same layers: Dong et al., UniLM (2019).
It learns from right answers alone; what does not exist is ruled out by the graph's trie when it answers (docs/retrieve.md).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from kxbatch.spec.model import Operational, StageConfig
from kxbatch.spec.training import TrainingConfig
from kxbatch.stages.base import Column, Context, Survey, TrainStage, trained_stage, trained_stages
from kxbatch.stages.masked_lm import TextModelConfig
from kxbatch.stages.rows import rejections, usable_texts
from kxbatch.stages.vae import fitted_rows

if TYPE_CHECKING:
    from kxbatch.kernels.trie import Keys
    from kxbatch.models.graph import Spelling
    from kxbatch.stages.task import Task

LEAVES = "retriever"


class RetrieverTraining(TrainingConfig):
    """A step of rows that are all of one length teaches to copy from one distance; copying names comes much later then."""

    sort_within: Literal["window", "step"] = Field(
        "step", description="as in other trainings; here steps of rows of one length would teach copying much later"
    )


class PrefixLmConfig(StageConfig):
    """Trains a retriever on questions and the facts that answer them."""

    leaves: ClassVar[str] = LEAVES

    kind: Literal["prefix-lm"] = "prefix-lm"
    column: str = Field("question", description="text column of questions")
    subject: str = Field("subject", description="column of the right fact's subject")
    predicate: str = Field("predicate", description="column of its predicate")
    meaning: str | None = Field(
        None, description="column of its meaning; absent: what stands in the subject's last full-width brackets"
    )
    graph: Annotated[str, Operational] = Field(
        description="folder of a graph; its tokenizer and the order of its keys are learned, not its facts"
    )
    fit_on: str | None = Field(None, description="boolean column: only its true rows are learned from; absent: all")
    max_question: int = Field(128, ge=1, description="tokens of a question; rows with longer ones are set aside")
    shifts: int = Field(
        2,
        ge=0,
        le=8,
        description="tokens before each one that its vector is joined with, so that names are copied soon",
    )
    model: TextModelConfig = TextModelConfig()
    initialize: str | None = Field(
        None, description="'stage:<name>' or folder of a retriever of the same architecture, to start from"
    )
    training: RetrieverTraining = RetrieverTraining(validation_share=0.02)

    @model_validator(mode="after")
    def _can_be_stepped_through(self) -> PrefixLmConfig:
        if self.model.block != "gau":
            raise ValueError("model.block: a retriever has GAU layers; leave it out, or set 'gau'")
        return self


class PrefixLmStage(TrainStage[PrefixLmConfig]):
    """Rows without a question or without a fact are set aside, and so are questions that would have to be cut."""

    config_type = PrefixLmConfig

    @classmethod
    def reads(cls, config: PrefixLmConfig) -> Column:
        """The questions."""
        return Column(config.column, "text")

    @classmethod
    def also_reads(cls, config: PrefixLmConfig) -> tuple[str, ...]:
        """The facts, and which rows to learn from."""
        more = (config.meaning, config.fit_on)
        return (config.subject, config.predicate, *(name for name in more if name is not None))

    @classmethod
    def takes(cls, config: PrefixLmConfig) -> dict[str, tuple[str, ...]]:
        """The stage it starts from."""
        return trained_stages((config.initialize, (LEAVES,)))

    @property
    def survey_depends_on(self) -> tuple[str, ...]:
        """Columns, and how long a question may be."""
        return ("subject", "predicate", "meaning", "fit_on", "max_question")

    def identity(self) -> dict[str, str]:
        """What is learned of the graph, and the model to start from."""
        from kxbatch.models.graph import Spelling
        from kxbatch.models.retrieval.trained import TrainedPrefixLm, retriever_digest

        found = Spelling.read(Path(self.config.graph)).identity
        start = self.config.initialize
        if start is not None and trained_stage(start) is None:
            TrainedPrefixLm.read(Path(start))
            found["initialize_digest"] = retriever_digest(Path(start))
        return found

    def survey(self, table: pa.Table, context: Context) -> Survey:
        """Tokens of question and key together."""
        from kxbatch.models.graph import Spelling

        config, learns = self.config, fitted_rows(table, self.config.fit_on)
        reasons, words = _unusable(table, config)
        rows = np.flatnonzero(reasons == "")
        questions, keys = spelled(table.take(rows), config, Spelling.read(Path(config.graph)))
        long = questions.lengths > config.max_question
        reasons[rows[long]] = "long-question"
        words["long-question"] = f"column '{config.column}': more than max_question = {config.max_question} tokens"
        sizes = (questions.lengths + keys.lengths).astype(np.int32)[~long & learns[rows]]
        return Survey(sizes, rejections(table, reasons, words), rows[~long & ~learns[rows]])

    def task(self, context: Context) -> Task:
        """The model, and how rows become its batches."""
        from kxbatch.stages.tasks.prefix_lm import PrefixLmTask

        return PrefixLmTask(self.config, context)


def spelled(table: pa.Table, config: PrefixLmConfig, spelling: Spelling) -> tuple[Keys, Keys]:
    """Questions and the keys of their facts, in tokens. A null meaning is an empty one."""

    def texts(name: str) -> pa.Array:
        return pc.fill_null(table.column(name).combine_chunks().cast(pa.large_string()), "")

    meanings = None if config.meaning is None else texts(config.meaning)
    keys = spelling.keys(texts(config.subject), texts(config.predicate), meanings)
    return spelling.questions(texts(config.column)), keys


def _unusable(table: pa.Table, config: PrefixLmConfig) -> tuple[npt.NDArray[Any], dict[str, str]]:
    """Why each row cannot be learned from, object [n], empty for good ones; and the reasons' words."""
    _, reasons, words = usable_texts(table, config.column)
    for name in (config.subject, config.predicate):
        texts = table.column(name).cast(pa.string())
        blank = pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(texts)), 0).fill_null(True).to_numpy()
        reasons[blank & (reasons == "")] = f"no-{name}"
        words[f"no-{name}"] = f"column '{name}' is null, empty or blank: a question without its fact teaches nothing"
    return reasons, words


STAGE = PrefixLmStage
