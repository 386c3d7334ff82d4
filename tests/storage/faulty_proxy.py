"""A proxy between an S3 client and its server that breaks a share of the requests, by a seeded plan.

A request is taken in whole, judged, and forwarded as it came (`Host` too: signatures cover it). Whether the n-th attempt
of a request fails, and how, hangs on the seed, the request and n alone, not on the order in which threads arrive.

| kind | what the client sees | what the server did |
| --- | --- | --- |
| slow_down, internal | 503 SlowDown, 500 InternalError | nothing |
| reset_before | connection reset | nothing |
| reset_after | connection reset | all of it |
| stall | no byte for `stall_s`, then a reset | all of it |
| reset_body | half of the answer's body, then a reset | all of it |
| cut_body | half of the answer's body, then an orderly end | all of it |
| drip | the answer's body in pieces, over `drip_s` | all of it |
"""

from __future__ import annotations

import asyncio
import random
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

ERRORS = {
    "slow_down": ("503 Slow Down", "SlowDown", "Please reduce your request rate."),
    "internal": ("500 Internal Server Error", "InternalError", "We encountered an internal error. Please try again."),
}
BODY_KINDS = ("reset_body", "cut_body", "drip")
KINDS = (*ERRORS, "reset_before", "reset_after", "stall", *BODY_KINDS)
PASSED = "passed"
DRIP_PIECES = 20


@dataclass(frozen=True)
class Plan:
    """What breaks.

    Attributes:
        share: part of the attempts that fail, 0 to 1.
        kinds: what happens to them; a kind about the body only happens to answers that have one.
        methods: HTTP methods it happens to.
        target: pattern that is searched in path and query.
        in_a_row: most attempts of the same request that fail one after the other.
        storm: every attempt fails, without end.
    """

    share: float = 0.0
    kinds: tuple[str, ...] = KINDS
    methods: tuple[str, ...] = ("GET", "HEAD", "PUT", "POST", "DELETE")
    target: str = ""
    in_a_row: int = 2
    storm: bool = False
    seed: int = 0
    stall_s: float = 60.0
    drip_s: float = 1.0


@dataclass
class Request:
    """A request as it came, and what identifies its further attempts."""

    method: str
    target: str
    head: bytes
    body: bytes
    identity: str = field(init=False)

    def __post_init__(self) -> None:
        span = re.search(rb"\r\nrange:[^\r]*", self.head, re.IGNORECASE)
        self.identity = f"{self.method} {self.target} {span.group().decode() if span else ''}"


class FaultyProxy:
    """Serves from a thread of its own; `plan` may be changed at any time, `counts` says what happened so far."""

    def __init__(self, upstream: str, plan: Plan) -> None:
        self._upstream = urlsplit(upstream)
        self.plan = plan
        self.counts: Counter[str] = Counter()
        self._attempts: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()
        self._stopped = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self.endpoint = ""

    def reset(self, plan: Plan) -> None:
        """A new plan, and counts from zero."""
        self.plan, self.counts, self._attempts, self._failed = plan, Counter(), Counter(), Counter()

    async def serve(self, started: threading.Event) -> None:
        """Serve till `stop`; `endpoint` is set when `started` is. Conversations end with the loop."""
        self._loop = asyncio.get_running_loop()
        server = await asyncio.start_server(self._converse, "127.0.0.1", 0)
        self.endpoint = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        started.set()
        await self._stopped.wait()
        server.close()

    def stop(self) -> None:
        """End serving, from another thread."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._stopped.set)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while request := await _read_request(reader, writer):
                if not await self._answer(request, writer):
                    break
        _reset(writer)

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        """Pass a request on or break it; whether the connection goes on."""
        plan, kind = self.plan, self._judge(request)
        if kind in ERRORS:
            self.counts[kind] += 1
            writer.write(_error(kind, request.method))
            return True
        if kind == "reset_before":
            self.counts[kind] += 1
            return False
        head, body = await self._forward(request)
        if kind in BODY_KINDS and len(body) < 2:
            kind = PASSED
        self.counts[kind] += 1
        return await _deliver(kind, head, body, writer, plan)

    def _judge(self, request: Request) -> str:
        plan = self.plan
        if request.method not in plan.methods or not re.search(plan.target, request.target):
            return PASSED
        self._attempts[request.identity] += 1
        draw = random.Random(f"{plan.seed} {request.identity} {self._attempts[request.identity]}")
        spared = draw.random() >= plan.share or self._failed[request.identity] >= plan.in_a_row
        kinds = [kind for kind in plan.kinds if request.method in ("GET", "POST") or kind not in BODY_KINDS]
        if not kinds or (spared and not plan.storm):
            self._failed[request.identity] = 0
            return PASSED
        self._failed[request.identity] += 1
        return draw.choice(kinds)

    async def _forward(self, request: Request) -> tuple[bytes, bytes]:
        """The server's answer: head (without its blank line) and body."""
        reader, writer = await asyncio.open_connection(self._upstream.hostname, self._upstream.port)
        writer.write(request.head + b"Connection: close\r\n\r\n" + request.body)
        answer = await reader.read()
        writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        return _without(head, b"connection"), body


