"""N-Triples: terms as short texts, bad lines set aside; and CSV and TSV without a header line."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kxbatch.data.sources import ReadOptions, ReadResult, SourceScan, discover, read, scan
from kxbatch.errors import ConfigError

COLUMNS = ["subject", "predicate", "object"]


def read_file(path: Path, target: int = 10**9, **options: Any) -> list[ReadResult]:
    found = scanned(path, target, **options)
    made = ReadOptions(**options)
    return [
        read(found.source, cut, columns=found.schema.names, schema=found.schema, id_column=None, options=made)
        for cut in found.cuts
    ]


def scanned(path: Path, target: int = 10**9, **options: Any) -> SourceScan:
    source = discover([str(path)], base=path.parent)[0]
    return scan(source, target_bytes=target, id_column=None, options=ReadOptions(**options))


def triples(path: Path) -> list[tuple[str, ...]]:
    [result] = read_file(path)
    return list(zip(*(result.table[name].to_pylist() for name in COLUMNS), strict=True))


LINES = [
    ('<http://dbpedia.org/resource/Caf%C3%A9> <http://x.org/p#name> "a \\"q\\""@en-GB .', ("Café", "name", 'a "q"')),
    ('_:b1 <urn:isbn:0451450523> <http://a.b/c/> . # a comment', ("_:b1", "0451450523", "c")),
    ('<http://a/b>\t<http://a/c>"5"^^<http://www.w3.org/2001/XMLSchema#integer>.', ("b", "c", "5")),
    ('  <http://a/b> <http://a/c> "\\u4E2D\\U0001F600\\\\n" .', ("b", "c", "中😀\\n")),
    ('<http://a/\\u4e2d%E5%9B%BD> <http://a/c> "100%25" .', ("中国", "c", "100%25")),
    ('<http://a/%FF> <http://a/c> "" .', ("%FF", "c", "")),
    ('<http://a/b> <mailto:x> "a . b > c" .', ("b", "x", "a . b > c")),
    ('<http://a/b#> <http://a/c> _:x.y .', ("b", "c", "_:x.y")),
    ('<http://a/b> <http://a/c> "a\\tb\\n" .', ("b", "c", "a\tb\n")),
]  # fmt: skip


@pytest.mark.parametrize(("line", "wanted"), LINES)
def test_terms_become_short_texts(tmp_path: Path, line: str, wanted: tuple[str, ...]) -> None:
    (tmp_path / "a.nt").write_text(f"# first\n\n{line}\n", encoding="utf-8")
    assert triples(tmp_path / "a.nt") == [wanted]


def test_lines_that_are_written_in_several_ways_come_together(tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.nt.gz", "wt", encoding="utf-8") as file:
        file.writelines(f"{line}\r\n" for line, _ in LINES)
    assert triples(tmp_path / "a.nt.gz") == [wanted for _, wanted in LINES]


BAD = [
    (b"bad", "malformed-triple"),
    (b'<http://a> <http://b> "open .', "malformed-triple"),
    (b'<http://a> <http://b> "c" extra .', "malformed-triple"),
    (b'"a" <http://b> "c" .', "malformed-triple"),
    (b'<http://a> <http://b> "c"', "malformed-triple"),
    (b'<http://a> <http://b> "\\x" .', "malformed-triple"),
    (b'<http://a> <http://b> "\\uD800" .', "malformed-triple"),
    (b'<http://a b> <http://b> "c" .', "malformed-triple"),
    (b'<http://a> <http://b> "\xff" .', "invalid-utf8"),
]


@pytest.mark.parametrize(("line", "error"), BAD)
def test_a_bad_line_is_set_aside_and_takes_no_other_along(tmp_path: Path, line: bytes, error: str) -> None:
    good = b'<http://a/s> <http://a/p> "o" .\n'
    (tmp_path / "a.nt").write_bytes(good + line + b"\n" + good)
    [result] = read_file(tmp_path / "a.nt")
    assert [(bad.row, bad.line, bad.error) for bad in result.bad] == [(1, 2, error)]
    assert result.table["id"].to_pylist() == ["a.nt#0", "a.nt#2"]


def escaped(text: str) -> str:
    special = {"\t": "\\t", "\n": "\\n", "\r": "\\r", '"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f"}
    return "".join(special.get(c, c) for c in text)


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=8), min_size=1, max_size=12), st.integers(40, 300))
def test_any_literal_comes_back_whatever_the_cuts(tmp_path: Path, texts: list[str], target: int) -> None:
    lines = [f'<http://a/{i}> <http://a/p> "{escaped(text)}" .\n' for i, text in enumerate(texts)]
    (tmp_path / "a.nt").write_bytes("".join(lines).encode())
    results = read_file(tmp_path / "a.nt", target)
    assert [value for result in results for value in result.table["object"].to_pylist()] == texts
    assert not any(result.bad for result in results)


def test_names_stand_in_for_a_header_line(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("a\t007\t1\nb\t8\n\nc\t9\t3\n")
    [result] = read_file(tmp_path / "a.tsv", names=("s", "p", "o"))
    assert result.table.drop(["id"]).to_pydict() == {"s": ["a", "c"], "p": ["007", "9"], "o": [1, 3]}
    assert [(bad.row, bad.message) for bad in result.bad] == [(1, "2 fields, input.names has 3")]
    [result] = read_file(tmp_path / "a.tsv", names=("s", "p", "o"), types="text")
    assert result.table["o"].to_pylist() == ["1", "3"]


def test_a_quote_in_a_tsv_may_be_a_character_like_others(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('"open\tx"y\n"a"\tb\r\n')
    [result] = read_file(tmp_path / "a.tsv", names=("s", "o"), tsv_quotes=False)
    assert result.table.drop(["id"]).to_pydict() == {"s": ['"open', '"a"'], "o": ['x"y', "b"]}
    assert not result.bad
    (tmp_path / "a.csv").write_text('"a,b",c\n')
    [result] = read_file(tmp_path / "a.csv", names=("s", "o"), tsv_quotes=False)
    assert result.table["s"].to_pylist() == ["a,b"]


def test_a_column_that_triples_lack_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.nt").write_text('<http://a> <http://b> "c" .\n')
    found = scanned(tmp_path / "a.nt")
    with pytest.raises(ConfigError, match="no column 'objects'; did you mean 'object'"):
        read(
            found.source, found.cuts[0], columns=["objects"], schema=found.schema, id_column=None, options=ReadOptions()
        )
