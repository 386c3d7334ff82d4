"""The Gated Attention Unit against float64 numpy, the published integrals and laws, and the invariances of its formulas."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gau_oracle import gau as oracle
from gau_oracle import seen_pairs

from kxbatch.models.attention import Frame, explicit, fused
from kxbatch.models.gau import GatedAttentionUnit, gate
from kxbatch.models.masks import Mask, valid_from_lengths
from kxbatch.models.normalizers import row_factor, weights
from kxbatch.models.norms import normalize
from kxbatch.models.rope import rope_table, turn
from kxbatch.models.text_encoder_config import Init, Normalizer, TextEncoderConfig

NORMALIZERS = get_args(Normalizer)
LENGTHS, SOURCES, LENGTH = torch.tensor([24, 9, 17]), torch.tensor([5, 9, 1]), 24


def mask_of(kind: str) -> Mask:
    valid = valid_from_lengths(LENGTHS, LENGTH)
    return {
        "full": lambda: Mask.full(3, LENGTH),
        "padding": lambda: Mask.padding(valid),
        "causal": lambda: Mask.causal(valid),
        "prefix": lambda: Mask.prefix(valid, SOURCES),
    }[kind]()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", ["full", "padding", "causal", "prefix"])
@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_the_layer_is_the_formula(normalizer: Normalizer, kind: str, bias: bool) -> None:
    torch.manual_seed(0)
    config = TextEncoderConfig(9, dim=6, expansion=10, key_dim=8, normalizer=normalizer, base_length=20, bias=bias)
    layer = GatedAttentionUnit(config).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(torch.randn_like(parameter))
    x, mask = torch.randn(3, LENGTH, 6, dtype=torch.float64), mask_of(kind)
    got = layer(x, Frame.of(config, mask, x)).detach().numpy()
    w = {name: value.numpy() for name, value in layer.state_dict().items()}
    for text in range(3):
        seen = seen_pairs(kind, LENGTH, int(LENGTHS[text]), int(SOURCES[text]))
        expected = oracle(x[text].numpy(), w, seen, normalizer, 20, config.rope_base)
        # the factor of a row is fp32
        np.testing.assert_allclose(got[text], expected, rtol=0, atol=2e-6 * np.abs(expected).max())


def test_the_two_integrals_of_silu() -> None:
    x, weight = np.polynomial.hermite_e.hermegauss(200)
    silu = F.silu(torch.from_numpy(x)).numpy()
    weight = weight / math.sqrt(2 * math.pi)
    assert weight @ silu == pytest.approx(0.2066, abs=1e-4)
    assert weight @ silu**2 == pytest.approx(0.3557, abs=1e-4)


def branch_ratio(normalizer: Normalizer, *, scale: float = 1.0, init: Init = "lecun", rope: bool = True) -> float:
    """rms(branch) / rms(x) at d = 768, s = 128, n = 512, normal x."""
    torch.manual_seed(0)
    config = TextEncoderConfig(9, dim=768, normalizer=normalizer, init=init, rope_base=10000.0 if rope else 1e300)
    layer = GatedAttentionUnit(config)
    x = torch.randn(1, 512, 768)
    frame = Frame.of(config, Mask.full(1, 512), x)
    if not rope:
        frame = Frame(torch.stack([torch.ones(512, 64), torch.zeros(512, 64)]), frame.scale, None, normalizer)
    with torch.no_grad():
        for linear in (layer.u, layer.v, layer.z, layer.out):
            linear.weight.mul_(scale)
        return float(layer(x, frame).square().mean().sqrt() / x.square().mean().sqrt())


@pytest.mark.parametrize(
    ("published", "settings"),
    [
        (0.053, {"normalizer": "squared_relu", "rope": False}),
        (0.028, {"normalizer": "squared_relu"}),
        (0.13, {"normalizer": "softmax"}),
        (0.13, {"normalizer": "softmax_plus"}),
        (8.9e-5, {"normalizer": "squared_relu", "rope": False, "scale": 0.5}),
        (3.1e-4, {"normalizer": "squared_relu", "rope": False, "init": "std-0.02"}),
    ],
)
def test_branches_are_as_small_as_measured_before(published: float, settings: dict[str, object]) -> None:
    assert branch_ratio(**settings) == pytest.approx(published, rel=0.2)  # type: ignore[arg-type]


def test_the_law_of_the_seventh_power_is_exact_for_relu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kxbatch.models.gau.F.silu", F.relu)
    for scale in (0.5, 2.0):
        fall = branch_ratio("squared_relu", scale=scale) / branch_ratio("squared_relu")
        assert fall == pytest.approx(scale**7, rel=1e-5)


def test_gau_alpha_draws_with_the_stated_deviation_and_cuts_at_two() -> None:
    torch.manual_seed(0)
    config = TextEncoderConfig(9, dim=768, layers=24)
    layer = GatedAttentionUnit(config)
    for linear in (layer.u, layer.out):
        std = 24 ** (-1 / 3) * linear.in_features**-0.5
        assert float(linear.weight.detach().std()) == pytest.approx(std, rel=0.005)
        assert float(linear.weight.detach().abs().max()) <= 2 * 1.1368 * std


@pytest.mark.parametrize(
    ("init", "alpha", "gain"),
    [
        ("deepnorm-adam", 8**0.5, 8**-0.5),
        ("deepnorm-sgd", 8**0.25, 8**-0.25),
        ("deepnorm-lamb", 1.0, 8**-0.5),
        ("lecun", 1.0, 1.0),
    ],
)
def test_presets_scale_weights_and_residual(init: Init, alpha: float, gain: float) -> None:
    torch.manual_seed(0)
    config = TextEncoderConfig(9, dim=512, layers=4, init=init)
    assert config.residual_scale == pytest.approx(alpha)
    assert float(GatedAttentionUnit(config).v.weight.detach().std()) == pytest.approx(gain * 512**-0.5, rel=0.01)


def test_softmax_plus_is_softmax_at_512_keys_and_nowhere_else() -> None:
    at = {n: float(row_factor("softmax_plus", torch.tensor([float(n)]), 512)) for n in (1, 15, 16, 511, 512, 1024)}
    assert at[512] == pytest.approx(1, abs=1e-7)
    assert at[1] == at[15] == at[16] == pytest.approx(math.log(16) / math.log(512))
    assert at[511] < 1 < at[1024] == pytest.approx(math.log(1024) / math.log(512))


def test_beyond_the_training_length_only() -> None:
    factor = row_factor("softmax_beyond", torch.tensor([1.0, 64.0, 65.0, 4096.0]), 64)
    assert factor.tolist() == pytest.approx([1, 1, math.log(65) / math.log(64), 2])


def test_squared_relu_over_its_sum_knows_no_temperature_and_softmax_does() -> None:
    scores = torch.randn(2, 30, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.allclose(weights("squared_relu_sum", scores), weights("squared_relu_sum", 7 * scores), atol=1e-12)
    assert not torch.allclose(weights("softmax", scores), weights("softmax", 7 * scores), atol=0.1)


def test_a_row_without_a_positive_score_is_no_division_by_zero() -> None:
    assert weights("squared_relu_sum", -torch.ones(1, 3, 3)).tolist() == torch.zeros(1, 3, 3).tolist()


def test_products_of_turned_vectors_know_distances_only() -> None:
    q, k = torch.randn(2, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    table = rope_table(50, 16, 10000.0, q)
    turned_q, turned_k = turn(q.expand(50, 16), table), turn(k.expand(50, 16), table)
    products = turned_q @ turned_k.T
    for distance in range(-20, 20):
        along = products.diagonal(distance)
        assert torch.allclose(along, along[0].expand_as(along), atol=1e-12)
    assert torch.allclose(turned_q.norm(dim=1), q.norm().expand(50), atol=1e-12)
    assert products.diagonal(3)[0] != pytest.approx(float(products.diagonal(4)[0]), abs=1e-3)


@pytest.mark.parametrize("kind", ["full", "padding", "causal", "prefix"])
@pytest.mark.parametrize("normalizer", ["softmax", "softmax_plus", "softmax_beyond"])
def test_torchs_kernel_equals_the_written_out_weights(normalizer: Normalizer, kind: str) -> None:
    torch.manual_seed(0)
    config = TextEncoderConfig(9, dim=16, key_dim=8, normalizer=normalizer, base_length=20)
    q, k, v = torch.randn(3, LENGTH, 8), torch.randn(3, LENGTH, 8), torch.randn(3, LENGTH, 32)
    frame = Frame.of(config, mask_of(kind), q)
    bias = None if frame.bias is None else frame.bias.unsqueeze(1)
    by_torch = fused((q * frame.scale).unsqueeze(1), k.unsqueeze(1), v.unsqueeze(1), bias).squeeze(1)
    written_out = explicit(q * frame.scale, k, v, frame.bias, normalizer)
    assert torch.allclose(by_torch, written_out, atol=1e-6)


def test_the_norm_and_its_gradient() -> None:
    x = torch.randn(3, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    expected = x.detach() / (x.detach().square().mean(-1, keepdim=True) + 1e-6).sqrt()
    assert torch.allclose(normalize("rmsnorm", x), expected, atol=1e-12)
    assert torch.allclose(normalize("rmsnorm", x.detach()), expected, atol=1e-12)
    assert torch.autograd.gradcheck(lambda x: normalize("rmsnorm", x), x)
    rounded = normalize("rmsnorm", x.detach().bfloat16().requires_grad_())
    assert torch.allclose(rounded.double(), expected, rtol=0.02, atol=0.01)
    assert normalize("rmsnorm", torch.zeros(2, 4, requires_grad=True)).tolist() == [[0.0] * 4] * 2


def test_the_gate_and_its_gradient() -> None:
    u, mixed = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.allclose(gate(u.requires_grad_(), mixed), u * u.sigmoid() * mixed, atol=1e-12)
    assert torch.autograd.gradcheck(gate, (u, mixed.requires_grad_()))
