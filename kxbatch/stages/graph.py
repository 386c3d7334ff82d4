"""`graph`: builds a graph for retrieval by generation: facts, and a trie of their keys.

The fold dictionary-codes rows; the fit normalises, tokenises and sorts the distinct strings alone. The artifact is made of all
rows of now: a fact that came later is in it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from kxbatch.data.arrays import Arrays
from kxbatch.data.quarantine import Rejected
from kxbatch.errors import ConfigError, DataError, FatalError
from kxbatch.spec.model import Operational, StageConfig
from kxbatch.stages.base import (
    Artifact,
    Column,
    ColumnKind,
    Context,
    FoldStage,
    Phase,
    trained_path,
    trained_stage,
    trained_stages,
)

if TYPE_CHECKING:
    from kxbatch.models.graph.tokenizer import GraphTokenizer

SMALLEST_VOCABULARY = 258  # 256 bytes and 2 special tokens
SEPARATOR = "[SEP]"  # of a vocabulary of the graph's own characters
_FOLDED = ("subject", "predicate", "object", "meaning", "split_meaning")
_RAW = 500  # characters of a row that are shown


class GraphConfig(StageConfig):
    """Builds a graph of facts for retrieval."""

    leaves: ClassVar[str] = "graph"

    kind: Literal["graph"] = "graph"
    subject: str = Field("subject", description="column of subjects")
    predicate: str = Field("predicate", description="column of predicates")
    object: str = Field("object", description="column of objects; numbers are taken as they are written")
    meaning: str | None = Field(None, description="column that tells subjects of one name apart; may be null or empty")
    split_meaning: bool = Field(
        True, description="without a column of meanings: part subjects 'X（Y）' into the subject X and the meaning Y"
    )
    order: Literal["spm", "smp"] = Field("spm", description="order of subject, predicate and meaning in a key")
    tokenizer: str | None = Field(
        None,
        description="'stage:<name>', a tokenizer.json, a folder with one, or a hub id; absent: the graph's own characters",
    )
    vocabulary: int = Field(
        16_000,
        ge=SMALLEST_VOCABULARY,
        description="tokens at most of the graph's own characters; rarer ones are written in bytes",
    )
    pieces: int | None = Field(
        None,
        gt=SMALLEST_VOCABULARY,
        description="tokens at most of the graph's own word pieces, in place of characters; for scripts with spaces",
    )
    offline: Annotated[bool, Operational] = Field(False, description="never ask a model hub")

    @model_validator(mode="after")
    def _one_tokenizer(self) -> GraphConfig:
        if self.pieces is not None and self.tokenizer is not None:
            raise ValueError("pieces goes without tokenizer: a graph has one")
        return self


class GraphStage(FoldStage[GraphConfig]):
    """Fold: distinct strings and codes. Fit: trie, facts, tokenizer. No row gets anything added."""

    config_type = GraphConfig
    keeps_state = False

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Fit alone."""
        return ("fold",)

    @classmethod
    def reads(cls, config: GraphConfig) -> Column:
        """The subjects."""
        return Column(config.subject, "text", ("number",))

    @classmethod
    def also_reads(cls, config: GraphConfig) -> tuple[str, ...]:
        """The other columns."""
        return tuple(name for name in (config.predicate, config.object, config.meaning) if name is not None)

    @classmethod
    def adds(cls, config: GraphConfig) -> tuple[Column, ...]:
        """Nothing."""
        return ()

    @classmethod
    def check_columns(cls, config: GraphConfig, kinds: Mapping[str, ColumnKind]) -> None:
        """Text, or numbers."""
        for name, kind in kinds.items():
            if kind not in ("text", "number"):
                raise ConfigError(f"column '{name}' is no text column but {kind}; facts are made of texts")

    @classmethod
    def takes(cls, config: GraphConfig) -> dict[str, tuple[str, ...]]:
        """A stage that trains its tokenizer."""
        return trained_stages((config.tokenizer, ("tokenizer", "text encoder")))

    def identity(self) -> dict[str, str]:
        """Digest of a tokenizer from outside the job."""
        if self.config.tokenizer is None or trained_stage(self.config.tokenizer) is not None:
            return {}
        from kxbatch.models.encoders import identify_tokenizer

        return {"tokenizer_digest": identify_tokenizer(self.config.tokenizer, offline=self.config.offline)}

    def semantic(self, phase: Phase) -> dict[str, Any]:
        """Rows are coded whatever the order and the vocabulary."""
        values = super().semantic(phase)
        return {key: value for key, value in values.items() if key in _FOLDED} if phase == "fold" else values

    def unusable(self, table: pa.Table, context: Context) -> list[Rejected]:
        """Rows without a subject, predicate or object, and those with a tab, a line break or a separator in them."""
        from kxbatch.models.graph.checking import WORDS, find_faults

        texts, ids = self._texts(table), table.column("id")
        named = {
            name: getattr(self.config, name) or self.config.subject for name in ("subject", "predicate", "meaning")
        }
        named["object"] = self.config.object
        return [
            Rejected(
                fault.row,
                str(ids[fault.row].as_py()),
                f"{fault.error}-{fault.column}",
                f"column '{named[fault.column]}' {WORDS[fault.error]}",
                "\t".join(str(column[fault.row].as_py()) for column in texts)[:_RAW],
            )
            for fault in find_faults(texts, self._separator(context))
        ]

    def fold(self, table: pa.Table, context: Context) -> Arrays:
        """Distinct strings, and rows of codes, each once."""
        from kxbatch.models.graph.triples import Triples

        return Triples.of(self._texts(table)).to_arrays()

    def merge(self, a: Arrays, b: Arrays) -> Arrays:
        """Rows of both."""
        return self.merge_all([a, b])

    def merge_all(self, states: Iterable[Arrays]) -> Arrays:
        """All at once: their strings are looked at a single time."""
        from kxbatch.models.graph.triples import Triples

        return Triples.together([Triples.from_arrays(state) for state in states]).to_arrays()

    def drift(self, pinned: Arrays, current: Arrays) -> float:
        """None: it is made of all rows."""
        return 0.0

    def fit(self, pinned: Arrays, current: Arrays, context: Context) -> Artifact:
        """Trie, facts, tokenizer, and counts for people."""
        from kxbatch.models.graph.about import describe
        from kxbatch.models.graph.build import build, normalized_pools
        from kxbatch.models.graph.opening import ABOUT, FACTS, TOKENIZER, TRIE
        from kxbatch.models.graph.triples import Triples
        from kxbatch.models.graph.vocabulary import count_pools

        config, triples = self.config, Triples.from_arrays(current)
        normalized = normalized_pools(triples)
        characters = count_pools(normalized)
        tokenizer = self._named_tokenizer(context) or self._earlier_tokenizer(context)
        tokenizer = tokenizer or self._learned_tokenizer(normalized, characters)
        built = build(triples, normalized, tokenizer, config.order)
        about = describe(triples, normalized, built, tokenizer) | {
            "own_vocabulary": self._own_vocabulary,
            "characters_in_bytes": tokenizer.spelled_in_bytes(characters),
            "order": config.order,
            "splits_meaning": config.split_meaning and config.meaning is None,
            "separator": tokenizer.separator,
            "pad": tokenizer.pad,
            "tokenizer_digest": tokenizer.digest,
        }
        documents = {TOKENIZER: tokenizer.to_json(), "tokenizer_config.json": tokenizer.for_transformers()}
        arrays = {TRIE: built.trie.to_arrays(), FACTS: built.facts.to_arrays()}
        return Artifact(arrays, documents | {ABOUT: about}, decides=tuple(documents))

    def _texts(self, table: pa.Table) -> list[pa.Array]:
        """Subject, predicate, meaning and object of every row; a meaning is never null."""
        from kxbatch.models.graph.text import split_meaning

        config = self.config
        columns = [
            table.column(name).combine_chunks().cast(pa.large_string())
            for name in (config.subject, config.predicate, config.object)
        ]
        if config.meaning is not None:
            meanings = pc.fill_null(table.column(config.meaning).combine_chunks().cast(pa.large_string()), "")
        elif config.split_meaning:
            columns[0], meanings = split_meaning(columns[0])
        else:
            meanings = pa.repeat(pa.scalar("", pa.large_string()), len(table))
        return [columns[0], columns[1], meanings, columns[2]]

    def _separator(self, context: Context) -> str:
        named = self._named_tokenizer(context)
        return named.separator_text if named else SEPARATOR

    @property
    def _own_vocabulary(self) -> int | str | None:
        """What vocabulary the graph makes of its own strings; None where the configuration names a tokenizer."""
        if self.config.tokenizer is not None:
            return None
        return self.config.vocabulary if self.config.pieces is None else f"{self.config.pieces} pieces"

    def _learned_tokenizer(self, normalized: Sequence[pa.Array], characters: npt.NDArray[np.int64]) -> GraphTokenizer:
        """The graph's own vocabulary."""
        from kxbatch.models.graph.tokenizer import GraphTokenizer

        if self.config.pieces is not None:
            return GraphTokenizer.pieces(normalized, self.config.pieces)
        return GraphTokenizer.characters(characters, self.config.vocabulary)

    def _earlier_tokenizer(self, context: Context) -> GraphTokenizer | None:
        """The graph's own vocabulary as it was when it was built before, so that models trained on it stay usable.

        None where there is no such vocabulary, or one of another kind or size is wanted.
        """
        from kxbatch.models.graph.character_vocabulary import PAD, SEP
        from kxbatch.models.graph.opening import ABOUT, TOKENIZER
        from kxbatch.models.graph.tokenizer import GraphTokenizer

        if context.earlier is None:
            return None
        try:
            about, document = (context.earlier(name) for name in (ABOUT, TOKENIZER))
            if not isinstance(about, dict) or about.get("own_vocabulary") != self._own_vocabulary:
                return None
            found = GraphTokenizer.from_json(json.dumps(document), SEP, PAD)
        except (DataError, FatalError):  # damaged: this fit mends it
            return None
        return found if found.digest == about.get("tokenizer_digest") else None

    def _named_tokenizer(self, context: Context) -> GraphTokenizer | None:
        """The tokenizer that the configuration names."""
        if self.config.tokenizer is None:
            return None
        from kxbatch.models.encoders import hub
        from kxbatch.models.graph.tokenizer import GraphTokenizer

        reference = trained_path(self.config.tokenizer, context)
        path = Path(reference).expanduser()
        return GraphTokenizer.read(path if path.exists() else hub.snapshot(reference, offline=self.config.offline))


STAGE = GraphStage
