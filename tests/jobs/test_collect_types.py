"""Finer types for the spans of a corpus, each by one character of its name."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import collect_types
import polars as pl
import pytest

SCRIPT = Path(__file__).parents[2] / "jobs" / "collect_types.py"
LABELS = pl.List(pl.Struct({"start": pl.Int32, "end": pl.Int32, "type": pl.String}))
NAMES = [  # name, type, split; of the training names five are LOC-国, three ORG-队, two PER-李
    *((name, "LOC", "train") for name in ("中国", "美国", "法国", "德国", "英国", "上海", "黄河")),
    *((name, "ORG", "train") for name in ("中国队", "火箭队", "湖人队", "新华社")),
    *((name, "PER", "train") for name in ("李白", "李宁", "王维", "国平")),
    *((name, "PER", "test") for name in ("王伟", "王安石", "王勃", "李贺")),
    ("韩国", "LOC", "test"),
    ("泰国", "LOC", "valid"),
]
OWN = {3: {}, 4: {"LOC": "国"}, 6: {"LOC": "国", "ORG": "队", "PER": "李"}}  # by number of types


@pytest.fixture
def job() -> ModuleType:
    return collect_types


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    labels = [[{"start": 1, "end": 1 + len(name), "type": one}] for name, one, _ in NAMES]
    columns = {
        "id": [str(number) for number in range(len(NAMES) + 1)],
        "text": [*(f"在{name}里" for name, _, _ in NAMES), "什么都没有"],
        "labels": pl.Series([*labels, []], dtype=LABELS),
        "split": [*(split for _, _, split in NAMES), "test"],
    }
    path = tmp_path / "corpus.parquet"
    pl.DataFrame(columns).with_columns(train=pl.col("split") == "train").write_parquet(path)
    return path


def collect(job: ModuleType, corpus: Path, types: int, *options: str) -> pl.DataFrame:
    output = corpus.parent / "new" / f"types-{types}.parquet"
    with pytest.MonkeyPatch.context() as patch:
        arguments = ["--corpus", corpus, "--types", types, "--output", output, *options]
        patch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
        job.main()
    return pl.read_parquet(output)


@pytest.mark.parametrize("types", OWN)
def test_the_most_frequent_characters_of_training_names_make_types(job: ModuleType, corpus: Path, types: int) -> None:
    made, whole = collect(job, corpus, types), pl.read_parquet(corpus).filter(pl.col("split") != "valid")
    made, whole = made.sort("id"), whole.sort("id")
    assert made.schema == whole.schema
    assert made.drop("labels").equals(whole.drop("labels"))
    for text, before, after in zip(made["text"], whole["labels"], made["labels"], strict=True):
        for was, one in zip(before, after, strict=True):
            assert (one["start"], one["end"]) == (was["start"], was["end"])
            name, coarse = text[one["start"] : one["end"]], was["type"]
            deciding = name[0] if coarse == "PER" else name[-1]
            own = OWN[types].get(coarse) == deciding  # 王 is frequent in test names only, 国 begins a name, too
            assert one["type"] == (f"{coarse}-{deciding}" if own else coarse)
    assert made["labels"].explode().drop_nulls().struct.field("type").n_unique() == types


def test_a_smaller_draw_lies_within_a_larger_one(job: ModuleType, corpus: Path) -> None:
    large = collect(job, corpus, 3, "--limit", "12", "--test", "3")
    small = collect(job, corpus, 3, "--limit", "11", "--test", "2")
    assert large["split"].value_counts().sort("split").rows() == [("test", 3), ("train", 12)]
    assert set(small["id"]) < set(large["id"])
    assert len(small) == len(large) - 2


def test_what_cannot_be_split_is_refused(job: ModuleType, corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2 types cannot be made"):
        collect(job, corpus, 2)
    with pytest.raises(SystemExit, match="20 types cannot be made"):
        collect(job, corpus, 20)
    with pytest.raises(SystemExit, match="no Parquet file"):
        collect(job, SCRIPT, 3)
    other = pl.read_parquet(corpus).with_columns(labels=pl.Series([[]] * (len(NAMES) + 1), dtype=LABELS))
    other.drop("split").write_parquet(corpus)
    with pytest.raises(SystemExit, match="no column split"):
        collect(job, corpus, 3)
    strange = pl.Series([[{"start": 0, "end": 1, "type": "DATE"}]] * (len(NAMES) + 1), dtype=LABELS)
    other.with_columns(labels=strange).write_parquet(corpus)
    with pytest.raises(SystemExit, match="has types DATE"):
        collect(job, corpus, 3)
    corpus.unlink()
    with pytest.raises(FileNotFoundError):
        collect(job, corpus, 3)
    assert "nothing was written" in capsys.readouterr().out
