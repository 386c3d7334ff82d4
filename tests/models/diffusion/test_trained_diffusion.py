"""The folder of a trained diffusion model: what comes back of it, what it predicts, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from kxbatch.errors import ConfigError
from kxbatch.kernels.diffusion import RowNoise, make_schedule, sample, spaced_times
from kxbatch.kernels.diffusion.transitions import Ddim
from kxbatch.kernels.spread import spread_of
from kxbatch.models.diffusion.config import MlpConfig
from kxbatch.models.diffusion.model import DiffusionModel
from kxbatch.models.diffusion.networks import make_network
from kxbatch.models.diffusion.noise_schedule import NoiseSchedule
from kxbatch.models.diffusion.scaling import Scaling
from kxbatch.models.diffusion.trained import TrainedDiffusion, diffusion_digest

CLASSES = ("ant", "bee", "cat")
NOISE = NoiseSchedule("linear", 20, {"last": 0.3})


def trained(**changes: Any) -> TrainedDiffusion:
    found = TrainedDiffusion(
        network=MlpConfig(values=6, classes=3, width=8, layers=1),
        schedule=NOISE,
        columns=("a", "v"),
        widths=(1, 5),
        prediction="v",
        average=True,
        class_column="kind",
        classes=CLASSES,
    )
    return replace(found, **changes)


def written(folder: Path, of: TrainedDiffusion, scaling: Scaling | None = None) -> Path:
    """A folder with weights of 0.2, and live ones of 0.1."""
    scaling = scaling or Scaling(np.arange(6.0), np.full(6, 2.0), of.levels)
    weights = {name: weight.detach().numpy() for name, weight in make_network(of.network).named_parameters()}
    for file, value in (("model.safetensors", 0.2), ("live.safetensors", 0.1)):
        save_file(
            of.pack({name: np.full_like(array, value) for name, array in weights.items()}, scaling), folder / file
        )
    (folder / "config.json").write_text(json.dumps(of.to_json()))
    return folder


def random(**changes: Any) -> DiffusionModel:
    """A model of random weights, in memory."""
    torch.manual_seed(0)
    network = make_network(MlpConfig(values=6, classes=3, width=8, layers=1))
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    scaling = Scaling(np.arange(6.0), np.full(6, 2.0))
    return replace(DiffusionModel(network.eval(), NOISE.make(), "eps", scaling, None, CLASSES), **changes)


def test_a_folder_comes_back(tmp_path: Path) -> None:
    written(tmp_path, trained())
    assert TrainedDiffusion.read(tmp_path) == trained()
    model = TrainedDiffusion.load(tmp_path)
    assert model.schedule.identity == "linear(T=20, first=0.0001, last=0.3)"
    assert (model.prediction, model.classes, model.values, model.shape) == ("v", CLASSES, 6, None)
    assert all((weight == 0.2).all() for weight in model.network.parameters())
    live = TrainedDiffusion.load(tmp_path, which="live").network
    assert all((weight == 0.1).all() for weight in live.parameters())
    assert not live.training


def test_the_schedule_asked_for_must_be_that_of_the_folder(tmp_path: Path) -> None:
    written(tmp_path, trained())
    TrainedDiffusion.load(tmp_path, schedule=make_schedule("linear", 20, last=0.3))
    with pytest.raises(ConfigError) as caught:
        TrainedDiffusion.load(tmp_path, schedule=make_schedule("linear", 1000))
    for words in (str(tmp_path), "linear(T=20, first=0.0001, last=0.3)", "linear(T=1000, first=0.0001, last=0.02)"):
        assert words in str(caught.value)


def test_predictions_are_the_networks_and_guidance_mixes_them() -> None:
    model = random()
    x, t = torch.randn(4, 6), torch.tensor([1, 5, 10, 20])
    numbers = model.class_numbers(["bee", "ant", "cat", "bee"])
    assert numbers.tolist() == [1, 0, 2, 1]
    with torch.no_grad():
        told, without = model.network(x, t, numbers), model.network(x, t)
        torch.testing.assert_close(model.denoiser(numbers).predict(x, t), told)
        torch.testing.assert_close(model.denoiser().predict(x, t), without)
        torch.testing.assert_close(model.denoiser(numbers, 0.0).predict(x, t), without)
        guided = model.denoiser(numbers, 2.5).predict(x, t)
        torch.testing.assert_close(guided, without + 2.5 * (told - without))
    assert (told - without).abs().max() > 1e-3


def test_samples_are_drawn_from_it() -> None:
    model = random()
    denoiser = model.denoiser(model.class_numbers(["bee", "cat"]), 1.5)
    drawn = sample(denoiser, Ddim(1.0), spaced_times(20, 5), RowNoise(0, [0, 1]), (6,))
    values = model.to_values(drawn)
    assert values.shape == (2, 6)
    assert np.isfinite(values).all()


def test_a_model_without_classes_or_that_cannot_go_without_says_so() -> None:
    only = random(unconditional=False)
    numbers = only.class_numbers(["ant"])
    only.denoiser(numbers)
    for arguments in ((None,), (numbers, 2.0), (numbers, 0.0)):
        with pytest.raises(ConfigError, match="class_dropout above 0"):
            only.denoiser(*arguments)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="trained without: train it with class_column"):
        random(classes=()).denoiser(numbers)
    with pytest.raises(ConfigError, match="are ant, bee, cat; it knows no class 'be'; did you mean 'bee'"):
        only.class_numbers(["be"])


def test_levels_come_to_one_and_minus_one_and_back() -> None:
    scaling = Scaling.of_levels(3, 256)
    assert scaling(np.array([[0.0, 51.0, 255.0]])).tolist() == [[-1.0, np.float32(-0.6), 1.0]]
    every = np.arange(256.0)[:, None]
    assert np.array_equal(Scaling.of_levels(1, 256).back(Scaling.of_levels(1, 256)(every)), every)
    assert scaling.back(np.array([[-1.3, 0.0001, 9.0]])).tolist() == [[0.0, 128.0, 255.0]]
    model = random(scaling=Scaling.of_levels(6, 17))
    assert model.denoiser().clip == 1.0
    assert model.denoiser(clip=False).clip is None
    assert random().denoiser().clip is None


def test_standardising_leaves_what_never_changes() -> None:
    values = np.array([[1.0, 7.1, 1e9], [3.0, 7.1, 1e9 + 1], [2.0, 7.1, 1e9 + 2]])
    scaling = Scaling.standardising(spread_of(values))
    units = scaling(values)
    np.testing.assert_allclose(units.std(0), [1, 0, 1], rtol=1e-6)
    np.testing.assert_allclose(units.mean(0), 0, atol=1e-6)
    np.testing.assert_allclose(scaling.back(units) - values, 0, atol=1e-6)
    assert np.array_equal(Scaling.none(3)(values), values.astype(np.float32))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"architecture": "kxbatch-density-model"}, "architecture"),
        ({"widths": [1, 4]}, "columns, widths and network do not agree"),
        ({"classes": ["ant", "bee"]}, "classes and network.classes do not agree"),
        ({"classes": ["ant", "bee", "bee"]}, "classes and network.classes do not agree"),
        ({"shape": [2, 2, 1]}, "shape and network do not agree"),
        ({"prediction": "noise"}, "prediction"),
        ({"guidance": 3}, "guidance"),
        ({"network": {"kind": "mlp", "values": 6, "width": 7}}, "width = 7: must be a multiple of 2"),
        ({"schedule": {**NOISE.to_json(), "steps": 30}}, "its numbers are those of 'linear(T=30"),
        ({"schedule": {**NOISE.to_json(), "kind": "liner"}}, "schedule.kind"),
    ],
)
def test_a_config_that_anybody_may_have_written(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    written(tmp_path, trained())
    (tmp_path / "config.json").write_text(json.dumps(trained().to_json() | changes))
    with pytest.raises(ConfigError) as caught:
        TrainedDiffusion.read(tmp_path)
    assert words in str(caught.value)
    assert "config.json" in str(caught.value)


def test_weights_that_are_not_the_configs(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no trained diffusion model: config.json, model.safetensors missing"):
        TrainedDiffusion.read(tmp_path)
    written(tmp_path, trained())
    digest = diffusion_digest(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(trained(network=MlpConfig(6, 3, 8, 2)).to_json()))
    assert diffusion_digest(tmp_path) != digest
    with pytest.raises(ConfigError, match=r"does not belong to the config.json beside it: (?s:.*)Missing key"):
        TrainedDiffusion.load(tmp_path)
    arrays = load_file(tmp_path / "model.safetensors")
    written(tmp_path, trained())
    save_file({k: v for k, v in arrays.items() if k != "inputs.spread"}, tmp_path / "model.safetensors")
    with pytest.raises(ConfigError, match="does not belong"):
        TrainedDiffusion.load(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 30)
    with pytest.raises(ConfigError, match="cannot be read"):
        TrainedDiffusion.load(tmp_path)
    (tmp_path / "live.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"live.safetensors' cannot be read"):
        TrainedDiffusion.load(tmp_path, which="live")
