"""Constrained beam search against what Hugging Face's `generate` does with a callback over a trie of dictionaries.

python -m tests.bench.bench_retrieval [--quick]

CPU seconds, one thread, random weights, a graph of random keys in the shape of facts. The step alone is ours (ask the trie,
gather, top-k over ragged lists) against theirs (a Python call per row, a mask over the vocabulary, top-k over all of it). Whole
questions are the same GPT-2, graph, beam and batches in both; "masked" is what `generate` does. For theirs the end of a key is
a token of its own, and the first full set of finished hypotheses is good enough (`early_stopping`); ours finishes its beam, too.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kxbatch.kernels.beam import log_probabilities, top_k
from kxbatch.kernels.trie import Keys, Trie, sort_keys, token_dtype
from kxbatch.models.masked_lm import MaskedLm
from kxbatch.models.retrieval.generator import Decoding, Generator
from kxbatch.models.retrieval.prefix_lm_generator import PrefixLmGenerator
from kxbatch.models.retrieval.search import search
from kxbatch.models.retrieval.settings import SearchSettings
from kxbatch.models.text_encoder_config import TextEncoderConfig

VOCABULARY, SEP, END, BEAM, ROWS = 30_000, 1, 2, 4, 512
WIDTH, LAYERS = 256, 4


def graph(n: int) -> Keys:
    """Sorted keys of 12 tokens or so: three a subject, predicates out of 400, meanings of their own, a third of them empty."""
    rng, parts = np.random.default_rng(0), []
    for width, least, pool in ((5, 1, n // 3), (4, 1, 400), (4, 0, n)):
        words = rng.integers(3, VOCABULARY, size=(pool, width))
        words[np.arange(width) >= rng.integers(least, width + 1, size=(pool, 1))] = 0
        parts += [words[rng.integers(pool, size=n)], np.full((n, 1), SEP)]
    table = np.concatenate(parts[:-1], axis=1)
    starts = np.concatenate([[0], np.cumsum((table > 0).sum(axis=1))])
    return sort_keys(Keys(table[table > 0].astype(token_dtype(VOCABULARY)), starts))[0]


def dictionaries(keys: Keys) -> dict[int, Any]:
    """A trie as GENRE has it; -1 marks the end of a key."""
    root: dict[int, Any] = {}
    for i in range(len(keys)):
        node = root
        for token in keys[i].tolist():
            node = node.setdefault(token, {})
        node[-1] = {}
    return root


def followers(root: dict[int, Any], said: list[int]) -> list[int]:
    """What `prefix_allowed_tokens_fn` is to return."""
    node = root
    for token in said:
        if token not in node:
            return [0]  # after the end: padding
        node = node[token]
    return [END if token == -1 else token for token in node]


def seconds(work: dict[str, Callable[[], object]], runs: int) -> dict[str, float]:
    """CPU seconds of each, the median of interleaved runs after one that does not count."""
    taken: dict[str, list[float]] = {name: [] for name in work}
    for run in range(runs + 1):
        for name, call in work.items():
            start = time.process_time()
            call()
            if run:
                taken[name].append(time.process_time() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


def step(keys: Keys, trie: Trie, root: dict[int, Any], runs: int) -> dict[str, Any]:
    """One beam step of 512 rows, at all depths of the keys, with the log-probabilities given."""
    rng = np.random.default_rng(1)
    said = [keys[i].tolist() for i in rng.integers(len(keys), size=ROWS)]
    said = [key[: rng.integers(1, len(key))] for key in said]
    states = trie.start(ROWS)
    for row, tokens in enumerate(said):
        for token in tokens:
            states[row : row + 1] = trie.advance(states[row : row + 1], np.array([token]))
    logp, scores = torch.randn(ROWS, VOCABULARY).log_softmax(dim=1), torch.randn(ROWS)
    offsets_of_questions = np.arange(0, ROWS + 1, BEAM)

    def ours() -> np.ndarray:
        allowed, ends = trie.allowed(states), trie.terminal(states)
        rows = np.repeat(np.arange(ROWS), np.diff(allowed.offsets))
        gathered = logp.numpy()[rows, allowed.tokens]
        zeros = np.zeros(ROWS)
        made = log_probabilities(gathered, allowed.offsets, zeros, rows[:0], zeros > 0, renormalised=False)
        return top_k(scores.numpy()[rows] + made, allowed.offsets[offsets_of_questions], BEAM)[0], ends

    def peer() -> Tensor:
        mask = torch.full_like(logp, float("-inf"))
        for row, tokens in enumerate(said):
            mask[row, followers(root, tokens)] = 0
        masked = (logp + mask + scores[:, None]).view(ROWS // BEAM, -1)
        return masked.topk(2 * BEAM, dim=1)[0]

    taken = seconds({"ours": ours, "peer": peer}, runs)
    name = f"beam step, {ROWS} rows, V = {VOCABULARY:,}, {len(keys):,} keys: callback, dense mask, top-k"
    return _row(name, 1e3 * taken["ours"], 1e3 * taken["peer"], taken["peer"] / taken["ours"], 20, "ms")


class Timed:
    """A generator whose own time is added up."""

    def __init__(self, generator: Generator) -> None:
        self._generator, self.vocabulary, self.taken = generator, generator.vocabulary, 0.0

    def begin(self, sources: Keys) -> Decoding:
        start = time.process_time()
        self._decoding = self._generator.begin(sources)
        self.taken += time.process_time() - start
        return self  # type: ignore[return-value]

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            start = time.process_time()
            found = getattr(self._decoding, name)(*arguments)
            self.taken += time.process_time() - start
            return found

        return call


def questions_of(keys: Keys, count: int) -> Keys:
    """The subject and some of the rest of random keys, with a few words around."""
    rng = np.random.default_rng(2)
    said = []
    for i in rng.integers(len(keys), size=count):
        key = keys[int(i)]
        said.append([*rng.integers(3, VOCABULARY, size=rng.integers(2, 8)), *key[key != SEP][:8]])
    return Keys.of(said, VOCABULARY)


def gpt2() -> Any:
    """Random weights."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=128,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=4,
        bos_token_id=None,
        eos_token_id=None,
    )
    return GPT2LMHeadModel(config).eval()


