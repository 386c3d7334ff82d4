"""One of the processes of `test_deepspeed_backend`: trains at every ZeRO stage, and goes on from every state there is.

Run as `python several_processes.py FOLDER WORLD RANK`. The processes of one world meet through a file; worlds of
different sizes run side by side and read each other's states. Process 0 writes `results-WORLD.json`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor
from training.trainable import Trainable, batch

from kxbatch.errors import ConfigError
from kxbatch.spec.training import TrainingConfig
from kxbatch.training.backend import Backend
from kxbatch.training.deepspeed_backend import DeepSpeedBackend
from kxbatch.training.optimizers import make_optimizer
from kxbatch.training.plain import PlainBackend

CPU = torch.device("cpu")
SHARED, END = 3, 6  # the step after which the state is written, and the last one
WORLDS = (1, 2)


@dataclass(frozen=True)
class Case:
    """What is trained, and which case of plain torch it is like."""

    zero: int | None  # None: plain torch
    like: str = "plain"
    kind: str = "adamw"
    precision: str = "fp32"

    @property
    def worlds(self) -> tuple[int, ...]:
        return (1,) if self.zero is None else WORLDS


CASES = {
    "plain": Case(None),
    "zero0": Case(0),
    "zero1": Case(1),
    "zero2": Case(2),
    "zero3": Case(3),
    "lamb-plain": Case(None, kind="lamb"),
    "lamb": Case(0, "lamb-plain", kind="lamb"),
    "adafactor-plain": Case(None, kind="adafactor"),
    "adafactor": Case(0, "adafactor-plain", kind="adafactor"),
    "autocast-plain": Case(None, precision="autocast"),
    "autocast": Case(1, "autocast-plain", precision="autocast"),
    "autocast3": Case(3, "autocast-plain", precision="autocast"),
    "bf16": Case(2, "autocast-plain", precision="bf16"),
    "bf16-3": Case(3, "autocast-plain", precision="bf16"),
}
EXACT = ["plain", "zero0", "zero1", "zero2", "zero3"]  # read each other's states


def make(case: str, seed: int = 0) -> tuple[Backend, TrainingConfig]:
    what = CASES[case]
    torch.manual_seed(seed)
    model = Trainable()
    asked: dict[str, Any] = {"batch_rows": 8, "micro_rows": 2, "ema": 0.8, "precision": what.precision, "clip": 0.7}
    asked |= {"optimizer": {"kind": what.kind, "weight_decay": 0.1}, "deepspeed": {"zero": what.zero or 0}}
    config = TrainingConfig.model_validate(asked)
    optimizer = make_optimizer(model, config.optimizer)
    if what.zero is None:
        return PlainBackend(model, config, CPU, optimizer), config
    return DeepSpeedBackend(model, config, CPU, optimizer), config


def train(held: Backend, config: TrainingConfig, first: int, last: int) -> list[list[float]]:
    """Loss and norm of every step; process r takes the r-th run of micro-batches."""
    found = []
    for step in range(first, last):
        mine = batch(step, config.batch_rows).chunk(config.micro_batches)
        own = config.micro_batches // held.world
        losses = []
        for i, rows in enumerate(mine[held.rank * own : (held.rank + 1) * own]):
            with held.forward_context():
                loss = held.model(rows)
            held.backward(loss, last=i == own - 1)
            losses.append(loss.detach().float())
        norm = held.step(0.01 * (step + 1))
        found.append([float(held.mean(torch.stack(losses).mean())), float(norm)])
    return found


@torch.no_grad()
def validate(held: Backend) -> float:
    held.model.eval()
    with held.forward_context():
        loss = held.mean(held.model(batch(99, 8)).float())
    held.model.train()
    return float(loss)


def train_and_write(case: str, folder: Path) -> dict[str, Any]:
    held, config = make(case)
    losses = train(held, config, 0, SHARED)
    share = dict(held.share())
    save_file({name: value.contiguous() for name, value in share.items()}, folder / f"{case}-{held.world}-{held.rank}")
    losses += train(held, config, SHARED, END)
    with held.averaged():
        averaged = validate(held)
        weights = held.weights()
    assert (weights is None) == (held.rank != 0)
    if weights is not None:
        save_file(
            {name: value.contiguous() for name, value in weights.items()}, folder / f"average-{case}-{held.world}"
        )
    found = {
        "losses": losses,
        "averaged": averaged,
        "plain": validate(held),
        "after": train(held, config, END, END + 2),
    }
    held.barrier()
    return {**found, "broken": broken_step(held, config)}


def broken_step(held: Backend, config: TrainingConfig) -> bool:
    """Whether a gradient that is no number, in one process only, leaves all as it was."""
    before = dict(held.share())
    own = config.micro_batches // held.world
    for i in range(own):
        loss = held.model(batch(0, 2))
        held.backward(loss * float("nan") if held.rank == 0 else loss, last=i == own - 1)
    finite = held.step(0.01).isfinite()
    return not finite and all(torch.equal(value, before[name]) for name, value in held.share())


def state(folder: Path, case: str, world: int) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for rank in range(world):
        share = load_file(folder / f"{case}-{world}-{rank}")
        assert not found.keys() & share.keys(), "a tensor is in two shares"
        found |= share
    return found


def go_on(folder: Path, case: str, sources: list[tuple[str, int]]) -> Iterator[tuple[str, Any]]:
    held, config = make(case, seed=7)
    for source, world in sources:
        read = state(folder, source, world)
        held.load(read)
        back = dict(held.share())
        same = all(torch.equal(value, read[name]) for name, value in back.items())
        losses = train(held, config, SHARED, END)
        with held.averaged():
            averaged = validate(held)
        yield f"{source}-{world} -> {case}-{held.world}", {"losses": losses, "averaged": averaged, "same": same}


def refusals(folder: Path, case: str) -> list[str]:
    held, _ = make(case)
    read = state(folder, case, 1)
    words = []
    for wrong in ({**read, "weights/lniear": torch.zeros(1)}, {**read, "weights/back.weight": torch.zeros(3, 3)}):
        try:
            held.load(wrong)
        except ConfigError as error:
            words.append(str(error))
    return words


def main(folder: Path, world: int, rank: int) -> None:
    assert "deepspeed" not in sys.modules, "importing the backend must not load DeepSpeed"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet-{world}", rank=rank, world_size=world)
    cases = [case for case, what in CASES.items() if world in what.worlds]
    results: dict[str, Any] = {case: train_and_write(case, folder) for case in cases}
    (folder / f"written-{world}-{rank}").touch()
    wait_for(folder)
    for case in cases:
        sources = EXACT if case in EXACT else [case]
        results |= dict(go_on(folder, case, [(source, size) for source in sources for size in CASES[source].worlds]))
    results["refusals"] = {case: refusals(folder, case) for case in ("zero0", "zero1", "zero3")}
    if rank == 0:
        (folder / f"results-{world}.json").write_text(json.dumps(results))
    dist.destroy_process_group()


def wait_for(folder: Path) -> None:
    """Until all processes of all worlds have written their states."""
    deadline = time.monotonic() + 200
    while len(list(folder.glob("written-*"))) < sum(WORLDS):
        assert time.monotonic() < deadline, "another process has not written its states"
        time.sleep(0.1)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
