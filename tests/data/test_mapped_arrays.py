"""Arrays in safetensors files: the bytes of the library, mapped without a copy, damage told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import save

from kxbatch.data.arrays import DTYPES, Arrays, publish_arrays, read_arrays
from kxbatch.data.mapped_arrays import map_arrays
from kxbatch.data.storage import Folder
from kxbatch.errors import DataError

NAME = "x.safetensors"
ARRAYS = st.dictionaries(
    st.text('ab.é"\\ ', min_size=1, max_size=4),
    st.sampled_from([np.dtype(dtype) for dtype in DTYPES.values()]).flatmap(
        lambda dtype: hnp.arrays(
            dtype,
            hnp.array_shapes(min_dims=0, min_side=0, max_side=4),
            elements={"allow_nan": False} if dtype.kind == "f" else None,
        )
    ),
    max_size=5,
)


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ARRAYS)
def test_the_bytes_are_those_of_the_library_and_come_back(tmp_path: Path, arrays: Arrays) -> None:
    published = publish_arrays(Folder(str(tmp_path)), NAME, {name: array.T for name, array in arrays.items()})
    data = (tmp_path / NAME).read_bytes()
    assert data == save({name: np.asarray(array.T, order="C") for name, array in sorted(arrays.items())})
    assert published.bytes == len(data)
    for found in (map_arrays(tmp_path / NAME), read_arrays(Folder(str(tmp_path)), NAME)):
        assert found.keys() == arrays.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array.T)
            assert found[name].dtype == array.dtype


def test_mapped_arrays_cannot_be_written(tmp_path: Path) -> None:
    publish_arrays(Folder(str(tmp_path)), NAME, {"a": np.arange(3)})
    with pytest.raises(ValueError, match="read-only"):
        map_arrays(tmp_path / NAME)["a"][0] = 1


@pytest.mark.parametrize("cut", [0, 4, 8, 40, -1])
def test_a_file_cut_short_is_refused_by_name(tmp_path: Path, cut: int) -> None:
    publish_arrays(Folder(str(tmp_path)), NAME, {"a": np.arange(3), "b": np.arange(4.0)})
    (tmp_path / NAME).write_bytes((tmp_path / NAME).read_bytes()[:cut])
    with pytest.raises(DataError, match=r"x\.safetensors: no valid safetensors file .* makes it again"):
        map_arrays(tmp_path / NAME)


@pytest.mark.parametrize(
    "header",
    [b"[]", b'{"a": 3}', b'{"a": {"dtype": "U9", "shape": [2], "data_offsets": [0, 2]}}', b"\xff",
     b'{"a": {"dtype": "U8", "shape": [3], "data_offsets": [0, 2]}}',
     b'{"a": {"dtype": "U8", "shape": [-2, -1], "data_offsets": [-2, 2]}}'],
)  # fmt: skip
def test_a_header_that_makes_no_sense_is_refused(tmp_path: Path, header: bytes) -> None:
    (tmp_path / NAME).write_bytes(len(header).to_bytes(8, "little") + header + b"ab")
    with pytest.raises(DataError, match="no valid safetensors file"):
        map_arrays(tmp_path / NAME)


def test_a_file_that_is_missing_is_told() -> None:
    with pytest.raises(DataError, match=r"/nowhere/x\.safetensors: missing"):
        map_arrays(Path("/nowhere") / NAME)
