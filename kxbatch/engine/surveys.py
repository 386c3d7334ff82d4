"""What the survey of a shard leaves for the trainer: its usable rows, their sizes, and what the stage found out beside them."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kxbatch.data.arrays import Arrays, read_arrays
from kxbatch.data.row_draws import row_keys
from kxbatch.data.storage import Folder
from kxbatch.errors import DataError
from kxbatch.stages.base import Survey

HELD_OUT, PASSED = "held_out_rows", "passed_rows"  # counters of a survey
FACTS = "facts.safetensors"  # in the folder of a training: what all surveys say together
_FACT = "fact."


def survey_arrays(stage: str, table: pa.Table, survey: Survey) -> Arrays:
    """The content of a survey's file.

    Args:
        stage: its name.
        table: the shard, `id` and the stage's columns.
        survey: what the stage says of it.

    Returns:
        `rows` int64 [n], places of the usable rows, `sizes` int32 [n], `keys` uint64 [n], `content` uint8 [32], and the facts.

    Raises:
        DataError: not every usable row has a size.
    """
    usable = np.ones(table.num_rows, bool)
    usable[[rejected.row for rejected in survey.rejected]] = False
    usable[survey.passed] = False
    rows = np.flatnonzero(usable)
    if len(rows) != len(survey.sizes):
        raise DataError(f"stage {stage}: {len(survey.sizes)} sizes for {len(rows)} usable rows; every row must count")
    learned = table.filter(pa.array(usable))
    keys = row_keys(learned.column("id").to_pylist())
    arrays: Arrays = {"rows": rows, "sizes": survey.sizes, "keys": keys, "content": _content_digest(learned)}
    return arrays | {_FACT + name: array for name, array in survey.facts.items()}


def survey_facts(folder: Folder, file: str) -> Arrays:
    """What a survey found out beside rows and sizes."""
    arrays = read_arrays(folder, file)
    return {name.removeprefix(_FACT): array for name, array in arrays.items() if name.startswith(_FACT)}


def _content_digest(table: pa.Table) -> npt.NDArray[np.uint8]:
    """SHA-256 of rows, uint8 [32]: a training that is gone on with must not meet other texts under the same ids."""
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return np.frombuffer(hashlib.sha256(sink.getbuffer()).digest(), np.uint8)
