"""First weights: every matrix of the blocks is drawn with standard deviation gain / sqrt(fan in), or 0.02.

    preset           distribution         gain            residual
    lecun            normal               1               x + F(x)
    std-0.02         normal               (std 0.02)      x + F(x)
    gau-alpha        normal, cut at 2     N^(-1/3)        x + F(x)
    deepnorm-adam    normal               (2N)^(-1/2)     (2N)^(1/2) x + F(x)
    deepnorm-sgd     normal               (2N)^(-1/4)     (2N)^(1/4) x + F(x)
    deepnorm-lamb    normal               (2N)^(-1/2)     x + F(x)

Su, "GAU-alpha" (2022), "Training 1000-layer Transformers" (2022). N is the number of GAU layers. Of an attention stack it
is the number of blocks in DeepNorm's formulas, which count two branches a block themselves, and of branches in GAU-alpha's.
"""

from __future__ import annotations

from torch import nn

from kxbatch.models.text_encoder_config import TextEncoderConfig

CUT = 1.1368  # a normal distribution cut at 2 standard deviations has 1 / 1.1368 of its deviation left
EMBEDDING_STD = 0.02  # the stream is normalised right after it; this sets the scale of the first logits of a tied head


def gain(config: TextEncoderConfig) -> float:
    """What the standard deviation of LeCun's initialisation is multiplied by."""
    branches = config.layers * (1 if config.block == "gau" else 2)
    exponents = {"deepnorm-adam": -1 / 2, "deepnorm-sgd": -1 / 4, "deepnorm-lamb": -1 / 2}
    if config.init == "gau-alpha":
        return float(branches ** (-1 / 3))
    return float((2 * config.layers) ** exponents.get(config.init, 0.0))


def initialise(linear: nn.Linear, config: TextEncoderConfig) -> None:
    """Draw a matrix of a block, from torch's global generator; its biases are 0."""
    std = 0.02 if config.init == "std-0.02" else gain(config) * linear.in_features**-0.5
    if config.init == "gau-alpha":
        std *= CUT
        nn.init.trunc_normal_(linear.weight, std=std, a=-2 * std, b=2 * std)
    else:
        nn.init.normal_(linear.weight, std=std)
    if linear.bias is not None:
        nn.init.zeros_(linear.bias)
