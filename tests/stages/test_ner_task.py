"""What a batch of texts with spans is: the windows that are seen, the spans in them, and what a batch weighs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from kxbatch.data.spans import SPANS, to_spans
from kxbatch.models import character_tokens
from kxbatch.models.byte_bpe import count_words, to_json
from kxbatch.stages.base import Context
from kxbatch.stages.ner import NerConfig
from kxbatch.stages.task import KEY
from kxbatch.stages.tasks.ner import NerTask

WORDS = [f"{letter}{number}" for letter in "abcdefgh" for number in range(10)]
LONG = " ".join(WORDS)
ROOM = 30


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
    path.write_text(json.dumps(to_json(character_tokens.train(count_words([LONG] * 2, "none"), 400)[0])))
    return path


def task(tokenizer: Path, **config: Any) -> NerTask:
    facts = {"types": np.frombuffer(b'["A"]', np.uint8)}
    made = NerConfig(tokenizer=str(tokenizer), max_length=ROOM + 2, **config)
    return NerTask(made, "text", Context(seed=0, threads=1, gpus=0, facts=lambda: facts))


def encoded(made: NerTask, texts: list[str]) -> pa.Table:
    """Every word of a text is a span."""
    starts = [np.cumsum([0, *(len(word) + 1 for word in text.split())])[:-1].tolist() for text in texts]
    spans = [[(at, at + 2, "A") for at in row] for row in starts]
    rows = made.encode(pa.table({"text": texts, "labels": to_spans(spans).cast(SPANS)}))
    return rows.append_column(KEY, pa.array(np.arange(len(texts), dtype=np.uint64)))


def test_each_draw_sees_another_window_of_a_long_text_with_the_spans_in_it(tokenizer: Path) -> None:
    made = task(tokenizer)
    rows = encoded(made, [LONG])
    seen = set()
    for draw in range(60):
        batch = made.collate(rows, draw).tensors
        ids = batch["ids"][0, 1:-1].tolist()
        assert len(ids) == ROOM
        shown = made._tokenizer.backend.decode(ids, skip_special_tokens=False)
        seen.add(LONG.index(shown))
        surfaces = [shown[start - 1 : end - 1] for _, _, start, end in batch["gold"].tolist()]
        assert surfaces == [word for word in WORDS if word in shown]
    assert len(seen) > 30
    assert min(seen) < 20
    assert max(seen) > len(LONG) - ROOM - 20


@pytest.mark.parametrize("r_drop", [0.0, 1.0])
def test_texts_without_a_token_weigh_nothing(tokenizer: Path, r_drop: float) -> None:
    made = task(tokenizer, r_drop=r_drop, model={"dropout": 0.1})
    batch = made.collate(encoded(made, ["a1 b2", "", "c3"]), 0)
    assert (batch.rows, batch.weight) == (3, 2)
    assert made.collate(encoded(made, [""]), 0).weight == 0


def test_the_evaluation_is_of_whole_texts(tokenizer: Path) -> None:
    made = task(tokenizer)
    rows = encoded(made, [LONG, "a1 b2", "c3"])
    torch.manual_seed(0)
    left = made.finish(made.model().eval(), {}, lambda: iter([rows, rows.slice(0, 1)]))
    told = left.documents["evaluation.json"]
    assert (told["rows"], told["longer_rows"], told["gold"]) == (2, 2, 3)
