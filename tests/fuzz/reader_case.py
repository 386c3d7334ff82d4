"""Source files as bytes, read whole: what comes out, and what other modules say should come out."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from kxbatch.data.sources import BadRow, ReadOptions, discover, read, scan

ROWS = 12
PLAIN = ReadOptions()
FORMATS = {"a.cluener": "cluener", "a.cmeee": "cmeee"}  # those that no name tells


@dataclass(frozen=True)
class Rows:
    """All cuts of a file, read."""

    rows: int
    good: dict[str, dict[str, Any]]
    bad: list[BadRow]


def read_all(path: Path, options: ReadOptions = PLAIN, *, target: int = 10**7, id_column: str | None = None) -> Rows:
    """Scan and read a file; every row is read or set aside, and what is read is valid Arrow."""
    (source,) = discover([path.name], base=path.parent, format=FORMATS.get(path.name), id_column=id_column)
    found = scan(source, target_bytes=target, id_column=id_column, options=options)
    columns = [name for name in found.schema.names if name != "id"]
    if len(set(columns)) < len(columns):
        columns = []
    good: list[dict[str, Any]] = []
    bad: list[BadRow] = []
    for cut in found.cuts:
        result = read(source, cut, columns=columns, schema=found.schema, id_column=id_column, options=options)
        assert result.table.num_rows + len(result.bad) == cut.rows
        result.table.validate(full=True)
        good += result.table.to_pylist()
        bad += result.bad
    assert len(good) + len(bad) == found.rows == sum(cut.rows for cut in found.cuts)
    return Rows(found.rows, {row.pop("id"): row for row in good}, bad)


def check_lines(name: str, data: bytes, found: Rows) -> None:
    """Plain text and JSON lines against `bytes.split` and the json module."""
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    lines = lines[:-1] if not lines[-1] else lines
    lines = [
        line.removesuffix(b"\r") if at < len(lines) - 1 or data.endswith(b"\n") else line
        for at, line in enumerate(lines)
    ]
    as_json = name.endswith(".jsonl")
    counted = [at for at, line in enumerate(lines) if not as_json or line.strip(b" \t\r")]
    assert found.rows == len(counted)
    assert sorted([int(key.rpartition("#")[2]) for key in found.good] + [bad.row for bad in found.bad]) == counted
    for key, row in found.good.items():
        line = lines[int(key.rpartition("#")[2])]
        if not as_json:
            assert row["text"] == line.decode()
        elif isinstance(wanted := json.loads(line).get("text"), str) and isinstance(row.get("text"), str):
            assert row["text"] in (wanted, json.dumps(wanted, ensure_ascii=False))


def csv_bytes(records: list[list[str]], *, quoting: int, end: str, delimiter: str = ",", bom: bool = False) -> bytes:
    """Records as the csv module writes them."""
    text = io.StringIO()
    csv.writer(text, quoting=quoting, lineterminator=end, delimiter=delimiter).writerows(records)
    return (b"\xef\xbb\xbf" if bom else b"") + text.getvalue().encode()


def packed(data: bytes, codec: str) -> bytes:
    """Data as gzip or zstd."""
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, codec) as stream:
        stream.write(data)
    return bytes(sink.getvalue().to_pybytes())


def _parquet(**options: Any) -> bytes:
    table = pa.table(
        {
            "doc": [f"d{i}" for i in range(ROWS)],
            "text": [f"tëxt {i}" for i in range(ROWS)],
            "v": pa.array([[float(i)] * 3 for i in range(ROWS)], pa.list_(pa.float32(), 3)),
            "d": pa.array(["a", "b"] * (ROWS // 2)).dictionary_encode(),
            "s": [{"a": i, "b": [1, 2]} for i in range(ROWS)],
        }
    )
    sink = io.BytesIO()
    pq.write_table(table, sink, row_group_size=5, **options)
    return sink.getvalue()


JSONL = b"".join(
    json.dumps({"doc": f"d{i}", "text": f"héllo {i}", "n": i, "o": {"a": [i]}}).encode() + b"\n" for i in range(ROWS)
)
CSV = csv_bytes(
    [["doc", "text", "n"], *([f"d{i}", f'te,xt "{i}"\nx', str(i)] for i in range(ROWS))],
    quoting=csv.QUOTE_MINIMAL,
    end="\n",
)
CONLL = "".join(f"# {i}\nü{i} x B-A\nb y\tI-A\r\n. z O\n\n" for i in range(ROWS)).encode()
CLUENER = b"".join(
    json.dumps({"text": f"té {i}", "label": {"a": {"té": [[0, 1]]}}}).encode() + b"\n" for i in range(ROWS)
)
CMEEE = [
    {"text": f't"{i}', "entities": [{"start_idx": 0, "end_idx": 1, "type": "a", "entity": 't"'}]} for i in range(ROWS)
]
SEEDS: dict[str, list[bytes]] = {
    "a.parquet": [
        _parquet(),
        _parquet(compression="zstd"),
        _parquet(compression="none", use_dictionary=False),
        _parquet(compression="gzip", data_page_version="2.0"),
    ],
    "a.jsonl": [JSONL],
    "a.csv": [CSV],
    "a.tsv": [CSV.replace(b",", b"\t")],
    "a.txt": [JSONL],
    "a.conll": [CONLL],
    "a.cluener": [CLUENER],
    "a.cmeee": [json.dumps(CMEEE).encode(), json.dumps(CMEEE, indent=1, ensure_ascii=False).encode()],
    "a.conll.gz": [packed(CONLL, "gzip")],
    "a.jsonl.gz": [packed(JSONL, "gzip")],
    "a.csv.gz": [packed(CSV, "gzip")],
    "a.jsonl.zst": [packed(JSONL, "zstd")],
    "a.txt.zst": [packed(JSONL, "zstd")],
}
