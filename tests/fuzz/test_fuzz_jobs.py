"""Job files, overrides and the environment as nobody meant them: a checked job that round-trips, or a sentence."""

from __future__ import annotations

from typing import Any

import pytest
from fuzz.guard import declared
from fuzz.mutations import VALUES, damaged, restructured
from fuzz.profile import fuzzed
from fuzz.targets import ROOT, job_file, job_seeds
from hypothesis import given
from hypothesis import strategies as st

from kxbatch.engine.job import Job, load_job
from kxbatch.errors import ConfigError

JOB: dict[str, Any] = {
    "job": {
        "name": "v",
        "output": "out/v",
        "seed": 3,
        "executor": "inline",
        "quarantine": {"max_rows": 5, "max_share": 1.0},
    },
    "input": {"path": ["vectors/*.parquet"], "id": "doc", "columns": ["vec"], "shard_size": "1kB", "max_ratio": 1000},
    "stage": [
        {
            "kind": "whiten",
            "column": "vec",
            "dim": 3,
            "beta": 1.0,
            "keep": ["text"],
            "resources": {"cpus": 1, "memory": "1GB"},
        },
        {"kind": "hubness", "name": "h", "k": 2, "reduction": "csls", "input": "whiten"},
        {"kind": "embed", "column": "text", "model": "callable:a:b", "input": "input"},
    ],
}
TEXT = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["nan", "inf", "[", "{a=1}", "9" * 5000, "[" * 3000, "\x00", "1GB", "0x", "''"]),
)
KEYS = st.one_of(
    st.sampled_from(
        [
            "h.k",
            "whiten.beta",
            "job.name",
            "input.path",
            "h.resources.cpus",
            "job.quarantine",
            "stage.0",
            "h",
            "embed.x.y",
            "",
        ]
    ),
    st.text(max_size=12),
)
OVERRIDES = st.lists(st.builds(lambda key, text: f"{key}={text}", KEYS, TEXT), max_size=3)
VARIABLES = st.dictionaries(
    st.sampled_from(
        [
            "KXBATCH_H__K",
            "KXBATCH_JOB__SEED",
            "KXBATCH___",
            "KXBATCH_JOB__QUARANTINE__MAX_ROWS",
            "KXBATCH_",
            "KXBATCH_A__B",
        ]
    ),
    st.one_of(TEXT, st.just("\udcff")),
    max_size=2,
)


def test_the_seeds_are_good() -> None:
    for seed in job_seeds():
        assert isinstance(job_file(seed), Job)


def test_damaged_files() -> None:
    @fuzzed(150)
    @given(damaged(job_seeds()))
    def check(data: bytes) -> None:
        job_file(data)

    check()


def test_overrides_and_environment() -> None:
    """They give a job or a `ConfigError` that names the file; the file itself is good."""

    @fuzzed(150)
    @given(st.sampled_from(sorted((ROOT / "jobs").glob("*.toml"))), OVERRIDES, VARIABLES)
    def check(path: Any, overrides: list[str], environment: dict[str, str]) -> None:
        found = declared(lambda: load_job(path, overrides=overrides, environment=environment))
        assert isinstance(found, Job | ConfigError)
        assert isinstance(found, Job) or path.name in str(found)

    check()


def test_structures() -> None:
    """Mappings from Python, with overrides on top of whatever is there."""

    @fuzzed(200)
    @given(restructured(JOB).filter(lambda raw: isinstance(raw, dict)), OVERRIDES, VARIABLES)
    def check(raw: dict[str, Any], overrides: list[str], environment: dict[str, str]) -> None:
        found = declared(lambda: load_job(raw, overrides=overrides, environment=environment))
        assert isinstance(found, Job | ConfigError)
        if isinstance(found, Job):
            assert (
                load_job(found.spec.model_dump(mode="json"), environment={}).spec.model_dump()
                == found.spec.model_dump()
            )

    check()


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:20])
def test_every_key_of_a_stage_refuses_in_words_or_takes_a_value(value: Any) -> None:
    for key in ("k", "candidates", "hub_factor", "metric", "block_rows", "resources", "keep", "name", "input", "kind"):
        stage = {"kind": "hubness", key: value}
        found = declared(lambda stage=stage: load_job({**JOB, "stage": [stage]}, environment={}))
        assert isinstance(found, Job | ConfigError)
