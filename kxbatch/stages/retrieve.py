"""`retrieve`: answers questions with facts of a knowledge graph, by a model that can spell nothing else.

Su, "Seq2Seq + prefix tree: a paradigm for retrieval" (2021); De Cao et al., GENRE (2021). docs/retrieve.md has the formulas.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import Field, model_validator

from kxbatch.spec.model import StageConfig
from kxbatch.stages.base import Column, Context, Mapped, Stage, trained_path, trained_stage, trained_stages
from kxbatch.stages.prefix_lm import LEAVES
from kxbatch.stages.rows import chosen_rows, rejections, usable_texts

if TYPE_CHECKING:
    from kxbatch.models.retrieval.retriever import Answered, Retriever

NOT_ASKED = "not-asked"  # in place of why there is no answer
ANSWERS = pa.list_(
    pa.struct(
        [
            ("subject", pa.string()),
            ("predicate", pa.string()),
            ("meaning", pa.string()),
            ("objects", pa.list_(pa.string())),
            ("score", pa.float64()),
            ("normalized_score", pa.float64()),
            ("part_scores", pa.list_(pa.float64())),
        ]
    )
)


class RetrieveConfig(StageConfig):
    """Answers a column of questions."""

    kind: Literal["retrieve"] = "retrieve"
    column: str | None = Field(None, description="text column of questions; absent: the only one of the input")
    graph: str = Field(description="folder of a graph that `kxbatch kg build` made; every worker must see it")
    model: str = Field(
        description="'stage:<name>', the folder of a retriever, or that of a Hugging Face model that writes text"
    )
    beam: int = Field(4, ge=1, le=16, description="hypotheses a question")
    answers: int = Field(1, ge=1, le=16, description="keys a question gets at most, best first")
    scoring: Literal["renormalised", "masked"] = Field(
        "renormalised", description="probabilities among the tokens that the graph allows, or among all tokens"
    )
    look_ahead: Literal["none", "predicate", "predicate-meaning"] = Field(
        "predicate", description="parts whose tokens are favoured by what their completions share with the question"
    )
    look_ahead_limit: int = Field(
        4096, ge=1, description="tokens of completions of one part beyond which nothing is favoured"
    )
    linked: int = Field(
        0, ge=0, le=16, description="keys that linking without the model finds and that join those of the beam"
    )
    overlap: float = Field(
        0.0,
        ge=0,
        le=1000,
        description="nats that a token shared with the question adds to the score by which answers are ranked",
    )
    length_power: float = Field(
        0.0, ge=0, le=2, description="answers are ranked by score, overlap added, / tokens^length_power; 0: as it is"
    )
    ask_on: str | None = Field(None, description="boolean column: only its true rows are answered; absent: all")
    threshold: float | None = Field(
        None, le=0, description="log p of the best key below which a question gets no answer; absent: all get one"
    )
    max_question: int | None = Field(
        None, ge=1, description="tokens of a question; longer ones are set aside; absent: the model's limit"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field("fp32", description="auto: bf16 where the device has it")
    device: str = Field("auto", description="'cpu', 'cuda' or auto")
    batch_rows: int = Field(64, ge=1, description="questions that go through the model together")
    trust_remote_code: bool = Field(False, description="let the model folder bring its own code")

    @model_validator(mode="after")
    def _beam_holds_the_answers(self) -> RetrieveConfig:
        if self.answers > self.beam:
            raise ValueError(
                f"answers = {self.answers}: a beam of {self.beam} holds no more than {self.beam}; widen it"
            )
        return self


class Retrieve(Stage[RetrieveConfig]):
    """Null, empty and blank questions are set aside, and those that would have to be cut."""

    config_type = RetrieveConfig
    _retriever: Retriever
    _max_question: int

    @classmethod
    def reads(cls, config: RetrieveConfig) -> Column:
        """A text column."""
        return Column(config.column, "text")

    @classmethod
    def also_reads(cls, config: RetrieveConfig) -> tuple[str, ...]:
        """Which rows to answer."""
        return () if config.ask_on is None else (config.ask_on,)

    @classmethod
    def adds(cls, config: RetrieveConfig) -> tuple[Column, ...]:
        """The answers, the best one's first object, and why there is none."""
        return (Column("answers", "other"), Column("answer", "text"), Column("no_answer", "text"))

    @classmethod
    def takes(cls, config: RetrieveConfig) -> dict[str, tuple[str, ...]]:
        """The stage that trains its model, if one does."""
        return trained_stages((config.model, (LEAVES,)))

    def identity(self) -> dict[str, str]:
        """Digests of the graph with its changes, and of a model from outside the job."""
        from kxbatch.models.graph.opening import graph_digest
        from kxbatch.models.retrieval.loading import generator_digest

        found = {"graph_digest": graph_digest(Path(self.config.graph))}
        if trained_stage(self.config.model) is None:
            found["model_digest"] = generator_digest(Path(self.config.model))
        return found

    def open(self, context: Context) -> None:
        """Map the graph, load the model."""
        from kxbatch.models.retrieval.loading import load_retriever
        from kxbatch.models.retrieval.settings import SearchSettings

        config = self.config
        settings = SearchSettings(
            beam=config.beam,
            answers=config.answers,
            scoring=config.scoring,
            look_ahead=config.look_ahead,
            look_ahead_limit=config.look_ahead_limit,
            length_power=config.length_power,
            batch=config.batch_rows,
            linked=config.linked,
            overlap=config.overlap,
        )
        self._retriever = load_retriever(
            Path(config.graph),
            Path(trained_path(config.model, context)),
            settings,
            threshold=config.threshold,
            threads=context.threads,
            device=context.device(config.device),
            precision=config.precision,
            trust_remote_code=config.trust_remote_code,
        )
        longest = self._retriever.max_question
        self._max_question = min(config.max_question or longest, longest)

    def map(self, table: pa.Table, context: Context) -> Mapped:
        """Answer the questions that say something."""
        good, reasons, words = usable_texts(table, self.column)
        questions = self._retriever.graph.questions(good.combine_chunks())
        short = questions.lengths <= self._max_question
        reasons[np.flatnonzero(reasons == "")[~short]] = "long-question"
        words["long-question"] = (
            f"column '{self.column}': more than {self._max_question} tokens; an answer to a part of a question would be "
            "an answer to another one"
        )
        asked = chosen_rows(table, self.config.ask_on, "ask_on")[reasons == ""]
        found = self._retriever.answer_tokens(questions.take(np.flatnonzero(short)[asked]))
        context.counters["answered_questions"] += sum(one.reason is None for one in found)
        context.counters["unanswered_questions"] += sum(one.reason is not None for one in found)
        return Mapped(_columns(_with_gaps(found, asked)), rejections(table, reasons, words))


def _with_gaps(found: list[Answered], asked: npt.NDArray[np.bool_]) -> list[Answered]:
    """What became of all rows; `found` has those that were asked."""
    from kxbatch.models.retrieval.retriever import Answered

    answered = iter(found)
    return [next(answered) if one else Answered((), NOT_ASKED, None) for one in asked]


def _columns(found: list[Answered]) -> dict[str, pa.Array]:
    answers = [[vars(answer) for answer in one.answers] for one in found]
    firsts = [one.answers[0].objects[0] if one.answers else None for one in found]
    return {
        "answers": pa.array(answers, ANSWERS),
        "answer": pa.array(firsts, pa.string()),
        "no_answer": pa.array([one.reason for one in found], pa.string()),
    }


STAGE = Retrieve
