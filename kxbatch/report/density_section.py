"""The section on density stages: which figures there are, what their legends say, and what a reader is warned of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from kxbatch.report import density_figures as figures
from kxbatch.report.density import ACTIVE, Bound, Compression, Density
from kxbatch.report.density_agreement import Agreement
from kxbatch.report.density_survey import Counts, Histogram
from kxbatch.report.elements import Figure, Key, Tile
from kxbatch.report.strokes import GROUP, OUTLIERS
from kxbatch.report.wording import nats, number, percent
from kxbatch.stages.density_gate import FEW

MANY_FEW = 0.05  # share of rows with few effective samples that is warned of
LIKELIHOODS = (
    "A likelihood can be higher for rows of another kind than for rows like those that were learned from (Nalisnick et al., 2019), "
    'so a high one does not prove that a row belongs. A stage with score = "typicality" asks how far from the usual value it is, '
    "on either side."
)
CODE_LENGTH = "The model's is an ideal code length of the {rows} held-out rows, without the bits of the model itself."
BOUND_LENGTH = " Told from a bound, it is longer than that of the model itself."
BOUND = (
    "Mean of the calibration rows. With {decoder} from the first time to the data and {prior} for the last time, {total} bits "
    "a value{units}: an upper bound, by the model itself rows take fewer."
)


@dataclass(frozen=True)
class StageView:
    """One stage: what is known, figures, and sentences of warning.

    Attributes:
        stage: what was read.
        words: what its values are called.
        figures: in the order of the page.
        warnings: what a reader should know before trusting the numbers.
    """

    stage: Density
    words: str
    figures: tuple[Figure, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Section:
    """What the template puts down.

    Attributes:
        stages: in job order.
        agreements: of every two stages; none for one stage.
        ranked: whether any stage has known outliers.
        pictures: whether any row has a picture.
        likelihoods: what a likelihood does not say.
    """

    stages: tuple[StageView, ...]
    agreements: tuple[Agreement, ...]
    ranked: bool
    pictures: bool
    likelihoods: str = LIKELIHOODS


def section(densities: Sequence[Density], agreements: Sequence[Agreement]) -> Section:
    """Choose what is shown of these stages."""
    return Section(
        tuple(_view(f"density-{at}", one) for at, one in enumerate(densities)),
        tuple(agreements),
        any(one.survey is not None and one.survey.ranking is not None for one in densities),
        any(one.pictures for one in densities),
    )


def tiles(densities: Sequence[Density]) -> Iterator[Tile]:
    """The mean of a job's only density stage, and how well known outliers are found, by the best of them."""
    if len(densities) == 1 and densities[0].survey is not None:
        (one,) = densities
        mean, bits = densities[0].survey.mean, one.bits_per_dim
        if one.facts.discrete and bits is not None:
            yield Tile(
                "Bits per dimension",
                "score",
                (bits,),
                f"{'upper bound, ' if one.is_bound else ''}mean of all rows, {one.name}",
            )
        elif mean is not None:
            yield Tile(
                "Mean log density", "nats", (mean,), f"nats, {'lower bound, ' if one.is_bound else ''}{one.name}"
            )
    ranked = [(one, r.auroc) for one in densities if one.survey and (r := one.survey.ranking) and r.auroc is not None]
    if ranked:
        best, area = max(ranked, key=lambda pair: pair[1])
        of = f"the highest of {len(ranked)}: {best.name}" if len(ranked) > 1 else "of the known outliers"
        yield Tile("AUROC", "area", (area,), of)


def _view(name: str, stage: Density) -> StageView:
    words = "log probability" if stage.facts.discrete else "log density"
    if stage.is_bound:
        words = "lower bound of log p"
    return StageView(stage, words, tuple(_figures(name, stage, words)), tuple(_warnings(stage)))


def _warnings(stage: Density) -> Iterator[str]:
    share, latent = stage.few_share, stage.facts.latent
    if share is not None and share > MANY_FEW and (stage.facts.samples or 0) >= 2 * FEW:
        yield (
            f"Few samples carry the estimate: {percent(share)} of the rows have fewer than {FEW} effective samples. "
            "Their values hang on single samples and are likely too low; more samples help, or a model whose encoder fits better. "
            "(One trained with several importance_samples has fewer of them, and yet the better densities.)"
        )
    if latent is not None and latent.active is not None and 2 * latent.active < len(latent.kl):
        yield (
            f"Only {latent.active} of {len(latent.kl)} latent dimensions are in use: for the others the posterior is about the "
            "prior (posterior collapse). Fewer dimensions would do, or the decoder leaves too little to the code."
        )
    if stage.survey is not None and stage.survey.finite < stage.survey.rows:
        without = stage.survey.rows - stage.survey.finite
        yield f"{number(without)} of {number(stage.survey.rows)} rows have no finite value; they are left out of the mean."


