"""DeepSpeed's configuration: made from the job, added to by a file, and what is refused in which words."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from kxbatch.errors import ConfigError
from kxbatch.spec.training import TrainingConfig
from kxbatch.training.deepspeed_config import DECIDED, KNOWN, deepspeed_config

CPU, GPU = torch.device("cpu"), torch.device("cuda")


def made(
    job: dict[str, Any], override: dict[str, Any] | None = None, world: int = 2, device: torch.device = CPU
) -> Any:
    config = TrainingConfig.model_validate({"batch_rows": 64, "micro_rows": 8, "precision": "fp32", **job})
    return deepspeed_config(config, world, device, override)


@pytest.mark.parametrize("world", [1, 2, 4, 8])
def test_a_step_has_the_same_rows_for_any_number_of_workers(world: int) -> None:
    settings = made({}, world=world)
    rows = settings["train_micro_batch_size_per_gpu"] * settings["gradient_accumulation_steps"] * world
    assert rows == settings["train_batch_size"] == 64


def test_what_the_job_says_is_what_deepspeed_gets() -> None:
    settings = made({"precision": "bf16", "clip": 0.5, "deepspeed": {"zero": 3, "offload": "all"}}, device=GPU)
    assert settings["bf16"] == {"enabled": True}
    assert settings["gradient_clipping"] == 0.5
    assert settings["zero_optimization"]["stage"] == 3
    assert settings["zero_optimization"]["offload_optimizer"]["device"] == "cpu"
    assert settings["zero_optimization"]["offload_param"]["device"] == "cpu"
    assert made({"clip": None})["gradient_clipping"] == 0
    assert json.loads(json.dumps(settings)) == settings


def test_a_file_adds_at_any_depth_and_may_repeat_the_job() -> None:
    file = {
        "train_batch_size": 64,
        "gradient_clipping": "auto",
        "fp16": {"enabled": False},
        "zero_optimization": {"stage": 1, "round_robin_gradients": True},
        "wall_clock_breakdown": True,
    }
    settings, plain = made({}, file), made({})
    assert settings["zero_optimization"] == {**plain["zero_optimization"], "round_robin_gradients": True}
    assert settings["wall_clock_breakdown"] is True
    assert settings["gradient_clipping"] == plain["gradient_clipping"]


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ({"train_batch_size": 32}, "'train_batch_size' is 32 there, but the job says 64; set batch_rows in the job"),
        ({"train_micro_batch_size_per_gpu": 4}, "is 4 there, but the job says 8; set micro_rows"),
        ({"gradient_accumulation_steps": 1}, "is 1 there, but the job says 4; set batch_rows, micro_rows and workers"),
        (
            {"managed_gradient_accumulation": False},
            "is False there, but the job says True; set batch_rows and micro_rows",
        ),
        ({"gradient_clipping": 2.0}, "'gradient_clipping' is 2.0 there, but the job says 1.0; set clip"),
        ({"optimizer": {"type": "Adam"}}, "'optimizer' is {'type': 'Adam'} there, but the job decides nothing"),
        ({"scheduler": {"type": "WarmupLR"}}, "set schedule in the job instead"),
        ({"bf16": {"enabled": True}}, "'bf16.enabled' is True there, but the job says False; set precision"),
        ({"torch_autocast": {"enabled": True}}, "but the job says False; set precision"),
        (
            {"zero_optimization": {"stage": 3}},
            "'zero_optimization.stage' is 3 there, but the job says 1; set deepspeed.zero",
        ),
        ({"zero_optimization": {"offload_optimizer": {"device": "cpu"}}}, "set deepspeed.offload"),
        ({"fp16": {"enabled": True}}, "'fp16' is refused: .*use precision = 'bf16' or 'autocast'"),
        ({"gradient_cliping": 1.0}, "no key 'gradient_cliping'; did you mean 'gradient_clipping'?"),
    ],
)
def test_a_file_that_contradicts_the_job_is_refused(file: dict[str, Any], words: str) -> None:
    pattern = re.escape(words).replace(r"\.\*", ".*")
    with pytest.raises(ConfigError, match=pattern):
        made({}, file)


@pytest.mark.parametrize(
    ("job", "words"),
    [
        ({"precision": "bf16", "deepspeed": {"zero": 0}}, "does not go with deepspeed.zero = 0.*use zero = 1"),
        ({"deepspeed": {"offload": "optimizer"}}, "frees a GPU's memory, but the model computes on cpu; use 'none'"),
        ({"optimizer": {"kind": "lamb"}}, "'lamb' does not go with deepspeed.zero = 1.*zero = 0, or kind = 'adamw'"),
        (
            {"optimizer": {"kind": "adafactor"}, "deepspeed": {"zero": 2}},
            "'adafactor' does not go with deepspeed.zero = 2",
        ),
        ({"micro_rows": 64}, "2 workers cannot share the 1 micro-batches"),
    ],
)
def test_what_cannot_work_is_refused(job: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        made(job)


@pytest.mark.parametrize(("offload", "zero", "needed"), [("optimizer", 0, 1), ("all", 2, 3)])
def test_offload_needs_a_stage_that_can(offload: str, zero: int, needed: int) -> None:
    with pytest.raises(ConfigError, match=f"'{offload}' needs deepspeed.zero = {needed} or more, not {zero}"):
        made({"deepspeed": {"zero": zero, "offload": offload}}, device=GPU)


def test_lamb_and_adafactor_go_with_stage_0() -> None:
    for kind in ("lamb", "adafactor"):
        assert made({"optimizer": {"kind": kind}, "deepspeed": {"zero": 0}})["zero_optimization"]["stage"] == 0


def test_every_known_key_is_one_that_deepspeed_reads() -> None:
    """Not imported, for that takes seconds: its sources have each key as a string, or as a field."""
    found = importlib.util.find_spec("deepspeed")
    if found is None or found.submodule_search_locations is None:
        pytest.skip("DeepSpeed is not installed")
    root = Path(found.submodule_search_locations[0])
    words = set()
    for folder in ("runtime", "monitor", "profiling", "autotuning", "comm", "compile", "utils"):
        for source in (root / folder).rglob("*.py"):
            words |= set(re.findall(r"\w+", source.read_text(errors="replace")))
    assert set(KNOWN) <= words
    assert {path.partition(".")[0] for path in DECIDED} <= KNOWN
