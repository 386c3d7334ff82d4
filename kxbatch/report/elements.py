"""What the page is put together from: key numbers, figures and their legends."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup


@dataclass(frozen=True)
class Tile:
    """A key number: its value now, and before where there is something to compare with."""

    label: str
    form: str
    values: tuple[float | None, ...]
    note: str


@dataclass(frozen=True)
class Key:
    """One entry of a figure's legend; `sample` is the line as it is drawn, where a tone does not tell it."""

    tone: str
    label: str
    value: str = ""
    sample: Markup | None = None


@dataclass(frozen=True)
class Figure:
    """A drawn figure, its legend, and one sentence on how to read it."""

    title: str
    svg: Markup
    caption: str
    keys: tuple[Key, ...] = ()
