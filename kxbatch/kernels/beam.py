"""The ragged arithmetic of a beam step: what few tokens a trie allows is scored and ranked, never a whole vocabulary.

Letters: A candidates of all rows, B rows (hypotheses), Q questions. Candidates of a row stand together, so do the rows of a
question; offsets tell where. Scores are natural logarithms of probabilities, float64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kxbatch.kernels.jit import jit
from kxbatch.kernels.trie.keys import frozen

Numbers = NDArray[np.int64]
Scores = NDArray[np.float64]
Number = Any  # float64 in compiled code


def top_k(scores: NDArray[Any], offsets: Numbers, k: int) -> tuple[Numbers, Numbers]:
    """The best candidates of each segment, best first; of equal ones the earlier.

    Args:
        scores: float32 or float64 [A], no NaN.
        offsets: int64 [Q + 1]; segment q has the candidates `offsets[q]` to `offsets[q + 1]`.
        k: how many at most.

    Returns:
        int64, places in `scores`, and offsets [Q + 1] into them.
    """
    starts = np.zeros(len(offsets), np.int64)
    np.cumsum(np.minimum(np.diff(offsets), k), out=starts[1:])
    picked = np.empty(starts[-1], np.int64)
    _select(frozen(scores), frozen(offsets, np.int64), starts, picked)
    return picked, starts


def log_sum_exp(values: NDArray[Any], offsets: Numbers) -> Scores:
    """Logarithms of sums of exponentials, float64 [B], of segments of float32 or float64 [A]; -inf of an empty one.

    Of a single value it is that value, exactly.
    """
    sums = np.empty(len(offsets) - 1)
    _log_sums(frozen(values), frozen(offsets, np.int64), sums)
    return sums


def log_probabilities(
    logits: NDArray[np.float32],
    offsets: Numbers,
    normalizers: Scores,
    gains: Numbers,
    ahead: NDArray[np.bool_],
    *,
    renormalised: bool,
) -> Scores:
    """Log-probabilities of what may follow each row.

    With p the full softmax, `exp(logit - normalizer)`: masked, a candidate has p, so that those of a row sum to less than 1;
    renormalised, p over the sum of the row. Where look-ahead counts, p is first raised to the power 1 / (D + 1) (Su 2021,
    "Seq2Seq + prefix tree"), and then brought to the sum that the row has without: what all candidates have by the full
    softmax, or 1.

    Args:
        logits: float32 [A].
        offsets: int64 [B + 1].
        normalizers: float64 [B], log-sum-exp of each row's logits over the vocabulary. Not looked at where renormalised
            without look-ahead, nor where renormalised and there is one candidate only.
        gains: int64 [A], D; anything, also nothing, where look-ahead does not count.
        ahead: bool [B], where look-ahead counts.
        renormalised: which of the two.

    Returns:
        float64 [A], none above 0.
    """
    out = np.empty(len(logits))
    _log_probabilities(
        frozen(logits, np.float32),
        frozen(offsets, np.int64),
        frozen(normalizers, np.float64),
        frozen(gains, np.int64),
        frozen(ahead, np.bool_),
        renormalised,
        out,
    )
    return out


def spread(begin: Numbers, end: Numbers, slot: NDArray[np.bool_]) -> tuple[Numbers, Numbers]:
    """Ranges written out, some with a -1 before them.

    Args:
        begin: int64 [B].
        end: int64 [B], exclusive.
        slot: bool [B], whether a -1 comes first.

    Returns:
        int64 [A], and offsets [B + 1] into them.
    """
    offsets = np.zeros(len(begin) + 1, np.int64)
    np.cumsum(end - begin + slot, out=offsets[1:])
    out = np.empty(offsets[-1], np.int64)
    _spread(frozen(begin, np.int64), frozen(slot, np.bool_), offsets, out)
    return out, offsets


@jit
def _worse(scores: NDArray[Any], a: int, b: int) -> bool:
    return scores[a] < scores[b] or (scores[a] == scores[b] and a > b)


@jit
def _sift_down(scores: NDArray[Any], heap: Numbers, size: int) -> None:
    """Moves the top of a heap whose worst comes first to its place."""
    top, at = heap[0], 0
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and _worse(scores, heap[child + 1], heap[child]):
            child += 1
        if not _worse(scores, heap[child], top):
            break
        heap[at] = heap[child]
        at = child
    heap[at] = top


@jit
def _sift_up(scores: NDArray[Any], heap: Numbers, at: int) -> None:
    """Moves the last entry of the heap to its place."""
    last = heap[at]
    while at > 0 and _worse(scores, last, heap[(at - 1) // 2]):
        heap[at] = heap[(at - 1) // 2]
        at = (at - 1) // 2
    heap[at] = last


@jit
def _select(scores: NDArray[Any], offsets: Numbers, starts: Numbers, picked: Numbers) -> None:
    """One pass with a heap of the best so far, which is then sorted."""
    for q in range(starts.shape[0] - 1):
        heap = picked[starts[q] : starts[q + 1]]
        room, size = heap.shape[0], 0
        if room == 0:
            continue
        for a in range(offsets[q], offsets[q + 1]):
            if size < room:
                heap[size] = a
                _sift_up(scores, heap, size)
                size += 1
            elif scores[a] > scores[heap[0]]:
                heap[0] = a
                _sift_down(scores, heap, size)
        for end in range(size - 1, 0, -1):
            heap[0], heap[end] = heap[end], heap[0]
            _sift_down(scores, heap, end)


@jit
def _log_sum(values: NDArray[Any], begin: int, end: int) -> Number:
    if begin == end:
        return -np.inf
    largest = np.float64(values[begin])
    for a in range(begin + 1, end):
        largest = max(largest, np.float64(values[a]))
    if end == begin + 1 or largest == -np.inf:
        return largest
    total = 0.0
    for a in range(begin, end):
        total += np.exp(np.float64(values[a]) - largest)
    return largest + np.log(total)


@jit
def _log_sums(values: NDArray[Any], offsets: Numbers, sums: Scores) -> None:
    for b in range(sums.shape[0]):
        sums[b] = _log_sum(values, offsets[b], offsets[b + 1])


@jit
def _log_probabilities(
    logits: NDArray[np.float32],
    offsets: Numbers,
    normalizers: Scores,
    gains: Numbers,
    ahead: NDArray[np.bool_],
    renormalised: bool,
    out: Scores,
) -> None:
    """See `log_probabilities`; what rounding lifts above 0 is 0."""
    for b in range(ahead.shape[0]):
        begin, end = offsets[b], offsets[b + 1]
        if renormalised and end == begin + 1:
            out[begin] = 0.0
            continue
        total = _log_sum(logits, begin, end) if renormalised and not ahead[b] else normalizers[b]
        for a in range(begin, end):
            out[a] = min(np.float64(logits[a]) - total, 0.0)
        if ahead[b]:
            mass = 0.0 if renormalised else min(_log_sum(out, begin, end), 0.0)
            for a in range(begin, end):
                out[a] /= gains[a] + 1
            total = _log_sum(out, begin, end) - mass
            for a in range(begin, end):
                out[a] = min(out[a] - total, 0.0)


@jit
def _spread(begin: Numbers, slot: NDArray[np.bool_], offsets: Numbers, out: Numbers) -> None:
    for b in range(begin.shape[0]):
        a, value = offsets[b], begin[b]
        if slot[b]:
            out[a] = -1
            a += 1
        for place in range(a, offsets[b + 1]):
            out[place] = value
            value += 1
