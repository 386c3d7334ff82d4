"""`kxbatch sample`."""

from __future__ import annotations

from typing import Any

import click

from kxbatch.cli.common import job_argument, job_options, run_options
from kxbatch.cli.run import perform


@click.command()
@job_argument
@job_options
@run_options
def command(job: str, **options: Any) -> None:
    """Draw samples from the models of a job, and stop there: `kxbatch run` also does the stages that read them.

    Stages that the samples build on, such as one that trains the model, are run first. Samples that are there are kept; with a
    larger count only those are drawn that are missing. Prints where the samples are.

    \b
    Examples:
      kxbatch sample job.toml
      kxbatch sample job.toml --executor inline --set sample.count=1000
      kxbatch sample job.toml --limit 16 --json
    """
    perform(job, **options, sampling_only=True)
