"""Validation: the rows held out, and what a model makes of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pyarrow as pa
import torch

from kxbatch.stages.task import KEY, Task
from kxbatch.training.backend import Backend
from kxbatch.training.feed import moved, training_rows
from kxbatch.training.session import Session

_DRAW = -1  # validation always masks the same words


def validation_batches(session: Session) -> Callable[[], Iterator[pa.Table]]:
    """The rows held out, encoded, in micro-batches of like size; read once and kept, for their number is limited."""
    kept: list[pa.Table] = []

    def read() -> Iterator[pa.Table]:
        if not kept and session.config.validation_share:
            kept.extend(_validation(session))
        return iter(kept)

    return read


def _validation(session: Session) -> Iterator[pa.Table]:
    config, task = session.config, session.task()
    tables, sizes, keys, left = [], [], [], config.validation_rows
    for shard in range(session.shards):
        found = training_rows(session, shard, held=True)
        take = min(left, len(found.rows))
        if take:
            tables.append(session.table(shard).take(pa.array(found.rows[:take])))
            sizes.append(found.sizes[:take])
            keys.append(found.keys[:take])
            left -= take
    if not tables:
        return
    by_size = np.argsort(np.concatenate(sizes), kind="stable")
    all_rows = pa.concat_tables(tables).combine_chunks()
    all_keys = np.concatenate(keys)
    for start in range(0, len(by_size), config.rows_at_once):
        places = by_size[start : start + config.rows_at_once]
        yield task.encode(all_rows.take(pa.array(places))).append_column(KEY, pa.array(all_keys[places]))


def validated(task: Task, backend: Backend, tables: Sequence[pa.Table]) -> dict[str, float]:
    """Loss and metrics of the rows held out, by the averaged weights where there are some, the same in all processes.

    Args:
        task: what is trained.
        backend: has the model; all processes must call this.
        tables: micro-batches, the same in all processes.

    Returns:
        Means by the weight of the micro-batches, as `validation_NAME`.
    """
    sums: dict[str, float] = {}
    backend.model.eval()
    with torch.no_grad(), backend.averaged():
        for at in range(-(-len(tables) // backend.world)):  # all processes go forward equally often
            number = at * backend.world + backend.rank
            batch = task.collate(tables[min(number, len(tables) - 1)], _DRAW)
            with backend.forward_context():
                loss = task.loss(backend.model, moved(batch, backend.device))
            weight = batch.weight if number < len(tables) else 0
            found = {"loss": loss.mean, **loss.metrics}
            for name, value in found.items():
                sums[name] = sums.get(name, 0.0) + float(value) * weight
            sums["weight"] = sums.get("weight", 0.0) + weight
    backend.model.train()
    names = sorted(sums)
    told = backend.mean(torch.tensor([sums[n] for n in names], dtype=torch.float64, device=backend.device)).tolist()
    means = dict(zip(names, told, strict=True))
    total = means.pop("weight") or 1.0
    return {f"validation_{name}": value / total for name, value in means.items()}
