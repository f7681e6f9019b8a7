"""Progress on stderr: a spinner with the elapsed time on a terminal, plain lines otherwise."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click


@contextmanager
def steps() -> Iterator[Callable[[str], None]]:
    """A callable that announces the step which begins, and tells how long the last one took."""
    began_s = time.monotonic()
    if not sys.stderr.isatty():

        def plain(message: str) -> None:
            click.echo(f"[{time.monotonic() - began_s:6.1f} s] {message}", err=True)

        yield plain
        return

    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting", total=None)
        step_began_s, step = began_s, ""

        def live(message: str) -> None:
            nonlocal step_began_s, step
            now_s = time.monotonic()
            if step:
                console.print(f"[dim]{now_s - step_began_s:6.1f} s[/dim]  {step}", highlight=False)
            step_began_s, step = now_s, message
            bar.update(task, description=message)

        yield live
        if step:
            live("")


@contextmanager
def counter(unit: str) -> Iterator[Callable[[int, int], None]]:
    """A callable that shows `done` of `total`, with the time left; a total of 0 is not known."""
    if not sys.stderr.isatty():
        last_s = time.monotonic()

        def plain(done: int, total: int) -> None:
            nonlocal last_s
            now_s = time.monotonic()
            if done == total or now_s - last_s > 5:
                last_s = now_s
                click.echo(f"{done} of {total} {unit}" if total else f"{done} {unit}", err=True)

        yield plain
        return

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(unit, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total or None)