def _figures(name: str, stage: Density, words: str) -> Iterator[Figure]:
    rows, facts = stage.survey, stage.facts
    if rows is not None and rows.histogram is not None:
        svg = figures.log_density(f"{name}-histogram", rows.histogram, words)
        keys = tuple(_groups(rows.histogram))
        yield Figure(words.capitalize(), Markup(svg), _histogram_words(rows.histogram), keys)
    if rows is not None and rows.percentiles is not None:
        yield _calibration(f"{name}-calibration", stage, rows.percentiles)
    if rows is not None and rows.ess is not None:
        svg = figures.effective_samples(f"{name}-ess", rows.ess, facts.samples)
        caption = f"{percent(stage.few_share)} of the rows have fewer than {FEW}: there few samples carry the estimate."
        mean = f"mean {number(rows.ess.mean)}" + (
            f", {percent(rows.ess.mean / facts.samples)} of all" if facts.samples else ""
        )
        yield Figure("Effective samples", Markup(svg), caption, (Key("", mean, sample=GROUP.sample),))
    yield from _model_figures(name, stage)


def _model_figures(name: str, stage: Density) -> Iterator[Figure]:
    """What is known of the model, not of the rows."""
    facts = stage.facts
    estimates = sorted((one for one in facts.convergence if one.mean is not None), key=lambda one: one.samples)
    if estimates:
        svg = figures.convergence(f"{name}-convergence", estimates)
        caption = (
            "Mean of the calibration rows with its standard error. The estimate is a lower bound that rises with the "
            f"samples; {_rise([(one.samples, one.mean or 0.0) for one in estimates])}"
        )
        yield Figure("Convergence", Markup(svg), caption)
    if facts.latent is not None and facts.latent.kl:
        kl = np.asarray([value or 0.0 for value in facts.latent.kl])
        variance = facts.latent.variance
        known = len(variance) == len(kl)
        active = [not known or (variance[at] or 0.0) > ACTIVE for at in range(len(kl))]
        svg = figures.units(f"{name}-units", kl, active)
        yield Figure("Latent dimensions", Markup(svg), _units_words(known), tuple(_units_keys(stage, known)))
    if facts.compression is not None and facts.dim is not None:
        more = BOUND_LENGTH if stage.is_bound else ""
        yield from _compression(f"{name}-compression", facts.compression, facts.dim, more)
    if facts.bound is not None and any((one.bits or 0.0) > 0 for one in facts.bound.steps):
        yield _bound(f"{name}-bound", facts.bound, discrete=facts.discrete)


def _bound(name: str, bound: Bound, *, discrete: bool) -> Figure:
    steps = sum(one.bits or 0.0 for one in bound.steps)
    caption = BOUND.format(
        decoder=number(bound.decoder),
        prior=number(bound.prior),
        total=number(steps + (bound.decoder or 0.0) + (bound.prior or 0.0)),
        units="" if discrete else " in the units of the model",
    )
    key = Key("", "the steps together", number(steps), GROUP.sample)
    return Figure("Terms of the bound", Markup(figures.bound_terms(name, bound.steps)), caption, (key,))


def _groups(histogram: Histogram) -> Iterator[Key]:
    others, outliers = (int(rows) for rows in histogram.rows.sum(axis=1))
    if outliers:
        yield Key("", "other rows", number(others), GROUP.sample)
        yield Key("", "known outliers", number(outliers), OUTLIERS.sample)


def _histogram_words(histogram: Histogram) -> str:
    words = "The further to the left, the odder a row."
    if histogram.rows[1].any():
        words += " Each group's bars add up to 100 %."
    ends = (("first", histogram.below, "below"), ("last", histogram.above, "above"))
    held = [f" The {end} bar holds {number(rows)} rows {where} it." for end, rows, where in ends if rows]
    return words + "".join(held)


def _calibration(name: str, stage: Density, cumulative: Counts) -> Figure:
    lowest = float(cumulative[round(0.01 * (len(cumulative) - 1))] / cumulative[-1])
    of = stage.facts.calibration
    rows = f"the {number(of.rows)} calibration rows" if of is not None and of.rows else "the calibration rows"
    caption = f"Against {rows}, which nothing was fitted on: rows like them follow the diagonal, a bulge at the left are odd rows."
    key = Key("", "up to the 1st percentile", percent(lowest), GROUP.sample)
    return Figure("Calibration", Markup(figures.calibration(name, cumulative)), caption, (key,))


def _rise(means: Sequence[tuple[int, float]]) -> str:
    if len(means) < 2:
        return "one number of samples does not tell how far it still is."
    (before, first), (after, last) = means[-2:]
    return f"from {number(before)} to {number(after)} it moves by {nats(last - first)} nats."


def _units_words(known: bool) -> str:
    words = "How far the posterior of each latent dimension is from the prior."
    return (
        f"{words} In use: the posterior's mean varies by more than {number(ACTIVE)} over the rows." if known else words
    )


def _units_keys(stage: Density, known: bool) -> Iterator[Key]:
    latent = stage.facts.latent
    if latent is not None and latent.active is not None:
        yield Key("", f"{number(latent.active)} of {number(len(latent.kl))} units active", sample=GROUP.sample)
        if known and latent.active < len(latent.kl):
            yield Key("before", "not in use")


def _compression(name: str, found: Compression, dim: int, more: str) -> Iterator[Figure]:
    sizes = (
        ("model", found.bits),
        ("raw", found.raw_bits),
        ("zlib", found.zlib_bits),
        ("zstd", found.zstd_bits),
    )
    values = found.rows * dim
    bits = [(label, total / values) for label, total in sizes if total is not None]
    if found.bits is not None and len(bits) > 1:
        svg = figures.code_lengths(name, bits)
        yield Figure("Code length", Markup(svg), CODE_LENGTH.format(rows=number(found.rows)) + more)
