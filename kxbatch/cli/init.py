"""`kxbatch init`."""

from __future__ import annotations

from pathlib import Path

import click

from kxbatch.cli.common import json_option, loud, print_json, volume_options
from kxbatch.errors import ConfigError

DEFAULT = "corpus_audit"


@click.command()
@click.argument("folder", metavar="[DIR]", default=".", type=click.Path(path_type=Path))
@click.option("--template", default=DEFAULT, show_default=True, help="Which job file; 'list' shows them all.")
@click.option("--force", is_flag=True, help="Overwrite a job.toml that is there.")
@json_option
@volume_options
def command(folder: Path, template: str, force: bool, as_json: bool, quiet: bool, verbose: bool) -> None:
    """Write a commented job file, job.toml, to start from.

    \b
    Examples:
      kxbatch init
      kxbatch init my-corpus --template vectors_audit
      kxbatch init --template list
    """
    from kxbatch.cli.templates import find_template, jobs_folder, templates

    loud(verbose)
    if template == "list":
        known = templates(jobs_folder())
        if as_json:
            print_json(known)
        else:
            click.echo("\n".join(f"{name:<20} {line}" for name, line in known.items()))
        return
    source, target = find_template(jobs_folder(), template), folder / "job.toml"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with target.open("wb" if force else "xb") as file:
            file.write(source.read_bytes())
    except FileExistsError:
        raise ConfigError(f"{target} exists; --force overwrites it") from None
    if as_json:
        print_json({"template": source.stem, "path": str(target)})
    else:
        click.echo(target)
    if not quiet:
        click.echo(f"change [input] and the stages to your needs, then: kxbatch plan {target}", err=True)
