"""Runs a small job, then others that may only take so much more memory; a line of JSON each, with the most they held beyond it.

python memory_script.py BYTES SMALL_JOB JOB...
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

import kxbatch as kx


def status(name: str) -> int:
    """Bytes of a line of /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(name)


def main(room: int, small: str, *jobs: str) -> None:
    """The small job loads every module and fills every cache; what the others need beyond that is due to their rows."""
    kx.run(small, quiet=True, report=False)
    resident, data = status("VmRSS"), status("VmData")
    resource.setrlimit(resource.RLIMIT_DATA, (data + room, data + room))
    for job in jobs:
        Path("/proc/self/clear_refs").write_text("5")  # the peak of this job alone
        result = kx.run(job, quiet=True, report=False)
        facts = {"exit_code": result.exit_code, "failures": [failure.message for failure in result.failures]}
        facts |= {"peak": status("VmHWM") - resident, "rows": {stage.name: stage.rows_out for stage in result.stages}}
        print(json.dumps(facts))


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
