"""`kxbatch kg eval`."""

from __future__ import annotations

from collections.abc import Sequence
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from kxbatch.cli.common import json_option, loud, print_json, print_table, volume_options
from kxbatch.errors import nearest

if TYPE_CHECKING:
    from kxbatch.engine.graph_answers import System
    from kxbatch.engine.graph_evaluation import Result

PATH = click.Path(path_type=Path)


def _numbers(ctx: click.Context, param: click.Parameter, value: str) -> tuple[int, ...]:
    """Whole numbers with commas between them, each once; there may be 0 linked keys, but no beam of 0."""
    words, least = list(dict.fromkeys(word.strip() for word in value.split(","))), int(param.name == "beam")
    if not all(word.isdecimal() and int(word) >= least for word in words):
        raise click.BadParameter(f"{value!r}: whole numbers of {least} or more, with commas between them", ctx, param)
    return tuple(int(word) for word in words)


def _amounts(ctx: click.Context, param: click.Parameter, value: str) -> tuple[float, ...]:
    """Numbers of 0 or more with commas between them, each once."""
    try:
        found = tuple(dict.fromkeys(float(word) for word in value.split(",")))
    except ValueError:
        found = (-1.0,)
    if not all(0 <= number < float("inf") for number in found):
        raise click.BadParameter(f"{value!r}: numbers of 0 or more, with commas between them", ctx, param)
    return found


def _words(ctx: click.Context, param: click.Parameter, value: str) -> tuple[str, ...]:
    """Words with commas between them, each once."""
    from kxbatch.models.retrieval import settings

    allowed = get_args({"look_ahead": settings.Scope, "scoring": settings.Scoring}[str(param.name)])
    words = list(dict.fromkeys(word.strip() for word in value.split(",")))
    for word in words:
        if word not in allowed:
            raise click.BadParameter(f"{word!r}: allowed are {', '.join(allowed)}{nearest(word, allowed)}", ctx, param)
    return tuple(words)


