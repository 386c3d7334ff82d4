"""What `kxbatch kg add` and `kxbatch kg delete` share: changes from options or a file, made as one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from kxbatch.cli.common import json_option, print_json, volume_options
from kxbatch.errors import ConfigError, nearest

if TYPE_CHECKING:
    from kxbatch.models.graph.changes import Change
    from kxbatch.models.graph.graph import Graph

Function = TypeVar("Function", bound=Callable[..., Any])
What = Literal["add", "delete"]
_KEYS = ("subject", "predicate", "object", "meaning")


def change_options(function: Function) -> Function:
    """`GRAPH`, the parts of a fact, and `--from`."""
    options = [
        click.argument("graph", type=click.Path(path_type=Path)),
        click.option("--subject", help="Subject of the fact."),
        click.option("--predicate", help="Predicate of the fact."),
        click.option("--meaning", help="Which of several subjects of that name."),
        click.option("--object", "object_", help="Object of the fact."),
        click.option(
            "--from",
            "file",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="TSV (S, P, O, M) or JSONL of facts.",
        ),
        json_option,
        volume_options,
    ]
    for option in reversed(options):
        function = option(function)
    return function


def change_graph(graph: Path, made: Sequence[Change], as_json: bool) -> None:
    """Make changes, all of them or none, and say so.

    Raises:
        ConfigError: what is to be deleted is not there, or a fact cannot be one; nothing was changed.
        LeaseHeld: another process is changing the graph.
    """
    from kxbatch.models.graph import Graph
    from kxbatch.models.graph.changes import Missing
    from kxbatch.models.graph.journal import append_changes, locked
    from kxbatch.models.graph.near import near_keys
    from kxbatch.models.graph.opening import find_graph

    place = find_graph(graph)
    with locked(place.changes):
        opened = Graph.open(graph)
        made = [_split(change, opened) for change in made]
        try:
            after = opened.with_changes(made)
        except Missing as error:
            near = [] if error.is_there else near_keys(opened, error.change)
            raise ConfigError(
                f"{error}{'; nearest: ' + ', '.join(near) if near else ''}; nothing was changed"
            ) from None
        append_changes(place.journal, made)
    if as_json:
        print_json({"changes": len(made), "keys": len(after), "digest": after.digest, "journal": str(place.journal)})
    else:
        words = "1 change" if len(made) == 1 else f"{len(made)} changes"
        click.echo(f"{words}, {len(after)} keys now: {place.journal}")


def read_changes(
    what: What,
    file: Path | None,
    *,
    subject: str | None,
    predicate: str | None,
    meaning: str | None,
    object_: str | None,
) -> list[Change]:
    """The changes that the options mean.

    Raises:
        click.UsageError: a part is missing, or there are a fact and a file.
        ConfigError: the file cannot be read; names the line.
    """
    given = {"subject": subject, "predicate": predicate, "object": object_, "meaning": meaning}
    if file is not None:
        if any(value is not None for value in given.values()):
            raise click.UsageError("either --from FILE, or one fact by --subject, --predicate, --meaning, --object")
        return [_change(what, values, where) for where, values in _rows_of(file)]
    needed = ("subject", "predicate", *(("object",) if what == "add" else ()))
    missing = [f"--{name}" for name in needed if given[name] is None]
    if missing:
        raise click.UsageError(f"missing {', '.join(missing)}; or give a file of facts with --from")
    return [_change(what, given, "")]


def _change(what: What, values: dict[str, Any], where: str) -> Change:
    """One change; an object that is missing or empty deletes the key."""
    from kxbatch.models.graph.changes import Change

    unknown = [name for name in values if name not in _KEYS]
    if unknown:
        raise ConfigError(f"{where}no part of a fact is called '{unknown[0]}'{nearest(unknown[0], _KEYS)}")
    parts = {name: values.get(name) for name in _KEYS}
    odd = [name for name, value in parts.items() if value is not None and not isinstance(value, str)]
    if odd:
        raise ConfigError(f"{where}{odd[0]} is {parts[odd[0]]!r}, write it as text")
    change = Change(
        what, parts["subject"] or "", parts["predicate"] or "", parts["meaning"] or "", parts["object"] or None
    )
    if fault := change.fault():
        raise ConfigError(f"{where}{fault}")
    return change


def _rows_of(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Rows of a file with the words that name their line."""
    try:
        text = file.read_text(encoding="utf-8-sig")  # a byte order mark is no character of a subject
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from None
    is_json = file.suffix in (".jsonl", ".ndjson")
    for number, line in enumerate(text.split("\n"), 1):
        where, line = f"{file}, line {number}: ", line.removesuffix("\r")
        if line.strip():
            yield where, _of_json(line, where) if is_json else _of_fields(line.split("\t"), where)


def _of_json(line: str, where: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except ValueError as error:
        raise ConfigError(f"{where}no JSON: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{where}a fact is an object with the keys {', '.join(_KEYS)}")
    return values


def _of_fields(fields: list[str], where: str) -> dict[str, Any]:
    if not 2 <= len(fields) <= len(_KEYS):
        raise ConfigError(f"{where}{len(fields)} fields; write subject, predicate, object, meaning with tabs between")
    return dict(zip(_KEYS, fields, strict=False))


def _split(change: Change, graph: Graph) -> Change:
    """As the graph's own subjects were split, unless the meaning is told."""
    from dataclasses import replace

    import pyarrow as pa

    from kxbatch.models.graph import split_meaning

    if change.meaning or not graph.spelling.splits_meaning:
        return change
    subject, meaning = (part[0].as_py() for part in split_meaning(pa.array([change.subject])))
    return replace(change, subject=subject, meaning=meaning)
