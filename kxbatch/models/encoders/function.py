"""An encoder that is a function of the user's: texts in, float array [n, d] out."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kxbatch.errors import ConfigError, DataError, nearest
from kxbatch.models.encoders.protocol import Encoded, EncoderSettings, finished, refuse
from kxbatch.models.encoders.sources import CallableModel

PROBE = "kxbatch"  # the one text a function is called with to learn the length of its vectors


class FunctionEncoder:
    """Calls a function with the texts of a shard, and checks what comes back.

    Attributes:
        dim: length of a vector.
    """

    def __init__(self, name: str, function: Callable[[list[str]], Any], settings: EncoderSettings) -> None:
        self._name, self._function = name, function
        self._prompt, self._normalize = settings.prompt, settings.normalize
        self.dim = self._call([PROBE]).shape[1]

    @classmethod
    def load(cls, source: CallableModel, settings: EncoderSettings) -> FunctionEncoder:
        """Import the function and call it once.

        Raises:
            ConfigError: it cannot be imported, is not callable, or a setting has no meaning for it.
            DataError: what it returns for one text is no float array [1, d].
        """
        refuse(settings, "a function", "pooling", "precision", "max_length")
        try:
            module = importlib.import_module(source.module)
        except ImportError as error:
            raise ConfigError(f"model = '{settings.model}': '{source.path}' cannot be imported: {error}") from error
        function = getattr(module, source.function, None)
        if function is None:
            names = [name for name, value in vars(module).items() if callable(value)]
            raise ConfigError(
                f"model = '{settings.model}': '{source.path}' has no '{source.function}'"
                f"{nearest(source.function, names)}"
            )
        if not callable(function):
            raise ConfigError(
                f"model = '{settings.model}': '{source.function}' is a {type(function).__name__}, expected a "
                "function: list of n texts -> float array [n, d]"
            )
        return cls(f"{source.module}:{source.function}", function, settings)

    def encode(self, texts: Sequence[str]) -> Encoded:
        """Vectors of texts; see `Encoder`.

        Raises:
            DataError: the function did not return a float array [n, d].
        """
        prompted = [self._prompt + text for text in texts]
        vectors = self._call(prompted) if prompted else np.empty((0, self.dim), np.float32)
        if vectors.shape[1] != self.dim:
            raise DataError(f"'{self._name}' returned vectors of length {vectors.shape[1]}, before {self.dim}")
        return finished(vectors, np.zeros(len(texts), np.bool_), normalize=self._normalize)

    def _call(self, texts: list[str]) -> npt.NDArray[np.float32]:
        try:
            found = np.asarray(self._function(texts))
        except Exception as error:
            error.add_note(f"raised by 'callable:{self._name}', called with a list of {len(texts)} texts")
            raise
        if found.ndim != 2 or found.shape[0] != len(texts) or found.shape[1] == 0:
            raise DataError(
                f"'{self._name}' returned shape {list(found.shape)} for {len(texts)} texts, expected [{len(texts)}, d]"
            )
        if not np.issubdtype(found.dtype, np.floating):
            raise DataError(f"'{self._name}' returned {found.dtype}, expected float32")
        return found.astype(np.float32)
