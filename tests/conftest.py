"""Fixtures of tests over whole jobs: a small corpus, a cheap and deterministic encoder, and one Ray for the session."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from support import write_texts

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("RAY_TQDM_PATCH_PRINT", "0")  # as the Ray executor sets it

hypothesis.settings.register_profile("untimed", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("untimed")

ENCODER = '''
"""Vectors from character trigrams: cheap, deterministic, and near for near texts."""
import zlib
import numpy as np

def embed(texts):
    out = np.zeros((len(texts), 16), np.float32)
    for row, text in enumerate(texts):
        for i in range(max(1, len(text) - 2)):
            out[row, zlib.crc32(text[i:i + 3].encode()) % 16] += 1 + zlib.crc32(text[i:i + 3].encode()) / 2**33
    return out
'''


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """One local Ray for all tests that want one."""
    import logging

    import ray

    ray.init(
        num_cpus=2,
        object_store_memory=200 * 2**20,
        include_dashboard=False,
        logging_level=logging.ERROR,
        log_to_driver=False,
    )
    yield
    ray.shutdown()


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder to work in, with the cheap encoder importable as `trigrams`; modules in it are forgotten afterwards."""
    (tmp_path / "trigrams.py").write_text(ENCODER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "") or "").startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def corpus(workplace: Path) -> Path:
    """Three JSONL files of 40 short texts each."""
    for number in range(3):
        write_texts(workplace / f"data/texts-{number}.jsonl", number * 40, 40)
    return workplace / "data"
