"""Every benchmark in one table: ours against the peer, in the same run; JSON beside it in `out/bench/`.

python -m tests.bench.table [--quick] [--only knn,embed]
"""

from __future__ import annotations

import argparse
import importlib
import json
import traceback
from pathlib import Path
from typing import Any

GROUPS = (
    "moments",
    "knn",
    "embed",
    "engine",
    "gau",
    "training",
    "density",
    "graph",
    "retrieval",
    "extract",
    "diffusion",
)
COLUMNS = ("name", "ours", "peer", "limit", "unit", "ratio", "target")


def measure(group: str, quick: bool) -> list[dict[str, Any]]:
    """Rows of a group; a group that cannot run is a row that says so."""
    try:
        found: list[dict[str, Any]] = importlib.import_module(f"tests.bench.bench_{group}").rows(quick)
    except Exception as error:
        traceback.print_exc()
        empty = dict.fromkeys(COLUMNS)
        return [
            {**empty, "name": f"{group}: could not run", "note": f"{type(error).__name__}: {error}", "environment": ""}
        ]
    return found


def show(rows: list[dict[str, Any]]) -> None:
    """The table, a line a row; `*` marks a ratio below its target."""
    print(f"{'name':<72} {'ours':>10} {'peer':>10} {'unit':<14} {'ratio':>7} {'target':>7}")
    for row in rows:
        below = row["ratio"] is not None and row["target"] is not None and row["ratio"] < row["target"]
        cells = [_cell(row[key]) for key in ("ours", "peer", "ratio", "target")]
        print(
            f"{row['name']:<72} {cells[0]:>10} {cells[1]:>10} {row['unit'] or '':<14} {cells[2]:>7} {cells[3]:>7}"
            f"{' *' if below else ''}{'  ' + row['note'] if row.get('note') else ''}"
        )


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes, under five minutes")
    parser.add_argument("--only", help="groups, with commas between")
    arguments = parser.parse_args()
    out = Path("out/bench")
    out.mkdir(parents=True, exist_ok=True)
    for group in arguments.only.split(",") if arguments.only else GROUPS:
        rows = measure(group, arguments.quick)
        (out / f"{group}.json").write_text(json.dumps(rows, indent=2) + "\n")
        print(f"\n{group}: {rows[0]['environment']}", flush=True)
        show(rows)


if __name__ == "__main__":
    main()
