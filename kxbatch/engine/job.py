"""A job ready to be planned: its file checked, its stages built, its columns followed from the input to the last stage."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kxbatch.data.storage import Fence, Folder, output_folder
from kxbatch.engine.cards import ARTIFACT, read_card, taken_digest
from kxbatch.errors import ConfigError, nearest
from kxbatch.spec.fingerprint import fingerprint
from kxbatch.spec.load import parse_job, read_toml
from kxbatch.spec.model import NOTHING, JobSpec, StageConfig
from kxbatch.stages.base import SAMPLE_ID, TRAINED, Column, ColumnKind, Phase, Reads, Stage, only_column
from kxbatch.stages.registry import config_types, stage_types


@dataclass(frozen=True)
class Job:
    """A checked job file and the folder its relative paths start from.

    Attributes:
        origin: what messages call it.
        base: where relative input and output paths start.
        fence: asked before anything becomes visible in the output; None where nothing is written.
    """

    spec: JobSpec
    origin: str
    base: Path
    fence: Fence | None = None

    @property
    def output(self) -> Folder:
        """The folder of everything the job writes."""
        folder = output_folder(self.spec.job.output, self.base)
        return folder.fenced(self.fence) if self.fence else folder

    def fenced(self, fence: Fence) -> Job:
        """The same job for a run that holds the lease."""
        return replace(self, fence=fence)


def load_job(
    source: str | Path | Mapping[str, Any],
    *,
    overrides: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> Job:
    """Read and check a job.

    Args:
        source: path of a job file, or its content as a mapping. Relative paths in it start from the current folder.
        overrides: `section.key=value`, as `--set` takes them.
        environment: variables to look at; absent: those of the process.

    Raises:
        ConfigError: what is wrong, where, and what is allowed.
    """
    is_mapping = isinstance(source, Mapping)
    raw = dict(source) if isinstance(source, Mapping) else read_toml(Path(source))
    origin = "job" if is_mapping else str(source)
    found = os.environ if environment is None else environment
    make_importable(Path.cwd())
    spec = parse_job(raw, config_types(), origin=origin, environment=found, overrides=overrides)
    return Job(spec, origin, Path.cwd())


def make_importable(base: Path) -> None:
    """Let `callable:module:function` name a module beside the job, here and on workers."""
    if str(base) not in sys.path:
        sys.path.append(str(base))


@dataclass(frozen=True)
class Node:
    """A stage in its place in the tree.

    Attributes:
        name: folder of its output.
        upstream: name of the stage it reads, or `input`; `NOTHING` if it makes its rows.
        stage: the stage itself.
        folder: where it writes.
        columns: what its shards hold, and of what kind (without `id`).
        made: the stage that made each of them, or `input`; a column that is kept stays what it was.
        reads: what it reads.
        takes: stages whose artifacts it works with.
        identity: what decides the result besides the configuration: digests of models, and of those artifacts.
        chain: fingerprint of its configuration and everything above it, data left out.
        seed: of the job.
    """

    name: str
    upstream: str
    stage: Stage[Any]
    folder: Folder
    columns: dict[str, ColumnKind]
    made: dict[str, str]
    reads: Reads
    takes: tuple[str, ...]
    identity: dict[str, str]
    chain: str
    seed: int

    def fenced(self, fence: Fence) -> Node:
        """The same stage for a run that holds the lease."""
        return replace(self, folder=self.folder.fenced(fence))

    @property
    def config(self) -> StageConfig:
        """The stage's configuration."""
        config: StageConfig = self.stage.config
        return config

    def code(self, phase: Phase) -> str:
        """Fingerprint of what a phase computes: kind, version, configuration, model."""
        kind, version = self.config.kind, self.stage.version
        seed = self.seed if self.stage.draws else None
        return fingerprint([kind, version, phase, self.stage.semantic(phase), self.identity, seed])


