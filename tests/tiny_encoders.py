"""Tiny, randomly initialised transformers in folders, as transformers itself writes them."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WIDTH = 32
POSITIONS = 64


def word_pieces(*, lower_case: bool = True) -> Tokenizer:
    """A WordPiece tokenizer that knows every ASCII letter, digit and mark, and little else."""
    marks = string.ascii_letters + string.digits + string.punctuation
    words = ["the", "a", "of", "vector", "space", "word", "##s", "##ing"]
    vocabulary = dict.fromkeys([*SPECIAL, *marks, *("##" + c for c in string.ascii_letters + string.digits), *words])
    tokenizer = Tokenizer(models.WordPiece({w: i for i, w in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lower_case)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer


def save_tokenizer(folder: Path, *, lower_case: bool = True, max_length: int = POSITIONS) -> None:
    """Tokenizer files, with a padding and truncation rule in them that must not be followed."""
    tokenizer = word_pieces(lower_case=lower_case)
    tokenizer.enable_padding(length=16)
    tokenizer.enable_truncation(9)
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=max_length, **names)
    fast.save_pretrained(folder)


def save_model(model: Any, folder: Path) -> Path:
    """Config and safetensors weights of a model, and the tokenizer."""
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def tiny_bert(seed: int = 0, **changes: Any) -> BertModel:
    """A BERT of 3 layers and width 32, with weights large enough that vectors of texts differ."""
    torch.manual_seed(seed)
    settings: dict[str, Any] = {
        "vocab_size": word_pieces().get_vocab_size(), "hidden_size": WIDTH, "num_hidden_layers": 3,
        "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": POSITIONS,
        "initializer_range": 0.2,
    }  # fmt: skip
    return BertModel(BertConfig(**(settings | changes))).eval()
