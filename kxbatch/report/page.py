"""Turns what was read into the page: key numbers and figures are chosen here, the templates do the rest."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TypeVar

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from kxbatch.report import density_section, extraction_section, figures, quality, retrieval_section, wording
from kxbatch.report.elements import Figure, Key, Tile
from kxbatch.report.reader import Contents
from kxbatch.report.record import StageRun
from kxbatch.report.samples import told
from kxbatch.report.training_section import section, setting
from kxbatch.report.training_section import tiles as training_tiles
from kxbatch.stages.density_gate import FEW

T = TypeVar("T")
TONES = ("before", "after")
MOST_FAILURES = 20  # listed in full; the rest is in run.json
MEASURES = (
    ("skewness", "number", Markup("Skewness of N<sub>k</sub>"), "0 for symmetric counts; hubs make it large"),
    ("max_k_occurrence", "number", "Largest hub", Markup("the largest N<sub>k</sub>; the mean is k")),
    ("antihub_share", "percent", "Never found", Markup("share of rows with N<sub>k</sub> = 0, the antihubs")),
    ("hub_share", "percent", "Hubs", "share of rows that count as hubs"),
    ("hub_occurrence", "percent", "Taken by hubs", "share of all neighbour slots that hubs fill"),
    ("robin_hood", "number", "Robin Hood index", "share of slots to move until all rows are equal"),
    ("gini", "number", "Gini index", "0 is equal, 1 is one row taking all"),
    ("atkinson", "number", "Atkinson index", "0 is equal; weighs the rows found least"),
    ("groupie_ratio", "percent", "Groupie ratio", "share of all slots that the largest hub fills"),
)


def render(contents: Contents) -> str:
    """The report as one HTML page that loads nothing from elsewhere.

    Args:
        contents: what `reader.read` found; every text in it is escaped here.
    """
    environment = Environment(
        loader=PackageLoader("kxbatch.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    forms = {name: getattr(wording, name) for name in ("number", "percent", "duration", "score", "area", "nats")}
    environment.filters.update(forms, excerpt=wording.excerpt, exit_words=wording.exit_words, told=told)
    return environment.get_template("report.html.j2").render(
        contents=contents,
        run=contents.run,
        name=str(contents.run.job.get("name", "run")),
        most_failures=MOST_FAILURES,
        ended_well=contents.run.status in ("done", "unchanged") and contents.run.exit_code in (0, None),
        tiles=list(tiles(contents)),
        training=section(contents.trainings) if contents.trainings else None,
        setting=setting,
        density=density_section.section(contents.densities, contents.agreements) if contents.densities else None,
        quality=quality.section(contents.qualities) if contents.qualities else None,
        retrieval=retrieval_section.section(contents.retrievals) if contents.retrievals else None,
        extraction=extraction_section.section(contents.extractions, contents.texts) if contents.extractions else None,
        most_reasons=retrieval_section.MOST_REASONS,
        few=FEW,
        hubness_figures=list(hubness_figures(contents)),
        spectrum_figures=[list(spectrum_figures(at, contents)) for at in range(len(contents.spectra))],
        time_figures=list(time_figures(contents.run.stages)),
        tones=dict(zip([graph.label for graph in contents.compared], _tones(contents.compared), strict=True)),
        measures=MEASURES,
        forms=forms,
        job=json.dumps(contents.run.job, indent=2, ensure_ascii=False) if contents.recorded else "",
    )


def tiles(contents: Contents) -> Iterator[Tile]:
    """The five numbers that matter, and those of stages of every kind; what was not measured is left out."""
    stages, graphs = contents.run.stages, [graph.measures for graph in contents.compared]
    aside = sum(stage.rows_quarantined or 0 for stage in stages)
    rows = contents.run.input.rows
    if not rows and stages:  # no input: the first stage made its rows
        rows = stages[0].rows_in
    if rows is not None:
        yield Tile("Rows", "number", (rows,), f"{wording.number(aside)} set aside" if aside else "none set aside")
    yield from training_tiles(contents.trainings)
    yield from density_section.tiles(contents.densities)
    for one in contents.samples:
        yield Tile("Samples", "number", (one.rows,), one.name if len(contents.samples) > 1 else "drawn from a model")
    yield from retrieval_section.tiles(contents.retrievals)
    yield from extraction_section.tiles(contents.extractions)
    if graphs:
        k = graphs[-1].k
        yield Tile(
            Markup("Skewness of N<sub>k</sub>"),
            "number",
            tuple(one.skewness for one in graphs),
            "0 has no hubs",
        )
        yield Tile(
            Markup("Largest hub, N<sub>k</sub>"),
            "number",
            tuple(one.max_k_occurrence for one in graphs),
            f"k{wording.GAP}={wording.GAP}{k} on average",
        )
        yield Tile("Never found", "percent", tuple(one.antihub_share for one in graphs), "share of antihubs")
    if contents.isotropy:
        cosines = _ends([cosine for _, cosine in contents.isotropy])
        yield Tile("Mean cosine", "number", cosines, "0 is isotropic")


def hubness_figures(contents: Contents) -> Iterator[Figure]:
    """Histogram, Lorenz curve and isotropy, before and after."""
    measures, tones = [graph.measures for graph in contents.compared], _tones(contents.compared)
    if measures and all(sum(one.histogram.rows) for one in measures):
        largest = [wording.number(one.max_k_occurrence) for one in measures]
        yield Figure(
            "How often rows are found",
            Markup(figures.k_occurrence(measures)),
            "A long tail to the right are hubs; the point at 0 are rows that no query finds.",
            tuple(Key(tone, tone, f"largest {most}") for tone, most in zip(tones, largest, strict=True)),
        )
        gini = [wording.number(one.gini) for one in measures]
        yield Figure(
            "Who takes the neighbour slots",
            Markup(figures.lorenz(measures)),
            "The further below the diagonal, the fewer rows fill the neighbour lists.",
            tuple(Key(tone, tone, f"Gini {value}") for tone, value in zip(tones, gini, strict=True)),
        )
    if contents.isotropy:
        points = _ends(contents.isotropy)
        yield Figure(
            "Isotropy",
            Markup(figures.isotropy([cosine for _, cosine in points])),
            "Vectors that all lean one way have a mean cosine far above 0.",
            tuple(Key(tone, label) for tone, (label, _) in zip(_tones(points), points, strict=True)),
        )


def spectrum_figures(at: int, contents: Contents) -> Iterator[Figure]:
    """Eigenvalues and explained share of one whiten stage, given by its place among them."""
    _, record = contents.spectra[at]
    if any((value or 0.0) > 0 for value in record.eigenvalues):
        svg = figures.spectrum(f"spectrum-{at}", record)
        yield Figure("Eigenvalues", Markup(svg), "Variance of the input along its principal directions.")
    if any((share or 0.0) > 0 for share in record.explained_share):
        svg = figures.explained(f"explained-{at}", record)
        yield Figure("Explained variance", Markup(svg), "Share of the variance that the first directions hold.")


def time_figures(stages: Sequence[StageRun]) -> Iterator[Figure]:
    """Seconds of every unit of work, one figure for each stage that has any."""
    for at, stage in enumerate(stages):
        if not any(unit.seconds is not None for unit in stage.units):
            continue
        reused = sum(unit.reused for unit in stage.units)
        keys = [Key("fresh", "this run", wording.number(len(stage.units) - reused))]
        if reused:
            keys.append(Key("reused", "reused", wording.number(reused)))
        stride = figures.stride(len(stage.units))
        every = f"every {stride}th unit" if stride > 1 else "one unit"
        caption = f"Each mark is {every} of work: a shard, or a pair of blocks."
        svg = figures.unit_seconds(f"seconds-{at}", stage.units)
        yield Figure(stage.name, Markup(svg), caption, tuple(keys))


def _tones(items: Sequence[object]) -> tuple[str, ...]:
    return TONES[2 - len(items) :]


def _ends(items: Sequence[T]) -> tuple[T, ...]:
    return tuple(items) if len(items) < 2 else (items[0], items[-1])
