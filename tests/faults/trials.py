"""What is tried: one fault in a run or on a finished output, then a run that nothing disturbs, then a look at what came of it."""

from __future__ import annotations

import errno
import json
import os
import random
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from faults import damage
from faults.children import Ended, command, finish, start
from faults.injection import Fault
from faults.survey import Survey, differences, lost_and_doubled, survey, unproven
from faults.workplaces import furnish, set_mood

OUTPUT = "out/audit"
RUN = ("run", "job.toml", "--no-report")
VERIFY = ("verify", OUTPUT, "--json")
HOUR, DAY = 3600.0, 86400.0
DRAWS = 20


@dataclass
class Outcome:
    """What came of a trial.

    Attributes:
        kind: of the fault.
        name: draws the same trial again.
        fault: what was done, in words.
        lost: rows missing in the end.
        doubled: rows too many in the end.
        problems: everything that is not as it should be; none: survived.
        injected: whether the fault happened.
    """

    kind: str
    name: str
    fault: str
    lost: int = 0
    doubled: int = 0
    problems: list[str] = field(default_factory=list)
    injected: bool = True

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


Trial = Callable[["Laboratory", random.Random, str, str], "Outcome | None"]


class Laboratory:
    """A folder with a job, and what the job comes to when nothing disturbs it.

    Attributes:
        home: the folder; also the working folder.
        output: where the job writes.
        oracle: the output of the undisturbed run.
        calls: how often that run changed its output, by kind of call.
        seconds: how long it took.
    """

    def __init__(self, home: Path) -> None:
        self.home, self.output = home, home / OUTPUT
        furnish(home)
        os.chdir(home)
        self.run_here()
        self.clear()
        ended = self.run()
        assert ended.status == 0, ended.said
        self.oracle: Survey = survey(self.output)
        self.calls, self.seconds = ended.calls, ended.seconds
        shutil.copytree(self.output, home / "pristine")

    def run_here(self) -> None:
        """Run the job in this process once, so that children find everything imported and compiled."""
        import kxbatch as kx
        import kxbatch.cli.run
        import kxbatch.cli.verify

        kx.run("job.toml", quiet=True, report=False)

    def clear(self, *, finished: bool = False, mood: str = "") -> None:
        """An output as before the first run, or as after it; the encoder in a mood."""
        set_mood(self.home, mood)
        shutil.rmtree(self.home / "out", ignore_errors=True)
        if finished:
            shutil.copytree(self.home / "pristine", self.output)

    def run(self, fault: Fault | None = None, *, clock: float = 0.0) -> Ended:
        return command(RUN, self.output, fault, clock=clock)

    def whole(self) -> bool:
        """Whether the output is as the undisturbed run leaves it."""
        return differences(survey(self.output), self.oracle) == []

    def step(self, call: str, draw: random.Random) -> int:
        """A random call of the kind."""
        assert self.calls.get(call), f"an undisturbed run makes no call of the kind {call}"
        return draw.randint(1, self.calls[call])

    def resumed(self, kind: str, name: str, what: str, problems: Sequence[str]) -> Outcome:
        """Run once more, undisturbed, and compare."""
        set_mood(self.home, "")
        ended = self.run()
        wrong = [*problems, *ended_as(ended, 0)]
        found = survey(self.output)
        lost, doubled = lost_and_doubled(found, self.oracle)
        return Outcome(kind, name, what, lost, doubled, wrong + differences(found, self.oracle))

    def trial(self, make: Trial, kind: str, number: int, seed: int) -> Outcome:
        """A trial of a kind whose fault really happened."""
        for again in range(DRAWS):
            name = f"{seed}/{kind}/{number}/{again}"
            draw = random.Random(name)
            outcome = make(self, draw, kind, name)
            if outcome is not None:
                return outcome
        return Outcome(kind, name, "", problems=[f"no fault happened in {DRAWS} draws"], injected=False)


def ended_as(ended: Ended, *allowed: int) -> list[str]:
    problems = []
    if ended.status not in allowed:
        problems.append(f"ended with {ended.status}, not {allowed}: {ended.said[-1500:]}")
    if "Traceback" in ended.said:
        problems.append(f"a traceback: {ended.said[-1500:]}")
    return problems


def true_status(lab: Laboratory, ended: Ended, *allowed: int) -> list[str]:
    """0 only if everything is there, else one of those allowed; and whatever is proven by a receipt is there."""
    problems = unproven(lab.output)
    if ended.status == 0 and lab.whole():
        return problems + ended_as(ended, 0)
    return problems + ended_as(ended, *allowed)


def kill(call: str, when: Any) -> Trial:
    """SIGKILL at a step of a commit."""

    def trial(lab: Laboratory, draw: random.Random, kind: str, name: str) -> Outcome | None:
        lab.clear()
        fault = Fault("kill", call, lab.step(call, draw), when)
        ended = lab.run(fault)
        return lab.resumed(kind, name, str(fault), true_status(lab, ended, 137)) if ended.fired else None

    return trial


