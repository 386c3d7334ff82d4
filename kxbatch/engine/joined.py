"""The stages of an output side by side, one shard at a time, in the exact Arrow types of their parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from kxbatch.data.parts import read_footer
from kxbatch.data.receipts import Receipt
from kxbatch.engine.output import Output
from kxbatch.errors import ConfigError, DataError, nearest


@dataclass(frozen=True)
class Joined:
    """The joined frame, shard by shard.

    Attributes:
        output: where from.
        stages: stages that have finished shards.
        receipts: of their parts.
        names: stage -> column -> its name in the frame.
        schema: of what is exported.
    """

    output: Output
    stages: list[str]
    receipts: dict[str, dict[str, Receipt]]
    names: dict[str, dict[str, str]]
    schema: pa.Schema

    @classmethod
    def of(cls, output: Output, columns: Sequence[str] | None) -> Joined:
        """Look at receipts and footers; reads no rows.

        Args:
            output: the output.
            columns: names in the joined frame, `id` comes along; None for all.

        Raises:
            ConfigError: an unknown column, or no shard is finished.
        """
        receipts = {name: found for name in output.stages if (found := output.receipts(name))}
        if not receipts:
            raise ConfigError(f"{output.folder.path}: no shard is finished yet; `kxbatch run` makes them")
        names = output.joined_names(list(receipts), receipts)
        whole = cls(output, list(receipts), receipts, names, _schema(output, receipts, names))
        return cls(output, whole.stages, receipts, names, _selected(whole.schema, columns))

    @property
    def keys(self) -> list[str]:
        """The shards, in order."""
        return sorted({key for found in self.receipts.values() for key in found})

    @property
    def most_rows(self) -> int:
        """Rows of the largest part of each shard, added up: the rows of the frame, but for shards with several roots."""
        return sum(max(f[key].rows_out for f in self.receipts.values() if key in f) for key in self.keys)

    def frames(self) -> Iterator[tuple[str, pl.DataFrame]]:
        """Each shard with the exported columns; those of a stage that lacks the shard are null."""
        for key in self.keys:
            lazy = self.output.shard(key, self.stages, self.receipts, self.names)
            try:
                have = set(lazy.collect_schema().names())
                missing = [pl.lit(None).alias(name) for name in self.schema.names if name not in have]
                frame = lazy.with_columns(missing).select(self.schema.names).collect()
            except pl.exceptions.PolarsError as error:
                files = ", ".join(self.inputs([key]))
                raise DataError(f"one of {files} is damaged ({error}); `kxbatch verify` finds which") from None
            yield key, frame

    def tables(self) -> Iterator[tuple[str, pa.Table]]:
        """Each shard as Arrow, in the types of the stages' own parts."""
        for key, frame in self.frames():
            columns = [_as_field(frame.get_column(field.name), field) for field in self.schema]
            yield key, pa.Table.from_arrays(columns, schema=self.schema)

    def inputs(self, keys: Sequence[str]) -> list[str]:
        """The parts that these shards are joined from: `stage/part-00000.parquet`."""
        return [f"{stage}/{found[key].file}" for key in keys for stage, found in self.receipts.items() if key in found]


def _schema(output: Output, receipts: dict[str, dict[str, Receipt]], names: dict[str, dict[str, str]]) -> pa.Schema:
    """Columns as the first part of each stage has them; vectors are NOT NULL only where every row surely has one."""
    fields: dict[str, pa.Field] = {}
    for stage, found in receipts.items():
        first = next(iter(found.values()))
        own, _, _ = read_footer(output.folder.child(stage).file(first.file))
        whole = _is_whole(output, stage, receipts)
        for field in own:
            if field.name == "id":
                fields.setdefault("id", field.with_nullable(False))
                continue
            name = names[stage][field.name]
            fixed = pa.types.is_fixed_size_list(field.type) and not field.nullable
            fields[name] = field.with_name(name).with_nullable(not (whole and fixed))
    return pa.schema(list(fields.values()))


def _is_whole(output: Output, stage: str, receipts: dict[str, dict[str, Receipt]]) -> bool:
    """Whether every row of the joined frame has a row of this stage."""
    root = next(iter(receipts))
    if not all(output.follows(name, list(receipts)) for name in receipts):
        return False
    rows = {key: receipt.rows_out for key, receipt in receipts[root].items()}
    return {key: receipt.rows_out for key, receipt in receipts[stage].items()} == rows


def _as_field(series: pl.Series, field: pa.Field) -> pa.Array:
    """A polars column in the exact Arrow type of the parts; polars itself knows no NOT NULL."""
    array = series.to_arrow()
    if pa.types.is_null(array.type):
        return pa.nulls(len(array), field.type)
    if not pa.types.is_fixed_size_list(field.type):
        return array.cast(field.type)
    if array.type.list_size != field.type.list_size:
        raise DataError(
            f"column '{field.name}': vectors of length {array.type.list_size} and {field.type.list_size}; "
            "`kxbatch run` makes the parts agree"
        )
    element = field.type.value_field
    values = array.values.slice(array.offset * array.type.list_size, len(array) * array.type.list_size)
    if not element.nullable and values.null_count:
        values = pc.fill_null(values, 0)  # below null vectors; nobody sees them
    mask = array.is_null() if array.null_count else None
    return pa.FixedSizeListArray.from_arrays(values.cast(element.type), type=field.type, mask=mask)


def _selected(schema: pa.Schema, columns: Sequence[str] | None) -> pa.Schema:
    if columns is None:
        return schema
    for name in columns:
        if name not in schema.names:
            raise ConfigError(
                f"--columns: no column '{name}'{nearest(name, schema.names)} (has: {', '.join(schema.names)}); "
                "columns of the input come along where a stage has them in keep"
            )
    return pa.schema([schema.field(name) for name in dict.fromkeys(["id", *columns])])
