"""The steps that a sentence-transformers folder puts after the transformer: Pooling, Dense, Normalize.

Read here rather than through the sentence-transformers library, whose import alone takes seconds in every worker;
the tests hold the two against each other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from kxbatch.errors import ConfigError, nearest
from kxbatch.models.encoders.folders import Module
from kxbatch.models.encoders.pooling import Head, TokenStates, masked_mean

Step = Callable[[Tensor], Tensor]
_ACTIVATIONS: dict[str, Step] = {
    "Identity": lambda x: x,
    "Tanh": torch.tanh,
    "ReLU": torch.relu,
    "GELU": torch.nn.functional.gelu,
    "SiLU": torch.nn.functional.silu,
    "Sigmoid": torch.sigmoid,
}


def sentence_head(modules: tuple[Module, ...], prompt_length: int, device: str) -> Head:
    """All steps after the transformer as one function.

    Args:
        modules: as the folder lists them; the first is a Pooling.
        prompt_length: tokens of the prompt, left out where the pooling says so.
        device: where the weights of Dense steps go.

    Raises:
        ConfigError: the order, a pooling mode, an activation or a weight file is not usable.
    """
    kinds = [module.kind for module in modules]
    if kinds[0] != "Pooling" or "Transformer" in kinds or "Pooling" in kinds[1:]:
        raise ConfigError(
            f"'{modules[0].path.parent}': modules Transformer, {', '.join(kinds)}: expected one Pooling second"
        )
    pool = _pooling(modules[0], prompt_length)
    steps = [_dense(module, device) if module.kind == "Dense" else _normalize(module) for module in modules[1:]]

    def head(states: TokenStates) -> Tensor:
        vectors_BD = pool(states)
        for step in steps:
            vectors_BD = step(vectors_BD)
        return vectors_BD

    return head


def _first(states: Tensor, mask: Tensor) -> Tensor:
    return states[torch.arange(len(states), device=states.device), mask.argmax(dim=1)]


def _last(states: Tensor, mask: Tensor) -> Tensor:
    places = torch.arange(mask.shape[1], device=mask.device)
    return states[torch.arange(len(states), device=states.device), (mask * places).argmax(dim=1)]


def _max(states: Tensor, mask: Tensor) -> Tensor:
    return states.masked_fill(mask.unsqueeze(-1) == 0, float("-inf")).amax(dim=1)


def _mean_sqrt(states: Tensor, mask: Tensor) -> Tensor:
    return masked_mean(states, mask) * mask.sum(dim=1, keepdim=True).clamp(min=1e-9).sqrt()


def _weighted_mean(states: Tensor, mask: Tensor) -> Tensor:
    return masked_mean(states, mask * torch.arange(1, mask.shape[1] + 1, device=mask.device))


_MODES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cls": _first,
    "max": _max,
    "mean": masked_mean,
    "mean_sqrt_len_tokens": _mean_sqrt,
    "weightedmean": _weighted_mean,
    "lasttoken": _last,
}
_FLAGS = {  # how older folders say it, in the order in which the vectors are joined
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}


def _pooling(module: Module, prompt_length: int) -> Head:
    config = module.config()
    modes = _modes(module, config)
    skipped = 0 if config.get("include_prompt", True) else prompt_length

    def pool(states: TokenStates) -> Tensor:
        mask_BL = states.mask
        if skipped:
            mask_BL = mask_BL.clone()
            mask_BL[:, :skipped] = 0
        return torch.cat([mode(states.last, mask_BL) for mode in modes], dim=1)

    return pool


def _modes(module: Module, config: dict[str, Any]) -> list[Callable[[Tensor, Tensor], Tensor]]:
    named = config.get("pooling_mode")
    if named is None:
        named = [mode for flag, mode in _FLAGS.items() if config.get(flag)] or ["mean"]
    names = [named] if isinstance(named, str) else list(named)
    for name in names:
        if name not in _MODES:
            raise ConfigError(
                f"'{module.path}': pooling mode '{name}' is not supported; supported are {', '.join(_MODES)}"
                f"{nearest(str(name), _MODES)}"
            )
    return [_MODES[name] for name in names]


def _dense(module: Module, device: str) -> Step:
    config = module.config()
    activation = str(config.get("activation_function") or "Tanh").rpartition(".")[2]
    on_sentences = config.get("module_input_name", "sentence_embedding") == "sentence_embedding"
    if activation not in _ACTIVATIONS or config.get("use_residual") or not on_sentences:
        raise ConfigError(
            f"'{module.path}': a Dense with activation {activation}, use_residual {config.get('use_residual', False)} "
            f"on {config.get('module_input_name', 'sentence_embedding')} is not supported; supported are "
            f"{', '.join(_ACTIVATIONS)} on sentence_embedding without a residual"
        )
    path = module.path / "model.safetensors"
    if not path.is_file():
        raise ConfigError(
            f"'{module.path}': model.safetensors is missing; save the model again with sentence-transformers"
        )
    weights = {name: value.to(device, torch.float32) for name, value in load_file(path).items()}
    apply = _ACTIVATIONS[activation]
    return lambda x: apply(torch.nn.functional.linear(x, weights["linear.weight"], weights.get("linear.bias")))


def _normalize(module: Module) -> Step:
    return torch.nn.functional.normalize
