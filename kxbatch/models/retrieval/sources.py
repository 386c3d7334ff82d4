"""Questions as models read them.

Letters: Q questions, L tokens of the longest.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kxbatch.kernels.trie import Keys

Numbers = NDArray[np.int64]


def with_separator(questions: Keys, separator: int) -> Keys:
    """Questions as a model reads them: each with a separator behind."""
    tokens = questions.tokens[questions.starts[0] : questions.starts[-1]]
    starts = questions.starts - questions.starts[0]
    ended = np.insert(tokens, starts[1:], tokens.dtype.type(separator))
    return Keys(ended, starts + np.arange(len(starts)))


def padded(sources: Keys, *, left: bool) -> tuple[Numbers, Numbers]:
    """Int64 [Q, L] twice: tokens, padded with 0 on one side, and 1 where there is one."""
    ids = np.zeros((len(sources), int(sources.lengths.max(initial=1))), np.int64)
    place = np.arange(ids.shape[1])
    begin = ids.shape[1] - sources.lengths if left else np.zeros(len(sources), np.int64)
    there = (place >= begin[:, None]) & (place < (begin + sources.lengths)[:, None])
    ids[there] = sources.tokens[sources.starts[0] : sources.starts[-1]]
    return ids, there.astype(np.int64)
