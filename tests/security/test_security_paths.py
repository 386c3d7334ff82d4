"""Nothing is written, removed or read outside of an output, whatever names and links are in it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from finished import Finished
from fuzz.guard import verb
from support import audit_job, tree_digests, write_texts

import kxbatch as kx
from kxbatch.data.documents import publish_sealed
from kxbatch.data.storage import Folder
from kxbatch.errors import ConfigError, KxbatchError

pytest_plugins = ["finished"]

OUTSIDE = {
    "part-00000.parquet": b"not yours",
    ".tmp-precious": b"keep me",
    "part-00099.parquet": b"nor this",
    "log.jsonl": b"a log\n",
}


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder that is nobody's business, with names that a sweep would remove inside an output."""
    folder = tmp_path / "outside"
    folder.mkdir()
    for name, data in OUTSIDE.items():
        (folder / name).write_bytes(data)
    return folder


def untouched(outside: Path) -> None:
    assert {path.name: path.read_bytes() for path in outside.iterdir()} == OUTSIDE


PLACES = [
    "_kxbatch", "_kxbatch/ids", "embed", "whiten/_artifact", "whiten/_kxbatch", "embed/_kxbatch/receipts",
    "embed/_kxbatch/receipts/map", "whiten/_kxbatch/state/fold", "embed/_kxbatch/quarantine",
]  # fmt: skip


@pytest.mark.parametrize("place", PLACES)
def test_a_folder_that_is_a_link_is_refused(finished: Finished, outside: Path, place: str) -> None:
    path = finished.output / place
    shutil.rmtree(path)
    path.symlink_to(outside)
    with pytest.raises(ConfigError, match=rf"{place}: a link, which leads out of"):
        finished.run()
    for words in (["status", "out/audit"], ["quarantine", "ls", "out/audit"]):
        verb(*words)
    assert verb("verify", "out/audit")[0] == 2
    untouched(outside)


def test_a_log_that_is_a_link_is_not_written_through(finished: Finished, outside: Path) -> None:
    log = finished.output / "log.jsonl"
    log.unlink()
    log.symlink_to(outside / "log.jsonl")
    with pytest.raises(ConfigError, match=r"log.jsonl: a link"):
        finished.run()
    untouched(outside)


def test_files_that_are_links_are_replaced_not_followed(finished: Finished, outside: Path) -> None:
    wanted = tree_digests(finished.output)
    names = [
        "embed/part-00000.parquet",
        "embed/_kxbatch/receipts/map/part-00001.json",
        "run.json",
        "progress.json",
        "report.html",
        "metrics.prom",
    ]
    for name in names:
        (finished.output / name).unlink()
        (finished.output / name).symlink_to(outside / "part-00000.parquet")
    (finished.output / "embed/part-00077.parquet").symlink_to(outside / "part-00099.parquet")
    (finished.output / "embed/.tmp-old").symlink_to(outside)
    assert finished.run().exit_code == 0
    assert verb("report", "out/audit")[0] == 0
    untouched(outside)
    assert tree_digests(finished.output) == wanted
    assert not [
        name for name in (*names, "embed/part-00077.parquet", "embed/.tmp-old") if (finished.output / name).is_symlink()
    ]


def test_an_output_may_itself_be_reached_by_a_link(workplace: Path) -> None:
    write_texts(Path("data/a.jsonl"), 0, 10)
    Path("disk").mkdir()
    Path("out").symlink_to("disk")
    job = audit_job()
    assert kx.run(job | {"stage": job["stage"][:1]}, quiet=True).exit_code == 0
    assert Path("disk/audit/embed/part-00000.parquet").exists()


@pytest.mark.parametrize("name", ["../../../outside/part-00000.parquet", "/etc/hostname", "part-00000.parquet/../../x"])
def test_names_in_documents_do_not_lead_out(finished: Finished, outside: Path, name: str) -> None:
    """Patches and cards with good checksums: whoever can write them can compute those."""
    hubness = Folder(str(finished.output / "hubness"))
    patches = json.loads(hubness.read("_kxbatch/patches.json"))
    del patches["checksum"]
    for patch in patches["patches"].values():
        patch["file"] = name
        patch["digest"] = "0" * 64
    publish_sealed(hubness, "_kxbatch/patches.json", patches)
    with pytest.raises(KxbatchError, match=r"leads out of|patches"):
        _raise(finished)
    assert verb("verify", "out/audit")[0] in (1, 2, 3)
    untouched(outside)
    (finished.output / "hubness/_kxbatch/patches.json").unlink()
    card = json.loads((finished.output / "whiten/_artifact/card.json").read_text())
    del card["checksum"]
    publish_sealed(Folder(str(finished.output / "whiten/_artifact")), "card.json", card | {"files": {name: "0" * 64}})
    with pytest.raises(KxbatchError, match=r"card\.json: damaged, files"):
        _raise(finished)
    untouched(outside)


