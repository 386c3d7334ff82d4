"""What the quality stages found, as one table: real rows first, then every group of made ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field

from kxbatch.report.record import Record
from kxbatch.report.samples import Setting, told


class Group(Record):
    """Figures of some rows; None where there were too few."""

    settings: dict[str, Setting] = Field(default_factory=dict)
    rows: int
    frechet: float | None = None
    frechet_values: float | None = None
    precision: float | None = None
    recall: float | None = None
    nearest: float | None = None
    copies: float | None = None
    agreement: float | None = None
    class_shares: tuple[float, ...] = ()


class Facts(Record):
    """`quality.json`."""

    columns: tuple[str, ...]
    role: str
    reference_rows: int
    dim: int
    features: int | None = None
    classes: tuple[str, ...] = ()
    classifier_digest: str | None = None
    k: int
    groups: tuple[Group, ...] = ()


@dataclass(frozen=True)
class Line:
    """A line of the table.

    Attributes:
        name: of the rows.
        real: whether they are real rows that no model has learned from.
        group: the figures.
        rarest: share of the class that is seen least often; None without classes.
        rarest_class: that class.
    """

    name: str
    real: bool
    group: Group
    rarest: float | None
    rarest_class: str | None


@dataclass(frozen=True)
class Section:
    """The section.

    Attributes:
        lines: of the table.
        features: whether a classifier gave features.
        agreement: whether classes were compared.
        reference_rows: rows that were compared with.
        k: of precision and recall.
    """

    lines: tuple[Line, ...]
    features: bool
    agreement: bool
    reference_rows: int
    k: int


def section(found: Sequence[tuple[str, Facts]]) -> Section:
    """Of the stages of a run, at least one, in job order."""
    ordered = sorted(found, key=lambda one: one[1].role != "real")
    several = sum(facts.role != "real" for _, facts in found) > 1
    lines = [_line(name if several else "", facts, group) for name, facts in ordered for group in facts.groups]
    first = ordered[0][1]
    return Section(
        lines=tuple(lines),
        features=any(facts.features for _, facts in found),
        agreement=any(line.group.agreement is not None for line in lines),
        reference_rows=first.reference_rows,
        k=first.k,
    )


def _line(stage: str, facts: Facts, group: Group) -> Line:
    settings = ", ".join(f"{name} {told(value)}" for name, value in group.settings.items())
    real = facts.role == "real"
    name = "real rows held out" if real else ": ".join(one for one in (stage, settings) if one) or "made rows"
    rarest = min(range(len(group.class_shares)), key=group.class_shares.__getitem__, default=None)
    if rarest is None:
        return Line(name, real, group, None, None)
    return Line(name, real, group, group.class_shares[rarest], facts.classes[rarest])
