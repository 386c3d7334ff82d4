"""`tokenizer`: learns a byte-complete vocabulary from a text column, for models that are trained from scratch.

The fold counts words, so another vocabulary size is fitted without reading a text again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field

from kxbatch.data.arrays import Arrays
from kxbatch.errors import ConfigError, DataError
from kxbatch.models.word_counts import WordCounts
from kxbatch.spec.model import StageConfig
from kxbatch.stages.base import Artifact, Column, Context, FoldStage, Phase
from kxbatch.stages.rows import usable_texts

if TYPE_CHECKING:
    from tokenizers import Tokenizer

TOKENIZER = "tokenizer.json"
SMALLEST_VOCABULARY = 260  # 256 bytes and 4 special tokens
_FITTED_FROM = ("vocabulary", "unit", "min_frequency")
_MEASURED_WORDS = 200_000


class TokenizerConfig(StageConfig):
    """Trains a tokenizer on a text column."""

    leaves: ClassVar[str] = "tokenizer"

    kind: Literal["tokenizer"] = "tokenizer"
    column: str | None = Field(None, description="text column; absent: the only one of the input")
    vocabulary: int = Field(16_000, ge=SMALLEST_VOCABULARY, description="tokens at most; 260 of them are always there")
    normalization: Literal["none", "nfkc", "lower"] = Field(
        "none", description="done to every text first: nothing, Unicode's NFKC, or NFKC and lower case"
    )
    unit: Literal["pieces", "characters"] = Field(
        "pieces", description="what a token is: a piece of a word, or one character, as extraction of names wants it"
    )
    min_frequency: int = Field(
        2, ge=1, description="pairs of tokens that are rarer are not merged; rarer characters are spelled in bytes"
    )
    refit: Literal["never", "on-drift", "always"] = Field(
        "never", description="when rows that came later lead to a new fit"
    )
    max_drift: float = Field(0.1, gt=0, description="drift score above which 'on-drift' fits again")


class TokenizerStage(FoldStage[TokenizerConfig]):
    """Fold: counts of words. Fit: merges, or characters. No row gets anything added."""

    config_type = TokenizerConfig

    @property
    def phases(self) -> tuple[Phase, ...]:
        """Fit alone."""
        return ("fold",)

    @classmethod
    def reads(cls, config: TokenizerConfig) -> Column:
        """A text column."""
        return Column(config.column, "text")

    @classmethod
    def adds(cls, config: TokenizerConfig) -> tuple[Column, ...]:
        """Nothing."""
        return ()

    def semantic(self, phase: Phase) -> dict[str, Any]:
        """Counts depend on the normalisation alone; when to refit decides no token."""
        keys = ("normalization",) if phase == "fold" else ("normalization", *_FITTED_FROM)
        found = {key: value for key, value in self.config.semantic().items() if key in keys}
        if found.get("unit") == "pieces":
            del found["unit"]  # what was fitted before there was this key stays as it is
        return found

    def fold(self, table: pa.Table, context: Context) -> Arrays:
        """Counts of the words of the texts that say something."""
        try:
            from kxbatch.models.byte_bpe import count_words
        except ImportError as error:
            raise ConfigError(
                "a tokenizer stage needs the library tokenizers; run: pip install 'kxbatch[hf]'"
            ) from error
        texts, _, _ = usable_texts(table, self.column)
        return count_words((text.as_py() for text in texts), self.config.normalization).to_arrays()

    def merge(self, a: Arrays, b: Arrays) -> Arrays:
        """Counts of both."""
        return WordCounts.from_arrays(a).merged(WordCounts.from_arrays(b)).to_arrays()

    def drift(self, pinned: Arrays, current: Arrays) -> float:
        """Total variation distance of the two distributions of words."""
        return WordCounts.from_arrays(pinned).distance(WordCounts.from_arrays(current))

    def fit(self, pinned: Arrays, current: Arrays, context: Context) -> Artifact:
        """`tokenizer.json`, what transformers wants to know beside it, and facts for people."""
        from kxbatch.models import byte_bpe, character_tokens

        words, config = WordCounts.from_arrays(pinned), self.config
        if not words.total:
            raise DataError(f"tokenizer of '{self.column}': no row has a text; nothing can be learned")
        train = byte_bpe.train if config.unit == "pieces" else character_tokens.train
        tokenizer, fed = train(words, config.vocabulary, config.normalization, config.min_frequency)
        facts = _facts(words, tokenizer) | {"fed_words": int(fed.sum()), "drift": self.drift(pinned, current)}
        documents = {TOKENIZER: byte_bpe.to_json(tokenizer), "tokenizer_config.json": _for_transformers()}
        return Artifact(documents=documents | {"vocabulary.json": facts}, decides=tuple(documents))


def _facts(words: WordCounts, tokenizer: Tokenizer) -> dict[str, Any]:
    """How well the vocabulary fits: exact over the most frequent words, which are nearly all of a corpus."""
    frequent = np.argsort(-words.counts, kind="stable")[:_MEASURED_WORDS]
    spelled = [word.decode() for word in words.words.take(pa.array(frequent)).to_pylist()]
    encoded = tokenizer.encode_batch_fast(spelled, add_special_tokens=False)
    counts = words.counts[frequent]
    tokens = int((counts * [len(encoding.ids) for encoding in encoded]).sum())
    learned = (encoding.ids[0] for encoding in encoded if len(encoding.ids) == 1)
    characters = int((counts * [len(word) for word in spelled]).sum())
    return {
        "vocabulary": tokenizer.get_vocab_size(),
        "words": words.total,
        "distinct_words": len(words.counts),
        "measured_words": int(counts.sum()),
        "characters_per_token": characters / tokens,
        "tokens_per_word": tokens / int(counts.sum()),
        "frequent_tokens": [tokenizer.decode([token]) for token, _ in zip(learned, range(20), strict=False)],
    }


def _for_transformers() -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "mask_token": "[MASK]",
        "clean_up_tokenization_spaces": False,
    }


STAGE = TokenizerStage
