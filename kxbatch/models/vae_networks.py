"""Encoders and decoders of a variational autoencoder: perceptrons for vectors, convolutions for images.

Letters: N rows or samples, D values of a row, L latent dimensions, P numbers a value; H, W, C height, width and channels of an
image, whose values lie in a row in that order.
"""

from __future__ import annotations

import itertools

from torch import Tensor, nn

from kxbatch.models.vae_config import VaeArchitecture

_ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh, "silu": nn.SiLU}


def make_encoder(config: VaeArchitecture, outputs: int) -> nn.Module:
    """From values [N, D] to [N, outputs]."""
    if config.network == "conv":
        return _ConvEncoder(config, outputs)
    return _perceptron(config, [config.values, *config.hidden, outputs], config.dropout)


def make_decoder(config: VaeArchitecture, numbers: int) -> nn.Module:
    """From z [N, L] to numbers [N, P, D]."""
    if config.network == "conv":
        return _ConvDecoder(config, numbers)
    layers = _perceptron(config, [config.latent, *reversed(config.hidden), numbers * config.values], 0.0)
    return nn.Sequential(layers, nn.Unflatten(1, (numbers, config.values)))


def _perceptron(config: VaeArchitecture, widths: list[int], dropout: float) -> nn.Sequential:
    activation = _ACTIVATIONS[config.activation]
    layers: list[nn.Module] = []
    for narrow, wide in itertools.pairwise(widths[:-1]):
        layers += [nn.Linear(narrow, wide), activation()]
        if dropout:
            layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]))


def _sizes(config: VaeArchitecture) -> list[tuple[int, int]]:
    """Height and width before and after each halving, rounded up."""
    assert config.shape is not None
    found = [config.shape[:2]]
    for _ in config.hidden:
        height, width = found[-1]
        found.append(((height + 1) // 2, (width + 1) // 2))
    return found


class _ConvEncoder(nn.Module):
    """Convolutions of stride 2, then one linear map."""

    def __init__(self, config: VaeArchitecture, outputs: int) -> None:
        super().__init__()
        assert config.shape is not None
        self._shape = config.shape
        height, width = _sizes(config)[-1]
        layers: list[nn.Module] = []
        for narrow, wide in itertools.pairwise([config.shape[2], *config.hidden]):
            layers += [nn.Conv2d(narrow, wide, 3, stride=2, padding=1), _ACTIVATIONS[config.activation]()]
            if config.dropout:
                layers.append(nn.Dropout2d(config.dropout))
        self.layers = nn.Sequential(*layers, nn.Flatten())
        self.head = nn.Linear(config.hidden[-1] * height * width, outputs)

    def forward(self, values_ND: Tensor) -> Tensor:
        images_NCHW = values_ND.view(-1, *self._shape).permute(0, 3, 1, 2)
        out: Tensor = self.head(self.layers(images_NCHW.contiguous()))
        return out


class _ConvDecoder(nn.Module):
    """One linear map, then doubling and convolution until the image has its size: no checkerboard, and any size can be met."""

    def __init__(self, config: VaeArchitecture, numbers: int) -> None:
        super().__init__()
        assert config.shape is not None
        sizes, channels = _sizes(config), config.shape[2]
        self._numbers, self._channels = numbers, channels
        widths = [*reversed(config.hidden), config.hidden[0]]
        (height, width), *larger = reversed(sizes)
        layers: list[nn.Module] = [
            nn.Linear(config.latent, widths[0] * height * width),
            nn.Unflatten(1, (widths[0], height, width)),
            _ACTIVATIONS[config.activation](),
        ]
        for (wide, narrow), size in zip(itertools.pairwise(widths), larger, strict=True):
            layers += [nn.Upsample(size), nn.Conv2d(wide, narrow, 3, padding=1), _ACTIVATIONS[config.activation]()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(widths[-1], numbers * channels, 3, padding=1))

    def forward(self, z_NL: Tensor) -> Tensor:
        maps_NCHW: Tensor = self.layers(z_NL)
        maps_NPCHW = maps_NCHW.view(len(z_NL), self._numbers, self._channels, *maps_NCHW.shape[2:])
        return maps_NPCHW.permute(0, 1, 3, 4, 2).flatten(2)
