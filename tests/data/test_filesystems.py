import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from kxbatch.data.filesystems import absolute, is_local, resolve, storage_error
from kxbatch.errors import ConfigError, DataError, RetryableError


@pytest.fixture
def store() -> Iterator[tuple[str, list[str]]]:
    """A server that knows no object and remembers what it was asked."""
    asked: list[str] = []

    class Nothing(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            asked.append(f"{self.command} {self.path}")
            self.send_response(403 if "denied" in self.path else 404)
            self.end_headers()

        def do_GET(self) -> None:
            asked.append(f"{self.command} {self.path}")
            body = b"<ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>"
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Nothing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("a/b.csv", "/base/a/b.csv"),
        ("./a/../b.csv", "/base/b.csv"),
        ("../b.csv", "/b.csv"),
        ("/x/y/", "/x/y"),
        ("file:///x/a%20b.csv", "/x/a b.csv"),
        ("file://localhost/x/y", "/x/y"),
        ("with:colon/a b%20.csv", "/base/with:colon/a b%20.csv"),
        ("s3://bucket/key with/../dots/", "s3://bucket/key with/../dots"),
        ("gs://bucket", "gs://bucket"),
    ],
)
def test_every_form_of_an_address_has_one_canonical_form(url: str, expected: str) -> None:
    assert absolute(url, Path("/base")) == expected
    assert absolute(expected, None) == expected


def test_home_and_working_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.chdir(tmp_path)
    assert absolute("~/data", Path("/base")) == "/home/someone/data"
    assert absolute("data", None) == str(tmp_path / "data")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("s3a://bucket/key", ["unknown scheme 's3a'", "file://, gs://, s3://", "did you mean 's3'"]),
        ("https://host/file.csv", ["unknown scheme 'https'", "plain paths"]),
        ("s3://", ["names no bucket", "s3://BUCKET/KEY"]),
        ("gs:///key", ["names no bucket"]),
        ("file://otherhost/x", ["another host ('otherhost')", "file:///PATH"]),
        ("~nobody-of-that-name/x", ["~nobody-of-that-name/x"]),
    ],
)
def test_an_address_that_cannot_be_is_refused_in_words(url: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        resolve(url, Path("/base"))
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_a_local_file_is_found_through_path_and_url(tmp_path: Path) -> None:
    (tmp_path / "a b.txt").write_text("hello")
    for url in ("a b.txt", str(tmp_path / "a b.txt"), f"file://{tmp_path}/a%20b.txt"):
        fs, path = resolve(url, tmp_path)
        assert is_local(fs)
        assert fs.open_input_file(path).read() == b"hello"


def test_s3_asks_the_endpoint_of_the_environment(store: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint, asked = store
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    fs, path = resolve("s3://bucket/folder/file.csv", None)
    assert not is_local(fs)
    assert fs.get_file_info(path).type == pafs.FileType.NotFound
    assert asked[0] == "HEAD /bucket/folder/file.csv"
    with pytest.raises(OSError, match="AWS Error ACCESS_DENIED") as denied:
        fs.get_file_info("bucket/denied")
    assert isinstance(storage_error(denied.value, "s3://bucket/denied"), ConfigError)


def test_google_storage_is_opened_without_asking_it() -> None:
    fs, path = resolve("gs://bucket/folder/file.csv", None)
    assert (fs.type_name, path) == ("gcs", "bucket/folder/file.csv")


def test_a_store_that_does_not_answer_is_worth_another_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")  # the discard port: nobody listens
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    fs, path = resolve("s3://bucket/key", None)
    with pytest.raises(OSError, match="AWS Error") as caught:
        fs.get_file_info(path)
    assert isinstance(storage_error(caught.value, "s3://bucket/key"), RetryableError)


def test_storage_errors_are_sorted_by_what_to_do_next(tmp_path: Path) -> None:
    fs, path = resolve("absent.csv", tmp_path)
    with pytest.raises(FileNotFoundError) as gone:
        fs.open_input_file(path)
    assert isinstance(storage_error(gone.value, path), DataError)
    assert isinstance(storage_error(PermissionError(13, "denied"), path), ConfigError)
    assert isinstance(storage_error(OSError(5, "Input/output error"), path), RetryableError)
    assert isinstance(storage_error(OSError("Truncated compressed stream"), path), DataError)
