"""What a model of numbers, vectors or images must know of all rows before it is made: widths, image size, means and deviations.

n rows of a shard, m of them usable, D values of a row.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import reduce

import numpy as np
import numpy.typing as npt

from kxbatch.data.arrays import Arrays
from kxbatch.errors import ConfigError, DataError
from kxbatch.kernels.spread import Spread, merge_spreads, spread_of
from kxbatch.stages.numeric import Numeric, Shape


def numeric_facts(found: Numeric, learned: npt.NDArray[np.bool_]) -> Arrays:
    """Of a shard.

    Args:
        found: its usable rows.
        learned: bool [m], which of them decide means and deviations.
    """
    facts: Arrays = dict(spread_of(found.values[learned]).to_arrays())
    facts |= {"widths": np.array(found.widths), "rows": np.array(int(found.usable.sum()))}
    facts["shape"] = np.array(found.shape or (), np.int64)
    return facts


def combined(facts: Iterable[Arrays], columns: Sequence[str]) -> Arrays:
    """Of all shards, in their order; empty without a usable row.

    Raises:
        DataError: they do not agree about widths and shape.
    """
    filled = [one for one in facts if int(one["rows"])]
    for name, words in (("widths", "values of their columns"), ("shape", "heights, widths and channels of images")):
        found = sorted({tuple(int(n) for n in one[name]) for one in filled})
        if len(found) > 1:
            raise DataError(
                f"columns {', '.join(columns)}: shards do not go together, {words}: "
                f"{' and '.join(map(str, found[:2]))}; a model is of rows of one size"
            )
    if not filled:
        return {}
    whole = reduce(merge_spreads, map(spread_in, filled))
    return {**whole.to_arrays(), "widths": filled[0]["widths"], "shape": filled[0]["shape"]}


def spread_in(facts: Arrays) -> Spread:
    """Means and deviations, of a shard or of all."""
    return Spread(**{name: facts[name] for name in Spread.__dataclass_fields__})


def image_shape(asked: Sequence[int] | None, facts: Arrays) -> Shape | None:
    """Height, width and channels of the images that rows are; None for rows that are none.

    Args:
        asked: `[height, width]` or `[height, width, channels]`, for vectors that are images.
        facts: of all shards.

    Raises:
        ConfigError: the rows are not of the shape asked for.
    """
    found, values = tuple(int(n) for n in facts["shape"]), int(facts["widths"].sum())
    if asked is None:
        return (found[0], found[1], found[2]) if found else None
    height, width, *channels = asked
    shape = (height, width, channels[0] if channels else 1)
    if math.prod(shape) != values or (found and found != shape):
        held = f"images of {found}" if found else f"{values} values a row"
        raise ConfigError(f"shape = {list(asked)}, but the column has {held}")
    return shape