def build_tree(job: Job, columns: Mapping[str, ColumnKind]) -> list[Node]:
    """Build every stage, in file order, which is a running order.

    A stage that takes another one's artifact is built anew once that one is trained: only then is the artifact known.

    Args:
        job: the job.
        columns: the input's columns and their kinds.

    Raises:
        ConfigError: a column is missing, of the wrong kind, or not clear; or a model cannot be identified.
    """
    available: dict[str, Mapping[str, ColumnKind]] = {"input": columns, NOTHING: {SAMPLE_ID: "number"}}
    made: dict[str, Mapping[str, str]] = {"input": dict.fromkeys(columns, "input"), NOTHING: {SAMPLE_ID: NOTHING}}
    chains = {"input": fingerprint(job.spec.input.semantic()), NOTHING: NOTHING}
    nodes: list[Node] = []
    for index, config in enumerate(job.spec.stage):
        upstream = job.spec.upstream(index)
        where = f"{job.origin}: stage[{index}] ({config.name})"
        kind = stage_types()[config.kind]
        column = _resolve(where, upstream, available[upstream], kind.reads(config))
        stage = kind(config, column)
        takes = kind.takes(config)
        identity = stage.identity() | {
            f"{TRAINED}{name}": _taken(where, name, kinds, job, nodes) for name, kinds in takes.items()
        }
        added = _added(where, kind, config, nodes)
        for name in kind.also_reads(config):
            _require(f"{where}: ", name, upstream, available[upstream])
        kinds = {name: available[upstream][name] for name in stage.columns}
        origins = {name: f"{made[upstream][name]}.{name}" for name in stage.columns}
        _check(where, kind, config, Reads(upstream, kinds, origins), nodes)
        kept = {name: _kept(where, name, upstream, available[upstream], added) for name in config.keep}
        chain = fingerprint([chains[upstream], config.kind, stage.version, config.semantic(), identity, column])
        folder = job.output.child(config.name)
        makes = {**{name: made[upstream][name] for name in kept}, **dict.fromkeys(added, config.name)}
        nodes.append(
            Node(
                name=config.name,
                upstream=upstream,
                stage=stage,
                folder=folder,
                columns={**kept, **added},
                made=makes,
                reads=Reads(upstream, kinds, origins),
                takes=tuple(takes),
                identity=identity,
                chain=chain,
                seed=job.spec.job.seed,
            )
        )
        available[config.name], made[config.name], chains[config.name] = nodes[-1].columns, makes, chain
    return nodes


def _added(where: str, kind: type[Stage[Any]], config: StageConfig, before: Sequence[Node]) -> dict[str, ColumnKind]:
    """The columns a stage adds, and their kinds."""
    wanted = kind.takes(config)
    try:
        columns = kind.adds_with(
            config, {node.name: (node.config, node.reads) for node in before if node.name in wanted}
        )
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    return {column.name: column.kind for column in columns if column.name}


def _check(where: str, kind: type[Stage[Any]], config: StageConfig, reads: Reads, before: Sequence[Node]) -> None:
    """What only the stage itself can tell of the columns and artifacts it is given."""
    try:
        kind.check_columns(config, reads.kinds)
        for node in before:
            if node.name in kind.takes(config):
                kind.check_taken(config, node.name, node.config, reads, node.reads)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _taken(where: str, name: str, kinds: Sequence[str], job: Job, before: Sequence[Node]) -> str:
    """Digest of an earlier stage's artifact, empty where it is still to be made.

    Raises:
        ConfigError: no such stage before, or one that leaves something else.
    """
    allowed = [node.name for node in before if node.config.leaves in kinds]
    if name not in allowed:
        raise ConfigError(
            f"{where}: '{TRAINED}{name}': no stage of that name before it leaves a {' or a '.join(kinds)}; allowed: "
            f"{', '.join(TRAINED + other for other in allowed) or 'none'}{nearest(name, allowed)}"
        )
    return taken_digest(read_card(job.output.child(name, ARTIFACT)))


def _resolve(where: str, upstream: str, columns: Mapping[str, ColumnKind], wanted: Column) -> str:
    have = ", ".join(f"{name} ({kind})" for name, kind in columns.items()) or "none"
    name = only_column(columns, wanted)
    if name is None and wanted.name is not None:
        raise ConfigError(
            f"{where}.column: '{upstream}' has no column '{wanted.name}'{nearest(wanted.name, columns)} (has: {have})"
        )
    if name is None:
        raise ConfigError(f"{where}.column: name the {wanted.kind} column to read; '{upstream}' has: {have}")
    allowed = (wanted.kind, *wanted.also)
    if columns[name] not in allowed:
        raise ConfigError(
            f"{where}.column: '{name}' of '{upstream}' is no {' or '.join(allowed)} column but {columns[name]} (has: {have})"
        )
    return name


def _kept(
    where: str, name: str, upstream: str, columns: Mapping[str, ColumnKind], added: Mapping[str, ColumnKind]
) -> ColumnKind:
    _require(f"{where}.keep: ", name, upstream, columns)
    if name in added:
        raise ConfigError(f"{where}.keep: '{name}' is a column this stage adds; leave it out of keep")
    return columns[name]


def _require(where: str, name: str, upstream: str, columns: Mapping[str, ColumnKind]) -> None:
    if name not in columns:
        raise ConfigError(
            f"{where}'{upstream}' has no column '{name}'{nearest(name, columns)} (has: {', '.join(columns)}); "
            "a stage in between passes a column on when its keep names it"
        )
