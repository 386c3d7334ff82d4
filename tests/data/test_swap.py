"""A folder is replaced as a whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from kxbatch.data import swap as module
from kxbatch.data.swap import Swap
from kxbatch.errors import DataError, FatalError, LeaseHeld


@pytest.fixture(params=["exchange", "two renames"])
def dataset(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one file; once on a file system that cannot exchange names."""
    if request.param == "two renames":
        monkeypatch.setattr(module, "_exchange", lambda a, b: False)
    folder = tmp_path / "dataset"
    folder.mkdir(mode=0o750)
    (folder / "old.txt").write_text("old")
    return folder


def replace(folder: Path, late: str | None = None) -> None:
    """Give a folder new content; somebody else writes a file to it before the end."""
    with Swap(folder) as swap:
        swap.new.publish_bytes("new.txt", b"new")
        if late:
            (folder / late).write_text("late")
        swap.commit()


def fill_and_fail(folder: Path) -> None:
    with Swap(folder) as swap:
        swap.new.publish_bytes("new.txt", b"new")
        raise RuntimeError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_new_content_takes_the_place_of_the_old(dataset: Path) -> None:
    with Swap(dataset) as swap:
        swap.new.publish_bytes("new.txt", b"new")
        assert names(dataset) == ["old.txt"]
        swap.commit()
    assert names(dataset) == ["new.txt"]
    assert names(dataset.parent) == ["dataset"]
    assert dataset.stat().st_mode & 0o777 == 0o750


def test_without_commit_nothing_changes(dataset: Path) -> None:
    with pytest.raises(RuntimeError):
        fill_and_fail(dataset)
    assert names(dataset) == ["old.txt"]
    assert names(dataset.parent) == ["dataset"]


def test_a_folder_that_is_absent_appears_whole(tmp_path: Path) -> None:
    with Swap(tmp_path / "a/b") as swap:
        swap.new.publish_bytes("new.txt", b"new")
        assert not (tmp_path / "a/b").exists()
        swap.commit()
    assert names(tmp_path / "a") == ["b"]


def test_a_file_that_came_meanwhile_is_not_lost(dataset: Path) -> None:
    with pytest.raises(DataError, match="somebody else changed it"):
        replace(dataset, late="late.txt")
    assert names(dataset) == ["late.txt", "old.txt"]


def test_a_file_that_came_in_the_last_moment_is_not_lost(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exchange, rename = module._exchange, Path.rename

    def late(path: Path) -> None:
        if path == dataset and not (dataset / "late.txt").exists():
            (path / "late.txt").write_text("late")

    def late_exchange(a: Path, b: Path) -> bool:
        late(b)
        return exchange(a, b)

    def late_rename(self: Path, target: Path) -> Path:
        late(self)
        return rename(self, target)

    monkeypatch.setattr(module, "_exchange", late_exchange)
    monkeypatch.setattr(Path, "rename", late_rename)
    with pytest.raises(DataError, match="somebody else changed it"):
        replace(dataset)
    assert names(dataset) == ["late.txt", "old.txt"]
    assert names(dataset.parent) == ["dataset"]


def test_a_link_stays_a_link(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(dataset)
    replace(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert names(dataset) == ["new.txt"]


def test_two_replacements_do_not_meet(dataset: Path) -> None:
    parent = os.open(dataset.parent, os.O_RDONLY)
    fcntl.flock(parent, fcntl.LOCK_EX)
    with pytest.raises(LeaseHeld, match="another export or compaction"), Swap(dataset):
        pass
    os.close(parent)
    with Swap(dataset):
        pass


def test_what_cannot_be_renamed_says_so(dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(*_: object) -> bool:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))  # what the kernel says of a mount point

    monkeypatch.setattr(module, "_exchange", busy)
    with pytest.raises(FatalError, match="no mount point"):
        replace(dataset)
    assert names(dataset) == ["old.txt"]
