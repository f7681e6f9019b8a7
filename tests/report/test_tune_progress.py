"""What a tuning run shows while it goes on."""

from __future__ import annotations

import dataclasses
import io
import itertools
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvm_iovt.report.tune_history import TuneHistory
from tvm_iovt.report.tune_progress import PLAIN_INTERVAL_S, network_change, tune_progress
from tvm_iovt.tuning.events import Note, RunStarted, TaskEnded, TrialDone, TuneOutcome


class Clock:
    def __init__(self):
        self.now_s = 100.0

    def __call__(self):
        return self.now_s


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(events, *, seconds_each=0.1, stream=None):
    """The plain lines, each with the clock's time at which it was written."""
    stream, clock, times = stream or io.StringIO(), Clock(), []
    with tune_progress(TuneHistory(), stream, clock=clock) as listen:
        for event in events:
            clock.now_s += seconds_each
            before = stream.tell()
            listen(event)
            if stream.tell() > before:
                times.append(clock.now_s)
    return stream.getvalue().splitlines(), times


def test_plain_lines_tell_the_totals(tune_run):
    lines, _ = shown(tune_run(trials=120, runners=("rpi-1", "rpi-2")))
    text = "\n".join(lines)
    assert "small.onnx for host (znver4, 8 cores)" in lines[0]
    assert "3 kernels, 2 more without choices" in lines[0]
    assert "120 trials" in lines[0]
    assert "rpi-1, rpi-2" in lines[0]
    assert re.search(
        r"\d+ of 120 trials, 6\.0/s, \d+ failed; \d+ s left; network \(estimated\)", text
    )
    assert re.search(r"933 µs -> \d+ µs \(0\.\d\dx\)", text)
    assert "dense: close to the roofline" in text


def test_plain_lines_come_every_few_seconds_and_no_more_often(tune_run):
    trials = [event for event in tune_run(trials=200) if isinstance(event, (RunStarted, TrialDone))]
    _, times = shown(trials, seconds_each=0.3)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times[1:])]
    assert len(gaps) > 5
    assert all(PLAIN_INTERVAL_S <= gap < 10 for gap in gaps)


def test_notes_are_always_shown(tune_run):
    notes = [Note(text=f"board {number} was lost") for number in range(20)]
    lines, _ = shown([tune_run()[0], *notes], seconds_each=0)
    assert [line for line in lines if "note: board" in line] == [
        f"[    0.0 s] note: {note.text}" for note in notes
    ]


HOSTILE = "conv\x1b[2J\x1b]0;title\x07\r\nname\u202e"


def hostile(events):
    for event in events:
        if isinstance(event, RunStarted):
            tasks = tuple(dataclasses.replace(task, name=HOSTILE) for task in event.tasks[:1])
            yield dataclasses.replace(event, model=HOSTILE, device=HOSTILE, tasks=tasks)
        elif isinstance(event, TrialDone):
            yield dataclasses.replace(event, task=HOSTILE, error=HOSTILE, runner=HOSTILE)
        elif isinstance(event, TaskEnded):
            yield dataclasses.replace(event, task=HOSTILE, reason=HOSTILE)
    yield Note(text=HOSTILE)


def test_no_control_codes_where_there_is_no_terminal(tune_run):
    for events in (tune_run(), list(hostile(tune_run()))):
        lines, _ = shown(events, seconds_each=6)
        assert len(lines) > 100
        assert all(line.isprintable() for line in lines)
        assert "\u202e" not in "\n".join(lines)


def test_an_ascii_stream_gets_ascii(tune_run):
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    clock = Clock()
    with tune_progress(TuneHistory(), stream, clock=clock) as listen:
        for event in tune_run():
            clock.now_s += 1
            listen(event)
    stream.flush()
    assert b"933 ?s ->" in raw.getvalue()


def test_the_live_display_shows_kernels_and_runners_and_keeps_hostile_names_harmless(tune_run):
    stream = Terminal()
    history = TuneHistory()
    events = [event for event in tune_run() if not isinstance(event, TuneOutcome)]
    with tune_progress(history, stream) as listen:
        for event in (*events, Note(text="a line of the records was skipped")):
            listen(event)
        time.sleep(0.6)
    text = stream.getvalue()
    for word in ("conv0", "depthwise", "120 of 120 trials", "network (estimated)", "local: 120"):
        assert word in text, word
    assert "note: a line of the records was skipped" in text

    stream = Terminal()
    with tune_progress(TuneHistory(), stream) as listen:
        for event in hostile(tune_run()):
            listen(event)
        time.sleep(0.6)
    assert "\x1b]0;" not in stream.getvalue()
    assert "\x1b[2J" not in stream.getvalue()
    assert "\x07" not in stream.getvalue()


def test_the_display_tells_a_board_that_was_lost_until_it_is_back(tune_run):
    history = TuneHistory()
    events = [e for e in tune_run(runners=("rpi", "rpi-2")) if not isinstance(e, TuneOutcome)]
    for event in events[:-3]:
        history.add(event)
    history.add(Note(text="rpi-2 is lost: connection reset"))
    states = {runner.name: runner for runner in history.runners}
    assert states["rpi-2"].note == "rpi-2 is lost: connection reset"
    assert states["rpi"].note == ""  # its name is only the beginning of the other's
    last = next(e for e in reversed(events) if isinstance(e, TrialDone))
    history.add(dataclasses.replace(last, runner="rpi-2"))
    assert {runner.name: runner for runner in history.runners}["rpi-2"].note == ""


def test_a_display_ends_with_the_run_even_if_that_fails(tune_run):
    stream = Terminal()
    with pytest.raises(KeyboardInterrupt), tune_progress(TuneHistory(), stream) as listen:
        listen(tune_run()[0])
        raise KeyboardInterrupt
    assert stream.getvalue().rstrip().endswith("\x1b[2K")  # the display is wiped
    assert "\x1b[?25h" in stream.getvalue()  # the cursor is back


@given(st.none() | st.floats(0, 1e3), st.none() | st.floats(0, 1e3))
def test_any_change_has_words(before_s, after_s):
    text = network_change(before_s, after_s)
    assert text
    assert ("->" in text) == (before_s is not None and after_s is not None)


def test_the_display_tells_what_goes_on_between_trials(tune_run):
    history, stream = TuneHistory(), Terminal()
    started, *events = tune_run()
    with tune_progress(history, stream) as listen:
        listen(Note(text="measuring kernels"))
        time.sleep(0.4)
        for event in (started, *events[:9], Note(text="timing the network")):
            listen(event)
        time.sleep(0.4)
    assert re.search(r"preparing for \d+ s: measuring kernels", stream.getvalue())
    assert "now: timing the network" in stream.getvalue()
    assert history.doing == "timing the network"
    history.add(events[9])
    assert history.doing == ""
