"""From TOML, environment and command line to a checked `JobSpec`.

Precedence: command line > environment `KXBATCH_*` > file > default.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Union

from pydantic import Field, ValidationError, create_model

from kxbatch.errors import ConfigError, nearest
from kxbatch.spec.explain import explain
from kxbatch.spec.model import NOTHING, JobSpec, StageConfig

Kinds = Mapping[str, type[StageConfig]]
_SECTIONS = ("job", "input")
_NO_TOML = (ValueError, RecursionError)  # tomllib's own error is a ValueError, as is that of a number of 5000 digits


def job_type(kinds: Kinds) -> type[JobSpec]:
    """The `JobSpec` whose stages are the given kinds, told apart by `kind`."""
    union: Any = Union[tuple(kinds.values())]  # noqa: UP007 - built at run time
    stage: Any = Annotated[union, Field(discriminator="kind")] if len(kinds) > 1 else union
    stages: Any = tuple[stage, ...]
    return create_model("Job", __base__=JobSpec, stage=(stages, Field(min_length=1)))


def read_toml(path: Path) -> dict[str, Any]:
    """Read a job file.

    Raises:
        ConfigError: the file is absent, unreadable, not UTF-8 or no TOML; the message has the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        siblings = [p.name for p in path.parent.glob("*.toml")] if path.parent.is_dir() else []
        raise ConfigError(f"{path}: no such job file{nearest(path.name, siblings)}") from None
    except (OSError, ValueError) as error:  # also bytes that are not UTF-8, and names that no file can have
        raise ConfigError(f"{path}: cannot be read as a job file: {error}") from None
    try:
        return tomllib.loads(text)
    except _NO_TOML as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None


def parse_job(
    raw: dict[str, Any],
    kinds: Kinds,
    *,
    origin: str = "job",
    environment: Mapping[str, str] | None = None,
    overrides: Sequence[str] = (),
) -> JobSpec:
    """Check a job.

    Args:
        raw: the tables of the job file.
        kinds: stage kind -> its configuration type.
        origin: what messages call the file.
        environment: variables; those named `KXBATCH_<SECTION>__<KEY>` override the file.
        overrides: `section.key=value` from the command line; values are TOML, or else plain strings.

    Returns:
        The checked job.

    Raises:
        ConfigError: naming file, key path, what is allowed and the nearest match.
    """
    for variable, assignment in _from_environment(environment or {}):
        raw = _override(raw, assignment, f"{origin}: {variable}")
    for assignment in overrides:
        raw = _override(raw, assignment, f"{origin}: --set {assignment!r}")
    _check_text(raw, origin)
    try:
        spec = job_type(kinds).model_validate(raw)
    except ValidationError as error:
        raise ConfigError(explain(error, raw, kinds, origin)) from None
    _check_inputs(spec, origin)
    return spec


def _check_text(raw: Any, origin: str) -> None:
    """Text must be Unicode; variables of the environment and mappings from Python need not be."""
    try:
        json.dumps(raw, ensure_ascii=False, default=str, skipkeys=True).encode()
    except UnicodeEncodeError as error:
        found = error.object[max(0, error.start - 20) : error.end]
        raise ConfigError(f"{origin}: text that is not Unicode near {found!r}; write it as UTF-8") from None


def _check_inputs(spec: JobSpec, origin: str) -> None:
    """Every stage reads one that comes before it: so there is no cycle, and file order is a running order.

    The input is there if a stage reads it.
    """
    names = [config.name for config in spec.stage]
    for index, config in enumerate(spec.stage):
        upstream = spec.upstream(index)
        known = ["input", *(before.name for before in spec.stage[:index] if before.leaves == "rows")]
        if upstream == "input" and not spec.input.path:
            missing = "input.path" if "input" in spec.model_fields_set else "input"
            raise ConfigError(f"{origin}: {missing} is missing; it has no default, and stage '{config.name}' reads it")
        if upstream in (NOTHING, *known):
            continue
        where = f"{origin}: stage[{index}] ({config.name}).input"
        if upstream in names[:index]:
            raise ConfigError(
                f"{where}: '{upstream}' leaves a {spec.stage[names.index(upstream)].leaves} and no rows; "
                f"allowed: {', '.join(known)}. "
                f"An artifact is named where it is used, such as model = 'stage:{upstream}'"
            )
        if upstream in names:
            raise ConfigError(
                f"{where}: '{upstream}' does not come before '{config.name}', which would be a cycle; "
                f"allowed: {', '.join(known)}"
            )
        raise ConfigError(f"{where}: no stage '{upstream}'; allowed: {', '.join(known)}{nearest(upstream, known)}")


def _from_environment(environment: Mapping[str, str]) -> Iterable[tuple[str, str]]:
    """Variables that override, and what they assign."""
    for variable, value in sorted(environment.items()):
        if variable.startswith("KXBATCH_") and "__" in variable:
            path = variable.removeprefix("KXBATCH_").lower().split("__")
            yield variable, f"{'.'.join(path)}={value}"


def _override(raw: dict[str, Any], assignment: str, where: str) -> dict[str, Any]:
    """`raw` with one `section.key=value` applied; `raw` itself stays as it was."""
    path, separator, text = assignment.partition("=")
    section, *keys = path.strip().split(".")
    if not separator or not keys:
        raise ConfigError(f"{where}: write section.key=value, e.g. whiten.beta=0.5")
    stages = list(raw["stage"]) if isinstance(raw.get("stage"), list | tuple) else []
    if section in _SECTIONS:
        return {**raw, section: _assigned(raw.get(section, {}), keys, _value(text))}
    names = [str(stage.get("name") or stage.get("kind")) if isinstance(stage, dict) else "" for stage in stages]
    matches = [i for i, name in enumerate(names) if name == section or name.replace("-", "_") == section]
    if not matches:
        allowed = [*_SECTIONS, *names]
        raise ConfigError(
            f"{where}: no section or stage '{section}'; allowed: {', '.join(allowed)}{nearest(section, allowed)}"
        )
    stages[matches[0]] = _assigned(stages[matches[0]], keys, _value(text))
    return {**raw, "stage": stages}


def _assigned(table: Any, keys: Sequence[str], value: Any) -> Any:
    inner = dict(table) if isinstance(table, dict) else {}
    inner[keys[0]] = value if len(keys) == 1 else _assigned(inner.get(keys[0], {}), keys[1:], value)
    return inner


def _value(text: str) -> Any:
    """A TOML value; what is none is a string, so that paths and names need no quotes."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except _NO_TOML:
        return text
