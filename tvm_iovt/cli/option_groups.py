"""A command whose `--help` lists its options under several headings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click


class GroupedCommand(click.Command):
    """A command with headings.

    Args:
        groups: Headings with the parameter names of the options below them (`help` is a name, too);
            options that are in none are listed below `Options`, before the first heading.
    """

    def __init__(
        self, *args: Any, groups: Mapping[str, Sequence[str]] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._groups = groups or {}

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, heading by heading."""
        headings = {name: heading for heading, names in self._groups.items() for name in names}
        rows: dict[str, list[tuple[str, str]]] = {"Options": []}
        rows.update((heading, []) for heading in self._groups)
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if isinstance(parameter, click.Option) and record is not None:
                name = "help" if "--help" in parameter.opts else parameter.name or ""
                rows[headings.get(name, "Options")].append(record)
        for heading, records in rows.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)
