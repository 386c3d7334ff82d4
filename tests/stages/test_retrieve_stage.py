"""The retrieve stage through the engine: only facts come out, whoever computes; changes count at once; what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import torch
from retrieval_jobs import job, retrieve, retriever, rows, run, write_graph, write_questions
from support import tree_digests
from transformers import GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration

import kxbatch as kx
from kxbatch.data.quarantine import read_quarantine
from kxbatch.data.storage import Folder
from kxbatch.errors import ConfigError
from kxbatch.models.graph import Graph
from kxbatch.models.graph.changes import Change
from kxbatch.models.graph.journal import append_changes
from kxbatch.models.retrieval.loading import load_retriever
from kxbatch.models.retrieval.settings import SearchSettings

pytestmark = pytest.mark.usefixtures("workplace")
MODEL = Path("out/kg/retriever/_artifact")
LEARNED = {"steps": 300, "batch_rows": 32, "optimizer": {"rate": 0.01}}


def first(frame: pl.DataFrame) -> pl.DataFrame:
    """The best answer of each question, as columns."""
    return frame.with_columns(best=pl.col("answers").list.first()).unnest("best", separator=".")


def facts(graph: Path) -> dict[tuple[str, str, str], list[str]]:
    frame = pl.read_parquet("triples.parquet")
    grouped = frame.group_by("subject", "predicate", "meaning").agg(pl.col("object").sort())
    return {(s, p, m): objects for s, p, m, objects in grouped.iter_rows()}


@pytest.mark.parametrize("order", ["spm", "smp"])
def test_a_trained_model_answers_with_facts_and_an_untrained_one_invents_nothing(order: str) -> None:
    known = facts(write_graph(order=order))
    write_questions()
    run(job(retriever(shifts=0, training=LEARNED), retrieve(answers=3, beam=4)))
    found = rows()
    assert len(found) == len(pl.read_parquet("questions.parquet"))
    for answers in found["answers"].to_list():
        scores = [one["normalized_score"] for one in answers]
        assert scores == sorted(scores, reverse=True)
        for one in answers:
            assert known[one["subject"], one["predicate"], one["meaning"]] == one["objects"]
            assert sum(one["part_scores"]) == pytest.approx(one["score"], abs=1e-9)
    best = first(found)
    right = (best["best.subject"] == best["subject"]) & (best["best.predicate"] == best["predicate"])
    assert right.mean() > 0.9
    assert found["answer"].to_list() == [answers[0]["objects"][0] for answers in found["answers"].to_list()]
    run(job(retriever(training={"steps": 1}), retrieve(), output="out/raw"))
    for answers in rows("out/raw")["answers"].to_list():
        assert (answers[0]["subject"], answers[0]["predicate"], answers[0]["meaning"]) in known


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_four_workers_give_the_bytes_of_one() -> None:
    graph = write_graph().absolute()  # the session's Ray was started in another folder
    write_questions()
    trained = job(retriever(training={"steps": 30}), output="out/kg")
    run(trained)
    found = []
    for executor, workers in (("ray", 4), ("ray", 1), ("inline", 1)):
        made = retrieve(
            model=str(MODEL.absolute()), graph=str(graph), answers=2, resources={"workers": workers, "cpus": 0.5}
        )
        output = f"out/{executor}-{workers}"
        run(job(made, executor=executor, output=output))
        assert len(list(Path(output, "retrieve").glob("part-*.parquet"))) >= 4
        found.append(tree_digests(Path(output)))
    assert found[0] == found[1] == found[2]


def test_facts_added_and_deleted_count_at_once() -> None:
    graph = write_graph()
    write_questions()
    run(job(retriever(shifts=0, training=LEARNED), retrieve()))
    place = graph / "graph" / "changes.jsonl"
    settings = SearchSettings(beam=200, answers=200, look_ahead="predicate")  # more than there are keys: all are found

    def ask(question: str) -> list[tuple[str, str, tuple[str, ...]]]:
        found = load_retriever(graph, MODEL, settings).answer([question])[0]
        return [(one.subject, one.predicate, one.objects) for one in found.answers]

    assert ask("what is the mayor of Alham?")[0] == ("Alham", "mayor", ("mayor of Alham",))
    append_changes(place, [Change("add", "Alvikham", "mayor", "", "Zoe"), Change("delete", "Alham", "mayor")])
    assert ("Alvikham", "mayor", ("Zoe",)) in ask("what is the mayor of Alvikham?")
    assert all((subject, predicate) != ("Alham", "mayor") for subject, predicate, _ in ask("mayor of Alham?"))
    again = kx.run(job(retriever(shifts=0, training=LEARNED), retrieve()), quiet=True, report=False)
    assert again.status == "done"  # the graph is another, so the answers are made again; the model is kept
    assert {stage.name: stage.rows_out for stage in again.stages}["retrieve"] == len(rows())
    assert "mayor of Alham" not in rows()["answer"].to_list()


def test_only_chosen_rows_are_answered() -> None:
    write_graph()
    asked = write_questions()
    asked = asked.with_columns(wanted=pl.when(pl.int_range(pl.len()) % 3 == 0).then(pl.int_range(pl.len()) % 2 == 0))
    asked.write_parquet("questions.parquet", row_group_size=40)
    run(job(retriever(), retrieve(keep=["wanted"])))
    everything = rows()
    run(job(retrieve(model=str(MODEL), keep=["wanted"], ask_on="wanted"), output="out/some"))
    some, chosen = rows("out/some"), everything["wanted"].fill_null(False)
    assert some.filter(chosen)["answer"].to_list() == everything.filter(chosen)["answer"].to_list()
    assert set(some.filter(~chosen)["no_answer"]) == {"not-asked"}
    assert some.filter(~chosen)["answer"].null_count() == len(some.filter(~chosen)) > len(some) / 2
    message = run(job(retrieve(model=str(MODEL), ask_on="subject"), output="out/no"), 3).failures[0].message
    assert "ask_on: column 'subject' has type" in message


@pytest.mark.parametrize(("order", "pieces"), [("spm", None), ("smp", 300)])
def test_linked_keys_and_overlap_make_up_for_a_model_that_knows_nothing(order: str, pieces: int | None) -> None:
    write_graph(order=order, pieces=pieces)
    write_questions()
    run(job(retriever(training={"steps": 1}), retrieve(beam=1, linked=3, overlap=100.0, keep=["subject", "predicate"])))
    found = first(rows())
    right = (found["best.subject"] == found["subject"]) & (found["best.predicate"] == found["predicate"])
    assert right.mean() > 0.9


def test_below_the_threshold_there_is_no_answer() -> None:
    write_graph()
    write_questions()
    run(job(retriever(training={"steps": 20}), retrieve(threshold=-1e-9)))
    found = rows()
    silent = found.filter(pl.col("answer").is_null())
    assert len(silent) > 0
    assert set(silent["no_answer"]) == {"below-threshold"}
    assert set(silent["answers"].list.len()) == {0}
    assert found.filter(pl.col("answer").is_not_null())["no_answer"].null_count() == len(found) - len(silent)


def test_questions_that_cannot_be_read_are_set_aside() -> None:
    write_graph()
    write_questions()
    run(job(retriever(max_question=50)))
    asked = ["mayor of Alham?", None, " ", "why? " * 2000, "Ωμέγα 🜁 of Alham?"]
    pl.DataFrame({"question": asked, "row": range(5)}).write_parquet("asked.parquet")
    made = job(retrieve(model=str(MODEL), keep=["row"]), output="out/asked", path="asked.parquet")
    made["job"]["quarantine"] = {"max_share": 1.0}
    run(made)
    assert rows("out/asked")["row"].to_list() == [0, 4]
    aside = read_quarantine(Folder("out/asked/retrieve"))
    assert sorted(aside.column("error").to_pylist()) == ["empty-text", "long-question", "null-text"]


def save(folder: Path, model: Any, tokenizer: Path) -> Path:
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text((tokenizer / name).read_text())
    return folder


@pytest.mark.parametrize("family", ["t5", "gpt2"])
def test_a_hugging_face_folder_answers_with_facts(family: str) -> None:
    graph = write_graph()
    write_questions()
    known, artifact = facts(graph), graph / "graph" / "_artifact"
    vocabulary = Graph.open(graph).tokenizer.vocabulary
    torch.manual_seed(0)
    if family == "t5":
        shape = {"d_model": 16, "d_ff": 32, "d_kv": 8, "num_layers": 1, "num_heads": 2}
        model: Any = T5ForConditionalGeneration(T5Config(vocab_size=vocabulary, decoder_start_token_id=0, **shape))
    else:
        model = GPT2LMHeadModel(GPT2Config(vocab_size=vocabulary, n_positions=256, n_embd=16, n_layer=1, n_head=2))
    folder = save(Path("models/hf"), model, artifact)
    run(job(retrieve(model=str(folder), scoring="masked", answers=2)))
    found = rows()
    assert found["no_answer"].null_count() == len(found)
    for answers in found["answers"].to_list():
        assert len(answers) == 2
        assert all((one["subject"], one["predicate"], one["meaning"]) in known for one in answers)


def test_models_that_do_not_belong_to_the_graph_are_refused() -> None:
    graph = write_graph()
    write_questions()
    run(job(retriever()))
    made = job(retrieve(model=str(MODEL)), output="out/other")
    write_graph(order="smp")
    assert "writes keys in the order spm, the graph has smp" in run(made, 2).message
    write_graph(vocabulary=260)
    assert "has another tokenizer" in run(made, 2).message
    for model, words in (("out", "no such folder|no model|config"), ("nowhere", "no such folder")):
        with pytest.raises(ConfigError, match=words):
            run(job(retrieve(model=model), output="out/no"))
    with pytest.raises(ConfigError, match="no graph in here"):
        run(job(retrieve(model=str(MODEL), graph="out/kg"), output="out/no"))
    trie = graph / "graph" / "_artifact" / "trie.safetensors"
    content = bytearray(trie.read_bytes())
    content[-5] ^= 1
    trie.write_bytes(bytes(content))
    assert "trie.safetensors: damaged" in run(job(retrieve(model=str(MODEL)), output="out/bad"), 3).failures[0].message


def test_what_a_retriever_is_not_for() -> None:
    write_graph()
    write_questions()
    run(job(retriever()))
    with pytest.raises(ConfigError, match="architecture 'kxbatch-retriever' is not known"):
        run(job({"kind": "embed", "column": "question", "model": str(MODEL)}, output="out/e"))
    assert json.loads((MODEL / "config.json").read_text())["architecture"] == "kxbatch-retriever"
    with pytest.raises(ConfigError, match="answers = 5: a beam of 4 holds no more than 4"):
        kx.plan(job(retrieve(model=str(MODEL), answers=5), output="out/no"))
