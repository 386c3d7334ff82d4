"""The conditional random field against all sequences of tags, counted one by one."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from kxbatch.errors import ConfigError
from kxbatch.models.extraction.bio_tags import spans_of_tags, tags_of
from kxbatch.models.extraction.chain import backward, forward, span_log_probabilities, viterbi
from kxbatch.models.extraction.crf import Crf
from kxbatch.models.extraction.token_spans import TokenSpans

DIM, TYPES, LENGTH = 5, 2, 6
VALID = torch.tensor([[0, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1], [0, 0, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0]], dtype=torch.bool)


def crf_of() -> tuple[Crf, torch.Tensor]:
    torch.manual_seed(0)
    crf = Crf(DIM, TYPES).double()
    with torch.no_grad():
        crf.transitions.normal_()
        crf.emit.weight.mul_(2)
    return crf, torch.randn(len(VALID), LENGTH, DIM, dtype=torch.float64)


def legal(tags: tuple[int, ...]) -> bool:
    """I-x, even, follows its own B-x or itself."""
    return all(tag == 0 or tag % 2 or before in (tag, tag - 1) for before, tag in itertools.pairwise((0, *tags)))


def sequences(crf: Crf, h: torch.Tensor, text: int) -> dict[tuple[int, ...], float]:
    """Score of every legal sequence of a text."""
    emissions = crf.emit(h[text]).detach().numpy()[VALID[text].numpy()]
    transitions = crf.transitions.detach().numpy()
    found = {}
    for tags in itertools.product(range(2 * TYPES + 1), repeat=len(emissions)):
        if legal(tags):
            steps = sum(transitions[a, b] for a, b in itertools.pairwise((0, *tags)))
            found[tags] = steps + sum(emissions[at, tag] for at, tag in enumerate(tags))
    return found


def spans_in(tags: tuple[int, ...]) -> set[tuple[int, int, int]]:
    found, at = set(), 0
    while at < len(tags):
        start, tag = at, tags[at]
        at += 1
        if tag:
            while at < len(tags) and tags[at] == tag + 1:
                at += 1
            found.add((start, at, tag // 2))
    return found


@pytest.mark.parametrize("text", range(4))
def test_all_sequences_of_tags_agree_with_the_recursions(text: int) -> None:
    crf, h = crf_of()
    scores = sequences(crf, h, text)
    total = np.logaddexp.reduce(list(scores.values()))
    chain = crf(h, VALID)
    alpha, beta = forward(chain).detach(), backward(chain).detach()
    assert float(alpha[text, -1].logsumexp(0)) == pytest.approx(total, abs=1e-10)
    first = int(VALID[text].int().argmax())
    for at, valid in enumerate(VALID[text].tolist()):
        if valid:
            assert float((alpha + beta)[text, at].logsumexp(0)) == pytest.approx(total, abs=1e-10)
            for tag in range(2 * TYPES + 1):  # posteriors of tags
                having = [score for tags, score in scores.items() if tags[at - first] == tag]
                if having:
                    expected = math.exp(np.logaddexp.reduce(having) - total)
                    assert float((alpha + beta)[text, at, tag].sub(total).exp()) == pytest.approx(expected, abs=1e-10)
    best = max(scores, key=scores.__getitem__)
    assert tuple(viterbi(chain)[text][VALID[text]].tolist()) == best
    assert not viterbi(chain)[text][~VALID[text]].any()


@pytest.mark.parametrize("text", range(3))
def test_scores_of_spans_are_log_odds_of_their_share_of_all_sequences(text: int) -> None:
    crf, h = crf_of()
    scores = sequences(crf, h, text)
    total, first = np.logaddexp.reduce(list(scores.values())), int(VALID[text].int().argmax())
    every = sorted(set().union(*(spans_in(tags) for tags in scores)))
    starts, ends, types = np.array(every).T
    spans = TokenSpans.of(np.full(len(every), text), starts + first, ends + first, types)
    got = span_log_probabilities(crf(h, VALID), spans).detach().exp().tolist()
    share = {
        span: math.exp(np.logaddexp.reduce([s for tags, s in scores.items() if span in spans_in(tags)]) - total)
        for span in every
    }
    for start, end, kind, p in zip(spans.starts - first, spans.ends - first, spans.types, got, strict=True):
        assert p == pytest.approx(share[start, end, kind], abs=1e-10)
    found = crf.decode(h, VALID)
    found = found.take(found.rows == text)
    best = spans_in(max(scores, key=scores.__getitem__))
    said = set(zip((found.starts - first).tolist(), (found.ends - first).tolist(), found.types.tolist(), strict=True))
    assert said == best
    for start, end, kind, score in zip(found.starts, found.ends, found.types, found.scores, strict=True):
        p = share[start - first, end - first, kind]
        assert float(score) == pytest.approx(math.log(p / (1 - p)), rel=1e-5)


def test_the_loss_is_the_mean_surprise_of_the_tags() -> None:
    crf, h = crf_of()
    tags = torch.tensor([[4, 1, 2, 0, 3, 4], [0, 3, 4, 1, 0, 1], [0, 0, 1, 2, 0, 0], [0, 0, 0, 0, 0, 0]])
    expected = []
    for text in range(3):  # the last has no token
        scores = sequences(crf, h, text)
        total = np.logaddexp.reduce(list(scores.values()))
        expected.append(total - scores[tuple(tags[text][VALID[text]].tolist())])
    assert float(crf.loss(h, VALID, tags).detach()) == pytest.approx(np.mean(expected), abs=1e-10)


def test_gradients_are_numbers_and_those_of_the_scores_of_tags_are_expected_minus_seen() -> None:
    crf, h = crf_of()
    crf, h = crf.float(), h.float()
    tags = torch.zeros_like(VALID, dtype=torch.int64)
    for gradient in torch.autograd.grad(crf.loss(h, VALID, tags), list(crf.parameters())):
        assert bool(gradient.isfinite().all())
    chain = crf(h, VALID)
    by_autograd = torch.autograd.grad(forward(chain)[:3, -1].logsumexp(1).sum(), chain.emissions)[0]
    posterior = (forward(chain) + backward(chain)).softmax(2) * VALID.unsqueeze(2)
    torch.testing.assert_close(by_autograd, posterior, rtol=0, atol=1e-5)


def test_a_certain_span_has_a_finite_score() -> None:
    crf = Crf(3, 1)
    with torch.no_grad():
        crf.emit.weight.copy_(torch.eye(3))
    found = crf.decode(1000 * torch.eye(3)[[0, 1, 2, 0]].unsqueeze(0), torch.ones(1, 4, dtype=torch.bool))
    assert (found.starts.tolist(), found.ends.tolist(), found.scores.tolist()) == ([1], [3], [36.0])


def test_bfloat16_states_under_autocast_train_and_decode() -> None:
    crf, h = crf_of()
    crf = crf.float()
    exact = crf.decode(h.float(), VALID)
    with torch.autocast("cpu", torch.bfloat16):
        loss = crf.loss(h.bfloat16(), VALID, torch.zeros_like(VALID, dtype=torch.int64))
        found = crf.decode(h.bfloat16(), VALID)
    assert loss.dtype == torch.float32
    assert found.starts.tolist() == exact.starts.tolist()
    np.testing.assert_allclose(found.scores, exact.scores, atol=0.1)


def test_tags_say_the_longest_then_the_first_of_spans_that_share_tokens() -> None:
    spans = TokenSpans.of(
        [0, 0, 0, 0, 1, 1, 1, 2, 2],
        [0, 1, 4, 4, 0, 1, 2, 3, 2],
        [4, 2, 5, 5, 2, 3, 4, 5, 3],
        [1, 0, 1, 0, 0, 1, 1, 1, 1],
        np.arange(9.0),
    )
    tags = tags_of(spans, 4, 5)
    assert tags.tolist() == [[3, 4, 4, 4, 1], [1, 2, 3, 4, 0], [0, 0, 3, 3, 4], [0, 0, 0, 0, 0]]
    back = spans_of_tags(tags)
    assert list(zip(back.rows.tolist(), back.starts.tolist(), back.ends.tolist(), back.types.tolist(), strict=True)) == [
        (0, 0, 4, 1), (0, 4, 5, 0), (1, 0, 2, 0), (1, 2, 4, 1), (2, 2, 3, 1), (2, 3, 5, 1),
    ]  # fmt: skip


def test_all_legal_tags_of_a_short_text_come_back_from_their_spans() -> None:
    tags = np.array([tags for tags in itertools.product(range(5), repeat=5) if legal(tags)])
    spans = spans_of_tags(tags)
    assert (tags_of(spans, *tags.shape) == tags).all()
    found = [set() for _ in tags]
    for row, *span in zip(spans.rows, spans.starts, spans.ends, spans.types, strict=True):
        found[row].add(tuple(int(part) for part in span))
    assert found == [spans_in(tuple(row)) for row in tags.tolist()]


def test_no_types_are_refused() -> None:
    with pytest.raises(ConfigError, match="types 0"):
        Crf(4, 0)
