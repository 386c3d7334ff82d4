"""Where trials happen: a small job over texts, an encoder that can be given moods, and the output of an undisturbed run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from conftest import ENCODER
from support import audit_job, write_texts

POISON = 41  # the number of the row that an encoder in a mood cannot bear
BLANK = {"doc": "blank", "text": " ", "lang": "xx"}
MOODY = """
import os, pathlib, resource, signal, threading
import numpy as np
from trigrams import embed as healthy

MOOD = pathlib.Path(__file__).with_name("mood")

if "RAY_RAYLET_PID" in os.environ and MOOD.exists() and MOOD.read_text() == "stillborn":
    MOOD.unlink()
    os.kill(os.getpid(), signal.SIGKILL)

def embed(texts):
    mood = MOOD.read_text().split() if MOOD.exists() else [""]
    if mood[0] == "slow":
        threading.Event().wait(float(mood[1]))
    elif any(text.endswith(" POISON") for text in texts):
        moods.get(mood[0], lambda: None)()
    return healthy(texts)

def raises():
    raise RuntimeError("the model does not like this row")

def grows():
    used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**26, limits[1]))
    try:
        np.ones(2**30, np.uint8)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)

def dies():
    os.kill(os.getpid(), signal.SIGKILL)

def hangs():
    threading.Event().wait(3600)

moods = {"raises": raises, "grows": grows, "dies": dies, "hangs": hangs}
"""


def job(executor: str = "inline", **resources: Any) -> dict[str, Any]:
    """Embed, hubness, whiten, hubness over two files of JSON lines with one blank text and one line that is no JSON."""
    embed = {"model": "callable:moody:embed", "resources": resources}
    written = audit_job(executor, embed=embed, before={"block_rows": 40}, hubness={"block_rows": 40})
    written["job"]["quarantine"] = {"max_rows": 5, "max_share": 0.1}
    written["input"]["shard_size"] = "1600B"
    return written


def furnish(home: Path, **changes: Any) -> None:
    """Write data, encoder and job file.

    Args:
        home: the folder.
        changes: arguments of `job`.
    """
    home.mkdir(parents=True, exist_ok=True)
    write_texts(home / "data/texts-0.jsonl", 0, 40)
    write_texts(home / "data/texts-1.jsonl", 40, 40)
    with (home / "data/texts-1.jsonl").open("a") as file:
        file.write(json.dumps(BLANK) + '\n{"doc": "broken", "text":\n')
    (home / "trigrams.py").write_text(ENCODER)
    (home / "moody.py").write_text(MOODY.replace("POISON", str(POISON)))
    (home / "job.toml").write_text(as_toml(job(**changes)))


def set_mood(home: Path, mood: str) -> None:
    """Give the encoder a mood: `raises`, `grows`, `dies` or `hangs` at the poisoned row, `stillborn`, `slow SECONDS`, or none."""
    path = home / "mood"
    path.write_text(mood) if mood else path.unlink(missing_ok=True)


def has_mood(home: Path) -> bool:
    """Whether the encoder is still in a mood; a stillborn one leaves it."""
    return (home / "mood").exists()


def as_toml(written: dict[str, Any]) -> str:
    """A job as its file."""
    lines = []
    for section in ("job", "input"):
        lines += [f"[{section}]", *_keys(written[section])]
    for stage in written["stage"]:
        lines += ["[[stage]]", *_keys(stage)]
    return "\n".join(lines) + "\n"


def _keys(table: dict[str, Any]) -> list[str]:
    return [f"{key} = {_value(value)}" for key, value in table.items()]


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(_keys(value)) + " }"
    return json.dumps(value)
