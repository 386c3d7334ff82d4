"""`kxbatch kg`: builds graphs from files as they come, and changes them without building them again."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from click.testing import CliRunner, Result
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kxbatch.cli import cli
from kxbatch.errors import ConfigError, DataError, LeaseHeld
from kxbatch.models.graph import Fact, Graph
from kxbatch.models.graph.changes import Change
from kxbatch.models.graph.journal import JOURNAL, append_changes, locked, read_journal
from kxbatch.models.graph.opening import graph_digest

TSV = '长城\t长度\t21196\n长城\t高度\t8\n水星（行星）\t卫星\t0\n"引\tp\to"\n'
HEAVY = ("numpy", "pyarrow", "polars", "torch", "ray", "numba", "pydantic", "tokenizers")


def invoke(*words: str) -> Result:
    """A verb in this process; an exception passes through."""
    return CliRunner().invoke(cli, ["kg", *words], catch_exceptions=False)


def told(*words: str) -> Any:
    """What a verb prints with `--json`."""
    return json.loads(invoke(*words, "--json").stdout)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph that nobody changes."""
    home = tmp_path_factory.mktemp("kg")
    (home / "t.tsv").write_text(TSV, encoding="utf-8")
    done = invoke("build", str(home / "t.tsv"), "--no-header", "--output", str(home / "out"), "-q")
    assert done.exit_code == 0, done.output
    return home / "out"


@pytest.fixture
def graph(built: Path, workplace: Path) -> str:
    """A graph of one's own."""
    shutil.copytree(built, "graph")
    return "graph"


def said(graph: str, subject: str, predicate: str, meaning: str = "") -> list[Fact]:
    opened = Graph.open(Path(graph))
    number = opened.find([subject], [predicate], [meaning])
    return opened.facts(number)[0] if number[0] >= 0 else []


FILES = {
    "a.tsv": (("--no-header",), TSV),
    "a.nt": (
        (),
        "".join(f'<http://x/{s}> <http://x/p#{p}> "{o}" .\n' for s, p, o in [("a", "b", "c"), ("d", "e", "f")]),
    ),
    "a.csv": ((), 'subject,predicate,object\n"a,b",c,"007"\n'),
    "a.jsonl": (
        ("--columns", "s,p,o,m"),
        '{"s": "a（b）", "p": "c", "o": 7, "m": "d"}\n{"s": "a", "p": "c", "o": 8}\n',
    ),
    "a.txt": (("--format", "tsv", "--no-header", "--order", "smp", "--keep-brackets"), TSV),
}


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize("name", FILES)
def test_files_of_every_kind_become_the_graph_of_their_rows(name: str) -> None:
    options, content = FILES[name]
    Path(name).write_text(content, encoding="utf-8")
    facts = told("build", name, "--output", "out", "-q", *options)
    graph = Graph.open(Path("out"))
    assert (facts["status"], facts["graph"]["keys"]) == ("done", len(graph))
    assert Path(facts["artifact"]) == Path("out/graph/_artifact").resolve()
    wanted = {
        "a.tsv": ("水星", "卫星", "行星", "0"), "a.nt": ("a", "b", "", "c"), "a.csv": ("a,b", "c", "", "007"),
        "a.jsonl": ("a（b）", "c", "d", "7"), "a.txt": ("水星（行星）", "卫星", "", "0"),
    }[name]  # fmt: skip
    assert said("out", *wanted[:3]) == [Fact(*wanted[:3], (wanted[3],))]


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_a_column_of_meanings_is_used_unless_other_columns_are_named(ending: str) -> None:
    rows = {
        "subject": ["a", "a", "b（x）"],
        "predicate": ["p"] * 3,
        "object": ["1", "2", "3"],
        "meaning": ["m", "n", None],
    }
    frame = pl.DataFrame(rows)
    frame.write_ndjson("t.jsonl") if ending == "jsonl" else frame.write_csv("t.csv")
    assert told("build", f"t.{ending}", "--output", "out", "-q")["graph"]["keys"] == 3
    assert said("out", "a", "p", "n") == [Fact("a", "p", "n", ("2",))]
    assert said("out", "b（x）", "p") == [Fact("b（x）", "p", "", ("3",))]
    words = ("build", f"t.{ending}", "--output", "other", "--columns", "subject,predicate,object", "-q")
    assert told(*words)["graph"]["keys"] == 2
    assert said("other", "a", "p") == [Fact("a", "p", "", ("1", "2"))]


