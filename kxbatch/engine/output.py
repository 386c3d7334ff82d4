"""Reading a finished output: one lazy frame over all stages, without copying a corpus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from kxbatch.data.parts import scan_part
from kxbatch.data.receipts import Receipt, read_receipts
from kxbatch.data.storage import Folder, output_folder
from kxbatch.engine.record import read_record
from kxbatch.errors import ConfigError, nearest
from kxbatch.spec.model import NOTHING, MakerConfig
from kxbatch.stages.base import Phase, accounting_phase
from kxbatch.stages.registry import stage_types


@dataclass(frozen=True)
class Output:
    """An output folder. Parts count only when they have a receipt."""

    folder: Folder
    record: dict[str, Any]

    @property
    def stages(self) -> list[str]:
        """Names of the stages, in job order."""
        return [stage["name"] for stage in self.record["job"]["stage"]]

    def upstream(self, stage: str) -> str:
        """What a stage reads: the name of another stage, or `input`; `NOTHING` if it makes its rows."""
        index = self.stages.index(self._known(stage))
        kind = stage_types().get(self.record["job"]["stage"][index]["kind"])
        if kind is not None and issubclass(kind.config_type, MakerConfig):
            return NOTHING
        declared = self.record["job"]["stage"][index]["input"]
        return str(declared or ([name for name in self.stages[:index] if self.leaves_rows(name)] or ["input"])[-1])

    def leaves_rows(self, stage: str) -> bool:
        """Whether a stage leaves parts, or an artifact alone."""
        return self.accounting_phase(stage) == "map"

    def accounting_phase(self, stage: str) -> Phase:
        """The phase of a stage whose receipts account for every row."""
        self._known(stage)
        return recorded_phases(self.record)[stage]

    def receipts(self, stage: str) -> dict[str, Receipt]:
        """Receipts of a stage's parts, by shard: those that the last run found or made good."""
        valid = {u["key"] for s in self.record["stages"] if s["name"] == self._known(stage) for u in s["units"]}
        found = read_receipts(self.folder.child(stage), "map")
        return {key: found[key] for key in sorted(found) if key in valid}

    def parts(self, stage: str) -> list[str]:
        """Addresses of a stage's files, in shard order."""
        folder = self.folder.child(self._known(stage))
        return [folder.file(receipt.file).path for receipt in self.receipts(stage).values()]

    def scan(self, stages: Sequence[str] | None = None) -> pl.LazyFrame:
        """All stages side by side, one row for each row of the first stage that reads the input, or that a stage made.

        Stages are joined shard by shard; a row that a later stage set aside has nulls in that stage's columns. A column that two
        stages have comes once under its own name, and once as `<stage>.<column>`.

        Args:
            stages: names to join; absent: all.

        Raises:
            ConfigError: no such stage, or nothing is finished yet.
        """
        names = [self._known(stage) for stage in stages] if stages is not None else self.stages
        names = [name for name in names if self.leaves_rows(name)]
        receipts = {name: self.receipts(name) for name in names}
        keys = sorted({key for found in receipts.values() for key in found})
        if not keys:
            raise ConfigError(f"{self.folder.path}: no shard is finished yet; `kxbatch run` makes them")
        columns = self.joined_names(names, receipts)
        return pl.concat([self.shard(key, names, receipts, columns) for key in keys], how="diagonal_relaxed")

    def joined_names(self, names: Sequence[str], receipts: dict[str, dict[str, Receipt]]) -> dict[str, dict[str, str]]:
        """Stage -> column -> its name in the joined frame."""
        taken = {"id"}
        columns: dict[str, dict[str, str]] = {}
        for name in names:
            first = next(iter(receipts[name].values()), None)
            if first is None:
                columns[name] = {}
                continue
            own = scan_part(self.folder.child(name).file(first.file)).collect_schema().names()
            columns[name] = {c: (f"{name}.{c}" if c in taken else c) for c in own if c != "id"}
            taken.update(columns[name])
        return columns

    def shard(
        self,
        key: str,
        names: Sequence[str],
        receipts: dict[str, dict[str, Receipt]],
        columns: dict[str, dict[str, str]],
    ) -> pl.LazyFrame:
        """One shard of the joined frame. Rows that a stage made are none of the input's, whatever their ids: they come below."""
        groups: dict[str, list[str]] = {}
        for name in names:
            if key in receipts[name]:
                groups.setdefault(self.source(name), []).append(name)
        frames = [self._joined(key, group, receipts, columns) for group in groups.values()]
        return frames[0] if len(frames) == 1 else pl.concat(frames, how="diagonal_relaxed")

    def _joined(
        self,
        key: str,
        names: Sequence[str],
        receipts: dict[str, dict[str, Receipt]],
        columns: dict[str, dict[str, str]],
    ) -> pl.LazyFrame:
        joined: pl.LazyFrame | None = None
        rows = 0
        for name in names:
            receipt = receipts[name][key]
            part = scan_part(self.folder.child(name).file(receipt.file)).rename(columns[name])
            if joined is None:
                joined, rows = part, receipt.rows_out
            elif receipt.rows_out == rows and self.follows(name, names):
                joined = pl.concat([joined, part.drop("id")], how="horizontal")
            else:
                joined = joined.join(part, on="id", how="full", coalesce=True, maintain_order="left")
                rows = rows if self.follows(name, names) else -1  # rows may have come in: count no more
        assert joined is not None
        return joined

    def follows(self, stage: str, names: Sequence[str]) -> bool:
        """Whether the stage reads, directly or not, the first of the joined stages: equal counts are then equal rows."""
        while stage != names[0]:
            if stage in ("input", NOTHING):
                return False
            stage = self.upstream(stage)
        return True

    def source(self, stage: str) -> str:
        """Where a stage's rows come from: `input`, or the name of the stage that made them."""
        while (above := self.upstream(stage)) not in ("input", NOTHING):
            stage = above
        return "input" if above == "input" else stage

    def _known(self, stage: str) -> str:
        if stage not in self.stages:
            raise ConfigError(
                f"{self.folder.path}: no stage '{stage}'{nearest(stage, self.stages)} (has: {', '.join(self.stages)})"
            )
        return stage


def recorded_phases(record: Mapping[str, Any]) -> dict[str, Phase]:
    """Stage -> the phase that accounts for its rows, for the stages of a run's record."""
    kinds = {entry["name"]: stage_types().get(entry["kind"]) for entry in record["job"]["stage"]}
    return {name: "map" if kind is None else accounting_phase(kind) for name, kind in kinds.items()}


def open_output(path: str | Path) -> Output:
    """Open an output.

    Raises:
        ConfigError: not an output of kxbatch, or nothing ran to an end yet.
    """
    folder = output_folder(str(path), Path.cwd())
    record = read_record(folder)
    if record is None:
        what = "is no output of kxbatch (no run.json)" if folder.exists() else "does not exist"
        raise ConfigError(f"{folder.path} {what}; give the folder that job.output names, after a run")
    return Output(folder, record)
