"""A folder of a graph and a folder of a model to what answers questions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from kxbatch.errors import ConfigError
from kxbatch.models.device import DTYPES, resolve_device, resolve_precision
from kxbatch.models.encoders import identify
from kxbatch.models.encoders.folders import read_folder, read_json
from kxbatch.models.graph import Graph, GraphTokenizer
from kxbatch.models.retrieval.generator import Generator
from kxbatch.models.retrieval.prefix_lm import prefix_lm
from kxbatch.models.retrieval.retriever import Retriever
from kxbatch.models.retrieval.settings import SearchSettings
from kxbatch.models.retrieval.trained import ARCHITECTURE, CONFIG, TrainedPrefixLm, retriever_digest
from kxbatch.models.trained_text import load_weights

_NO_LIMIT = 2**16  # tokens; of models with relative positions


def generator_digest(folder: Path) -> str:
    """Equal content, equal digest; loads nothing.

    Raises:
        ConfigError: there is no model.
    """
    if _is_retriever(folder):
        TrainedPrefixLm.read(folder)
        return retriever_digest(folder)
    if not folder.is_dir():
        raise ConfigError(f"model = '{folder}': no such folder; give 'stage:<name>' or the folder of a model")
    return identify(str(folder), offline=True).digest


def load_retriever(
    graph: Path,
    model: Path,
    settings: SearchSettings,
    *,
    threshold: float | None = None,
    threads: int = 1,
    device: str = "auto",
    precision: str = "fp32",
    trust_remote_code: bool = False,
) -> Retriever:
    """Open a graph, and load a model that writes its keys.

    Args:
        graph: folder of the graph.
        model: folder of a trained retriever, or of a Hugging Face encoder-decoder or decoder-only model.
        settings: of the search.
        threshold: see `Retriever`.
        threads: batches at once, on a CPU.
        device: `auto`, `cpu`, `cuda`.
        precision: `auto`, `fp32`, `bf16`.
        trust_remote_code: let a Hugging Face folder bring its own code.

    Raises:
        ConfigError: there is no graph or no model, or they are of different tokenizers or orders.
        DataError: a file of the graph is damaged.
    """
    opened, device = Graph.open(graph), resolve_device(device)
    dtype = DTYPES[resolve_precision(precision, device)]
    generator, longest = _load(model, opened, device, dtype, trust_remote_code=trust_remote_code)
    return Retriever(opened, generator, settings, longest, threshold, threads, device)


def _load(
    folder: Path, graph: Graph, device: str, dtype: torch.dtype, *, trust_remote_code: bool
) -> tuple[Generator, int]:
    """The model, and the tokens of the longest question it reads."""
    if not _is_retriever(folder):
        return _load_transformers(folder, graph, device, dtype, trust_remote_code=trust_remote_code)
    from kxbatch.models.retrieval.prefix_lm_generator import PrefixLmGenerator

    trained = TrainedPrefixLm.read(folder)
    _check_tokenizer(folder, trained.tokenizer_digest, graph)
    _check_order(folder, trained, graph)
    model = prefix_lm(trained.encoder, trained.shifts)
    load_weights(model, folder)
    return PrefixLmGenerator(model.to(device, dtype)), trained.max_question


def _load_transformers(
    folder: Path, graph: Graph, device: str, dtype: torch.dtype, *, trust_remote_code: bool
) -> tuple[Generator, int]:
    """A Hugging Face model, and the tokens of the longest question it reads.

    A model with a fixed number of positions keeps half of them for the key, if question and key share them.
    """
    try:
        from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM
    except ImportError as error:
        raise ConfigError(f"model '{folder}' needs transformers; run: pip install 'kxbatch[hf]'") from error
    from kxbatch.models.retrieval.transformers_generator import TransformersGenerator

    read_folder(folder)
    _check_tokenizer(folder, GraphTokenizer.read(folder).digest, graph)
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(folder, **local)
        kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        model = kind.from_pretrained(folder, dtype=dtype, use_safetensors=True, **local)
    except (ValueError, OSError) as error:
        raise ConfigError(f"model '{folder}': transformers cannot load it as one that writes text: {error}") from error
    positions = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    longest = int(positions or _NO_LIMIT) // (1 if config.is_encoder_decoder else 2)
    return TransformersGenerator(model.to(device)), longest - 1


def _check_tokenizer(folder: Path, digest: str, graph: Graph) -> None:
    if digest != graph.tokenizer.digest:
        raise ConfigError(
            f"model '{folder}' has another tokenizer (digest {digest[:12]}) than the graph ({graph.tokenizer.digest[:12]}): "
            f"build the graph with --tokenizer {folder}, or train a model on this graph"
        )


def _check_order(folder: Path, trained: TrainedPrefixLm, graph: Graph) -> None:
    if trained.order != graph.order:
        raise ConfigError(
            f"model '{folder}' writes keys in the order {trained.order}, the graph has {graph.order}: "
            f"build the graph with --order {trained.order}, or train on this graph"
        )


def _is_retriever(folder: Path) -> bool:
    return read_json(folder / CONFIG).get("architecture") == ARCHITECTURE
