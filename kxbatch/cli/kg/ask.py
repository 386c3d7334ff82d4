"""`kxbatch kg ask`."""

from __future__ import annotations

from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kxbatch.cli.common import json_option, loud, print_json, print_table, volume_options

if TYPE_CHECKING:
    from kxbatch.models.retrieval.retriever import Answered
    from kxbatch.models.retrieval.settings import Scope, Scoring


@click.command()
@click.argument("graph", type=click.Path(path_type=Path))
@click.argument("questions", nargs=-1, required=True, metavar="QUESTION...")
@click.option(
    "--model", required=True, type=click.Path(path_type=Path), help="Folder of a retriever, or of a HF model."
)
@click.option("--answers", type=click.IntRange(1, 16), default=3, show_default=True, help="Keys shown, best first.")
@click.option("--beam", type=click.IntRange(1, 16), default=4, show_default=True, help="Hypotheses a question.")
@click.option(
    "--look-ahead",
    type=click.Choice(["none", "predicate", "predicate-meaning"]),
    default="predicate",
    show_default=True,
    help="Parts that are favoured by what they share with the question.",
)
@click.option("--scoring", type=click.Choice(["renormalised", "masked"]), default="renormalised", show_default=True)
@click.option(
    "--linked", type=click.IntRange(0, 16), default=0, show_default=True, help="Linked keys that join the beam."
)
@click.option(
    "--overlap", type=click.FloatRange(0, 1000), default=0.0, show_default=True, help="Nats a shared token adds."
)
@click.option("--threshold", type=click.FloatRange(max=0), help="log p below which there is no answer.")
@json_option
@volume_options
def command(
    graph: Path,
    questions: tuple[str, ...],
    model: Path,
    answers: int,
    beam: int,
    look_ahead: Scope,
    scoring: Scoring,
    linked: int,
    overlap: float,
    threshold: float | None,
    as_json: bool,
    quiet: bool,
    verbose: bool,
) -> None:
    """Ask a graph. Every answer is one of its facts, with the way the model came to it.

    Log p is that of subject, predicate and meaning given the question. Whole columns of questions are answered by a stage of kind
    `retrieve`.

    \b
    Examples:
      kxbatch kg ask out/graph "what is the population of Graz?" --model out/kgqa/retriever/_artifact
      kxbatch kg ask out/graph "who wrote Faust?" --model MODEL --threshold -2 --json
    """
    from kxbatch.models.retrieval.loading import load_retriever
    from kxbatch.models.retrieval.settings import SearchSettings

    loud(verbose)
    for question in questions:
        if not question.strip():
            raise click.UsageError(f"the question {question!r} is blank")
    if threshold is not None and isnan(threshold):
        raise click.UsageError("--threshold nan: every score is below it, or none; give a number, 0 or less")
    if isnan(overlap):
        raise click.UsageError("--overlap nan: give a number, 0 or more")
    settings = SearchSettings(max(beam, answers), answers, scoring, look_ahead, linked=linked, overlap=overlap)
    retriever = load_retriever(graph, model, settings, threshold=threshold)
    found = retriever.answer(questions)
    if as_json:
        print_json([_facts(*pair) for pair in zip(questions, found, strict=True)])
        return
    for question, answered in zip(questions, found, strict=True):
        _show(question, answered)


def _facts(question: str, found: Answered) -> dict[str, object]:
    return {
        "question": question,
        "answers": [vars(answer) for answer in found.answers],
        "no_answer": found.reason,
        "best_score": found.best,
    }


def _show(question: str, found: Answered) -> None:
    click.echo(f"{question}")
    if not found.answers:
        why = (
            "the graph is empty"
            if found.best is None
            else f"the best key has log p {found.best:.2f}, below the threshold"
        )
        click.echo(f"  no answer: {why}")
        return
    rows = [
        ("; ".join(one.objects), one.subject, one.predicate, one.meaning, one.score, *one.part_scores)
        for one in found.answers
    ]
    print_table(
        ("answer", "subject", "predicate", "meaning", "log p", "of subject", "of predicate", "of meaning"), rows
    )
