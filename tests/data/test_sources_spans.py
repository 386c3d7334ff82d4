"""Texts with spans: CoNLL, CLUENER and CMeEE, against plain readers of whole files; bad sentences are set aside alone."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kxbatch.data.sources import BadRow, ReadOptions, discover, read, scan
from kxbatch.data.spans import SPANS
from kxbatch.errors import ConfigError, DataError

Row = tuple[str, str, Any]  # id, text, labels as tuples
thrifty = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read_all(
    path: Path, format_: str | None = None, target: int = 10**9, **options: Any
) -> tuple[list[Row], list[BadRow], pa.Schema]:
    """All rows of a file, cut into shards of `target` bytes."""
    source = discover([str(path)], base=path.parent, format=format_)[0]
    made = ReadOptions(**options)
    found = scan(source, target_bytes=target, id_column=None, options=made)
    rows: list[Row] = []
    bad: list[BadRow] = []
    for cut in found.cuts:
        result = read(source, cut, columns=["text", "labels"], schema=found.schema, id_column=None, options=made)
        result.table.validate(full=True)
        assert result.table.num_rows + len(result.bad) == cut.rows
        rows += [(row["id"], row["text"], tuples(row["labels"])) for row in result.table.to_pylist()]
        bad += result.bad
    return rows, bad, found.schema


def tuples(labels: list[dict[str, Any]] | None) -> list[tuple[int, int, str]] | None:
    return None if labels is None else [(one["start"], one["end"], one["type"]) for one in labels]


def surfaces(row: Row) -> list[tuple[str, str]]:
    return [(row[1][start:end], type_) for start, end, type_ in row[2]]


CONLL = (
    "-DOCSTART- -X- O O\n\n"
    "# a comment\nEU NNP B-NP I-ORG\nrejects VBZ B-VP O\nGerman JJ B-NP I-MISC\n.\tO\n\n\n \t\n"
    "Peter\tB-PER\nBlackburn\tI-PER\n# \tO\n\n"
    "𝄞 O\nＥＵ S-ORG\n"
)


@pytest.mark.parametrize("target", [10**9, 1, 60])
@pytest.mark.parametrize("way", ["lf", "crlf", "bom", "gz", "no end"])
def test_conll_is_read_sentence_by_sentence(tmp_path: Path, way: str, target: int) -> None:
    data = CONLL.replace("\n", "\r\n") if way == "crlf" else CONLL.removesuffix("\n") if way == "no end" else CONLL
    path = tmp_path / ("a.conll.gz" if way == "gz" else "a.conll")
    raw = (b"\xef\xbb\xbf" if way == "bom" else b"") + data.encode()
    path.write_bytes(gzip.compress(raw) if way == "gz" else raw)
    rows, bad, schema = read_all(path, target=target, block_bytes=7)
    assert schema.field("labels").type == SPANS
    assert not bad
    assert [(id_.rpartition("#")[2], text) for id_, text, _ in rows] == [
        ("1", "EU rejects German ."), ("2", "Peter Blackburn #"), ("3", "𝄞 ＥＵ"),
    ]  # fmt: skip
    assert [surfaces(row) for row in rows] == [
        [("EU", "ORG"), ("German", "MISC")], [("Peter Blackburn", "PER")], [("ＥＵ", "ORG")],
    ]  # fmt: skip


def test_tokens_may_be_characters(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("张 B-PER\n三 E-PER\n在 O\n京 S-LOC\n", encoding="utf-8")
    [row], _, _ = read_all(tmp_path / "a.txt", "conll", join="")
    assert row[1:] == ("张三在京", [(0, 2, "PER"), (3, 4, "LOC")])


BAD_CONLL = [
    (b"alone\n", "field-count", "line 5 has one column"),
    (b"a B-X\nb M-X\nc O\nd S-X\n", "malformed-tags", "token 1 is followed by O"),
    (b"a O\nb X-PER\n", "malformed-tags", "'X-PER' of token 2"),
    (b"a\xff O\n", "invalid-utf8", "0xff"),
    (b"a" * 500 + b" O\n", "too-long", "300"),
]


@pytest.mark.parametrize(("sentence", "error", "words"), BAD_CONLL)
@pytest.mark.parametrize("target", [10**9, 1])
def test_a_bad_sentence_is_set_aside_alone(
    tmp_path: Path, sentence: bytes, error: str, words: str, target: int
) -> None:
    good = b"first O\nBerlin B-LOC\n\n"
    (tmp_path / "a.conll").write_bytes(good + b"x O\n" + sentence + b"\n" + good)
    if error == "too-long":
        rows, bad, _ = read_all(tmp_path / "a.conll", target=target, max_line_bytes=300)
    else:
        rows, bad, _ = read_all(tmp_path / "a.conll", target=target)
    assert [(one.row, one.line, one.id, one.error) for one in bad] == [(1, 4, "a.conll#1", error)]
    assert words in bad[0].message
    assert [row[0] for row in rows] == ["a.conll#0", "a.conll#2"]


WORD = st.text(st.sampled_from("ab#é京\u3000𝄞-"), min_size=1, max_size=3).filter(lambda w: w != "-DOCSTART-")
TAG = st.sampled_from(["O", "B-A", "I-A", "I-B"])


@thrifty
@given(
    st.lists(st.lists(st.tuples(WORD, TAG), min_size=1, max_size=4), min_size=1, max_size=6),
    st.lists(st.sampled_from(["\n", "\n\n", " \n", "# x\n"]), min_size=6, max_size=6),
    st.integers(1, 80), st.integers(1, 20),
)  # fmt: skip
def test_any_sentences_come_back_whatever_the_cuts(
    tmp_path: Path, sentences: list[list[tuple[str, str]]], gaps: list[str], target: int, block: int
) -> None:
    blocks = ["".join(f"{token} x\t{tag}\n" for token, tag in sentence) for sentence in sentences]
    data = "".join(f"{gap}{made}\n" for gap, made in zip(gaps, blocks, strict=False))
    (tmp_path / "a.conll").write_text(data, encoding="utf-8", newline="\n")
    whole, bad, _ = read_all(tmp_path / "a.conll", join="")
    assert not bad
    assert [text for _, text, _ in whole] == ["".join(token for token, _ in sentence) for sentence in sentences]
    assert read_all(tmp_path / "a.conll", target=target, block_bytes=block, join="")[0] == whole


TEXT = "浙商银行的叶老桂说“中国银行”"
ENTITIES = [(0, 3, "company"), (5, 7, "name"), (10, 13, "company"), (10, 11, "place")]


def cluener(text: str, spans: list[tuple[int, int, str]]) -> dict[str, Any]:
    label: dict[str, dict[str, list[list[int]]]] = {}
    for first, last, type_ in spans:
        label.setdefault(type_, {}).setdefault(text[first : last + 1], []).append([first, last])
    return {"text": text, "label": label}


def cmeee(text: str, spans: list[tuple[int, int, str]]) -> dict[str, Any]:
    found = [{"start_idx": a, "end_idx": b, "type": t, "entity": text[a : b + 1]} for a, b, t in spans]
    return {"text": text, "entities": found}


WANTED = [(0, 4, "company"), (5, 8, "name"), (10, 12, "place"), (10, 14, "company")]


def write(path: Path, objects: list[Any], indent: int | None = None) -> Path:
    """An array or lines, by the name."""
    if path.suffix == ".json":
        data = json.dumps(objects, ensure_ascii=False, indent=indent)
    else:
        data = "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in objects)
    path.write_text(data, encoding="utf-8", newline="\n")
    return path


@pytest.mark.parametrize(("kind", "make", "name"), [("cluener", cluener, "a.jsonl"), ("cmeee", cmeee, "a.json")])
def test_spans_end_after_their_last_character(tmp_path: Path, kind: str, make: Any, name: str) -> None:
    objects = [make(TEXT, ENTITIES), {"text": "test", "id": 3}, make("无", [])]
    path = write(tmp_path / name, objects)
    for target in (10**9, 1):
        rows, bad, schema = read_all(path, kind, target)
        assert not bad
        assert [(text, labels) for _, text, labels in rows] == [(TEXT, WANTED), ("test", None), ("无", [])]
        assert schema.names == ["text", "id", "labels"]


WRONG = [
    ({"label": {"a": {"xy": [[0, 1]]}}}, {"entities": [(0, 1, "a", "xy")]}, "are 'te', not 'xy'"),
    ({"label": {"a": {"t": [[4, 4]]}}}, {"entities": [(4, 4, "a", "t")]}, "no part of the text, which has 4"),
    ({"label": {"a": {"": [[2, 1]]}}}, {"entities": [(2, 1, "a", "")]}, "2 to 1 are no part"),
    ({"label": {"a": {"t": [["0", 0]]}}}, {"entities": [("0", 0, "a", "t")]}, "two integers"),
    ({"label": {"a": [[0, 0]]}}, {"entities": [{"start_idx": 0}]}, "not of the shape"),
    ({"text": None, "label": {}}, {"text": None, "entities": []}, "without a 'text'"),
]


@pytest.mark.parametrize("target", [10**9, 1])
@pytest.mark.parametrize(("lines", "array", "words"), WRONG)
def test_bad_spans_are_set_aside_with_the_reason(
    tmp_path: Path, lines: dict[str, Any], array: dict[str, Any], words: str, target: int
) -> None:
    names = ("start_idx", "end_idx", "type", "entity")
    found = [one if isinstance(one, dict) else dict(zip(names, one, strict=True)) for one in array["entities"]]
    for kind, name, changes in (("cluener", "a.jsonl", lines), ("cmeee", "a.json", array | {"entities": found})):
        path = write(tmp_path / name, [{"text": "good"}, {"text": "test", **changes}, {"text": "fine"}])
        rows, bad, _ = read_all(path, kind, target)
        assert [text for _, text, _ in rows] == ["good", "fine"]
        assert [(one.row, one.id, one.error) for one in bad] == [(1, f"{name}#1", "malformed-span")]
        assert words in bad[0].message


VALUE = st.recursive(
    st.integers() | st.text(st.sampled_from('a"\\{}[],\n京')) | st.none(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text('a"\\{', max_size=2), inner, max_size=3),
    max_leaves=6,
)


@thrifty
@given(st.lists(VALUE, min_size=1, max_size=6), st.sampled_from([None, 0, 2]), st.integers(1, 90), st.integers(1, 20))
def test_any_objects_of_an_array_are_rows_whatever_the_cuts(
    tmp_path: Path, values: list[Any], indent: int | None, target: int, block: int
) -> None:
    objects = [{"text": f"{number}", "x": value} for number, value in enumerate(values)]
    path = write(tmp_path / "a.json", objects, indent)
    rows, bad, _ = read_all(path, "cmeee", target, block_bytes=block)
    assert not bad
    assert [text for _, text, _ in rows] == [str(number) for number in range(len(values))]
    assert [id_ for id_, _, _ in rows] == [f"a.json#{number}" for number in range(len(values))]


@pytest.mark.parametrize("target", [10**9, 1])
def test_lines_of_bad_objects_and_files_that_are_cut_off(tmp_path: Path, target: int) -> None:
    path = tmp_path / "a.json"
    array = '[\n  {"text": "a"},\n  {"text": "b"} 5,\n  7,\n  {"text": "c"}\n]\n'
    path.write_text(array)
    rows, bad, _ = read_all(path, "cmeee", target)
    assert [text for _, text, _ in rows] == ["a", "c"]
    assert [(one.row, one.line, one.error) for one in bad] == [(1, 3, "malformed-json")]
    whole = '[{"text": "a"}, {"text": "b"}]'
    for end in (len(whole) - 4, len(whole) - 1):  # within the last object, after it
        path.write_text(whole[:end])
        rows, bad, _ = read_all(path, "cmeee", target)
        assert [text for _, text, _ in rows] == ["a"]
        assert [(one.row, one.error) for one in bad] == [(1, "malformed-json")]


def test_what_is_no_array_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"text": "a"}\n')
    with pytest.raises(DataError, match="no JSON array, it should begin with \\[; one object a line is"):
        read_all(path, "cmeee")
    with pytest.raises(ConfigError, match="format = 'cmeee'"):
        read_all(path)
    for empty in ("[]", " [ \n ] \n"):
        path.write_text(empty)
        assert read_all(path, "cmeee")[:2] == ([], [])


def test_spans_of_json_lines_and_parquet_are_spans_as_they_are(tmp_path: Path) -> None:
    spans = [{"start": 0, "end": 2, "type": "A", "score": 0.5}]
    lines = [{"text": "ab", "labels": []}] * 5 + [
        {"text": "ab", "labels": spans},
        {"text": "x", "labels": [{"start": 1}]},
    ]
    rows, bad, schema = read_all(write(tmp_path / "a.jsonl", lines))
    assert schema.field("labels").type == SPANS  # though most are empty
    assert [labels for _, _, labels in rows] == [[]] * 5 + [[(0, 2, "A")]]
    assert [(one.row, one.error) for one in bad] == [(6, "wrong-type")]
    type_ = pa.dictionary(pa.int32(), pa.string())
    wide = pa.large_list(pa.struct([("start", pa.int64()), ("end", pa.int64()), ("type", type_)]))
    pq.write_table(pa.table({"text": ["ab"], "labels": pa.array([spans], wide)}), tmp_path / "a.parquet")
    rows, _, schema = read_all(tmp_path / "a.parquet")
    assert rows == [("a.parquet#0", "ab", [(0, 2, "A")])]
    assert schema.field("labels").type == SPANS
    found = pa.list_(pa.struct([*SPANS.value_type, ("score", pa.float32())]))
    pq.write_table(pa.table({"text": ["ab"], "labels": pa.array([spans], found)}), tmp_path / "b.parquet")
    rows, _, schema = read_all(tmp_path / "b.parquet")
    assert (rows[0][2], schema.field("labels").type) == ([(0, 2, "A")], found)  # nothing is taken from what is more


@pytest.mark.parametrize(
    ("integer", "far"),
    [
        (pa.int64(), 2**31),
        (pa.int64(), -(2**31) - 1),
        (pa.int64(), 2**32),
        (pa.uint32(), 2**32 - 1),
        (pa.uint64(), 2**63 + 5),
        (pa.uint64(), 2**64 - 1),
    ],
)
def test_an_offset_that_no_text_has_is_the_fault_of_its_row(tmp_path: Path, integer: pa.DataType, far: int) -> None:
    kind = pa.list_(pa.struct([("start", integer), ("end", integer), ("type", pa.string())]))
    good = {"start": 0, "end": 2, "type": "A"}
    rows = [[good], [good, {"start": 0, "end": far, "type": "A"}], None, [{"start": 1, "end": None, "type": "B"}]]
    pq.write_table(pa.table({"text": ["ab"] * 4, "labels": pa.array(rows, kind)}), tmp_path / "a.parquet")
    found, bad, schema = read_all(tmp_path / "a.parquet")
    assert schema.field("labels").type == SPANS
    assert [labels for _, _, labels in found] == [[(0, 2, "A")], None, [(1, None, "B")]]
    assert [(one.row, one.error) for one in bad] == [(1, "wrong-type")]
    assert f"column 'labels' holds a span with offset {far}, expected list<" in bad[0].message
