"""The page a person opens after a run: `report.html`, one file, built from an output folder alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kxbatch.data.storage import File, Folder

PAGE = "report.html"
RowId = str | int
Texts = Callable[[Sequence[RowId]], Mapping[RowId, str]]


def build(output: Folder, texts: Texts | None = None) -> File:
    """Write `report.html` into an output folder; the same folder and texts give the same bytes.

    Sections whose files are absent do not appear, so a failed or unfinished run has a report too.

    Args:
        output: folder that a run has written; holds at least `run.json`, or `progress.json` of a first run.
        texts: looks up the texts of a few dozen row ids; ids that it leaves out are shown without a text.

    Returns:
        The page. It is replaced as a whole or not at all.

    Raises:
        DataError: both are missing, or a file of the output is not what a run writes.
    """
    from kxbatch.report.page import render
    from kxbatch.report.reader import read

    output.publish_bytes(PAGE, render(read(output, texts)).encode("utf-8", "replace"))
    return output.file(PAGE)
