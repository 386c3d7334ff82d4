"""`kxbatch tune`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kxbatch.cli.common import job_argument, json_option, loud, print_json, print_table, volume_options

if TYPE_CHECKING:
    from kxbatch.engine.tune import Tuning, Unlabelled


@click.command()
@job_argument
@click.option("--pairs", type=click.Path(path_type=Path), help="Labelled pairs: Parquet, CSV or TSV.")
@click.option("--test", type=click.Path(path_type=Path), help="Further pairs, scored at the chosen point only.")
@click.option("--columns", metavar="A,B,SCORE", help="Columns of the pairs; absent: two texts and a number.")
@click.option("--stage", help="The whiten stage, where there are several.")
@click.option("--dims", metavar="N,N,...", help="Widths to try; absent: powers of two and the numerical rank.")
@click.option("--fit-on", type=click.Choice(["corpus", "pairs"]), default="corpus", show_default=True)
@click.option("--set", "sets", multiple=True, metavar="STAGE.KEY=VALUE", help="Override a key; repeatable.")
@json_option
@volume_options
def command(
    job: str,
    pairs: Path | None,
    test: Path | None,
    columns: str | None,
    stage: str | None,
    dims: str | None,
    fit_on: str,
    sets: tuple[str, ...],
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Sweep beta, gamma and dim of whitening, from the moments that a run stored.

    With --pairs the Spearman correlation with the gold scores decides. Without, isotropy and hubness of every point are shown
    and nothing is chosen: no label-free figure tells which setting is best.

    \b
    Examples:
      kxbatch tune jobs/corpus_audit.toml --pairs dev.tsv --test test.tsv
      kxbatch tune jobs/corpus_audit.toml
    """
    from kxbatch.engine.job import load_job
    from kxbatch.engine.tune import look_without_labels, tune_on_pairs

    loud(verbose)
    loaded, widths = load_job(job, overrides=sets), _widths(dims)
    if pairs is None:
        _show_unlabelled(look_without_labels(loaded, stage=stage, dims=widths), as_json)
        return
    names = columns.split(",") if columns else None
    result = tune_on_pairs(
        loaded,
        pairs,
        test=test,
        columns=names,
        stage=stage,
        dims=widths,
        fit_on="pairs" if fit_on == "pairs" else "corpus",
    )
    _show(result, as_json)


def _widths(dims: str | None) -> list[int] | None:
    try:
        return [int(part) for part in dims.split(",")] if dims else None
    except ValueError:
        raise click.BadParameter(f"{dims!r}: write whole numbers with commas between, e.g. 64,128,256") from None


def _show(result: Tuning, as_json: bool) -> None:
    if as_json:
        print_json(asdict(result))
        return
    ranked = sorted(result.points, key=lambda p: -(p.spearman if p.spearman is not None else -2.0))
    how = {"corpus": "the corpus (inductive)", "pairs": "the pairs' own texts (transductive)"}[result.fitted_on]
    click.echo(f"{result.pairs} pairs ({result.dropped} left out); moments of {result.rows} rows of {how}")
    rows: list[tuple[object, ...]] = [("raw", "", "", result.raw)]
    rows += [(p.beta, p.gamma, p.dim, p.spearman) for p in ranked[:10]]
    print_table(("beta", "gamma", "dim", "Spearman"), rows)
    if result.test is not None:
        click.echo(f"on the test pairs: {result.test:.4f} at the chosen point, {result.test_raw or 0:.4f} raw")
    best = result.best
    click.echo(f'\n[[stage]]\nkind = "whiten"\nbeta = {best.beta}\ngamma = {best.gamma}\ndim = {best.dim}')


def _show_unlabelled(points: list[Unlabelled], as_json: bool) -> None:
    if as_json:
        print_json([asdict(point) for point in points])
        return
    print_table(
        ("beta", "gamma", "dim", "mean cosine", "skewness", "antihub share", "max N_k"),
        [tuple(asdict(point).values()) for point in points],
    )
    click.echo("no choice is made: without labelled pairs (--pairs) none of these figures says which setting is best")
