"""What a call of a Ray worker came to: its answer, or a failure made from its silence or its death."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import ray
import ray.exceptions

from kxbatch.data.receipts import Receipt
from kxbatch.data.sources import SourceFile
from kxbatch.data.sources.streams import check_unchanged
from kxbatch.engine.failure import Failure
from kxbatch.engine.units import Unit
from kxbatch.errors import KxbatchError
from kxbatch.spec.model import Resources

Outcome = Receipt | Failure | str | None  # of a unit, of anything, of finding a place, of getting ready


def outcome_of(ref: Any, finished: bool, resources: Resources, unit: Unit | None, attempt: int) -> Outcome:
    """The answer of a call, or a failure.

    Args:
        ref: what Ray gave for the call.
        finished: whether Ray knows the end of it; otherwise it took too long.
        resources: how long that is.
        unit: what was to be done; None while the worker gets ready.
        attempt: at the unit.
    """
    phase, key = (unit.phase, unit.key) if unit else ("start", "worker")
    if not finished:
        limit, knob = (
            (resources.timeout, "resources.timeout")
            if unit
            else (resources.startup_timeout, "resources.startup_timeout")
        )
        message = f"no answer within {limit:g} s ({knob}); the worker was ended"
        return Failure(phase, key, "Timeout", message, "retry", 3, attempt=attempt)
    try:
        answer: Outcome = ray.get(ref)
    except ray.exceptions.OutOfMemoryError:
        message = "the worker ran out of memory and was ended; lower input.shard_size or raise resources.memory"
        return Failure(phase, key, "OutOfMemory", message, "retry", 3, attempt=attempt)
    except ray.exceptions.RayActorError as error:
        return Failure(phase, key, "WorkerDied", f"the worker died: {_short(error)}", "retry", 3, attempt=attempt)
    except ray.exceptions.RayError as error:
        return Failure(phase, key, type(error).__name__, _short(error), "retry", 3, attempt=attempt)
    return answer


def blamed(failure: Failure, unit: Unit) -> Failure:
    """A failure, with the policy `stop` if it is over input that is sound here, where the driver is.

    A node that does not see the input fails fast, so it would get one shard after the other, and all of them would be parked.
    """
    shards = [unit.task["shard"]] if "shard" in unit.task else [*unit.task.get("a", []), *(unit.task.get("b") or [])]
    sources = [shard["source"] for shard in shards if "source" in shard]
    if failure.policy != "park" or not any(source["url"] in failure.message for source in sources):
        return failure
    try:
        for source in sources:
            check_unchanged(SourceFile(**source))
    except KxbatchError:
        return failure
    message = f"{failure.message} (so it is on worker {failure.worker}, not where the run was started; "
    message += "every node must see the input under the same path)"
    return replace(failure, policy="stop", exit_code=2, message=message)


def _short(error: Exception) -> str:
    """Ray's long messages, cut down to the sentence that says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [
        line for line in lines if "error_type" in line.lower() or "exit" in line.lower() or "killed" in line.lower()
    ]
    return (told or lines or [type(error).__name__])[0][:300]
