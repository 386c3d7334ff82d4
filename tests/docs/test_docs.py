"""What README and docs say holds: links, job files, commands, examples; and the Chinese README keeps up with the English one."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import click
import numpy as np
import polars as pl
import pytest

import kxbatch as kx
import kxbatch.stages
from kxbatch.cli import VERBS, cli
from kxbatch.spec.load import parse_job
from kxbatch.stages.registry import config_types, stage_types

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "README.zh.md", *sorted((ROOT / "docs").glob("*.md"))]
IDS = [page.name for page in PAGES]
FENCE = re.compile(r"^```(?P<info>.*?)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^(#+) (.+)$", re.MULTILINE)
TABLE_RULE = re.compile(r"^\|[ |:-]+\|$", re.MULTILINE)
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*|(?<![\w-])-[a-z](?![\w-])")
PLACEHOLDER = re.compile(r"[A-Z]+")


@dataclass(frozen=True)
class Block:
    """A fenced block: language, further words of its first line, content."""

    language: str
    marks: tuple[str, ...]
    code: str


def text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, language: str = "") -> list[Block]:
    found = []
    for match in FENCE.finditer(text(page)):
        words = match["info"].split()
        assert words, f"{page.name}: a fenced block without a language"
        found.append(Block(words[0], tuple(words[1:]), match["code"]))
    return [block for block in found if language in ("", block.language)]


def prose(page: Path) -> str:
    return FENCE.sub("", text(page))


def anchors(page: Path) -> set[str]:
    """Anchors of headings, made as code hosts make them: lower case, punctuation gone, hyphens for spaces."""
    names = [match[2].strip().lower() for match in HEADING.finditer(prose(page))]
    return {re.sub(r"[^\w\- ]", "", name).replace(" ", "-") for name in names}


def whole_job(raw: dict[str, Any]) -> dict[str, Any]:
    """A job file as it is, or a fragment of one completed with what a job needs."""
    return {"job": {"name": "x", "output": "out/x"}, "input": {"path": "data"}, "stage": [{"kind": "whiten"}]} | raw


def command(words: list[str]) -> tuple[click.Command, list[str]]:
    """The verb that words after `kxbatch` mean, subcommands followed, and its arguments."""
    if words[0].startswith("-"):
        return cli, words
    assert words[0] in VERBS, f"kxbatch {words[0]}: no such verb"
    found = cli.get_command(click.Context(cli), words[0])
    assert found is not None
    if isinstance(found, click.Group) and len(words) > 1:
        assert words[1] in children(found), f"kxbatch {words[0]} {words[1]}: no such verb"
        return children(found)[words[1]], words[2:]
    return found, words[1:]


def children(group: click.Group) -> dict[str, click.Command]:
    """The subcommands, those too that are loaded when they are asked for."""
    context = click.Context(group)
    found = {name: group.get_command(context, name) for name in group.list_commands(context)}
    return {name: child for name, child in found.items() if child is not None}


def options(found: click.Command) -> set[str]:
    own = {name for parameter in found.params for name in parameter.opts}
    inner = children(found).values() if isinstance(found, click.Group) else ()
    return own.union({"--help", "-h"}, *(options(child) for child in inner))


def console_lines(page: Path) -> Iterator[str]:
    for block in blocks(page, "console"):
        yield from (line.removeprefix("$ ") for line in block.code.splitlines() if line.startswith("$ "))


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_relative_links_and_anchors_resolve(page: Path) -> None:
    for target in LINK.findall(prose(page)):
        path, _, anchor = target.partition("#")
        assert "://" not in target, f"{page.name}: {target} leads away; the pages stand on their own"
        file = (page.parent / unquote(path)).resolve() if path else page
        assert file.exists(), f"{page.name}: no file {target}"
        assert not anchor or unquote(anchor) in anchors(file), f"{page.name}: no heading for {target}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    for readme in PAGES[:2]:
        linked = {target.partition("#")[0] for target in LINK.findall(prose(readme))}
        assert {f"docs/{page.name}" for page in PAGES[2:]} <= linked


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_job_files_are_valid(page: Path, example_stage: None) -> None:
    for block in blocks(page, "toml"):
        parse_job(whole_job(tomllib.loads(block.code)), config_types(), origin=page.name)


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_commands_in_consoles_can_be_typed(page: Path) -> None:
    for line in console_lines(page):
        words = shlex.split(line.partition(" > ")[0], comments=True)
        if words[0] == "kxbatch":
            found, arguments = command(words[1:])
            context = found.make_context(found.name, list(arguments))
            assert context.params.keys() >= {parameter.name for parameter in found.params}, line
        elif words[0] == "make":
            assert re.search(rf"^{words[1]}:", text(ROOT / "Makefile"), re.MULTILINE), f"no make target {words[1]}"
        else:
            assert words[:2] == ["python", "-m"], f"{page.name}: {line}"
            assert importlib.util.find_spec(words[2]), f"{page.name}: no module {words[2]}"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_verbs_and_options_in_the_text_exist(page: Path) -> None:
    known = set().union(*(options(command([verb])[0]) for verb in VERBS))
    for code in re.findall(r"`([^`\n]+)`", prose(page)):
        words = code.split()
        if words[0] == "kxbatch" and len(words) > 1:
            found, arguments = command([word.rstrip(",") for word in words[1:] if not PLACEHOLDER.fullmatch(word)])
            for option in OPTION.findall(" ".join(arguments)):
                assert option in options(found), f"{page.name}: `{code}`: no option {option}"
        elif words[0].startswith("-"):
            assert words[0].partition("=")[0] in known, f"{page.name}: no verb has the option {words[0]}"


@pytest.mark.parametrize("readme", PAGES[:2], ids=IDS[:2])
def test_the_readme_names_every_verb(readme: Path) -> None:
    named = re.findall(r"`kxbatch ([a-z]+)", prose(readme))
    assert set(named) == set(VERBS)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any("runnable" in b.marks for b in blocks(page))], ids=lambda p: p.name
)
def test_runnable_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    for block in blocks(page, "python"):
        if "runnable" in block.marks:
            exec(compile(block.code, f"{page.name}: {block.code[:40]!r}", "exec"), namespace)
    assert namespace


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_python_blocks_are_python(page: Path) -> None:
    for block in blocks(page, "python"):
        compile(block.code, page.name, "exec")


@pytest.fixture
def example_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The stage of docs/extending.md as a file among the stages, found by the registry like any other."""
    source = next(
        b.code for b in blocks(ROOT / "docs/extending.md", "python") if b.code.startswith("# kxbatch/stages/")
    )
    name = Path(source.splitlines()[0].removeprefix("# ")).stem
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / f"{name}.py").write_text(source, encoding="utf-8")
    monkeypatch.setattr(kxbatch.stages, "__path__", [*kxbatch.stages.__path__, str(tmp_path / "stages")])
    stage_types.cache_clear()
    yield
    sys.modules.pop(f"kxbatch.stages.{name}", None)
    vars(kxbatch.stages).pop(name, None)
    stage_types.cache_clear()


