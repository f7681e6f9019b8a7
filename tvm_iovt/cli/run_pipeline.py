"""`tvm-iovt run --pipeline`: its options, its progress and what it prints."""

from __future__ import annotations

import contextlib
import dataclasses
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

import click

from tvm_iovt.cli.options import print_json_after
from tvm_iovt.cli.progress import counter, steps
from tvm_iovt.errors import UsageError

if TYPE_CHECKING:
    from tvm_iovt.boards.session import BoardRequest
    from tvm_iovt.pipelines import PipelineOutcome

F = TypeVar("F", bound=Callable[..., Any])


def pipeline_options(function: F) -> F:
    """The flags that `--pipeline` adds to `run`."""
    for option in (
        click.option(
            "--timeline",
            type=click.Path(path_type=Path, dir_okay=False),
            help="With --pipeline: draw what each stage did when, as an HTML file.",
        ),
        click.option("--limit", type=int, help="With --pipeline: frames to run at most."),
        click.option(
            "--board",
            "boards",
            multiple=True,
            metavar="TARGET=KEY",
            help="With --pipeline: a target whose stages run on a board of that key; repeatable.",
        ),
        click.option(
            "--timeout",
            "timeout_s",
            type=click.FloatRange(min=0, min_open=True),
            help="With --board: seconds for each step with a board.  [default: 60]",
        ),
        click.option(
            "--wait",
            "wait_s",
            type=click.FloatRange(min=0),
            help="With --board: seconds for a board to come free.  [default: 10]",
        ),
        click.option(
            "--tracker", default="", metavar="HOST:PORT", help="With --board: who has the boards."
        ),
        click.option(
            "--adapt",
            is_flag=True,
            help="With --pipeline: change to another deployment of the bundle while it runs, when "
            "the measured times say that it is better.",
        ),
        click.option(
            "--sequential",
            is_flag=True,
            help="With --pipeline: one frame at a time, for the latency instead of the rate.",
        ),
        click.option(
            "--pipeline",
            is_flag=True,
            help="Run the stages at the same time on a stream of frames: a folder, a video, a "
            ".npz with a frame axis, or sample:N.",
        ),
    ):
        function = option(function)
    return function


def refuse_without_pipeline(**given: object) -> None:
    """Flags that do nothing without `--pipeline` are mistakes.

    Raises:
        UsageError: One was given.
    """
    for name, value in given.items():
        if value is not None and value is not False and value not in ("", ()):
            raise UsageError(f"--{name} belongs to --pipeline", do="give both, or neither")


def run_frames(
    bundle: Path,
    sources: Sequence[Path],
    *,
    target: str | None,
    sequential: bool,
    adapt: bool,
    boards: Mapping[str, BoardRequest],
    preprocess: str,
    threads: int | None,
    cpus: Sequence[int] | None,
    output: Path | None,
    limit: int | None,
    timeline: Path | None,
    as_json: bool,
) -> None:
    """Run a bundle on a stream of frames and print how fast that was.

    Raises:
        IovtError: See `run_pipeline`; what was finished before is printed.
    """
    from tvm_iovt.pipelines import PipelineError, run_pipeline

    if len(sources) != 1:
        raise UsageError(
            "A pipeline runs one stream of frames",
            seen=f"{len(sources)} inputs",
            do="give a folder, a video, a .npz file with a frame axis, or sample:100",
        )
    if output is not None and output.suffix == ".npz":
        raise UsageError(
            "A pipeline writes its outputs to a folder, while it runs",
            seen=f"--output {output}",
            do="name a folder",
        )
    with _Progress() as shown:
        try:
            outcome = run_pipeline(
                bundle,
                str(sources[0]),
                target=target or "",
                boards=boards,
                sequential=sequential,
                adapt=adapt,
                preprocess=preprocess,
                threads=threads,
                cpus=cpus,
                output=output,
                limit=limit,
                progress=shown.say,
                count=shown.count,
            )
        except PipelineError as stopped:
            shown.end()
            if stopped.outcome.frames:
                try:
                    _report(stopped.outcome, timeline, as_json=False, quiet=as_json)
                except UsageError as error:  # must not hide what ended the run
                    click.echo(f"{error.what}: {error.seen}", err=True)
            raise
    _report(outcome, timeline, as_json=as_json, quiet=False)


