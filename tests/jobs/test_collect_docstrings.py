"""The docstring corpus: what becomes a row, what does not, and what a hostile package cannot do to it."""

from __future__ import annotations

import importlib.util
import inspect
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "jobs" / "collect_docstrings.py"

ZOO = '''
"""A package to collect from."""
import json
from json import dumps
from ._cage import Base, feed, feed as feed_again
from .deep.inner import walk

value = 3.5
registry = {}


class Animal(Base):
    """An animal of the zoo, with a docstring of its own."""

    def sleep(self):
        """Sleep through the night and half of the day.

        Then wake up:
            indented further.
        """

    @staticmethod
    def count():
        """How many animals there are in the zoo."""

    @classmethod
    def named(cls):
        """An animal made from a name alone, please."""

    @property
    def weight(self):
        """Weight of the animal in kilograms."""

    def tiny(self):
        """Short."""

    def eat(self, food=object()):
        pass

    def _private(self):
        """A private method that nobody should read."""

    alias = sleep


Animal.eat_later = Animal.eat


def located():
    pass


located.__doc__ = f"Written at import with an address: {object()} and no more."
'''

CAGE = '''
class Base:
    """The base of all animals, which is defined in private."""

    def eat(self):
        """Eat what the keeper has brought this morning."""


def feed():
    """Feed every animal in the order of its age."""


def twin_a():
    """The same words on two different functions."""


def twin_b():
    """The same words on two different functions."""
'''


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The job script as a module."""
    spec = importlib.util.spec_from_file_location("collect_docstrings_under_test", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of importable packages: `zoo` is well behaved, the others are not."""
    files = {
        "zoo/__init__.py": ZOO,
        "zoo/_cage.py": CAGE,
        "zoo/twins.py": "from ._cage import twin_a, twin_b\n",
        "zoo/deep/__init__.py": "",
        "zoo/deep/inner.py": 'def walk():\n    """Walk along the fence until the sun goes down."""\n',
        "zoo/broken.py": "raise SystemExit(9)\n",
        "zoo/missing.py": "import a_module_that_nobody_has\n",
        "zoo/online.py": "import socket\nsocket.create_connection(('192.0.2.1', 80), timeout=30)\n",
        "zoo/loud.py": "import warnings\nprint('noise')\nwarnings.warn('more noise')\n",
        "zoo/test_animals.py": 'raise RuntimeError("tests are not imported")\n',
        "zoo/__main__.py": 'raise RuntimeError("programs are not imported")\n',
        "zoo/conftest.py": 'raise RuntimeError("test settings are not imported")\n',
        "crasher/__init__.py": "import os\nos._exit(0)\n",
        "sleeper/__init__.py": "import time\ntime.sleep(600)\n",
        "silent/__init__.py": "x = 1\n",
    }
    for name, content in files.items():
        path = tmp_path / "library" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "library"))
    return tmp_path / "library"


def read(path: Path) -> dict[str, dict[str, str]]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len({row["id"] for row in rows}) == len(rows)
    assert [row["id"] for row in rows] == sorted(row["id"] for row in rows)
    return {row["id"]: row for row in rows}


@pytest.mark.usefixtures("library")
def test_a_row_is_an_object_under_its_shortest_public_name(collector: ModuleType, tmp_path: Path) -> None:
    line = collector.collect(["zoo"], 1000, tmp_path / "rows.jsonl")
    rows = read(tmp_path / "rows.jsonl")
    assert set(rows) == {
        "zoo:Animal",
        "zoo:Animal.alias",
        "zoo:Animal.count",
        "zoo:Animal.named",
        "zoo:Animal.weight",
        "zoo:Base",
        "zoo:Base.eat",
        "zoo:feed",
        "zoo:located",
        "zoo:walk",
        "zoo.twins:twin_a",
        "zoo.twins:twin_b",
    }
    assert rows["zoo.twins:twin_a"]["text"] == rows["zoo.twins:twin_b"]["text"]
    assert rows["zoo:Animal.alias"] == {
        "id": "zoo:Animal.alias",
        "package": "zoo",
        "module": "zoo",
        "name": "Animal.alias",
        "text": "Sleep through the night and half of the day.\n\nThen wake up:\n    indented further.",
    }
    assert rows["zoo:located"]["text"] == "Written at import with an address: <object object> and no more."
    assert line.startswith("12 rows of 12 from 1 packages")
    assert "under 20 characters: 1," in line
    assert "do not import: 3," in line  # SystemExit, a missing module, and the one that wants the network


@pytest.mark.usefixtures("library")
def test_packages_that_crash_or_hang_are_named_and_the_rest_is_kept(
    collector: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collector, "PACKAGE_SECONDS", 5)
    line = collector.collect(["crasher", "sleeper", "zoo"], 1000, tmp_path / "rows.jsonl")
    assert {row["package"] for row in read(tmp_path / "rows.jsonl").values()} == {"zoo"}
    assert line.endswith("packages lost: crasher, sleeper)")


@pytest.mark.usefixtures("library")
def test_nothing_found_is_an_error_and_writes_nothing(collector: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no docstring found in: silent"):
        collector.collect(["silent"], 10, tmp_path / "rows.jsonl")
    assert not (tmp_path / "rows.jsonl").exists()


def test_real_packages_twice_give_the_same_bytes_and_their_own_words(tmp_path: Path) -> None:
    import click

    outputs = [tmp_path / "a.jsonl", tmp_path / "new" / "b.jsonl"]
    for output in outputs:
        command = [sys.executable, str(SCRIPT), "--output", str(output)]
        done = subprocess.run(
            [*command, "--package", "click", "--package", "numpy", "--package", "jinja2"],
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.count("\n") == 1
        assert str(output) in done.stdout
    assert outputs[0].read_bytes() == outputs[1].read_bytes()
    rows = read(outputs[0])
    assert rows["click:echo"]["text"] == inspect.cleandoc(click.echo.__doc__ or "")
    assert rows["click:Command.invoke"]["text"] == inspect.cleandoc(click.Command.invoke.__doc__ or "")
    assert {"numpy:mean", "numpy:add", "numpy:ndarray.reshape", "numpy.linalg:norm"} <= set(rows)
    assert list(tmp_path.rglob("*.tmp")) == []


def test_a_sample_keeps_its_rows_when_others_come(collector: ModuleType) -> None:
    rows = [{"id": f"m:f{i}", "text": "t"} for i in range(300)]
    few = {row["id"] for row in collector.sample(rows[:200], 50)}
    many = {row["id"] for row in collector.sample(rows, 50)}
    assert len(few) == len(many) == 50
    assert many - few <= {row["id"] for row in rows[200:]}  # only new rows push old ones out
    assert collector.sample(rows, 1000) == sorted(rows, key=lambda row: row["id"])


def test_a_package_that_is_not_installed_is_refused_by_name(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--output", str(tmp_path / "x"), "--package", "no_such_thing"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no_such_thing" in done.stderr
