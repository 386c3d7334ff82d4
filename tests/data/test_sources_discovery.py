import glob
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl
import pyarrow.fs as pafs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kxbatch.data.sources import SourceFile, discover, discovery
from kxbatch.data.sources.globbing import matches, may_contain
from kxbatch.errors import ConfigError

Tree = Callable[..., Path]


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    def build(*names: str) -> Path:
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x\n")
        return tmp_path

    return build


def names(found: Sequence[SourceFile]) -> list[str]:
    return [source.name for source in found]


def refused(base: Path, *patterns: str, format: str | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        discover(patterns, base=base, format=format)
    return str(caught.value)


def test_a_file_is_described_by_what_it_is(tree: Tree) -> None:
    base = tree("in/a.jsonl.gz")
    [source] = discover(["in/a.jsonl.gz"], base=base)
    status = (base / "in/a.jsonl.gz").stat()
    url = str(base / "in/a.jsonl.gz")
    assert source == SourceFile(url, "a.jsonl.gz", status.st_size, status.st_mtime_ns, "jsonl", "gz")


@pytest.mark.parametrize(
    ("name", "format", "compression"),
    [
        ("a.parquet", "parquet", "none"),
        ("a.pq", "parquet", "none"),
        ("a.ndjson.zst", "jsonl", "zst"),
        ("A.CSV.GZ", "csv", "gz"),
        ("a.b.tsv", "tsv", "none"),
        ("a.tab", "tsv", "none"),
        ("a.text.zst", "text", "zst"),
    ],
)
def test_name_tells_format_and_compression(tree: Tree, name: str, format: str, compression: str) -> None:
    [source] = discover([name], base=tree(name))
    assert (source.format, source.compression) == (format, compression)


def test_a_folder_is_read_recursively_without_hidden_and_unknown_entries(tree: Tree) -> None:
    base = tree("d/b.csv", "d/s/a.csv", "d/s/t/c.txt", "d/.h/x.csv", "d/_m/x.csv", "d/_x.csv", "d/.x.csv", "d/r.md")
    assert names(discover(["d"], base=base)) == ["b.csv", "s/a.csv", "s/t/c.txt"]
    assert names(discover(["d/_m"], base=base)) == ["x.csv"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("d/*.csv", ["a1.csv", "b.csv"]),
        ("d/?.csv", ["b.csv"]),
        ("d/[ac]*.csv", ["a1.csv"]),
        ("d/[!a]*.csv", ["b.csv"]),
        ("d/*/*.csv", ["s/a.csv"]),
        ("d/**/*.csv", ["a1.csv", "b.csv", "s/a.csv", "s/t/a.csv"]),
        ("d/**/t/*.csv", ["s/t/a.csv"]),
        ("d/s/**", ["a.csv", "t/a.csv"]),
        ("d/_*/*.csv", ["_m/x.csv"]),
        ("**/a.csv", ["d/s/a.csv", "d/s/t/a.csv"]),
    ],
)
def test_globs(tree: Tree, pattern: str, expected: list[str]) -> None:
    base = tree("d/a1.csv", "d/b.csv", "d/s/a.csv", "d/s/t/a.csv", "d/_m/x.csv", "d/.g/x.csv", "d/s/n.md")
    assert names(discover([pattern], base=base)) == expected


NAMES = st.text("ab.", min_size=1, max_size=3).filter(lambda name: not name.startswith("."))
SEGMENTS = st.one_of(NAMES, st.sampled_from(["*", "?", "a*", "*b", "[ab]?", "**"]))


