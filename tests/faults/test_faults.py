"""Hundreds of faults, one a run: each leaves an output that the next run makes as if nothing had happened, byte for byte.

`KXBATCH_FAULTS` sets how many quick faults are injected, `KXBATCH_FAULTS_SEED` the seed, `KXBATCH_FAULTS_TABLE` where the table
is written as JSON. A failure names its trial; the same seed draws the same trial again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from faults.kinds import DEFAULT, KINDS, trials_of

TESTS = Path(__file__).parents[1]
COUNT = int(os.environ.get("KXBATCH_FAULTS", DEFAULT))
SEED = int(os.environ.get("KXBATCH_FAULTS_SEED", "0"))
Ask = Callable[[str, int], dict[str, Any]]


@pytest.fixture(scope="session")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """Makes a trial in a process that has run the job once, undisturbed."""
    home = tmp_path_factory.mktemp("faults") / "laboratory"
    paths = os.pathsep.join([str(TESTS.parent), str(TESTS)])
    process = subprocess.Popen(
        [sys.executable, "-m", "faults.server", str(home)],
        env=os.environ | {"PYTHONPATH": paths},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    requests, answers = process.stdin, process.stdout
    assert json.loads(answers.readline())["calls"]["any"] > 300

    def asked(kind: str, number: int) -> dict[str, Any]:
        print(json.dumps({"kind": kind, "number": number, "seed": SEED}), file=requests, flush=True)
        outcome: dict[str, Any] = json.loads(answers.readline())
        return outcome

    yield asked
    requests.close()
    assert process.wait(timeout=60) == 0


@pytest.mark.slow
@pytest.mark.timeout(300 + 20 * COUNT)
@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_leaves_nothing_that_a_run_does_not_mend(
    kind: str, ask: Ask, record_outcome: Callable[[dict[str, Any]], None]
) -> None:
    outcomes = [ask(kind, number) for number in range(trials_of(kind, COUNT))]
    for outcome in outcomes:
        record_outcome(outcome)
    assert all(outcome["injected"] for outcome in outcomes), "a fault that never happened proves nothing"
    failed = [outcome for outcome in outcomes if outcome["problems"] or outcome["lost"] or outcome["doubled"]]
    told = [f"{o['name']}: {o['fault']}\n" + "\n".join(o["problems"]) for o in failed]
    assert not failed, f"{len(failed)} of {len(outcomes)}\n" + "\n\n".join(told)
