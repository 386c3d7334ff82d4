"""Bad input: a clear error or a quarantined row, nothing lost. Every case names its exit status and its words."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import audit_job, write_texts

import kxbatch as kx
from kxbatch.data.quarantine import read_quarantine
from kxbatch.data.storage import Folder
from kxbatch.data.vectors import to_arrow
from kxbatch.engine.result import RunResult
from kxbatch.errors import ConfigError, DataError, KxbatchError

pytestmark = pytest.mark.usefixtures("workplace")


def run(job: dict[str, Any]) -> RunResult:
    result = kx.run(job, quiet=True, report=False)
    for stage in result.stages:
        if stage.failed == 0:
            assert stage.rows_in == stage.rows_out + stage.rows_quarantined, "a row was lost"
    return result


def refused(job: dict[str, Any], *words: str, error: type[KxbatchError] = ConfigError) -> None:
    with pytest.raises(error) as caught:
        kx.run(job, quiet=True, report=False)
    assert caught.value.exit_code == (3 if error is DataError else 2)
    for word in words:
        assert word in str(caught.value)


def embed_only(**changes: Any) -> dict[str, Any]:
    job = audit_job(embed=changes)
    return job | {"stage": job["stage"][:1]}


def vectors_job(kind: str = "hubness", **stage: Any) -> dict[str, Any]:
    return {
        "job": {"name": "v", "output": "out/v", "executor": "inline", "quarantine": {"max_rows": 50, "max_share": 1}},
        "input": {"path": "vectors/*.parquet", "columns": ["vec"]},
        "stage": [{"kind": kind, **({"k": 2} if kind == "hubness" else {}), **stage}],
    }


def write_vectors(column: pa.Array, name: str = "v.parquet") -> None:
    Path("vectors").mkdir(exist_ok=True)
    pq.write_table(pa.table({"vec": column}), f"vectors/{name}")


def jsonl(*rows: Any, name: str = "data/a.jsonl") -> None:
    Path(name).parent.mkdir(exist_ok=True)
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    Path(name).write_bytes(b"\n".join(lines) + b"\n")


def aside(output: str, stage: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = read_quarantine(Folder(str(Path(output, stage).absolute()))).to_pylist()
    return rows


def lenient(job: dict[str, Any]) -> dict[str, Any]:
    job["job"]["quarantine"] = {"max_rows": 100, "max_share": 1.0}
    return job


def test_missing_column() -> None:
    jsonl({"doc": "1", "text": "x"})
    refused(embed_only(column="txt"), "stage[0] (embed).column", "no column 'txt'", "did you mean 'text'")
    assert not Path("out").exists(), "nothing ran, nothing was left"


def test_wrong_dtype_of_the_column() -> None:
    jsonl({"doc": "1", "text": 7})
    refused(embed_only(), "'text' of 'input' is no text column but number")
    write_vectors(pa.array(["a", "b"]))
    refused(vectors_job(column="vec"), "'vec' of 'input' is no vector column but text")


def test_vectors_of_unequal_length() -> None:
    write_vectors(pa.array([[1.0, 2.0], [2.0, 1.0], [1.0, 2.0, 3.0], [0.5, 1.0], [3.0, 1.0]]))
    result = run(vectors_job())
    assert (result.exit_code, result.stages[0].rows_quarantined) == (0, 1)
    row = aside("out/v", "hubness")[0]
    assert (row["row"], row["error"]) == (2, "vector-length")
    assert "length differs from 2" in row["message"]


def test_nan_and_infinite_and_zero_vectors() -> None:
    x = np.random.default_rng(0).normal(size=(12, 4)).astype(np.float32)
    x[1, 2], x[3, 0], x[5] = np.nan, np.inf, 0
    write_vectors(to_arrow(x))
    result = run(vectors_job())
    assert (result.exit_code, result.stages[0].rows_out) == (0, 9)
    assert {(r["row"], r["error"]) for r in aside("out/v", "hubness")} == {
        (1, "not-finite"),
        (3, "not-finite"),
        (5, "zero-vector"),
    }
    frame = kx.open("out/v").scan().collect()
    assert frame["k_occurrence"].sum() == 9 * 2
    euclidean = run(vectors_job(metric="euclidean") | {"job": {**vectors_job()["job"], "output": "out/e"}})
    assert euclidean.stages[0].rows_out == 10, "a zero vector has distances"


def test_null_vectors() -> None:
    write_vectors(pa.array([[1.0, 2.0], None, [2.0, 1.0], [0.0, 1.0]], pa.list_(pa.float32(), 2)))
    assert run(vectors_job()).exit_code == 0
    assert [(r["row"], r["error"]) for r in aside("out/v", "hubness")] == [(1, "null-vector")]


def test_null_empty_and_blank_texts() -> None:
    jsonl(
        {"doc": "a", "text": "fine"},
        {"doc": "b", "text": None},
        {"doc": "c", "text": ""},
        {"doc": "d", "text": " \t\u00a0"},
        {"doc": "e", "text": "also fine"},
    )
    result = run(lenient(embed_only()))
    assert (result.exit_code, result.stages[0].rows_out, result.stages[0].rows_quarantined) == (0, 2, 3)
    assert [(r["id"], r["error"]) for r in aside("out/audit", "embed")] == [
        ("b", "null-text"),
        ("c", "empty-text"),
        ("d", "empty-text"),
    ]


def test_a_text_of_one_megabyte() -> None:
    jsonl({"doc": "a", "text": "word " * 200_000}, {"doc": "b", "text": "short"})
    result = run(embed_only())
    assert (result.exit_code, result.stages[0].rows_out) == (0, 2)


def test_invalid_utf8_and_malformed_lines_have_their_line_number() -> None:
    jsonl({"doc": "a", "text": "x"}, b'{"doc": "b", "text": "\xff"}', b"{nonsense", {"doc": "d", "text": "y"}, [1])
    result = run(lenient(embed_only()))
    assert (result.exit_code, result.stages[0].rows_out) == (0, 2)
    found = {r["error"]: r["message"] for r in aside("out/audit", "embed")}
    assert found["invalid-utf8"].startswith("line 2: ")
    assert found["malformed-json"].startswith("line 3: ")
    assert found["not-an-object"].startswith("line 5: ")


def test_duplicate_ids() -> None:
    jsonl({"doc": "a", "text": "x"}, {"doc": "b", "text": "y"}, name="data/one.jsonl")
    jsonl({"doc": "c", "text": "x"}, {"doc": "a", "text": "y"}, name="data/two.jsonl")
    refused(embed_only(), "column 'doc' is not unique", "'a'", "one.jsonl", "two.jsonl")


def test_a_duplicate_id_that_comes_later() -> None:
    jsonl({"doc": "a", "text": "x"}, name="data/one.jsonl")
    assert run(embed_only()).exit_code == 0
    jsonl({"doc": "a", "text": "y"}, name="data/two.jsonl")
    refused(embed_only(), "column 'doc' is not unique", "'a'")


def test_empty_file_among_others() -> None:
    jsonl({"doc": "a", "text": "x"}, {"doc": "b", "text": "z"})
    Path("data/empty.jsonl").write_bytes(b"")
    result = run(embed_only())
    assert (result.exit_code, result.stages[0].rows_out) == (0, 2)


def test_empty_corpus() -> None:
    Path("data").mkdir()
    refused(embed_only(), "input", "data/*.jsonl")
    Path("data/empty.jsonl").write_bytes(b"")
    refused(embed_only(), "none has a row")


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_corpus_of_one_row_and_of_k_rows(rows: int) -> None:
    x = np.eye(4, dtype=np.float32)[:rows] + 0.1
    write_vectors(to_arrow(x))
    result = run(vectors_job())
    assert (result.exit_code, result.stages[0].rows_out) == (0, rows)
    frame = kx.open("out/v").scan().collect()
    assert frame["k_occurrence"].sum() == rows * min(2, rows - 1)
    assert [len([n for n in names if n is not None]) for names in frame["neighbor_ids"]] == [min(2, rows - 1)] * rows


def test_one_row_cannot_be_whitened() -> None:
    write_vectors(to_arrow(np.ones((1, 4), np.float32)))
    result = run(vectors_job("whiten"))
    assert result.exit_code == 3
    assert "whitening of 'vec' cannot be fitted on 1 rows" in result.message


def test_a_dim_above_the_rank_is_named() -> None:
    write_vectors(to_arrow(np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)))
    result = run(vectors_job("whiten", dim=9))
    assert result.exit_code == 3
    assert "dim = 9 is not possible" in result.message
    assert "use 1 to 4" in result.message


def test_truncated_parquet_does_not_stop_the_others() -> None:
    x = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    write_vectors(to_arrow(x), "good.parquet")
    data = Path("vectors/good.parquet").read_bytes()
    Path("vectors/bad.parquet").write_bytes(data[: len(data) // 2])
    result = run(vectors_job())
    assert (result.exit_code, result.status, result.stages[0].rows_out) == (3, "incomplete", 20)
    assert "bad.parquet" in result.failures[0].message
    Path("vectors/good.parquet").unlink()
    refused(vectors_job(), "bad.parquet", error=DataError)


def test_zip_bomb_named_gz() -> None:
    Path("data").mkdir()
    with gzip.open("data/bomb.jsonl.gz", "wb", compresslevel=9) as file:
        for _ in range(100):
            file.write(b" " * 2**20)
    refused(embed_only() | {"input": {"path": "data/*.gz"}}, "bomb.jsonl.gz", "ratio", error=DataError)


def test_output_that_is_a_file() -> None:
    jsonl({"doc": "a", "text": "x"})
    Path("out").write_text("")
    refused(embed_only(), "out is a file", "choose a folder")


def test_a_model_folder_that_is_none() -> None:
    jsonl({"doc": "a", "text": "x"})
    Path("model").mkdir()
    Path("model/readme.txt").write_text("nothing here")
    refused(embed_only(model="./model"), "model", "config.json")


def test_a_callable_that_cannot_be_imported_or_is_none() -> None:
    jsonl({"doc": "a", "text": "x"})
    refused(embed_only(model="callable:trigrms:embed"), "trigrms")
    result = run(embed_only(model="callable:trigrams:embedd"))
    assert result.exit_code == 2
    assert "embedd" in result.message
    assert "did you mean 'embed'" in result.message


def test_a_callable_with_the_wrong_number_of_rows() -> None:
    jsonl({"doc": "a", "text": "x"}, {"doc": "b", "text": "y"})
    Path("short.py").write_text(
        "import numpy as np\ndef embed(texts): return np.ones((len(texts) - 1, 4), np.float32)\n"
    )
    result = run(embed_only(model="callable:short:embed"))
    assert (result.exit_code, result.stages[0].failed) == (3, 1)
    assert "short:embed" in result.failures[0].message
    assert "for 1 texts, expected [1, d]" in result.failures[0].message


def test_a_callable_that_raises_is_told_once_with_stage_shard_and_cause() -> None:
    jsonl({"doc": "a", "text": "x"})
    Path("broken.py").write_text("def embed(texts): raise RuntimeError('no CUDA for you')\n")
    result = run(embed_only(model="callable:broken:embed", resources={"attempts": 2}))
    assert result.exit_code == 3
    failure = result.failures[0]
    assert (failure.key, failure.attempt) == ("part-00000", 2)
    assert "no CUDA for you" in failure.message


def test_a_callable_that_gives_nan() -> None:
    jsonl({"doc": "a", "text": "x"}, {"doc": "b", "text": "y"})
    Path("nans.py").write_text(
        "import numpy as np\ndef embed(texts): return np.array([[np.nan if t == 'y' else 1.0] for t in texts], np.float32)\n"
    )
    result = run(lenient(embed_only(model="callable:nans:embed")))
    assert (result.exit_code, result.stages[0].rows_out) == (0, 1)
    assert [(r["id"], r["error"]) for r in aside("out/audit", "embed")] == [("b", "not-finite")]


@pytest.mark.parametrize(
    ("budget", "words"), [({"max_rows": 1}, "max_rows = 1"), ({"max_share": 0.3}, "max_share = 0.3")]
)
def test_quarantine_budget(budget: dict[str, float], words: str) -> None:
    jsonl(*[{"doc": str(i), "text": "" if i < 4 else "x"} for i in range(10)])
    job = embed_only()
    job["job"]["quarantine"] = budget
    result = run(job)
    assert result.exit_code == 4
    assert words in result.message
    assert "4 of 10 rows" in result.message
    assert run(lenient(embed_only())).exit_code == 0, "a larger budget lets the finished shards through"


def test_wrong_types_inside_a_frozen_schema() -> None:
    write_texts(Path("data/a.jsonl"), 0, 5)
    assert run(embed_only()).exit_code == 0
    jsonl({"doc": "z1", "text": "fine"}, {"doc": "z2", "text": {"no": "text"}}, name="data/b.jsonl")
    result = run(lenient(embed_only()))
    assert (result.exit_code, result.stages[0].rows_out) == (0, 6)
    assert [r["error"] for r in aside("out/audit", "embed")] == ["wrong-type"]


def test_ids_may_be_integers() -> None:
    jsonl(*[{"doc": i * 10, "text": f"row {i}"} for i in range(6)])
    job = audit_job()
    result = run(job | {"stage": job["stage"][:2]})
    assert result.exit_code == 0
    frame = kx.open("out/audit").scan().collect()
    assert frame["id"].to_list() == [0, 10, 20, 30, 40, 50]
    assert frame.schema["neighbor_ids"] == pl.Array(pl.Int64, 3)


def test_a_bad_sentence_of_conll() -> None:
    Path("data").mkdir(exist_ok=True)
    Path("data/a.conll").write_text(
        "京 S-LOC\n都 O\n\nalone\n\nx B-A\ny O\nz S-A\n\n张 B-PER\n三 E-PER\n", encoding="utf-8"
    )
    job = {
        "job": {"name": "c", "output": "out/c", "executor": "inline", "quarantine": {"max_rows": 5, "max_share": 1}},
        "input": {"path": "data/*.conll", "join": ""},
        "stage": [{"kind": "tokenizer", "column": "text", "vocabulary": 300}],
    }
    result = run(job)
    assert (result.stages[0].rows_in, result.stages[0].rows_quarantined) == (4, 1)
    [bad] = aside("out/c", "tokenizer")
    assert (bad["id"], bad["error"]) == ("a.conll#1", "field-count")
    assert "line 4 has one column" in bad["message"]  # and nobody read the tags of the sentence after it
