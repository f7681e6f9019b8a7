"""How tables look: on a terminal with colours and rules, elsewhere as plain text.

Strings from models (names, reasons) are shown as text, never interpreted as markup or control
sequences. Off the terminal the output is plain ASCII rules without colour, 100 columns wide, so
that it can be searched, compared and pasted.
"""

from __future__ import annotations

import io
from typing import TextIO

from rich import box
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from tvm_iovt.report.units import printable

WIDTH_OFF_TERMINAL = 100

_ASCII_RULE = box.Box("    \n    \n -- \n    \n    \n -- \n    \n    \n", ascii=True)


class _PlainTable(Table):
    """A table that chooses its rules when it knows where it is printed.

    Heading and note are as wide as the console; rich wraps titles and captions to the table.
    """

    heading: Text
    note: Text | None = None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        fancy = console.is_terminal and not options.ascii_only
        self.box = box.SIMPLE if fancy else _ASCII_RULE
        yield self.heading
        yield from super().__rich_console__(console, options)
        if self.note:
            yield self.note


def render(renderable: RenderableType, stream: TextIO, *, width: int | None = None) -> None:
    """Write a renderable to a stream: colours and full width on a terminal, plain text elsewhere.

    Args:
        renderable: Any rich renderable.
        stream: Where to write. Characters that its encoding lacks become `?`.
        width: Columns; by default those of the terminal, or 100 off the terminal.
    """
    terminal = stream.isatty()
    if width is None and not terminal:
        width = WIDTH_OFF_TERMINAL
    buffer = io.StringIO()
    Console(
        file=buffer,
        width=width,
        force_terminal=terminal,
        no_color=None if terminal else True,
        markup=False,
        emoji=False,
        highlight=False,
    ).print(renderable)
    lines = buffer.getvalue()
    if not terminal:
        # Cells are padded to their column; trailing blanks only make comparisons noisy.
        lines = "\n".join(line.rstrip() for line in lines.splitlines()) + "\n"
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(lines.encode(encoding, "replace").decode(encoding))


def table(title: str, *, note: str = "", leading: int = 0) -> Table:
    """An empty table; the note goes below it."""
    made = _PlainTable(header_style="bold", show_edge=False, pad_edge=False, leading=leading)
    made.heading = Text(title, style="bold")
    made.note = Text(note) if note else None
    return made


def text(*lines: str) -> Text:
    """Lines of a cell, taken literally."""
    return Text("\n".join(map(printable, lines)))


def verdict(passed: bool) -> Text:
    """`passed` or `FAILED`."""
    return Text("passed", "green") if passed else Text("FAILED", "bold red")