@pytest.mark.usefixtures("workplace")
def test_what_was_built_is_told_and_bad_rows_are_set_aside() -> None:
    Path("t.tsv").write_text(TSV + "bad\n\tp\to\n", encoding="utf-8")
    words = ("build", "t.tsv", "--no-header", "--output", "out", "-q")
    assert "over job.quarantine.max_share" in told(*words)["message"]
    done = invoke(*words, "--set", "job.quarantine.max_share=1")
    assert done.exit_code == 0
    assert "graph: " in done.output
    [stage] = told(*words, "--set", "job.quarantine.max_share=1")["stages"]
    assert (stage["rows_in"], stage["rows_out"], stage["rows_quarantined"]) == (6, 4, 2)
    assert told(*words, "--set", "job.quarantine.max_share=1")["status"] == "unchanged"
    assert invoke("build", "t.tsv", "--columns", "s,p", "--output", "out").exit_code == 2


@pytest.mark.usefixtures("workplace")
def test_facts_of_a_file_that_is_gone_are_gone_when_the_graph_is_built_again() -> None:
    Path("data").mkdir()
    for name in "ab":
        Path(f"data/{name}.tsv").write_text(f"{name}\tp\to\n")
    words = ("build", "data", "--no-header", "--output", "out", "-q")
    assert told(*words)["graph"]["keys"] == 2
    Path("data/b.tsv").unlink()
    facts = told(*words)
    assert (facts["status"], facts["graph"]["keys"], said("out", "b", "p")) == ("done", 1, [])


def test_an_added_fact_is_there_at_once_and_a_deleted_one_gone(graph: str) -> None:
    before = Graph.open(Path(graph)).digest
    facts = told("add", graph, "--subject", "长江", "--predicate", "长度", "--object", "6300")
    assert (facts["changes"], facts["keys"]) == (1, 5)
    assert said(graph, "长江", "长度") == [Fact("长江", "长度", "", ("6300",))]
    assert facts["digest"] == Graph.open(Path(graph)).digest != before
    assert invoke("add", graph, "--subject", "长城", "--predicate", "长度", "--object", "8851").exit_code == 0
    assert said(graph, "长城", "长度")[0].objects == ("21196", "8851")
    told("delete", graph, "--subject", "长城", "--predicate", "长度", "--object", "21196")
    assert said(graph, "长城", "长度")[0].objects == ("8851",)
    told("delete", graph, "--subject", "水星（行星）", "--predicate", "卫星")
    assert said(graph, "水星", "卫星", "行星") == []
    told("add", graph, "--subject", "水星", "--meaning", "行星", "--predicate", "卫星", "--object", "none")
    assert said(graph, "水星", "卫星", "行星")[0].objects == ("none",)


def test_changes_stay_when_the_graph_is_built_again(built: Path, graph: str) -> None:
    invoke("delete", graph, "--subject", "长城", "--predicate", "高度")
    invoke("add", graph, "--subject", "新", "--predicate", "p", "--object", "o")
    Path("more.tsv").write_text("又\tp\to\n", encoding="utf-8")
    source = str(built.parent / "t.tsv")
    assert invoke("build", source, "more.tsv", "--no-header", "--output", graph, "-q").exit_code == 0
    assert said(graph, "长城", "高度") == []
    assert said(graph, "新", "p")
    assert said(graph, "又", "p")
    Path("less.tsv").write_text("又\tp\to\n", encoding="utf-8")
    assert invoke("build", "less.tsv", "--no-header", "--output", graph, "-q").exit_code == 0
    assert len(Graph.open(Path(graph))) == 2  # the key that was deleted is in no file any more


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--subject", "长城", "--predicate", "宽度"), "no fact 长城 / 宽度 in the graph; nearest: '长城 / "),
        (("--subject", "长城", "--predicate", "长度", "--object", "2119"), "did you mean '21196'"),
        (("--subject", "黄河", "--predicate", "长度"), "no fact 黄河 / 长度 in the graph; nothing was changed"),
    ],
)
def test_deleting_what_is_not_there_is_refused_and_nothing_is_written(
    graph: str, words: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError) as error:
        invoke("delete", graph, *words)
    assert message in str(error.value)
    assert error.value.exit_code == 2
    assert not (Path(graph) / "graph" / JOURNAL).exists()


