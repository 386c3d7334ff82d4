"""Whole words of Chinese, which writes no spaces."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from functools import cache
from importlib import metadata

import numpy as np
import numpy.typing as npt

from kxbatch.errors import ConfigError

Segmenter = Callable[[str], npt.NDArray[np.int64]]  # a text to the ends of its segments, in characters, ascending


@cache
def jieba_segmenter() -> Segmenter:
    """Segments by the dictionary of the package jieba.

    Raises:
        ConfigError: the package is not installed.
    """
    jieba_version()
    import jieba

    jieba.setLogLevel(logging.WARNING)
    segmenter = jieba.Tokenizer()
    # it caches its dictionary in a shared folder, by marshal, and reads what it finds there, whoever wrote it
    with tempfile.TemporaryDirectory() as own:
        segmenter.tmp_dir = own
        segmenter.initialize()
    return lambda text: np.cumsum([len(word) for word in segmenter.cut(text)], dtype=np.int64)


def jieba_version() -> str:
    """Its version, which is that of its dictionary.

    Raises:
        ConfigError: the package is not installed.
    """
    try:
        return metadata.version("jieba")
    except metadata.PackageNotFoundError:
        raise ConfigError("segmenter = 'jieba': not installed here; run: pip install 'kxbatch[zh]'") from None
