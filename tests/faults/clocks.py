"""A clock that is off: for a process that has imported everything already."""

from __future__ import annotations

import datetime
import os
import sys
import time
from pathlib import Path
from typing import Any

import psutil

_time, _datetime = time.time, datetime.datetime
OFFSET = 0.0


class _Shifted(_datetime):
    """Says the time that the shifted clock shows."""

    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> Any:
        return _datetime.fromtimestamp(_time() + OFFSET, tz)


def _shifted_time() -> float:
    return _time() + OFFSET


def set_clock(seconds: float) -> None:
    """Set the clock off by so many seconds, in this process: `time.time`, `datetime.now`, and what psutil derives from it."""
    global OFFSET
    OFFSET = seconds
    time.time = _shifted_time
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] == "kxbatch":
            for binding, value in list(vars(module).items()):
                if value is _datetime:
                    setattr(module, binding, _Shifted)


def shift_boot_time(seconds: float, folder: Path) -> None:
    """Let /proc/stat tell the time of boot that it tells after the clock was set: boot is now minus what passed since."""
    folder.mkdir()
    for entry in os.scandir("/proc"):
        if entry.name != "stat":
            (folder / entry.name).symlink_to(entry.path)
    lines = Path("/proc/stat").read_text().splitlines()
    shifted = [f"btime {int(line.split()[1]) + int(seconds)}" if line.startswith("btime") else line for line in lines]
    (folder / "stat").write_text("\n".join(shifted) + "\n")
    psutil.PROCFS_PATH = str(folder)