@click.command()
@click.argument("questions", type=PATH)
@click.option("--graph", "graphs", type=PATH, multiple=True, required=True, help="Graph; repeatable.")
@click.option("--model", "models", type=PATH, multiple=True, help="Model of the graph in the same place; repeatable.")
@click.option("--beam", callback=_numbers, default="1,4", show_default=True, help="Beams to try.")
@click.option("--look-ahead", callback=_words, default="none,predicate", show_default=True, help="Look-aheads.")
@click.option("--scoring", callback=_words, default="renormalised", show_default=True, help="Scorings to try.")
@click.option("--linked", callback=_numbers, default="0", show_default=True, help="Linked keys that join the beam.")
@click.option("--overlap", callback=_amounts, default="0", show_default=True, help="Nats a shared token adds.")
@click.option("--answers", type=click.IntRange(min=1), default=10, show_default=True, help="n of Hits@n.")
@click.option("--free/--no-free", default=True, show_default=True, help="Also decode without the trie.")
@click.option("--linking/--no-linking", default=True, show_default=True, help="Also answer without the model.")
@click.option("--threshold", type=float, help="Score below which a question gets no answer.")
@click.option("--calibrate", type=PATH, help="Questions to choose thresholds on; prints lines to paste.")
@click.option("--split", help="Only rows with this value in the column split.")
@click.option("--calibrate-split", help="The same for the questions of --calibrate.")
@click.option("--limit", type=click.IntRange(min=1), help="Only the first N questions.")
@click.option("--batch", type=click.IntRange(min=1), default=64, show_default=True, help="Questions decoded together.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option("--precision", type=click.Choice(["auto", "fp32", "bf16"]), default="fp32", show_default=True)
@click.option("--output", type=PATH, help="Folder for evaluation.json and evaluation.html.")
@json_option
@volume_options
def command(
    questions: Path,
    graphs: tuple[Path, ...],
    models: tuple[Path, ...],
    beam: tuple[int, ...],
    look_ahead: tuple[Any, ...],
    scoring: tuple[Any, ...],
    linked: tuple[int, ...],
    overlap: tuple[float, ...],
    answers: int,
    free: bool,
    linking: bool,
    threshold: float | None,
    calibrate: Path | None,
    split: str | None,
    calibrate_split: str | None,
    limit: int | None,
    batch: int,
    device: str,
    precision: str,
    output: Path | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Measure how well questions are answered: every combination of the ways to search, and what a model must beat.

    QUESTIONS is a Parquet, JSONL, CSV or TSV file with the columns question, subject, predicate, object (a text or a
    list of right ones) and, where subjects have one, meaning. Graphs and models go in pairs, such as one of each order.
    Without a model only linking is measured: the longest subject in the question, then the closest predicate.

    \b
    Examples:
      kxbatch kg eval test.parquet --graph out/graph --model out/model --output out/evaluation
      kxbatch kg eval q.parquet --split test --calibrate q.parquet --calibrate-split valid --graph out/graph --model m
      kxbatch kg eval test.parquet --graph spm --model m1 --graph smp --model m2 --beam 1,3
      kxbatch kg eval q.parquet --split valid --graph out/graph --model m --linked 0,4 --overlap 0,2,4,8
    """
    from kxbatch.engine.graph_evaluation import Grid
    from kxbatch.engine.graph_report import Asked, run, write
    from kxbatch.engine.questions import read_questions
    from kxbatch.report.graph_evaluation import build

    loud(verbose)
    _refuse(graphs, models, calibrate, threshold)
    if (calibrate, calibrate_split) == (questions, split):
        raise click.UsageError("a threshold chosen on the questions it is judged by is too good: calibrate on others")
    grid = Grid(beam, look_ahead, scoring, answers, free, linking, batch, linked=linked, overlaps=overlap)
    asked = Asked(_source(questions, split), read_questions(questions, split, limit))
    dev = None
    if calibrate is not None:
        dev = Asked(_source(calibrate, calibrate_split), read_questions(calibrate, calibrate_split, limit))
    systems = _systems(graphs, models, device, precision)
    evaluation = run(systems, asked, grid, threshold, dev, None if quiet else _tell)
    if output is not None:
        write(evaluation, output)
        build(evaluation, output)
    _print(evaluation.to_json(), as_json)


def _refuse(graphs: Sequence[Path], models: Sequence[Path], calibrate: Path | None, threshold: float | None) -> None:
    """Raises UsageError for options that contradict each other."""
    if models and len(models) != len(graphs):
        raise click.UsageError(
            f"{len(graphs)} graphs and {len(models)} models: one model for each graph, in their order"
        )
    if threshold is not None and isnan(threshold):
        raise click.UsageError("--threshold nan: every score is below it, or none; give a number")
    if calibrate is not None and threshold is not None:
        raise click.UsageError("--calibrate chooses thresholds; leave --threshold out")
    if calibrate is not None and not models:
        raise click.UsageError("--calibrate chooses thresholds for a model's scores: give --model")


def _source(path: Path, split: str | None) -> str:
    """How questions are told of."""
    return str(path) if split is None else f"{path}, {split}"


def _systems(graphs: Sequence[Path], models: Sequence[Path], device: str, precision: str) -> list[System]:
    """Graphs with their models, named by their orders, or by their folders where two have one."""
    from kxbatch.engine.graph_answers import System
    from kxbatch.models.graph.graph import Graph

    if not models:
        opened = [System("", Graph.open(graph)) for graph in graphs]
    else:
        from kxbatch.models.retrieval.loading import load_retriever
        from kxbatch.models.retrieval.settings import SearchSettings

        loaded = [
            load_retriever(graph, model, SearchSettings(), device=device, precision=precision)
            for graph, model in zip(graphs, models, strict=True)
        ]
        opened = [System("", one.graph, one.generator, one.max_question) for one in loaded]
    names: list[str] = [one.graph.order for one in opened]
    if len(set(names)) < len(names):
        names = [str(path) for path in (models or graphs)]
    return [System(name, one.graph, one.generator, one.max_question) for name, one in zip(names, opened, strict=True)]


def _tell(result: Result) -> None:
    click.echo(f"{result.name}: Score {result.score:.2%}, {result.found.seconds:.1f} s", err=True)


def _print(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(facts)
        return
    rows = []
    for one in facts["results"]:
        measures, made_up = one["measures"], one["outcomes"]["no key"] if one["method"] == "free" else None
        exact = [f"{100 * measures[part]['em']:.2f}" for part in ("subject", "predicate", "meaning")]
        ahead = [f"{100 * measures['object'][kind]:.2f}" for kind in ("em", "f1")]
        hits = ", ".join(f"@{n} {100 * share:.2f}" for n, share in one["hits"].items())
        pace = None if one["questions_per_second"] is None else round(one["questions_per_second"], 1)
        rows.append([one["name"], f"{100 * one['score']:.2f}", *ahead, *exact, hits, made_up, pace])
    columns = ["way", "Score", "object EM", "F1", "subject", "predicate", "meaning", "Hits", "made up", "questions/s"]
    print_table(columns, rows, title=f"{facts['questions']['count']} questions, in percent")
    if facts["calibration"] is not None:
        click.echo("\n" + facts["calibration"]["toml"])
