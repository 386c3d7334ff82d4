"""Training extractors and applying them, from texts with spans to spans of texts."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from extraction_jobs import TINY, extract, found_spans, job, ner, sentences, spans_of, tokenizer, write_sentences

import kxbatch
from kxbatch.data.quarantine import read_quarantine
from kxbatch.data.storage import Folder
from kxbatch.errors import ConfigError

pytestmark = pytest.mark.usefixtures("workplace")


def run(*stages: dict[str, Any], **where: Any) -> kxbatch.RunResult:
    result = kxbatch.run(job(*stages, **where), report=False, quiet=True)
    assert result.exit_code == 0, result.message
    return result


def triples(spans: list[dict[str, Any]]) -> set[tuple[int, int, str]]:
    return {(span["start"], span["end"], span["type"]) for span in spans}


def micro_f1(frame: pl.DataFrame) -> float:
    pairs = [(triples(gold), triples(found)) for gold, found in zip(frame["labels"], frame["entities"], strict=True)]
    right = sum(len(gold & found) for gold, found in pairs)
    return 2 * right / sum(len(gold) + len(found) for gold, found in pairs)


def evaluation(output: str = "out", stage: str = "ner") -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(output, stage, "_artifact/evaluation.json").read_text())
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An extractor of nested names."""
    place = tmp_path_factory.mktemp("trained")
    write_sentences(str(place / "texts.parquet"))
    run(tokenizer(), ner(), output=str(place / "out"), path=str(place / "texts.parquet"))
    return str(place / "out/ner/_artifact")


def test_nested_names_are_learned_and_found(trained: str) -> None:
    write_sentences()
    stages = [extract(model=trained)]
    run(*stages)
    found = found_spans()
    assert found.height == 400
    assert micro_f1(found) > 0.95
    nested = found.filter(pl.col("text").str.contains("Bank"))
    assert all({"ORG", "LOC"} <= {kind for *_, kind in triples(row)} for row in nested["entities"].head(5))
    for row in found.iter_rows(named=True):
        for span in row["entities"]:
            assert row["text"][span["start"] : span["end"]] == span["text"]
            assert span["score"] > 0
    told = json.loads(Path(trained, "evaluation.json").read_text())
    assert told["f1"] > 0.9
    assert told["unaligned"] == 0
    assert kxbatch.run(job(*stages), report=False).status == "unchanged"


def test_a_crf_finds_flat_names_and_no_nested_ones() -> None:
    write_sentences()
    run(tokenizer(), ner(head="crf"), extract())
    found = found_spans()
    for row in found["entities"]:
        spans = sorted((span["start"], span["end"]) for span in row)
        assert all(before[1] <= after[0] for before, after in pairwise(spans))
    flat = found.filter(~pl.col("text").str.contains("Bank"))
    assert micro_f1(flat) > 0.95


