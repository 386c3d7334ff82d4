"""Texts to entities: tokens, windows, spans above a threshold, and their characters.

Letters: R texts, W windows, S spans.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from kxbatch.errors import ConfigError
from kxbatch.models.device import DTYPES, resolve_device, resolve_precision, run_batches
from kxbatch.models.encoders.tokens import set_tokenizer_threads
from kxbatch.models.extraction.alignment import to_characters
from kxbatch.models.extraction.extractor import Extractor
from kxbatch.models.extraction.flatten import flatten
from kxbatch.models.extraction.sequences import BEFORE, Tokenized, framed, tokenize
from kxbatch.models.extraction.token_encoder import check_length
from kxbatch.models.extraction.token_spans import TokenSpans
from kxbatch.models.extraction.trained import TrainedExtractor
from kxbatch.models.extraction.windows import Windows, merge, windows
from kxbatch.models.tokenization import FRAME, FastTokenizer

Policy = Literal["nested", "flat"]


@dataclass(frozen=True)
class FinderSettings:
    """How entities are found.

    Attributes:
        threshold: score above which a span is an entity, see `Extractor.find`.
        policy: all of them, or none that overlaps a better one.
        max_width: tokens of the longest entity; None: any.
        max_length: tokens of a window, special ones counted; None: as the model was trained.
        overlap: tokens that two windows of a long text share; None: a quarter of a window.
        batch_rows: windows that go through the model together.
    """

    threshold: float | None = None
    policy: Policy = "nested"
    max_width: int | None = None
    max_length: int | None = None
    overlap: int | None = None
    batch_rows: int = 32


@dataclass(frozen=True)
class Entities:
    """Spans of R texts, by text, start, end and type.

    Attributes:
        rows: int64 [S], the text of each.
        starts: int32 [S], first character, in code points.
        ends: int32 [S], one past the last.
        types: int32 [S], number of the type.
        scores: float32 [S].
    """

    rows: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int32]
    ends: npt.NDArray[np.int32]
    types: npt.NDArray[np.int32]
    scores: npt.NDArray[np.float32]


class Finder:
    """A model that is ready for texts.

    Attributes:
        types: names of the types, by number.
    """

    def __init__(
        self,
        model: Extractor,
        tokenizer: FastTokenizer,
        trained: TrainedExtractor,
        settings: FinderSettings,
        threads: int,
        device: str,
        dtype: torch.dtype,
    ) -> None:
        self.types = trained.types
        self._model = model.to(device)
        self._tokenizer, self._special, self._settings = tokenizer, trained.special, settings
        self._threads, self._device, self._dtype = threads, torch.device(device), dtype
        max_length = settings.max_length or trained.max_length
        check_length(model.encoder, max_length)
        self._room = max_length - FRAME
        self._overlap = self._room // 4 if settings.overlap is None else settings.overlap
        if self._room < 1 or not self._overlap < self._room:
            raise ConfigError(
                f"max_length = {self._room + FRAME}, overlap = {self._overlap}: a window holds {self._room} tokens beside "
                "special ones, and shares fewer with the next one"
            )

    @classmethod
    def load(
        cls, folder: Path, settings: FinderSettings, *, threads: int = 1, device: str = "auto", precision: str = "auto"
    ) -> Finder:
        """From the folder of a trained extractor.

        Raises:
            ConfigError: it holds none, or a setting does not fit it.
        """
        set_tokenizer_threads(threads)
        trained = TrainedExtractor.read(folder)
        model, tokenizer = trained.load(folder)
        device = resolve_device(device)
        return cls(model, tokenizer, trained, settings, threads, device, DTYPES[resolve_precision(precision, device)])

    def find(self, texts: Sequence[str]) -> Entities:
        """Entities of texts of any length, empty ones too."""
        found = tokenize(self._tokenizer, texts)
        cut = windows(found.lengths, self._room, self._overlap)
        spans = self._in_windows(found, cut)
        merged = merge(cut, spans.rows, spans.starts, spans.ends, spans.types)
        types, scores = spans.types[merged.kept], spans.scores[merged.kept]
        starts, ends, exact = to_characters(merged.documents, merged.starts, merged.ends, found.offsets)
        # Those that begin or end within a character go first, so that none of them takes the place of another span.
        columns = (merged.documents, starts, ends, types, scores)
        spans = TokenSpans.of(*(column[exact] for column in columns))
        if self._settings.policy == "flat":
            spans = flatten(spans)
        return Entities(spans.rows.astype(np.int64), spans.starts, spans.ends, spans.types, spans.scores)

    def _in_windows(self, found: Tokenized, cut: Windows) -> TokenSpans:
        """Spans of all windows, rows being windows and tokens those of a window without special ones; like lengths together."""
        base = found.offsets.rows[cut.documents]
        firsts, lasts = base + cut.firsts, base + cut.lasts
        order = np.argsort(lasts - firsts, kind="stable")
        size = self._settings.batch_rows
        batches = [order[at : at + size] for at in range(0, len(order), size)]
        parts: list[TokenSpans] = [TokenSpans.of([], [], [], [], [])] * (len(batches) + 1)

        def work(number: int) -> None:
            some = batches[number]
            pieces = [found.ids[first:last] for first, last in zip(firsts[some], lasts[some], strict=True)]
            parts[number] = self._of_batch(pieces, some)

        run_batches(work, len(batches), self._threads, self._device.type)
        columns = ([part.rows, part.starts, part.ends, part.types, part.scores] for part in parts)
        return TokenSpans.of(*(np.concatenate(column) for column in zip(*columns, strict=True)))

    def _of_batch(self, pieces: list[npt.NDArray[np.int32]], numbers: npt.NDArray[np.int64]) -> TokenSpans:
        made = framed(pieces, self._special)
        ids, valid, inner = (torch.from_numpy(array).to(self._device) for array in (made.ids, made.valid, made.inner))
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
            spans = self._model.find(ids, valid, inner, self._settings.threshold, self._settings.max_width)
        return TokenSpans.of(numbers[spans.rows], spans.starts - BEFORE, spans.ends - BEFORE, spans.types, spans.scores)
