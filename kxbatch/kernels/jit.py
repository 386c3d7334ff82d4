"""Compile on first call, keep the machine code between processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., object])


def jit(function: F) -> F:
    """Compiles a function with numba: no GIL, IEEE arithmetic (no reassociation, no contraction), cached on disk.

    The cache lies beside the source, else in the user's cache folder, or where `NUMBA_CACHE_DIR` says. Where none of
    them can be written the function is compiled anew in each process.

    Args:
        function: uses only what numba's nopython mode knows.

    Returns:
        The compiled dispatcher, typed as the function.
    """
    try:
        return cast(F, numba.njit(nogil=True, cache=True)(function))
    except RuntimeError:  # "no locator available": read-only installation without a home folder
        return cast(F, numba.njit(nogil=True)(function))
