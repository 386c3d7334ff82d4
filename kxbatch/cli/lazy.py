"""Groups of commands that know their verbs by name, and import one only to run it or to show its help."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click

from kxbatch.errors import nearest


class LazyGroup(click.Group):
    """A group whose verbs are modules of a package, each with a `command`.

    Args:
        package: where they are.
        verbs: their names, and what each does.
    """

    def __init__(self, *args: Any, package: str, verbs: Mapping[str, str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._package, self._verbs = package, verbs

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Names of the verbs."""
        return list(self._verbs)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """A verb, None where there is none of that name."""
        if name not in self._verbs:
            return None
        command: click.Command = importlib.import_module(f"{self._package}.{name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with the nearest verb for one that is unknown."""
        if args and args[0] not in self._verbs and not args[0].startswith("-"):
            ctx.fail(f"no such command '{args[0]}'{nearest(args[0], self._verbs)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The verbs, without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(self._verbs.items()))
