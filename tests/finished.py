"""A finished output for tests that look at one: run once, restored before each test, so that a test may damage it.

A test module asks for it with `pytest_plugins = ["finished"]`.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from conftest import ENCODER
from support import audit_job, write_texts

import kxbatch as kx

BLANK = {"doc": "blank", "text": "  ", "lang": "xx"}


@dataclass(frozen=True)
class Finished:
    """A folder with `data/`, the job, and its output in `out/audit`; the working folder of the test."""

    home: Path
    job: dict[str, Any]

    @property
    def output(self) -> Path:
        return self.home / "out/audit"

    def run(self, **kwargs: Any) -> Any:
        return kx.run(self.job, quiet=True, report=False, **kwargs)


def job() -> dict[str, Any]:
    """Embed (which keeps `lang`), hubness, whiten, hubness; one row of 121 is blank and set aside."""
    return audit_job(embed={"keep": ["lang"]})


@cache
def _built(base: Path) -> tuple[Path, str]:
    """The folder, and what went wrong, found out once."""
    home = base / "finished"
    home.mkdir()
    for number in range(3):
        write_texts(home / f"data/texts-{number}.jsonl", number * 40, 40)
    with (home / "data/texts-1.jsonl").open("a") as file:
        file.write(json.dumps(BLANK) + "\n")
    (home / "trigrams.py").write_text(ENCODER)
    before = Path.cwd()
    os.chdir(home)
    sys.path.insert(0, str(home))
    try:
        result = kx.run(job(), quiet=True)
    finally:
        os.chdir(before)
        sys.path.remove(str(home))
    shutil.copytree(home / "out", home / "pristine")
    return home, "" if result.exit_code == 0 else f"{result.message} {result.failures[:1]}"


@pytest.fixture
def finished(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Finished:
    """The output as the run left it."""
    home, problem = _built(tmp_path_factory.getbasetemp())
    assert not problem
    for path in home.iterdir():
        if path.name in ("data", "pristine", "trigrams.py", "__pycache__"):
            continue
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(home / "pristine", home / "out")
    monkeypatch.chdir(home)
    monkeypatch.syspath_prepend(str(home))
    return Finished(home, job())
