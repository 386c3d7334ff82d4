"""Runs a job once for every line it reads, in a forked child, so that imports are paid once; run by `test_s3_faults`.

usage: s3_job_runner.py JOB.json REQUEST_TIMEOUT_S
prints a child's process number when it starts, and `[SIGNAL, EXIT STATUS, MESSAGE]` when it has ended
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from kxbatch.data import filesystems

filesystems.REQUEST_TIMEOUT_S = float(sys.argv[2])  # before anything has taken the value over

import kxbatch as kx  # noqa: E402

kx.run  # noqa: B018  - loads what a run needs, which a child would load otherwise


def run(job: dict[str, Any]) -> tuple[int, str]:
    try:
        result = kx.run(job, quiet=True, report=False)
        return result.exit_code, result.message
    except Exception as error:
        return getattr(error, "exit_code", 1), "".join(traceback.format_exception_only(error)).strip()


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    for _ in sys.stdin:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writer, json.dumps(run(job)).encode())
            os._exit(0)
        print(child, flush=True)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            answer = pipe.read()
        _, status = os.waitpid(child, 0)
        print(json.dumps([status & 0x7F, *(json.loads(answer) if answer else (-1, ""))]), flush=True)


if __name__ == "__main__":
    main()
