"""The shape of a stage that compares all rows with all rows, block by block."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kxbatch.data.arrays import Arrays
from kxbatch.stages.base import Artifact, ConfigT, Context, Stage


@dataclass(frozen=True)
class Side:
    """A block's lists from one pair of blocks.

    Attributes:
        rows: int64, global row numbers of the other block, ascending.
        arrays: what `pair` gave; its row numbers are places in `rows`.
    """

    rows: npt.NDArray[np.int64]
    arrays: Arrays


@dataclass(frozen=True)
class Corpus:
    """All rows of a pairs stage, for `conclude`: one block in memory at a time.

    Attributes:
        rows: number of rows.
        blocks: int64, global row numbers of each block, ascending. Rows are numbered in shard order, whatever the blocks.
        shards: (shard number, first global row, rows), in order.
        lists: arrays that `gather` made for a block.
        names: ids by global row number.
    """

    rows: int
    blocks: Sequence[npt.NDArray[np.int64]]
    shards: Sequence[tuple[int, int, int]]
    lists: Callable[[int], Arrays]
    names: Callable[[npt.NDArray[np.int64]], pa.Array]


@dataclass(frozen=True)
class Patch:
    """What `conclude` found out about one shard.

    Attributes:
        shard: its number.
        arrays: given to `map` as `context.patch`.
        mentions: global numbers of the rows whose ids `map` will write.
    """

    shard: int
    arrays: Arrays
    mentions: npt.NDArray[np.int64]


class PairsStage(Stage[ConfigT]):
    """A stage that compares all rows with all rows, block by block; each unordered pair of blocks once."""

    @abstractmethod
    def block_rows(self, rows: int) -> int:
        """Rows a block aims at, when the corpus has `rows` rows."""

    @abstractmethod
    def pair(self, a: pa.Table, b: pa.Table | None, context: Context) -> tuple[Arrays, Arrays]:
        """Lists of `a`'s rows in `b` and of `b`'s rows in `a`; `b` None: of `a`'s rows among themselves (second empty)."""

    @abstractmethod
    def gather(
        self,
        rows: npt.NDArray[np.int64],
        sides: Sequence[Side],
        corpus: Callable[[], Iterator[tuple[int, pa.Table]]],
        context: Context,
    ) -> Arrays:
        """One block's lists over the whole corpus, from its lists in every block.

        Args:
            rows: int64, global row numbers of the block, ascending.
            sides: its lists, block by block.
            corpus: reads the corpus again, shard by shard, with each shard's first global row; for what lists do not tell.
            context: counters and threads.
        """

    @abstractmethod
    def conclude(self, corpus: Corpus, context: Context) -> tuple[Artifact, Iterator[Patch]]:
        """What follows from all lists: the artifact, and a patch for each shard."""
