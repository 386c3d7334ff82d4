"""Losses of span heads against sums in float64 written out, and three forms of one loss against each other."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kxbatch.models.extraction.globalpointer import EfficientGlobalPointer, Parts, dense_scores
from kxbatch.models.extraction.span_losses import dense_loss, factorised_loss, sparse_loss, symmetric_divergence

TEXTS, LENGTH, TYPES = 4, 9, 3
VALID = torch.tensor([[0] + [1] * 8, [0] + [1] * 5 + [0] * 3, [0, 1] + [0] * 7, [0] * 9], dtype=torch.bool)
# rows of row, type, start, end; the last of text 0 comes twice
GOLD = torch.tensor([[0, 0, 1, 3], [0, 0, 1, 2], [0, 2, 1, 9], [1, 1, 5, 6], [0, 2, 1, 9]])


def labels_of(gold: Tensor) -> Tensor:
    labels = torch.zeros(TEXTS, TYPES, LENGTH, LENGTH, dtype=torch.bool)
    labels[gold[:, 0], gold[:, 1], gold[:, 2], gold[:, 3] - 1] = True
    return labels


def parts_of(scale: float = 1.0, dtype: torch.dtype = torch.float32) -> tuple[EfficientGlobalPointer, Parts]:
    torch.manual_seed(0)
    head = EfficientGlobalPointer(12, TYPES, 8).to(dtype)
    return head, Parts(*(scale * part for part in head.parts(torch.randn(TEXTS, LENGTH, 12, dtype=dtype))))


def oracle(scores: np.ndarray, labels: np.ndarray) -> float:
    losses = []
    for text in range(3):  # text 3 has no span
        for kind in range(TYPES):
            missed = spurious = 1.0
            for i in range(LENGTH):
                for j in range(LENGTH):
                    s, t = scores[text, kind, i, j], float(labels[text, kind, i, j])
                    if s > -math.inf:
                        missed += t * math.exp(-s)
                        spurious += (1 - t) * math.exp(s)
            losses.append(math.log(missed) + math.log(spurious))
    return float(np.mean(losses))


@pytest.mark.parametrize("soft", [False, True])
def test_the_dense_loss_is_its_formula(soft: bool) -> None:
    scores = dense_scores(parts_of()[1], VALID)
    labels = labels_of(GOLD)
    if soft:
        labels = 0.9 * labels.float() + 0.1 * torch.rand(labels.shape) * (torch.rand(labels.shape) > 0.5)
    expected = oracle(scores.detach().double().numpy(), labels.numpy())
    assert float(dense_loss(scores, labels).detach()) == pytest.approx(expected, rel=1e-6)


def gradients(head: EfficientGlobalPointer, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(head.parameters())))


@pytest.mark.parametrize("gold", [GOLD, GOLD[:0], GOLD[3:4]], ids=["some", "none", "one"])
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_sparse_and_factorised_losses_are_the_dense_one_with_its_gradients(gold: Tensor, scale: float) -> None:
    found = []
    for form in ("dense", "sparse", "factorised"):
        head, parts = parts_of(scale, torch.float64)
        scores = dense_scores(parts, VALID)
        loss = {
            "dense": lambda: dense_loss(scores, labels_of(gold)),  # noqa: B023
            "sparse": lambda: sparse_loss(scores, gold),  # noqa: B023
            "factorised": lambda: factorised_loss(parts, VALID, gold),  # noqa: B023
        }[form]()
        found.append([loss.detach(), *gradients(head, loss)])
    for other in found[1:]:
        for got, expected in zip(other, found[0], strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-11)


def test_a_gold_span_far_above_all_others_does_not_swallow_them() -> None:
    scores = torch.full((1, 1, 2, 2), -torch.inf)
    scores[0, 0, 0, 0], scores[0, 0, 0, 1], scores[0, 0, 1, 1] = 60.0, 1.0, -3.0
    expected = math.log(1 + math.exp(1) + math.exp(-3))  # what exp(60) leaves of it in float32 is 0
    gold = torch.tensor([[0, 0, 0, 1]])
    assert float(sparse_loss(scores, gold)) == pytest.approx(expected, rel=1e-6)
    parts = Parts(*(torch.zeros(1, 2, 1) for _ in range(4)))
    parts.start[0, 0], parts.end[0, 0] = 30.0, 30.0
    factorised = float(factorised_loss(parts, torch.ones(1, 2, dtype=torch.bool), gold))
    assert factorised == pytest.approx(math.log(2 + math.exp(30)), rel=1e-6)


def test_the_factorised_loss_survives_scores_far_apart() -> None:
    """The largest start, end and product belong to no span together."""
    torch.manual_seed(0)
    parts = Parts(*(60 * torch.randn(1, 6, n) for n in (1, 1, TYPES, TYPES)))
    parts = parts._replace(q=parts.q / 60)
    valid = torch.ones(1, 6, dtype=torch.bool)
    expected = sparse_loss(dense_scores(Parts(*(part.double() for part in parts)), valid), GOLD[:0])
    assert float(factorised_loss(parts, valid, GOLD[:0])) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("masked", [-torch.inf, torch.finfo(torch.bfloat16).min], ids=["inf", "lowest"])
@pytest.mark.parametrize("form", ["dense", "sparse"])
def test_bfloat16_with_any_mask_is_finite(form: str, masked: float) -> None:
    scores = dense_scores(parts_of()[1], VALID).detach().bfloat16()
    scores = scores.masked_fill(scores == -torch.inf, masked).requires_grad_()
    found: dict[str, Any] = {"dense": labels_of(GOLD), "sparse": GOLD}
    loss = {"dense": dense_loss, "sparse": sparse_loss}[form](scores, found[form])
    expected = oracle(
        scores.detach().float().masked_fill(scores <= torch.finfo(torch.bfloat16).min, -torch.inf).numpy(),
        labels_of(GOLD).numpy(),
    )
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5)
    assert bool(torch.autograd.grad(loss, scores)[0].isfinite().all())


@pytest.mark.parametrize("gold", [GOLD[:0], torch.tensor([[3, 0, 1, 2], [2, 1, 4, 5]])], ids=["none", "masked"])
def test_without_a_gold_span_that_counts_the_loss_is_positive_and_all_forms_agree(gold: Tensor) -> None:
    head, parts = parts_of()
    scores = dense_scores(parts, VALID)
    losses = [dense_loss(scores, labels_of(gold)), sparse_loss(scores, gold), factorised_loss(parts, VALID, gold)]
    assert float(losses[0].detach()) > 0
    for loss in losses[1:]:
        torch.testing.assert_close(loss, losses[0])
    assert all(
        bool(gradient.isfinite().all())
        for loss in losses
        for gradient in torch.autograd.grad(loss, list(head.parameters()), retain_graph=True)
    )


def test_a_batch_of_padding_only_costs_nothing() -> None:
    head, parts = parts_of()
    nothing = torch.zeros_like(VALID)
    scores = dense_scores(parts, nothing)
    for loss in (
        sparse_loss(scores, GOLD[:0]),
        factorised_loss(parts, nothing, GOLD[:0]),
        symmetric_divergence(scores, scores),
    ):
        assert float(loss.detach()) == 0
        assert all(bool((g == 0).all()) for g in torch.autograd.grad(loss, list(head.parameters()), retain_graph=True))


def test_r_drop_is_the_symmetric_divergence_of_bernoulli_distributions() -> None:
    s = dense_scores(parts_of()[1], VALID).detach().double()
    t = s + torch.randn(s.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    shown = s > -torch.inf
    p, q = s[shown].sigmoid(), t[shown].sigmoid()
    kl = (
        p * (p / q).log()
        + (1 - p) * ((1 - p) / (1 - q)).log()
        + q * (q / p).log()
        + (1 - q) * ((1 - q) / (1 - p)).log()
    )
    assert float(symmetric_divergence(s, t)) == pytest.approx(float(kl.sum()) / (3 * TYPES), rel=1e-9)
    assert float(symmetric_divergence(s, s)) == 0
    s.requires_grad_()
    assert bool(torch.autograd.grad(symmetric_divergence(s, t), s)[0].isfinite().all())


def test_under_autocast_the_factorised_loss_stays_exact() -> None:
    head, _ = parts_of()
    h = torch.randn(TEXTS, LENGTH, 12)
    with torch.autocast("cpu", torch.bfloat16):
        parts = head.parts(h)
        loss = factorised_loss(parts, VALID, GOLD)
    torch.testing.assert_close(loss, sparse_loss(dense_scores(parts, VALID), GOLD), rtol=1e-6, atol=0)
    assert all(bool(gradient.isfinite().all()) for gradient in gradients(head, loss))
