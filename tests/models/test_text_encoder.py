"""Text encoders: padding and future cannot be seen, presets keep deep stacks still, and the plumbing around them."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from kxbatch.errors import ConfigError
from kxbatch.models.init_report import init_report
from kxbatch.models.masked_lm import MaskedLm
from kxbatch.models.text_encoder import Mask, TextEncoder, TextEncoderConfig, embed, valid_from_lengths
from kxbatch.models.text_encoder_config import Block, Normalizer, NormKind, NormPlace

SMALL = TextEncoderConfig(50, dim=32, layers=3, key_dim=16, heads=2)
BLOCKS = get_args(Block)


def built(config: TextEncoderConfig, seed: int = 0) -> TextEncoder:
    torch.manual_seed(seed)
    return TextEncoder(config)


def tokens(texts: int, length: int) -> Tensor:
    return torch.randint(50, (texts, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("norm", get_args(NormPlace))
@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("normalizer", get_args(Normalizer))
def test_padding_and_company_change_nothing(normalizer: Normalizer, block: Block, norm: NormPlace) -> None:
    encoder = built(replace(SMALL, normalizer=normalizer, block=block, norm=norm, init="lecun"))
    ids = tokens(1, 20)
    alone = encoder(ids, Mask.full(1, 20))
    for length in (21, 64):
        padded = torch.cat([ids, torch.zeros(1, length - 20, dtype=torch.int64)], dim=1)
        batch = torch.cat([tokens(1, length), padded])
        single = encoder(padded, Mask.padding(valid_from_lengths(torch.tensor([20]), length)))
        beside = encoder(batch, Mask.padding(valid_from_lengths(torch.tensor([length, 20]), length)))
        assert (single[0, :20] - alone[0]).abs().max() < 1e-5
        assert (beside[1, :20] - alone[0]).abs().max() < 1e-5


@pytest.mark.parametrize("block", BLOCKS)
@pytest.mark.parametrize("normalizer", get_args(Normalizer))
def test_a_prefix_row_sees_its_source_and_no_later_target(normalizer: Normalizer, block: Block) -> None:
    encoder = built(replace(SMALL, normalizer=normalizer, block=block, init="lecun"))
    lengths, source = torch.tensor([12, 9]), 4
    mask = Mask.prefix(valid_from_lengths(lengths, 12), torch.tensor([source, source]))
    for row in (0, 3, 4, 7, 8):
        seen = influence(encoder, tokens(2, 12), mask, row)
        allowed = torch.arange(12) <= max(row, source - 1)
        assert not (seen & ~allowed).any()
        if normalizer.startswith("softmax"):  # relu^2 leaves keys of negative score out
            assert (seen == allowed).all()


def influence(encoder: TextEncoder, ids: Tensor, mask: Mask, row: int) -> Tensor:
    """Which token vectors the state of one row has a gradient for, bool [B, L]."""
    vectors: list[Tensor] = []

    def keep(_: nn.Module, __: Any, made: Tensor) -> Tensor:
        vectors.append(made.detach().requires_grad_())
        return vectors[0]

    handle = encoder.embedding.register_forward_hook(keep)
    encoder(ids, mask)[:, row].sum(dim=0).square().sum().backward()
    handle.remove()
    assert vectors[0].grad is not None
    return vectors[0].grad.abs().amax(dim=-1) > 0


def test_a_text_without_a_token_gives_numbers() -> None:
    for normalizer in get_args(Normalizer):
        encoder = built(replace(SMALL, normalizer=normalizer))
        states = encoder(tokens(2, 6), Mask.padding(valid_from_lengths(torch.tensor([0, 6]), 6)))
        assert states.isfinite().all()


@pytest.mark.parametrize(
    ("layers", "gain_1", "gain_alpha"), [(6, 0.023, 0.004), (24, 0.125, 0.003), (96, 0.997, 0.004)]
)
def test_one_step_throws_a_deep_stack_unless_its_init_knows_the_depth(
    layers: int, gain_1: float, gain_alpha: float
) -> None:
    ids = torch.randint(1000, (4, 64), generator=torch.Generator().manual_seed(0))
    config = TextEncoderConfig(1000, dim=64, layers=layers, init="lecun")
    torch.manual_seed(0)
    assert init_report(config, ids)["one_step_change"] == pytest.approx(gain_1, rel=0.15)
    # the published figures have one digit
    shallow = init_report(replace(config, init="gau-alpha"), ids)["one_step_change"]
    assert shallow == pytest.approx(gain_alpha, abs=1e-3)


@pytest.mark.parametrize("block", BLOCKS)
def test_the_report_is_json_and_names_every_branch(block: Block) -> None:
    report = init_report(replace(SMALL, block=block), tokens(2, 16))
    assert json.loads(json.dumps(report)) == report
    assert len(report["branch_ratio"]) == (3 if block == "gau" else 6)
    assert all(0 < ratio < 1 for ratio in report["branch_ratio"])


def test_two_gau_layers_have_the_parameters_of_a_block() -> None:
    gau = built(TextEncoderConfig(1, dim=768, layers=2))
    attention = built(TextEncoderConfig(1, dim=768, layers=1, block="attention"))
    count = [sum(p.numel() for p in model.layers.parameters()) for model in (gau, attention)]
    assert count[0] / count[1] == pytest.approx(1.028, abs=0.001)


@pytest.mark.parametrize("norm_kind", get_args(NormKind))
@pytest.mark.parametrize("block", BLOCKS)
def test_post_norm_states_have_length_one_per_dimension(block: Block, norm_kind: NormKind) -> None:
    states = built(replace(SMALL, block=block, norm_kind=norm_kind))(tokens(2, 8), Mask.full(2, 8))
    assert torch.allclose(states.square().mean(dim=-1), torch.ones(2, 8), atol=1e-4)


@pytest.mark.parametrize("block", BLOCKS)
def test_weights_follow_the_seed_and_keep_their_names(block: Block) -> None:
    config = replace(SMALL, block=block, layers=1)
    one, same, other = (built(config, seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["embedding.weight"], other["embedding.weight"])
    branches = {
        "gau": ["gau.scale", "gau.u.weight", "gau.v.weight", "gau.z.weight", "gau.out.weight"],
        "attention": ["attention.project.weight", "attention.out.weight", "ffn.wide.weight", "ffn.out.weight"],
    }
    assert list(one) == ["embedding.weight", *(f"layers.0.{name}" for name in branches[block])]


@pytest.mark.parametrize("block", BLOCKS)
def test_checkpointing_changes_no_gradient(block: Block) -> None:
    grads = []
    for checkpointing in (False, True):
        encoder = built(replace(SMALL, block=block, dropout=0.1, checkpointing=checkpointing))
        torch.manual_seed(5)
        encoder(tokens(2, 8), Mask.full(2, 8)).square().sum().backward()
        grads.append([p.grad for p in encoder.parameters()])
    for kept, computed_again in zip(*grads, strict=True):
        assert torch.equal(kept, computed_again)


@pytest.mark.parametrize("block", BLOCKS)
def test_bf16_is_near_fp32(block: Block) -> None:
    encoder = built(replace(SMALL, block=block))
    ids, mask = tokens(2, 16), Mask.padding(valid_from_lengths(torch.tensor([16, 9]), 16))
    exact = encoder(ids, mask)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = encoder(ids, mask)
    rounded = encoder.bfloat16()(ids, mask)
    assert mixed.dtype == torch.float32
    assert rounded.dtype == torch.bfloat16
    for near, tolerance in ((mixed, 0.02), (rounded.float(), 0.04)):
        assert (near - exact).norm() / exact.norm() < tolerance


def test_masked_lm_gives_the_logits_asked_for() -> None:
    torch.manual_seed(0)
    model = MaskedLm(SMALL)
    ids, mask, positions = tokens(2, 8), Mask.full(2, 8), torch.tensor([0, 7, 8, 13])
    everywhere = model.encoder(ids, mask) @ model.encoder.embedding.weight.T
    assert torch.allclose(model(ids, mask, positions), everywhere.flatten(0, 1)[positions], atol=1e-5)
    assert [name for name, _ in model.named_parameters() if "encoder.layers" not in name] == [
        "encoder.embedding.weight"
    ]


@pytest.mark.parametrize("block", BLOCKS)
def test_no_parameter_is_read_outside_its_modules_forward(block: Block) -> None:
    """As ZeRO-3 has it: a module's own parameters are there while its forward runs, and gone before and after."""
    torch.manual_seed(0)
    model = MaskedLm(replace(SMALL, block=block, bias=True))
    ids, mask, positions = tokens(2, 8), Mask.full(2, 8), torch.arange(16)
    with torch.no_grad():
        expected = model(ids, mask, positions)
    homes = {parameter: parameter.data for parameter in model.parameters()}

    def fetch(module: nn.Module, _: Any) -> None:
        for parameter in module.parameters(recurse=False):
            parameter.data = homes[parameter]

    def release(module: nn.Module, *_: Any) -> None:
        for parameter in module.parameters(recurse=False):
            parameter.data = torch.full_like(homes[parameter], torch.nan)

    for module in model.modules():
        release(module)
        module.register_forward_pre_hook(fetch)
        module.register_forward_hook(release)
    with torch.no_grad():
        assert torch.equal(model(ids, mask, positions), expected)


