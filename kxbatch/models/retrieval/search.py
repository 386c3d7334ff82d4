"""Beam search for keys of a trie, for many questions at once.

A key is three parts, a separator between each; what a model says is a key and one more separator, which is allowed wherever a
key ends, also where another goes on. Per step the trie says what may follow each hypothesis, the model gives logits to those
tokens only, and the best `beam` of a question's candidates are its next hypotheses, a finished one being its own candidate. Keys
that linking finds may join them: they stay until they are finished, whatever their score, and take the place of none.

Letters: Q questions, H hypotheses of all of them, A candidates of all of those.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kxbatch.errors import DataError, FatalError
from kxbatch.kernels.beam import log_probabilities, spread, top_k
from kxbatch.kernels.trie import Automaton, Keys
from kxbatch.models.retrieval.baseline import link
from kxbatch.models.retrieval.beam import Beam
from kxbatch.models.retrieval.generator import Decoding, Generator, go_on
from kxbatch.models.retrieval.guide import Guide
from kxbatch.models.retrieval.outlook import Outlook
from kxbatch.models.retrieval.overlap import shared_tokens
from kxbatch.models.retrieval.settings import PARTS, Hypotheses, Order, SearchSettings
from kxbatch.models.retrieval.sources import with_separator

Numbers = NDArray[np.int64]


def search(
    trie: Automaton, generator: Generator, questions: Keys, separator: int, order: Order, settings: SearchSettings
) -> Hypotheses:
    """The best keys for each question.

    Deterministic; of hypotheses with equal scores the one whose parent came first goes first, then the end of a key, then
    the smaller token. What is found for a question depends on the others in its batch by the rounding of the model only.

    Args:
        trie: of the keys, each with two separators.
        generator: the model.
        questions: Q token sequences without separator; the model reads them with one behind.
        separator: the token.
        order: of the parts.
        settings: how to search.

    Raises:
        ConfigError: `order` is none.
        DataError: the model knows fewer tokens than the trie.
        FatalError: the model's scores are not numbers.
    """
    if generator.vocabulary < trie.vocabulary:
        raise DataError(
            f"a model of {generator.vocabulary} tokens and a trie of {trie.vocabulary}: use the tokenizer of the graph"
        )
    ahead = np.array(settings.ahead(order))
    done: list[Beam] = []
    given_up = np.zeros(len(questions), np.int64)
    by_length = np.argsort(questions.lengths, kind="stable")
    for at in range(0, len(questions), settings.batch):
        numbers = by_length[at : at + settings.batch]
        run = _Run(trie, generator, questions.take(numbers), separator, ahead, settings)
        done += [replace(beam, questions=numbers[beam.questions]) for beam in run.decode()]
        given_up[numbers] = run.outlook.given_up
    found = Beam.join([Beam.start(trie, np.empty((0, 2), np.int64)), *done])
    gained: NDArray[np.float64] = np.zeros(len(found))
    if settings.overlap:
        shared = shared_tokens(questions, trie.keys(found.numbers), found.questions, separator, order)
        gained += settings.overlap * shared
    return _ranked(found, gained, given_up, settings)


@dataclass(frozen=True, eq=False)
class _Reach:
    """Candidates of a beam.

    Attributes:
        offsets: int64 [H + 1].
        child: int64 [A], which child of the hypothesis's state; -1 for its end (or itself, where it is finished).
        origin: int64 [A], place in `states`; -1 for those.
        tokens: int64 [A].
        states: int64 [., W], of children.
        ends: int64 [H], the key that ends at each hypothesis, or -1.
    """

    offsets: Numbers
    child: Numbers
    origin: Numbers
    tokens: Numbers
    states: Numbers
    ends: Numbers


class _Run:
    """One batch of questions."""

    def __init__(
        self,
        trie: Automaton,
        generator: Generator,
        questions: Keys,
        separator: int,
        ahead: NDArray[np.bool_],
        settings: SearchSettings,
    ) -> None:
        self._trie, self._separator, self._ahead, self._settings = trie, separator, ahead, settings
        self._renormalised = settings.scoring == "renormalised"
        self._wanted = settings.beam if settings.length_power or settings.overlap else settings.answers
        self._size = len(questions)
        self._decoding: Decoding = generator.begin(with_separator(questions, separator))
        self.outlook = Outlook(trie, questions, separator, settings.look_ahead_limit)
        self._guide = self._linked(questions)

    def _linked(self, questions: Keys) -> Guide:
        """The keys that join the beams."""
        numbers, question_of = np.empty(0, np.int64), np.empty(0, np.int64)
        if self._settings.linked:
            found = link(self._trie, questions, self._separator, self._settings.linked)
            numbers, question_of = found.numbers, np.repeat(np.arange(len(questions)), np.diff(found.offsets))
        return Guide(self._trie.keys(numbers), question_of, len(questions), self._trie.vocabulary)

    def decode(self) -> list[Beam]:
        """Finished hypotheses of all questions, in parts."""
        done, beam, first = [], Beam.start(self._trie, self._guide.start), True
        while len(beam):
            beam = self._finish_single(self._step(beam, first))
            decided = beam.decided(self._wanted)
            done.append(beam.take(decided & beam.kept(self._wanted)))
            beam, first = self._advance(self._look_ahead(beam.take(~decided))), False
        return done

    def _step(self, beam: Beam, first: bool) -> Beam:
        """The best candidates; their rows are still those of their parents."""
        reach = self._reach(beam, first)
        gained = self._log_probabilities(beam, reach)
        of_candidate = np.repeat(np.arange(len(beam)), np.diff(reach.offsets))
        scores = beam.scores[of_candidate] + gained
        if np.isnan(scores).any():
            raise FatalError("the model gives scores that are not numbers: look at its weights, or compute in fp32")
        questions = np.searchsorted(beam.questions, np.arange(beam.questions.max(initial=-1) + 2))
        picked, _ = top_k(scores, reach.offsets[questions], self._settings.beam)
        staying = self._guide.places(beam, reach.offsets, reach.child, reach.tokens)
        if len(staying):
            picked = np.union1d(picked, staying)
            picked = picked[np.lexsort((picked, -scores[picked], beam.questions[of_candidate[picked]]))]
        return self._grown(beam, reach, of_candidate[picked], picked, scores[picked], gained[picked])

    def _reach(self, beam: Beam, first: bool) -> _Reach:
        """What may follow. In the first step that is the same for all, and asked once."""
        asked = beam.states[:1] if first else beam.states
        allowed, ends = self._trie.allowed(asked), self._trie.terminal(beam.states)
        begin, end = allowed.offsets[:-1], allowed.offsets[1:]
        if first:
            begin, end = np.repeat(begin, len(beam)), np.repeat(end, len(beam))
        origin, offsets = spread(begin, end, (ends >= 0) | ~beam.live)
        child = np.where(origin < 0, -1, origin - np.repeat(begin, np.diff(offsets)))
        tokens = np.full(len(origin), self._separator)
        tokens[origin >= 0] = allowed.tokens[origin[origin >= 0]]
        return _Reach(offsets, child, origin, tokens, allowed.states, ends)

    def _log_probabilities(self, beam: Beam, reach: _Reach) -> NDArray[np.float64]:
        """Of each candidate; 0 for those that are finished."""
        counts = np.diff(reach.offsets)
        of_candidate = np.repeat(np.arange(len(beam)), counts)
        rows = beam.rows[of_candidate]
        logits = np.zeros(len(rows), np.float32)
        logits[rows >= 0] = self._decoding.logits(rows[rows >= 0], reach.tokens[rows >= 0])
        ahead = beam.nodes >= 0
        gains = self.outlook.gains(beam.nodes, of_candidate, reach.child) if ahead.any() else counts[:0]
        wanted = ahead & (counts > 1) if self._renormalised else beam.live
        normalizers = np.zeros(len(beam))
        normalizers[wanted] = self._decoding.log_normalizers(beam.rows[wanted])
        return log_probabilities(logits, reach.offsets, normalizers, gains, ahead, renormalised=self._renormalised)

    def _grown(
        self,
        beam: Beam,
        reach: _Reach,
        parents: Numbers,
        picked: Numbers,
        scores: NDArray[np.float64],
        gained: NDArray[np.float64],
    ) -> Beam:
        """The picked candidates as hypotheses."""
        live, origin = beam.live[parents], reach.origin[picked]
        goes_on = origin >= 0
        states = np.full((len(picked), beam.states.shape[1]), -1)
        states[goes_on] = reach.states[origin[goes_on]]
        part, nodes = beam.part[parents], beam.nodes[parents]
        part_scores = beam.part_scores[parents]
        part_scores[np.arange(len(parents)), part] += gained
        inside = goes_on & (nodes >= 0)
        nodes[inside] = self.outlook.children(nodes[inside], reach.child[picked[inside]])
        turned = goes_on & (reach.tokens[picked] == self._separator)
        nodes[turned | ~goes_on] = -1
        part = np.minimum(part + turned, PARTS - 1)
        numbers = np.where(live, np.where(goes_on, -1, reach.ends[parents]), beam.numbers[parents])
        questions, lengths = beam.questions[parents], beam.lengths[parents] + live
        rows = np.where(numbers < 0, beam.rows[parents], -1)
        tokens = reach.tokens[picked]
        guided = self._guide.go_on(beam, parents, goes_on, tokens)
        return Beam(questions, rows, states, numbers, scores, part_scores, part, lengths, nodes, tokens, guided)

    def _finish_single(self, beam: Beam) -> Beam:
        """Renormalised, what leads to one key only is as good as finished: the rest of it has probability 1."""
        if not self._renormalised:
            return beam
        single = np.flatnonzero(beam.live & (self._trie.count(beam.states) == 1))
        rest = self._trie.completions(beam.states[single], 1)
        return beam.finish(single, rest.numbers, rest.keys.lengths + 1)

    def _look_ahead(self, beam: Beam) -> Beam:
        """Trees for the hypotheses that begin a part."""
        begins = beam.live & (beam.tokens == self._separator) & self._ahead[beam.part]
        return replace(beam, nodes=self.outlook.enter(beam.nodes, beam.states, beam.questions, begins))

    def _advance(self, beam: Beam) -> Beam:
        """Tells the model."""
        if not len(beam):
            return beam
        live = np.flatnonzero(beam.live)
        rows = np.full(len(beam), -1)
        rows[live] = go_on(self._decoding, beam.questions[live], beam.rows[live], beam.tokens[live])
        return replace(beam, rows=rows)


def _ranked(found: Beam, gained: NDArray[np.float64], given_up: Numbers, settings: SearchSettings) -> Hypotheses:
    """Sorts what the batches found, by their scores and what they gain beside them."""
    normalized = (found.scores + gained) / np.maximum(found.lengths, 1) ** settings.length_power
    order = np.lexsort((-normalized, found.questions))
    starts = np.searchsorted(found.questions[order], np.arange(len(given_up) + 1))
    order = order[np.arange(len(order)) - starts[found.questions[order]] < settings.answers]
    return Hypotheses(
        np.searchsorted(found.questions[order], np.arange(len(given_up) + 1)),
        found.numbers[order],
        found.scores[order],
        normalized[order],
        found.part_scores[order],
        found.lengths[order],
        given_up,
    )
