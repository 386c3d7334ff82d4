"""Texts of rows are found whatever stage comes first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from support import audit_job, write_texts

import kxbatch as kx
from kxbatch.data.storage import Folder
from kxbatch.engine.texts import row_texts


def test_a_training_stage_that_comes_first_is_no_hindrance(workplace: Path) -> None:
    write_texts(Path("data/texts.jsonl"), 0, 20)
    job = audit_job()
    job["stage"] = [{"kind": "tokenizer", "column": "text", "vocabulary": 300}, job["stage"][0]]
    assert kx.run(job, quiet=True, report=False).exit_code == 0
    folder = Folder(str(workplace / "out/audit"))
    ids = kx.open(folder.path).scan().select("id").collect()["id"].to_list()[:3]
    found = row_texts(folder, ids)
    assert list(found) == ids
    assert all(found.values())


def test_an_id_is_no_text(workplace: Path) -> None:
    rng = np.random.default_rng(0)
    pq.write_table(pa.table({"name": [f"n{at}" for at in range(40)], "x": rng.normal(size=40)}), "data.parquet")
    job = {
        "job": {"name": "densities", "output": "out/densities", "executor": "inline"},
        "input": {"path": ["data.parquet"], "id": "name"},
        "stage": [{"kind": "density", "estimator": "gaussian", "columns": "x"}],
    }
    assert kx.run(job, quiet=True, report=False).exit_code == 0
    assert row_texts(Folder(str(workplace / "out/densities")), ["n1", "n2"]) == {}
