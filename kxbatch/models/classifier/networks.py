"""The networks: a body that makes one vector of a row, and a head that names its class.

    f(x) = silu(W h(x) + b)        log p(k | x) = log softmax(V f(x) + c)_k

h is the body, f the features. None has BatchNorm: what a network says of a row does not depend on the rows beside it.

Letters: B rows, D values of one, W width of the stream, C channels, H and W height and width, F features, K classes. Values of
an image lie as height by width by channels.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from kxbatch.models.classifier.config import ConvConfig, MlpConfig, NetworkConfig
from kxbatch.models.diffusion.unet import group_norm


class Body(nn.Module):
    """What a body has besides `forward`, which takes rows [B, D] to [B, width]."""

    width: int


class MlpBlock(nn.Module):
    """`x + W_o silu(W_i norm(x))`."""

    def __init__(self, width: int, dropout: float) -> None:
        super().__init__()
        self.norm, self.inner = nn.LayerNorm(width), nn.Linear(width, width)
        self.dropout, self.out = nn.Dropout(dropout), nn.Linear(width, width)

    def forward(self, x_BW: Tensor) -> Tensor:
        """[B, W] to the same."""
        y_BW: Tensor = x_BW + self.out(self.dropout(F.silu(self.inner(self.norm(x_BW)))))
        return y_BW


class MlpBody(Body):
    """A residual perceptron."""

    def __init__(self, config: MlpConfig) -> None:
        super().__init__()
        self.width = config.width
        self.enter = nn.Linear(config.values, config.width)
        self.blocks = nn.Sequential(*(MlpBlock(config.width, config.dropout) for _ in range(config.layers)))
        self.norm = nn.LayerNorm(config.width)

    def forward(self, x_BD: Tensor) -> Tensor:
        """[B, D] to [B, W]."""
        h_BW: Tensor = self.norm(self.blocks(self.enter(x_BD)))
        return h_BW


class ConvBody(Body):
    """Two convolutions a level, each with GroupNorm and SiLU; then the mean over all places."""

    def __init__(self, config: ConvConfig) -> None:
        super().__init__()
        self.width, self._shape = config.channels[-1], config.shape
        layers: list[nn.Module] = []
        before = config.shape[2]
        for level, channels in enumerate(config.channels):
            layers += _convolution(before, channels, stride=1 if level == 0 else 2)
            layers += _convolution(channels, channels, stride=1)
            before = channels
        self.layers, self.dropout = nn.Sequential(*layers), nn.Dropout(config.dropout)

    def forward(self, x_BD: Tensor) -> Tensor:
        """[B, D] to [B, C]."""
        maps_BCHW = self.layers(x_BD.view(-1, *self._shape).permute(0, 3, 1, 2).contiguous())
        h_BC: Tensor = self.dropout(maps_BCHW.mean(dim=(2, 3)))
        return h_BC


class ClassifierNetwork(nn.Module):
    """A body, features and classes."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.body: Body = MlpBody(config) if isinstance(config, MlpConfig) else ConvBody(config)
        self.features = nn.Linear(self.body.width, config.features)
        self.classes = nn.Linear(config.features, config.classes)

    def forward(self, x_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Of rows.

        Args:
            x_BD: rows in the units of the network, float32 [B, D].

        Returns:
            Features [B, F], and logits of the classes [B, K].
        """
        features_BF = F.silu(self.features(self.body(x_BD)))
        return features_BF, self.classes(features_BF)


def _convolution(channels: int, to: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, to, 3, stride=stride, padding=1), group_norm(to), nn.SiLU()]
