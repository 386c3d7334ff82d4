"""What the trainer is given belongs to one stage."""

from __future__ import annotations

from pathlib import Path

from support import training_job, tree_digests

import kxbatch as kx


def test_two_stages_with_the_same_settings_leave_an_encoder_each(corpus: Path) -> None:
    job = training_job(steps=2)
    job["stage"].append(job["stage"][1] | {"name": "twin"})
    result = kx.run(job, quiet=True, training_only=True, report=False)
    assert result.exit_code == 0, result.message
    found = tree_digests(Path(result.output))
    assert found["encoder/_artifact/model.safetensors"] == found["twin/_artifact/model.safetensors"]
