"""A few errors of every kind, spread evenly over the texts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from kxbatch.models.extraction.span_errors import KINDS, MISSED, NOBODY, RIGHT, Judged

MOST = 12  # of one kind


@dataclass(frozen=True)
class Example:
    """An error, by the places of its spans.

    Attributes:
        gold: of the right span; None where nothing should have been found.
        found: of the found one; None where nothing was.
    """

    gold: int | None
    found: int | None


def examples(judged: Judged) -> dict[str, list[Example]]:
    """Errors by kind, in the order of `KINDS`; kinds that do not occur are left out."""
    shown = {}
    for kind, name in enumerate(KINDS):
        places = np.flatnonzero((judged.gold if kind == MISSED else judged.found) == kind)
        if kind == RIGHT or not len(places):
            continue
        some = places[np.unique(np.linspace(0, len(places) - 1, min(len(places), MOST)).astype(np.int64))]
        shown[name] = [_missed(at) if kind == MISSED else _found(judged, at) for at in some.tolist()]
    return shown


def _missed(gold: int) -> Example:
    return Example(gold, None)


def _found(judged: Judged, found: int) -> Example:
    partner = int(judged.partners[found])
    return Example(None if partner == NOBODY else partner, found)