def kill_any_time(lab: Laboratory, draw: random.Random, kind: str, name: str) -> Outcome | None:
    """SIGKILL from outside, at any moment."""
    lab.clear()
    delay = draw.uniform(0.0, lab.seconds)
    ended = finish(start(RUN, lab.output), kill_after=delay, numbers=(signal.SIGKILL,))
    if ended.signalled == 0:
        return None
    return lab.resumed(kind, name, f"after {delay:.3f} s", true_status(lab, ended, 137))


def signals(*choices: tuple[int, ...]) -> Trial:
    """Signals that ask a run to end: at a step of its work, or at any moment."""

    def trial(lab: Laboratory, draw: random.Random, kind: str, name: str) -> Outcome | None:
        lab.clear()
        numbers = draw.choice(choices)
        if draw.random() < 0.5:
            fault = Fault("signal", "any", lab.step("any", draw), numbers=numbers)
            what, ended = str(fault), lab.run(fault)
        else:
            delay = draw.uniform(0.0, lab.seconds)
            what = f"signals {numbers} after {delay:.3f} s"
            ended = finish(start(RUN, lab.output), kill_after=delay, numbers=numbers)
        if not ended.fired:
            return None
        problems = true_status(lab, ended, *{128 + number for number in numbers})
        return lab.resumed(kind, name, what, problems)

    return trial


def refuse(
    calls: Sequence[str], numbers: Sequence[int], *, lasting: Sequence[Any] = ("",), parks: bool = False
) -> Trial:
    """A call fails: once, or from then on."""

    def trial(lab: Laboratory, draw: random.Random, kind: str, name: str) -> Outcome | None:
        lab.clear()
        call = draw.choice(list(calls))
        fault = Fault(
            "fail", call, lab.step(call, draw), draw.choice(["before", "half"]), errno=draw.choice(list(numbers))
        )
        fault = Fault(**fault.as_json() | {"lasting": draw.choice(list(lasting))})
        ended = lab.run(fault)
        if not ended.fired:
            return None
        problems = true_status(lab, ended, *((1, 3) if parks else (1,))) + _told(lab, ended, fault)
        return lab.resumed(kind, name, str(fault), problems)

    return trial


def _told(lab: Laboratory, ended: Ended, fault: Fault) -> list[str]:
    """A run that ends because of the disk says what the disk says, and about which file."""
    if ended.status == 0:
        return []
    wanted = [os.strerror(fault.errno)] + ([str(lab.output)] if ended.status == 1 else [])
    return [f"does not say {words!r}: {ended.said[-1500:]}" for words in wanted if words not in ended.said]


def short_write(lab: Laboratory, draw: random.Random, kind: str, name: str) -> Outcome | None:
    """A write takes a part only, as it may: nobody notices."""
    lab.clear()
    fault = Fault("short", "write", lab.step("write", draw), lasting=draw.choice(["", "file", "disk"]))
    ended = lab.run(fault)
    return lab.resumed(kind, name, str(fault), true_status(lab, ended)) if ended.fired else None


def harm(do: damage.Harm, *, verified: bool = False) -> Trial:
    """Damage on a finished output; where a size tells, a run needs no `verify` before it."""

    def trial(lab: Laboratory, draw: random.Random, kind: str, name: str) -> Outcome | None:
        lab.clear(finished=True)
        harmed = do(lab.output, draw)
        problems = []
        if verified or draw.random() < 0.5:
            ended = command(VERIFY, lab.output)
            problems = ended_as(ended, 3)
            if ended.status == 3:
                defects = json.loads(ended.said)["defects"]
                found = {"/".join(part for part in (d["stage"], d["file"]) if part) for d in defects}
                problems += [] if harmed.file in found else [f"verify names {found}, not {harmed.file}"]
        outcome = lab.resumed(kind, name, str(harmed), problems)
        outcome.problems += ended_as(command(VERIFY, lab.output), 0)
        return outcome

    return trial


def receipt_byte(lab: Laboratory, draw: random.Random, kind: str, name: str) -> Outcome | None:
    """A byte of a receipt: found, unless it means the same as before."""
    lab.clear(finished=True)
    harmed = damage.flip(damage.RECEIPT)(lab.output, draw)
    ended = command(VERIFY, lab.output)
    problems = ended_as(ended, 3 if damage.matters(lab.output, lab.home / "pristine", harmed.file) else 0)
    return lab.resumed(kind, name, str(harmed), problems)


