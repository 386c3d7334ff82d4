import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from tiny_encoders import WIDTH, save_model, tiny_bert
from transformers import (
    AutoModel,
    AutoTokenizer,
    DistilBertConfig,
    DistilBertModel,
    GPT2Config,
    GPT2Model,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5EncoderModel,
    T5Model,
)

from kxbatch.errors import ConfigError
from kxbatch.models.device import cpu_has_bf16, resolve_device
from kxbatch.models.encoders import Encoder, EncoderSettings, load

TEXTS = [
    "the vector space", "a", "", "words of the space " * 3, "THE VECTOR", "word vectors: 42!", "  \t\n", "x" * 30,
    "emoji 😀 and 漢字", "of the a the of", "the vector space", "spacing " * 6,
]  # fmt: skip
POOLINGS = ("cls", "pooler", "last-mean", "first-last-mean")
ANY_TEXTS = st.lists(st.text(max_size=80) | st.sampled_from(TEXTS), max_size=12)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tiny_bert(), tmp_path_factory.mktemp("tiny-bert"))


@pytest.fixture(scope="module")
def encoder(folder: Path) -> Encoder:
    return open_encoder(folder)


def open_encoder(folder: Path, **changes: Any) -> Encoder:
    settings: dict[str, Any] = {"precision": "fp32", "device": "cpu", "threads": 2}
    return load(EncoderSettings(str(folder), **(settings | changes)))


def by_hand(folder: Path, text: str, pooling: str) -> np.ndarray:
    """One text alone, by the formulas: no batch, no padding, no mask."""
    ids = [2, *AutoTokenizer.from_pretrained(folder).convert_tokens_to_ids(tokens(folder, text)), 3]
    with torch.no_grad():
        out = AutoModel.from_pretrained(folder).eval()(torch.tensor([ids]), output_hidden_states=True)
    layers = [h[0].double() for h in out.hidden_states]
    vector = {
        "cls": lambda: layers[-1][0],
        "pooler": lambda: out.pooler_output[0],
        "last-mean": lambda: sum(layers[-1]) / len(ids),
        "first-last-mean": lambda: (sum(layers[1]) / len(ids) + sum(layers[-1]) / len(ids)) / 2,
    }[pooling]()
    return np.asarray(vector, np.float32)


def tokens(folder: Path, text: str) -> list[str]:
    return list(AutoTokenizer.from_pretrained(folder).tokenize(text)[:62])


@pytest.mark.parametrize("pooling", POOLINGS)
def test_poolings_equal_the_formulas_text_by_text(folder: Path, pooling: str) -> None:
    found = open_encoder(folder, pooling=pooling, token_budget=100).encode(TEXTS)
    expected = np.stack([by_hand(folder, text, pooling) for text in TEXTS])
    np.testing.assert_allclose(found.vectors, expected, atol=1e-5)
    assert found.vectors.dtype == np.float32
    assert found.vectors.flags.c_contiguous


def test_auto_pooling_of_a_raw_model_is_the_mean_of_the_last_layer(folder: Path) -> None:
    auto, mean = (open_encoder(folder, pooling=p).encode(TEXTS).vectors for p in ("auto", "last-mean"))
    assert auto.tobytes() == mean.tobytes()


@pytest.mark.parametrize("pooling", POOLINGS)
def test_batches_threads_and_repeats_do_not_change_the_result(folder: Path, pooling: str) -> None:
    texts = TEXTS * 9
    first = open_encoder(folder, pooling=pooling, threads=2, token_budget=128)
    whole = first.encode(texts).vectors
    assert first.encode(texts).vectors.tobytes() == whole.tobytes()
    one_thread = open_encoder(folder, pooling=pooling, threads=1, token_budget=128)
    assert one_thread.encode(texts).vectors.tobytes() == whole.tobytes()
    for budget in (1, 64, 4096):
        other = open_encoder(folder, pooling=pooling, token_budget=budget).encode(texts).vectors
        np.testing.assert_allclose(other, whole, atol=1e-5)