def test_the_example_stage_runs_as_a_job(example_stage: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    x = np.random.default_rng(0).standard_normal((60, 20), dtype=np.float32)
    x[3] = np.inf
    Path("vectors").mkdir()
    pl.DataFrame({"v": x}).write_parquet("vectors/v.parquet")
    (block,) = blocks(ROOT / "docs/extending.md", "toml")
    job = tomllib.loads(block.code)
    job["job"]["quarantine"] = {"max_share": 0.1}
    result = kx.run(job, quiet=True)
    assert (result.exit_code, result.stages[0].rows_out, result.stages[0].rows_quarantined) == (0, 59, 1), (
        result.message
    )
    frame = kx.open("out/codes").scan().collect()
    codes = np.frombuffer(b"".join(frame["signs"]), np.uint8).reshape(59, 3)
    np.testing.assert_array_equal(np.unpackbits(codes, axis=1)[:, :20], np.delete(x, 3, axis=0) > 0.5)
    assert kx.run(job, quiet=True).status == "unchanged"


def test_the_test_of_the_example_stage_passes(example_stage: None) -> None:
    source = next(b.code for b in blocks(ROOT / "docs/extending.md", "python") if b.code.startswith("# tests/stages/"))
    namespace: dict[str, Any] = {}
    exec(compile(source, "docs/extending.md", "exec"), namespace)
    tests = [value for name, value in namespace.items() if name.startswith("test_")]
    assert tests
    for test in tests:
        test()


def test_the_chinese_readme_keeps_up() -> None:
    english, chinese = PAGES[:2]
    assert [m[1] for m in HEADING.finditer(prose(chinese))] == [m[1] for m in HEADING.finditer(prose(english))]
    assert blocks(chinese) == blocks(english)
    assert len(TABLE_RULE.findall(prose(chinese))) == len(TABLE_RULE.findall(prose(english)))
    rows = [len(re.findall(r"^\|.*\|$", prose(page), re.MULTILINE)) for page in (english, chinese)]
    assert rows[0] == rows[1]
    bullets = [len(re.findall(r"^- ", prose(page), re.MULTILINE)) for page in (english, chinese)]
    assert bullets[0] == bullets[1]
    assert re.findall(r"<!-- .*? -->", text(chinese)) == re.findall(r"<!-- .*? -->", text(english))
    targets = [
        sorted(t.partition("#")[0] for t in LINK.findall(prose(page)) if "README" not in t)
        for page in (english, chinese)
    ]
    assert targets[0] == targets[1]


def test_pictures_are_small_enough_for_a_page() -> None:
    for picture in (ROOT / "docs").glob("*.png"):
        assert picture.stat().st_size < 400_000, f"{picture.name} is over 400 kB"
