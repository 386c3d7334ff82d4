"""Places inside organisations, from a gazetteer in the shape of the real one."""

from __future__ import annotations

import hashlib
import io
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import collect_nested
import polars as pl
import pytest

SCRIPT = Path(__file__).parents[2] / "jobs" / "collect_nested.py"
CHINA = (
    "北京市\t110000\t北京\n\t北京市\t110000\t北京\n\t\t东城区\t110101\t东城\n\t\t\t王家镇\n\t\t\t\t北新村\n"
    "河北省\t130000\t河北\r\n\t石家庄市\t130100\t石家庄\n\t\t新华区\t130105\t新华\n"
)
WORLD = "亚洲:\n日本\t日本国\t东京\t大阪/京都\n中国\t中华人民共和国\t北京\n\n"
LABELS = pl.List(pl.Struct({"start": pl.Int32, "end": pl.Int32, "type": pl.String}))
NAMES = {  # organisation: the place inside
    "日本队": "日本",
    "大阪大学": "大阪",
    "亚洲银行": "亚洲",
    "北京市政府": "北京市",  # the longest
    "中华人民共和国": None,  # the whole is no part
    "新华社": None,  # a county's short name
    "新华区法院": "新华区",
    "王家镇政府": None,  # below the counties
    "石家庄一中": "石家庄",
    "联合国": None,
}


def archive(folder: Path, world: str = WORLD) -> tuple[Path, dict[str, str]]:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as opened:
        opened.writestr("china_location.txt", CHINA)
    content = {"china_location.zip": inner.getvalue(), "world_location.txt": world.encode()}
    path = folder / "jionlp.whl"
    with zipfile.ZipFile(path, "w") as opened:
        for name, raw in content.items():
            opened.writestr(f"jionlp/dictionary/{name}", raw)
    return path, {name: hashlib.sha256(raw).hexdigest() for name, raw in content.items()}


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(collect_nested, "SHA256", {})  # each test has its own
    return collect_nested


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    labels = [[{"start": 1, "end": 1 + len(name), "type": "ORG"}] for name in NAMES]
    labels.append([{"start": 0, "end": 3, "type": "LOC"}])
    texts = [*(f"在{name}里" for name in NAMES), "日本国里"]
    columns = {"id": [str(i) for i in range(len(texts))], "text": texts, "labels": pl.Series(labels, dtype=LABELS)}
    path = tmp_path / "corpus.parquet"
    pl.DataFrame(columns).with_columns(split=pl.lit("test"), train=False).write_parquet(path)
    return path


def collect(job: ModuleType, corpus: Path, gazetteer: Path, output: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        options = ["--corpus", corpus, "--gazetteer", gazetteer, "--output", output]
        patch.setattr(sys, "argv", [str(SCRIPT), *map(str, options)])
        job.main()


def test_the_longest_place_that_begins_an_organisation_is_a_span(
    job: ModuleType, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gazetteer, job.SHA256 = archive(tmp_path)
    output = tmp_path / "new" / "nested.parquet"
    collect(job, corpus, gazetteer, output)
    before, after = pl.read_parquet(corpus), pl.read_parquet(output)
    assert after.drop("labels").equals(before.drop("labels"))
    assert after.schema == before.schema
    for text, labels, name in zip(after["text"], after["labels"], [*NAMES, None], strict=True):
        found = [(text[one["start"] : one["end"]], one["type"]) for one in labels]
        if name is None:
            assert found == [("日本国", "LOC")]  # places gain nothing
        else:
            inner = [(NAMES[name], "LOC")] if NAMES[name] else []
            assert found == [*inner, (name, "ORG")]
    assert f"{sum(map(bool, NAMES.values()))} of them places (silver)" in capsys.readouterr().out


def test_other_files_are_refused_and_missing_ones_are_told(
    job: ModuleType, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    gazetteer, job.SHA256 = archive(tmp_path)
    output = tmp_path / "nested.parquet"
    with pytest.raises(SystemExit, match="no Parquet file"):
        collect(job, gazetteer, gazetteer, output)
    pl.DataFrame({"text": ["x"]}).write_parquet(tmp_path / "short.parquet")
    with pytest.raises(SystemExit, match="no column id, labels"):
        collect(job, tmp_path / "short.parquet", gazetteer, output)
    with pytest.raises(SystemExit, match="it should be the file of jionlp"):
        collect(job, corpus, corpus, output)
    archive(tmp_path, WORLD + "x\n")
    with pytest.raises(SystemExit, match="sha256"):
        collect(job, corpus, gazetteer, output)
    collect(job, corpus, tmp_path / "gone", output)
    assert "nothing was written" in capsys.readouterr().out
    assert not output.exists()
