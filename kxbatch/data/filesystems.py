"""Where bytes live: one address form for local folders and object stores, one place that opens them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pyarrow.fs as pafs

from kxbatch.errors import ConfigError, DataError, KxbatchError, RetryableError, nearest

SCHEMES = ("file", "gs", "s3")
CONNECT_TIMEOUT_S = 5.0
REQUEST_TIMEOUT_S = 30.0
ATTEMPTS = 5

# What a busy or broken path to the storage says; trying again may help. Everything else is about the data.
_PASSING = {
    errno.EIO, errno.EAGAIN, errno.EINTR, errno.EBUSY, errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNREFUSED,
    errno.ECONNABORTED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ESTALE, errno.EMFILE, errno.ENFILE,
}  # fmt: skip
_GONE_WORDS = ("NO_SUCH_", "RESOURCE_NOT_FOUND")
_DENIED_WORDS = ("ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH")
_REMOTE_WORDS = ("AWS Error", "google::cloud", "curl")


def absolute(url: str, base: Path | None) -> str:
    """The one canonical address of a file or folder, good in any working folder.

    Args:
        url: a path (absolute, relative, with `~`), or a `file://`, `s3://` or `gs://` URL.
        base: folder that relative paths start from; the working folder when None.

    Returns:
        An absolute local path without `.`, `..` or a final slash, or `scheme://bucket/key`.

    Raises:
        ConfigError: unknown scheme, no bucket, a `file://` URL of another host, an unknown `~user`.
    """
    if "\0" in url:
        raise ConfigError(f"path {url!r}: a null character cannot be part of a path")
    scheme, rest = _split(url)
    if scheme in ("s3", "gs"):
        rest = rest.rstrip("/")
        if not rest or rest.startswith("/"):
            raise ConfigError(f"{url!r} names no bucket; write {scheme}://BUCKET/KEY")
        return f"{scheme}://{rest}"
    if scheme == "file":
        rest = _file_url_path(url)
    try:
        path = Path(rest).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"path {url!r}: {error}") from error
    # normpath, not resolve: a symbolic link keeps the name the user gave it.
    return os.path.normpath((base or Path.cwd()).absolute() / path)


def start_from(base: Path) -> None:
    """Let relative paths in this process start from a folder, where this machine has it; a worker elsewhere stays where it is."""
    if base.is_dir():
        os.chdir(base)


def resolve(url: str, base: Path | None) -> tuple[pafs.FileSystem, str]:
    """Opens the file system that an address lives on.

    Object stores get 5 attempts, 5 s to connect and 30 s a request; `AWS_ENDPOINT_URL` points `s3://` at
    another server. Nothing is listed or read here.

    Args:
        url: as in `absolute`.
        base: as in `absolute`.

    Returns:
        The file system and the path on it.

    Raises:
        ConfigError: as in `absolute`.
        RetryableError: the region of an S3 bucket could not be looked up.
    """
    address = absolute(url, base)
    scheme, rest = _split(address)
    if scheme == "s3":
        return _s3(*s3_server(rest.split("/", 1)[0])), rest
    if scheme == "gs":
        return _gcs(), rest
    return pafs.LocalFileSystem(), address


def s3_server(bucket: str) -> tuple[str, str]:
    """Endpoint (`""` for Amazon's own) and region of an S3 bucket.

    Raises:
        ConfigError: there is no such bucket.
        RetryableError: its region could not be looked up.
    """
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    if endpoint and "://" not in endpoint:
        endpoint = f"https://{endpoint}"
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or ""
    if not region and not endpoint:
        region = _bucket_region(bucket)
    return endpoint, region or "us-east-1"


def is_local(filesystem: pafs.FileSystem) -> bool:
    """Whether the paths of a file system are paths of this machine."""
    return isinstance(filesystem, pafs.LocalFileSystem)


def modified_ns(filesystem: pafs.FileSystem, info: pafs.FileInfo) -> int:
    """When a file was changed last, the same however it was asked for.

    Some object stores list milliseconds and answer for one file with whole seconds, so whole seconds count there.

    Args:
        filesystem: where it lives.
        info: what was listed or answered.

    Returns:
        Nanoseconds since 1970; 0 where the store does not say.
    """
    time_ns = int(info.mtime_ns or 0)
    return time_ns if is_local(filesystem) else time_ns - time_ns % 1_000_000_000


def storage_error(error: Exception, url: str) -> KxbatchError:
    """Sorts a failed file operation by what should happen next.

    Args:
        error: what pyarrow or the system raised.
        url: the file or folder it was about.

    Returns:
        ConfigError for missing rights, RetryableError for passing faults, DataError for everything else.
    """
    text = str(error)
    if isinstance(error, FileNotFoundError) or any(word in text for word in _GONE_WORDS):
        return DataError(f"{url}: there is no such file any more; restore it or plan again ({error})")
    if isinstance(error, PermissionError) or any(word in text for word in _DENIED_WORDS):
        return ConfigError(f"{url}: no permission to read it ({error})")
    passing = getattr(error, "errno", None) in _PASSING or any(word in text for word in _REMOTE_WORDS)
    return RetryableError(f"{url}: {error}") if passing else DataError(f"{url}: {error}")


@contextmanager
def reading(url: str) -> Iterator[None]:
    """Turns the faults of reading a file into errors with policy; that there is no such file stays a FileNotFoundError.

    Raises:
        ConfigError: missing rights.
        RetryableError: passing faults.
        DataError: everything else.
    """
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise storage_error(error, url) from error


def _split(url: str) -> tuple[str, str]:
    """Scheme (`""` for a plain path) and what follows it."""
    scheme, separator, rest = url.partition("://")
    if not separator or "/" in scheme:
        return "", url
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise ConfigError(
            f"{url!r}: unknown scheme {scheme!r}; allowed are {known} and plain paths{nearest(scheme, SCHEMES)}"
        )
    return scheme, rest


def _file_url_path(url: str) -> str:
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise ConfigError(f"{url!r} is a file of another host ({parts.netloc!r}); write file:///PATH")
    return unquote(url.split("://", 1)[1].removeprefix("localhost"))


@lru_cache(maxsize=16)
def _s3(endpoint: str, region: str) -> pafs.FileSystem:
    server = urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}")
    return pafs.S3FileSystem(
        region=region,
        endpoint_override=server.netloc or None,
        scheme=server.scheme,
        connect_timeout=CONNECT_TIMEOUT_S,
        request_timeout=REQUEST_TIMEOUT_S,
        retry_strategy=pafs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
    )


@lru_cache(maxsize=256)
def _bucket_region(bucket: str) -> str:
    try:
        return str(pafs.resolve_s3_region(bucket))
    except OSError as error:
        if "not found" in str(error):
            raise ConfigError(f"s3://{bucket}: there is no such bucket") from error
        raise RetryableError(
            f"s3://{bucket}: cannot find its region ({error}); set AWS_REGION, or AWS_ENDPOINT_URL for another server"
        ) from error


@lru_cache(maxsize=1)
def _gcs() -> pafs.FileSystem:
    return pafs.GcsFileSystem(retry_time_limit=timedelta(seconds=REQUEST_TIMEOUT_S))
