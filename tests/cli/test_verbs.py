"""What the verbs that look at and look after outputs print, and what they leave untouched."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result

import kxbatch as kx
from kxbatch.cli import VERBS, cli
from kxbatch.cli.templates import find_template, jobs_folder, templates
from kxbatch.data.storage import Folder
from kxbatch.engine.lease import Lease
from kxbatch.errors import ConfigError
from kxbatch.spec.load import parse_job
from kxbatch.stages.registry import config_types

if TYPE_CHECKING:
    from finished import Finished

pytest_plugins = ["finished"]

OURS = (
    "plan", "status", "verify", "inspect", "lineage", "export", "convert", "compact", "report", "init", "schema", "doctor",
)  # fmt: skip
HEAVY = ("numpy", "pyarrow", "polars", "torch", "ray", "numba", "matplotlib", "pydantic")

Snapshot = dict[str, tuple[int, bytes]]


def invoke(*words: str) -> Result:
    """A verb in this process; an exception passes through."""
    return CliRunner().invoke(cli, list(words), catch_exceptions=False)


def facts(*words: str) -> Any:
    """What a verb prints with `--json`; standard output must hold that alone."""
    return json.loads(invoke(*words, "--json").stdout)


def kxbatch(*words: str) -> subprocess.CompletedProcess[str]:
    """A verb as a shell runs it."""
    return subprocess.run([sys.executable, "-m", "kxbatch", *words], capture_output=True, text=True, check=False)


def snapshot(folder: Path) -> Snapshot:
    return {
        str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.read_bytes() if p.is_file() else b"")
        for p in folder.rglob("*")
    }


def write_job(home: Path, job: dict[str, Any]) -> str:
    """The job as TOML, for verbs that want a file."""

    def section(name: str, values: dict[str, Any]) -> list[str]:
        return [name, *(f"{key} = {json.dumps(value)}" for key, value in values.items()), ""]

    lines = section("[job]", job["job"]) + section("[input]", job["input"])
    for stage in job["stage"]:
        lines += section("[[stage]]", stage)
    (home / "job.toml").write_text("\n".join(lines))
    return "job.toml"


def test_plan_says_what_a_run_would_do_and_touches_nothing(finished: Finished) -> None:
    job = write_job(finished.home, finished.job)
    before = snapshot(finished.home)
    for words, to_do in (((), 0), (("--set", "whiten.beta=0.5"), None), (("--set", "job.output=out/other"), None)):
        found = facts("plan", job, *words)
        expected = kx.plan(finished.job, overrides=[words[1]] if words else [])
        assert found["to_do"] == expected.to_do
        assert found["phases"] == [vars(phase) for phase in expected.phases]
        assert to_do is None or found["to_do"] == to_do
    assert snapshot(finished.home) == before
    text = invoke("plan", job, "--set", "whiten.beta=0.5").stdout
    assert "beta 1.0 -> 0.5" in text
    assert "nothing to do" in invoke("plan", job).stdout
    assert not (finished.home / "out/other").exists()


def test_status(finished: Finished) -> None:
    record = json.loads((finished.output / "run.json").read_text())
    found = facts("status", "out/audit")
    assert (found["state"], found["run"], found["exit_code"]) == ("done", record["run"], 0)
    text = invoke("status", "out/audit").stdout
    assert text.startswith(f"done, exit status 0: run {record['run']}")
    assert all(stage["name"] in text for stage in record["stages"])


def test_looking_leaves_no_trace(finished: Finished) -> None:
    part = "out/audit/whiten/part-00000.parquet"
    before = snapshot(finished.output)
    for words in (
        ("status", "out/audit"),
        ("verify", "out/audit"),
        ("quarantine", "ls", "out/audit"),
        ("quarantine", "show", "out/audit"),
        ("inspect", "out/audit/embed"),
        ("lineage", part),
        ("export", "out/audit", "--to", "flat"),
    ):
        assert invoke(*words).exit_code == 0, words
    assert snapshot(finished.output) == before


def test_verify_ends_with_three_when_something_is_wrong(finished: Finished) -> None:
    sound = invoke("verify", "out/audit")
    assert (sound.exit_code, "sound: " in sound.stdout) == (0, True)
    (finished.output / "embed/part-00001.parquet").unlink()
    done = kxbatch("verify", "out/audit", "--json")
    assert done.returncode == 3
    assert [d["file"] for d in json.loads(done.stdout)["defects"]] == ["part-00001.parquet"]
    text = invoke("verify", "out/audit")
    assert "defect: embed/part-00001.parquet: the file is gone" in text.stdout
    assert "`kxbatch run`" in text.stderr
    assert invoke("verify", "out/audit", "-q").stderr == ""


def test_exit_statuses_that_need_no_defect(finished: Finished) -> None:
    nothing = kxbatch("status", "out/nothing")
    assert (nothing.returncode, nothing.stdout) == (2, "")
    assert nothing.stderr.startswith("error: ")
    with Lease(Folder(str(finished.output)), "another"):
        held = kxbatch("verify", "out/audit")
    assert held.returncode == 75
    assert "another is at work" in held.stderr


def test_quarantine(finished: Finished) -> None:
    assert facts("quarantine", "ls", "out/audit") == [{"stage": "embed", "error": "empty-text", "rows": 1}]
    shown = facts("quarantine", "show", "out/audit", "--stage", "embed", "--error", "empty-text", "-n", "5")
    assert (shown["rows"], [row["id"] for row in shown["shown"]]) == (1, ["blank"])
    assert "blank" in invoke("quarantine", "show", "out/audit").stdout
    assert "nothing to replay" in invoke("quarantine", "replay", "out/audit", "--stage", "whiten").stdout


def test_replay_does_the_shards_with_quarantined_rows_again(finished: Finished) -> None:
    stamps = {path: path.stat().st_mtime_ns for path in (finished.output / "embed").glob("*.parquet")}
    [blank] = (finished.output / "embed/_kxbatch/quarantine").iterdir()
    result = facts("quarantine", "replay", "out/audit", "-q")
    assert (result["exit_code"], result["stages"][0]["rows_quarantined"]) == (0, 1)
    again = [path.name for path in stamps if path.stat().st_mtime_ns != stamps[path]]
    assert again == [f"{blank.stem}.parquet"]
    job = write_job(finished.home, finished.job)
    assert facts("quarantine", "replay", job, "-q")["exit_code"] == 0


def test_inspect_and_lineage(finished: Finished) -> None:
    found = facts("inspect", "out/audit/embed", "-n", "2")
    assert (found["rows"], len(found["head"]), found["columns"][-1]["vector"]["dim"]) == (120, 2, 16)
    text = invoke("inspect", "out/audit/embed").stdout
    assert text.startswith("out/audit/embed: 120 rows in ")
    assert "mean cosine" in text
    tree = facts("lineage", "out/audit/whiten/part-00000.parquet")
    assert (tree["name"], tree["made_from"][0]["name"], tree["made_from"][0]["made_from"][0]["what"]) == (
        "whiten",
        "embed",
        "source",
    )
    lines = invoke("lineage", "out/audit/whiten/part-00000.parquet").stdout.splitlines()
    order = [i for word in ("stage whiten: ", "stage embed: ", "source ") for i, x in enumerate(lines) if word in x]
    assert order == sorted(order)
    assert len(order) == 3


def test_export_compact_and_report(finished: Finished) -> None:
    assert facts("export", "out/audit", "--to", "flat", "--columns", "lang, k_occurrence")["rows"] == 120
    assert facts("compact", "flat")["parts_after"] == 1
    assert "nothing to do" in invoke("compact", "flat", "--target-size", "1MB").stdout
    assert invoke("compact", "flat", "--target-size", "big").exit_code == 2
    (finished.output / "report.html").unlink()
    path = Path(facts("report", "out/audit")["report"])
    assert path == finished.output / "report.html"
    assert path.read_text().lstrip().lower().startswith("<!doctype html")


def test_init_writes_a_job_file_and_never_over_one(workplace: Path) -> None:
    result = invoke("init", "mine", "--template", "vectors-audit")
    assert (result.stdout.strip(), "kxbatch plan" in result.stderr) == ("mine/job.toml", True)
    assert Path("mine/job.toml").read_bytes() == (jobs_folder() / "vectors_audit.toml").read_bytes()
    with pytest.raises(ConfigError, match="--force"):
        invoke("init", "mine")
    assert facts("init", "mine", "--force") == {"template": "corpus_audit", "path": "mine/job.toml"}
    assert tomllib.loads(Path("mine/job.toml").read_text())["job"]["name"] == "corpus-audit"
    with pytest.raises(ConfigError, match=r"did you mean 'vectors_audit'(?s:.*)corpus_audit .*"):
        invoke("init", "other", "--template", "vector_audit")
    assert not Path("other").exists()


def test_every_template_is_a_valid_job_with_a_line_about_it() -> None:
    known = templates(jobs_folder())
    assert facts("init", "--template", "list") == known
    for name, line in known.items():
        assert len(line) > 20, name
        parse_job(tomllib.loads(find_template(jobs_folder(), name).read_text()), config_types())


def schema_errors(job: dict[str, Any]) -> list[Any]:
    validator = importlib.import_module("jsonschema").Draft202012Validator
    schema = facts("schema")
    validator.check_schema(schema)
    return list(validator(schema).iter_errors(job))


def template(name: str) -> dict[str, Any]:
    return tomllib.loads(find_template(jobs_folder(), name).read_text())


@pytest.mark.parametrize("name", ["corpus_audit", "demo", "vectors_audit"])
def test_schema_accepts_what_the_loader_accepts(name: str) -> None:
    assert schema_errors(template(name)) == []


def test_schema_refuses_what_the_loader_refuses() -> None:
    wrong = template("corpus_audit")
    wrong["stage"][2]["bta"] = 0.5
    assert schema_errors(wrong) != []


def test_schema_of_one_kind() -> None:
    assert facts("schema", "--kind", "whiten")["properties"]["beta"]["maximum"] == 1
    with pytest.raises(ConfigError, match="did you mean 'whiten'"):
        invoke("schema", "--kind", "whitten")


def test_doctor_ends_with_one_only_when_something_will_not_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Prescott")
    result = invoke("doctor", "--json")
    levels = {finding["name"]: finding["level"] for finding in json.loads(result.stdout)}
    assert result.exit_code == int("fail" in levels.values())
    assert levels["blas"] == "warn"
    assert invoke("doctor", "--address", "127.0.0.1:1", "-q").exit_code == 1


def words_of_every_verb() -> list[Sequence[str]]:
    inner = [("quarantine", name) for name in ("ls", "show", "replay")]
    return [(verb,) for verb in OURS] + [("quarantine",), *inner]


@pytest.mark.parametrize("words", words_of_every_verb(), ids=" ".join)
def test_help_has_an_example(words: Sequence[str]) -> None:
    text = invoke(*words, "--help").stdout
    assert "Example" in text
    assert f"kxbatch {' '.join(words)}" in text


def test_help_loads_nothing_heavy() -> None:
    script = "import sys\nfrom kxbatch.cli import cli, VERBS\n"
    script += "for verb in VERBS: cli.get_command(None, verb)\n"
    script += f"print([name for name in {HEAVY} if name in sys.modules], len(VERBS))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"[] {len(VERBS)}"
