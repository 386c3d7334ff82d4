"""SIGINT and SIGTERM: the first lets units in flight finish, the second ends the run at once."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

from kxbatch.errors import Abandoned


class Signals:
    """Listens while it is entered; only the main thread can, elsewhere it hears nothing."""

    def __init__(self) -> None:
        self.received = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            raise Abandoned(number)
        self.received = number
        sys.stderr.write("\nending: shards in flight are finished first; signal once more to give them up\n")
