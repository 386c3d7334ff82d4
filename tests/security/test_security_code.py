"""No artifact, model folder or dataset runs code: each of these would leave a canary file behind if it did."""

from __future__ import annotations

import base64
import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from finished import Finished
from fuzz.guard import verb
from tiny_encoders import save_model, tiny_bert

import kxbatch as kx
from kxbatch.errors import ConfigError, KxbatchError
from kxbatch.models.encoders import EncoderSettings, load

pytest_plugins = ["finished"]


class Bomb:
    """What a pickle of this does when it is opened."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.canary),)


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tiny_bert(), tmp_path_factory.mktemp("original"))


@pytest.fixture
def model(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "model"))


def bomb(canary: Path) -> bytes:
    return pickle.dumps(Bomb(canary))


def test_the_bomb_is_one(canary: Path) -> None:
    pickle.loads(bomb(canary))
    assert canary.exists()


def refused(model: Path, canary: Path, *words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(EncoderSettings(str(model), device="cpu", precision="fp32", offline=True))
    assert not canary.exists()
    for word in words:
        assert word in str(caught.value)


def test_pickled_weights(model: Path, canary: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(bomb(canary))
    refused(model, canary, "pickled weights, which kxbatch never opens")
    torch.save({"x": Bomb(canary)}, model / "model.pt")
    refused(model, canary, "pickled weights")


def test_a_pickle_called_safetensors(model: Path, canary: Path) -> None:
    (model / "model.safetensors").write_bytes(bomb(canary))
    refused(model, canary, str(model))


def test_a_pickle_beside_good_weights_is_not_opened(model: Path, canary: Path) -> None:
    (model / "pytorch_model.bin").write_bytes(bomb(canary))
    (model / "optimizer.pt").write_bytes(bomb(canary))
    encoder = load(EncoderSettings(str(model), device="cpu", precision="fp32", offline=True))
    assert encoder.encode(["a"]).vectors.shape[0] == 1
    assert not canary.exists()


def test_a_model_that_brings_python(model: Path, canary: Path) -> None:
    (model / "own.py").write_text(f"import os\nos.mkdir({str(canary)!r})\nclass Own: pass\n")
    config = json.loads((model / "config.json").read_text())
    config |= {
        "model_type": "own",
        "auto_map": {"AutoConfig": "own.Own", "AutoModel": "own.Own", "AutoTokenizer": ["own.Own", None]},
    }
    (model / "config.json").write_text(json.dumps(config))
    refused(model, canary, "trust_remote_code")


@pytest.mark.parametrize(
    "kind", ["own.Module", "os.system", "sentence_transformers.models.WordEmbeddings", "../own.Pooling"]
)
def test_modules_that_name_foreign_classes(model: Path, canary: Path, kind: str) -> None:
    (model / "own.py").write_text(f"import os\nos.mkdir({str(canary)!r})\n")
    rows = [{"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}]
    (model / "modules.json").write_text(json.dumps([*rows, {"idx": 1, "name": "1", "path": "1", "type": kind}]))
    refused(model, canary, "is not supported", kind)


def test_a_dense_module_of_pickles(model: Path, canary: Path) -> None:
    kinds = ["Transformer", "Pooling", "Dense"]
    rows = [
        {"idx": i, "name": str(i), "path": str(i) if i else "", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    (model / "modules.json").write_text(json.dumps(rows))
    for number, config in (
        (1, {"pooling_mode_mean_tokens": True}),
        (2, {"activation_function": "torch.nn.modules.linear.Identity"}),
    ):
        (model / str(number)).mkdir()
        (model / str(number) / "config.json").write_text(json.dumps(config))
    (model / "2/pytorch_model.bin").write_bytes(bomb(canary))
    refused(model, canary, "model.safetensors is missing")


def test_pickles_in_the_place_of_states_and_hashes(finished: Finished, canary: Path) -> None:
    """A run makes states again, and refuses hashes of ids; neither is ever unpickled."""
    for file in finished.output.rglob("*.safetensors"):
        file.write_bytes(bomb(canary))
    assert finished.run().exit_code == 0
    assert not canary.exists()
    arrays = sorted((finished.output / "_kxbatch/ids").glob("*.npy"))
    assert arrays
    for array in arrays:
        np.save(array, np.array([Bomb(canary)], dtype=object), allow_pickle=True)
    Path("data/texts-9.jsonl").write_text('{"doc": "new", "text": "one more", "lang": "xx"}\n')
    try:
        with pytest.raises(KxbatchError, match=r"ids/\w+\.npy: damaged .*allow_pickle"):
            finished.run()
    finally:
        Path("data/texts-9.jsonl").unlink()
    assert not canary.exists()


def test_pickled_metadata_of_parquet(workplace: Path, canary: Path) -> None:
    """pandas, Arrow extension types: what other programs would unpickle is skipped or refused."""
    Path("vectors").mkdir()
    data = base64.b64encode(bomb(canary))
    table = pa.table({"vec": pa.array([[float(i), 1.0, float(i * i)] for i in range(8)], pa.list_(pa.float32(), 3))})
    field = table.schema.field("vec").with_metadata(
        {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": pickle.dumps(Bomb(canary))}
    )
    schema = pa.schema(
        [field],
        metadata={b"pandas": data, b"kxbatch.configuration": bomb(canary).hex().encode(), b"PANDAS_ATTRS": data},
    )
    pq.write_table(table.cast(schema), "vectors/v.parquet")
    job = {
        "job": {"name": "v", "output": "out/v", "executor": "inline"},
        "input": {"path": "vectors/*.parquet"},
        "stage": [{"kind": "whiten", "dim": 2}],
    }
    assert kx.run(job, quiet=True).exit_code == 0
    assert verb("inspect", "vectors")[0] == 0
    assert verb("lineage", "vectors/v.parquet")[0] == 2
    assert not canary.exists()


def test_callables_are_named_by_jobs_only(finished: Finished, canary: Path) -> None:
    """Data, documents and footers that name a function are text."""
    Path("evil.py").write_text(f"import os\nos.mkdir({str(canary)!r})\ndef embed(texts): return None\n")
    name = "callable:evil:embed"
    record = finished.output / "run.json"
    found = json.loads(record.read_text())
    found["job"]["stage"][0]["model"] = name
    record.write_text(json.dumps(found))
    part = finished.output / "embed/part-00000.parquet"
    table = pq.read_table(part)
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"kxbatch.model": name.encode()}), part)
    Path("data/texts-8.jsonl").write_text(json.dumps({"doc": name, "text": name, "lang": name, "model": name}) + "\n")
    try:
        for words in (["status"], ["verify"], ["report"], ["quarantine", "ls"], ["quarantine", "show"]):
            assert verb(*words, "out/audit")[0] in (0, 3)
        assert verb("lineage", str(part))[0] == 0
        assert finished.run().exit_code == 0
    finally:
        Path("data/texts-8.jsonl").unlink()
    assert not canary.exists()
