"""Job files: what is refused, and in which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kxbatch.errors import ConfigError
from kxbatch.spec.load import job_type, parse_job, read_toml
from kxbatch.spec.sizes import format_size, parse_size
from kxbatch.stages.registry import config_types


def minimal(**stage: Any) -> dict[str, Any]:
    return {
        "job": {"name": "j", "output": "out/j"},
        "input": {"path": "data/*.parquet"},
        "stage": [{"kind": "whiten", **stage}],
    }


def refusal(raw: dict[str, Any], **kwargs: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_job(raw, config_types(), origin="job.toml", **kwargs)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_defaults_names_and_tree() -> None:
    raw = minimal()
    raw["stage"] = [
        {"kind": "embed", "model": "m"},
        {"kind": "hubness", "name": "raw"},
        {"kind": "whiten", "input": "embed"},
    ]
    spec = parse_job(raw, config_types())
    assert [stage.name for stage in spec.stage] == ["embed", "raw", "whiten"]
    assert [spec.upstream(i) for i in range(3)] == ["input", "embed", "embed"]
    assert spec.job.executor == "ray"
    assert spec.input.path == ("data/*.parquet",)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r["stage"][0].update(betta=1), ["stage[0] (whiten).betta", "did you mean 'beta'", "gamma"]),
        (lambda r: r["stage"][0].update(kind="whitten"), ["unknown kind 'whitten'", "did you mean 'whiten'", "embed"]),
        (lambda r: r["stage"][0].pop("kind"), ["stage[0]", "needs a kind", "hubness"]),
        (lambda r: r["stage"][0].update(beta="much"), ["stage[0] (whiten).beta", "'much'", "number"]),
        (lambda r: r["stage"][0].update(beta=2), ["stage[0] (whiten).beta", "less than or equal to 1"]),
        (lambda r: r["stage"][0].update(refit="sometimes"), ["refit", "'sometimes'", "never, on-drift, always"]),
        (lambda r: r["stage"][0].update(resources={"cpu": 2}), ["resources.cpu", "did you mean 'cpus'"]),
        (
            lambda r: r["stage"][0].update(input="embd"),
            ["stage[0] (whiten).input", "no stage 'embd'", "allowed: input"],
        ),
        (lambda r: r["stage"].append({"kind": "whiten"}), ["two stages are called 'whiten'"]),
        (lambda r: r["stage"][0].update(name="Bad Name"), ["cannot name a stage"]),
        (lambda r: r["stage"].clear(), ["stage", "at least 1"]),
        (lambda r: r["job"].pop("name"), ["job.name is missing"]),
        (lambda r: r["job"].update(executr="ray"), ["job.executr", "did you mean 'executor'"]),
        (lambda r: r["job"].update(executor="spark"), ["job.executor", "'spark'", "inline, ray"]),
        (lambda r: r["input"].update(shard_size="huge"), ["input.shard_size", "'huge' is no size"]),
        (lambda r: r.update(inputs={}), ["unknown key inputs", "did you mean 'input'"]),
        (lambda r: r.pop("input"), ["input is missing"]),
    ],
)
def test_refusals_name_place_and_cure(change: Any, words: list[str]) -> None:
    raw = minimal()
    change(raw)
    message = refusal(raw)
    assert message.startswith("job.toml: ")
    for word in words:
        assert word in message


def test_a_stage_may_not_read_a_later_one() -> None:
    raw = minimal(name="a", input="b")
    raw["stage"].append({"kind": "whiten", "name": "b", "input": "a"})
    assert "cycle" in refusal(raw)


def test_reduction_must_fit_the_metric() -> None:
    raw = minimal()
    raw["stage"] = [{"kind": "hubness", "metric": "inner", "reduction": "nicdm"}]
    message = refusal(raw)
    assert "nicdm" in message
    assert "cosine" in message


def test_precedence_command_line_environment_file() -> None:
    raw = minimal(beta=0.1)
    environment = {"KXBATCH_WHITEN__BETA": "0.2", "KXBATCH_JOB__SEED": "7", "KXBATCH_EXECUTOR": "inline", "HOME": "/"}
    spec = parse_job(raw, config_types(), environment=environment)
    assert (spec.stage[0].beta, spec.job.seed) == (0.2, 7)  # type: ignore[attr-defined]
    spec = parse_job(raw, config_types(), environment=environment, overrides=["whiten.beta=0.3"])
    assert spec.stage[0].beta == 0.3  # type: ignore[attr-defined]
    assert raw["stage"][0]["beta"] == 0.1, "the caller's tables stay as they were"


def test_environment_reaches_stages_with_dashes() -> None:
    raw = minimal(name="my-white")
    spec = parse_job(raw, config_types(), environment={"KXBATCH_MY_WHITE__DIM": "3"})
    assert spec.stage[0].dim == 3  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("whitn.beta=1", ["no section or stage 'whitn'", "did you mean 'whiten'"]),
        ("whiten.betta=1", ["betta", "did you mean 'beta'"]),
        ("beta", ["write section.key=value"]),
        ("whiten.beta", ["write section.key=value"]),
    ],
)
def test_overrides_are_checked(override: str, words: list[str]) -> None:
    message = refusal(minimal(), overrides=[override])
    for word in words:
        assert word in message


def test_set_values_are_toml_or_plain_strings() -> None:
    overrides = ["input.path=a/b.jsonl", 'job.name="x"', "whiten.resources.cpus=2", 'input.columns=["a","b"]']
    spec = parse_job(minimal(), config_types(), overrides=overrides)
    assert spec.input.path == ("a/b.jsonl",)
    assert spec.input.columns == ("a", "b")
    assert spec.stage[0].resources.cpus == 2


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "audit.toml").write_text("[job\n")
    with pytest.raises(ConfigError, match=r"no such job file; did you mean 'audit.toml'"):
        read_toml(tmp_path / "audti.toml")
    with pytest.raises(ConfigError, match=r"not valid TOML.*line 1"):
        read_toml(tmp_path / "audit.toml")
    (tmp_path / "latin.toml").write_bytes(b"name = '\xe9'")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_toml(tmp_path / "latin.toml")


def test_the_schema_of_job_files_tells_kinds_apart() -> None:
    schema = job_type(config_types()).model_json_schema()
    stage = schema["properties"]["stage"]["items"]
    assert stage["discriminator"]["propertyName"] == "kind"
    assert set(stage["discriminator"]["mapping"]) == set(config_types())


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda s: st.lists(s) | st.dictionaries(st.text(max_size=5), s),
    )
)
def test_nonsense_is_refused_with_a_declared_error(value: Any) -> None:
    for raw in ({"job": value, "input": value, "stage": value}, {"stage": [value]}, {"job": {"name": value}}):
        with pytest.raises(ConfigError):
            parse_job(raw, config_types())


def test_operational_fields_do_not_decide_results() -> None:
    one = parse_job(minimal(), config_types()).stage[0]
    other = parse_job(minimal(name="w2", resources={"cpus": 4}), config_types()).stage[0]
    different = parse_job(minimal(beta=0.5), config_types()).stage[0]
    assert one.semantic() == other.semantic()
    assert one.semantic() != different.semantic()


@pytest.mark.parametrize(
    ("text", "size"), [("16MB", 16_000_000), ("1.5 KiB", 1536), ("7", 7), (7, 7), ("2g", 2 * 10**9)]
)
def test_sizes(text: str | int, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "MB", "-1MB", "1XB", None, 0, True, "1e3"])
def test_no_sizes(text: Any) -> None:
    with pytest.raises(ValueError, match="no size"):
        parse_size(text)


def test_sizes_for_people() -> None:
    assert [format_size(n) for n in (999, 1000, 1_500_000, 2 * 10**12)] == ["999 B", "1.0 kB", "1.5 MB", "2.0 TB"]
