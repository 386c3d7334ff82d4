"""Span heads against a loop over pairs and types in float64, and the invariances of their formulas."""

from __future__ import annotations

from typing import Any, get_args

import numpy as np
import pytest
import torch
from gau_oracle import rope as oracle_rope

from kxbatch.errors import ConfigError
from kxbatch.models.extraction.globalpointer import EfficientGlobalPointer, GlobalPointer, HeadKind, parameter_count

HEADS = {"globalpointer": GlobalPointer, "efficient-globalpointer": EfficientGlobalPointer}
TEXTS, LENGTH, DIM, TYPES, SIZE = 3, 11, 10, 4, 6
VALID = torch.tensor([[0] + [1] * 10, [0] + [1] * 6 + [0] * 4, [0] * 11], dtype=torch.bool)


def head_of(kind: HeadKind, **settings: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    head = HEADS[kind](DIM, TYPES, SIZE, **settings)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(torch.randn_like(parameter))
    return head


def oracle(kind: HeadKind, head: Any, h: np.ndarray, rope: bool, bias: bool) -> np.ndarray:
    """[T, L, L] of one text, one score at a time."""
    w = {name: value.detach().double().numpy() for name, value in head.state_dict().items()}
    offset = w["project.bias"] if bias else 0.0
    x = h @ w["project.weight"].T + offset
    turned = (lambda y: oracle_rope(y, 10000.0)) if rope else (lambda y: y)
    found = np.empty((TYPES, len(h), len(h)))
    for a in range(TYPES):
        if kind == "globalpointer":
            q = turned(x[:, a * SIZE : (a + 1) * SIZE])
            k = turned(x[:, (TYPES + a) * SIZE : (TYPES + a + 1) * SIZE])
        else:
            q, k = turned(x[:, :SIZE]), turned(x[:, SIZE:])
        for i in range(len(h)):
            for j in range(len(h)):
                found[a, i, j] = q[i] @ k[j]
                if kind == "efficient-globalpointer":
                    typed = w["classify.weight"][a] @ x[i] + w["classify.weight"][TYPES + a] @ x[j]
                    if bias:
                        typed += w["classify.bias"][a] + w["classify.bias"][TYPES + a]
                    found[a, i, j] = found[a, i, j] / np.sqrt(SIZE) + typed / 2
    return found


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rope", [True, False])
@pytest.mark.parametrize("kind", get_args(HeadKind))
def test_a_head_is_its_formula(kind: HeadKind, rope: bool, bias: bool) -> None:
    head = head_of(kind, rope=rope, bias=bias)
    h = torch.randn(TEXTS, LENGTH, DIM)
    scores = head(h, VALID)
    assert scores.dtype == torch.float32
    for text in range(TEXTS):
        valid = VALID[text].numpy()
        span = np.triu(np.outer(valid, valid))
        expected = np.where(span, oracle(kind, head, h[text].double().numpy(), rope, bias), -np.inf)
        size = np.abs(expected[:, span]).max(initial=1.0)
        np.testing.assert_allclose(scores[text].detach().numpy(), expected, rtol=0, atol=1e-5 * size)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", get_args(HeadKind))
def test_parameters_are_as_many_as_the_formula_says(kind: HeadKind, bias: bool) -> None:
    head = HEADS[kind](DIM, TYPES, SIZE, bias=bias)
    assert sum(p.numel() for p in head.parameters()) == parameter_count(kind, DIM, TYPES, SIZE, bias)


@pytest.mark.parametrize(("types", "pointer", "efficient"), [(10, 984_320, 101_012), (100, 9_843_200, 124_232)])
def test_published_numbers_of_parameters(types: int, pointer: int, efficient: int) -> None:
    assert parameter_count("globalpointer", 768, types, 64) == pointer
    assert parameter_count("efficient-globalpointer", 768, types, 64) == efficient


@pytest.mark.parametrize("kind", get_args(HeadKind))
def test_scores_know_distances_and_no_places(kind: HeadKind) -> None:
    head = head_of(kind).double()
    h = torch.randn(1, 1, DIM, dtype=torch.float64).expand(1, 30, DIM)
    scores = head(h, torch.ones(1, 30, dtype=torch.bool)).detach()
    for distance in range(30):
        along = scores.diagonal(distance, dim1=2, dim2=3)
        torch.testing.assert_close(along, along[..., :1].expand_as(along), rtol=0, atol=1e-11)
    assert not torch.allclose(scores[..., 0, 3], scores[..., 0, 4], atol=1e-3)


@pytest.mark.parametrize("kind", get_args(HeadKind))
def test_under_autocast_scores_are_float32_and_near(kind: HeadKind) -> None:
    head, h = head_of(kind), torch.randn(TEXTS, LENGTH, DIM)
    exact = head(h, VALID)
    with torch.autocast("cpu", torch.bfloat16):
        scores = head(h.bfloat16(), VALID)
    assert scores.dtype == torch.float32
    shown = exact > -torch.inf
    assert torch.equal(shown, scores > -torch.inf)
    error = (scores - exact)[shown].abs().max() / exact[shown].abs().max()
    assert error < 0.03  # bfloat16 has 8 bits


@pytest.mark.parametrize("kind", get_args(HeadKind))
def test_first_scores_have_size_one(kind: HeadKind) -> None:
    torch.manual_seed(0)
    head = HEADS[kind](256, 5)
    scores = head(torch.randn(4, 60, 256), torch.ones(4, 60, dtype=torch.bool)).detach()
    assert 0.5 < float(scores[scores > -torch.inf].std()) < 2


def test_an_odd_head_size_cannot_turn() -> None:
    with pytest.raises(ConfigError, match=r"head_size 7 is odd.*take 8"):
        GlobalPointer(8, 2, head_size=7)
    GlobalPointer(8, 2, head_size=7, rope=False)
    with pytest.raises(ConfigError, match="types 0"):
        EfficientGlobalPointer(8, 0)
