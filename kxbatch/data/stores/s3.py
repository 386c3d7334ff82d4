"""Files as objects of S3, or of a server that speaks its protocol.

An object appears whole or not at all, so nothing is written under a temporary name. pyarrow reads and lists; boto3 writes, because
it sends a checksum that the server compares, gives up an unfinished upload instead of completing it, and can write on a condition
(`If-None-Match`, `If-Match`). Credentials come from the standard chain only: environment, profile, role.

A request is tried three times by the client, with jittered pauses; whole operations are tried again for `PATIENCE` seconds, which
covers what clients do not: a body that ends too early, and a server that is down for a while.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any, TypeVar

import pyarrow.fs as pafs
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_random_exponential

from kxbatch.data.filesystems import CONNECT_TIMEOUT_S, REQUEST_TIMEOUT_S, reading, resolve, s3_server
from kxbatch.data.stores.base import Fence, Hashing, Listing, Published
from kxbatch.data.stores.disk import disk_errors
from kxbatch.errors import ConfigError, KxbatchError, RetryableError

PATIENCE = float(os.environ.get("KXBATCH_S3_PATIENCE", "120"))
_IN_MEMORY = 64 * 2**20
_PARALLEL = 32
_ATTEMPTS = 3
_LOG_EVERY = 30.0
_REFUSALS = {
    "NoSuchBucket": "there is no such bucket",
    "AccessDenied": "access denied: the credentials may not do this",
    "InvalidAccessKeyId": "the server does not know the access key",
    "SignatureDoesNotMatch": "the secret key does not fit the access key",
    "ExpiredToken": "the session token has expired",
    "AllAccessDisabled": "access to the bucket is disabled",
}
_ABSENT = ("NoSuchKey", "NoSuchUpload", "404", "NotFound")
_CHANGED = ("PreconditionFailed", "412")
# Of the way, not of the request, although their status is 400 or 409.
_PASSING = ("RequestTimeout", "IncompleteBody", "BadDigest", "XAmzContentSHA256Mismatch", "ConditionalRequestConflict")
T = TypeVar("T")


class S3:
    """See `stores.base`."""

    remote = True

    def open(self, path: str, *, mapped: bool) -> Any:
        """For random access; reads are ranged requests."""
        filesystem, key = resolve(path, None)
        return _patiently(lambda: _read(path, lambda: filesystem.open_input_file(key)))

    def read(self, path: str) -> tuple[bytes, str]:
        """All bytes; the entity tag is the version."""

        def get() -> tuple[bytes, str]:
            with _told(path):
                answer = _client(path).get_object(**_place(path))
                return answer["Body"].read(), answer["ETag"]

        return _patiently(get)

    def read_all(self, paths: Iterable[str]) -> Iterator[bytes | None]:
        """Many at a time: a request spends most of its time under way."""
        with ThreadPoolExecutor(_PARALLEL) as pool:
            yield from pool.map(self._read_or_none, paths)

    def _read_or_none(self, path: str) -> bytes | None:
        try:
            return self.read(path)[0]
        except FileNotFoundError:
            return None

    def size(self, path: str) -> int | None:
        """Bytes of an object, None where there is none."""

        def head() -> int | None:
            try:
                with _told(path):
                    return int(_client(path).head_object(**_place(path))["ContentLength"])
            except FileNotFoundError:
                return None

        return _patiently(head)

    def is_folder(self, path: str) -> bool:
        """Whether any key starts with this one and a slash."""
        place = _place(path)

        def look() -> bool:
            with _told(path):
                prefix = f"{place['Key']}/" if place["Key"] else ""
                return bool(_client(path).list_objects_v2(Bucket=place["Bucket"], Prefix=prefix, MaxKeys=1)["KeyCount"])

        return _patiently(look)

    def listing(self, path: str) -> Listing:
        """A thousand names a request."""
        filesystem, key = resolve(path, None)
        selector = pafs.FileSelector(key, allow_not_found=True)
        found = _patiently(lambda: _read(path, lambda: filesystem.get_file_info(selector)))
        files = {info.base_name: info.size for info in found if info.type == pafs.FileType.File}
        folders = [info.base_name for info in found if info.type == pafs.FileType.Directory]
        return Listing(dict(sorted(files.items())), sorted(folders))

    def publish(self, path: str, write: Callable[[Any], Any], fence: Fence) -> Published:
        """Everything is written beforehand, here; then it is sent in one upload."""
        with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as spool:
            hashing = Hashing(spool)
            with disk_errors(tempfile.gettempdir()):
                write(hashing)

            def send() -> None:
                fence()
                spool.seek(0)
                with _told(path):
                    if hashing.bytes <= _IN_MEMORY:
                        _client(path).put_object(**_place(path), Body=spool, ContentLength=hashing.bytes)
                    else:
                        _upload(path, spool)

            _patiently(send)
        return hashing.published()

    def replace(self, path: str, data: bytes, version: str | None) -> str | None:
        """A conditional write. Where an answer got lost, the object itself tells whether it was ours that won."""
        condition = {"IfMatch": version} if version is not None else {"IfNoneMatch": "*"}

        def put() -> str | None:
            try:
                with _told(path):
                    return str(_client(path).put_object(**_place(path), Body=data, **condition)["ETag"])
            except _Changed:
                found, current = self.read(path)
                return current if found == data else None

        try:
            return _patiently(put)
        except FileNotFoundError:  # a condition on an object that is gone
            return None

    def remove(self, path: str) -> None:
        """Remove an object; none there is fine."""

        def delete() -> None:
            with _told(path):
                _client(path).delete_object(**_place(path))

        _patiently(delete)

    def remove_folder(self, path: str) -> None:
        """See `Store`."""

    def appending(self, path: str, fence: Fence) -> _Growing:
        """Objects cannot grow: the log is kept here and sent now and then."""
        return _Growing(self, path, fence)

    def leftovers(self, path: str) -> list[str]:
        """Keys of uploads in several pieces that nobody finished: invisible, but stored and paid for."""
        return [f"s3://{place['Bucket']}/{place['Key']}" for place, _ in self._unfinished(path)]

    def sweep(self, path: str) -> None:
        """Give up unfinished uploads."""
        for place, upload in self._unfinished(path):
            _patiently(partial(_give_up, path, place, upload))

    def _unfinished(self, path: str) -> list[tuple[dict[str, str], str]]:
        place = _place(path)

        def look() -> list[tuple[dict[str, str], str]]:
            with _told(path):
                pages = _client(path).get_paginator("list_multipart_uploads")
                found = pages.paginate(Bucket=place["Bucket"], Prefix=f"{place['Key']}/")
                uploads = [upload for page in found for upload in page.get("Uploads", [])]
            return [({"Bucket": place["Bucket"], "Key": upload["Key"]}, upload["UploadId"]) for upload in uploads]

        return _patiently(look)


def _give_up(path: str, place: dict[str, str], upload: str) -> None:
    with contextlib.suppress(FileNotFoundError), _told(path):
        _client(path).abort_multipart_upload(**place, UploadId=upload)


class _Changed(Exception):
    """The condition of a write did not hold."""


class _Growing:
    """A log in memory that is sent as a whole every half minute, after what the object held before, and at the end."""

    def __init__(self, store: S3, path: str, fence: Fence) -> None:
        self._store, self._path, self._fence = store, path, fence
        self._lines: list[bytes] = []
        self._sent = time.monotonic()
        self._lock = threading.Lock()
        with contextlib.suppress(FileNotFoundError):
            self._lines.append(store.read(path)[0])

    def write(self, line: str) -> None:
        """Add a line."""
        with self._lock:
            self._lines.append(line.encode() + b"\n")
            if time.monotonic() - self._sent >= _LOG_EVERY:
                self._send()

    def close(self) -> None:
        """Send the rest."""
        with self._lock:
            self._send()

    def _send(self) -> None:
        whole = b"".join(self._lines)
        self._lines, self._sent = [whole], time.monotonic()
        self._store.publish(self._path, lambda sink: sink.write(whole), self._fence)


def _patiently(operation: Callable[[], T]) -> T:
    """Try again what may pass, with jittered pauses."""
    trying = Retrying(
        retry=retry_if_exception_type(RetryableError),
        wait=wait_random_exponential(multiplier=0.5, max=15),
        stop=stop_after_delay(PATIENCE),
        reraise=True,
    )
    return trying(operation)


def _read(path: str, operation: Callable[[], T]) -> T:
    with reading(path):
        return operation()


def _place(path: str) -> dict[str, str]:
    bucket, _, key = path.removeprefix("s3://").partition("/")
    return {"Bucket": bucket, "Key": key}


def _client(path: str) -> Any:
    bucket = _place(path)["Bucket"]
    return _made_client(*s3_server(bucket), os.getpid())  # connections do not survive a fork


@lru_cache(maxsize=16)
def _made_client(endpoint: str, region: str, process: int) -> Any:
    try:
        import boto3
        from botocore.config import Config
    except ImportError:
        raise ConfigError("outputs on s3:// need boto3; install it: pip install 'kxbatch[s3]'") from None
    settings = Config(
        connect_timeout=CONNECT_TIMEOUT_S,
        read_timeout=REQUEST_TIMEOUT_S,
        retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        max_pool_connections=_PARALLEL,
    )
    return boto3.session.Session().client("s3", region_name=region, endpoint_url=endpoint or None, config=settings)


def _upload(path: str, file: Any) -> None:
    """An upload in several pieces, of at most 10 000, as the protocol has it."""
    from boto3.s3.transfer import TransferConfig

    settings = TransferConfig(multipart_threshold=_IN_MEMORY, multipart_chunksize=_IN_MEMORY, max_concurrency=4)
    place = _place(path)
    _client(path).upload_fileobj(file, place["Bucket"], place["Key"], Config=settings)


@contextlib.contextmanager
def _told(path: str) -> Iterator[None]:
    """Sorts what boto3 raises by what should happen next.

    Raises:
        FileNotFoundError: there is no such object.
        ConfigError: no bucket, no rights, no credentials.
        RetryableError: everything that may pass.
    """
    from boto3.exceptions import S3UploadFailedError
    from botocore import exceptions as its

    settings = (
        its.ProfileNotFound,
        its.PartialCredentialsError,
        its.ParamValidationError,
        its.ConfigParseError,
        ValueError,
    )

    try:
        yield
    except its.ClientError as error:
        raise _sorted(path, error) from error
    except settings as error:
        raise ConfigError(f"{path}: {error}; see the settings and credentials of AWS in the environment") from error
    except its.NoCredentialsError as error:
        words = (
            "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or give the machine a role"
        )
        raise ConfigError(f"{path}: {words}") from error
    except (S3UploadFailedError, its.BotoCoreError, OSError) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise RetryableError(f"{path}: {error}") from error


def _sorted(path: str, error: Any) -> Exception:
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    found: Exception | KxbatchError
    if code in _ABSENT:
        found = FileNotFoundError(path)
    elif code in _CHANGED:
        found = _Changed(path)
    elif code in _REFUSALS:
        found = ConfigError(f"{path}: {_REFUSALS[code]}; nothing there was changed")
    elif code not in _PASSING and status in (400, 401, 403, 405, 501):
        found = ConfigError(f"{path}: the server refuses: {error}")
    else:
        found = RetryableError(f"{path}: {error}")
    return found
