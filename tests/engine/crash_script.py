"""Runs a job again and again in forked children, killing each with SIGKILL one commit step later; run by `test_crashes`.

Commit steps are: half of a file's bytes written, file synced but not renamed, file renamed. Between two of them nothing reaches the
disk, so killing at each of them covers every moment a power cut or an OOM killer could choose.

usage: crash_script.py STRIDE        (in a folder with job.json and data/)
prints one JSON line: {"steps": ..., "kills": ..., "different": [...], "failed": [...]}
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from support import tree_digests

import kxbatch as kx
from kxbatch.data import storage

JOB = json.loads(Path("job.json").read_text())


class Steps:
    """Counts commit steps; dies at step `fatal`."""

    def __init__(self, fatal: int) -> None:
        self.count, self.fatal = 0, fatal

    def step(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # heartbeats and progress come with the clock, not with the work
        self.count += 1
        if self.count == self.fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    def install(self) -> None:
        write_synced, sync_folder = storage._write_synced, storage._sync_folder

        def write(path: Path, content: Any) -> Any:
            if (
                self.count + 1 == self.fatal and threading.current_thread() is threading.main_thread()
            ):  # leave half a temporary file behind, then die

                class Half:
                    closed = False

                    def __init__(self, sink: Any) -> None:
                        self.sink = sink

                    def __getattr__(self, name: str) -> Any:
                        return getattr(self.sink, name)

                    def write(self, data: Any) -> int:
                        view = memoryview(data).cast("B")
                        self.sink.write(view[: max(1, len(view) // 2)])
                        self.sink._sink.flush()
                        os.kill(os.getpid(), signal.SIGKILL)
                        return len(view)

                return write_synced(path, lambda sink: content(Half(sink)))
            self.step()
            published = write_synced(path, content)
            self.step()
            return published

        def sync(folder: Path) -> None:
            sync_folder(folder)
            self.step()

        storage._write_synced, storage._sync_folder = write, sync


def in_child(fatal: int) -> tuple[int, int]:
    """Run the job in a fork; returns (signal or 0, steps taken or exit code)."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        steps = Steps(fatal)
        steps.install()
        result = kx.run(JOB, quiet=True, report=False)
        os.write(writer, f"{result.exit_code} {steps.count}".encode())
        os._exit(0)
    os.close(writer)
    _, status = os.waitpid(pid, 0)
    answer = os.read(reader, 100).decode().split()
    os.close(reader)
    if os.WIFSIGNALED(status):
        return os.WTERMSIG(status), 0
    return (0, int(answer[1])) if answer and answer[0] == "0" else (-1, 0)


def main() -> None:
    output, stride = Path(JOB["job"]["output"]), int(sys.argv[1])
    _, total = in_child(0)
    undisturbed = tree_digests(output)
    kills, different, failed = 0, [], []
    for fatal in range(1, total + 1, stride):
        shutil.rmtree(output)
        killed, _ = in_child(fatal)
        kills += killed == signal.SIGKILL
        resumed, _ = in_child(0)
        if resumed != 0:
            failed.append(fatal)
        if tree_digests(output) != undisturbed:
            different.append(fatal)
    facts = {"steps": total, "kills": kills, "files": len(undisturbed)}
    print(json.dumps(facts | {"different": different, "failed": failed}))


if __name__ == "__main__":
    main()
