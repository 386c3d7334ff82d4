"""How questions and keys of a graph are spelled in tokens: all that a model learns of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa

from kxbatch.kernels.trie import Keys
from kxbatch.models.graph.build import PARTS, Order, assembled, ended_by
from kxbatch.models.graph.text import normalize, split_meaning
from kxbatch.models.graph.tokenizer import GraphTokenizer

Strings: TypeAlias = Sequence[str] | pa.Array


@dataclass(frozen=True, eq=False)
class Spelling:
    """A tokenizer and an order of parts.

    Attributes:
        tokenizer: of keys and questions.
        order: of the parts of a key.
        splits_meaning: whether subjects `X（Y）` are a subject and its meaning.
    """

    tokenizer: GraphTokenizer
    order: Order
    splits_meaning: bool

    @classmethod
    def read(cls, folder: Path) -> Spelling:
        """Of the graph in a folder, whose facts are not looked at.

        Raises:
            ConfigError: there is no graph there, or several.
            DataError: what it says of its spelling is damaged; names the file and says what to do.
        """
        from kxbatch.models.graph.opening import read_spelling

        return read_spelling(folder)

    @property
    def identity(self) -> dict[str, str]:
        """What decides how anything is spelled."""
        return {
            "graph_tokenizer": self.tokenizer.digest,
            "graph_order": self.order,
            "graph_splits_meaning": str(self.splits_meaning).lower(),
        }

    def questions(self, texts: Strings) -> Keys:
        """Tokens of N questions in any spelling, without a separator behind them."""
        return self.tokenizer.encode(normalize(texts))

    def keys(self, subjects: Strings, predicates: Strings, meanings: Strings | None = None) -> Keys:
        """Key sequences of N facts in any spelling; they need not be in the graph.

        Args:
            subjects: N subjects.
            predicates: N predicates.
            meanings: N meanings; absent: those that the subjects carry in brackets, if the graph splits them.
        """
        if meanings is None:
            subjects = subjects if isinstance(subjects, pa.Array) else pa.array(subjects, pa.large_string())
            named, found = split_meaning(subjects)
            subjects, meanings = (named, found) if self.splits_meaning else (subjects, [""] * len(subjects))
        texts = [normalize(column) for column in (subjects, predicates, meanings)]
        *ended, last = (self.tokenizer.encode(texts[i]) for i in PARTS[self.order])
        return assembled([*(ended_by(keys, self.tokenizer.separator) for keys in ended), last])
