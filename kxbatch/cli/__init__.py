"""The command line: one file a verb, loaded when it is used, so that `kxbatch --help` is instant."""

from __future__ import annotations

import os
import sys

import click

from kxbatch.cli.lazy import LazyGroup
from kxbatch.errors import Abandoned, KxbatchError

VERBS = {
    "run": "Run or resume a job.",
    "train": "Train the models of a job.",
    "sample": "Draw samples from the models of a job.",
    "plan": "Show what a run would do; change nothing.",
    "status": "Show the state of a run, live or finished.",
    "verify": "Re-read everything an output claims to have.",
    "quarantine": "Rows set aside: list, show, replay.",
    "inspect": "Look at a dataset: schema, rows, vectors.",
    "lineage": "Show where a part came from, stage by stage.",
    "export": "Join the stages of an output into one flat dataset.",
    "convert": "Convert a trained model for use elsewhere, and check it.",
    "compact": "Rewrite many small parts into few.",
    "report": "Build report.html of an output.",
    "kg": "Graphs of facts for retrieval: build, add, delete.",
    "extract": "Found entities: measure them.",
    "tune": "Choose beta, gamma and dim of whitening on labelled pairs.",
    "doctor": "Check this machine: what works, what does not, the mend.",
    "init": "Write a commented job file to start from.",
    "schema": "Print the JSON schema of job files.",
    "demo": "Run the main job on real text with the packaged encoder.",
}


@click.group(
    cls=LazyGroup,
    package="kxbatch.cli",
    verbs=VERBS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="kxbatch")
def cli() -> None:
    """Embed corpora, whiten them, audit them for hubs; resume anything, lose nothing.

    Start with `kxbatch demo`, or with `kxbatch init` and `kxbatch run job.toml`.

    Exit status: 0 done or nothing to do, 1 unexpected, 2 usage or configuration, 3 failed shards or defects,
    4 quarantine budget or quality gate, 75 another run holds the lease, 130/143 signals.
    """


def main() -> None:
    """Entry point: every error becomes a sentence and an exit status."""
    try:
        sys.exit(cli.main(standalone_mode=False) or 0)
    except KxbatchError as error:
        _fail(str(error), error.exit_code)
    except click.exceptions.Exit as error:
        sys.exit(error.exit_code)
    except click.Abort:
        _fail("aborted", 130)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader of our output went away, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except Exception as error:
        if os.environ.get("KXBATCH_TRACEBACK"):
            raise
        _fail(f"unexpected {type(error).__name__}: {error}\nset KXBATCH_TRACEBACK=1 to see where", 1)
    except Abandoned as error:
        _fail("given up; finished shards are kept", error.exit_code)


def _fail(message: str, status: int) -> None:
    click.echo(f"error: {message}", err=True)
    sys.exit(status)
