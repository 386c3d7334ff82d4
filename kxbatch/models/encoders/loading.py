"""A transformer and its tokenizer from a folder: safetensors only, nothing left to chance."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from kxbatch.errors import ConfigError
from kxbatch.models.encoders.folders import ModelFolder
from kxbatch.models.encoders.protocol import EncoderSettings

DEFAULT_MAX_LENGTH = 512  # of models that name no limit of their own
_NO_LIMIT = 10**9  # tokenizers without a limit report 10**30
_LOAD_ERRORS = (OSError, ValueError, KeyError, AttributeError, ImportError, RuntimeError, SafetensorError)


def load_model(folder: ModelFolder, settings: EncoderSettings, dtype: torch.dtype) -> tuple[Any, bool]:
    """The transformer, ready for inference, on the CPU.

    Returns:
        The model (the encoder half of an encoder-decoder), and whether its pooler has trained weights.

    Raises:
        ConfigError: it cannot be loaded, or weights other than the pooler's are missing.
    """
    try:
        with _quiet():
            model, report = _auto("AutoModel").from_pretrained(
                folder.transformer,
                dtype=dtype,
                use_safetensors=True,
                trust_remote_code=settings.trust_remote_code,
                local_files_only=settings.offline,
                output_loading_info=True,
            )
    except _LOAD_ERRORS as error:
        raise _unusable(folder, error) from error
    missing = sorted(report["missing_keys"])
    other = [name for name in missing if "pooler" not in name]
    if other:
        raise ConfigError(
            f"'{folder.transformer}': the weights of {len(other)} parameters are missing, {other[0]} among them; "
            "config.json and model.safetensors do not belong together"
        )
    model.config.use_cache = False
    if model.config.is_encoder_decoder:
        model = model.get_encoder()
    return model.eval(), not missing


def load_tokenizer(folder: ModelFolder, settings: EncoderSettings) -> Any:
    """The fast tokenizer.

    Raises:
        ConfigError: it cannot be loaded, or is not a fast one.
    """
    try:
        with _quiet():
            tokenizer = _auto("AutoTokenizer").from_pretrained(
                folder.transformer,
                trust_remote_code=settings.trust_remote_code,
                local_files_only=settings.offline,
            )
    except _LOAD_ERRORS as error:
        raise _unusable(folder, error) from error
    if not tokenizer.is_fast:
        raise ConfigError(
            f"'{folder.transformer}': {type(tokenizer).__name__} is no fast tokenizer; save one as tokenizer.json"
        )
    return tokenizer


def resolve_max_length(folder: ModelFolder, settings: EncoderSettings, model: Any, tokenizer: Any) -> int:
    """Most tokens of a text: what was asked for, else what folder, tokenizer and position table allow.

    Raises:
        ConfigError: more was asked for than the model has positions, or too little for a single word.
    """
    positions = positions_of(model)
    if settings.max_length is not None:
        special = int(tokenizer.num_special_tokens_to_add(pair=False))
        if not special < settings.max_length <= positions:
            raise ConfigError(
                f"max_length = {settings.max_length}: '{folder.transformer}' takes {special + 1} to {positions} tokens"
            )
        return settings.max_length
    wanted = folder.max_length or int(tokenizer.model_max_length)
    limit = min(wanted, positions)
    return limit if limit < _NO_LIMIT else DEFAULT_MAX_LENGTH


def positions_of(model: Any) -> int:
    """Tokens for which a transformer has positions; tables that start after the padding id (RoBERTa) have fewer."""
    for name, module in model.named_modules():
        if name.rpartition(".")[2] == "position_embeddings" and isinstance(module, nn.Embedding):
            return int(module.num_embeddings) - (0 if module.padding_idx is None else module.padding_idx + 1)
    stated = getattr(model.config, "max_position_embeddings", None)
    return stated if isinstance(stated, int) and stated > 0 else _NO_LIMIT


def _auto(name: str) -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ConfigError("this model needs transformers; run: pip install 'kxbatch[hf]'") from error
    return getattr(transformers, name)


def _unusable(folder: ModelFolder, error: Exception) -> ConfigError:
    words = str(error).strip() or "no reason given"
    if "trust_remote_code" in words:
        return ConfigError(
            f"'{folder.transformer}' brings its own Python code, which is not run unless trust_remote_code = true; "
            "read that code first"
        )
    return ConfigError(f"'{folder.transformer}' cannot be loaded ({type(error).__name__}): {words}")


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars and load reports from transformers; what matters in them is checked here."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
