"""Matching of paths against glob patterns, step by step, the same on local disks and object stores."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase


def is_pattern(path: str) -> bool:
    """Whether a path has wildcards."""
    return any(character in path for character in "*?[")


def matches(parts: Sequence[str], segments: Sequence[str]) -> bool:
    """Whether the steps of a path match the segments of a pattern; `**` stands for any number of folders.

    Args:
        parts: names, from the folder that the pattern starts in.
        segments: the pattern, split at `/`.
    """
    if not segments:
        return not parts
    if segments[0] == "**":
        deeper = bool(parts) and _visible(parts[0])
        if len(segments) == 1:  # everything inside, but not the folder itself
            return deeper and (len(parts) == 1 or matches(parts[1:], segments))
        return matches(parts, segments[1:]) or (deeper and matches(parts[1:], segments))
    return bool(parts) and _matches_one(parts[0], segments[0]) and matches(parts[1:], segments[1:])


def may_contain(parts: Sequence[str], segments: Sequence[str]) -> bool:
    """Whether something below the folder `parts` could match."""
    if not parts or not segments:
        return bool(segments)
    if segments[0] == "**":
        return may_contain(parts, segments[1:]) or (_visible(parts[0]) and may_contain(parts[1:], segments))
    return _matches_one(parts[0], segments[0]) and may_contain(parts[1:], segments[1:])


def _visible(name: str) -> bool:
    return name[0] not in "._"


def _matches_one(name: str, segment: str) -> bool:
    # A wildcard finds no hidden entry unless the pattern spells the hidden beginning out.
    return fnmatchcase(name, segment) and (_visible(name) or name[0] == segment[0])
