"""Training: a survey of every shard, one training over all of them, and the artifact that is pinned.

A finished training is not repeated: its card says what it was trained from. What is unfinished lies in `_training` and is gone
on with as long as configuration and rows are the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter

from kxbatch.data.arrays import publish_arrays
from kxbatch.data.documents import Document, FileName, publish_sealed, read_sealed
from kxbatch.data.receipts import Receipt
from kxbatch.engine.assign import Assignment
from kxbatch.engine.cards import ARTIFACT, CARD, TRAINING, damaged_files, read_card
from kxbatch.engine.job import Node
from kxbatch.engine.phases.folding import Pin, refit_reason, state_units
from kxbatch.engine.phases.shards import InputShard
from kxbatch.engine.surveys import FACTS, HELD_OUT, PASSED, survey_facts
from kxbatch.engine.training_session import RESULT, TrainingSession
from kxbatch.engine.units import Unit
from kxbatch.spec.fingerprint import fingerprint
from kxbatch.stages.base import TrainStage


class _Result(Document):
    identity: str
    files: dict[FileName, str]
    digest: str
    facts: dict[str, Any]


_RESULT = TypeAdapter(_Result)


def survey_units(node: Node, shards: Sequence[InputShard]) -> list[Unit]:
    """One unit a shard, which tells its usable rows, their sizes, and how many of them are held out."""
    return state_units(node, "survey", shards, {"held_out": str(_training(node).training.validation_share)})


def training_reason(node: Node, chain: str, card: Mapping[str, Any] | None, now: Mapping[str, str]) -> str | None:
    """Why the model must be trained, None where it is; arguments as of `refit_reason`."""
    return refit_reason(card, now, fold=node.code("train"), chain=chain, refit=_training(node).training.refit)


@dataclass(frozen=True)
class Training:
    """One stage's training, as far as a run has come with it.

    Attributes:
        node: the stage.
        chain: configuration of everything above it.
        receipts: of its surveys, by shard key.
        complete: whether no shard is missing.
        run: id of the run.
    """

    node: Node
    chain: str
    receipts: Mapping[str, Receipt]
    complete: bool
    run: str

    @property
    def now(self) -> dict[str, str]:
        """Digests of the surveys."""
        return {key: receipt.digest for key, receipt in sorted(self.receipts.items())}

    @property
    def identity(self) -> str:
        """Of everything that decides the weights."""
        return fingerprint([self.node.code("train"), self.chain, self.now])

    def reason(self, *, asked: bool) -> str | None:
        """Why it has to be trained; None: the artifact is there and holds."""
        folder = self.node.folder.child(ARTIFACT)
        card = read_card(folder)
        reason = training_reason(self.node, self.chain, card, self.now)
        if reason is None and card is not None and (asked or damaged_files(folder, card)):
            return "its artifact is damaged, or was asked for anew"
        return reason

    def gather(self) -> None:
        """Put together what the surveys say, for the task to read."""
        files = (receipt.file for _, receipt in sorted(self.receipts.items()))
        facts = _training(self.node).combine(survey_facts(self.node.folder, file) for file in files)
        if facts:
            publish_arrays(self.node.folder.child(TRAINING), FACTS, facts)

    def session(self, assignment: Assignment, shards: Sequence[InputShard]) -> TrainingSession:
        """What the trainer is given."""
        held = [(shard, self.receipts[shard.key]) for shard in shards if shard.key in self.receipts]
        return TrainingSession(
            assignment,
            tuple(dict(shard.task) for shard, _ in held),
            tuple(receipt.file for _, receipt in held),
            tuple(_learned(receipt) for _, receipt in held),
            self.identity,
        )

    def result(self) -> dict[str, Any] | None:
        """What the trainer published for exactly this training; None where it did not come to an end."""
        found = read_sealed(self.node.folder.child(TRAINING), RESULT, _RESULT, "remove it and run again")
        if found is None or found["identity"] != self.identity:
            return None
        return None if damaged_files(self.node.folder.child(ARTIFACT), found) else found

    def pin(self, result: Mapping[str, Any], reason: str) -> Pin:
        """Publish the card: from here on the artifact holds. Files of an earlier training that this one lacks go."""
        node, folder, facts = self.node, self.node.folder.child(ARTIFACT), result["facts"]
        rows = sum(receipt.rows_out for receipt in self.receipts.values())
        card = {
            "kind": node.config.kind,
            "version": node.stage.version,
            "configuration": node.config.semantic(),
            **node.identity,
            "column": node.stage.column,
            "fold": node.code("train"),
            "fit": node.code("train"),
            "chain": self.chain,
            "digest": result["digest"],
            "drift": 0.0,
            "seen": self.now,
            "provisional": not self.complete,
            "files": result["files"],
            "fitted_on": self.now,
            "fitted": {"rows": rows, "run": self.run, "at": datetime.now(UTC).isoformat(timespec="seconds")},
            "training": facts,
        }
        publish_sealed(folder, CARD, card)
        for name in folder.names():
            if name not in result["files"] and name != CARD:
                folder.remove(name)
        return Pin(result["digest"], f"trained: {reason}; {_words(facts)}")


def pinned(node: Node) -> Pin:
    """The artifact as it stands."""
    card = read_card(node.folder.child(ARTIFACT))
    assert card is not None
    return Pin(card["digest"], _words(card["training"]) if "training" in card else "")


def _learned(receipt: Receipt) -> int:
    """Rows of a shard that the model learns from."""
    return receipt.rows_out - sum(int(receipt.counters.get(name, 0)) for name in (HELD_OUT, PASSED))


def _words(facts: Mapping[str, Any]) -> str:
    best = f", best validation loss {facts['best']:.4g} at step {facts['best_step']}" if facts.get("best") else ""
    done = facts["diverged_at"] or facts["step"]
    return f"{facts['status']} after {done} of {facts['steps']} steps{best}"


def _training(node: Node) -> TrainStage[Any]:
    assert isinstance(node.stage, TrainStage)
    return node.stage
