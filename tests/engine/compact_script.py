"""Compacts a dataset again and again in forked children, killing each one change of the file system later.

Every change Python makes to the file system is announced by an audit event just before it happens, so dying at event N leaves
exactly the states between two changes. Run by `test_compact`.

usage: compact_script.py exchange|renames      (in a folder with pristine/, which is copied to dataset/)
prints one JSON line: {"steps": ..., "absent": ..., "wrong_rows": [...], "not_mended": [...]}
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from kxbatch.data import swap
from kxbatch.engine.compact import compact

CHANGES = ("os.mkdir", "os.rename", "os.link", "os.remove", "os.rmdir", "os.chmod", "os.truncate")
DATASET = Path("dataset")


def rows() -> list[int] | None:
    """What a reader of the folder sees, None where there is no folder."""
    if not DATASET.exists():
        return None
    return [row for part in sorted(DATASET.glob("*.parquet")) for row in pq.read_table(part)["id"].to_pylist()]


def in_child(fatal: int) -> int | None:
    """Compact in a fork that dies at change `fatal`; the number of changes where it lived, None where it died."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        count = 0

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal count
            writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
            if event in CHANGES or writes:
                count += 1
                if count == fatal:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        compact(DATASET, 3_000)
        os.write(writer, str(count).encode())
        os._exit(0)
    os.close(writer)
    _, status = os.waitpid(pid, 0)
    answer = os.read(reader, 100)
    os.close(reader)
    if os.WIFSIGNALED(status):
        return None
    return int(answer)


def main() -> None:
    if sys.argv[1] == "renames":
        swap._exchange = lambda a, b: False
    shutil.copytree("pristine", DATASET)
    expected = rows()
    total = in_child(0)
    assert total is not None
    parts = len(list(DATASET.glob("*.parquet")))
    absent, wrong, unmended = 0, [], []
    for fatal in range(1, total + 1):
        shutil.rmtree(DATASET)
        shutil.copytree("pristine", DATASET)
        if in_child(fatal) is not None:
            unmended.append(f"{fatal} did not die")
        seen = rows()
        absent += seen is None
        if seen not in (expected, None):
            wrong.append(fatal)
        if in_child(0) is None or rows() != expected or not (DATASET / "README.txt").exists():
            unmended.append(str(fatal))
        if len(list(DATASET.glob("*.parquet"))) > parts:
            unmended.append(f"{fatal} left small parts")
        if left := [path.name for path in Path().iterdir() if path.name.startswith(".tmp-")]:
            unmended.append(f"{fatal} left {left}")
    facts = {"steps": total, "parts": parts, "absent": absent, "wrong_rows": wrong, "not_mended": unmended}
    print(json.dumps(facts))


if __name__ == "__main__":
    main()
