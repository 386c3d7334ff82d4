"""Keys that stay in a beam, whatever the model makes of them, so that each of them gets its score.

The keys of a question are a small trie of their own; a hypothesis that has said the beginning of one carries its state there.

Letters: Q questions, H hypotheses of all of them, A candidates of all of those, N keys.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kxbatch.kernels.trie import Keys, Trie, sort_keys, token_dtype
from kxbatch.models.retrieval.beam import Beam

Numbers = NDArray[np.int64]


class Guide:
    """Keys for some questions.

    Attributes:
        start: int64 [Q, 2], states in which nothing has been said; -1 for questions without a key.
    """

    def __init__(self, keys: Keys, question_of: Numbers, questions: int, vocabulary: int) -> None:
        size = max(vocabulary, questions)  # the number of its question is the first token of a key
        tokens = np.insert(keys.tokens.astype(token_dtype(size)), keys.starts[:-1], question_of)
        self._trie = Trie.build(sort_keys(Keys(tokens, keys.starts + np.arange(len(keys) + 1)))[0], size)
        self.start = self._trie.advance(self._trie.start(questions), np.arange(questions))

    def places(self, beam: Beam, offsets: Numbers, child: Numbers, tokens: Numbers) -> Numbers:
        """The candidates that are one of the keys, or the beginning of one.

        Args:
            beam: H hypotheses.
            offsets: int64 [H + 1] of their candidates.
            child: int64 [A], -1 for the end of a hypothesis, or for one that is finished.
            tokens: int64 [A], rising among the children of a hypothesis.

        Returns:
            int64, places among the candidates, rising.
        """
        on = np.flatnonzero(beam.guided[:, 0] >= 0)
        ended = on[~beam.live[on] | (self._trie.terminal(beam.guided[on]) >= 0)]
        live = on[beam.live[on]]
        wanted = self._trie.allowed(beam.guided[live])
        owner = np.repeat(live, np.diff(wanted.offsets))
        width = self._trie.vocabulary + 1
        rank = np.where(child < 0, 0, tokens + 1) + np.repeat(np.arange(len(beam)), np.diff(offsets)) * width
        return np.sort(np.concatenate([offsets[ended], np.searchsorted(rank, owner * width + wanted.tokens + 1)]))

    def go_on(self, beam: Beam, parents: Numbers, goes_on: NDArray[np.bool_], tokens: Numbers) -> Numbers:
        """The states [., 2] of picked candidates.

        Args:
            beam: H hypotheses.
            parents: int64, the hypothesis of each candidate.
            goes_on: bool, whether it is a child of that, not its end.
            tokens: int64, said by each.
        """
        states = beam.guided[parents]
        left = ~goes_on & beam.live[parents] & (self._trie.terminal(states) < 0)  # ended where no key ends
        states[left] = -1
        states[goes_on] = self._trie.advance(states[goes_on], tokens[goes_on])
        return states
