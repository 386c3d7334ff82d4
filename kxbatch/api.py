"""kxbatch from Python: the same jobs, the same results, without a command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from kxbatch.engine.convert import Converted, convert
from kxbatch.engine.job import Job, load_job
from kxbatch.engine.output import Output, open_output
from kxbatch.engine.plan import Plan, plan_job
from kxbatch.engine.result import RunResult
from kxbatch.engine.run import run_job

JobSource = str | Path | Mapping[str, Any]


def run(
    job: JobSource,
    *,
    overrides: Sequence[str] = (),
    limit: int | None = None,
    quiet: bool = False,
    report: bool = True,
    redo: Mapping[str, frozenset[str]] | None = None,
    training_only: bool = False,
    sampling_only: bool = False,
    stream: TextIO | None = None,
) -> RunResult:
    """Run or resume a job.

    Args:
        job: path of a job file, or its content as a mapping.
        overrides: `section.key=value`, as `--set` takes them.
        limit: read only the first rows of the corpus, and make only the first samples.
        quiet: show no progress.
        report: build `report.html` at the end, unless nothing changed.
        redo: stage -> shards to do again, such as `{"embed": frozenset({"part-00003"})}`.
        training_only: do only the stages that train a model, and those they build on.
        sampling_only: do only the stages that draw samples, and those they build on.
        stream: where progress is written; absent: standard error.

    Returns:
        What the run came to; `exit_code` is 0 when everything is done.

    Raises:
        ConfigError: nothing was run; the message says what to mend.
        LeaseHeld: another run writes the same output.
    """
    loaded = load_job(job, overrides=overrides)
    result = run_job(
        loaded,
        limit=limit,
        quiet=quiet,
        redo=redo,
        training_only=training_only,
        sampling_only=sampling_only,
        stream=stream,
    )
    if report and (result.status != "unchanged" or not loaded.output.exists("report.html")):
        build_report(loaded.output.path)
    return result


def plan(job: JobSource, *, overrides: Sequence[str] = (), limit: int | None = None) -> Plan:
    """What a run would do, without doing any of it.

    Raises:
        ConfigError: the job cannot run; the message says what to mend.
    """
    return plan_job(load_job(job, overrides=overrides), limit=limit)


def open(path: str | Path) -> Output:
    """Open an output; `.scan()` is one lazy polars frame over all of its stages."""
    return open_output(path)


def build_report(output: str | Path) -> str:
    """Build `report.html` of an output; returns its path."""
    from kxbatch.data.storage import output_folder
    from kxbatch.engine.record import RECORD
    from kxbatch.engine.status import PROGRESS
    from kxbatch.engine.texts import row_texts
    from kxbatch.report import build

    folder = output_folder(str(output), Path.cwd())
    if not folder.exists(RECORD) and folder.exists(
        PROGRESS
    ):  # the first run is at work, or died: no texts are known yet
        return build(folder).path
    folder = open_output(output).folder
    return build(folder, lambda ids: row_texts(folder, ids)).path


__all__ = [
    "Converted",
    "Job",
    "Output",
    "Plan",
    "RunResult",
    "build_report",
    "convert",
    "load_job",
    "open",
    "plan",
    "run",
]
