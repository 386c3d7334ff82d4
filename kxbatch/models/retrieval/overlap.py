"""What a key and a question share: the subject as one span, and the predicate as a subsequence of what stands beside that.

Letters: Q questions, N keys.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kxbatch.kernels.lcs import common_runs, lcs_lengths
from kxbatch.kernels.trie import Keys
from kxbatch.kernels.trie.keys import starts_of
from kxbatch.models.retrieval.baseline import without_spans
from kxbatch.models.retrieval.settings import PARTS, Order

Numbers = NDArray[np.int64]


def shared_tokens(questions: Keys, keys: Keys, question_of: Numbers, separator: int, order: Order) -> Numbers:
    """Tokens of the subject where it stands in the question as a whole, and of the predicate's LCS with the rest of the question.

    Args:
        questions: Q token sequences.
        keys: N, of three parts each.
        question_of: int64 [N], the question of each key.
        separator: the token between parts.
        order: of the parts.

    Returns:
        int64 [N].
    """
    subjects, predicates = (_part(keys, separator, order.index(part)) for part in "sp")
    run, at = common_runs(questions, subjects, question_of)
    said: Numbers = np.where(run == subjects.lengths, run, 0)
    rest = without_spans(questions.take(question_of), at, said, separator)
    return said + lcs_lengths(rest, predicates, np.arange(len(keys)))


def _part(keys: Keys, separator: int, number: int) -> Keys:
    """One part of each key."""
    ends = np.flatnonzero(keys.tokens == separator).reshape(-1, PARTS - 1)
    begin = np.column_stack([keys.starts[:-1], ends + 1])[:, number]
    lengths = np.column_stack([ends, keys.starts[1:]])[:, number] - begin
    starts = starts_of(lengths)
    return Keys(keys.tokens[np.arange(starts[-1]) + np.repeat(begin - starts[:-1], lengths)], starts)