def generated(model: Any, root: dict[int, Any], questions: Keys, batch: int) -> None:
    """Lets `generate` answer the questions, in batches; each with a key, or the comparison is none."""
    for at in range(0, len(questions), batch):
        sources = [[*questions[i].tolist(), SEP] for i in range(at, min(at + batch, len(questions)))]
        width = max(len(source) for source in sources)
        ids = torch.tensor([[0] * (width - len(source)) + source for source in sources])
        out = model.generate(
            ids,
            attention_mask=(ids != 0).long(),
            prefix_allowed_tokens_fn=lambda _, said: followers(root, said[width:].tolist()),  # noqa: B023
            num_beams=BEAM,
            early_stopping=True,
            length_penalty=0.0,
            max_new_tokens=20,
            pad_token_id=0,
            eos_token_id=END,
        )
        if not (out[:, width:] == END).any(dim=1).all():
            raise RuntimeError("generate left a key unfinished")


def whole(keys: Keys, trie: Trie, root: dict[int, Any], count: int, runs: int) -> list[dict[str, Any]]:
    """Questions a second, from token ids to keys."""
    from kxbatch.models.retrieval.transformers_generator import TransformersGenerator

    model, questions = gpt2(), questions_of(keys, count)
    torch.manual_seed(0)
    gau = MaskedLm(TextEncoderConfig(VOCABULARY, dim=WIDTH, layers=2 * LAYERS))
    ours = {"GPT-2": Timed(TransformersGenerator(model)), "GAU": Timed(PrefixLmGenerator(gau))}
    work: dict[str, Callable[[], object]] = {"generate": lambda: generated(model, root, questions, 16)}
    for name, generator in ours.items():
        for scoring in ("masked", "renormalised"):
            how = SearchSettings(beam=BEAM, answers=BEAM, scoring=scoring, batch=16)  # type: ignore[arg-type]
            work[f"{name}, {scoring}"] = lambda g=generator, h=how: search(trie, g, questions, SEP, "spm", h)  # type: ignore[misc]
    taken = seconds(work, runs)
    rows = []
    for name in list(work)[1:]:
        generator = ours[name.split(",")[0]]
        generator.taken, start = 0.0, time.process_time()
        work[name]()
        share = generator.taken / (time.process_time() - start)
        target = 3 if name == "GPT-2, masked" else None
        row = _row(
            f"whole questions, beam {BEAM}, {name}: GPT-2 by generate",
            count / taken[name],
            count / taken["generate"],
            taken["generate"] / taken[name],
            target,
            "questions/CPU s",
        )
        rows.append(row | {"note": f"the model's own share {share:.0%}"})
    return rows


def _row(name: str, ours: float, peer: float, ratio: float, target: float | None, unit: str) -> dict[str, Any]:
    return {
        "name": name,
        "ours": round(ours, 3),
        "peer": round(peer, 3),
        "limit": None,
        "unit": unit,
        "ratio": round(ratio, 2),
        "target": target,
        "environment": f"{platform.machine()}, 1 thread, torch {torch.__version__}, "
        f"load {os.getloadavg()[0]:.1f} of {os.cpu_count()} cores",
    }


def rows(quick: bool) -> list[dict[str, Any]]:
    """Measures everything.

    Args:
        quick: 100,000 keys and 32 questions in place of a million and 128.
    """
    torch.set_num_threads(1)
    keys = graph(100_000 if quick else 1_000_000)
    trie, root = Trie.build(keys, VOCABULARY), dictionaries(keys)
    gc.freeze()  # else the collector walks through millions of dictionaries now and then, which is at the peer's cost
    runs = 1 if quick else 3
    return [step(keys, trie, root, 3 + 2 * runs), *whole(keys, trie, root, 32 if quick else 128, runs)]


def main() -> None:
    """Prints the table."""
    from tests.bench.table import show

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    found = rows(parser.parse_args().quick)
    print(found[0]["environment"])
    show(found)


if __name__ == "__main__":
    main()
