"""The folder of a trained classifier: what comes back of it, what it says of rows, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from kxbatch.errors import ConfigError, DataError
from kxbatch.models.classifier.config import ConvConfig, MlpConfig
from kxbatch.models.classifier.networks import ClassifierNetwork
from kxbatch.models.classifier.trained import TrainedClassifier, classifier_digest
from kxbatch.models.diffusion.scaling import Scaling

CLASSES = ("ant", "bee", "cat")
RNG = np.random.default_rng
CONV = ConvConfig(shape=(5, 3, 2), classes=3, features=6, channels=(4, 8), dropout=0.5)
MLP = MlpConfig(values=6, classes=3, features=5, width=8, layers=2, dropout=0.5)
IMAGE: dict[str, Any] = {"network": CONV, "columns": ("i",), "widths": (30,), "image": True}


def trained(**changes: Any) -> TrainedClassifier:
    found = TrainedClassifier(
        network=MLP, columns=("a", "v"), widths=(1, 5), class_column="kind", classes=CLASSES, held_out=0.2
    )
    return replace(found, **changes)


def written(folder: Path, of: TrainedClassifier) -> Path:
    """A folder with random weights."""
    torch.manual_seed(0)
    weights = {name: weight.detach().numpy() for name, weight in ClassifierNetwork(of.network).named_parameters()}
    values = of.network.values
    scaling = Scaling(np.arange(1.0 * values), np.full(values, 2.0)) if of.levels is None else None
    save_file(of.pack(weights, scaling or Scaling.of_levels(values, of.levels or 2)), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(of.to_json()))
    return folder


@pytest.mark.parametrize("of", [trained(), trained(**IMAGE, shape=(5, 3, 2), levels=256)])
def test_a_folder_comes_back(tmp_path: Path, of: TrainedClassifier) -> None:
    written(tmp_path, of)
    assert TrainedClassifier.read(tmp_path) == of
    model = TrainedClassifier.load(tmp_path)
    for name in ("columns", "widths", "classes", "held_out", "image", "shape", "levels"):
        assert getattr(model, name) == getattr(of, name), name
    assert (model.values, model.features_width) == (of.network.values, of.network.features)
    assert model.device.type == "cpu"
    assert not model.network.training


@pytest.mark.parametrize("of", [trained(), trained(**IMAGE, shape=(5, 3, 2), levels=256)])
def test_judgements_are_the_networks_by_hand(tmp_path: Path, of: TrainedClassifier) -> None:
    model = TrainedClassifier.load(written(tmp_path, of))
    values = RNG(0).integers(0, 256, (50, model.values)).astype(np.float64)
    with torch.no_grad():
        units = torch.from_numpy(((values - model.scaling.centre) / model.scaling.spread).astype(np.float32))
        hidden = model.network.features(model.network.body(units)).double()
        features = (hidden * torch.sigmoid(hidden)).numpy()
    weight, bias = (getattr(model.network.classes, name).detach().double().numpy() for name in ("weight", "bias"))
    logits = features @ weight.T + bias
    found = model.judge(values)
    np.testing.assert_allclose(found.features, features, rtol=1e-5, atol=1e-6)
    wanted = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(found.log_probabilities, wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found.numbers, logits.argmax(axis=1))
    assert (found.features.dtype, found.numbers.dtype, found.log_probabilities.dtype) == ("f4", "i8", "f4")
    assert np.ptp(found.log_probabilities, axis=0).min() > 1e-3, "rows differ"


@pytest.mark.parametrize("of", [trained(), trained(**IMAGE, shape=(5, 3, 2), levels=256)])
def test_rows_are_judged_each_on_its_own(tmp_path: Path, of: TrainedClassifier) -> None:
    model = TrainedClassifier.load(written(tmp_path, of))
    values = RNG(1).integers(0, 256, (70, model.values)).astype(np.float64)
    whole = model.judge(values)
    for changes in ({"batch_rows": 1}, {"batch_rows": 32}, {"batch_rows": 7, "threads": 3}):
        found = model.judge(values, **changes)
        np.testing.assert_allclose(found.features, whole.features, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found.log_probabilities, whole.log_probabilities, rtol=1e-5, atol=1e-5)
    others = RNG(2).integers(0, 256, (70, model.values)).astype(np.float64)
    others[3] = values[3]
    np.testing.assert_array_equal(model.judge(others).features[3], whole.features[3])
    many = model.judge(values, batch_rows=8, threads=4)
    np.testing.assert_array_equal(model.judge(values, batch_rows=8).features, many.features)
    single = model.judge(values.astype(np.float32))
    np.testing.assert_array_equal(single.features, whole.features)


def test_no_rows_and_rows_of_another_width(tmp_path: Path) -> None:
    model = TrainedClassifier.load(written(tmp_path, trained()))
    none = model.judge(np.empty((0, 6)))
    assert (none.features.shape, none.numbers.shape, none.log_probabilities.shape) == ((0, 5), (0,), (0, 3))
    for values in (np.zeros((4, 5)), np.zeros(6)):
        with pytest.raises(DataError, match="the classifier was trained on 6"):
            model.judge(values)


def test_a_convolution_sees_height_width_and_channels_as_they_lie_in_a_row() -> None:
    torch.manual_seed(0)
    network = ClassifierNetwork(CONV).eval()
    image = RNG(0).normal(size=(5, 3, 2)).astype(np.float32)
    first = network.body.layers[0]  # type: ignore[index]  # a sequence
    with torch.no_grad():
        seen = first(torch.from_numpy(image.transpose(2, 0, 1).copy())[None])
        weight, bias = first.weight.numpy(), first.bias.numpy()
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
    by_hand = np.einsum("yxc,ocyx->o", padded[1:4, 1:4], weight) + bias  # at row 1, column 1
    np.testing.assert_allclose(seen[0, :, 1, 1], by_hand, rtol=1e-4, atol=1e-5)
    flat, kept = torch.from_numpy(image.reshape(1, -1)), []
    first.register_forward_hook(lambda _module, _inputs, said: kept.append(said))
    with torch.no_grad():
        network(flat)
    torch.testing.assert_close(kept[0], seen)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architecture": "kxbatch-density-model"}, "architecture"),
        ({"widths": [1, 4]}, "columns, widths and network do not agree"),
        ({"classes": ["ant", "bee"]}, "classes and network.classes do not agree"),
        ({"classes": ["ant", "bee", "bee"]}, "classes and network.classes do not agree"),
        ({"classes": ["ant", "bee", 1.5]}, "classes"),
        ({"shape": [2, 2, 1]}, "shape and network do not agree"),
        ({"levels": 1}, "levels"),
        ({"guidance": 3}, "guidance"),
        ({"network": {"kind": "mlp", "values": 6, "classes": 1}}, "classes"),
        ({"network": {"kind": "unet", "values": 6, "classes": 3}}, "network"),
    ],
)
def test_a_config_that_anybody_may_have_written(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    written(tmp_path, trained())
    (tmp_path / "config.json").write_text(json.dumps(trained().to_json() | changes))
    with pytest.raises(ConfigError) as caught:
        TrainedClassifier.read(tmp_path)
    assert words in str(caught.value)
    assert "config.json" in str(caught.value)


def test_weights_that_are_not_the_configs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no trained classifier: config.json, model.safetensors missing"):
        TrainedClassifier.read(tmp_path)
    written(tmp_path, trained())
    digest = classifier_digest(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(trained(network=replace(MLP, layers=3)).to_json()))
    assert classifier_digest(tmp_path) != digest
    with pytest.raises(ConfigError, match=r"does not belong to the config.json beside it: (?s:.*)Missing key"):
        TrainedClassifier.load(tmp_path)
    written(tmp_path, trained())
    assert classifier_digest(tmp_path) == digest
    arrays = load_file(tmp_path / "model.safetensors")
    save_file({k: v for k, v in arrays.items() if k != "inputs.spread"}, tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match="does not belong"):
        TrainedClassifier.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 30)
    with pytest.raises(ConfigError, match="cannot be read"):
        TrainedClassifier.load(tmp_path)
