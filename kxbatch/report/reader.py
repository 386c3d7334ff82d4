"""Reads an output folder into what a report shows. Absent files are absent sections, broken ones errors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from kxbatch.data.storage import Folder
from kxbatch.errors import DataError
from kxbatch.report import RowId, Texts
from kxbatch.report.density import Density, read_densities
from kxbatch.report.density_agreement import Agreement, read_agreements
from kxbatch.report.extraction import Extraction, read_extractions
from kxbatch.report.loading import R, load
from kxbatch.report.neighbourhood import Neighbourhood, RowList, listed_rows, neighbourhoods, tell_elsewhere
from kxbatch.report.quality import Facts as Quality
from kxbatch.report.quarantine import Reason, reasons
from kxbatch.report.record import Hubness, Live, Measures, Run, Spectrum
from kxbatch.report.retrieval import Retrieval, read_retrievals
from kxbatch.report.samples import Samples, read_samples
from kxbatch.report.training import Training, read_trainings
from kxbatch.report.wording import GAP


@dataclass(frozen=True)
class Graph:
    """One k-nearest-neighbour graph of the job, and what to call it."""

    label: str
    about: str
    measures: Measures
    mean_cosine: float | None


@dataclass(frozen=True)
class Contents:
    """Everything a report is made of.

    Attributes:
        run: the run record, or what is known of a first run that has not come to an end.
        recorded: whether it is the record.
        graphs: every graph that was audited, in job order; a reduced graph follows its raw one.
        isotropy: label and mean cosine of every measured set of vectors, in job order.
        spectra: name and spectrum of every whiten stage, in job order.
        lists: top hubs and antihubs of the first and the last hubness stage.
        neighbours: a few rows and whom they find, in the first and the last hubness stage.
        trainings: every training stage that has begun, in job order.
        densities: every density stage that has left anything, in job order.
        agreements: of every two of them that have rows.
        samples: every sample stage that has rows, in job order.
        qualities: what the quality stages found, by their names, in job order.
        retrievals: every retrieve stage that has rows, in job order.
        extractions: every extract stage that has rows, in job order.
        quarantine: rows set aside, by reason, most frequent first.
        texts: text of every row id that is shown and known.
    """

    run: Run
    recorded: bool = True
    graphs: tuple[Graph, ...] = ()
    isotropy: tuple[tuple[str, float], ...] = ()
    spectra: tuple[tuple[str, Spectrum], ...] = ()
    lists: tuple[RowList, ...] = ()
    neighbours: tuple[Neighbourhood, ...] = ()
    trainings: tuple[Training, ...] = ()
    densities: tuple[Density, ...] = ()
    agreements: tuple[Agreement, ...] = ()
    samples: tuple[Samples, ...] = ()
    qualities: tuple[tuple[str, Quality], ...] = ()
    retrievals: tuple[Retrieval, ...] = ()
    extractions: tuple[Extraction, ...] = ()
    quarantine: tuple[Reason, ...] = ()
    texts: dict[RowId, str] = field(default_factory=dict)

    @property
    def compared(self) -> tuple[Graph, ...]:
        """The graphs before and after: the first and the last, or the only one, or none."""
        return self.graphs if len(self.graphs) < 2 else (self.graphs[0], self.graphs[-1])


def read(output: Folder, texts: Texts | None = None) -> Contents:
    """Read an output folder.

    Args:
        output: folder that a run has written.
        texts: looks up the texts of row ids; called once at most, with the ids that are shown.

    Raises:
        DataError: neither `run.json` nor `progress.json` is there, or a file is not what a run writes.
    """
    record = load(output, "run.json", Run)
    run = record or _first_run(output)
    if run is None:
        raise DataError(f"{output.path}: no run.json here, so this is not the output of a run; name the folder of one")
    order = [str(stage.get("name")) for stage in run.job.get("stage", ())]
    audits = _artifacts(output, run.stage_names("hubness"), "hubness.json", Hubness)
    spectra = _artifacts(output, run.stage_names("whiten"), "spectrum.json", Spectrum)
    ends = _ends([name for name, _ in audits])
    lists = tell_elsewhere(output, [one for name in ends for one in listed_rows(output.child(name))], ends)
    shown = neighbourhoods(output, lists, ends)
    densities, retrievals = list(read_densities(output, run)), list(read_retrievals(output, run))
    first = [row.id for one in densities if one.survey for row in one.survey.shown]
    extractions = list(read_extractions(output, run))
    first += [row.id for one in retrievals for row in one.shown]
    first += [row.id for one in extractions for row in one.shown]
    return Contents(
        run=run,
        recorded=record is not None,
        graphs=tuple(graph for name, audit in audits for graph in _graphs(name, audit)),
        isotropy=tuple(_isotropy(audits, spectra, order)),
        spectra=tuple(spectra),
        lists=tuple(lists),
        neighbours=tuple(shown),
        trainings=tuple(read_trainings(output, run)),
        densities=tuple(densities),
        agreements=tuple(read_agreements(output, [one.name for one in densities if one.survey])),
        samples=tuple(read_samples(output, run)),
        qualities=tuple(_artifacts(output, run.stage_names("quality"), "quality.json", Quality)),
        retrievals=tuple(retrievals),
        extractions=tuple(extractions),
        quarantine=tuple(reasons(output, [stage.name for stage in run.stages])),
        texts=_texts(texts, first, lists, shown),
    )


def _first_run(output: Folder) -> Run | None:
    """What `progress.json` tells of a run that has left no record yet; None where there is none."""
    live = load(output, "progress.json", Live)
    if live is None:
        return None
    stages = [{"name": phase.stage, "training": {}} for phase in live.phases if phase.phase == "train"]
    name = output.path.rstrip("/").rpartition("/")[2]
    return Run(job={"name": name, "stage": stages}, status=live.status, started=live.started)


def _artifacts(output: Folder, names: Iterable[str], file: str, kind: type[R]) -> list[tuple[str, R]]:
    loaded = [(name, load(output.child(name, "_artifact"), file, kind)) for name in names]
    return [(name, record) for name, record in loaded if record is not None]


def _ends(names: Sequence[str]) -> list[str]:
    return list(names) if len(names) < 2 else [names[0], names[-1]]


def _graphs(name: str, audit: Hubness) -> list[Graph]:
    about = ", ".join(part for part in (audit.column, audit.metric, f"k{GAP}={GAP}{audit.k}") if part)
    named = ((name, audit.raw), (f"{name} + {audit.reduction}", audit.reduced))
    return [Graph(label, about, found, audit.mean_cosine) for label, found in named if found is not None]


def _isotropy(
    audits: Sequence[tuple[str, Hubness]], spectra: Sequence[tuple[str, Spectrum]], order: Sequence[str]
) -> list[tuple[str, float]]:
    """Mean cosines in job order; what the first whiten stage read stands for "before" when no audit does."""
    measured = [(name, audit, audit.mean_cosine) for name, audit in audits if audit.mean_cosine is not None]
    points = [(f"{audit.column} ({name})" if audit.column else name, cosine) for name, audit, cosine in measured]
    if len(points) > 1 or not spectra:
        return points
    name, spectrum = spectra[0]
    audited_before = any(order.index(audited) < order.index(name) for audited, _, _ in measured)
    if spectrum.mean_cosine is None or audited_before:
        return points
    return [(f"what {name} reads", spectrum.mean_cosine), *points]


def _texts(
    texts: Texts | None, first: Sequence[RowId], lists: Sequence[RowList], shown: Sequence[Neighbourhood]
) -> dict[RowId, str]:
    """The texts of every id on the page, asked for in one call, each id once, in the order of the page."""
    if texts is None:
        return {}
    ids = [*first, *(row.id for rows in lists for row in rows.rows)]
    for row in shown:
        ids += [row.id, *(neighbour for _, published in row.sides for neighbour, _ in published.found)]
    return dict(texts(list(dict.fromkeys(ids)))) if ids else {}