class Exported(nn.Module):
    """What a runtime would get: ids and lengths in, sentence vectors out."""

    def __init__(self, encoder: TextEncoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        mask = Mask.padding(valid_from_lengths(lengths, ids.shape[1]))
        return embed(self.encoder(ids, mask), mask, "last-mean")


@pytest.mark.parametrize("block", BLOCKS)
def test_torch_can_export_it_for_any_batch_and_length(block: Block) -> None:
    model = Exported(built(replace(SMALL, block=block))).eval().requires_grad_(False)
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length", min=2, max=512)
    program = torch.export.export(
        model,
        (tokens(3, 9), torch.tensor([9, 4, 7])),
        dynamic_shapes=({0: batch, 1: length}, {0: batch}),
    )
    ids, lengths = tokens(5, 17), torch.tensor([17, 1, 5, 16, 2])
    assert torch.allclose(program.module()(ids, lengths), model(ids, lengths), atol=1e-5)


def test_poolings() -> None:
    encoder = built(SMALL)
    ids, mask = tokens(2, 5), Mask.padding(valid_from_lengths(torch.tensor([5, 3]), 5))
    first, last = encoder.states(ids, mask)
    assert torch.equal(embed(last, mask, "cls"), last[:, 0])
    assert torch.allclose(embed(last, mask, "last-mean")[1], last[1, :3].mean(dim=0), atol=1e-6)
    both = (first[1, :3].mean(dim=0) + last[1, :3].mean(dim=0)) / 2
    assert torch.allclose(embed(last, mask, "first-last-mean", first)[1], both, atol=1e-6)
    assert embed(last.bfloat16(), mask, "last-mean").dtype == torch.float32
    with pytest.raises(ConfigError, match=r"'last_mean'.*did you mean 'last-mean'"):
        embed(last, mask, "last_mean")
    with pytest.raises(ConfigError, match="first layer"):
        embed(last, mask, "first-last-mean")


def test_a_config_survives_json_and_tells_differences() -> None:
    config = replace(SMALL, block="attention", expansion=96, dropout=0.1)
    assert TextEncoderConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    assert config.differences(replace(config, layers=12, init="lecun")) == ["layers 3 -> 12", "init gau-alpha -> lecun"]
    assert config.differences(config) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"normalizer": "softmaxplus"}, "did you mean 'softmax_plus'"),
        ({"layers": 0}, "layers = 0: a whole number, 1 or more"),
        ({"dim": 32.0}, "dim = 32.0: a whole number"),
        ({"bias": 1}, "bias = 1: true or false"),
        ({"dropout": 1.0}, "dropout = 1.0"),
        ({"key_dim": 15}, "key_dim = 15: must be even"),
        ({"block": "attention", "heads": 5}, "heads = 5: must divide dim = 32"),
        ({"block": "attention", "heads": 32}, "dim / heads = 1: must be even"),
        ({"base_length": 1}, "base_length = 1: a whole number, 2 or more"),
        ({"pad_id": 50}, "the vocabulary ends at 49"),
        ({"rope_base": 1.0}, "rope_base = 1.0"),
        ({"init": "deepnorm-adam", "norm": "pre"}, "DeepNorm is for norm = 'post'"),
    ],
)
def test_a_config_that_cannot_be_built_says_why(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        replace(SMALL, **change)


def test_stored_configs_name_every_field_and_no_other() -> None:
    values = SMALL.to_json()
    with pytest.raises(ConfigError, match="'layer' is no field of it; did you mean 'layers'"):
        TextEncoderConfig.from_json(values | {"layer": 3})
    del values["dim"], values["init"]
    with pytest.raises(ConfigError, match="dim, init missing"):
        TextEncoderConfig.from_json(values)


def test_masks_refuse_what_is_no_mask() -> None:
    with pytest.raises(ConfigError, match="expected bool"):
        Mask.padding(torch.ones(2, 3))
    with pytest.raises(ConfigError, match="source lengths"):
        Mask.prefix(torch.ones(2, 3, dtype=torch.bool), torch.tensor([1]))