@settings(deadline=None)
@given(parts=st.lists(NAMES, min_size=1, max_size=4), segments=st.lists(SEGMENTS, min_size=1, max_size=4))
def test_matching_agrees_with_glob_of_the_standard_library(parts: list[str], segments: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, *parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        found = glob.glob(f"{folder}/{'/'.join(segments)}", recursive=True)  # noqa: PTH207  Path.glob finds hidden ones
        expected = any(Path(f).is_file() for f in found if not f.endswith("/"))
    assert matches(parts, segments) == expected
    if expected:
        assert all(may_contain(parts[:depth], segments) for depth in range(len(parts)))


def test_an_existing_name_with_brackets_is_a_name(tree: Tree) -> None:
    assert names(discover(["a[1].csv"], base=tree("a[1].csv", "a1.csv"))) == ["a[1].csv"]


def test_files_are_sorted_by_url_and_counted_once(tree: Tree) -> None:
    base = tree("d/b.csv", "d/s/a.csv")
    found = discover(["d/s/*.csv", "d", f"file://{base}/d/b.csv"], base=base)
    assert [source.url for source in found] == [str(base / "d/b.csv"), str(base / "d/s/a.csv")]
    assert names(found) == ["b.csv", "a.csv"]  # the first pattern that gives a file names it


def test_format_overrides_names(tree: Tree) -> None:
    base = tree("d/a.log", "d/b.json.gz", "d/.c.log")
    found = discover(["d"], base=base, format="jsonl")
    assert [(s.name, s.format, s.compression) for s in found] == [
        ("a.log", "jsonl", "none"),
        ("b.json.gz", "jsonl", "gz"),
    ]


def test_a_dataset_gives_its_parts_alone(tree: Tree) -> None:
    base = tree("d/part-00000.parquet", "d/part-00001.parquet", "d/_kxbatch/manifest.json", "d/extra.csv", "d/s/x.csv")
    assert names(discover(["d"], base=base)) == ["part-00000.parquet", "part-00001.parquet"]


def test_links_are_followed_but_not_in_circles(tree: Tree) -> None:
    base = tree("d/a.csv", "elsewhere/b.csv")
    (base / "d/loop").symlink_to("..", target_is_directory=True)
    (base / "d/out").symlink_to(base / "elsewhere", target_is_directory=True)
    (base / "d/broken.csv").symlink_to(base / "nothing")
    assert names(discover(["d/*.csv"], base=base)) == ["a.csv"]
    assert names(discover(["d/out"], base=base)) == ["b.csv"]
    found = names(discover(["d"], base=base))
    assert {"a.csv", "out/b.csv"} <= set(found)
    assert len(found) < 10


def test_object_stores_are_listed_flat_with_the_same_result(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tree("d/b.csv", "d/s/a.csv", "d/.h/x.csv", "d/s/_m/y.csv")
    # A sub-tree file system is not a local one to the walk, as an object store is not.
    remote = pafs.SubTreeFileSystem(str(base), pafs.LocalFileSystem())
    monkeypatch.setattr(discovery, "absolute", lambda url, base: url)
    monkeypatch.setattr(discovery, "resolve", lambda url, base: (remote, url.removeprefix("s3://")))
    found = discover(["s3://d", "s3://d/*/*.csv"], base=base)
    assert [(s.url, s.name) for s in found] == [("s3://d/b.csv", "b.csv"), ("s3://d/s/a.csv", "s/a.csv")]
    assert "a bucket cannot be a wildcard" in refused(base, "s3://*/b.csv")


def test_words_for_a_missing_file(tree: Tree) -> None:
    base = tree("data/train.jsonl")
    words = refused(base, "data/trian.jsonl")
    assert "'data/trian.jsonl': no such file or folder" in words
    assert "did you mean 'train.jsonl'?" in words
    assert "did you mean 'data'?" in refused(base, "dta/train.jsonl")
    assert "did you mean 'data'?" in refused(base, "dta/*.jsonl")


def test_words_for_a_pattern_without_a_match(tree: Tree) -> None:
    base = tree("data/train-0.jsonl", "data/notes.md")
    words = refused(base, "data/train-*.jsonk")
    assert "'data/train-*.jsonk' matches no file" in words
    assert "did you mean 'train-0.jsonl'?" in words
    assert "notes.md (unknown type)" in refused(base, "data/*.md")


def test_words_for_an_unknown_type(tree: Tree) -> None:
    base = tree("a.docx", "b.json", "c.csv.bz2")
    words = refused(base, "a.docx")
    assert "unknown file type '.docx'" in words
    assert ".parquet, .pq, .jsonl" in words
    assert ".gz or .zst" in words
    assert "format = 'jsonl'" in refused(base, "b.json")
    assert "'.csv.bz2'" in refused(base, "c.csv.bz2")


def test_words_for_a_folder_with_nothing_to_read(tree: Tree) -> None:
    base = tree("d/notes.md", "d/.git/config", "d/_old.csv")
    (base / "empty").mkdir()
    (base / "d/broken.csv").symlink_to(base / "nothing")
    words = refused(base, "d")
    for part in ("'d': nothing to read", "notes.md (unknown type)", ".git (hidden)", "_old.csv (hidden)"):
        assert part in words
    assert "broken.csv (broken link)" in words
    assert "the folder is empty" in refused(base, "empty")


def test_words_for_compressed_parquet_unknown_format_and_nothing(tree: Tree) -> None:
    base = tree("a.parquet.gz", "d/a.pq.zst")
    assert "Parquet inside .gz" in refused(base, "a.parquet.gz")
    assert "Parquet inside .zst" in refused(base, "d")
    words = refused(base, "a.parquet.gz", format="jsonlines")
    assert "'jsonlines' is unknown; allowed: parquet, jsonl, csv, tsv, text" in words
    assert "did you mean 'jsonl'?" in words
    assert "no input" in refused(base)


def test_equal_names_are_refused_only_where_ids_are_derived_from_them(tree: Tree) -> None:
    base = tree("2023/a.csv", "2024/a.csv")
    words = refused(base, "2023", "2024")
    for part in (str(base / "2023/a.csv"), str(base / "2024/a.csv"), "'a.csv#...'", "rename", "input.id"):
        assert part in words
    assert names(discover(["2023", "2024"], base=base, id_column="doc")) == ["a.csv", "a.csv"]
    assert names(discover(["*/a.csv"], base=base)) == ["2023/a.csv", "2024/a.csv"]


UNPRIVILEGED = """
import os, sys
from pathlib import Path
from kxbatch.data.sources import ReadOptions, discover, scan
from kxbatch.errors import ConfigError
base = Path(sys.argv[1])
[source] = discover(["late.csv"], base=base)
os.chmod(base / "late.csv", 0)
if os.geteuid() == 0:
    os.setuid(65534)
def message(run):
    try:
        run()
    except ConfigError as error:
        return str(error)
    return "no error"
print(message(lambda: discover(["secret.csv"], base=base)))
print(message(lambda: discover(["closed"], base=base)))
print(message(lambda: scan(source, target_bytes=10, id_column=None, options=ReadOptions())))
"""


def test_words_for_missing_rights_as_an_unprivileged_user() -> None:
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        base.chmod(0o755)
        (base / "secret.csv").write_text("a\n1\n")
        (base / "late.csv").write_text("a\n1\n")
        (base / "closed").mkdir()
        (base / "secret.csv").chmod(0)
        (base / "closed").chmod(0)
        run = [sys.executable, "-c", UNPRIVILEGED, folder]
        out = subprocess.run(run, capture_output=True, text=True, check=True, cwd=Path.cwd()).stdout.splitlines()
        (base / "closed").chmod(0o755)
    assert "secret.csv: no permission to read it (user id " in out[0]
    assert "closed: no permission to read it" in out[1]
    assert "late.csv: no permission to read it" in out[2]


def test_names_of_files_that_polars_wrote_lead_back_to_them(tmp_path: Path) -> None:
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "a.parquet")
    [source] = discover([str(tmp_path)], base=Path("/"))
    assert source.url == str(tmp_path / "a.parquet")
    assert pl.read_parquet(source.url).to_dict(as_series=False) == {"a": [1]}
