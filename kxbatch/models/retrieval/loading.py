"""A folder of a graph and a folder of a model to what answers questions."""

from __future__ import annotations

from pathlib import Path

import torch

from kxbatch.errors import ConfigError
from kxbatch.models.device import DTYPES, resolve_device, resolve_precision
from kxbatch.models.encoders import identify
from kxbatch.models.encoders.folders import read_json
from kxbatch.models.graph import Graph
from kxbatch.models.masked_lm import MaskedLm
from kxbatch.models.retrieval.generator import Generator
from kxbatch.models.retrieval.retriever import Retriever
from kxbatch.models.retrieval.settings import SearchSettings
from kxbatch.models.retrieval.trained import ARCHITECTURE, CONFIG, TrainedPrefixLm, retriever_digest
from kxbatch.models.trained_text import load_weights


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
        from kxbatch.models.retrieval.transformers_generator import TransformersGenerator

        loaded = TransformersGenerator.load(
            folder, graph.tokenizer, device=device, dtype=dtype, trust_remote_code=trust_remote_code
        )
        return loaded, loaded.max_question
    from kxbatch.models.retrieval.prefix_lm_generator import PrefixLmGenerator

    trained = TrainedPrefixLm.read(folder)
    _check_fits(folder, trained, graph)
    model = MaskedLm(trained.encoder)
    load_weights(model, folder)
    return PrefixLmGenerator(model.to(device, dtype)), trained.max_question


def _check_fits(folder: Path, trained: TrainedPrefixLm, graph: Graph) -> None:
    if trained.tokenizer_digest != graph.tokenizer.digest:
        raise ConfigError(
            f"model '{folder}' was trained with another tokenizer (digest {trained.tokenizer_digest[:12]}) than the graph has "
            f"({graph.tokenizer.digest[:12]}): build the graph with --tokenizer {folder}, or train on this graph"
        )
    if trained.order != graph.order:
        raise ConfigError(
            f"model '{folder}' writes keys in the order {trained.order}, the graph has {graph.order}: "
            f"build the graph with --order {trained.order}, or train on this graph"
        )


def _is_retriever(folder: Path) -> bool:
    return read_json(folder / CONFIG).get("architecture") == ARCHITECTURE
