"""`kxbatch extract eval`."""

from __future__ import annotations

from typing import Any

import click

from kxbatch.cli.common import json_option, loud, print_json, print_table, volume_options

SUBSETS = ("micro", "nested", "flat")


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--gold", default="labels", show_default=True, help="Column of the right spans.")
@click.option("--found", default="entities", show_default=True, help="Column of the found ones.")
@click.option("--text", default="text", show_default=True, help="Column of the texts.")
@click.option("--split", help="Only rows with this value in --split-column.")
@click.option("--split-column", default="split", show_default=True, help="Column that tells the parts of a dataset.")
@click.option("--output", type=click.Path(), help="Folder for evaluation.json and evaluation.html.")
@json_option
@volume_options
def command(
    paths: tuple[str, ...],
    gold: str,
    found: str,
    text: str,
    split: str | None,
    split_column: str,
    output: str | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Measure found entities: precision, recall and F1 of all, of nested ones and by type, and what is wrong with the others.

    PATH is what a stage of kind `extract` wrote, or any folder or file of Parquet, with texts, right spans and found spans:
    lists of structs with start, end (code points, exclusive) and type. The stage copies the first two if they are in its `keep`.
    Several PATHs are systems side by side; they must have the same ids. Rows whose right spans are null are left out.

    \b
    Examples:
      kxbatch extract eval out/ner/extract --split test --output out/evaluation
      kxbatch extract eval out/egp/extract out/crf/extract --split test
      kxbatch extract eval found.parquet --gold gold_spans --found found_spans --json
    """
    from kxbatch.data.filesystems import absolute
    from kxbatch.data.storage import Folder
    from kxbatch.engine.span_evaluation import evaluate, write
    from kxbatch.engine.span_rows import Columns
    from kxbatch.report.span_evaluation import build

    loud(verbose)
    evaluation = evaluate(paths, Columns(gold, found, text, split, split_column))
    if output is not None:
        folder = Folder(absolute(output, None))
        write(evaluation, folder)
        page = build(evaluation, folder)
        if not quiet:
            click.echo(f"wrote {page}", err=True)
    if as_json:
        print_json(evaluation.to_json())
    else:
        _print(evaluation.to_json())


def _print(facts: dict[str, Any]) -> None:
    systems = facts["systems"]
    shares = [(subset, name) for subset in SUBSETS for name in ("precision", "recall", "f1")]
    rows = [[one["name"], one["micro"]["found"], *(_percent(one[s][name]) for s, name in shares)] for one in systems]
    heads = [*("P", "R", "F1"), *(f"{s} {name}" for s in SUBSETS[1:] for name in ("P", "R", "F1"))]
    title = (
        f"{facts['texts']} texts, {facts['gold_spans']} gold spans, {facts['gold_nested']} of them nested; in percent"
    )
    print_table(["system", "found", *heads], rows, title=title)
    click.echo()
    print_table(["system", *systems[0]["errors"]], [[one["name"], *one["errors"].values()] for one in systems])
    click.echo()
    names = sorted(facts["types"], key=lambda name: -systems[0]["by_type"][name]["gold"])
    by_type = [
        [name, systems[0]["by_type"][name]["gold"], *(_percent(one["by_type"][name]["f1"]) for one in systems)]
        for name in names
    ]
    print_table(["type", "gold", *(f"F1 {one['name']}" if len(systems) > 1 else "F1" for one in systems)], by_type)
    left_out = {one["name"]: one["rows_without_gold"] for one in systems if one["rows_without_gold"]}
    for name, count in left_out.items():
        click.echo(f"note: {name}: {count} rows without gold are left out")


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"
