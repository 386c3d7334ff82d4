"""An output is one folder: what a run writes and removes stays inside it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from kxbatch.data.receipts import BOOKKEEPING
from kxbatch.data.storage import Folder
from kxbatch.engine.cards import ARTIFACT, TRAINING
from kxbatch.errors import ConfigError

_PHASES = ("map", "fold", "survey", "pairs", "lists", "patches")
_OF_OUTPUT = ("log.jsonl", BOOKKEEPING, f"{BOOKKEEPING}/ids", f"{BOOKKEEPING}/lease.lock")
_OF_STAGE = (
    *["", ARTIFACT, BOOKKEEPING, TRAINING, f"{TRAINING}/tensorboard"],
    *[f"{BOOKKEEPING}/{folder}" for folder in ("quarantine", "receipts", "state")],
    *[f"{BOOKKEEPING}/{folder}/{phase}" for folder in ("receipts", "state") for phase in _PHASES],
)


def check_no_links(output: Folder, stages: Iterable[str]) -> None:
    """Make sure that no folder of an output is a link, nor a file that is written in place.

    Links in the place of parts and documents do no harm: those are replaced, never written through. The output itself may
    be reached by a link.

    Args:
        output: the output.
        stages: names of its stages.

    Raises:
        ConfigError: one is; names it.
    """
    names = list(stages)
    places = [*_OF_OUTPUT, *(f"{stage}/{place}" for stage in names for place in _OF_STAGE)]
    states = [state for name in names for state in Path(output.path, name, TRAINING).glob("step-*")]
    for path in [*(Path(output.path, place) for place in places), *states]:
        if path.is_symlink():
            raise ConfigError(
                f"{path}: a link, which leads out of {output.path}; an output is one folder, and nothing is written or removed "
                "outside of it: put the real folder in its place (job.output itself may be a link, or on a mounted disk)"
            )
