"""Spans of the pruned decoders against those of the full matrix of scores, and sets of spans against themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kxbatch.models.extraction import decoding
from kxbatch.models.extraction.decoding import decode, decode_dense, decode_efficient
from kxbatch.models.extraction.globalpointer import EfficientGlobalPointer, GlobalPointer, Parts, dense_scores
from kxbatch.models.extraction.token_spans import TokenSpans

LENGTH, TYPES = 12, 4
VALID = torch.tensor([[0] + [1] * 11, [0] + [1] * 7 + [0] * 4, [0] * 12], dtype=torch.bool)
SPAN = st.tuples(st.integers(0, 2), st.integers(0, LENGTH - 1), st.integers(1, LENGTH), st.integers(0, TYPES - 1))


def keys(spans: TokenSpans) -> list[tuple[int, ...]]:
    columns = (spans.rows, spans.starts, spans.ends, spans.types)
    return list(zip(*(column.tolist() for column in columns), strict=True))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.sets(SPAN, max_size=30))
def test_any_set_of_spans_written_as_scores_comes_back(drawn: set[tuple[int, int, int, int]]) -> None:
    spans = sorted({(row, start, min(start + width, LENGTH), kind) for row, start, width, kind in drawn})
    scores = torch.full((3, TYPES, LENGTH, LENGTH), -1.0).masked_fill(
        ~torch.ones(LENGTH, LENGTH).triu().bool(), -torch.inf
    )
    for row, start, end, kind in spans:
        scores[row, kind, start, end - 1] = 1.0
    assert keys(decode_dense(scores)) == spans


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, LENGTH), max_size=8), st.integers(0, TYPES - 1))
def test_any_nest_of_spans_comes_back_from_parts(borders: list[int], kind: int) -> None:
    """Tokens are their own queries, so that any pair of first and last token can have a score of its own."""
    pairs = sorted(set(zip(sorted(borders[::2]), sorted(borders[1::2], reverse=True), strict=False)))
    nest = sorted((0, start, end, kind) for start, end in pairs if start < end)
    wanted = torch.full((LENGTH, LENGTH), -1.0)
    for _, start, end, _ in nest:
        wanted[start, end - 1] = 1.0
    typed = torch.zeros(1, LENGTH, TYPES) - 5.0
    typed[..., kind] = 0.0
    parts = Parts(
        torch.eye(LENGTH).unsqueeze(0), wanted.T.unsqueeze(0).contiguous(), typed, torch.zeros(1, LENGTH, TYPES)
    )
    assert keys(decode_efficient(parts, torch.ones(1, LENGTH, dtype=torch.bool))) == nest


def head_of(kind: type, seed: int) -> tuple[torch.nn.Module, torch.Tensor]:
    torch.manual_seed(seed)
    head = kind(16, TYPES, 8)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.mul_(2)
    return head, torch.randn(3, LENGTH, 16)


@pytest.mark.parametrize("max_width", [None, 1, 3, 50])
@pytest.mark.parametrize("threshold", [-2.0, 0.0, 3.0])
@pytest.mark.parametrize("kind", [GlobalPointer, EfficientGlobalPointer])
def test_a_head_decodes_to_the_spans_of_its_dense_scores(kind: type, threshold: float, max_width: int | None) -> None:
    for seed in range(5):
        head, h = head_of(kind, seed)
        scores = head(h, VALID).detach()
        found = decode(head, h, VALID, threshold, max_width)
        above = [
            (row, i, j + 1, a)
            for row, a, i, j in np.argwhere(scores.numpy() > threshold).tolist()
            if max_width is None or j < i + max_width
        ]
        assert keys(found) == sorted(above)
        assert keys(decode_dense(scores, threshold, max_width)) == sorted(above)
        expected = [float(scores[row, a, i, j - 1]) for row, i, j, a in sorted(above)]
        np.testing.assert_allclose(found.scores, expected, rtol=0, atol=1e-5)


def test_the_bound_is_exact_where_scores_lie_at_the_threshold() -> None:
    """Sums of few digits: thousands of scores equal the threshold, or miss it by a rounding."""
    torch.manual_seed(0)
    found = 0
    for _ in range(20):
        parts = Parts(*(torch.randint(-9, 10, (2, 20, n)) / 10 for n in (1, 1, 6, 6)))
        valid = torch.ones(2, 20, dtype=torch.bool)
        dense = decode_dense(dense_scores(parts, valid), 0.5)
        efficient = decode_efficient(parts, valid, 0.5)
        assert keys(efficient) == keys(dense)
        assert efficient.scores.tolist() == dense.scores.tolist()
        found += len(dense)
    assert found > 1000


def test_the_size_of_a_portion_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    head, h = head_of(EfficientGlobalPointer, 0)
    whole = decode(head, h, VALID)
    monkeypatch.setattr(decoding, "AT_ONCE", 7)
    assert keys(decode(head, h, VALID)) == keys(whole)


def test_nothing_valid_nothing_found() -> None:
    for kind in (GlobalPointer, EfficientGlobalPointer):
        head, h = head_of(kind, 0)
        assert len(decode(head, h, torch.zeros_like(VALID))) == 0
        assert len(decode(head, h, VALID, threshold=1e9)) == 0


@pytest.mark.parametrize("kind", [GlobalPointer, EfficientGlobalPointer])
def test_states_in_bfloat16_decode(kind: type) -> None:
    head, h = head_of(kind, 0)
    with torch.autocast("cpu", torch.bfloat16):
        found = decode(head, h.bfloat16(), VALID)
        scores = head(h.bfloat16(), VALID)
    assert keys(found) == keys(decode_dense(scores))