def _raise(finished: Finished) -> None:
    result = finished.run()
    if result.exit_code:
        raise KxbatchError(result.message)


@pytest.mark.parametrize("stage", ["../outside", "/etc", "..", "embed/../../x", "a\nb"])
def test_stage_names_in_the_record_do_not_lead_out(finished: Finished, stage: str) -> None:
    record = json.loads((finished.output / "run.json").read_text())
    record["job"]["stage"][0]["name"] = record["stages"][0]["name"] = stage
    (finished.output / "run.json").write_text(json.dumps(record))
    for words in (
        ["report", "out/audit"],
        ["quarantine", "show", "out/audit"],
        ["export", "out/audit", "--to", "flat"],
    ):
        status, _, err = verb(*words)
        assert status == 1
        assert "run.json: damaged, job.stage.0.name" in err


def test_source_files_with_hostile_names(workplace: Path) -> None:
    """A name is text: ids begin with it, files of the output do not."""
    write_texts(Path("data/a.jsonl"), 0, 3)
    hostile = ["a..%2f..%2fx.jsonl", "new\nline.jsonl", "x..jsonl.jsonl", "$HOME.jsonl", "a b'\"<script>.jsonl"]
    for number, name in enumerate(hostile):
        write_texts(Path("data", name), 10 * number + 10, 3)
    job = audit_job()
    job["input"].pop("id")
    before = set(workplace.iterdir())
    assert kx.run(job | {"stage": job["stage"][:1]}, quiet=True).exit_code == 0
    assert set(workplace.iterdir()) - before <= {workplace / "out", workplace / "__pycache__"}
    ids = set(kx.open("out/audit").scan().collect()["id"])
    assert {f"{name}#0" for name in hostile} <= ids
    assert sorted(path.name for path in Path("out/audit/embed").glob("*.parquet")) == [
        f"part-{i:05d}.parquet" for i in range(6)
    ]


def test_exports_stay_out_of_outputs_and_replace_links_safely(finished: Finished, outside: Path) -> None:
    for target in ("out/audit/embed", "out/audit", "out", "out/audit/x/../embed"):
        status, _, err = verb("export", "out/audit", "--to", target)
        assert (status, "inside or around the output" in err) == (2, True), target
    Path("way").symlink_to("out/audit/embed")
    assert verb("export", "out/audit", "--to", "way")[0] == 2, "a link into the output is inside of it"
    Path("flat.jsonl").symlink_to(outside / "log.jsonl")
    assert verb("export", "out/audit", "--to", "flat.jsonl", "--overwrite")[0] == 0
    untouched(outside)
    assert verb("compact", "out/audit/embed")[0] == 2
    assert verb("compact", str(outside))[0] in (2, 3)
    untouched(outside)


def test_values_of_jobs_are_not_expanded(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MARKED", "expanded")
    write_texts(Path("data/a.jsonl"), 0, 4)
    job = audit_job()
    job |= {"job": {**job["job"], "output": "out/$MARKED/${MARKED}/%(MARKED)s"}, "stage": job["stage"][:1]}
    assert kx.run(job, quiet=True).exit_code == 0
    assert Path("out/$MARKED/${MARKED}/%(MARKED)s/embed/part-00000.parquet").exists()
    assert not [path for path in Path("out").rglob("*") if path.is_file() and b"expanded" in path.read_bytes()]
    with pytest.raises(ConfigError, match=r"\$MARKED"):
        kx.run(job | {"input": {"path": "$MARKED/*.jsonl"}}, quiet=True)


@pytest.mark.skipif(os.name != "posix", reason="modes are those of POSIX")
def test_modes_follow_the_umask(workplace: Path) -> None:
    write_texts(Path("data/a.jsonl"), 0, 4)
    job = audit_job()
    before = os.umask(0o027)
    try:
        assert kx.run(job | {"stage": job["stage"][:1]}, quiet=True).exit_code == 0
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in Path("out").rglob("*") if path.is_file()}
    assert modes == {0o640}


def test_a_stage_that_is_gone_is_no_sound_output(finished: Finished) -> None:
    shutil.rmtree(finished.output / "before")
    status, out, _ = verb("verify", "out/audit")
    assert (status, "before/_kxbatch/receipts/map/part-00000.json: the receipt is gone" in out) == (3, True)
    assert finished.run().exit_code == 0
    assert verb("verify", "out/audit")[0] == 0
