"""Fingerprints: a name for what decides a result, stable between runs, machines and Python versions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any


def canonical(value: Any) -> str:
    """The one JSON spelling of a value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def fingerprint(value: Any) -> str:
    """First 128 bits, in hex, of the SHA-256 of the canonical JSON of `value`."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:32]


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What changed between two configurations, in words: `beta 1.0 -> 0.5`."""
    keys = sorted(old.keys() | new.keys())
    return [f"{key} {_show(old, key)} -> {_show(new, key)}" for key in keys if old.get(key) != new.get(key)]


def _show(values: Mapping[str, Any], key: str) -> str:
    text = json.dumps(values[key], ensure_ascii=False) if key in values else "(absent)"
    return text if len(text) <= 60 else text[:57] + "..."