def document(lab: Laboratory, draw: random.Random, kind: str, name: str) -> Outcome | None:
    """A document of the driver is cut off or emptied: the run mends it, or names it and ends."""
    lab.clear(finished=True)
    harmed = damage.cut(damage.DOCUMENT)(lab.output, draw)
    ended = lab.run()
    problems = true_status(lab, ended, 1)
    if ended.status == 1:
        problems += [] if harmed.file in ended.said else [f"does not name {harmed.file}: {ended.said[-500:]}"]
        (lab.output / harmed.file).unlink()  # what the message says to do
    return lab.resumed(kind, name, str(harmed), problems)


def clock_set(lab: Laboratory, draw: random.Random, kind: str, name: str) -> Outcome | None:
    """The clock is set while a run is at work: it goes on as if nothing had happened."""
    lab.clear()
    fault = Fault("clock", "any", lab.step("any", draw), seconds=draw.choice([-DAY, -HOUR, HOUR, DAY]))
    ended = lab.run(fault, clock=draw.choice([0.0, -DAY, DAY]))
    return lab.resumed(kind, name, str(fault), true_status(lab, ended)) if ended.fired else None


def clock_of_the_dead(lab: Laboratory, draw: random.Random, kind: str, name: str) -> Outcome | None:
    """A run dies whose clock was off; the next one, whose clock is right, takes over its lease at once."""
    lab.clear()
    clock = draw.choice([-DAY, -HOUR, HOUR, DAY])
    ended = lab.run(Fault("kill", "any", lab.step("any", draw)), clock=clock)
    return lab.resumed(kind, name, f"clock off by {clock:g} s", true_status(lab, ended, 137)) if ended.fired else None


def poison(mood: str, error: str) -> Trial:
    """A row that the encoder cannot bear, ever: its shard is parked after the last attempt, the rest is done."""

    def trial(lab: Laboratory, draw: random.Random, kind: str, name: str) -> Outcome | None:
        lab.clear(mood=mood)
        ended = lab.run()
        problems = ended_as(ended, 3) + unproven(lab.output)
        record = json.loads((lab.output / "run.json").read_text())
        parked = [(f["error"], f["attempts"]) for f in record["failures"]]
        done = [stage["failed"] for stage in record["stages"]]
        if parked != [(error, 3)] or done != [1, 0, 0, 0]:
            problems.append(f"parked {parked}, failed {done}")
        return lab.resumed(kind, name, mood, problems)

    return trial


DISK = ("open", "write", "fsync", "rename", "fsync-folder")
QUICK_KINDS: dict[str, Trial] = {
    "kill -9: half of a file written": kill("write", "half"),
    "kill -9: file synced, not renamed": kill("rename", "before"),
    "kill -9: renamed, folder not synced": kill("rename", "after"),
    "kill -9: folder synced": kill("fsync-folder", "after"),
    "kill -9: any moment": kill_any_time,
    "SIGTERM": signals((signal.SIGTERM,)),
    "SIGINT": signals((signal.SIGINT,)),
    "two signals in a row": signals((2, 2), (15, 15), (2, 15), (15, 2)),
    "disk full": refuse(("open", "write", "fsync"), [errno.ENOSPC], lasting=("", "file", "disk")),
    "over quota": refuse(("open", "write", "fsync"), [errno.EDQUOT], lasting=("", "file", "disk")),
    "I/O error, once": refuse(("write", "open"), [errno.EIO], parks=True),
    "I/O error, one file always": refuse(("write", "fsync", "rename"), [errno.EIO], lasting=("file",), parks=True),
    "I/O error, disk gone": refuse(DISK, [errno.EIO], lasting=("disk",), parks=True),
    "short write": short_write,
    "fsync fails": refuse(("fsync", "fsync-folder"), [errno.EIO, errno.ENOSPC], lasting=("", "file"), parks=True),
    "rename fails": refuse(("rename",), [errno.EIO, errno.ENOSPC, errno.EACCES], lasting=("", "file"), parks=True),
    "damage: part cut off": harm(damage.cut(damage.PART)),
    "damage: byte of a part": harm(damage.flip(damage.PART), verified=True),
    "damage: byte of an artifact": harm(damage.flip(damage.ARTIFACT), verified=True),
    "damage: byte of a state": harm(damage.flip(damage.STATE), verified=True),
    "damage: byte of a quarantine": harm(damage.flip(damage.QUARANTINE), verified=True),
    "damage: receipt lost": harm(damage.lose(damage.PART_RECEIPT)),
    "damage: receipt without its file": harm(damage.lose_file),
    "damage: receipt empty": harm(damage.empty(damage.RECEIPT)),
    "damage: byte of a receipt": receipt_byte,
    "damage: stray part": harm(damage.stray_part),
    "damage: stray temporary": harm(damage.stray_temporary),
    "damage: document cut off": document,
    "clock set during a run": clock_set,
    "clock off, then kill -9": clock_of_the_dead,
    "poisoned row": poison("raises", "RuntimeError"),
    "out of memory": poison("grows", "MemoryError"),
}
