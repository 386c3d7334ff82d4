"""Training an extractor: texts and spans to sequences, the loss, and the folder an `extract` stage reads.

Letters: R rows, N tokens of all rows one after another, S spans of all rows. Shapes: B sequences, L tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor, nn

from kxbatch.data.row_draws import seeds, uniform
from kxbatch.models.encoders.tokens import set_tokenizer_threads
from kxbatch.models.extraction.alignment import align
from kxbatch.models.extraction.bio_tags import tags_of
from kxbatch.models.extraction.extractor import Extractor, HeadConfig
from kxbatch.models.extraction.labels import Labels
from kxbatch.models.extraction.metrics import Measure, SpanSet, is_among
from kxbatch.models.extraction.sequences import BEFORE, framed, tokenize
from kxbatch.models.extraction.token_encoder import OwnTokenEncoder, TokenEncoder, check_length, start_from
from kxbatch.models.extraction.token_spans import TokenSpans
from kxbatch.models.extraction.trained import ARCHITECTURE, CONFIG, TOKENIZER, WEIGHTS, TrainedExtractor
from kxbatch.models.text_encoder import TextEncoder
from kxbatch.models.tokenization import FRAME, FastTokenizer, load_tokenizer
from kxbatch.stages.base import Artifact, Context, trained_path
from kxbatch.stages.masked_lm import TextModelConfig
from kxbatch.stages.ner import NerConfig, read_types
from kxbatch.stages.task import KEY, Batch, Loss

Longs = npt.NDArray[np.int64]
EVALUATION = "evaluation.json"
TOKENS, SPANS, LOST = "tokens", "spans", "lost"
_SPAN = 3  # numbers of a span in a row's list: type, first token, one past the last
_EVALUATION_DRAW = -1


class NerTask:
    """See `kxbatch.stages.task.Task`."""

    def __init__(self, config: NerConfig, column: str, context: Context) -> None:
        assert context.facts is not None
        self._config, self._column = config, column
        set_tokenizer_threads(context.threads)
        self._types = read_types(context.facts())
        self._start = _start(config, context)
        self._tokenizer = self._start.tokenizer
        self._head = HeadConfig(config.head, len(self._types), config.head_size, config.rope, config.head_bias)

    def model(self) -> nn.Module:
        """The encoder, new or to start from, and a new head."""
        return Extractor(self._start.make(), self._head)

    def encode(self, table: pa.Table) -> pa.Table:
        """Columns `tokens`, `spans` (three numbers each) and `lost`, the spans of a row that begin or end within a token."""
        texts = table.column(self._column).cast(pa.string()).to_pylist()
        found = tokenize(self._tokenizer, texts)
        labels = Labels.read(table.column(self._config.labels), self._config.labels)
        gold = labels.spans
        aligned = align(gold.rows, gold.starts, gold.ends, found.offsets)
        rows = gold.rows[aligned.found]
        spans = np.stack([labels.numbers(self._types), aligned.starts, aligned.ends], axis=1)[aligned.found]
        lost = np.bincount(gold.rows[~aligned.found], minlength=len(texts))
        counts = np.bincount(rows, minlength=len(texts))
        return pa.table(
            {
                TOKENS: _lists(found.ids, found.lengths),
                SPANS: _lists(spans.astype(np.int32).ravel(), _SPAN * counts),
                LOST: pa.array(lost.astype(np.int32)),
            }
        )

    def collate(self, rows: pa.Table, draw: int) -> Batch:
        """Tensors `ids`, `valid`, `inner` [B, L] and `gold`; of a text that is too long one window, another each draw.

        `gold` are spans [S, 4], for a CRF tags [B, L]. With R-Drop every row is there twice, all of them once and then once
        more.
        """
        pieces, gold = self._seen(rows, draw)
        if self._passes == 2:
            gold = np.concatenate([gold, gold + np.array([len(pieces), 0, 0, 0])])
            pieces = pieces * 2
        made = framed(pieces, self._tokenizer.special)
        tensors = {name: torch.from_numpy(array) for name, array in vars(made).items()}
        tensors["gold"] = torch.from_numpy(self._said(gold, made.ids.shape))
        asked = int(made.valid.sum())
        said = int(made.inner.any(axis=1).sum()) // self._passes  # texts of no token are in no mean
        return Batch(tensors, len(rows), asked, said, made.ids.size - asked)

    def loss(self, model: nn.Module, batch: dict[str, Tensor]) -> Loss:
        """That of the head, a mean over rows; with R-Drop and the divergence of the two passes."""
        found = model(batch["ids"], batch["valid"], batch["inner"], batch["gold"], self._passes)
        if self._passes == 1:
            return Loss(found)
        loss, divergence = found
        return Loss(loss + self._config.r_drop * divergence, {"divergence": divergence.detach()})

    def finish(
        self, model: nn.Module, weights: dict[str, Tensor], validation: Callable[[], Iterator[pa.Table]]
    ) -> Artifact:
        """The model as a folder, and how well it marks the rows that were held out."""
        arrays = {name: weight.float().cpu().numpy() for name, weight in weights.items()}
        documents = {CONFIG: self._trained().to_json(), TOKENIZER: self._tokenizer.to_json()}
        documents[EVALUATION] = self._evaluation(model, validation)
        return Artifact({WEIGHTS: arrays}, documents, decides=(CONFIG, TOKENIZER))

    def describe(self) -> dict[str, Any]:
        """The head, and the encoder."""
        head = self._head.to_json()
        return {"architecture": ARCHITECTURE, **{f"head.{name}": value for name, value in head.items()}}

    @property
    def _passes(self) -> int:
        return 2 if self._config.r_drop else 1

    def _seen(self, rows: pa.Table, draw: int) -> tuple[list[npt.NDArray[np.int32]], Longs]:
        """Tokens of each row, and the spans among them, int64 [S, 4] of row, type, start and end in the framed sequence."""
        room = self._config.max_length - FRAME
        tokens, spans = (_rows_of(rows.column(name)) for name in (TOKENS, SPANS))
        firsts = _window_starts(rows.column(KEY).to_numpy(), [len(row) for row in tokens], room, draw)
        pieces = [row[first : first + room] for row, first in zip(tokens, firsts, strict=True)]
        return pieces, _gold(spans, firsts, pieces)

    def _said(self, gold: Longs, shape: tuple[int, ...]) -> Longs:
        """Gold spans as the head wants them."""
        if self._head.kind != "crf":
            return gold
        spans = TokenSpans.of(gold[:, 0], gold[:, 2], gold[:, 3], gold[:, 1])
        return tags_of(spans, shape[0], shape[1])

    def _trained(self) -> TrainedExtractor:
        special = self._tokenizer.special
        return TrainedExtractor(self._types, self._head, self._config.max_length, special, self._start.described)

    def _evaluation(self, model: nn.Module, validation: Callable[[], Iterator[pa.Table]]) -> dict[str, Any]:
        """Of texts that fit a window. Spans that do not align are gold spans which no model can find: they count as missed.

        Those that are wider than a window are in longer texts, which are not judged here; they are counted apart.
        """
        assert isinstance(model, Extractor)
        counts: Counter[str] = Counter()
        device = next(model.parameters()).device
        for read in validation():
            room = self._config.max_length - FRAME
            fits = pc.less_equal(pc.list_value_length(read.column(TOKENS)), room)
            table = read.filter(fits)
            counts["longer_rows"] += len(read) - len(table)
            counts["too_wide"] += _wider(read.filter(pc.invert(fits)), room)
            if not len(table):
                continue
            pieces, wanted = self._seen(table, _EVALUATION_DRAW)
            made = framed(pieces, self._tokenizer.special)
            ids, valid, inner = (torch.from_numpy(array).to(device) for array in (made.ids, made.valid, made.inner))
            spans = model.find(ids, valid, inner, None, None)
            found = SpanSet(*(np.asarray(c, np.int64) for c in (spans.rows, spans.starts, spans.ends, spans.types)))
            gold = _span_set(wanted)
            lost = int(np.sum(table.column(LOST).to_numpy()))
            counts.update(
                gold=len(gold) + lost,
                found=len(found),
                right=int(is_among(found, gold).sum()),
                lost=lost,
                rows=len(table),
            )
        measure = Measure(counts["gold"], counts["found"], counts["right"], counts["right"])
        facts = {name: counts[name] for name in ("rows", "longer_rows", "gold", "found", "right")}
        facts |= {"unaligned": counts["lost"], "too_wide": counts["too_wide"]}
        return facts | {"precision": measure.precision, "recall": measure.recall, "f1": measure.f1}


@dataclass(frozen=True)
class _Start:
    """Makes the encoder; its tokenizer; and what `token_encoder` makes one like it of."""

    make: Callable[[], TokenEncoder]
    tokenizer: FastTokenizer
    described: dict[str, Any]


def _start(config: NerConfig, context: Context) -> _Start:
    if config.encoder is not None:
        made, tokenizer = start_from(trained_path(config.encoder, context), offline=config.offline)
        check_length(made, config.max_length)
        return _Start(lambda: made, tokenizer, made.to_json())
    assert config.tokenizer is not None
    tokenizer = load_tokenizer(trained_path(config.tokenizer, context), offline=config.offline)
    architecture = (config.model or TextModelConfig()).architecture(tokenizer.vocabulary, tokenizer.special["pad"])
    lasting = replace(architecture, dropout=0.0, checkpointing=False)
    return _Start(lambda: OwnTokenEncoder(TextEncoder(architecture)), tokenizer, {"own": lasting.to_json()})


def _window_starts(keys: npt.NDArray[np.uint64], lengths: list[int], room: int, draw: int) -> Longs:
    """First token of what is seen of each row, int64 [R]: 0, unless the row is too long."""
    choices = np.maximum(np.array(lengths, np.int64) - room, 0) + 1
    drawn = uniform(seeds(keys, draw, 0), np.zeros(len(keys), np.int64))
    return np.asarray((drawn * choices).astype(np.int64))


def _gold(spans: list[npt.NDArray[np.int32]], firsts: Longs, pieces: list[npt.NDArray[np.int32]]) -> Longs:
    """The spans that lie within what is seen, int64 [S, 4] of row, type, start and end in the sequence."""
    counts = [len(row) // _SPAN for row in spans]
    rows = np.repeat(np.arange(len(spans)), counts)
    flat = np.concatenate([np.empty(0, np.int32), *spans]).reshape(-1, _SPAN).astype(np.int64)
    begin = flat[:, 1] - firsts[rows]
    end = flat[:, 2] - firsts[rows]
    inside = (begin >= 0) & (end <= np.array([len(piece) for piece in pieces], np.int64)[rows])
    return np.stack([rows, flat[:, 0], begin + BEFORE, end + BEFORE], axis=1)[inside]


def _wider(rows: pa.Table, room: int) -> int:
    """How many spans have more tokens than a window."""
    flat = np.concatenate([np.empty(0, np.int32), *_rows_of(rows.column(SPANS))]).reshape(-1, _SPAN)
    return int(np.count_nonzero(flat[:, 2] - flat[:, 1] > room))


def _span_set(gold: Longs) -> SpanSet:
    rows, types, starts, ends = np.unique(gold, axis=0).T
    order = np.lexsort((types, ends, starts, rows))
    return SpanSet(rows[order], starts[order], ends[order], types[order])


def _lists(values: npt.NDArray[np.int32], lengths: npt.NDArray[Any]) -> pa.Array:
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(starts), pa.array(values))


def _rows_of(column: pa.ChunkedArray) -> list[npt.NDArray[np.int32]]:
    lists = column.combine_chunks()
    lengths = lists.value_lengths().to_numpy(zero_copy_only=False)
    return np.split(lists.flatten().to_numpy(), np.cumsum(lengths)[:-1])
