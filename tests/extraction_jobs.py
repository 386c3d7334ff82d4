"""A small corpus of made sentences with nested names, and jobs that train and apply an extractor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

TOWNS = ("Alham", "Bodorf", "Cruvik", "Dunton", "Elbach", "Froham", "Gorvik", "Hulton")
PEOPLE = ("Ann", "Bob", "Cid", "Dot", "Eve", "Fay", "Gus", "Hal")
SHAPES = ("{p} left {t}.", "the Bank of {t} paid {p}", "{p} of {t}", "in {t} the Bank of {t} closed", "nothing new")
TYPES = ("LOC", "ORG", "PER")
SPANS = pl.List(pl.Struct({"start": pl.Int32, "end": pl.Int32, "type": pl.String}))
TINY = {"dim": 48, "layers": 2, "key_dim": 24, "base_length": 32, "init": "lecun"}


def spans_of(text: str) -> list[dict[str, Any]]:
    """Every name of a made sentence; a bank has its town inside."""
    found = [("LOC", town) for town in TOWNS] + [("PER", name) for name in PEOPLE]
    found += [("ORG", f"Bank of {town}") for town in TOWNS]
    spans = []
    for kind, name in found:
        at = text.find(name)
        while at >= 0:
            spans.append({"start": at, "end": at + len(name), "type": kind})
            at = text.find(name, at + 1)
    return sorted(spans, key=lambda span: (span["start"], span["end"]))


def sentences(count: int = 400, seed: int = 0, most: int = 3) -> list[str]:
    """Texts of one sentence to `most`, drawn from all shapes, towns and people."""
    draw = np.random.default_rng(seed)

    def one() -> str:
        shape, person, town = draw.integers(len(SHAPES)), draw.integers(len(PEOPLE)), draw.integers(len(TOWNS))
        return SHAPES[shape].format(p=PEOPLE[person], t=TOWNS[town])

    return [" ".join(one() for _ in range(draw.integers(1, most + 1))) for _ in range(count)]


def write_sentences(path: str = "texts.parquet", texts: list[str] | None = None, **columns: list[Any]) -> pl.DataFrame:
    """One row a sentence, with its spans."""
    texts = sentences() if texts is None else texts
    frame = pl.DataFrame({"id": [f"s{n}" for n in range(len(texts))], "text": texts} | columns)
    frame = frame.with_columns(pl.Series("labels", [spans_of(text or "") for text in texts], SPANS))
    frame.write_parquet(path, row_group_size=100)
    return frame


def tokenizer(unit: str = "characters") -> dict[str, Any]:
    """A stage that learns a tokenizer."""
    return {"kind": "tokenizer", "column": "text", "unit": unit, "vocabulary": 400}


def ner(**stage: Any) -> dict[str, Any]:
    """A stage that trains; `training` is merged into the default."""
    training = {"steps": 150, "batch_rows": 32, "validation_share": 0.1, "precision": "fp32", "log_every": 10}
    training |= {"optimizer": {"rate": 0.005}, "schedule": {"warmup": 10}} | stage.pop("training", {})
    made = {"kind": "ner", "column": "text", "head_size": 16, "max_length": 64}
    if "encoder" not in stage:
        made |= {"tokenizer": "stage:tokenizer", "model": TINY}
    return made | {"training": training} | stage


def extract(**stage: Any) -> dict[str, Any]:
    """A stage that applies it."""
    return {
        "kind": "extract",
        "input": "input",
        "column": "text",
        "model": "stage:ner",
        "keep": ["text", "labels"],
    } | stage


def job(
    *stages: dict[str, Any], executor: str = "inline", output: str = "out", path: str = "texts.parquet"
) -> dict[str, Any]:
    """A job over the sentences."""
    return {
        "job": {"name": "names", "output": output, "executor": executor, "quarantine": {"max_share": 1.0}},
        "input": {"path": [path], "id": "id", "shard_size": "4kB"},
        "stage": list(stages),
    }


def found_spans(output: str = "out", stage: str = "extract") -> pl.DataFrame:
    """Rows of an extract stage, in the order of ids."""
    return pl.read_parquet(sorted(Path(output, stage).glob("part-*.parquet"))).sort("id")
