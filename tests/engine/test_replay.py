"""Rows set aside can be looked at and run again, from any folder, and only what is needed is done."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from support import audit_job, write_texts

import kxbatch as kx
from kxbatch.engine.replay import recorded_job, set_aside, shards_with_quarantine
from kxbatch.errors import ConfigError

if TYPE_CHECKING:
    from finished import Finished

pytest_plugins = ["finished"]

FLAKY = """
import os
import numpy as np
import trigrams

def embed(texts):
    out = trigrams.embed(texts)
    if os.environ.get("MODEL_IS_ILL"):
        out[[text.endswith(" 50") for text in texts]] = np.nan
    return out
"""


def test_rows_set_aside_are_shown_with_their_reasons(finished: Finished) -> None:
    [row] = set_aside(kx.open("out/audit")).to_pylist()
    assert (row["stage"], row["id"], row["error"]) == ("embed", "blank", "empty-text")
    output = kx.open("out/audit")
    assert set_aside(output, stage="whiten").num_rows == 0
    assert set_aside(output, error="empty-text").num_rows == 1
    with pytest.raises(ConfigError, match="did you mean 'empty-text'"):
        set_aside(output, error="empty-txt")
    with pytest.raises(ConfigError, match="did you mean 'embed'"):
        set_aside(output, stage="embd")


def test_shards_to_do_again(finished: Finished) -> None:
    [file] = (finished.output / "embed/_kxbatch/quarantine").iterdir()
    output = kx.open("out/audit")
    assert shards_with_quarantine(output) == {"embed": frozenset({file.stem})}
    assert shards_with_quarantine(output, "whiten") == {}


def test_a_mended_model_gives_the_rows_back(
    corpus: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (workplace / "flaky.py").write_text(FLAKY)
    monkeypatch.setenv("MODEL_IS_ILL", "1")
    job = audit_job(embed={"model": "callable:flaky:embed"})
    assert kx.run(job, quiet=True, report=False).exit_code == 0
    assert kx.open("out/audit").scan().collect().height == 119
    monkeypatch.delenv("MODEL_IS_ILL")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    output = kx.open(workplace / "out/audit")
    mapping, base = recorded_job(output)
    assert base == workplace
    redo = shards_with_quarantine(output)
    assert {stage: len(keys) for stage, keys in redo.items()} == {"embed": 1}
    os.chdir(base)
    result = kx.run(mapping, quiet=True, report=False, redo=redo)
    embed = next(stage for stage in result.stages if stage.name == "embed")
    assert {u["key"] for u in embed.units if not u["reused"]} == redo["embed"]
    assert kx.open("out/audit").scan().collect().height == 120
    assert shards_with_quarantine(kx.open("out/audit")) == {}
    whole = kx.open("out/audit").scan(["embed"]).collect()
    kx.run(job | {"job": {**job["job"], "output": "out/well"}}, quiet=True, report=False)
    assert whole.equals(kx.open("out/well").scan(["embed"]).collect())


def test_a_look_alike_in_another_folder_is_refused(
    finished: Finished, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    record = finished.output / "run.json"
    facts: dict[str, Any] = json.loads(record.read_text())
    facts["job"]["output"] = str(finished.output)  # absolute: where the job was run from is not known
    record.write_text(json.dumps(facts))
    elsewhere = tmp_path_factory.mktemp("look-alike")
    monkeypatch.chdir(elsewhere)
    with pytest.raises(ConfigError, match="run this from the folder the job was run from"):
        recorded_job(kx.open(finished.output))
    write_texts(elsewhere / "data/texts-0.jsonl", 0, 5)
    with pytest.raises(ConfigError, match="run this from the folder the job was run from"):
        recorded_job(kx.open(finished.output))
    monkeypatch.chdir(finished.home)
    assert recorded_job(kx.open(finished.output))[1] == finished.home


def test_an_input_file_that_is_gone_is_no_look_alike(corpus: Path, workplace: Path) -> None:
    assert kx.run(audit_job(), quiet=True, report=False).exit_code == 0
    (corpus / "texts-1.jsonl").unlink()
    mapping, base = recorded_job(kx.open("out/audit"))
    assert base == workplace
    assert kx.run(mapping, quiet=True, report=False).exit_code == 0
    assert kx.open("out/audit").scan().collect().height == 120, "its rows are kept as they were computed"


def test_the_recorded_job_is_the_job_that_ran(finished: Finished) -> None:
    mapping, _ = recorded_job(kx.open("out/audit"))
    result = kx.run(mapping, quiet=True, report=False)
    assert (result.exit_code, result.status) == (0, "unchanged")
    assert pl.Series([u["reused"] for s in result.stages for u in s.units]).all()
