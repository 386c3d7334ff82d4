r"""N-Triples: a triple a line, its terms as short texts. Blank lines and comments are no rows.

An IRI becomes its last segment, percent-decoded: `<http://dbpedia.org/resource/Caf%C3%A9>` gives `Café`. A literal becomes its
text, unescaped, without language tag and datatype. A blank node stays as it is: `_:b1`. The grammar is that of RDF 1.1
N-Triples (W3C 2014), which demands more of names of blank nodes and of IRIs than is looked at here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from urllib.parse import unquote_to_bytes

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kxbatch.data.sources.lines import Fault, LineFormat, Parsed, require_columns
from kxbatch.data.sources.model import BoolArray
from kxbatch.data.sources.rows import RowBlock
from kxbatch.data.sources.text import utf8_fault

NAMES = ("subject", "predicate", "object")
SCHEMA = pa.schema([pa.field(name, pa.string()) for name in NAMES])

_NO_ROWS = (9, 13, 32, 35)  # bytes that blank lines and comments may begin with
_CODE = r"\\u[0-9A-Fa-f]{4}|\\U[0-9A-Fa-f]{8}"
_IRI = rf'<(?:[^\x00-\x20<>"{{}}|^`\\]|{_CODE})+>'
_NODE = r'_:[^\s<>"]*[^\s<>".]'
_LITERAL = rf'"(?:[^"\\\n\r]|\\[tbnrf"\'\\]|{_CODE})*"(?:@[A-Za-z]+(?:-[A-Za-z0-9]+)*|\^\^{_IRI})?'
_OBJECT = f"{_IRI}|{_NODE}|{_LITERAL}"
_LINE = (
    rf"^[ \t]*(?P<subject>{_IRI}|{_NODE})[ \t]*(?P<predicate>{_IRI})[ \t]*(?P<object>{_OBJECT})[ \t]*\.[ \t]*(?:#.*)?$"
)
_CANONICAL = rf"^(?:{_IRI}|{_NODE}) {_IRI} (?:{_OBJECT}) \.$"  # as nearly all files are written
_ESCAPE = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|(.))")
_ESCAPED = {"t": "\t", "b": "\b", "n": "\n", "r": "\r", "f": "\f", '"': '"', "'": "'", "\\": "\\"}


class NTriples(LineFormat):
    """An open file of N-Triples; its columns are subject, predicate and object."""

    def blank(self, block: RowBlock) -> BoolArray:
        """See `LineFormat`."""
        codes = np.frombuffer(block.data, np.uint8)
        blank: BoolArray = block.lengths == 0
        # Few lines begin like one that is no row, so only those are looked at.
        suspects = np.flatnonzero(~blank & np.isin(codes[np.minimum(block.starts, len(codes) - 1)], _NO_ROWS)).tolist()
        blank[suspects] = [block.row(i).lstrip(b" \t\r")[:1] in (b"", b"#") for i in suspects]
        return blank

    def infer(self, rows: RowBlock) -> pa.Schema:
        """See `LineFormat`."""
        return SCHEMA

    def parse(self, rows: RowBlock, fields: Sequence[pa.Field]) -> Parsed:
        """See `LineFormat`.

        Raises:
            ConfigError: a column that no file of triples has.
        """
        require_columns(self.source, NAMES, [field.name for field in fields])
        lines, faults = _texts(rows)
        terms = dict(zip(NAMES, _terms(lines), strict=True))
        for index in np.flatnonzero(terms["subject"].is_null().to_numpy(zero_copy_only=False)).tolist():
            faults.setdefault(index, Fault("malformed-triple", "the line is not subject, predicate, object and a dot"))
        columns = []
        for field in fields:
            texts, odd = _short(terms[field.name])
            columns.append(texts.cast(field.type))
            for index in odd:
                faults.setdefault(index, Fault("malformed-triple", f"the {field.name} is escaped to no Unicode text"))
        return Parsed(columns, faults)


def _texts(rows: RowBlock) -> tuple[pa.Array, dict[int, Fault]]:
    """Lines as text, null where they are not UTF-8."""
    lines = rows.rows()
    try:
        return pa.array(lines, pa.binary()).cast(pa.string()), {}
    except pa.ArrowInvalid:
        found = [utf8_fault(line) for line in lines]
        texts = [None if fault else line.decode() for line, fault in zip(lines, found, strict=True)]
        return pa.array(texts, pa.string()), {i: fault for i, fault in enumerate(found) if fault}


def _terms(lines: pa.Array) -> list[pa.Array]:
    """Subject, predicate and object of each line, as they are written; null for lines that are none."""
    plain = pc.fill_null(pc.match_substring_regex(lines, pattern=_CANONICAL), False)
    parts = pc.split_pattern(pc.if_else(plain, lines, "  "), pattern=" ", max_splits=2)  # many times as fast as groups
    found = [pc.list_element(parts, place) for place in range(len(NAMES))]
    found[-1] = pc.utf8_slice_codeunits(found[-1], 0, -2)
    if pc.all(plain).as_py():
        return found
    groups = pc.extract_regex(pc.if_else(plain, None, lines), pattern=_LINE)
    return [pc.if_else(plain, x, pc.struct_field(groups, name)) for x, name in zip(found, NAMES, strict=True)]


def _short(terms: pa.Array) -> tuple[pa.Array, list[int]]:
    """Terms as short texts, and the numbers of those that are none."""
    coded = terms.dictionary_encode()
    texts, odd = _shortened(coded.dictionary)
    rows = np.flatnonzero(np.isin(coded.indices.to_numpy(zero_copy_only=False), odd)).tolist() if odd else []
    return texts.take(coded.indices), rows


def _shortened(terms: pa.Array) -> tuple[pa.Array, list[int]]:
    iri, literal = pc.starts_with(terms, "<"), pc.starts_with(terms, '"')
    whole = _without(terms, r"[/#]*>$")
    segment = pc.if_else(
        pc.match_substring_regex(whole, pattern="[/#]"), _without(whole, "^.*[/#]"), _without(whole, "^.*[:<]")
    )
    text = _without(_without(terms, '"[^"]*$'), '^"')
    texts = pc.if_else(iri, segment, pc.if_else(literal, text, terms))
    texts, odd = _mended(texts, pc.and_(pc.match_substring(texts, "\\"), pc.or_(iri, literal)), _unescaped)
    return _mended(texts, pc.and_(pc.match_substring(texts, "%"), iri), _decoded)[0], odd


def _without(texts: pa.Array, pattern: str) -> pa.Array:
    return pc.replace_substring_regex(texts, pattern=pattern, replacement="")


def _mended(texts: pa.Array, which: pa.Array, mend: Callable[[str], str]) -> tuple[pa.Array, list[int]]:
    """Texts, some of them mended; null, and its number told, where that fails."""
    rows = np.flatnonzero(pc.fill_null(which, False).to_numpy(zero_copy_only=False)).tolist()
    values, odd = texts.to_pylist() if rows else [], []
    for row in rows:
        try:
            values[row] = mend(values[row])
            values[row].encode()
        except ValueError:
            values[row] = None
            odd.append(row)
    return (pa.array(values, pa.string()) if rows else texts), odd


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(lambda m: _ESCAPED[m[3]] if m[3] else chr(int(m[1] or m[2], 16)), text)


def _decoded(text: str) -> str:
    """Percent-decoded, unless that is no UTF-8."""
    try:
        return unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        return text
