"""Runs a job from end to end, and leaves the truth about it in `run.json` and in the exit status."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import cache, partial
from typing import TextIO

from kxbatch.engine.defects import keep_defects, read_defects
from kxbatch.engine.driver import Driver
from kxbatch.engine.executors.base import Executor
from kxbatch.engine.job import Job, Node
from kxbatch.engine.lease import Lease, LeaseLost, check_token
from kxbatch.engine.manifest import MANIFEST, CorpusPlan, save_manifest
from kxbatch.engine.phases.made import shard_keys
from kxbatch.engine.phases.shards import corpus_shards
from kxbatch.engine.prepare import prepare
from kxbatch.engine.progress import Progress
from kxbatch.engine.record import publish_record
from kxbatch.engine.result import RunResult
from kxbatch.engine.scheduler import Scheduler
from kxbatch.engine.signals import Signals
from kxbatch.errors import ConfigError, FatalError
from kxbatch.spec.model import MakerConfig


def run_job(
    job: Job,
    *,
    limit: int | None = None,
    redo: Mapping[str, frozenset[str]] | None = None,
    training_only: bool = False,
    sampling_only: bool = False,
    quiet: bool = False,
    stream: TextIO | None = None,
) -> RunResult:
    """Run or resume a job.

    Args:
        job: the job.
        limit: read, or make, only the first rows, for a trial; a later run without it does the rest.
        redo: stage -> units to do again whatever their receipts say.
        training_only: do the stages that train, and those they build on.
        sampling_only: do the stages that make their rows, and those they build on.
        quiet: no progress.
        stream: where progress goes; absent: standard error.

    Raises:
        ConfigError: nothing was run.
        LeaseHeld: another run is at it.
    """
    started = time.monotonic()
    corpus, nodes = prepare(job)
    run = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
    seen = _manifest_bytes(job)
    with ExitStack() as stack:
        lease = stack.enter_context(Lease(job.output, run))
        if _manifest_bytes(job) != seen:  # another run finished between our look and our lease
            corpus, nodes = prepare(job)
        fence = partial(check_token, job.output, lease.token)
        job, nodes = job.fenced(fence), [node.fenced(fence) for node in nodes]
        job.output.sweep()
        save_manifest(job.output, corpus)
        signals = stack.enter_context(Signals())
        progress = stack.enter_context(Progress(job.output, run, quiet=quiet, stream=stream))
        scheduler = Scheduler(
            _on_first_use(job, stack),
            progress,
            job.spec.job.quarantine,
            lambda: signals.received,
            _to_do_again(job, nodes, redo or {}),
            sweep=limit is None,
            shards=frozenset(shard.key for shard in corpus_shards(job, corpus, None)) | shard_keys(nodes),
        )
        wanted = frozenset(node.name for node in nodes)
        if training_only:
            wanted = trained_names(job, nodes)
        if sampling_only:
            wanted = sampled_names(job, nodes)
        driver = Driver(job, nodes, corpus, scheduler, run, lease.token, limit, wanted)
        result = driver.drive()
        if result.exit_code in (0, 3):
            everything = result.exit_code == 0 and limit is None and len(wanted) == len(nodes)
            keep_defects(job.output, lambda defect: not driver.mended(defect, everything=everything))
        result.seconds = time.monotonic() - started
        _keep_record(job, result, corpus, driver.nodes, run, progress)
    return result


def _manifest_bytes(job: Job) -> bytes | None:
    return job.output.read(MANIFEST) if job.output.exists(MANIFEST) else None


def _on_first_use(job: Job, stack: ExitStack) -> Callable[[], Executor]:
    """A run with nothing to do starts no executor."""

    @cache
    def executor() -> Executor:
        made = make_executor(job)
        stack.callback(made.close)
        return made

    return executor


def make_executor(job: Job) -> Executor:
    """The executor that the job names."""
    if job.spec.job.executor == "inline":
        from kxbatch.engine.executors.inline import InlineExecutor

        return InlineExecutor()
    from kxbatch.engine.executors.ray import RayExecutor

    return RayExecutor(job.spec.job.address)


def _to_do_again(job: Job, nodes: Sequence[Node], redo: Mapping[str, frozenset[str]]) -> Mapping[str, frozenset[str]]:
    """Units whose receipts do not count, by stage: those asked for, and those that verify found damaged."""
    found, none = read_defects(job.output), frozenset[str]()
    return {node.name: found.get(node.name, none) | redo.get(node.name, none) for node in nodes}


def trained_names(job: Job, nodes: Sequence[Node]) -> frozenset[str]:
    """The stages that train, and all they build on.

    Raises:
        ConfigError: none does.
    """
    wanted = {node.name for node in nodes if "train" in node.stage.phases}
    if not wanted:
        raise ConfigError(f"{job.origin}: no stage of this job trains a model; `kxbatch run` runs it as it is")
    return _built_on(wanted, nodes)


def sampled_names(job: Job, nodes: Sequence[Node]) -> frozenset[str]:
    """The stages that make their rows, and all they build on.

    Raises:
        ConfigError: none does.
    """
    wanted = {node.name for node in nodes if isinstance(node.config, MakerConfig)}
    if not wanted:
        raise ConfigError(f"{job.origin}: no stage of this job draws samples; `kxbatch run` runs it as it is")
    return _built_on(wanted, nodes)


def _built_on(wanted: set[str], nodes: Sequence[Node]) -> frozenset[str]:
    """These stages and all those that they read or take artifacts of."""
    found = set(wanted)
    for node in reversed(nodes):
        if node.name in found:
            found |= {node.upstream, *node.takes}
    return frozenset(node.name for node in nodes if node.name in found)


def _keep_record(
    job: Job, result: RunResult, corpus: CorpusPlan, nodes: Sequence[Node], run: str, progress: Progress
) -> None:
    """Write down how the run ended. Where it did not end well, that is told even if it cannot be written.

    Raises:
        LeaseLost: another run is at it.
        FatalError: all is done, but nothing says so.
    """
    try:
        publish_record(job, result, corpus, nodes, run)
        progress.end(result.status, result.exit_code)
    except FatalError as error:
        if result.exit_code == 0 or isinstance(error, LeaseLost):
            raise
        result.warnings.append(f"no record of this run: {error}")  # a full disk, say; the message stays what it was
        progress.say(result.warnings[-1])