def test_globalpointer_and_r_drop_train() -> None:
    write_sentences()
    run(tokenizer(), ner(head="globalpointer", r_drop=1.0, model=TINY | {"dropout": 0.1}, training={"steps": 60}))
    history = [json.loads(line) for line in Path("out/ner/_training/history.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in history if "loss" in line]
    assert losses[-1] < losses[0] / 2
    assert all(line["validation_divergence"] >= 0 for line in history if "validation_divergence" in line)


def test_an_encoder_of_the_job_and_one_of_transformers_can_be_started_from(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    write_sentences()
    encoder = {"kind": "masked-lm", "column": "text", "tokenizer": "stage:tokenizer", "max_length": 64, "model": TINY}
    encoder |= {"training": {"steps": 2, "batch_rows": 8}}
    run(tokenizer(), encoder, ner(encoder="stage:masked-lm", training={"steps": 2}), extract(), output="own")
    special = {
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
        "unk_token": "[UNK]",
    }
    made = transformers.PreTrainedTokenizerFast(tokenizer_file="own/tokenizer/_artifact/tokenizer.json", **special)
    made.save_pretrained(tmp_path / "bert")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    torch.manual_seed(0)
    bert = transformers.BertModel(transformers.BertConfig(vocab_size=len(made), **sizes))
    bert.save_pretrained(tmp_path / "bert")
    trained = ner(encoder=str(tmp_path / "bert"), training={"steps": 150})
    run(trained, extract(), output="hf")
    assert evaluation("hf")["f1"] > 0.5
    refused = kxbatch.run(job(trained | {"max_length": 513}, output="long"), report=False, quiet=True)
    assert "max_length = 513: the encoder has positions for 512 tokens" in refused.message


def test_what_is_set_aside_and_why() -> None:
    frame = write_sentences(texts=sentences(40))
    spans = frame["labels"].to_list()
    spans[0] = None
    spans[1] = [{"start": 3, "end": 3, "type": "LOC"}]
    spans[2] = [{"start": 0, "end": 999, "type": "LOC"}]
    spans[3] = [{"start": 0, "end": 1, "type": "LOK"}]
    spans[6] = [{"start": 0, "end": 1, "type": ""}]
    spans[7] = [{"start": None, "end": 1, "type": "LOC"}]
    spans[8] = [{"start": -1, "end": 1, "type": "LOC"}]
    texts = frame["text"].to_list()
    texts[4] = None
    texts[5] = "  "
    spans[5] = []
    frame = frame.with_columns(pl.Series("text", texts), pl.Series("labels", spans, frame["labels"].dtype))
    frame.write_parquet("texts.parquet")
    run(tokenizer(), ner(types=["LOC", "ORG", "PER"], training={"steps": 1}))
    aside = pl.from_arrow(read_quarantine(Folder("out/ner")))
    reasons = dict(zip(aside["id"], aside["error"], strict=True))
    assert reasons == {
        "s0": "null-labels",
        "s1": "span-inverted",
        "s2": "span-out-of-range",
        "s3": "unknown-type",
        "s4": "null-text",
        "s5": "empty-text",
        "s6": "span-incomplete",
        "s7": "span-incomplete",
        "s8": "span-out-of-range",
    }
    assert "column 'labels': span [0, 1) of type '': a type has a name" in aside["message"].to_list()
    assert "type 'LOK'; known are LOC, ORG, PER; did you mean 'LOC'?" in " ".join(aside["message"])


def test_spans_within_tokens_count_as_missed() -> None:
    frame = write_sentences()
    halves = [[*spans, {"start": 0, "end": 1, "type": "LOC"}] for spans in frame["labels"].to_list()]
    frame.with_columns(pl.Series("labels", halves, frame["labels"].dtype)).write_parquet("texts.parquet")
    result = run(tokenizer("pieces"), ner(training={"steps": 1}))
    told = evaluation()
    assert 0 < told["unaligned"] <= told["gold"]
    counters = result.stages[1].counters
    assert counters["gold_spans"] == sum(map(len, halves))
    assert told["unaligned"] < counters["unaligned_spans"] < counters["gold_spans"]
    lost = f"{counters['unaligned_spans']:.0f} of {counters['gold_spans']:.0f} gold spans"
    assert any(f"stage ner: {lost}" in one and "begin or end within a token" in one for one in result.warnings)
    assert "too_wide_spans" not in counters


@pytest.mark.parametrize("own", [True, False], ids=["tokenizer", "encoder"])
def test_spans_that_no_window_holds_are_told(own: bool) -> None:
    frame = write_sentences(train=[at % 4 > 0 for at in range(400)])
    stages = [tokenizer()]
    if not own:
        encoder = {
            "kind": "masked-lm",
            "column": "text",
            "tokenizer": "stage:tokenizer",
            "max_length": 64,
            "model": TINY,
        }
        stages.append(encoder | {"training": {"steps": 1, "batch_rows": 8}})
    start: dict[str, Any] = {} if own else {"encoder": "stage:masked-lm"}
    short = ner(max_length=10, fit_on="train", training={"steps": 1}, **start)
    result = run(*stages, short)
    learned = frame.filter(pl.col("train"))["labels"].to_list()
    wide = [span for spans in learned for span in spans if span["end"] - span["start"] > 10 - 2]
    total = sum(map(len, learned))
    assert 0 < len(wide) < total, "Bank of Alham has more than eight characters, Alham has not"
    counters = result.stages[-1].counters
    assert (counters["gold_spans"], counters["too_wide_spans"]) == (total, len(wide))
    words = f"stage ner: {len(wide)} of {total} gold spans ({len(wide) / total:.1%}) can be neither learned nor found"
    assert [one for one in result.warnings if one.startswith(words) and "max_length = 10" in one]
    told = evaluation()
    assert 0 < told["too_wide"] < len(wide)
    assert told["unaligned"] == 0
    longer = run(*stages, short | {"max_length": 64})
    assert "too_wide_spans" not in longer.stages[-1].counters, "the survey is made anew"
    assert not longer.warnings


def test_files_without_a_span_go_with_files_that_have_some() -> None:
    """In JSON an empty list says nothing of what it is empty of, nor does what pandas writes of such lists."""
    Path("data").mkdir()
    texts = sentences(60)
    rows = [{"id": f"s{n}", "text": text, "labels": spans_of(text)} for n, text in enumerate(texts)]
    empty = [{"id": f"e{n}", "text": "nothing new", "labels": []} for n in range(20)]
    Path("data/a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in empty[:5]))
    Path("data/b.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(empty[5:10]), "data/c.parquet")
    assert pq.read_schema("data/c.parquet").field("labels").type == pa.list_(pa.null())
    stages = [tokenizer(), ner(training={"steps": 1})]
    first = run(*stages, path="data/*")
    assert (first.stages[1].rows_out, first.stages[1].rows_quarantined) == (70, 0)
    Path("data/d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in empty[10:]))
    later = run(*stages, path="data/*")
    assert (later.stages[1].rows_out, later.stages[1].rows_quarantined) == (80, 0)
    nothing = kxbatch.run(job(*stages, path="data/a.jsonl", output="none"), report=False, quiet=True)
    assert "no row to learn from has a span" in nothing.message


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"encoder": "x"}, "set either encoder, which has its tokenizer with it, or the tokenizer of a new one"),
        ({"types": ["A", "A"]}, "types names a type twice"),
        ({"types": ["A", ""]}, "or one that has no name"),
        ({"head": "crf", "r_drop": 1.0}, "head = 'crf' has no r_drop"),
        ({"r_drop": 1.0}, "set model.dropout above 0"),
        ({"head": "egp"}, "head"),
        ({"head_size": 15}, "head_size"),
    ],
)
def test_what_does_not_go_together_is_refused(changed: dict[str, Any], words: str) -> None:
    write_sentences()
    stage = ner(tokenizer="stage:tokenizer", model=TINY) | changed
    with pytest.raises(ConfigError, match=words):
        kxbatch.plan(job(tokenizer(), stage))


def test_windows_that_do_not_get_on_are_refused() -> None:
    write_sentences()
    with pytest.raises(ConfigError, match="a window of max_length = 16 holds 14 tokens"):
        kxbatch.plan(job(tokenizer(), ner(), extract(max_length=16, overlap=14)))
    kxbatch.plan(job(tokenizer(), ner(), extract(max_length=16, overlap=13)))


def test_labels_of_another_shape_are_told() -> None:
    write_sentences(names=[["a"]] * 400)
    result = kxbatch.run(job(tokenizer(), ner(labels="names")), report=False, quiet=True)
    assert result.exit_code != 0
    assert "spans are list<struct<start: int32, end: int32, type: string>>" in result.failures[0].message


def test_workers_of_ray_find_what_one_process_finds(trained: str) -> None:
    write_sentences()
    run(extract(model=trained))
    run(extract(model=trained, resources={"workers": 2}), executor="ray", output="ray")
    parts = sorted(path.name for path in Path("out/extract").glob("part-*.parquet"))
    assert len(parts) > 1
    for name in parts:
        assert Path("ray/extract", name).read_bytes() == Path("out/extract", name).read_bytes()


def test_texts_of_any_length_and_of_any_letters(trained: str) -> None:
    long = " ".join(sentences(4000, seed=1))
    strange = ["", " ", "👩‍👩‍👧 left Alham.\r\n", "e\u0301 Ann\tof\tAlham 京都", "\u202eAnn\u202c", "a" * 300]
    texts = [*strange, long, None]
    frame = pl.DataFrame({"id": [f"x{n}" for n in range(len(texts))], "text": texts, "labels": [[]] * len(texts)})
    frame = frame.with_columns(pl.col("labels").cast(pl.List(pl.Struct({"start": pl.Int32}))))
    frame.write_parquet("new.parquet")
    applied = extract(model=trained, keep=["text"])
    run(applied, output="new", path="new.parquet")
    found = found_spans("new")
    rows = {row["id"]: row for row in found.iter_rows(named=True)}
    assert len(rows) == len(texts) - 1
    assert rows["x0"]["entities"] == rows["x1"]["entities"] == []
    for row in rows.values():
        assert all(row["text"][s["start"] : s["end"]] == s["text"] != "" for s in row["entities"])
    assert len(long) > 60_000
    gold, got = triples(spans_of(long)), triples(rows["x6"]["entities"])
    assert len(gold & got) / len(gold | got) > 0.9
    aside = pl.from_arrow(read_quarantine(Folder("new/extract")))
    assert aside["error"].to_list() == ["null-text"]


def test_threshold_policy_and_width_do_what_they_say(trained: str) -> None:
    write_sentences()
    for name, changed in {
        "all": {},
        "sure": {"threshold": 3.0},
        "flat": {"policy": "flat"},
        "narrow": {"max_width": 6},
    }.items():
        run(extract(model=trained, **changed), output=name)
    every = found_spans("all")["entities"].to_list()
    sure = [[span for span in row if span["score"] > 3.0] for row in every]
    assert found_spans("sure")["entities"].to_list() == sure
    narrow = [[span for span in row if span["end"] - span["start"] <= 6] for row in every]
    assert found_spans("narrow")["entities"].to_list() == narrow
    for row, whole in zip(found_spans("flat")["entities"].to_list(), every, strict=True):
        covered = np.concatenate([np.arange(s["start"], s["end"]) for s in row]) if row else np.empty(0)
        assert len(np.unique(covered)) == len(covered)
        assert triples(row) <= triples(whole)
