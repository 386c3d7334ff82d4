"""`kxbatch schema`."""

from __future__ import annotations

import click

from kxbatch.cli.common import loud, print_json, volume_options
from kxbatch.errors import ConfigError, nearest


@click.command()
@click.option("--kind", help="Only of this kind of stage.")
@click.option("--json", "as_json", is_flag=True, help="JSON is what it prints anyway.")
@volume_options
def command(kind: str | None, as_json: bool, quiet: bool, verbose: bool) -> None:
    """Print the JSON schema of job files; editors complete and check with it.

    \b
    Examples:
      kxbatch schema > kxbatch.schema.json     # then, first line of job.toml: "#:schema ./kxbatch.schema.json"
      kxbatch schema --kind whiten
    """
    from kxbatch.spec.load import job_type
    from kxbatch.stages.registry import config_types

    loud(verbose)
    kinds = config_types()
    if kind is None:
        draft = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
        print_json(draft | job_type(kinds).model_json_schema())
        return
    if kind not in kinds:
        raise ConfigError(f"--kind {kind}: unknown kind{nearest(kind, kinds)} (allowed: {', '.join(kinds)})")
    print_json(kinds[kind].model_json_schema())
