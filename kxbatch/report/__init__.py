"""The page a person opens after a run: `report.html`, one file, built from an output folder alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

RowId = str | int
Texts = Callable[[Sequence[RowId]], Mapping[RowId, str]]


def build(output: Path, texts: Texts | None = None) -> Path:
    """Write `report.html` into an output folder; the same folder and texts give the same bytes.

    Sections whose files are absent do not appear, so a failed or unfinished run has a report too.

    Args:
        output: folder that a run has written; holds at least `run.json`.
        texts: looks up the texts of a few dozen row ids; ids that it leaves out are shown without a text.

    Returns:
        Path of the page. It is replaced as a whole or not at all.

    Raises:
        DataError: `run.json` is missing, or a file of the output is not what a run writes.
    """
    from kxbatch.report.page import render
    from kxbatch.report.reader import read

    page = output / "report.html"
    partial = output / f".tmp-report.html-{os.getpid()}"
    try:
        partial.write_bytes(render(read(output, texts)).encode("utf-8", "replace"))
        partial.replace(page)
    finally:
        partial.unlink(missing_ok=True)
    return page