def board_requests(
    tracker: str,
    boards: Sequence[str],
    wait_s: float | None = None,
    timeout_s: float | None = None,
) -> dict[str, BoardRequest]:
    """`--tracker` and `--board` as requests by target.

    Args:
        tracker: Address of the tracker.
        boards: `TARGET=KEY` each.
        wait_s: For a board to come free; by default that of a request.
        timeout_s: For each step with a board, likewise.

    Raises:
        UsageError: They are not written as they should be, or one is there without the other.
    """
    from tvm_iovt.boards.address import parse_address
    from tvm_iovt.boards.session import BoardRequest

    if bool(tracker) != bool(boards):
        raise UsageError(
            "--tracker and --board belong together",
            seen=f"only {'--tracker' if tracker else '--board'}",
            do="give --tracker HOST:PORT and --board TARGET=KEY",
        )
    requests: dict[str, BoardRequest] = {}
    for text in boards:
        name, sign, key = (part.strip() for part in text.rpartition("="))
        if not (name and sign and key) or name in requests:
            raise UsageError(
                "A board cannot be read" if name not in requests else f"{name} has two boards",
                seen=f"--board {text}",
                do="write each as TARGET=KEY, such as arm=rpi4",
            )
        address = parse_address(tracker, what="tracker")
        # Streams are long: the session ends with its client, not at a time.
        request = BoardRequest(tracker=address, key=key, limit_s=0)
        if wait_s is not None:
            request = dataclasses.replace(request, wait_s=wait_s)
        if timeout_s is not None:
            request = dataclasses.replace(request, timeout_s=timeout_s)
        requests[name] = request
    if not requests and (wait_s is not None or timeout_s is not None):
        raise UsageError(
            "--wait and --timeout are for boards", do="give --board, or leave them out"
        )
    return requests


def _report(outcome: PipelineOutcome, timeline: Path | None, *, as_json: bool, quiet: bool) -> None:
    """Print a run, and draw it if that is wanted."""
    from tvm_iovt.json_codec import to_json
    from tvm_iovt.report import tables
    from tvm_iovt.report.pipeline_table import occupancy_table, pipeline_facts

    if as_json:
        fields = {
            "deployment": outcome.deployment.name,
            "source": outcome.source,
            "sequential": outcome.sequential,
            "frames": outcome.frames,
            "switches": to_json(outcome.switches),
            "outputs": None if outcome.outputs is None else str(outcome.outputs),
            "timeline": None if timeline is None else str(timeline),
            "statistics": to_json(outcome.statistics),
        }
        with print_json_after(fields):
            if timeline is not None:
                _draw(outcome, timeline)
        return
    if not quiet:
        prediction = outcome.deployment.plan.prediction
        facts = pipeline_facts(outcome.statistics, prediction, sequential=outcome.sequential)
        tables.render(facts, sys.stdout)
        tables.render(occupancy_table(outcome.statistics), sys.stdout)
        for switch in outcome.switches:
            made = "changed" if switch.made else "could not change"
            click.echo(f"frame {switch.frame}: {made} from {switch.before} to {switch.after}")
        if outcome.outputs is not None:
            click.echo(outcome.kept)
    if timeline is not None:  # last: a page that cannot be written must not cost the numbers
        _draw(outcome, timeline)


def _draw(outcome: PipelineOutcome, file: Path) -> None:
    from tvm_iovt.atomic_write import write_atomically
    from tvm_iovt.report.pipeline_page import pipeline_page
    from tvm_iovt.runtime.machine import this_machine

    here = this_machine()
    mode = "one frame at a time" if outcome.sequential else "as many frames as the stages can take"
    text = pipeline_page(
        model_name=outcome.model_name,
        deployment=outcome.deployment.name,
        timeline=outcome.timeline,
        statistics=outcome.statistics,
        plan=outcome.deployment.plan,
        sequential=outcome.sequential,
        facts=[
            ("Source", outcome.source),
            ("Mode", mode),
            ("Machine", f"{here.cpu}, {here.system} {here.arch}"),
            *(("Place", place) for place in outcome.places),
            *(
                (f"Change at frame {s.frame}", f"{s.before} to {s.after}: {s.reason}")
                for s in outcome.switches
            ),
        ],
    )
    write_atomically(file, text.encode())


class _Progress:
    """Steps while devices are opened, then a count of frames. Use it in a `with` block.

    Steps may also come from the thread that opens the next devices of a run that adapts.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._stack = contextlib.ExitStack()
        self._say: Callable[[str], None] | None = None
        self._count: Callable[[int, int], None] | None = None

    def __enter__(self) -> _Progress:
        self._say = self._stack.enter_context(steps())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end()

    def say(self, message: str) -> None:
        with self._lock:
            if self._say is None:  # after the first frame
                self.end()
                click.echo(message, err=True)
            else:
                self._say(message)

    def count(self, done: int, total: int) -> None:
        with self._lock:
            if self._count is None:
                self.end()
                self._count = self._stack.enter_context(counter("frames"))
            self._count(done, total)

    def end(self) -> None:
        """Take what is shown off the terminal."""
        with self._lock:
            self._stack.close()
            self._say = self._count = None
