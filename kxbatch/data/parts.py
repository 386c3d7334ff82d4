"""One part of a dataset: a Parquet file laid out for vectors.

Vector columns are stored plain: they do not compress, and dictionaries and statistics only cost time. Everything else is
zstd. The footer carries `kxbatch.*` metadata; it holds nothing that differs between two runs of the same job, so the
same rows give the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from kxbatch.data.filesystems import resolve, storage_error
from kxbatch.data.row_groups import read_row_groups
from kxbatch.data.storage import File, Folder, Published
from kxbatch.data.vectors import is_vector
from kxbatch.errors import DataError, RetryableError

if TYPE_CHECKING:
    import polars as pl

ROW_GROUP = 16_384
PREFIX = "kxbatch."


def part_name(number: int) -> str:
    """`part-00007.parquet`."""
    return f"part-{number:05d}.parquet"


def publish_part(folder: Folder, name: str, table: pa.Table, metadata: Mapping[str, str]) -> Published:
    """Write a table as one part, visible at once.

    Args:
        folder: the dataset.
        name: the part's name.
        table: rows in their final order.
        metadata: written to the footer as `kxbatch.<key>`.
    """
    footer = {f"{PREFIX}{key}": value for key, value in metadata.items()}
    packed = {leaf: kind for f in table.schema if not is_vector(f.type) for leaf, kind in _leaves(f.name, f.type)}
    vectors = [leaf for f in table.schema if is_vector(f.type) for leaf, _ in _leaves(f.name, f.type)]

    def write(sink: Any) -> None:
        pq.write_table(
            table.replace_schema_metadata(footer),
            pa.PythonFile(sink, mode="w"),
            row_group_size=ROW_GROUP,
            compression=dict.fromkeys(packed, "zstd") | dict.fromkeys(vectors, "none"),
            use_dictionary=[leaf for leaf, kind in packed.items() if _repeats(kind)],
            write_statistics=list(packed),
        )

    return folder.publish(name, write)


def read_part(file: File, columns: Sequence[str] | None = None) -> pa.Table:
    """Read columns of a part.

    Raises:
        DataError: absent or damaged; says which file and what to do.
        RetryableError: the storage did not answer.
    """
    with open_part(file, mapped=True) as part:
        return read_row_groups(part, columns)


@contextmanager
def open_part(file: File, *, mapped: bool = False) -> Iterator[pq.ParquetFile]:
    """A part to read from; what goes wrong meanwhile comes in our words.

    Args:
        file: the part.
        mapped: as in `File.open`.

    Raises:
        DataError: absent or damaged; says which file and what to do.
        RetryableError: the storage did not answer.
    """
    try:
        with file.open(mapped=mapped) as source, pq.ParquetFile(source, pre_buffer=file.remote) as part:
            yield part
    except FileNotFoundError:
        raise DataError(f"{file}: missing; `kxbatch run` makes it again") from None
    except MemoryError:  # Arrow's own is one of its exceptions, too; the file is not to blame
        raise
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        passing = storage_error(error, str(file))
        if isinstance(passing, RetryableError):
            raise passing from error
        raise DataError(
            f"{file}: damaged ({error}); `kxbatch verify` finds such parts, `kxbatch run` mends them"
        ) from None


def read_footer(file: File) -> tuple[pa.Schema, int, dict[str, str]]:
    """Schema, rows and `kxbatch.*` metadata (prefix taken off) of a part, from its footer alone.

    Raises:
        DataError: absent or damaged.
        RetryableError: the storage did not answer.
    """
    with open_part(file) as part:
        schema, rows = part.schema_arrow, part.metadata.num_rows
        pairs = {k.decode(): v.decode() for k, v in (schema.metadata or {}).items()}
    own = {k.removeprefix(PREFIX): v for k, v in pairs.items() if k.startswith(PREFIX)}
    return schema.remove_metadata(), rows, own


def scan_part(file: File) -> pl.LazyFrame:
    """A part as a lazy frame: columns and rows that nobody asks for are not read."""
    import polars as pl
    from pyarrow.dataset import dataset

    if not file.remote:
        return pl.scan_parquet(file.path)
    filesystem, path = resolve(file.path, None)
    return pl.scan_pyarrow_dataset(dataset(path, filesystem=filesystem, format="parquet"))


def _repeats(kind: pa.DataType) -> bool:
    """Whether values of a column are likely to occur again and again."""
    return any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_dictionary))


def _leaves(path: str, kind: pa.DataType) -> Iterator[tuple[str, pa.DataType]]:
    """Parquet's paths of the values of a column, and their types."""
    if pa.types.is_struct(kind):
        for field in kind:
            yield from _leaves(f"{path}.{field.name}", field.type)
    elif pa.types.is_map(kind):
        yield from _leaves(f"{path}.key_value.key", kind.key_type)
        yield from _leaves(f"{path}.key_value.value", kind.item_type)
    elif pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        yield from _leaves(f"{path}.list.element", kind.value_type)
    else:
        yield path, kind