@limits(deadline=None, max_examples=60)
@given(texts=ANY_TEXTS)
def test_any_texts_are_encoded_as_each_alone(encoder: Encoder, texts: list[str]) -> None:
    found = encoder.encode(texts)
    assert found.vectors.shape == (len(texts), WIDTH)
    assert np.isfinite(found.vectors).all()
    assert found.truncated.shape == (len(texts),)
    for row, text in enumerate(texts):
        alone = encoder.encode([text])
        np.testing.assert_allclose(found.vectors[row], alone.vectors[0], atol=1e-5)
        assert found.truncated[row] == alone.truncated[0]


def test_no_text_gives_no_row_of_the_right_width(encoder: Encoder) -> None:
    found = encoder.encode([])
    assert found.vectors.shape == (0, WIDTH)
    assert found.vectors.dtype == np.float32
    assert found.truncated.shape == (0,)


def test_bf16_stays_within_a_thousandth_of_the_cosine(folder: Path) -> None:
    exact = open_encoder(folder, normalize=True).encode(TEXTS).vectors
    rough = open_encoder(folder, normalize=True, precision="bf16").encode(TEXTS).vectors
    assert (exact * rough).sum(axis=1).min() >= 0.999
    assert exact.tobytes() != rough.tobytes()


def test_normalized_vectors_have_length_one_and_the_same_direction(folder: Path, encoder: Encoder) -> None:
    raw, unit = encoder.encode(TEXTS).vectors, open_encoder(folder, normalize=True).encode(TEXTS).vectors
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(raw / np.linalg.norm(raw, axis=1, keepdims=True), unit, atol=1e-6)


def test_long_texts_are_cut_and_flagged(folder: Path) -> None:
    encoder = open_encoder(folder, max_length=6)
    found = encoder.encode(["a a a a", "a a a a a", "a a a a of the"])
    assert found.truncated.tolist() == [False, True, True]
    np.testing.assert_allclose(found.vectors[0], found.vectors[1], atol=1e-5)
    np.testing.assert_allclose(found.vectors[0], found.vectors[2], atol=1e-5)


def test_the_prompt_stands_before_each_text(folder: Path, encoder: Encoder) -> None:
    prompted = open_encoder(folder, prompt="the vector: ").encode(TEXTS).vectors
    expected = encoder.encode(["the vector: " + text for text in TEXTS]).vectors
    assert prompted.tobytes() == expected.tobytes()


def test_a_megabyte_of_text_is_read_to_the_limit(encoder: Encoder) -> None:
    texts = ["the vector space of words " * 40_000, "a" * 1_000_000, " " * 1_000_000, "漢" * 350_000]
    found = encoder.encode(texts)
    assert found.truncated.tolist() == [True, False, False, True]
    np.testing.assert_allclose(found.vectors[0], encoder.encode([texts[0][:2000]]).vectors[0], atol=1e-5)
    np.testing.assert_allclose(found.vectors[2], encoder.encode([""]).vectors[0], atol=1e-5)


def test_threads_of_torch_are_as_before(encoder: Encoder) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        encoder.encode(TEXTS)
        assert torch.get_num_threads() == 2
        seen: list[int] = []
        other = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        other.start()
        other.join()
        assert seen == [2]
    finally:
        torch.set_num_threads(before)


