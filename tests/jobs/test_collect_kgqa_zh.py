"""Chinese questions and poems as a graph, from small files in the shape of the real ones."""

from __future__ import annotations

import contextlib
import io
import json
import runpy
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pytest

SCRIPT = Path(__file__).parents[2] / "jobs" / "collect_kgqa_zh.py"
FACT = ["subject", "predicate", "meaning", "object"]


@dataclass(frozen=True)
class Ended:
    status: str | int | None
    said: str


def collect(*arguments: str | int | Path) -> Ended:
    """Runs the script; what it says and what it fails with together."""
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(said):
        patch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
        try:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        except SystemExit as end:
            return Ended(end.code, f"{said.getvalue()}{end.code}")
    return Ended(0, said.getvalue())


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    rows = [(f"第{s}号的属性{p}是什么？", f"第{s}号", f"属性{p}", f"{s}-{p}") for s in range(30) for p in range(10)]
    rows += [
        ("牛郎织女是哪里的故事？", "牛郎织女（中国著名民间故事）", "属性0", "中国"),
        ("王强在哪里毕业？", "王强", "毕业院校", "第二军医大学"),
        ("王强是哪个学校的？", "王强", "毕业院校", "湖北音乐学院"),
        ("谁？", "", "作者", "空"),
        ("什么？", "空", "作者", " "),
    ]
    path = tmp_path / "questions.parquet"
    table = pl.DataFrame(rows, schema=["question", "subject", "predicate", "object"], orient="row")
    table.with_columns(split=pl.lit("train"), answer="object").write_parquet(path)
    return path


@pytest.fixture
def package(tmp_path: Path) -> Path:
    poem = {"author": "王維", "paragraphs": ["人閒桂花落，夜靜春山空。", "月出驚山鳥，時鳴春澗中。"], "title": "鳥鳴澗"}
    share = {"author": "佚名", "paragraphs": ["一。"], "title": "句"}
    files = {
        "quantangshi/poet.tang.0.json": [poem, share, {**share, "author": "王維"}],
        "quantangshi/error/poet.tang.0.json": [{**poem, "title": "存目"}],
        "quantangshi/authors.tang.json": [{"name": "王維", "desc": "x", "id": "y"}],
        "songci/ci.song.2019y.json": [{"author": "和岘", "paragraphs": ["气和玉烛！睿化著鸿明"], "rhythmic": "导引"}],
        "yuanqu/yuanqu.json": [{"dynasty": "yuan", "author": "", "paragraphs": ["a。"], "title": "無主"}],
        "nalanxingde/纳兰性德诗集.json": [{"title": "长相思", "para": ["山一程", "故园无此声"], "author": "纳兰性德"}],
    }
    for name, content in files.items():
        path = tmp_path / "unpacked" / "package" / "dist" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return tmp_path / "unpacked"


def read(folder: Path, name: str) -> pl.DataFrame:
    return pl.read_parquet(folder / f"{name}.parquet")


@pytest.mark.parametrize("by", ["predicate", "subject"])
def test_parts_share_no_group_and_hold_every_whole_question(tmp_path: Path, questions: Path, by: str) -> None:
    result = collect("--questions", questions, "--output", tmp_path / "out", "--by", by, "--swaps", 2)
    assert result.status == 0, result.said
    together = read(tmp_path / "out", "questions")
    assert together.columns == ["question", "subject", "predicate", "meaning", "object", "split", "asked", "train"]
    assert together["train"].to_list() == (together["split"] == "train").to_list()
    made, together = together.filter(~pl.col("asked")), together.filter("asked")
    assert len(together) == 30 * 10 + 3
    groups = [set(together.filter(split=name)[by]) for name in ("train", "valid", "test")]
    assert not (groups[0] & groups[1])
    assert not (groups[0] & groups[2])
    assert not (groups[1] & groups[2])
    learned = together.filter("train")
    assert set(made["train"]) == {True}
    letters = set("".join(read(tmp_path / "out", "triples")["subject"]))
    assert letters >= set("".join(made["subject"]))
    assert 0.1 < made.filter(~pl.col("subject").is_in(learned["subject"].implode())).height / len(made) < 0.9
    assert all(subject in question for question, subject in made.select("question", "subject").iter_rows())
    other = made.filter(~pl.col("predicate").is_in(learned["predicate"].implode()))
    assert len(other)
    assert all(predicate in question for question, predicate in other.select("question", "predicate").iter_rows())
    assert len(made) == 2 * sum(s in q for q, s in learned.select("question", "subject").iter_rows())
    assert len(groups[0]) > len(groups[1])
    assert together.filter(subject="牛郎织女")["meaning"].to_list() == ["中国著名民间故事"]
    assert together.filter(subject="王强")["object"].to_list() == [["第二军医大学", "湖北音乐学院"]] * 2
    facts = read(tmp_path / "out", "triples")
    asked = together.explode("object").select(FACT)
    assert set(facts.rows()) == set(asked.rows())
    assert len(facts) == 30 * 10 + 3


def test_poems_come_from_the_tar_as_from_the_folder(tmp_path: Path, questions: Path, package: Path) -> None:
    with tarfile.open(tmp_path / "chinese-poetry.tgz", "w:gz") as tar:
        tar.add(package / "package", "package")
    for name, poetry in (("folder", package), ("tar", tmp_path / "chinese-poetry.tgz")):
        result = collect("--questions", questions, "--poetry", poetry, "--output", tmp_path / name)
        assert result.status == 0, result.said
    facts = read(tmp_path / "folder", "triples")
    assert set(facts.rows()) == set(read(tmp_path / "tar", "triples").rows())
    poem = dict(facts.filter(subject="鳥鳴澗").select("predicate", "object").iter_rows())
    assert poem == {
        "作者": "王維",
        "朝代": "唐",
        "首句": "人閒桂花落，夜靜春山空。",
        "末句": "月出驚山鳥，時鳴春澗中。",
    }
    assert facts.filter(subject="王維")["object"].to_list() == ["鳥鳴澗", "句"]
    assert set(facts.filter(subject="句")["meaning"]) == {"佚名", "王維"}
    song = dict(facts.filter(subject="导引").select("predicate", "object").iter_rows())
    assert (song["首句"], song["末句"]) == ("气和玉烛！", "睿化著鸿明")
    assert facts.filter(subject="长相思", predicate="朝代")["object"].to_list() == ["清"]
    assert not {"存目", "無主"} & set(facts["subject"])


def test_without_the_files_it_says_so_and_writes_nothing(tmp_path: Path, questions: Path) -> None:
    for arguments in (
        ("--questions", tmp_path / "none.parquet"),
        ("--questions", questions, "--poetry", tmp_path / "none.tgz"),
    ):
        result = collect(*arguments, "--output", tmp_path / "out")
        assert result.status == 0
        assert "skipped" in result.said
        assert "none." in result.said
        assert not (tmp_path / "out").exists()


def test_a_file_that_is_not_questions_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.parquet").write_text("no")
    pl.DataFrame({"question": ["a"]}).write_parquet(tmp_path / "columns.parquet")
    for name, words in (("text", "no Parquet file"), ("columns", "no column subject, predicate, object")):
        result = collect("--questions", tmp_path / f"{name}.parquet", "--output", tmp_path / "out")
        assert words in str(result.status)
