"""Faults that need a run that lasts: a heartbeat the disk refuses, and a second run whose clock is not the first one's."""

from __future__ import annotations

import errno
import random
import time

from faults.children import finish, start
from faults.injection import Fault
from faults.survey import unproven
from faults.trials import DAY, HOUR, RUN, Laboratory, Outcome, Trial, ended_as, true_status

LEASE = "_kxbatch/lease.json"


def background(lab: Laboratory, draw: random.Random, kind: str, name: str) -> Outcome | None:
    """What tells that the run is alive cannot be written: the run goes on, or ends with a message."""
    lab.clear(mood="slow 1.6")
    number = draw.choice([errno.ENOSPC, errno.EIO])
    fault = Fault("fail", "any", draw.randint(1, 16), errno=number, lasting=draw.choice(["", "disk"]), background=True)
    ended = lab.run(fault)
    return lab.resumed(kind, name, str(fault), true_status(lab, ended, 1)) if ended.fired else None


def second_run(*seconds: float, takes_over: bool) -> Trial:
    """A second run while one is at work, after the clock was set: one of them does it, the other says so.

    Args:
        seconds: how far the clock may be set.
        takes_over: whether the second may take the lease from the first, which then publishes nothing more.
    """

    def trial(lab: Laboratory, draw: random.Random, kind: str, name: str) -> Outcome | None:
        lab.clear(mood="slow 0.4")
        first = start(RUN, lab.output)
        deadline = time.monotonic() + 30
        while not (lab.output / "embed/_kxbatch/receipts").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        clock = draw.choice(seconds)
        second = finish(start(RUN, lab.output, clock=clock, reboot=True))
        ended = finish(first)
        problems = ended_as(second, 75, *([0] if takes_over else [])) + unproven(lab.output)
        problems += ended_as(ended, 0 if second.status == 75 else 1)
        return lab.resumed(kind, name, f"clock set by {clock:g} s", problems)

    return trial


LIVE_KINDS: dict[str, Trial] = {
    "heartbeat cannot be written": background,
    "second run, clock slewed": second_run(-1.0, 1.0, takes_over=False),
    "second run, clock set": second_run(-DAY, -HOUR, HOUR, DAY, takes_over=True),
}
