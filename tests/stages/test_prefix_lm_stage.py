"""Training a retriever: from questions and facts to batches, the loss, the folder that is left, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from retrieval_jobs import TINY, job, retriever, run, write_graph, write_questions
from support import tree_digests

import kxbatch as kx
from kxbatch.data.quarantine import read_quarantine
from kxbatch.data.storage import Folder
from kxbatch.errors import ConfigError, DataError
from kxbatch.models.graph import Graph, Spelling
from kxbatch.models.masked_lm import MaskedLm
from kxbatch.models.masks import Mask
from kxbatch.models.retrieval.trained import TrainedPrefixLm
from kxbatch.stages.base import Context
from kxbatch.stages.prefix_lm import PrefixLmConfig, PrefixLmStage
from kxbatch.stages.tasks.prefix_lm import PrefixLmTask

pytestmark = pytest.mark.usefixtures("workplace")
ARTIFACT = Path("out/kg/retriever/_artifact")


def stage(**config: Any) -> PrefixLmStage:
    values = {"graph": "out/graph", "meaning": "meaning", "model": TINY} | config
    return PrefixLmStage(PrefixLmConfig(**values), "question")


def task(**config: Any) -> PrefixLmTask:
    found = stage(**config).task(Context(seed=0, threads=1, gpus=0))
    assert isinstance(found, PrefixLmTask)
    return found


def table(*rows: tuple[str | None, str | None, str | None, str | None]) -> pa.Table:
    names = ["question", "subject", "predicate", "meaning"]
    columns = [pa.array([row[i] for row in rows], pa.string()) for i in range(4)]
    return pa.table(columns, names).append_column("id", pa.array([f"q{i}" for i in range(len(rows))]))


def test_a_batch_is_question_separator_key_separator() -> None:
    graph = Graph.open(write_graph())
    made, sep = task(), graph.tokenizer.separator
    rows = table(("Mayor of Alham?", "ALHAM", "Mayor", None), ("Who?", "Bodorf", "river", "Upper  Gorland"))
    batch = made.collate(made.encode(rows), 0)
    ids, valid = batch.tensors["ids"], batch.tensors["valid"]
    for row, (question, key) in enumerate(
        [("mayor of alham?", ("alham", "mayor", "")), ("who?", ("bodorf", "river", "upper gorland"))]
    ):
        source = graph.tokenizer.encode([question])[0].tolist()
        target = [token for part in key for token in (*graph.tokenizer.encode([part])[0].tolist(), sep)]
        assert ids[row][valid[row]].tolist() == [*source, sep, *target]
        assert int(batch.tensors["source"][row]) == len(source) + 1
    assert (ids[~valid] == graph.tokenizer.pad).all()
    places = batch.tensors["positions"] + 1
    assert ids.flatten()[places].tolist() == batch.tensors["labels"].tolist()
    assert batch.tokens == int(valid.sum())
    assert batch.tokens + batch.padding == ids.numel()
    assert len(places) == sum(int(valid[row].sum() - batch.tensors["source"][row]) for row in range(2))


def test_the_loss_is_the_mean_log_probability_of_keys() -> None:
    write_graph()
    made = task()
    torch.manual_seed(0)
    model = made.model().eval()
    assert isinstance(model, MaskedLm)
    rows = table(("Mayor of Alham?", "Alham", "mayor", ""), ("Who of Bodorf?", "Bodorf", "river", "Upper Gorland"))
    batch = made.collate(made.encode(rows), 0)
    found = made.loss(model, batch.tensors)
    nats, tokens = 0.0, 0
    for row in range(2):  # each alone, one token at a time
        ids = batch.tensors["ids"][row][batch.tensors["valid"][row]]
        source = int(batch.tensors["source"][row])
        for at in range(source, len(ids)):
            seen = ids[:at][None]
            mask = Mask.prefix(torch.ones_like(seen, dtype=torch.bool), torch.tensor([source]))
            logits = model(seen, mask, torch.tensor([at - 1]))
            nats += F.cross_entropy(logits, ids[at : at + 1]).item()
            tokens += 1
    assert batch.weight == tokens
    assert found.mean.item() == pytest.approx(nats / tokens, rel=1e-5)


def test_what_is_learned_from_and_what_is_set_aside() -> None:
    write_graph()
    rows = table(
        ("good", "Alham", "mayor", ""),
        (None, "Alham", "mayor", ""),
        ("  ", "Alham", "mayor", ""),
        ("no subject", None, "mayor", ""),
        ("no predicate", "Alham", " ", ""),
        ("long " * 10, "Alham", "mayor", None),
        ("held out", "Alham", "mayor", ""),
    ).append_column("train", pa.array([True] * 6 + [False]))
    found = stage(fit_on="train", max_question=20).survey(rows, Context(seed=0, threads=1, gpus=0))
    reasons = {one.row: one.error for one in found.rejected}
    assert reasons == {1: "null-text", 2: "empty-text", 3: "no-subject", 4: "no-predicate", 5: "long-question"}
    assert found.passed.tolist() == [6]
    assert found.sizes.tolist() == [len("good") + len("alham|mayor|")]


def test_the_engine_counts_them() -> None:
    write_graph()
    frame = write_questions()
    extra = pl.DataFrame({"question": [" ", "x" * 200]}).with_columns(
        subject=pl.lit("Alham"), predicate=pl.lit("mayor"), meaning=pl.lit(""), train=pl.lit(True)
    )
    pl.concat([frame, extra]).write_parquet("questions.parquet")
    run(job(retriever(fit_on="train")))
    aside = read_quarantine(Folder("out/kg/retriever"))
    assert sorted(aside.column("error").to_pylist()) == ["empty-text", "long-question"]


def test_a_key_without_a_column_of_meanings_has_them_in_brackets() -> None:
    write_graph(meaning=None)
    made = task(meaning=None)
    spelling = Spelling.read(Path("out/graph"))
    encoded = made.encode(table(("q", "牛郎织女（故事）", "作者", None)))
    wanted = spelling.keys(["牛郎织女"], ["作者"], ["故事"])[0].tolist()
    assert encoded.column("target")[0].as_py() == wanted


def test_the_folder_says_what_it_was_trained_for_and_trains_on() -> None:
    write_graph()
    write_questions()
    made = job(retriever(training={"steps": 6}))
    run(made)
    first, spelling = TrainedPrefixLm.read(ARTIFACT), Spelling.read(Path("out/graph"))
    assert (first.order, first.tokenizer_digest) == ("spm", spelling.tokenizer.digest)
    assert first.encoder.dim == TINY["dim"]
    again = kx.run(made, quiet=True, report=False)
    assert again.status == "unchanged"
    run(job(retriever(initialize=str(ARTIFACT), training={"steps": 1}), output="out/more"))
    refused = run(job(retriever(initialize=str(ARTIFACT), model={**TINY, "layers": 1}), output="out/other"), 2)
    assert "another model: layers 2 -> 1" in refused.message


def test_a_new_fact_trains_nothing_again_and_another_order_does() -> None:
    write_graph()
    write_questions()
    made = job(retriever())
    run(made)
    before = tree_digests(Path("out/kg"))
    write_graph(predicates=("mayor", "river", "country", "amyor"), tokenizer="out/graph/graph/_artifact/tokenizer.json")
    assert kx.run(made, quiet=True, report=False).status == "unchanged"
    write_graph(order="smp")
    run(made)
    assert TrainedPrefixLm.read(ARTIFACT).order == "smp"
    assert tree_digests(Path("out/kg")) != before


def test_refusals() -> None:
    write_graph()
    write_questions()
    with pytest.raises(ValidationError, match="GAU layers"):
        PrefixLmConfig(graph="out/graph", model={"block": "attention"})
    with pytest.raises(ConfigError, match="no graph in here"):
        run(job(retriever(graph="out")))
    with pytest.raises(ConfigError, match="question"):
        run(job(retriever(column="questoin")))
    about = Path("out/graph/graph/_artifact/graph.json")
    text = json.loads(about.read_text())
    about.write_text(json.dumps(text | {"tokenizer_digest": "0" * 64}))
    with pytest.raises(DataError, match=r"graph\.json: damaged"):
        Spelling.read(Path("out/graph"))


def test_damaged_folders_are_named() -> None:
    write_graph()
    write_questions()
    run(job(retriever()))
    config = ARTIFACT / "config.json"
    values = json.loads(config.read_text())
    for broken, words in (
        (values | {"order": "pms"}, "order"),
        (values | {"encoder": {}}, "missing"),
        ({"architecture": "kxbatch-retriever"}, "max_question"),
    ):
        config.write_text(json.dumps(broken))
        with pytest.raises(ConfigError, match=words):
            TrainedPrefixLm.read(ARTIFACT)
    (ARTIFACT / "tokenizer.json").unlink()
    with pytest.raises(ConfigError, match=r"tokenizer\.json missing"):
        TrainedPrefixLm.read(ARTIFACT)


def test_it_learns() -> None:
    write_graph()
    write_questions()
    run(job(retriever(training={"steps": 150, "batch_rows": 32, "optimizer": {"rate": 0.01}, "validate_every": 75})))
    lines = [json.loads(line) for line in Path("out/kg/retriever/_training/history.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:3])
