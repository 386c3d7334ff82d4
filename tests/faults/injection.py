"""Faults at the level of the calls that Python makes to the operating system: open, write, fsync, rename, link.

Nothing of kxbatch is patched, so that a fault means the same however its storage is written. Calls are counted where they change
something below one folder; a `Fault` happens at the n-th call of its kind.
"""

from __future__ import annotations

import builtins
import io
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

CALLS = ("open", "write", "fsync", "rename", "fsync-folder")
Act = Literal["kill", "signal", "fail", "short", "clock"]
When = Literal["before", "half", "after"]

_open, _os_open, _os_write, _fsync, _kill = io.open, os.open, os.write, os.fsync, os.kill


@dataclass(frozen=True)
class Fault:
    """What goes wrong, and where.

    Attributes:
        act: die, get a signal, fail, write a part only, or have the clock set.
        call: which kind of call; `any` counts all of them.
        step: at the how manyeth call, from 1.
        when: before the call, in its middle (writes only) or after it.
        numbers: signals, in a row.
        errno: what a failing call says.
        lasting: whether later calls of the kind fail as well, on the same file (`file`) or on all (`disk`).
        seconds: how far the clock is off from here on.
        background: counts the calls of other threads instead of those of the main thread.
    """

    act: Act
    call: str = "any"
    step: int = 1
    when: When = "before"
    numbers: tuple[int, ...] = ()
    errno: int = 0
    lasting: Literal["", "file", "disk"] = ""
    seconds: float = 0.0
    background: bool = False

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Injector:
    """Counts calls below `root`, and lets the fault happen.

    Attributes:
        calls: calls so far, by kind.
        fired: whether the fault happened.
    """

    def __init__(self, root: Path, fault: Fault | None, set_clock: Callable[[float], None]) -> None:
        self.root, self.fault, self.set_clock = f"{root.resolve()}/", fault, set_clock
        self.calls: Counter[str] = Counter()
        self.fired, self._file = False, ""

    def around(self, call: str, path: str, do: Callable[[], Any], half: Callable[[], Any] | None = None) -> Any:
        """Make a call, or what the fault makes of it."""
        main = threading.current_thread() is threading.main_thread()
        fault = self.fault
        if not path.startswith(self.root) or main is bool(fault and fault.background):
            return do()
        self.calls.update((call, "any"))
        if fault is None or fault.call not in (call, "any") or not self._due(fault, path):
            return do()
        self.fired, self._file = True, _stem(path)
        if fault.when == "half" and half is not None:
            half()
            return self._happen(fault, path, half=half)
        if fault.when == "after":
            answer = do()
            self._happen(fault, path)
            return answer
        answer = self._happen(fault, path, half=half)
        return do() if answer is None else answer

    def _due(self, fault: Fault, path: str) -> bool:
        if not self.fired:
            return self.calls[fault.call] == fault.step
        return fault.lasting == "disk" or (fault.lasting == "file" and _stem(path) == self._file)

    def _happen(self, fault: Fault, path: str, half: Callable[[], Any] | None = None) -> Any:
        if fault.act == "kill":
            _kill(os.getpid(), signal.SIGKILL)
        elif fault.act == "signal":
            for number in fault.numbers:
                _kill(os.getpid(), number)
        elif fault.act == "clock":
            self.set_clock(fault.seconds)
        elif fault.act == "short":
            return half() if half is not None else None
        elif fault.call in ("open", "rename", "any"):
            raise OSError(fault.errno, os.strerror(fault.errno), path)
        else:  # write and fsync know no name
            raise OSError(fault.errno, os.strerror(fault.errno))
        return None

    def install(self) -> None:
        """From here on, every call of this process goes through `around`."""
        io.open = builtins.open = self._opened  # type: ignore[assignment]
        os.open, os.write, os.fsync = self._os_opened, self._os_written, self._synced  # type: ignore[assignment]
        for name in ("rename", "replace", "link"):
            setattr(os, name, self._renaming(getattr(os, name)))

    def _opened(
        self,
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        path = _name(file)
        if not path.startswith(self.root) or not set(mode) & set("wax") or "+" in mode:
            return _open(file, mode, buffering, encoding, errors, newline, closefd, opener)
        raw = self.around("open", path, lambda: _File(self, path, mode))
        sink = io.BufferedWriter(raw)
        return sink if "b" in mode else io.TextIOWrapper(sink, encoding, errors, newline)

    def _os_opened(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        def do() -> int:
            return _os_open(path, flags, mode, dir_fd=dir_fd)

        return self.around("open", _name(path), do) if flags & (os.O_WRONLY | os.O_RDWR) else do()

    def _os_written(self, number: int, data: Any) -> int:
        view = memoryview(data).cast("B")
        half = view[: max(1, len(view) // 2)]
        path = _of_descriptor(number)
        return self.around("write", path, lambda: _os_write(number, view), lambda: _os_write(number, half))

    def _synced(self, number: Any) -> None:
        path = _of_descriptor(number if isinstance(number, int) else number.fileno())
        # Who dies by a signal leaves its writes to the kernel; waiting for the disk would only make trials slow.
        self.around("fsync-folder" if Path(path).is_dir() else "fsync", f"{path}/", lambda: None)

    def _renaming(self, real: Callable[..., None]) -> Callable[..., None]:
        def rename(source: Any, target: Any, **options: Any) -> None:
            self.around("rename", _name(target), lambda: real(source, target, **options))

        return rename


class _File(io.FileIO):
    """A file whose writes are counted."""

    def __init__(self, injector: Injector, path: str, mode: str) -> None:
        super().__init__(path, mode.replace("b", "").replace("t", ""))
        self._injector, self._path = injector, path

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        write = super().write
        half = view[: max(1, len(view) // 2)]
        written: int = self._injector.around("write", self._path, lambda: write(view), lambda: write(half))
        return written


def _name(path: Any) -> str:
    return "" if isinstance(path, int) else str(Path(os.fsdecode(path)).absolute())


def _of_descriptor(number: int) -> str:
    return str(Path(f"/proc/self/fd/{number}").readlink())


def _stem(path: str) -> str:
    """A file and its temporaries are one: what they are called, without what makes temporaries unique."""
    folder, _, name = path.rstrip("/").rpartition("/")
    return f"{folder}/{name.removeprefix('.tmp-').split('.')[0]}"
