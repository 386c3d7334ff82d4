"""Training on masked words: from texts to batches, the loss, and the folder that is left."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from safetensors.numpy import save_file
from torch import Tensor, nn

from kxbatch.errors import ConfigError
from kxbatch.models.byte_bpe import count_words, to_json, train
from kxbatch.models.masked_lm import MaskedLm
from kxbatch.models.masks import Mask
from kxbatch.stages.base import Artifact, Context
from kxbatch.stages.masked_lm import MaskedLmConfig, MaskedLmStage
from kxbatch.stages.task import KEY
from kxbatch.stages.tasks.masked_lm import MaskedLmTask

PAD, CLS, SEP, MASK = range(4)
SMALL = {"dim": 16, "layers": 2, "key_dim": 8, "base_length": 16}
WORDS = ["red", "green", "blueish", "yellow", "violet", "orange", "白化", "向量", "词表"]
TEXTS = [
    " ".join(WORDS[(row * step + step) % len(WORDS)] for step in range(1, 3 + row % 11)) for row in range(120)
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "tokenizer.json"
    learned, _ = train(count_words(TEXTS, "none"), 300)
    path.write_text(json.dumps(to_json(learned)))
    return path


def context(**trained: Path) -> Context:
    return Context(seed=0, threads=1, gpus=0, trained=lambda name: trained[name])


def stage(tokenizer: Path | str, **config: Any) -> MaskedLmStage:
    made = {"tokenizer": str(tokenizer), "max_length": 24, "model": SMALL} | config
    return MaskedLmStage(MaskedLmConfig(**made), "text")


def task(tokenizer: Path | str, **config: Any) -> MaskedLmTask:
    found = stage(tokenizer, **config).task(context())
    assert isinstance(found, MaskedLmTask)
    return found


def table(texts: list[str | None]) -> pa.Table:
    return pa.table({"id": [str(i) for i in range(len(texts))], "text": pa.array(texts, pa.string())})


def encoded(made: MaskedLmTask, texts: list[str], first: int = 0) -> pa.Table:
    """Encoded rows with keys, as the trainer adds them."""
    keys = np.arange(first, first + len(texts), dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return made.encode(table(list(texts))).append_column(KEY, pa.array(keys))


def whole(batch: dict[str, Tensor]) -> Tensor:
    """Ids with the tokens that are to be guessed put back."""
    ids = batch["ids"].clone()
    ids.view(-1)[batch["positions"]] = batch["labels"]
    return ids


def trained(made: MaskedLmTask, texts: list[str], steps: int, rows: int = 16) -> tuple[nn.Module, list[float]]:
    torch.manual_seed(0)
    model = made.model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    losses = []
    for step in range(steps):
        start = step * rows % len(texts)
        batch = made.collate(encoded(made, texts[start : start + rows], start), step // 4)
        loss = made.loss(model, batch.tensors)
        optimizer.zero_grad()
        loss.mean.backward()
        optimizer.step()
        losses.append(loss.mean.item())
    return model.eval(), losses


def written(artifact: Artifact, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    for name, arrays in artifact.arrays.items():
        save_file(arrays, folder / name)
    for name, document in artifact.documents.items():
        (folder / name).write_text(json.dumps(document))
    return folder


def finished(made: MaskedLmTask, model: nn.Module, tables: list[pa.Table] | None = None) -> Artifact:
    return made.finish(model, dict(model.state_dict()), lambda: iter(tables or []))


def test_a_text_is_a_sequence_padded_to_the_longest(tokenizer: Path) -> None:
    made = task(tokenizer)
    texts = ["red", "red green blueish", "词表"]
    batch = made.collate(encoded(made, texts), 0)
    peer = made._tokenizer.backend
    for row, text in zip(whole(batch.tensors).tolist(), texts, strict=True):
        expected = peer.encode(text).ids
        assert row == expected + [PAD] * (len(row) - len(expected))
    assert (batch.rows, batch.tokens) == (3, sum(len(peer.encode(text).ids) for text in texts))
    assert batch.tokens + batch.padding == batch.tensors["ids"].numel()
    assert batch.tensors["valid"].sum() == batch.tokens
    assert torch.equal(batch.tensors["valid"], whole(batch.tensors) != PAD)


def test_rows_of_one_length_have_no_padding_mask(tokenizer: Path) -> None:
    made = task(tokenizer)
    assert "valid" not in made.collate(encoded(made, ["red", "red"]), 0).tensors


def test_long_texts_are_cut(tokenizer: Path) -> None:
    made = task(tokenizer, max_length=8)
    rows = made.encode(table(["red " * 100, "red", "向量" * 4000, "x" * 5000]))
    assert rows.column("tokens").combine_chunks().value_lengths().to_pylist() == [6, 1, 6, 6]
    backend = made._tokenizer.backend  # type: ignore[attr-defined]
    for row, text in zip(rows.column("tokens").to_pylist(), ["red " * 100, "red", "向量" * 4000], strict=False):
        assert row == backend.encode(text, add_special_tokens=False).ids[:6]


@settings(max_examples=60, deadline=None)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=12), length=st.integers(4, 40))
def test_packed_sequences_hold_every_token_once_in_order(tokenizer: Path, lengths: list[int], length: int) -> None:
    made = task(tokenizer, pack=True, max_length=length)
    texts = [" ".join(WORDS[(i * 7 + j) % len(WORDS)] for j in range(n)) for i, n in enumerate(lengths)]
    batch = made.collate(encoded(made, texts), 3)
    ids = whole(batch.tensors)
    assert (ids[:, 0] == CLS).all()
    assert ids.shape[1] <= length
    flat = ids[:, 1:].reshape(-1).tolist()
    stream = [token for text in texts for token in [*made._tokenizer.backend.encode(text).ids[1:-1], SEP]]
    assert flat[: len(stream)] == stream
    assert set(flat[len(stream) :]) <= {PAD}
    assert len(flat) - len(stream) < length - 1
    assert batch.tokens == len(stream) + len(ids)
    if len(ids) > 1:
        assert ids.shape[1] == length
        valid = batch.tensors.get("valid", torch.ones_like(ids, dtype=torch.bool))
        assert valid[:-1].all()


@pytest.mark.parametrize("pack", [False, True])
def test_what_is_masked_does_not_depend_on_the_batch(tokenizer: Path, pack: bool) -> None:
    made = task(tokenizer, pack=pack, max_length=24 if not pack else 4096)
    rows = encoded(made, TEXTS[:30])
    alone = [made.collate(rows.slice(i, 1), 2).tensors for i in range(30)]
    together = made.collate(rows, 2).tensors
    asked = torch.cat([batch["labels"] for batch in alone])
    assert torch.equal(asked, together["labels"])
    seen = [batch["ids"].view(-1)[batch["positions"]] for batch in alone]
    assert torch.equal(torch.cat(seen), together["ids"].view(-1)[together["positions"]])
    assert not torch.equal(asked, made.collate(rows, 3).tensors["labels"])
    order = np.random.default_rng(0).permutation(30)
    shuffled = made.collate(rows.take(pa.array(order)), 2).tensors["labels"]
    assert torch.equal(shuffled, torch.cat([alone[i]["labels"] for i in order]))


def test_the_words_that_are_masked_are_whole(tokenizer: Path) -> None:
    made = task(tokenizer, max_length=200, mask_share=0.3)
    several = 0
    for i, text in enumerate(TEXTS):
        batch = made.collate(encoded(made, [text], i), 0).tensors
        words = np.array(made._tokenizer.backend.encode(text, add_special_tokens=False).word_ids)
        asked = np.isin(np.arange(len(words)), batch["positions"].numpy() - 1)
        for word in set(words.tolist()):
            assert len(set(asked[words == word].tolist())) == 1
            several += (words == word).sum() > 1 and asked[words == word].all()
    assert several > 20, "words of several tokens were among them"


def test_slices_and_chunks_of_encoded_rows_collate_alike(tokenizer: Path) -> None:
    made = task(tokenizer)
    rows = encoded(made, TEXTS[:20])
    chunked = pa.concat_tables([rows.slice(0, 7), rows.slice(7, 1), rows.slice(8, 12)])
    for name, tensor in made.collate(rows, 0).tensors.items():
        assert torch.equal(tensor, made.collate(chunked, 0).tensors[name])
    inner, other = made.collate(rows.slice(5, 6), 0), made.collate(encoded(made, TEXTS[5:11], 5), 0)
    assert torch.equal(inner.tensors["ids"], other.tensors["ids"])


@pytest.mark.parametrize("text", ["red [MASK] [CLS] [PAD] green", "[SEP]"])
def test_special_tokens_spelled_out_in_a_text_are_text(tokenizer: Path, text: str) -> None:
    made = task(tokenizer)
    (tokens,) = made.encode(table([text])).column("tokens").to_pylist()
    assert min(tokens) > MASK
    assert made._tokenizer.backend.decode(tokens) == text


@pytest.mark.parametrize("pack", [False, True])
def test_the_loss_is_the_cross_entropy_at_the_masked_tokens(tokenizer: Path, pack: bool) -> None:
    made = task(tokenizer, pack=pack)
    torch.manual_seed(1)
    model = made.model().eval()
    assert isinstance(model, MaskedLm)
    collated = made.collate(encoded(made, TEXTS[:9]), 5)
    batch = collated.tensors
    loss = made.loss(model, batch)
    ids = batch["ids"]
    mask = Mask.padding(whole(batch) != PAD)
    log_p = torch.log_softmax(model.encoder(ids, mask) @ model.encoder.embedding.weight.T, dim=-1).flatten(0, 1)
    at = batch["positions"]
    expected = -log_p[at, batch["labels"]].mean()
    torch.testing.assert_close(loss.mean, expected, rtol=1e-5, atol=1e-6)
    assert collated.weight == len(at)
    right = (log_p[at].argmax(dim=1) == batch["labels"]).float().mean()
    torch.testing.assert_close(loss.metrics["accuracy"], right)
    assert loss.mean.dtype == torch.float32


def test_a_batch_without_a_token_has_no_weight(tokenizer: Path) -> None:
    made = task(tokenizer)
    batch = made.collate(encoded(made, [""]), 0)
    loss = made.loss(made.model(), batch.tensors)
    assert (loss.mean.item(), batch.weight) == (0, 0)
    loss.mean.backward()


def test_training_lowers_the_loss_and_repeats(tokenizer: Path) -> None:
    made = task(tokenizer)
    _, losses = trained(made, TEXTS, 60)
    _, again = trained(task(tokenizer), TEXTS, 60)
    assert losses == again
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:5])


def test_weights_come_from_the_seed(tokenizer: Path) -> None:
    first, second = (trained(task(tokenizer), TEXTS, 0)[0].state_dict() for _ in range(2))
    for name in first:
        assert torch.equal(first[name], second[name])


def test_evaluation_at_several_lengths(tokenizer: Path) -> None:
    lengths = (8, 16, 64, 4000)
    made = task(tokenizer, max_length=64, evaluate_lengths=lengths, training={"validation_share": 0.2})
    model, _ = trained(made, TEXTS, 40)
    held = [encoded(made, TEXTS[i : i + 7], i) for i in range(0, 70, 7)]
    facts = finished(made, model, held).documents["evaluation.json"]
    assert [row["length"] for row in facts["lengths"]] == list(lengths)
    stream = sum(len(made._tokenizer.backend.encode(text).ids) - 1 for text in TEXTS[:70])
    for row in facts["lengths"]:
        assert row["sequences"] == stream // (row["length"] - 1)
    eight, _, _, most = facts["lengths"]
    assert (most["predicted"], most["accuracy"], most["cross_entropy"]) == (0, None, None)
    ids = made._sequences(pa.concat_tables(held), -1, 8)
    inside = ids.positions < eight["sequences"] * 8
    assert eight["predicted"] == inside.sum()
    with torch.no_grad():
        logits = model(
            torch.from_numpy(ids.ids[: eight["sequences"]]),
            Mask.full(eight["sequences"], 8),
            torch.from_numpy(ids.positions[inside]),
        )
    labels = torch.from_numpy(ids.labels[inside])
    assert eight["cross_entropy"] == pytest.approx(float(F.cross_entropy(logits, labels)), rel=1e-4)
    assert eight["accuracy"] == pytest.approx(float((logits.argmax(1) == labels).float().mean()))
    assert finished(made, model).documents["evaluation.json"]["lengths"][0]["sequences"] == 0


def test_the_report_of_fresh_weights(tokenizer: Path) -> None:
    made = task(tokenizer, init_report=True)
    state = torch.get_rng_state()
    facts = finished(made, made.model()).documents["init.json"]
    assert facts == finished(task(tokenizer, init_report=True), trained(made, TEXTS, 3)[0]).documents["init.json"]
    assert (facts["layers"], len(facts["branch_ratio"])) == (2, 2)
    torch.set_rng_state(state)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):  # as the trainer calls it
        assert finished(made, made.model()).documents["init.json"] == facts
    assert facts["one_step_change"] > 0
    torch.set_rng_state(state)
    made.finish(made.model(), {}, lambda: iter([]))
    after_model = torch.rand(3)
    torch.set_rng_state(state)
    made.model()
    assert torch.equal(torch.rand(3), after_model), "it draws from a generator of its own"
    assert "init.json" not in finished(task(tokenizer), made.model()).documents


def test_the_folder_goes_on_where_it_ended(tokenizer: Path, tmp_path: Path) -> None:
    made = task(tokenizer)
    model, _ = trained(made, TEXTS, 5)
    folder = written(finished(made, model), tmp_path / "first")
    again = task(tokenizer, initialize=str(folder), model=SMALL | {"dropout": 0.1, "checkpointing": True})
    for name, weight in again.model().state_dict().items():
        assert torch.equal(weight, model.state_dict()[name])
    assert again.describe() == made.describe()


def test_starting_from_another_architecture_names_the_fields(tokenizer: Path, tmp_path: Path) -> None:
    made = task(tokenizer)
    folder = written(finished(made, made.model()), tmp_path / "first")
    with pytest.raises(ConfigError, match=r"another architecture: dim 16 -> 32, bias False -> True; set"):
        task(tokenizer, initialize=str(folder), model=SMALL | {"dim": 32, "bias": True})


def test_starting_with_another_tokenizer_is_refused(tokenizer: Path, tmp_path: Path) -> None:
    made = task(tokenizer)
    folder = written(finished(made, made.model()), tmp_path / "first")
    learned, _ = train(count_words(["zebra zoo " * 50, "baobab " * 50, *TEXTS[:40]], "none"), 300)
    other = tmp_path / "tokenizer.json"
    other.write_text(json.dumps(to_json(learned)))
    with pytest.raises(ConfigError, match="trained with another tokenizer; set tokenizer ="):
        task(other, initialize=str(folder))


def test_stages_of_the_job_are_taken(tokenizer: Path, tmp_path: Path) -> None:
    made = task(tokenizer)
    folder = written(finished(made, made.model()), tmp_path / "first")
    config = {"initialize": "stage:first", "training": {"steps": 1}}
    named = stage("stage:words", **config)
    assert named.takes(named.config) == {"words": ("tokenizer", "text encoder"), "first": ("text encoder",)}
    assert named.identity() == {}
    loaded = named.task(context(words=tokenizer.parent, first=folder))
    assert torch.equal(
        loaded.model().state_dict()["encoder.embedding.weight"],
        torch.from_numpy(finished(made, loaded.model()).arrays["model.safetensors"]["encoder.embedding.weight"]),
    )
    outside = stage(tokenizer, initialize=str(folder)).identity()
    assert {len(digest) for digest in outside.values()} == {64}
    assert outside.keys() == {"tokenizer_digest", "initialize_digest"}


def test_survey_tells_sizes_and_sets_empty_rows_aside(tokenizer: Path) -> None:
    texts = ["red", None, "白化", " \n", "x" * 5000, ""]
    found = stage(tokenizer).survey(table(texts), context())
    assert found.sizes.tolist() == [3, 6, 96]
    assert found.sizes.dtype == np.int32
    assert [(row.row, row.error) for row in found.rejected] == [(1, "null-text"), (3, "empty-text"), (5, "empty-text")]
    packed = stage(tokenizer, pack=True).survey(table(texts), context())
    assert packed.sizes.tolist() == [1, 1, 1]  # texts of any length go together


def test_what_decides_survey_and_weights(tokenizer: Path) -> None:
    plain = stage(tokenizer)
    assert plain.semantic("survey") == stage(tokenizer, mask_share=0.3, model=SMALL | {"dim": 32}).semantic("survey")
    assert plain.semantic("survey") != stage(tokenizer, max_length=32).semantic("survey")
    assert plain.semantic("train") == stage(tokenizer, model=SMALL | {"checkpointing": True}, offline=True).semantic(
        "train"
    )
    assert plain.semantic("train") != stage(tokenizer, model=SMALL | {"dim": 32}).semantic("train")
    assert plain.semantic("train") != stage(tokenizer, training={"batch_rows": 64}).semantic("train")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"evaluate_lengths": (64,)}, "set training.validation_share"),
        ({"evaluate_lengths": (64, 64), "training": {"validation_share": 0.1}}, "names a length twice"),
        ({"model": {"block": "attention", "dim": 30, "heads": 4}}, "heads = 4: must divide dim = 30"),
        ({"model": {"key_dim": 7}}, "key_dim = 7: must be even"),
        ({"model": {"normalizer": "softmax-plus"}}, "softmax_plus"),
    ],
)
def test_mistakes_are_found_when_the_job_is_read(config: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        MaskedLmConfig(**({"tokenizer": "stage:x"} | config))


def test_a_tokenizer_without_a_mask_is_refused(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"is no tokenizer\.json"):
        task(tmp_path / "tokenizer.json")
    with pytest.raises(ConfigError, match=r"no tokenizer\.json there; write 'stage:<name>'"):
        stage(tmp_path / "nothing").identity()


def test_jieba_keeps_chinese_words_whole(tokenizer: Path) -> None:
    pytest.importorskip("jieba", reason="the package jieba is not installed")
    made = task(tokenizer, segmenter="jieba", max_length=64)
    text = "我们研究自然语言处理 red orange"
    (words,) = made.encode(table([text])).column("words").to_pylist()
    (plain,) = task(tokenizer, max_length=64).encode(table([text])).column("words").to_pylist()
    offsets = made._tokenizer.backend.encode(text, add_special_tokens=False).offsets
    of_character = {start: word for (start, _), word in zip(offsets, words, strict=True)}
    joined = [of_character[i] for i in range(10)]
    assert len(set(joined[:2])) == len(set(joined[2:4])) == len(set(joined[4:8])) == len(set(joined[8:10])) == 1
    assert len(set(joined)) < 10
    assert len(set(plain)) > len(set(words))
    assert made.encode(table(["白" * 3])).num_rows == 1


def test_tokenizers_of_transformers(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="the package transformers is not installed")
    from tiny_encoders import save_tokenizer

    save_tokenizer(tmp_path)
    made = task(tmp_path)
    rows = encoded(made, ["the space of a vector"])
    batch = made.collate(rows, 0)
    assert whole(batch.tensors)[0].tolist() == made._tokenizer.backend.encode("the space of a vector").ids
    (words,) = rows.column("words").to_pylist()
    assert words == made._tokenizer.backend.encode("the space of a vector", add_special_tokens=False).word_ids
