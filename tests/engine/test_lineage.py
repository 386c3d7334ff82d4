"""From a part to the source file, with nothing in between left out."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import kxbatch as kx
from kxbatch.engine.compact import compact
from kxbatch.engine.export import export
from kxbatch.engine.lineage import Step, trace
from kxbatch.errors import ConfigError

if TYPE_CHECKING:
    from finished import Finished

pytest_plugins = ["finished"]


def chain(step: Step) -> list[Step]:
    assert len(step.made_from) <= 1
    return [step, *(chain(step.made_from[0]) if step.made_from else [])]


def test_up_to_the_source(finished: Finished) -> None:
    steps = chain(trace("out/audit/hubness/part-00003.parquet"))
    assert [(s.what, s.name) for s in steps[:-1]] == [("stage", "hubness"), ("stage", "whiten"), ("stage", "embed")]
    for step in steps[:-1]:
        assert step.receipt is not None
        assert step.receipt["digest"] == hashlib.sha256(Path(step.file).read_bytes()).hexdigest()
        assert step.facts["job"] == "audit"
    hubness, whiten, embed, source = steps
    assert any("comparing its rows with those of all parts" in note for note in hubness.notes)
    assert whiten.notes == embed.notes == []
    card = json.loads((finished.output / "whiten/_artifact/card.json").read_text())
    assert whiten.artifact is not None
    assert whiten.receipt is not None
    assert whiten.artifact["digest"] == card["digest"]
    assert whiten.artifact["by_run"] == whiten.receipt["run"]
    assert embed.facts["model"] == pq.read_metadata(embed.file).metadata[b"kxbatch.model"].decode()
    assert "trigrams" in embed.facts["model"]
    assert source.what == "source"
    rows = [json.loads(line)["doc"] for line in Path(source.file).read_text().splitlines()]
    ids = pq.read_table("out/audit/embed/part-00003.parquet")["id"].to_pylist()
    assert [name for name in rows[source.facts["first_row"] : source.facts["last_row"] + 1] if name != "blank"] == ids


def test_a_part_made_from_what_is_no_more_says_so(finished: Finished) -> None:
    stages = [dict(stage) for stage in finished.job["stage"][:1]]
    stages[0]["keep"] = []
    assert kx.run({**finished.job, "stage": stages}, quiet=True, report=False).exit_code == 0
    whiten = trace("out/audit/whiten/part-00000.parquet")
    assert whiten.notes == ["embed/part-00000.parquet was made again since; this part is stale"]


def test_an_export_and_what_compaction_makes_of_it(finished: Finished) -> None:
    export(kx.open("out/audit"), Path("flat"))
    step = trace("flat/part-00001.parquet")
    assert (step.what, step.name) == ("export", "audit")
    assert [above.name for above in step.made_from] == ["embed", "before", "whiten", "hubness"]
    parts = compact("flat", 10**9).parts_before
    assert parts > 4
    merged = trace("flat/part-00000.parquet")
    assert len(merged.made_from) == 4 * parts
    assert {above.what for above in merged.made_from} == {"stage"}
    (finished.output / "embed/part-00000.parquet").unlink()
    assert [s.what for s in trace("flat/part-00000.parquet").made_from].count("missing") == 1


def test_a_copy_elsewhere_still_tells_who_made_it(finished: Finished, tmp_path: Path) -> None:
    copy = tmp_path / "part-00000.parquet"
    copy.write_bytes((finished.output / "whiten/part-00000.parquet").read_bytes())
    step = trace(copy)
    assert (step.name, step.facts["kind"], step.receipt, step.made_from) == ("whiten", "whiten", None, [])
    assert "no receipt beside it" in step.notes[0]


def test_what_kxbatch_did_not_make(finished: Finished, tmp_path: Path) -> None:
    pq.write_table(pa.table({"id": [1]}), tmp_path / "foreign.parquet")
    for path, words in ((tmp_path / "foreign.parquet", "no kxbatch"), (tmp_path, "is a folder"), ("nope", "not exist")):
        with pytest.raises(ConfigError, match=words):
            trace(path)