@contextmanager
def faulty_proxy(upstream: str, plan: Plan | None = None) -> Iterator[FaultyProxy]:
    """A running proxy in front of a server."""
    proxy, started = FaultyProxy(upstream, plan or Plan()), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(proxy.serve(started)), daemon=True)
    thread.start()
    started.wait()
    try:
        yield proxy
    finally:
        proxy.stop()
        thread.join()


async def _read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request | None:
    """The next request of a connection, whole; None where the client has gone."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    method, target, _ = head.split(b"\r\n", 1)[0].decode().split(" ")
    if re.search(rb"\r\nexpect: *100-continue", head, re.IGNORECASE):
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    body = await _read_body(reader, head)
    return Request(method, target, _without(_without(head[:-4], b"connection"), b"expect"), body)


async def _read_body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    """The body as it is on the wire: of the length named, or in chunks."""
    if re.search(rb"\r\ntransfer-encoding: *chunked", head, re.IGNORECASE):
        pieces = []
        while not pieces or pieces[-1] != b"0\r\n\r\n":
            size = await reader.readuntil(b"\r\n")
            pieces.append(size + await reader.readexactly(int(size, 16) + 2))
        return b"".join(pieces)
    length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
    return await reader.readexactly(int(length.group(1))) if length else b""


async def _deliver(kind: str, head: bytes, body: bytes, writer: asyncio.StreamWriter, plan: Plan) -> bool:
    """Send an answer, as far as its fault lets it; whether the connection goes on."""
    if kind == "stall":
        await asyncio.sleep(plan.stall_s)
    if kind in ("stall", "reset_after"):
        return False
    if kind == "drip":
        return await _drip(head, body, writer, plan.drip_s)
    if kind == PASSED:
        writer.write(head + b"\r\n" + body)
        await writer.drain()
        return bool(re.search(rb"\r\n(content-length|transfer-encoding):", head, re.IGNORECASE))
    writer.write(head + b"\r\n" + body[: len(body) // 2])
    await writer.drain()
    await asyncio.sleep(0.05)  # a reset throws away what the client has not read yet
    if kind == "cut_body":
        writer.write_eof()
    return False


async def _drip(head: bytes, body: bytes, writer: asyncio.StreamWriter, seconds: float) -> bool:
    writer.write(head + b"\r\n")
    step = -(-len(body) // DRIP_PIECES)
    for start in range(0, len(body), step):
        await asyncio.sleep(seconds / DRIP_PIECES)
        writer.write(body[start : start + step])
        await writer.drain()
    return True


def _error(kind: str, method: str) -> bytes:
    status, code, message = ERRORS[kind]
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {len(text)}\r\n\r\n"
    return (head if method == "HEAD" else head + text).encode()


def _without(head: bytes, name: bytes) -> bytes:
    """A head without one of its headers, every line ended, no blank line."""
    lines = [line for line in head.split(b"\r\n") if line and not line.lower().startswith(name + b":")]
    return b"".join(line + b"\r\n" for line in lines)


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection the hard way: the client gets a reset, unless it had its orderly end before."""
    with suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
