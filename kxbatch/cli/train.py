"""`kxbatch train`."""

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
    """Train the models of a job, and stop there: `kxbatch run` goes on and applies them.

    Stages that the models build on, such as a tokenizer, are run first. What is trained already is kept; what was interrupted
    goes on from its newest state, on any number of workers.

    \b
    Examples:
      kxbatch train jobs/train_gau.toml
      kxbatch train job.toml --executor inline --set encoder.training.steps=100
      kxbatch train job.toml --address auto --set encoder.training.workers=8
    """
    perform(job, **options, training_only=True)
