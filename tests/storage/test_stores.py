"""What every store promises, on a disk and on an object store."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from storage.s3_server import s3_client

from kxbatch.data.parts import publish_part, read_footer, read_part, scan_part
from kxbatch.data.storage import Folder, output_folder
from kxbatch.data.stores import s3
from kxbatch.errors import ConfigError, FatalError, RetryableError


@pytest.fixture(params=["disk", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    if request.param == "disk":
        return Folder(str(tmp_path / "out"))
    return Folder(f"s3://{request.getfixturevalue('bucket')}/out")


def test_what_was_published_is_read_and_listed(folder: Folder) -> None:
    assert not folder.exists()
    assert list(folder.names()) == []
    for name in ("b.json", "a.json", "inner/deep/c.json"):
        folder.publish_json(name, {"name": name})
    assert folder.exists()
    assert folder.listing().files == {"a.json": 23, "b.json": 23}
    assert folder.listing().folders == ["inner"]
    assert folder.child("inner").listing().folders == ["deep"]
    assert folder.read_json("inner/deep/c.json") == {"name": "inner/deep/c.json"}
    assert list(folder.read_all(["a.json", "none.json"])) == [b'{\n  "name": "a.json"\n}\n', None]
    assert folder.size("a.json") == 23
    folder.remove("a.json")
    folder.remove("a.json")
    assert folder.size("a.json") is None
    assert folder.read_json("a.json") is None
    assert list(folder.names(".json")) == ["b.json"]


def test_a_writer_that_fails_leaves_what_was_there(folder: Folder) -> None:
    folder.publish_bytes("file", b"old")

    def breaks(sink: Any) -> None:
        sink.write(b"new, but")
        raise KeyError("in the middle")

    with pytest.raises(KeyError):
        folder.publish("file", breaks)
    assert folder.read("file") == b"old"
    assert list(folder.leftovers()) == []


def test_a_fence_that_refuses_lets_nothing_through(folder: Folder) -> None:
    folder.publish_bytes("file", b"old")

    def lost() -> None:
        raise FatalError("the lease is lost")

    fenced = folder.fenced(lost)
    for attempt in (
        lambda: fenced.publish_bytes("file", b"new"),
        lambda: fenced.child("inner").publish_bytes("file", b"new"),
        lambda: fenced.remove("file"),
    ):
        with pytest.raises(FatalError, match="lost"):
            attempt()
    assert folder.read("file") == b"old"
    assert folder.listing().folders in ([], ["inner"])
    assert folder.child("inner").listing().files == {}


def test_a_conditional_write_has_one_winner(folder: Folder) -> None:
    first = folder.replace("lease.json", b"0", None)
    assert first is not None
    assert folder.replace("lease.json", b"x", None) is None
    barrier, won = threading.Barrier(8), []

    def contend(number: int) -> None:
        barrier.wait()
        if folder.replace("lease.json", str(number).encode(), first) is not None:
            won.append(number)

    threads = [threading.Thread(target=contend, args=(number,)) for number in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert folder.read("lease.json") == str(won[0]).encode()
    assert folder.replace("lease.json", b"late", first) is None
    assert folder.replace("gone.json", b"x", first) is None


def test_parts_round_trip(folder: Folder) -> None:
    table = pa.table({"id": ["a", "b"], "x": [1.5, 2.5]})
    published = publish_part(folder, "part-00000.parquet", table, {"stage": "s"})
    file = folder.file("part-00000.parquet")
    assert read_part(file, ["x"]).column("x").to_pylist() == [1.5, 2.5]
    assert read_footer(file)[1:] == (2, {"stage": "s"})
    assert scan_part(file).filter(id="b").collect().rows() == [("b", 2.5)]
    assert file.size() == published.bytes


def test_a_log_goes_on_where_it_ended(folder: Folder) -> None:
    for lines in (["one", "two"], ["three"]):
        log = folder.appending("log.jsonl")
        for line in lines:
            log.write(line)
        log.close()
    assert folder.read("log.jsonl") == b"one\ntwo\nthree\n"


def test_a_file_on_a_disk_is_private_until_it_is_published(tmp_path: Path) -> None:
    modes = []

    def write(sink: Any) -> None:
        sink.write(b"x")
        modes.extend(stat.S_IMODE(path.stat().st_mode) for path in tmp_path.glob(".tmp-*"))

    before = os.umask(0o027)
    try:
        Folder(str(tmp_path)).publish("file", write)
    finally:
        os.umask(before)
    assert modes == [0o600]
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_a_large_object_is_sent_in_pieces_and_unfinished_pieces_are_swept(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder(f"s3://{bucket}/out")
    monkeypatch.setattr(s3, "_IN_MEMORY", 6 * 2**20)  # pieces of a real store have at least 5 MiB
    data = np.random.default_rng(0).bytes(15 * 2**20)
    folder.publish_bytes("large", data)
    assert folder.read("large") == data
    client = s3_client(os.environ["AWS_ENDPOINT_URL"])
    client.create_multipart_upload(Bucket=bucket, Key="out/embed/part-00000.parquet")
    client.create_multipart_upload(Bucket=bucket, Key="other/file")
    assert list(folder.leftovers()) == ["embed/part-00000.parquet"]
    folder.sweep()
    assert list(folder.leftovers()) == []
    assert [u["Key"] for u in client.list_multipart_uploads(Bucket=bucket)["Uploads"]] == ["other/file"]


def test_refusals_say_what_is_wrong(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"s3://no-such-bucket-here/x.*there is no such bucket"):
        Folder("s3://no-such-bucket-here").read("x")
    with pytest.raises(ConfigError, match="names no bucket"):
        output_folder("s3://", Path.cwd())
    with pytest.raises(ConfigError, match=r"gs:// works for \[input\]"):
        output_folder("gs://bucket/out", Path.cwd())
    monkeypatch.setattr(s3, "PATIENCE", 0.5)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(RetryableError, match=f"s3://{bucket}/x.*127.0.0.1:9"):
        Folder(f"s3://{bucket}").read("x")


@pytest.fixture
def unsigned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No credentials anywhere on the standard chain."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3._made_client.cache_clear()
    yield
    s3._made_client.cache_clear()


def test_without_credentials(bucket: str, unsigned: None) -> None:
    with pytest.raises(ConfigError, match="no credentials: set AWS_ACCESS_KEY_ID"):
        Folder(f"s3://{bucket}").read("x")
