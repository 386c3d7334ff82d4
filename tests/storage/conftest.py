"""Fixtures over a real S3 server: one server for the session, a bucket for every test, a proxy that breaks requests."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from storage.faulty_proxy import FaultyProxy, faulty_proxy
from storage.s3_server import CREDENTIALS, s3_client, s3_server


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """URL of a running S3 server."""
    with s3_server() as endpoint:
        yield endpoint


@pytest.fixture
def s3(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """boto3 straight to the server; this process and its children take the server for S3."""
    for name, value in {**CREDENTIALS, "AWS_ENDPOINT_URL": s3_endpoint}.items():
        monkeypatch.setenv(name, value)
    return s3_client(s3_endpoint)


@pytest.fixture
def bucket(s3: Any, request: pytest.FixtureRequest) -> str:
    """Name of an empty bucket: always the same for the same test, because seeded faults hang on it."""
    name = f"test-{zlib.crc32(request.node.nodeid.encode()):08x}"
    s3.create_bucket(Bucket=name)
    return name


@pytest.fixture
def proxy(s3_endpoint: str, s3: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyProxy]:
    """A proxy that breaks nothing yet; this process and its children take it for S3, the fixture `s3` goes round it."""
    with faulty_proxy(s3_endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        yield proxy
