"""Gold spans that are lost on any model: counted with the survey of every shard, and told when it is done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import pyarrow as pa

from kxbatch.stages.base import Context, trained_path

if TYPE_CHECKING:
    from kxbatch.data.span_columns import FlatSpans
    from kxbatch.models.tokenization import FastTokenizer
    from kxbatch.stages.ner import NerConfig

GOLD, UNALIGNED, TOO_WIDE = "gold_spans", "unaligned_spans", "too_wide_spans"  # counters


class LostSpans:
    """Counts them by the tokenizer that the model will have, which is loaded once.

    Args:
        config: of the stage.
    """

    def __init__(self, config: NerConfig) -> None:
        self._config = config
        self._tokenizer: FastTokenizer | None = None

    def count(self, texts: pa.ChunkedArray, spans: FlatSpans, context: Context) -> None:
        """Add the spans of some texts to the counters."""
        from kxbatch.models.encoders.tokens import set_tokenizer_threads
        from kxbatch.models.extraction.reach import reach
        from kxbatch.models.tokenization import FRAME

        if self._tokenizer is None:
            set_tokenizer_threads(context.threads)
            self._tokenizer = _tokenizer(self._config, context)
        found = reach(self._tokenizer, texts.to_pylist(), spans, self._config.max_length - FRAME)
        context.counters.update({GOLD: found.spans, UNALIGNED: found.unaligned, TOO_WIDE: found.too_wide})

    def remarks(self, counters: Mapping[str, float]) -> Iterator[str]:
        """What a person should know, told from the sums of the counters."""
        spans, most = counters.get(GOLD, 0.0), self._config.max_length
        reasons = {
            UNALIGNED: "begin or end within a token: take a tokenizer of smaller pieces (unit = 'characters')",
            TOO_WIDE: f"are wider than a window of max_length = {most} tokens, special ones counted: raise max_length",
        }
        for name, words in reasons.items():
            if lost := counters.get(name, 0.0):
                share = f"{lost:.0f} of {spans:.0f} gold spans ({lost / spans:.1%})"
                yield f"{share} can be neither learned nor found, for they {words}"


def _tokenizer(config: NerConfig, context: Context) -> FastTokenizer:
    from kxbatch.models.extraction.token_encoder import tokenizer_of
    from kxbatch.models.tokenization import load_tokenizer

    if config.encoder is not None:
        return tokenizer_of(trained_path(config.encoder, context), offline=config.offline)
    assert config.tokenizer is not None
    return load_tokenizer(trained_path(config.tokenizer, context), offline=config.offline)
