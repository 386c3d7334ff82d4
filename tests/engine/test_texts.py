"""Texts of rows are found whatever stage comes first."""

from __future__ import annotations

from pathlib import Path

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
