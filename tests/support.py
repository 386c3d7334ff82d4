"""Jobs, corpora and digests that tests over whole jobs share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kxbatch.spec.fingerprint import fingerprint


def write_texts(path: Path, first: int, count: int) -> None:
    """JSONL with `doc` and `text`; the texts repeat words, so that neighbours exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"]
    lines = []
    for row in range(first, first + count):
        picked = [words[(row * step + step) % 10] for step in (1, 3, 7)]
        lines.append(json.dumps({"doc": f"d{row:04d}", "text": " ".join(picked) + f" {row}", "lang": "xx"}))
    path.write_text("\n".join(lines) + "\n")


def audit_job(executor: str = "inline", **stages: dict[str, Any]) -> dict[str, Any]:
    """Embed, hubness, whiten, hubness over `data/*.jsonl`; keyword arguments change the stage of that name."""
    defaults: dict[str, dict[str, Any]] = {
        "embed": {"kind": "embed", "column": "text", "model": "callable:trigrams:embed"},
        "before": {"kind": "hubness", "name": "before", "k": 3, "block_rows": 50},
        "whiten": {"kind": "whiten", "input": "embed", "dim": 8},
        "hubness": {"kind": "hubness", "k": 3, "block_rows": 50},
    }
    return {
        "job": {"name": "audit", "output": "out/audit", "executor": executor},
        "input": {"path": ["data/*.jsonl"], "id": "doc", "shard_size": "1kB"},
        "stage": [{**default, **stages.get(name, {})} for name, default in defaults.items()],
    }


def sealed(document: dict[str, Any]) -> str:
    """A receipt or another sealed document as JSON, its checksum made anew: what somebody writes who means harm."""
    values = {key: value for key, value in document.items() if key != "checksum"}
    try:
        checksum = fingerprint(values)
    except ValueError:  # NaN has no canonical form
        checksum = ""
    return json.dumps(values | {"checksum": checksum})


def tree_digests(output: Path, *, only: Callable[[Path], bool] = lambda path: True) -> dict[str, str]:
    """SHA-256 of every part and artifact of an output, by relative path: what must not depend on how a run went."""
    found = {}
    for path in sorted(output.rglob("*")):
        relative = path.relative_to(output)
        kept = relative.name.startswith("part-") or "_artifact" in relative.parts
        if path.is_file() and kept and "_kxbatch" not in relative.parts and path.name != "card.json" and only(relative):
            found[str(relative)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def training_job(executor: str = "inline", model: dict[str, Any] | None = None, **training: Any) -> dict[str, Any]:
    """A tokenizer and a tiny masked LM over `data/*.jsonl`; keyword arguments go to `stage.training`."""
    settings = {"batch_rows": 8, "epochs": 2, "validation_share": 0.1, "log_every": 1, "precision": "fp32"} | training
    encoder = {
        "kind": "masked-lm",
        "name": "encoder",
        "column": "text",
        "tokenizer": "stage:tokenizer",
        "max_length": 16,
    }
    encoder |= {"model": {"dim": 16, "layers": 2, "key_dim": 8} | (model or {}), "training": settings}
    return {
        "job": {"name": "train", "output": "out/train", "executor": executor},
        "input": {"path": ["data/*.jsonl"], "id": "doc", "shard_size": "1kB"},
        "stage": [{"kind": "tokenizer", "column": "text", "vocabulary": 300}, encoder],
    }
