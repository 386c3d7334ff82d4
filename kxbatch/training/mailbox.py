"""Between process 0 of a training and its driver, wherever they are; imports nothing heavy, for it gets a process of its own."""

from __future__ import annotations

from typing import Any

import ray

from kxbatch.errors import KxbatchError
from kxbatch.training.session import Status


class Mailbox:
    """A Ray actor: lines of the history, the wish to stop, and how it ended."""

    def __init__(self) -> None:
        self._lines: list[dict[str, Any]] = []
        self._stop = False
        self._end: Status | KxbatchError | None = None

    def tell(self, facts: dict[str, Any]) -> None:
        """A line of the history."""
        self._lines.append(facts)

    def take(self) -> list[dict[str, Any]]:
        """The lines since the last call."""
        lines, self._lines = self._lines, []
        return lines

    def stop(self) -> None:
        """It should end."""
        self._stop = True

    def stopping(self) -> bool:
        """Whether it should."""
        return self._stop

    def end(self, how: Status | KxbatchError) -> None:
        """How it ended; an error is not replaced by what comes after it."""
        if not isinstance(self._end, KxbatchError):
            self._end = how

    def ended(self) -> Status | KxbatchError | None:
        """How it ended, None as long as it has not."""
        return self._end


class Remote:
    """`Watcher` of process 0."""

    def __init__(self, mailbox: Any) -> None:
        self._mailbox = mailbox

    def tell(self, facts: dict[str, Any]) -> None:
        """A line of the history."""
        self._mailbox.tell.remote(facts)

    def stopping(self) -> bool:
        """Whether it should end."""
        return bool(ray.get(self._mailbox.stopping.remote()))
