"""Splits by whole groups: nothing is shared, nothing is lost, and a group stays where it is."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from kxbatch.cli.kg.split import command
from kxbatch.engine.question_split import PARTS, Shares, parts_of, split_questions
from kxbatch.engine.questions import read_questions, read_rows
from kxbatch.errors import ConfigError, DataError


def rows(subjects: int, predicates: int) -> pl.DataFrame:
    pairs = [(f"s{s}", f"p{p}") for s in range(subjects) for p in range(predicates)]
    table = pl.DataFrame(pairs, schema=["subject", "predicate"], orient="row")
    return table.with_columns(
        question=pl.format("what is {} of {}", "predicate", "subject"), object=pl.lit("o"), extra=1
    )


@pytest.mark.parametrize("by", ["predicate", "subject"])
def test_parts_share_no_group_and_lose_no_row(tmp_path: Path, by: str) -> None:
    whole = rows(60, 60)
    whole.write_parquet(tmp_path / "q.parquet")
    split = split_questions(tmp_path / "q.parquet", tmp_path / "new" / "out", by, Shares(0.2, 0.2), 3)  # type: ignore[arg-type]
    parts = {part: pl.read_parquet(split.paths[part]) for part in PARTS}
    assert sorted(pl.concat(parts.values()).rows()) == sorted(whole.rows())
    groups = [set(part[by]) for part in parts.values()]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 60
    assert split.rows == {part: len(table) for part, table in parts.items()}
    assert split.groups == {part: table[by].n_unique() for part, table in parts.items()}
    assert split.largest_rows == 60
    assert {path.name for path in (tmp_path / "new" / "out").iterdir()} == {f"{part}.parquet" for part in PARTS}


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.lists(st.text(max_size=6), min_size=1), st.lists(st.text(max_size=6)), st.integers(0, 5))
def test_a_group_stays_in_its_part_when_rows_are_added(before: list[str], added: list[str], seed: int) -> None:
    def parts(names: list[str]) -> dict[str, str]:
        found = parts_of(pa.array(names, pa.large_string()), Shares(), seed).to_pylist()
        assert len({*zip(names, found, strict=True)}) == len({*names})
        return dict(zip(names, found, strict=True))

    old, new = parts(before), parts(added + before)
    assert {name: new[name] for name in old} == old


def test_shares_are_reached_about() -> None:
    names = pa.array([f"group {number}" for number in range(20_000)], pa.large_string())
    for seed in range(3):
        found = parts_of(names, Shares(0.1, 0.3), seed).to_pylist()
        assert found.count("test") / 20_000 == pytest.approx(0.3, abs=0.013)  # four deviations
        assert found.count("valid") / 20_000 == pytest.approx(0.1, abs=0.009)
    assert parts_of(names, Shares(), 0) != parts_of(names, Shares(), 1)


def test_spellings_of_one_group_and_meanings_of_one_name_stay_together(tmp_path: Path) -> None:
    spellings = [
        f"{prefix}{number}{suffix}"
        for number in range(40)
        for prefix in ("Abc ", "abc\t", "ＡＢＣ ")
        for suffix in ("", "（m）")
    ]
    pl.DataFrame({"subject": spellings}).write_parquet(tmp_path / "q.parquet")
    split = split_questions(tmp_path / "q.parquet", tmp_path / "out", "subject", Shares(), 0)
    assert sum(split.groups.values()) == 40
    assert split.largest_rows == 6


def test_too_few_groups_are_refused(tmp_path: Path) -> None:
    rows(1, 50).write_parquet(tmp_path / "q.parquet")
    with pytest.raises(DataError, match="none of the 1 groups by subject fell into"):
        split_questions(tmp_path / "q.parquet", tmp_path / "out", "subject", Shares(), 0)
    assert not (tmp_path / "out").exists()
    split = split_questions(tmp_path / "q.parquet", tmp_path / "out", "subject", Shares(0, 0), 0)
    assert split.rows == {"train": 50, "valid": 0, "test": 0}


@pytest.mark.parametrize("by", ["predicate", "subject"])
def test_a_row_without_a_group_is_refused_and_not_lost(tmp_path: Path, by: str) -> None:
    table = rows(50, 50).with_columns(pl.when(pl.int_range(pl.len()) == 7).then(None).otherwise(by).alias(by))
    table.write_parquet(tmp_path / "q.parquet")
    with pytest.raises(DataError, match=f"q.parquet: row 7 has no {by}"):
        split_questions(tmp_path / "q.parquet", tmp_path / "out", by, Shares(), 0)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_the_file_that_is_split_is_not_overwritten(tmp_path: Path) -> None:
    rows(50, 50).write_parquet(tmp_path / "train.parquet")
    before = (tmp_path / "train.parquet").read_bytes()
    with pytest.raises(ConfigError, match=r"train\.parquet: would be overwritten"):
        split_questions(tmp_path / "train.parquet", tmp_path / "new" / "..", "subject", Shares(), 0)
    assert (tmp_path / "train.parquet").read_bytes() == before


@pytest.mark.parametrize(
    ("valid", "test"), [(-0.1, 0.1), (0.5, 0.5), (0.9, 0.2), (float("nan"), 0.1), (0.1, float("nan"))]
)
def test_shares_that_leave_nothing_are_refused(valid: float, test: float) -> None:
    with pytest.raises(ConfigError, match="leave something for training"):
        Shares(valid, test)


def test_the_command_line_tells_the_shares_that_were_reached(tmp_path: Path) -> None:
    rows(50, 3).write_csv(tmp_path / "q.tsv", separator="\t")
    arguments = [str(tmp_path / "q.tsv"), "--by", "subject", "--output", str(tmp_path / "out")]
    told = json.loads(CliRunner().invoke(command, [*arguments, "--json"], catch_exceptions=False).output)
    assert sum(told["rows"].values()) == 150
    words = CliRunner().invoke(command, arguments, catch_exceptions=False).output
    assert "largest subject" in words
    assert f"{told['rows']['test'] / 150:.1%}" in words


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "csv", "tsv"])
def test_every_format_gives_the_same_questions(tmp_path: Path, ending: str) -> None:
    table = pl.DataFrame(
        [("谁写的, 《x》？", "牛郎（故事）", "作者", '说"是"'), ("b?", "b", "p", "o")],
        schema=["question", "subject", "predicate", "object"],
        orient="row",
    )
    path = tmp_path / f"q.{ending}"
    writers = {"parquet": table.write_parquet, "jsonl": table.write_ndjson, "csv": table.write_csv}
    writers.get(ending, lambda to: table.write_csv(to, separator="\t"))(path)
    found = read_questions(path)
    assert found.texts == ["谁写的, 《x》？", "b?"]
    assert found.subjects == ["牛郎", "b"]
    assert found.meanings == ["故事", None]
    assert found.objects == [['说"是"'], ["o"]]
    assert read_questions(path, limit=1).texts == found.texts[:1]
    told = table.with_columns(meaning=pl.Series(["", "m"]))
    {"parquet": told.write_parquet, "jsonl": told.write_ndjson}.get(
        ending, lambda to: told.write_csv(to, separator="\t" if ending == "tsv" else ",")
    )(path)
    assert read_questions(path).meanings == ["", "m"]


def test_lists_of_objects(tmp_path: Path) -> None:
    table = pl.DataFrame({"question": ["q"], "subject": ["s"], "predicate": ["p"], "object": [["a", "b"]]})
    table.write_parquet(tmp_path / "q.parquet")
    assert read_questions(tmp_path / "q.parquet").objects == [["a", "b"]]
    table.with_columns(object=pl.Series([[]], dtype=pl.List(pl.String))).write_parquet(tmp_path / "q.parquet")
    with pytest.raises(DataError, match="row 0 has the object"):
        read_questions(tmp_path / "q.parquet")


@pytest.mark.parametrize("name", ["question", "subject", "predicate", "meaning"])
def test_columns_of_something_else_than_texts_are_refused(tmp_path: Path, name: str) -> None:
    table = pl.DataFrame({column: ["a"] for column in ("question", "subject", "predicate", "object", "meaning")})
    path = tmp_path / "q.parquet"
    for odd in (["a"], 1):
        table.with_columns(pl.Series(name, [odd])).write_parquet(path)
        with pytest.raises(DataError, match=rf"column {name} is .*, texts are wanted"):
            read_questions(path)
    table.with_columns(pl.col(name).cast(pl.Categorical)).write_parquet(path)
    assert len(read_questions(path)) == 1


def test_what_is_wrong_with_a_file_is_said(tmp_path: Path) -> None:
    table = pl.DataFrame({"question": ["q"], "subjct": ["s"], "predicate": [None], "object": ["o"]})
    table.write_parquet(tmp_path / "q.parquet")
    with pytest.raises(DataError, match=r"no column subject; it has .*; did you mean 'subjct'"):
        read_questions(tmp_path / "q.parquet")
    table.rename({"subjct": "subject"}).with_columns(pl.col("predicate").cast(pl.String)).write_parquet(
        tmp_path / "q.parquet"
    )
    with pytest.raises(DataError, match="row 0 has no predicate"):
        read_questions(tmp_path / "q.parquet")
    with pytest.raises(DataError, match="no column split"):
        read_questions(tmp_path / "q.parquet", "test")
    table.rename({"subjct": "subject"}).with_columns(split=pl.lit("test")).write_parquet(tmp_path / "split.parquet")
    with pytest.raises(DataError, match="no rows of split 'tst', it has test; did you mean 'test'"):
        read_questions(tmp_path / "split.parquet", "tst")
    table.clear().write_parquet(tmp_path / "empty.parquet")
    with pytest.raises(DataError, match="no rows"):
        read_rows(tmp_path / "empty.parquet", ())
    (tmp_path / "bad.parquet").write_text("no")
    with pytest.raises(DataError, match="cannot be read as parquet"):
        read_rows(tmp_path / "bad.parquet", ())
    with pytest.raises(ConfigError, match="no such file"):
        read_rows(tmp_path / "none.csv", ())
    with pytest.raises(ConfigError, match=r"did you mean '\.parquet'"):
        read_rows(tmp_path / "q.parqet", ())
