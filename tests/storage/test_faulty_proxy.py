"""The proxy breaks what its plan says and nothing else, seen by the two clients that kxbatch has."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pyarrow.fs as pafs
import pytest
import requests
from botocore.exceptions import BotoCoreError, ClientError
from storage.faulty_proxy import KINDS, PASSED, FaultyProxy, Plan, faulty_proxy
from storage.s3_server import CREDENTIALS, netloc, s3_client

CONTENT = bytes(range(256)) * 3000
BROKEN = ("slow_down", "internal", "reset_before", "reset_after", "stall")
QUICK = {"stall_s": 2.0, "drip_s": 0.2, "in_a_row": 1}


def arrow(endpoint: str, attempts: int = 5) -> pafs.S3FileSystem:
    return pafs.S3FileSystem(
        access_key=CREDENTIALS["AWS_ACCESS_KEY_ID"],
        secret_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        region=CREDENTIALS["AWS_REGION"],
        endpoint_override=netloc(endpoint),
        scheme="http",
        request_timeout=1,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=attempts),
    )


def boto(endpoint: str, attempts: int = 5) -> Any:
    return s3_client(endpoint, attempts, timeout=1)


def status(error: ClientError) -> int:
    return int(error.response["ResponseMetadata"]["HTTPStatusCode"])


def read(client: Any, bucket: str, key: str) -> bytes:
    content: bytes = client.get_object(Bucket=bucket, Key=key)["Body"].read()
    return content


def test_one_of_many_conditional_writers_wins(s3: Any, bucket: str) -> None:
    for round_ in range(3):
        together = threading.Barrier(16)
        tag = s3.put_object(Bucket=bucket, Key=f"changed-{round_}", Body=b"old")["ETag"]

        def write(
            writer: int, key: str, condition: dict[str, str], together: threading.Barrier = together
        ) -> int | None:
            together.wait()
            try:
                s3.put_object(Bucket=bucket, Key=key, Body=b"%d" % writer, **condition)
            except s3.exceptions.ClientError as error:
                return None if status(error) == 412 else -1
            return writer

        for key, condition in ((f"new-{round_}", {"IfNoneMatch": "*"}), (f"changed-{round_}", {"IfMatch": tag})):
            with ThreadPoolExecutor(16) as pool:
                futures = [pool.submit(write, writer, key, condition) for writer in range(16)]
                (winner,) = [won for future in futures if (won := future.result()) is not None]
            assert read(s3, bucket, key) == b"%d" % winner


@pytest.mark.parametrize("kind", KINDS)
def test_pyarrow_reads_exact_bytes_through_every_fault(proxy: FaultyProxy, s3: Any, bucket: str, kind: str) -> None:
    s3.put_object(Bucket=bucket, Key="file", Body=CONTENT)
    proxy.plan = Plan(share=1, kinds=(kind,), methods=("GET",), **QUICK)
    with arrow(proxy.endpoint).open_input_file(f"{bucket}/file") as file:
        assert file.read() == CONTENT
    assert proxy.counts[kind] == 1


@pytest.mark.parametrize("kind", KINDS)
def test_boto_reads_exact_bytes_or_says_that_it_did_not(proxy: FaultyProxy, s3: Any, bucket: str, kind: str) -> None:
    s3.put_object(Bucket=bucket, Key="file", Body=CONTENT)
    proxy.plan = Plan(share=1, kinds=(kind,), methods=("GET",), **QUICK)
    client = boto(proxy.endpoint, attempts=1)
    if kind != "drip":
        with pytest.raises((BotoCoreError, ClientError)):
            read(client, bucket, "file")
    assert read(client, bucket, "file") == CONTENT
    assert proxy.counts[kind] == 1


def test_boto_does_not_try_a_broken_body_again(proxy: FaultyProxy, s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="file", Body=CONTENT)
    proxy.plan = Plan(storm=True, kinds=("cut_body", "reset_body"), methods=("GET",))
    with pytest.raises(BotoCoreError):
        read(boto(proxy.endpoint), bucket, "file")
    assert proxy.counts.total() == 1


@pytest.mark.parametrize("kind", BROKEN)
def test_writes_arrive_exact_through_every_fault(proxy: FaultyProxy, s3: Any, bucket: str, kind: str) -> None:
    proxy.plan = Plan(share=1, kinds=(kind,), methods=("PUT",), **QUICK)
    boto(proxy.endpoint).put_object(Bucket=bucket, Key="boto", Body=CONTENT)
    with arrow(proxy.endpoint).open_output_stream(f"{bucket}/arrow") as stream:
        stream.write(CONTENT)
    assert proxy.counts[kind] == 2
    assert read(s3, bucket, "boto") == read(s3, bucket, "arrow") == CONTENT


@pytest.mark.parametrize("kind", ["reset_after", "stall"])
def test_a_writer_that_won_is_told_that_it_lost(proxy: FaultyProxy, s3: Any, bucket: str, kind: str) -> None:
    """Its answer is lost, its client asks again, and the object in the way is its own."""
    tag = s3.put_object(Bucket=bucket, Key="changed", Body=b"old")["ETag"]
    proxy.plan = Plan(share=1, kinds=(kind,), methods=("PUT",), **QUICK)
    for key, condition in (("new", {"IfNoneMatch": "*"}), ("changed", {"IfMatch": tag})):
        with pytest.raises(ClientError) as caught:
            boto(proxy.endpoint).put_object(Bucket=bucket, Key=key, Body=b"mine", **condition)
        assert status(caught.value) == 412
        assert read(s3, bucket, key) == b"mine"


@pytest.mark.parametrize("kind", BROKEN)
def test_what_the_server_did_before_the_fault(proxy: FaultyProxy, s3: Any, bucket: str, kind: str) -> None:
    proxy.plan = Plan(storm=True, kinds=(kind,), methods=("PUT",), **QUICK)
    with pytest.raises((BotoCoreError, ClientError)):
        boto(proxy.endpoint, attempts=1).put_object(Bucket=bucket, Key="file", Body=b"mine")
    there = s3.list_objects_v2(Bucket=bucket)["KeyCount"]
    assert there == (1 if kind in ("reset_after", "stall") else 0)


def test_faults_of_one_request_end_and_a_storm_does_not(proxy: FaultyProxy, s3: Any, bucket: str) -> None:
    s3.put_object(Bucket=bucket, Key="file", Body=CONTENT)
    client = boto(proxy.endpoint, attempts=1)

    def outcome() -> bool:
        try:
            return read(client, bucket, "file") == CONTENT
        except (BotoCoreError, ClientError):
            return False

    breaking = ("slow_down", "internal", "reset_before", "reset_after", "reset_body", "cut_body")
    proxy.reset(Plan(share=1, kinds=breaking, in_a_row=2))
    assert [outcome() for _ in range(9)] == [False, False, True] * 3
    proxy.reset(Plan(storm=True, kinds=breaking))
    assert [outcome() for _ in range(9)] == [False] * 9
    with pytest.raises(OSError, match="AWS Error"):
        arrow(proxy.endpoint, attempts=2).open_input_file(f"{bucket}/file")
    proxy.reset(Plan())
    assert outcome()
    assert proxy.counts == {PASSED: 1}


def test_the_plan_hangs_on_the_seed_and_the_request_alone(s3_endpoint: str, s3: Any, bucket: str) -> None:
    keys = [f"file-{number}" for number in range(24)]
    for key in keys:
        s3.put_object(Bucket=bucket, Key=key, Body=CONTENT[:999])

    def broken(seed: int, order: list[str]) -> set[str]:
        failed = set()
        with faulty_proxy(s3_endpoint, Plan(share=0.5, kinds=("slow_down",), seed=seed)) as proxy:
            client = boto(proxy.endpoint, attempts=1)
            for key in order:
                try:
                    read(client, bucket, key)
                except ClientError:
                    failed.add(key)
            assert proxy.counts == {"slow_down": len(failed), PASSED: len(keys) - len(failed)}
        return failed

    assert 0 < len(broken(1, keys)) < len(keys)
    assert broken(1, keys) == broken(1, keys[::-1]) != broken(2, keys)


def test_only_the_methods_and_paths_of_the_plan_break(proxy: FaultyProxy, s3: Any, bucket: str) -> None:
    client = boto(proxy.endpoint, attempts=1)
    proxy.plan = Plan(storm=True, kinds=("internal",), methods=("PUT",), target="/receipts/")
    client.put_object(Bucket=bucket, Key="part", Body=b"1")
    with pytest.raises(ClientError, match="InternalError"):
        client.put_object(Bucket=bucket, Key="_kxbatch/receipts/part", Body=b"1")
    assert read(client, bucket, "part") == b"1"
    assert proxy.counts == {"internal": 1, PASSED: 2}


@contextmanager
def recorder() -> Iterator[tuple[str, list[tuple[str, dict[str, str], bytes]]]]:
    """A server that keeps what it is asked: path, headers, body."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            if self.headers["Transfer-Encoding"] == "chunked":
                body = b"".join(iter(self._chunk, b""))
            else:
                body = self.rfile.read(int(self.headers["Content-Length"]))
            asked.append((self.path, dict(self.headers), body))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def _chunk(self) -> bytes:
            chunk = self.rfile.read(int(self.rfile.readline(), 16))
            self.rfile.readline()
            return chunk

        def log_message(self, *_: object) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()


def test_requests_are_forwarded_as_they_came() -> None:
    with recorder() as (upstream, asked), faulty_proxy(upstream) as proxy:
        headers = {"X-Amz-Meta-Name": "a  b", "Authorization": "AWS4-HMAC-SHA256 SignedHeaders=host"}
        with requests.Session() as session:
            target = f"{proxy.endpoint}/bucket/a%20key?x-id=PutObject&empty="
            session.put(target, data=CONTENT, headers={**headers, "Expect": "100-continue"}).raise_for_status()
            session.put(target, data=iter([CONTENT[:7], CONTENT[7:]]), headers=headers).raise_for_status()
    for path, seen, body in asked:
        assert (path, body) == ("/bucket/a%20key?x-id=PutObject&empty=", CONTENT)
        assert seen["Host"] == netloc(proxy.endpoint)
        assert {name: seen[name] for name in headers} == headers
    assert len(asked) == 2
