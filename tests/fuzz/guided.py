"""Coverage-guided fuzzing of one target, with atheris (Linux and macOS wheels only, so it is no part of the test suite).

    python tests/fuzz/guided.py TARGET [SECONDS]

A finding ends with its traceback, and the input that leads to it in `crash-*`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

with atheris.instrument_imports(include=["kxbatch"]):
    from fuzz.targets import targets


def main() -> None:
    """Fuzz until the time is over."""
    known = targets()
    if len(sys.argv) < 2 or sys.argv[1] not in known:
        sys.exit(f"usage: guided.py TARGET [SECONDS]; targets: {', '.join(known)}")
    check, seeds = known[sys.argv[1]]
    corpus = Path(tempfile.mkdtemp(prefix="kxbatch-corpus-"))
    for number, seed in enumerate(seeds):
        (corpus / f"seed-{number}").write_bytes(seed)
    seconds = sys.argv[2] if len(sys.argv) > 2 else "60"
    flags = [
        f"-max_total_time={seconds}",
        "-rss_limit_mb=8192",
        "-timeout=60",
        "-max_len=65536",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *flags, str(corpus)], lambda data: check(bytes(data)) and None)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