def test_positions_of_roberta_start_after_the_padding_id(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = RobertaModel(
        RobertaConfig(
            vocab_size=300, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
            max_position_embeddings=40, pad_token_id=0, initializer_range=0.2,
        )
    )  # fmt: skip
    folder = save_model(model, tmp_path)
    found = open_encoder(folder).encode(["a " * 37, "a " * 38, "the space"])
    assert found.truncated.tolist() == [False, True, False]
    with pytest.raises(ConfigError, match=r"max_length = 40: .* takes 3 to 39 tokens"):
        open_encoder(folder, max_length=40)


def t5() -> T5Model:
    sizes = {"d_model": WIDTH, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4, "vocab_size": 300}
    return T5Model(T5Config(**sizes, decoder_start_token_id=0))


def gpt2() -> GPT2Model:
    return GPT2Model(GPT2Config(n_embd=WIDTH, n_layer=2, n_head=4, n_positions=64, vocab_size=300))


def distilbert() -> DistilBertModel:
    return DistilBertModel(DistilBertConfig(dim=WIDTH, n_layers=2, n_heads=4, hidden_dim=64, vocab_size=300))


@pytest.mark.parametrize("make", [t5, gpt2, distilbert])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_other_architectures_encode_as_the_library_does(
    tmp_path: Path, make: Callable[[], torch.nn.Module], precision: str
) -> None:
    torch.manual_seed(2)
    folder = save_model(make(), tmp_path)
    found = open_encoder(folder, precision=precision, token_budget=80, normalize=True).encode(TEXTS).vectors
    kind = T5EncoderModel if make is t5 else AutoModel
    model, tokenizer = kind.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    for row, text in enumerate(TEXTS):
        ids = [2, *tokenizer.convert_tokens_to_ids(tokenizer.tokenize(text)[:62]), 3]
        with torch.no_grad():
            mean = model(torch.tensor([ids])).last_hidden_state[0].mean(dim=0).numpy()
        cosine = float(found[row] @ mean / np.linalg.norm(mean))
        assert cosine > (1 - 1e-5 if precision == "fp32" else 0.999)


def test_a_pooler_that_is_absent_or_untrained_is_refused(tmp_path: Path) -> None:
    absent = save_model(distilbert(), tmp_path / "absent")
    bert = tiny_bert()
    bert.pooler = None
    untrained = save_model(bert, tmp_path / "untrained")
    for folder in (absent, untrained):
        with pytest.raises(ConfigError, match="no trained pooler; allowed are cls, last-mean, first-last-mean"):
            open_encoder(folder, pooling="pooler")
        assert open_encoder(folder, pooling="cls").dim == WIDTH


def test_settings_that_cannot_be_met_say_what_is_allowed(folder: Path) -> None:
    for changes, words in (
        ({"max_length": 65}, "takes 3 to 64 tokens"),
        ({"max_length": 2}, "takes 3 to 64 tokens"),
        ({"pooling": "last-men"}, "did you mean 'last-mean'"),
        ({"precision": "fp16"}, "allowed are auto, fp32, bf16"),
        ({"threads": 0}, "threads = 0: at least 1"),
        ({"device": "gpu"}, "device = 'gpu': write"),
    ):
        with pytest.raises(ConfigError, match=words):
            open_encoder(folder, **changes)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="sees no GPU"):
        resolve_device("cuda:0")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_vectors_of_the_cpu(folder: Path, encoder: Encoder) -> None:
    found = open_encoder(folder, device="cuda").encode(TEXTS).vectors
    np.testing.assert_allclose(found, encoder.encode(TEXTS).vectors, atol=1e-3)


def test_bf16_is_used_where_the_processor_names_it(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    for flags, expected in (("avx512f avx512_bf16", True), ("amx_bf16 avx2", True), ("avx512f bf16x", False)):
        cpuinfo.write_text(f"processor : 0\nflags\t\t: fpu {flags}\n")
        assert cpu_has_bf16(cpuinfo) is expected
    assert cpu_has_bf16(tmp_path / "absent") is False


def test_weights_that_do_not_fit_the_config_are_refused(tmp_path: Path) -> None:
    save_model(tiny_bert(num_hidden_layers=2), tmp_path)
    config = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(config.replace('"num_hidden_layers": 2', '"num_hidden_layers": 4'))
    with pytest.raises(ConfigError, match="the weights of 32 parameters are missing"):
        open_encoder(tmp_path)
