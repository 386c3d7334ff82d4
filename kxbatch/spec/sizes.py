"""Sizes as people write them: `16MB`, `1.5 GiB`, `4096`."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator

_UNITS = {"": 1, "B": 1} | {
    f"{prefix}{suffix}": base**power
    for power, prefix in enumerate("KMGT", start=1)
    for suffix, base in (("B", 1000), ("IB", 1024), ("", 1000))
}
_PATTERN = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")


def parse_size(value: object) -> int:
    """Read a number of bytes.

    Args:
        value: an integer (bytes) or a string such as `"16MB"` (10^6) or `"16MiB"` (2^20).

    Returns:
        The size in bytes.

    Raises:
        ValueError: the words are no size.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    match = _PATTERN.fullmatch(value) if isinstance(value, str) else None
    unit = match.group(2).upper() if match else ""
    if match is None or unit not in _UNITS or not 0 < float(match.group(1)) < 2**63:
        raise ValueError(f"{value!r} is no size; write bytes or a number with KB, MB, GB, KiB, MiB, GiB: '16MB'")
    return int(float(match.group(1)) * _UNITS[unit])


def format_size(size: float) -> str:
    """A size for people, in decimal units: `format_size(1_500_000) == '1.5 MB'`."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


Size = Annotated[int, BeforeValidator(parse_size, json_schema_input_type=int | str)]
