"""How texts of a graph are compared, and where the meaning of a subject stands.

There is one normalisation, for keys, for questions and for scores: NFKC, lower case, runs of white space to one blank, none at
the ends. It is applied until nothing changes, so that a normalised text normalises to itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

NORMALIZATION = "nfkc, lower case, white space collapsed"  # as artifacts name it
_SPACE = r"[\s\v\x1c-\x1f\x85\p{Z}]+"
_ODD_SPACE = r"[\t-\r\x1c-\x1f\x85\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}]|  |^ | $"
# The first opening bracket to the final closing one: brackets nest. Nothing before or between them is no meaning.
_MEANING = r"(?s)^(?P<subject>\s*[^（\s][^（]*)（(?P<meaning>.*\S.*)）\s*$"


def normalize(texts: Sequence[str] | pa.Array) -> pa.Array:
    """The texts in the form in which they are compared.

    Args:
        texts: N texts; null stays null.

    Returns:
        large_string [N].
    """
    array = texts if isinstance(texts, pa.Array) else pa.array(texts, pa.large_string())
    once = _once(array.cast(pa.large_string()))
    # Lower case may compose anew (a capital with a mark that only its small letter has in one piece): rare, so only those again.
    again = pc.fill_null(pc.not_equal(once, pc.utf8_normalize(once, "NFKC")), False)
    if not pc.any(again).as_py():
        return once
    return pc.replace_with_mask(once, again, normalize(pc.utf8_normalize(once.filter(again), "NFKC")))


def split_meaning(subjects: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Parts `X（Y）` into X and Y: at the first full-width opening bracket, if the text ends with a closing one.

    Args:
        subjects: N subjects.

    Returns:
        large_string [N], the subjects without their meanings, and large_string [N], the meanings; empty where there is none.
    """
    coded = subjects.cast(pa.large_string()).dictionary_encode()  # of many rows, most subjects come several times
    texts = coded.dictionary
    found = pc.extract_regex(texts, pattern=_MEANING)
    split = pc.is_valid(found)
    named = pc.if_else(split, pc.struct_field(found, "subject"), texts)
    meanings = pc.if_else(split, pc.struct_field(found, "meaning"), "").cast(pa.large_string())
    rows = coded.indices
    return named.take(rows), pc.fill_null(meanings.take(rows), "")


def _once(texts: pa.Array) -> pa.Array:
    lower = pc.utf8_lower(pc.utf8_normalize(texts, "NFKC"))
    odd = pc.fill_null(pc.match_substring_regex(lower, pattern=_ODD_SPACE), False)
    if not pc.any(odd).as_py():  # the usual case, and three times as quick to tell as to replace
        return lower
    collapsed = pc.replace_substring_regex(lower.filter(odd), pattern=_SPACE, replacement=" ")
    return pc.replace_with_mask(lower, odd, pc.utf8_trim(collapsed, characters=" "))