def test_a_file_of_facts_is_added_as_one_or_not_at_all(graph: str) -> None:
    Path("facts.tsv").write_text("a\tp\t1\r\n\nb（m）\tp\t2\nb\tp\t3\tn\n", encoding="utf-8")
    assert told("add", graph, "--from", "facts.tsv")["changes"] == 3
    assert said(graph, "b", "p", "m")[0].objects == ("2",)
    assert said(graph, "b", "p", "n")[0].objects == ("3",)
    Path("facts.jsonl").write_text(
        '{"subject": "a", "predicate": "p"}\n{"subject": "b", "predicate": "p", "meaning": "m"}\n'
    )
    assert told("delete", graph, "--from", "facts.jsonl")["keys"] == 5
    assert said(graph, "a", "p") == []
    Path("bom.tsv").write_text("\ufeffc\tp\t1\n", encoding="utf-8")
    assert told("add", graph, "--from", "bom.tsv")["keys"] == 6
    assert said(graph, "c", "p")
    journal = (Path(graph) / "graph" / JOURNAL).read_bytes()
    for name, content, message in (
        ("x.tsv", "a\tp\t1\nb\tp\n", "x.tsv, line 2: b / p is to be added without an object"),
        ("x.tsv", "a\n", "x.tsv, line 1: 1 fields"),
        ("x.tsv", "a\t \tb\n", "the predicate ' ' is blank"),
        ("x.jsonl", '{"subject": "\\ud800", "predicate": "p", "object": "o"}\n', "no Unicode text"),
        ("x.jsonl", "{\n", "x.jsonl, line 1: no JSON"),
        ("x.jsonl", '{"subjekt": "a"}\n', "called 'subjekt'; did you mean 'subject'"),
        ("x.jsonl", '{"subject": "a", "predicate": "p", "object": 3}\n', "object is 3, write it as text"),
    ):
        Path(name).write_text(content)
        with pytest.raises(ConfigError, match=message):
            invoke("add", graph, "--from", name)
    assert (Path(graph) / "graph" / JOURNAL).read_bytes() == journal


def test_what_is_missing_on_the_command_line_is_named(graph: str) -> None:
    assert "missing --predicate, --object" in invoke("add", graph, "--subject", "a").output
    assert "either --from FILE" in invoke("delete", graph, "--subject", "a", "--from", "x.tsv").output
    with pytest.raises(ConfigError, match="no graph in here"):
        invoke("add", ".", "--subject", "a", "--predicate", "b", "--object", "c")


def test_one_process_changes_a_graph_at_a_time(graph: str) -> None:
    with locked(Path(graph) / "graph"), pytest.raises(LeaseHeld, match="another process is changing this graph"):
        invoke("add", graph, "--subject", "a", "--predicate", "b", "--object", "c")
    assert invoke("add", graph, "--subject", "a", "--predicate", "b", "--object", "c").exit_code == 0


def test_a_line_that_was_not_finished_is_no_change_and_the_next_writer_takes_it_away(graph: str) -> None:
    journal = Path(graph) / "graph" / JOURNAL
    append_changes(journal, [Change("add", "a", "b", "", "c")])
    whole = journal.read_bytes()
    for cut in (1, len(whole) // 2, len(whole) - 1):
        journal.write_bytes(whole + whole[:cut])
        assert read_journal(journal) == [Change("add", "a", "b", "", "c")]
    append_changes(journal, [Change("delete", "a", "b")])
    assert [change.change for change in read_journal(journal)] == ["add", "delete"]


def test_a_call_that_was_not_finished_changed_nothing(graph: str) -> None:
    journal, before = Path(graph) / "graph" / JOURNAL, (Graph.open(Path(graph)).digest, graph_digest(Path(graph)))
    made = [Change("delete", "长城", "长度"), Change("add", "长城", "长度", "", "1"), Change("add", "a", "b", "", "c")]
    append_changes(journal, made)
    whole, after = journal.read_bytes(), Graph.open(Path(graph)).digest
    for cut in range(0, len(whole), 9):  # the first line alone would have lost a fact
        journal.write_bytes(whole[:cut])
        assert (Graph.open(Path(graph)).digest, graph_digest(Path(graph))) == before
    append_changes(journal, made)
    assert (journal.read_bytes(), Graph.open(Path(graph)).digest) == (whole, after)


def test_a_damaged_line_is_refused_by_its_number(graph: str) -> None:
    journal = Path(graph) / "graph" / JOURNAL
    append_changes(journal, [Change("add", "a", "b", "", "c"), Change("add", "d", "e", "", "f")])
    whole = journal.read_bytes()
    for at in range(0, len(whole) - 1, 7):  # without its end the last line is one that was not finished
        flipped = bytearray(whole)
        flipped[at] ^= 1
        journal.write_bytes(flipped)
        with pytest.raises(DataError, match=r"changes\.jsonl, line [12]: damaged"):
            Graph.open(Path(graph))


CHANGES = st.builds(
    Change, st.sampled_from(["add", "delete"]), *[st.text(min_size=1, max_size=3)] * 3, st.text(min_size=1, max_size=3)
).filter(lambda change: change.fault() is None)


@settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(CHANGES, max_size=5), st.lists(CHANGES, max_size=3))
def test_a_journal_gives_back_what_was_written(tmp_path: Path, first: list[Change], second: list[Change]) -> None:
    file = tmp_path / JOURNAL
    file.unlink(missing_ok=True)
    append_changes(file, first)
    append_changes(file, second)
    assert read_journal(file) == first + second


def test_help_imports_nothing_heavy() -> None:
    script = "import sys\nfrom kxbatch.cli import cli\ntry: cli(['kg', '--help'])\nexcept SystemExit: pass\n"
    script += f"print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "build   Build a graph from triples." in done.stdout
    assert done.stdout.strip().endswith("[]")
    assert "did you mean 'build'" in invoke("biuld").output
