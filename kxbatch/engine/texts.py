"""The texts of a handful of rows, looked up where they came from: reports show them, outputs do not copy them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import polars as pl
from pydantic import ValidationError

from kxbatch.data.parts import scan_part
from kxbatch.data.storage import Folder
from kxbatch.engine.corpus import read_source, source_task
from kxbatch.engine.manifest import CorpusPlan, read_manifest
from kxbatch.engine.output import Output, open_output
from kxbatch.engine.record import RECORD
from kxbatch.errors import FatalError, KxbatchError
from kxbatch.spec.model import InputSection

TEXT_KINDS = ("embed", "retrieve", "extract")  # stages whose column is what a row says


def row_texts(folder: Folder, ids: Sequence[Any]) -> dict[Any, str]:
    """Texts by id, of the column that the job embeds, asks questions of or extracts from, or of the input's only text column.

    Reads only the shards that hold the ids. An id whose source is gone is left out.
    """
    output = open_output(folder.path)
    corpus = read_manifest(folder)
    column = _text_column(output, corpus) if corpus and output.record["job"]["input"].get("path") else None
    if corpus is None or column is None or not ids:
        return {}
    found: dict[Any, str] = {}
    section = _section(output)
    for shard in sorted(_shards_of(output, ids)):
        found |= _texts_of(corpus, section, shard, column, set(ids))
    return found


def _section(output: Output) -> InputSection:
    try:
        return InputSection.model_validate(output.record["job"]["input"])
    except ValidationError as error:
        raise FatalError(f"{output.folder.file(RECORD)}: damaged, job.input: {error.errors()[0]['msg']}") from None


def _text_column(output: Output, corpus: CorpusPlan) -> str | None:
    named = [s["column"] for s in output.record["job"]["stage"] if s["kind"] in TEXT_KINDS and s.get("column")]
    ids = {"id", output.record["job"]["input"].get("id")}
    texts = [name for name, kind in corpus.columns.items() if kind == "text" and name not in ids]
    candidates = [*named, *(texts if len(texts) == 1 else [])]
    return candidates[0] if candidates and candidates[0] in corpus.columns else None


def _shards_of(output: Output, ids: Sequence[Any]) -> Iterable[int]:
    """Numbers of the shards that hold the ids, from the parts of the first stage that leaves any of the input's."""
    first = next((name for name in output.stages if output.leaves_rows(name) and output.source(name) == "input"), None)
    if first is None:
        return
    wanted = pl.Series("id", list(ids))
    for key, receipt in output.receipts(first).items():
        held = scan_part(output.folder.child(first).file(receipt.file)).select("id")
        if held.filter(pl.col("id").is_in(wanted.implode())).limit(1).collect().height:
            yield int(key.removeprefix("part-"))


def _texts_of(corpus: CorpusPlan, section: InputSection, number: int, column: str, ids: set[Any]) -> dict[Any, str]:
    for source, shard in corpus.shards():
        if shard.number == number:
            try:
                table = read_source(source_task(source, shard, None), [column], corpus.schema, section).table
            except KxbatchError:
                return {}  # the source is gone or changed; the report does without its texts
            rows = zip(table.column("id").to_pylist(), table.column(column).to_pylist(), strict=True)
            return {row: text for row, text in rows if row in ids and text is not None}
    return {}
