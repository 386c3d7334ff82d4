import pytest
import torch
from torch import nn

from kxbatch.models.encoders.linear import PackedLinear, can_pack, pack_linears

pytestmark = pytest.mark.skipif(
    not hasattr(torch.ops.mkldnn, "_linear_pointwise"), reason="this torch has no oneDNN operators"
)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 24), (7, 24), (3, 5, 24), (2, 1500, 24)])
def test_a_packed_layer_computes_the_same(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    linear, x = nn.Linear(24, 40, bias=bias), torch.randn(shape)
    with torch.inference_mode():
        torch.testing.assert_close(PackedLinear(linear)(x), linear(x), atol=1e-5, rtol=1e-5)


def test_a_layer_that_is_shared_is_packed_once() -> None:
    shared = nn.Linear(4, 4)
    inner = nn.Sequential(shared, nn.Linear(4, 2))
    model = nn.Sequential(shared, inner)
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = model(x)
        pack_linears(model)
        torch.testing.assert_close(model(x), expected, atol=1e-6, rtol=1e-6)
    assert model[0] is inner[0]
    assert not any(type(module) is nn.Linear for module in model.modules())


def test_models_with_code_of_their_own_are_left_alone() -> None:
    assert not can_pack(nn.Sequential(nn.Linear(4, 4)))
