"""Decoding step by step gives what the whole forward pass under the prefix mask gives."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
import torch
from search_oracle import Oracle, Row
from trie_oracle import built, keys_of

from kxbatch.errors import ConfigError
from kxbatch.models.masked_lm import MaskedLm
from kxbatch.models.masks import Mask
from kxbatch.models.retrieval.prefix_lm import prefix_lm
from kxbatch.models.retrieval.prefix_lm_generator import PrefixLmGenerator
from kxbatch.models.retrieval.search import search
from kxbatch.models.retrieval.settings import SearchSettings
from kxbatch.models.text_encoder_config import Init, Normalizer, NormPlace, TextEncoderConfig

VOCABULARY, SEP = 23, 1
SOURCES: list[Row] = [(5, 6, 7, 8, 9, 10, 11, SEP), (3, SEP), (20, 2, 20, 22, SEP), (SEP,)]


def model_of(normalizer: Normalizer = "softmax_plus", norm: NormPlace = "post", init: Init = "gau-alpha") -> MaskedLm:
    torch.manual_seed(0)
    config = TextEncoderConfig(
        VOCABULARY, dim=16, layers=3, key_dim=8, normalizer=normalizer, norm=norm, base_length=20, init=init, bias=True
    )
    model = prefix_lm(config, shifts=2 if norm == "post" else 0).eval()  # two: more than the shortest source has
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def whole(model: MaskedLm, source: Row, said: Row) -> np.ndarray:
    """Logits after source and target, in one pass and without a cache."""
    ids = torch.tensor([[*source, *said]])
    mask = Mask.prefix(torch.ones_like(ids, dtype=torch.bool), torch.tensor([len(source)]))
    with torch.inference_mode():
        return model(ids, mask, torch.tensor([ids.shape[1] - 1]))[0].numpy()


CASES = [(n, "post", "gau-alpha") for n in get_args(Normalizer)] + [(n, "pre", "lecun") for n in get_args(Normalizer)]


@pytest.mark.parametrize(("normalizer", "norm", "init"), [*CASES, ("softmax", "post", "deepnorm-adam")])
def test_steps_equal_the_whole_pass(normalizer: Normalizer, norm: NormPlace, init: Init) -> None:
    model, rng = model_of(normalizer, norm, init), np.random.default_rng(1)
    decoding = PrefixLmGenerator(model).begin(keys_of(SOURCES, VOCABULARY))
    rows: list[tuple[int, Row]] = [(q, ()) for q in range(len(SOURCES))]
    for step in range(12):
        expected = np.stack([whole(model, SOURCES[q], said) for q, said in rows])
        tolerance = 1e-5 * np.abs(expected).max()
        np.testing.assert_allclose(decoding.all_logits().numpy(), expected, rtol=0, atol=tolerance)
        for share in (0.02, 1.0):  # pair by pair, and by a product
            row, token = np.nonzero(rng.random(expected.shape) < share)
            np.testing.assert_allclose(decoding.logits(row, token), expected[row, token], rtol=0, atol=tolerance)
        some = np.flatnonzero(rng.random(len(rows)) < 0.5)
        sums = torch.from_numpy(expected[some]).double().logsumexp(dim=1)
        np.testing.assert_allclose(decoding.log_normalizers(some), sums, rtol=0, atol=2 * tolerance)
        left = [i for i, (q, _) in enumerate(rows) if step != 6 or q != 0]  # the longest source leaves
        questions = sorted({rows[i][0] for i in left})
        width = [1, 4, 3, 3, 5, 1, 2][step % 7]
        parents = np.array([rng.choice([i for i in left if rows[i][0] == q], size=width) for q in questions])
        if step == 9:
            parents = np.arange(len(rows)).reshape(len(questions), -1)  # nothing moves
        tokens = rng.integers(VOCABULARY, size=parents.shape)
        rows = [(rows[p][0], (*rows[p][1], int(t))) for p, t in zip(parents.ravel(), tokens.ravel(), strict=True)]
        decoding.advance(parents, tokens)


@pytest.mark.parametrize("scoring", ["renormalised", "masked"])
def test_the_search_ranks_as_scoring_every_key_does(scoring: str) -> None:
    rng = np.random.default_rng(0)
    parts = [[tuple(rng.integers(2, VOCABULARY, size=n).tolist()) for n in (1, 2, 2, 3)] for _ in range(3)]
    parts[2][0] = ()
    rows = sorted({(*s, SEP, *p, SEP, *m) for s in parts[0] for p in parts[1] for m in parts[2] if rng.random() < 0.5})
    model, questions = model_of(), [tuple(source[:-1]) for source in SOURCES]
    how = SearchSettings(beam=len(rows), answers=len(rows), scoring=scoring, look_ahead="predicate-meaning", batch=3)  # type: ignore[arg-type]
    trie, generator = built(rows, VOCABULARY), PrefixLmGenerator(model)
    found = search(trie, generator, keys_of(questions, VOCABULARY), SEP, "spm", how)
    oracle = Oracle([(*row, SEP) for row in rows], SEP, scoring == "renormalised", (False, True, True))
    for q, question in enumerate(questions):
        span = slice(found.offsets[q], found.offsets[q + 1])
        scores = [
            oracle.score((*row, SEP), lambda said, q=q: whole(model, SOURCES[q], said).tolist(), question)[0]
            for row in rows
        ]  # type: ignore[misc]
        np.testing.assert_allclose(found.scores[span], sorted(scores)[::-1], atol=1e-4)
        np.testing.assert_allclose(found.scores[span], np.array(scores)[found.numbers[span]], atol=1e-4)
    alone = search(trie, generator, keys_of(questions, VOCABULARY), SEP, "spm", replace(how, batch=1))
    np.testing.assert_allclose(alone.scores, found.scores, atol=1e-5)


def test_an_attention_stack_is_refused() -> None:
    with pytest.raises(ConfigError, match="block = 'attention'"):
        PrefixLmGenerator(MaskedLm(TextEncoderConfig(9, dim=8, heads=2, block="attention")))
