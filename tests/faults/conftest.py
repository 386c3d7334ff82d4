"""The table of faults: what was injected, and what became of it; printed at the end, and kept as JSON where asked."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

_OUTCOMES: list[dict[str, Any]] = []


@pytest.fixture
def record_outcome() -> Callable[[dict[str, Any]], None]:
    """Puts a trial on the table."""
    return _OUTCOMES.append


def table(outcomes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each kind, in the order of the trials, and one for all of them."""
    kinds: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for outcome in outcomes:
        kinds[outcome["kind"]].append(outcome)
    return [_row(kind, found) for kind, found in (*kinds.items(), ("total", outcomes))]


def _row(kind: str, outcomes: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "kind": kind,
        "injected": sum(outcome["injected"] for outcome in outcomes),
        "survived": sum(outcome["injected"] and not outcome["problems"] for outcome in outcomes),
        "rows lost": sum(outcome["lost"] for outcome in outcomes),
        "rows doubled": sum(outcome["doubled"] for outcome in outcomes),
    }


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _OUTCOMES:
        return
    rows = table(_OUTCOMES)
    if path := os.environ.get("KXBATCH_FAULTS_TABLE"):
        Path(path).write_text(json.dumps(rows, indent=2) + "\n")
    columns = list(rows[0])
    terminalreporter.section("faults")
    for row in ({column: column for column in columns}, *rows):
        numbers = "".join(f"{row[column]:>14}" for column in columns[1:])
        terminalreporter.write_line(f"{row['kind']:<38}{numbers}")
