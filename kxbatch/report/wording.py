"""How numbers, times and texts are written on the page."""

from __future__ import annotations

import re

NONE = "–"
GAP = "\u202f"  # narrow no-break space: groups digits, parts a number from its unit
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
TEXT_CHARACTERS = 300
EXIT_CODES = {
    0: "everything done",
    1: "an unexpected error",
    2: "the job file or the command is not right",
    3: "finished, with failed shards",
    4: "the quarantine budget or a quality gate was exceeded",
    75: "another run held the output",
    130: "interrupted",
    143: "terminated",
}


def number(value: float | None) -> str:
    """A count with grouped digits, or a measure with three significant digits; a dash for None."""
    if value is None:
        return NONE
    if isinstance(value, int) or abs(value) >= 100:
        return f"{value:,.0f}".replace(",", GAP).replace("-", "−")
    if 0 < abs(value) < 0.0005:
        return f"≈{GAP}0"
    return f"{value:.3g}".replace("-", "−")


def percent(share: float | None) -> str:
    """A share of one as a percentage with three significant digits; a dash for None."""
    return NONE if share is None else f"{number(100.0 * share)}{GAP}%"


def score(value: float | None) -> str:
    """A similarity or distance with three decimals, so that a list of them lines up; a dash for None."""
    return NONE if value is None else f"{value:.3f}".replace("-", "−")


def area(value: float | None) -> str:
    """An area under a curve with four decimals: good ones differ in the last; a dash for None."""
    return NONE if value is None else f"{value:.4f}"


def nats(value: float | None) -> str:
    """A log density: two decimals, one from a hundred on, none from ten thousand on; a dash for None."""
    if value is None:
        return NONE
    decimals = 2 if abs(value) < 100 else 1 if abs(value) < 10_000 else 0
    return f"{value:,.{decimals}f}".replace(",", GAP).replace("-", "−").replace("inf", "∞")


def duration(seconds: float | None) -> str:
    """Seconds in the unit that suits them; a dash for None."""
    if seconds is None:
        return NONE
    if seconds < 60:
        return f"{number(float(seconds))}{GAP}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{GAP}min {rest:02d}{GAP}s"
    return f"{minutes // 60}{GAP}h {minutes % 60:02d}{GAP}min"


def excerpt(text: str | None, most: int = TEXT_CHARACTERS) -> str:
    """The beginning of a text in one line, without control characters, at most `most` characters long."""
    line = " ".join(CONTROL.sub(" ", text or "").split())
    return line if len(line) <= most else line[: most - 1].rstrip() + "…"


def exit_words(code: int | None) -> str:
    """What an exit code means."""
    return EXIT_CODES.get(code, "an unknown exit code") if code is not None else "the run has not ended"
