"""`kxbatch convert`."""

from __future__ import annotations

from dataclasses import asdict

import click

from kxbatch.cli.common import json_option, loud, print_json, show, volume_options


@click.command()
@click.argument("artifact", type=click.Path())
@click.option("--format", "format_", required=True, metavar="FORMAT", help="hf, onnx or safetensors.")
@click.option("--to", "target", type=click.Path(), help="New or empty folder; absent: STAGE-FORMAT, here.")
@click.option("--dtype", default="fp32", metavar="DTYPE", help="fp32, bf16 or fp16, as safetensors stores them.")
@json_option
@volume_options
def command(
    artifact: str, format_: str, target: str | None, dtype: str, as_json: bool, quiet: bool, verbose: bool
) -> None:
    """Convert a trained text encoder for use elsewhere, and check that it gives the same numbers there.

    ARTIFACT is the folder of a masked-lm stage or its _artifact, on a disk or on s3://. Nothing is written where the
    converted model gives other numbers.

    \b
    Examples:
      kxbatch convert out/train-gau/encoder --format hf --to models/gau
      kxbatch convert out/train-gau/encoder --format onnx
    """
    from kxbatch.api import convert

    loud(verbose)
    result = convert(artifact, target, format=format_, dtype=dtype)
    if as_json:
        print_json(asdict(result))
        return
    click.echo(f"{show(len(result.files))} files: {result.path}")
    if not quiet:
        found = ", ".join(f"{name} {show(value)}" for name, value in result.differences.items())
        click.echo(f"largest differences over {result.texts} texts: {found} (tolerance {show(result.tolerance)})")
