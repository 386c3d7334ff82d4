"""Models of transformers through our search, against scoring every key by a plain forward pass, and against `generate`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from search_oracle import Oracle, Row
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)
from trie_oracle import built, keys_of

from kxbatch.errors import ConfigError
from kxbatch.models.retrieval.search import search
from kxbatch.models.retrieval.settings import SearchSettings
from kxbatch.models.retrieval.transformers_generator import TransformersGenerator

VOCABULARY, SEP, PAD = 23, 1, 0
QUESTIONS: list[Row] = [(5, 6, 7, 8, 9, 10, 11), (3,), (20, 2, 20, 22), ()]
KINDS = ("t5", "bart", "gpt2", "llama")


def model_of(kind: str) -> PreTrainedModel:
    torch.manual_seed(0)
    made = {
        "t5": lambda: T5ForConditionalGeneration(
            T5Config(
                vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0
            )
        ),
        "bart": lambda: BartForConditionalGeneration(
            BartConfig(
                vocab_size=VOCABULARY,
                max_position_embeddings=64,
                d_model=16,
                encoder_layers=2,
                decoder_layers=2,
                encoder_ffn_dim=32,
                decoder_ffn_dim=32,
                encoder_attention_heads=2,
                decoder_attention_heads=2,
                decoder_start_token_id=2,
                pad_token_id=0,
                forced_eos_token_id=None,
            )
        ),
        "gpt2": lambda: GPT2LMHeadModel(
            GPT2Config(
                vocab_size=VOCABULARY,
                n_positions=64,
                n_embd=16,
                n_layer=2,
                n_head=2,
                bos_token_id=None,
                eos_token_id=None,
            )
        ),
        "llama": lambda: LlamaForCausalLM(
            LlamaConfig(
                vocab_size=VOCABULARY,
                hidden_size=16,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                pad_token_id=0,
                bos_token_id=None,
                eos_token_id=None,
            )
        ),
    }
    model = made[kind]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def whole(model: PreTrainedModel, source: Row, said: Row) -> list[float]:
    """Logits after source and target, in one pass, alone and without a cache."""
    with torch.inference_mode():
        if model.config.is_encoder_decoder:
            start = model.config.decoder_start_token_id
            out = model(input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([[start, *said]]))
        else:
            out = model(input_ids=torch.tensor([[*source, *said]]))
        return out.logits[0, -1].tolist()


def toy_rows() -> list[Row]:
    rng = np.random.default_rng(0)
    parts = [[tuple(rng.integers(2, VOCABULARY, size=n).tolist()) for n in (1, 2, 2, 3)] for _ in range(3)]
    parts[2][0] = ()
    return sorted({(*s, SEP, *p, SEP, *m) for s in parts[0] for p in parts[1] for m in parts[2] if rng.random() < 0.4})


@pytest.mark.parametrize("kind", KINDS)
def test_the_search_ranks_as_scoring_every_key_does(kind: str) -> None:
    rows, model = toy_rows(), model_of(kind)
    trie, generator = built(rows, VOCABULARY), TransformersGenerator(model)
    how = SearchSettings(beam=len(rows), answers=len(rows), scoring="masked", batch=3)
    found = search(trie, generator, keys_of(QUESTIONS, VOCABULARY), SEP, "spm", how)
    oracle = Oracle([(*row, SEP) for row in rows], SEP, renormalised=False)
    for q, question in enumerate(QUESTIONS):
        span = slice(found.offsets[q], found.offsets[q + 1])
        known: dict[Row, list[float]] = {}

        def logits(said: Row, question: Row = question, known: dict[Row, list[float]] = known) -> list[float]:
            if said not in known:
                known[said] = whole(model, (*question, SEP), said)
            return known[said]

        scores = np.array([oracle.score((*row, SEP), logits, question)[0] for row in rows])
        np.testing.assert_allclose(found.scores[span], np.sort(scores)[::-1], atol=1e-4)
        np.testing.assert_allclose(found.scores[span], scores[found.numbers[span]], atol=1e-4)
    narrow = search(trie, generator, keys_of(QUESTIONS, VOCABULARY), SEP, "spm", replace(how, beam=3, answers=3))
    alone = replace(how, beam=3, answers=3, batch=1)
    singly = search(trie, generator, keys_of(QUESTIONS, VOCABULARY), SEP, "spm", alone)
    assert singly.numbers.tolist() == narrow.numbers.tolist()
    np.testing.assert_allclose(singly.scores, narrow.scores, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_agrees_with_generate(kind: str) -> None:
    rows, model = toy_rows(), model_of(kind)
    how = SearchSettings(beam=1, scoring="masked")
    found = search(
        built(rows, VOCABULARY), TransformersGenerator(model), keys_of(QUESTIONS, VOCABULARY), SEP, "spm", how
    )
    sequences = [(*row, SEP) for row in rows]
    for q, question in enumerate(QUESTIONS):
        source = torch.tensor([[*question, SEP]])
        begun = 1 if model.config.is_encoder_decoder else source.shape[1]

        def allowed(_: int, ids: torch.Tensor, begun: int = begun) -> list[int]:
            said = tuple(ids[begun:].tolist())
            return sorted({s[len(said)] for s in sequences if s[: len(said)] == said and len(s) > len(said)}) or [PAD]

        made = model.generate(
            source,
            attention_mask=torch.ones_like(source),
            prefix_allowed_tokens_fn=allowed,
            num_beams=1,
            do_sample=False,
            max_new_tokens=12,
            pad_token_id=PAD,
            eos_token_id=None,
        )
        assert tuple(x for x in made[0, begun:].tolist() if x != PAD) == sequences[found.numbers[q]]


def test_models_that_cannot_decode_are_refused() -> None:
    tiny = BertConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    with pytest.raises(ConfigError, match="BertModel cannot generate"):
        TransformersGenerator(BertModel(tiny))
    model = T5ForConditionalGeneration(
        T5Config(vocab_size=VOCABULARY, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    )
    model.config.decoder_start_token_id = model.config.bos_token_id = None
    with pytest.raises(ConfigError, match="lacks decoder_start_token_id"):
        TransformersGenerator(model).begin(keys_of([(2, SEP)], VOCABULARY))
