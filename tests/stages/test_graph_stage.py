"""The graph stage: the same bytes for every cut and order of rows, bad rows set aside, damage refused."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import kxbatch as kx
from kxbatch.data.quarantine import read_quarantine
from kxbatch.data.storage import Folder
from kxbatch.engine.verify import verify
from kxbatch.errors import ConfigError, DataError
from kxbatch.models.graph import Fact, Graph, GraphTokenizer
from kxbatch.models.graph.vocabulary import count_pools

Triple = tuple[str | None, str | None, str | None]
SIMPLE: list[Triple] = [
    ("长城", "长度", "21196"),
    ("水星（行星）", "卫星", "0"),
    ("ABC", "p", "x"),
    ("ａｂｃ", "P", "y"),
]
FILES = ("trie.safetensors", "facts.safetensors", "tokenizer.json", "graph.json")


def rows_of(count: int) -> list[Triple]:
    draw = random.Random(7)
    names = ["长城", "长江", "水星（行星）", "水星", "ＡＢＣ", "abc", "😀", "Ａ b", "a（b（c）d）", "龘"]
    made = [
        (draw.choice(names) + draw.choice("甲乙丙"), f"属性{draw.randint(0, 9)}", f"值{draw.randint(0, 99)}")
        for _ in range(count)
    ]
    return made + made[:20]


def write(path: Path, rows: list[Triple]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = [[row[i] for row in rows] for i in range(3)]
    pq.write_table(pa.table([pa.array(c, pa.string()) for c in columns], ["subject", "predicate", "object"]), path)


def job(output: str = "out", executor: str = "inline", source: Any = "data", **stage: Any) -> dict[str, Any]:
    budget = {"max_share": 1.0}
    return {
        "job": {"name": "graph", "output": output, "executor": executor, "quarantine": budget},
        "input": {"path": source},
        "stage": [{"kind": "graph"} | stage],
    }


def run(made: dict[str, Any]) -> Any:
    result = kx.run(made, quiet=True, report=False)
    assert result.exit_code == 0, result.message
    return result


def artifact(output: str = "out") -> Path:
    return Path(output) / "graph/_artifact"


def about(output: str = "out") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((artifact(output) / "graph.json").read_text())
    return found


def built(rows: list[Triple], output: str = "out", **stage: Any) -> Graph:
    write(Path("data/a.parquet"), rows)
    run(job(output, **stage))
    return Graph.open(Path(output))


@pytest.mark.usefixtures("workplace")
def test_cuts_and_order_of_rows_change_no_byte() -> None:
    rows, seen = rows_of(600), set()
    for shards in (1, 3, 7):
        random.Random(shards).shuffle(rows)
        for i in range(shards):
            write(Path(f"data-{shards}/part-{i}.parquet"), rows[i::shards])
        run(job(f"out-{shards}", source=f"data-{shards}"))
        seen.add(tuple((artifact(f"out-{shards}") / name).read_bytes() for name in FILES))
    assert len(seen) == 1
    graph, whole = Graph.open(Path("out-3")), Graph.of([row for row in rows if all(row)])
    columns = [["水星甲"], ["属性1"], [""]]
    assert len(graph) == len(whole) == about("out-3")["keys"]
    assert graph.facts(np.arange(len(graph))) == whole.facts(np.arange(len(whole)))
    assert graph.facts(graph.find(*columns)) == whole.facts(whole.find(*columns))


@pytest.mark.usefixtures("workplace", "ray_session")
def test_two_workers_write_the_bytes_of_one() -> None:
    rows = rows_of(300)
    for i in range(4):
        write(Path(f"data/part-{i}.parquet"), rows[i::4])
    run(job("out"))
    run(job("other", executor="ray"))
    for name in FILES:
        assert (artifact("out") / name).read_bytes() == (artifact("other") / name).read_bytes()


@pytest.mark.usefixtures("workplace")
def test_what_is_built_says_how_much_there_is() -> None:
    graph = built([*SIMPLE, ("长城", "长度", "8851"), SIMPLE[0]])
    found = about()
    wanted = {
        "rows": 6, "triples": 5, "duplicates": 1, "keys": 3, "subjects": 3, "predicates": 3, "meanings": 1, "objects": 5,
        "keys_with_several_objects": 2, "keys_with_several_spellings": 1, "order": "spm", "splits_meaning": True,
        "several_spellings": [[["ABC", "p"], ["ａｂｃ", "P"]]],
    }  # fmt: skip
    assert wanted.items() <= found.items()
    assert found["tokenizer_digest"] == graph.tokenizer.digest
    assert found["bytes_per_key"] == round(graph.trie.base.nbytes / 3, 2)
    assert not (artifact() / "state.safetensors").exists()


BAD: list[tuple[Triple, str]] = [
    ((None, "p", "o"), "null-subject"),
    (("s", None, "o"), "null-predicate"),
    (("s", "p", None), "null-object"),
    (("\u3000", "p", "o"), "blank-subject"),
    (("s", "", "o"), "blank-predicate"),
    (("s", "p", " "), "blank-object"),
    (("a\tb", "p", "o"), "line-break-subject"),
    (("s", "p", "o\u2028"), "line-break-object"),
    (("s（m\n）", "p", "o"), "line-break-meaning"),
    (("s", "p[sep]", "o"), "separator-predicate"),
    (("s（[SEP]）", "p", "o"), "separator-meaning"),
]


@pytest.mark.usefixtures("workplace")
def test_rows_that_can_be_no_facts_are_set_aside_with_a_reason() -> None:
    rows = [row for bad, _ in BAD for row in (bad, ("gut", "p", "[SEP]"))]
    graph = built(rows)
    assert graph.facts(np.arange(len(graph))) == [[Fact("gut", "p", "", ("[SEP]",))]]
    aside = read_quarantine(Folder(str(Path("out/graph").resolve())))
    assert aside["error"].to_pylist() == [error for _, error in BAD]
    assert aside["row"].to_pylist() == list(range(0, 2 * len(BAD), 2))
    assert aside["raw"].to_pylist()[1] == "s\tNone\t\to"
    [record] = json.loads(Path("out/run.json").read_text())["stages"]
    assert (record["rows_in"], record["rows_out"], record["rows_quarantined"]) == (22, 11, 11)
    assert not verify("out").defects


@pytest.mark.usefixtures("workplace")
def test_a_graph_without_a_fact_is_refused() -> None:
    write(Path("data/a.parquet"), [("a", "b", None)])
    result = kx.run(job(), quiet=True, report=False)
    assert result.exit_code == 3
    assert "an empty graph" in result.message


@pytest.mark.usefixtures("workplace")
def test_rows_that_come_later_are_in_it_and_rows_that_go_are_not() -> None:
    before = built(SIMPLE)
    write(Path("data/b.parquet"), [("新", "p", "o")])
    run(job())
    after = Graph.open(Path("out"))
    assert (len(after), after.find(["新"], ["p"], [""]).min() >= 0) == (len(before) + 1, True)
    assert kx.run(job(), quiet=True, report=False).status == "unchanged"
    write(Path("data/b.parquet"), [("旧", "p", "o")])
    run(job())
    assert Graph.open(Path("out")).find(["新"], ["p"], [""]).tolist() == [-1]
    Path("data/b.parquet").unlink()
    made = job()
    made["input"]["removed"] = "drop"
    assert run(made).status == "done"  # no shard was read, and yet the graph is another one
    assert Graph.open(Path("out")).find(["旧"], ["p"], [""]).tolist() == [-1]


@pytest.mark.usefixtures("workplace")
def test_another_order_is_fitted_without_reading_rows_again() -> None:
    built(SIMPLE)
    result = run(job(order="smp", vocabulary=300))
    assert [unit["reused"] for unit in result.stages[0].units] == [True]
    graph = Graph.open(Path("out"))
    assert (graph.order, graph.tokenizer.vocabulary <= 300) == ("smp", True)
    assert graph.find(["水星"], ["卫星"], ["行星"]).min() >= 0


@pytest.mark.usefixtures("workplace")
def test_a_graph_that_is_built_again_keeps_its_own_vocabulary() -> None:
    before = built(SIMPLE).tokenizer
    assert (about()["own_vocabulary"], about()["characters_in_bytes"]) == (16_000, 0)
    write(Path("data/b.parquet"), [("龘é", "p", "o")])
    run(job())
    graph = Graph.open(Path("out"))
    assert (graph.tokenizer.digest, about()["characters_in_bytes"]) == (before.digest, 2)
    assert graph.facts(graph.find(["龘é"], ["p"], [""])) == [[Fact("龘é", "p", "", ("o",))]]
    run(job(order="smp"))
    assert Graph.open(Path("out")).tokenizer.digest == before.digest
    run(job(vocabulary=9_000))  # another vocabulary is asked for
    anew = Graph.open(Path("out")).tokenizer
    assert (about()["characters_in_bytes"], anew.vocabulary) == (0, before.vocabulary + 2)
    Path("own.json").write_text(json.dumps(before.to_json()))
    run(job(tokenizer="own.json"))
    assert (about()["own_vocabulary"], Graph.open(Path("out")).tokenizer.digest) == (None, before.digest)
    run(job())
    assert Graph.open(Path("out")).tokenizer.digest == anew.digest


@pytest.mark.usefixtures("workplace")
def test_a_trial_leaves_no_vocabulary() -> None:
    write(Path("data/a.parquet"), SIMPLE)
    assert kx.run(job(), quiet=True, report=False, limit=1).exit_code == 0
    assert "行" not in (artifact() / "tokenizer.json").read_text()
    run(job())
    assert about()["characters_in_bytes"] == 0


@pytest.mark.usefixtures("workplace")
def test_columns_may_have_other_names_and_meanings_one_of_their_own() -> None:
    table = pa.table({"s": ["a（x）", "a", "b"], "p": ["p"] * 3, "o": [1, 2, 3], "m": ["y", None, ""]})
    Path("data").mkdir()
    pq.write_table(table, "data/a.parquet")
    run(job(subject="s", predicate="p", object="o", meaning="m"))
    graph = Graph.open(Path("out"))
    assert graph.facts(graph.find(["a（x）", "a"], ["p", "p"], ["y", ""])) == [
        [Fact("a（x）", "p", "y", ("1",))], [Fact("a", "p", "", ("2",))],
    ]  # fmt: skip
    with pytest.raises(ConfigError, match="no column 'obj'"):
        kx.run(job("other", subject="s", predicate="p", object="obj"), quiet=True, report=False)


@pytest.mark.usefixtures("workplace")
def test_a_tokenizer_from_elsewhere_or_from_a_stage_is_used() -> None:
    tokenizer = GraphTokenizer.characters(count_pools([pa.array(["abc长城"], pa.large_string())]), 300)
    Path("tokenizer.json").write_text(json.dumps(tokenizer.to_json()))
    graph = built(SIMPLE, tokenizer="tokenizer.json")
    assert graph.tokenizer.digest == tokenizer.digest
    made = job("staged", tokenizer="stage:words")
    made["stage"].insert(0, {"kind": "tokenizer", "name": "words", "column": "subject", "vocabulary": 270})
    run(made)
    staged = Graph.open(Path("staged"))
    assert staged.tokenizer.separator_text == "[SEP]"
    assert staged.facts(staged.find(["长城"], ["长度"], [""])) == graph.facts(graph.find(["长城"], ["长度"], [""]))


@pytest.mark.usefixtures("workplace")
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_a_damaged_file_is_refused_by_name_and_built_again(name: str, damage: str, finished_graph: Path) -> None:
    shutil.copytree(finished_graph, "copy")
    file = Path("copy/graph/_artifact") / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    if damage == "remove":
        file.unlink()
    else:
        file.write_bytes(data if damage == "flip" else data[: len(data) // 2])
    if (name, damage) == ("graph.json", "remove"):  # by it a graph is known
        with pytest.raises(ConfigError, match="no graph in here"):
            Graph.open(Path("copy"))
        return
    with pytest.raises(DataError, match=rf"{name}: (damaged|missing).*build the graph again"):
        Graph.open(Path("copy"))


@pytest.mark.usefixtures("workplace")
def test_another_tokenizer_in_its_place_is_refused(finished_graph: Path) -> None:
    shutil.copytree(finished_graph, "copy")
    other = GraphTokenizer.characters(np.zeros(0x110000, np.int64), 300)
    (artifact("copy") / "tokenizer.json").write_text(json.dumps(other.to_json()))
    with pytest.raises(DataError, match=r"tokenizer\.json: damaged, it is not what its digest says"):
        Graph.open(Path("copy"))


@pytest.fixture(scope="module")
def finished_graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("graph")
    write(home / "data/a.parquet", SIMPLE)
    run(job(str(home / "out"), source=str(home / "data")))
    return home / "out"


@pytest.mark.usefixtures("workplace")
def test_damage_is_mended_by_the_next_run() -> None:
    built(SIMPLE)
    before = (artifact() / "trie.safetensors").read_bytes()
    (artifact() / "trie.safetensors").write_bytes(before[:-1])
    assert run(job()).status == "done"
    assert (artifact() / "trie.safetensors").read_bytes() == before


@pytest.mark.usefixtures("workplace")
def test_a_graph_is_found_in_its_output_its_stage_and_its_folder_alone(finished_graph: Path) -> None:
    digests = {Graph.open(finished_graph / inner).digest for inner in ("", "graph", "graph/_artifact")}
    shutil.copytree(finished_graph / "graph/_artifact", "alone")
    assert digests == {Graph.open(Path("alone")).digest}
    with pytest.raises(ConfigError, match="no such folder"):
        Graph.open(Path("nowhere"))
    for name in ("a", "b"):
        shutil.copytree(finished_graph / "graph", f"two/{name}")
    with pytest.raises(ConfigError, match="several graphs, a, b; name the folder of one"):
        Graph.open(Path("two"))
