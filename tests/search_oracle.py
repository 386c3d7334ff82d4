"""Constrained decoding in plain Python: every key scored by itself, candidate by candidate; and a beam search over dictionaries."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

Row = tuple[int, ...]
Logits = Callable[[Row], list[float]]  # of the next token, after these


def lcs(a: Row, b: Row) -> int:
    row = [0] * (len(b) + 1)
    for x in a:
        diagonal = 0
        for j, y in enumerate(b, 1):
            diagonal, row[j] = row[j], diagonal + 1 if x == y else max(row[j], row[j - 1])
    return row[-1]


def log_sum(values: Iterable[float]) -> float:
    listed = list(values)
    return max(listed) + math.log(sum(math.exp(x - max(listed)) for x in listed))


@dataclass
class Oracle:
    """`sequences` are keys with their last separator; `ahead` says which parts are said with look-ahead."""

    sequences: list[Row]
    separator: int
    renormalised: bool
    ahead: tuple[bool, bool, bool] = (False, False, False)
    limit: int = 10**9

    def candidates(self, said: Row, logits: Logits, question: Row) -> dict[int, float]:
        """Log-probabilities of what may follow."""
        following = sorted({s[len(said)] for s in self.sequences if s[: len(said)] == said and len(s) > len(said)})
        given = logits(said)
        logp = {c: given[c] - log_sum(given) for c in following}
        mass = 0.0 if self.renormalised else log_sum(logp.values())
        if self.looks_ahead(said):
            logp = {c: x / (self.gain(said, c, question) + 1) for c, x in logp.items()}
        elif not self.renormalised:
            return logp
        total = log_sum(logp.values())
        return {c: x - total + mass for c, x in logp.items()}

    def parts_below(self, said: Row) -> set[Row]:
        """All that the part being said can become, separator included."""
        begin = len(said) - self.so_far(said)
        return {s[begin : s.index(self.separator, len(said)) + 1] for s in self.sequences if s[: len(said)] == said}

    def so_far(self, said: Row) -> int:
        return (*said[::-1], self.separator).index(self.separator)

    def looks_ahead(self, said: Row) -> bool:
        part = said.count(self.separator)
        if part > 2 or not self.ahead[part]:
            return False
        start = said[: len(said) - self.so_far(said)]
        endings = {s[len(start) :] for s in self.sequences if s[: len(start)] == start}
        # the separator behind a whole key is not in the trie
        texts = {e[: e.index(self.separator) + (part < 2)] for e in endings}
        return len({t[:n] for t in texts for n in range(1, len(t) + 1)}) <= self.limit

    def gain(self, said: Row, token: int, question: Row) -> int:
        size = self.so_far(said)
        prefix = said[len(said) - size :]
        reached = [lcs(text[:-1], question) for text in self.parts_below(said) if text[: size + 1] == (*prefix, token)]
        return max(reached) - lcs(prefix, question)

    def score(self, sequence: Row, logits: Logits, question: Row) -> tuple[float, list[float]]:
        """Of one key: the sum, and that of each part."""
        parts = [0.0, 0.0, 0.0]
        for t in range(len(sequence)):
            part = sequence[:t].count(self.separator)
            parts[part] += self.candidates(sequence[:t], logits, question)[sequence[t]]
        return sum(parts), parts

    def beam_search(
        self, logits: Logits, question: Row, beam: int, staying: Iterable[Row] = ()
    ) -> list[tuple[float, Row]]:
        """Best first; beginnings of the sequences `staying` take no place in the beam and never leave it."""
        kept = {sequence[:n] for sequence in staying for n in range(1, len(sequence) + 1)}
        hypotheses: list[tuple[float, Row]] = [(0.0, ())]
        while any(said.count(self.separator) < 3 for _, said in hypotheses):
            grown = []
            for score, said in hypotheses:
                if said.count(self.separator) == 3:
                    grown.append((score, said))
                    continue
                found = self.candidates(said, logits, question)
                grown += [(score + x, (*said, c)) for c, x in found.items()]
            ranked = sorted(grown, key=lambda pair: -pair[0])
            hypotheses = [pair for rank, pair in enumerate(ranked) if rank < beam or pair[1] in kept]
        return hypotheses
