"""A small graph of towns, questions about it, and jobs that train and ask a retriever."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

import kxbatch as kx

GRAPH = "out/graph"
PREDICATES = ("mayor", "river", "country")
TEMPLATES = ("what is the {p} of {s}?", "{s}: {p}?", "tell me the {p} of {s}")
HEADS = ("al", "bo", "cru", "dun", "el", "fro", "gor", "hul")
TAILS = ("bach", "dorf", "ham", "minster", "vik", "ton")
TINY = {"dim": 64, "layers": 2, "key_dim": 32, "base_length": 32}


def towns() -> list[tuple[str, str]]:
    """Names and meanings; two towns share the name Bodorf."""
    named = [(head.capitalize() + tail, "") for head in HEADS for tail in TAILS]
    return [pair for pair in named if pair[0] != "Bodorf"] + [("Bodorf", "Upper Gorland"), ("Bodorf", "Lower Gorland")]


def write_triples(path: str = "triples.parquet", predicates: tuple[str, ...] = PREDICATES) -> None:
    """Every predicate of every town."""
    rows = [(name, p, meaning, f"{p} of {name} {meaning}".strip()) for name, meaning in towns() for p in predicates]
    frame = pl.DataFrame(rows, schema=["subject", "predicate", "meaning", "object"], orient="row")
    frame.write_parquet(path)


def write_graph(predicates: tuple[str, ...] = PREDICATES, **stage: Any) -> Path:
    """Builds the graph in `out/graph`; returns the folder."""
    write_triples(predicates=predicates)
    result = kx.run(
        {
            "job": {"name": "graph", "output": GRAPH, "executor": "inline"},
            "input": {"path": ["triples.parquet"]},
            "stage": [{"kind": "graph", "meaning": "meaning"} | stage],
        },
        quiet=True,
        report=False,
    )
    assert result.exit_code == 0, result.message
    return Path(GRAPH)


def write_questions(path: str = "questions.parquet") -> pl.DataFrame:
    """Every template for every key, a third of the towns held out."""
    rows = [
        (template.format(p=p, s=f"{name} ({meaning})" if meaning else name), name, p, meaning, len(name) % 3 != 0)
        for template in TEMPLATES
        for name, meaning in towns()
        for p in PREDICATES
    ]
    frame = pl.DataFrame(rows, schema=["question", "subject", "predicate", "meaning", "train"], orient="row")
    frame.write_parquet(path, row_group_size=40)
    return frame


def retriever(**stage: Any) -> dict[str, Any]:
    """A stage that trains; `training` is merged into the default."""
    training = {"steps": 4, "batch_rows": 32, "validation_share": 0.05, "precision": "fp32", "log_every": 2}
    training |= stage.pop("training", {})
    made = {"kind": "prefix-lm", "name": "retriever", "graph": GRAPH, "meaning": "meaning", "model": TINY}
    return made | {"training": training} | stage


def retrieve(**stage: Any) -> dict[str, Any]:
    """A stage that answers."""
    keep = ["subject", "predicate", "meaning"]
    return {"kind": "retrieve", "graph": GRAPH, "model": "stage:retriever", "column": "question", "keep": keep} | stage


def job(
    *stages: dict[str, Any], executor: str = "inline", output: str = "out/kg", path: str = "questions.parquet"
) -> dict[str, Any]:
    """A job over the questions."""
    return {
        "job": {"name": "kg", "output": output, "executor": executor},
        "input": {"path": [path], "shard_size": "2kB"},
        "stage": list(stages),
    }


def run(made: dict[str, Any], code: int = 0) -> kx.RunResult:
    """Runs a job to an exit status."""
    result = kx.run(made, quiet=True, report=False)
    assert result.exit_code == code, result.message
    return result


def rows(output: str = "out/kg", stage: str = "retrieve") -> pl.DataFrame:
    """What a stage left."""
    return pl.read_parquet(f"{output}/{stage}/part-*.parquet")
