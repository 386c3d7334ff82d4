"""An S3 server of its own process on loopback: moto's, with conditional writes made atomic.

moto looks at `If-None-Match` and `If-Match` first and stores the object afterwards, so that of several writers at once
more than one may win. Real stores decide and write in one step; here one request at a time reaches moto.
"""

from __future__ import annotations

import io
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import boto3
import requests
from botocore.config import Config

WAIT_S = 60.0
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_REGION": "us-east-1"}

Application = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@contextmanager
def s3_server() -> Iterator[str]:
    """A running server, by its URL; gone with the block, or with this process however it ends."""
    process = subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        endpoint = process.stdout.readline().strip()
        assert endpoint, f"the S3 server ended at its start, status {process.wait(WAIT_S)}"
        assert requests.get(endpoint, timeout=WAIT_S).ok
        yield endpoint
    finally:
        process.kill()
        process.communicate()


def s3_client(endpoint: str, attempts: int = 5, timeout: float = 30) -> Any:
    """boto3 for a server; `attempts` counts the first one."""
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name=CREDENTIALS["AWS_REGION"],
        aws_access_key_id=CREDENTIALS["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
        config=Config(
            retries={"mode": "standard", "total_max_attempts": attempts},
            s3={"addressing_style": "path"},
            connect_timeout=5,
            read_timeout=timeout,
        ),
    )


def bucket_keys(client: Any, bucket: str) -> list[str]:
    """The keys of all objects of a bucket; some may be gone again when somebody writes there."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    return [entry["Key"] for page in pages for entry in page.get("Contents", ())]


def bucket_objects(client: Any, bucket: str) -> dict[str, bytes]:
    """All objects of a bucket that nobody writes to, by key."""
    return {key: client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in bucket_keys(client, bucket)}


def netloc(endpoint: str) -> str:
    """`HOST:PORT` of a server's URL."""
    return urlsplit(endpoint).netloc


def _one_at_a_time(application: Application) -> Application:
    """The application under a lock; a request's body is read before it, so that a slow client holds up nobody."""
    lock = threading.Lock()

    def locked(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        stream, length = environ["wsgi.input"], int(environ.get("CONTENT_LENGTH") or 0)
        body = stream.read() if environ.get("wsgi.input_terminated") else stream.read(length)  # pyarrow names no length
        environ |= {"wsgi.input": io.BytesIO(body), "CONTENT_LENGTH": str(len(body))}
        with lock:
            answer = b"".join(application(environ, start_response))
        # Other servers list times in milliseconds and answer HEAD in seconds; moto and Amazon know seconds only.
        return [answer.replace(b".000Z</LastModified>", b".987Z</LastModified>")]

    return locked


def _serve() -> None:
    """Serve until standard input closes; the first line written is the URL."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
    from werkzeug.serving import make_server

    class KeepAlive(MotoRequestHandler):
        protocol_version = "HTTP/1.1"

        def log(self, *_: object) -> None:
            """Silent: a test's own output is what counts."""

    application = _one_at_a_time(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=KeepAlive)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    _serve()
