"""Whatever is not as its receipt says is found, and the next run makes it good again, byte for byte."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import sealed, tree_digests

from kxbatch.data.storage import File, Folder
from kxbatch.engine.defects import Defect, read_defects
from kxbatch.engine.lease import Lease
from kxbatch.engine.verify import verify
from kxbatch.errors import ConfigError, LeaseHeld

if TYPE_CHECKING:
    from finished import Finished

pytest_plugins = ["finished"]


def flip(path: Path, offset: int | None = None) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2 if offset is None else offset] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-7])


def edit_receipt(path: Path) -> None:
    receipt = json.loads(path.read_text())
    path.write_text(json.dumps(receipt | {"rows_in": receipt["rows_in"] + 1}))


def as_set(defects: list[Defect]) -> set[tuple[str, str, str]]:
    return {(d.stage, d.key, d.file) for d in defects}


def blank_shard(output: Path) -> str:
    """The shard of the embed stage that has a row set aside."""
    return next((output / "embed/_kxbatch/quarantine").iterdir()).stem


def test_a_sound_output_is_sound(finished: Finished) -> None:
    found = verify("out/audit")
    assert found.defects == []
    assert [c.stage for c in found.stages] == ["embed", "before", "whiten", "hubness"]
    for checked in found.stages:
        receipts = [json.loads(p.read_text()) for p in (finished.output / checked.stage).rglob("receipts/*/*.json")]
        assert checked.receipts == len(receipts)
        assert checked.bytes == sum((finished.output / checked.stage / r["file"]).stat().st_size for r in receipts)
        assert checked.rows == 120
    assert [c.quarantined for c in found.stages] == [1, 0, 0, 0]
    assert read_defects(Folder(str(finished.output))) == {}


def test_a_run_mends_what_verify_finds(finished: Finished) -> None:
    output, before = finished.output, tree_digests(finished.output)
    shards = [f"part-{n:05d}" for n in range(8) if f"part-{n:05d}" != blank_shard(output)]
    pair = sorted((output / "before/_kxbatch/state/pairs").iterdir())[1]
    damage: dict[tuple[str, str], tuple[Callable[[Path], None], str]] = {
        ("embed", shards[0]): (flip, f"{shards[0]}.parquet"),
        ("embed", shards[1]): (truncate, f"{shards[1]}.parquet"),
        ("embed", shards[2]): (os.unlink, f"{shards[2]}.parquet"),
        ("embed", shards[3]): (os.unlink, f"_kxbatch/receipts/map/{shards[3]}.json"),
        ("embed", shards[4]): (edit_receipt, f"_kxbatch/receipts/map/{shards[4]}.json"),
        ("embed", blank_shard(output)): (os.unlink, f"_kxbatch/quarantine/{blank_shard(output)}.parquet"),
        ("before", pair.stem): (flip, f"_kxbatch/state/pairs/{pair.name}"),
        ("whiten", shards[0]): (truncate, f"_kxbatch/state/fold/{shards[0]}.safetensors"),
        ("hubness", shards[1]): (flip, f"{shards[1]}.parquet"),
    }
    for (stage, _), (harm, file) in damage.items():
        harm(output / stage / file)
    found = verify("out/audit")
    assert as_set(found.defects) == {(stage, key, file) for (stage, key), (_, file) in damage.items()}
    result = finished.run()
    assert result.exit_code == 0
    assert tree_digests(output) == before
    assert verify("out/audit").defects == []
    assert finished.run().status == "unchanged"


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flipped_bit_of_any_file_is_found(finished: Finished, data: st.DataObject) -> None:
    files = [p for p in sorted(finished.output.rglob("*")) if p.suffix in (".parquet", ".safetensors")]
    checked = [p for p in files if p.name != "state.safetensors" and "quarantine" not in p.parts]
    path = data.draw(st.sampled_from(checked))
    original = path.read_bytes()
    try:
        flip(path, data.draw(st.integers(0, len(original) - 1)))
        found = verify("out/audit")
        assert [f"{d.stage}/{d.file}" for d in found.defects] == [str(path.relative_to(finished.output))]
    finally:
        path.write_bytes(original)


def test_files_without_a_receipt_and_leftovers(finished: Finished) -> None:
    embed = finished.output / "embed"
    shutil.copy(embed / "part-00000.parquet", embed / "part-99999.parquet")
    shutil.copy(
        embed / f"_kxbatch/quarantine/{blank_shard(finished.output)}.parquet", embed / "_kxbatch/quarantine/x.parquet"
    )
    (embed / "_kxbatch/.tmp-part-00001.parquet-abcd").write_bytes(b"half")
    (finished.output / ".tmp-run.json-abcd").write_bytes(b"half")
    found = verify("out/audit")
    assert as_set(found.defects) == {
        ("embed", "", "part-99999.parquet"),
        ("embed", "", "_kxbatch/quarantine/x.parquet"),
        ("embed", "", "_kxbatch/.tmp-part-00001.parquet-abcd"),
        ("", "", ".tmp-run.json-abcd"),
    }


@pytest.mark.parametrize("content", ["{", "[]", '{"phase": "map"}'])
def test_damaged_receipts_are_named_one_by_one(finished: Finished, content: str) -> None:
    folder = finished.output / "embed/_kxbatch/receipts/map"
    for name in ("part-00000.json", "part-00001.json"):
        (folder / name).write_text(content)
    found = verify("out/audit")
    assert [(d.key, "damaged receipt" in d.problem) for d in found.defects] == [
        ("part-00000", True),
        ("part-00001", True),
    ]


def test_patches_and_artifacts(finished: Finished) -> None:
    before, output = tree_digests(finished.output), finished.output
    flip(output / "before/_artifact/hubness.json")
    flip(output / "before/_kxbatch/state/patches/part-00001.safetensors")
    (output / "hubness/_artifact/top_hubs.parquet").unlink()
    found = verify("out/audit")
    assert as_set(found.defects) == {
        ("before", "", "_kxbatch/state/patches/part-00001.safetensors"),
        ("before", "", "_artifact/hubness.json"),
        ("hubness", "", "_artifact/top_hubs.parquet"),
    }
    for stage in ("before", "hubness"):  # what the message says to do
        (output / stage / "_kxbatch/patches.json").unlink()
    assert finished.run().exit_code == 0
    assert verify("out/audit").defects == []
    assert tree_digests(output) == before


def test_a_part_with_other_columns(finished: Finished) -> None:
    part = finished.output / "whiten/part-00002.parquet"
    table = pq.read_table(part)
    pq.write_table(table.append_column("extra", pa.array([1] * table.num_rows)), part)
    receipt = finished.output / "whiten/_kxbatch/receipts/map/part-00002.json"
    facts = json.loads(receipt.read_text())
    receipt.write_text(sealed(facts | {"bytes": part.stat().st_size, "digest": File(str(part)).digest()}))
    [defect] = verify("out/audit").defects
    assert (defect.key, "extra: int64" in defect.problem) == ("part-00002", True)


def test_rows_other_than_the_receipt_says(finished: Finished) -> None:
    receipt = finished.output / "whiten/_kxbatch/receipts/map/part-00002.json"
    facts = json.loads(receipt.read_text())
    receipt.write_text(sealed(facts | {"rows_in": facts["rows_in"] + 2, "rows_out": facts["rows_out"] + 2}))
    [defect] = verify("out/audit").defects
    assert "rows instead of" in defect.problem


def test_one_stage_alone_keeps_the_record_of_the_others(finished: Finished) -> None:
    flip(finished.output / "embed/part-00000.parquet")
    flip(finished.output / "whiten/part-00001.parquet")
    verify("out/audit")
    assert [d.stage for d in verify("out/audit", stage="whiten").defects] == ["whiten"]
    recorded = read_defects(Folder(str(finished.output)))
    assert recorded == {"embed": frozenset({"part-00000"}), "whiten": frozenset({"part-00001"})}


def test_a_damaged_manifest_is_a_defect(finished: Finished) -> None:
    (finished.output / "_kxbatch/manifest.json").write_text("{")
    [defect] = verify("out/audit").defects
    assert defect.file == "_kxbatch/manifest.json"


def test_no_verification_while_a_run_is_at_work(finished: Finished) -> None:
    with Lease(Folder(str(finished.output)), "another"), pytest.raises(LeaseHeld, match="another is at work"):
        verify("out/audit")


def test_what_is_no_output_and_no_stage(finished: Finished) -> None:
    with pytest.raises(ConfigError, match="is no output of kxbatch"):
        verify("data")
    with pytest.raises(ConfigError, match="does not exist"):
        verify("out/nothing")
    with pytest.raises(ConfigError, match="did you mean 'whiten'"):
        verify("out/audit", stage="whitn")
