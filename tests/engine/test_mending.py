"""What an interrupted, failed or outrun run leaves is never believed: no old receipt for a new file, no defect forgotten."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from finished import Finished
from support import audit_job, tree_digests

import kxbatch as kx
from kxbatch.data.storage import Folder
from kxbatch.data.stores.disk import Disk
from kxbatch.engine import worker
from kxbatch.engine.lease import NAME, Lease, read_lease
from kxbatch.engine.verify import verify
from kxbatch.errors import RetryableError

pytest_plugins = ["finished"]


class Killed(BaseException):
    """The process ends here."""


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pauses between attempts."""
    monkeypatch.setattr("kxbatch.engine.executors.inline.pause_before", lambda *_: 0.0)


def stopping_at(stage: str, key: str, error: BaseException) -> Callable[..., Any]:
    """`write_receipt` that fails for one unit, after its file was published."""
    write = worker.write_receipt

    def fails(folder: Folder, receipt: Any) -> None:
        if folder.path.endswith(f"/{stage}") and receipt.key == key and receipt.phase == "map":
            raise error
        write(folder, receipt)

    return fails


def test_no_old_receipt_vouches_for_a_new_file(corpus: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of two configurations have equal sizes, so only the receipt tells them apart."""
    assert kx.run(audit_job(), quiet=True, report=False).exit_code == 0
    wanted = tree_digests(workplace / "out/audit")
    with monkeypatch.context() as patched:
        patched.setattr(worker, "write_receipt", stopping_at("whiten", "part-00000", Killed()))
        with pytest.raises(Killed):
            kx.run(audit_job(whiten={"beta": 0.5}), quiet=True, report=False)
    assert tree_digests(workplace / "out/audit") != wanted, "the new file is there"
    assert kx.run(audit_job(), quiet=True, report=False).exit_code == 0
    assert tree_digests(workplace / "out/audit") == wanted


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_defect_stays_on_record_until_it_is_mended(
    finished: Finished, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    wanted = tree_digests(finished.output)
    flip(finished.output / "embed/part-00008.parquet")
    assert verify(finished.output).defects
    assert kx.run(finished.job, limit=30, quiet=True, report=False).exit_code == 0, "the defect lies beyond the limit"
    with monkeypatch.context() as patched:
        failing = stopping_at("embed", "part-00008", RetryableError("the network is down"))
        patched.setattr(worker, "write_receipt", failing)
        assert finished.run().exit_code == 3
    assert finished.run().exit_code == 0
    assert tree_digests(finished.output) == wanted
    assert not verify(finished.output).defects


def test_a_passing_fault_above_removes_nothing_below(
    finished: Finished, monkeypatch: pytest.MonkeyPatch, quick: None
) -> None:
    wanted = tree_digests(finished.output)
    (finished.output / "embed/part-00001.parquet").unlink()
    below = {name for name in wanted if not name.startswith("embed/") and "part-00001" in name}
    assert len(below) == 3
    with monkeypatch.context() as patched:
        failing = stopping_at("embed", "part-00001", RetryableError("the network is down"))
        patched.setattr(worker, "write_receipt", failing)
        assert finished.run().exit_code == 3
    assert below <= tree_digests(finished.output).keys()
    assert finished.run().exit_code == 0
    assert tree_digests(finished.output) == wanted


def test_who_lost_the_lease_leaves_the_receipts_of_the_next_alone(
    finished: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run stood still after it had published a part; the next one did all of its work meanwhile."""
    receipt = finished.output / "embed/_kxbatch/receipts/map/part-00001.json"
    of_the_next = receipt.read_bytes()
    write = worker.write_receipt

    def late(folder: Folder, written: Any) -> None:
        lease = finished.output / NAME
        lease.write_text(json.dumps(json.loads(lease.read_text()) | {"token": 99, "run": "next"}))
        receipt.write_bytes(of_the_next)
        write(folder, written)

    monkeypatch.setattr(worker, "write_receipt", late)
    with pytest.raises(kx.errors.FatalError, match="lost its lease"):
        kx.run(finished.job, quiet=True, report=False, redo={"embed": frozenset({"part-00001"})})
    assert receipt.read_bytes() == of_the_next
    parts = tree_digests(finished.output)
    assert json.loads(of_the_next)["digest"] == parts["embed/part-00001.parquet"]


def test_a_heartbeat_whose_answer_is_lost_is_not_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kxbatch.engine.lease.HEARTBEAT", 0.05)
    output, replace, lost = Folder(str(tmp_path)), Disk.replace, []

    def silent(self: Disk, path: str, data: bytes, version: str | None) -> str | None:
        found = replace(self, path, data, version)
        if not lost:
            lost.append(path)
            raise RetryableError("the answer got lost")
        return found

    with Lease(output, "mine"):
        monkeypatch.setattr(Disk, "replace", silent)
        time.sleep(0.5)
        assert lost
        before = read_lease(output)
        time.sleep(0.5)
        after = read_lease(output)
        assert before is not None
        assert after is not None
        assert after["heartbeat"] > before["heartbeat"]
    left = read_lease(output)
    assert left is not None
    assert not left["held"]
