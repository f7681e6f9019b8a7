"""The HTML report of a tuning run."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tvm_iovt.report.tune_charts import Curve, CurvePoint, tuning_curve
from tvm_iovt.report.tune_history import TuneHistory
from tvm_iovt.report.tune_page import tune_page
from tvm_iovt.tuning.events import Note, RunStarted, TrialDone, TuneOutcome

VOID = {"input", "meta", "wbr"}


class Document(HTMLParser):
    """Checks that every element is closed in order; collects what tests look at."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.tags, self.classes, self.attributes, self.text = [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        self.classes += (dict(attrs).get("class") or "").split()
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] not in (["script"], ["style"]):
            self.text.append(data)

    @property
    def words(self):
        return " ".join("".join(self.text).split())


def heard(events):
    history = TuneHistory()
    for event in events:
        history.add(event)
    return history


def test_the_page_tells_the_whole_run(tune_run):
    history = heard(tune_run(runners=("rpi-1", "rpi-2")))
    history.add(Note(text="rpi-2 was lost"))
    page = tune_page(history, (("Precision", "fp32"), ("TVM", "0.27.0")))
    document = Document(page)
    outcome = history.outcome
    ratio = outcome.tuned_network_s / outcome.template_network_s
    for expected in (
        "small.onnx",
        "target host",
        "znver4, 8 cores",
        "3 kernels faster",
        f"933 µs → {outcome.tuned_network_s * 1e6:.0f} µs, {ratio:.2f}x ± 0.01",
        "3 of 3",
        "2 without choices",
        "of 120 asked, 6 failed",
        "5.0 trials a second",
        "measuring 70.0%",
        "other 5.0%",
        "conv0",
        "faster in the network",
        "6 of 120 trials, by message",
        "LLVM gave up after",
        "rpi-2 was lost",
        "100.0 GFLOP/s and 20.0 GB/s",
        "Precision",
        "0.27.0",
    ):
        assert expected in document.words, expected
    assert document.classes.count("step") == 2 + 1  # two curves and their legend
    assert document.classes.count("after") == 2 + 1
    assert document.classes.count("failed") == 2 * 6 + 1
    assert "earlier" not in document.classes


def test_the_table_has_a_row_a_kernel_with_its_numbers(tune_run):
    history = heard(tune_run())
    page = tune_page(history)
    body = page[page.index('id="sortable"') :]
    rows = re.findall(r"<tr>.*?</tr>", body[body.index("<tbody>") : body.index("</tbody>")])
    assert len(rows) == 3
    cells = [re.findall(r'data-value="([^"]*)"', row) for row in rows]
    by_name = {values[0]: values for values in cells}
    task = next(t for t in history.outcome.tasks if t.task == "conv0")
    _, share, template, best, ratio, chosen, inside, roofline, trials = by_name["conv0"]
    assert float(template) == pytest.approx(task.template_s, rel=1e-4)
    assert float(best) == pytest.approx(task.best_s, rel=1e-4)
    assert float(ratio) == pytest.approx(task.best_s / task.template_s, rel=1e-4)
    assert float(inside) == pytest.approx(task.chosen_network_s, rel=1e-4)
    assert float(roofline) == pytest.approx(0.6 * task.template_s / task.best_s, rel=1e-4)
    assert (chosen, int(trials)) == ("search", task.trials)
    assert sum(float(values[1]) for values in cells) == pytest.approx(1, rel=1e-4)
    assert float(share) == max(float(values[1]) for values in cells)


def test_the_curve_falls_from_the_templates_to_the_end(tune_run):
    page = tune_page(heard(tune_run()))
    paths = re.findall(r'<path d="(M[^"]*)" class="step"', page)
    assert len(paths) == 2
    for path in paths:
        heights = [float(y) for y in re.findall(r"V([\d.]+)", path)]
        first = float(re.match(r"M[\d.]+ ([\d.]+)", path)[1])
        assert heights == sorted(heights)  # downwards is larger in SVG
        assert len(heights) > 3
        assert first < heights[0]


def test_an_unfinished_run_has_a_page(tune_run):
    events = tune_run()
    for stop in (1, 2, 3, 60):
        document = Document(tune_page(heard(events[:stop])))
        assert "not finished" in document.words
        assert "the same command goes on" in document.words
    assert "Network, estimated" in document.words


def test_a_run_without_gains_says_so(tune_run):
    words = Document(tune_page(heard(tune_run(gained=False)))).words
    assert "nothing gained" in words
    assert "no more than the noise" in words
    assert "nothing was faster" in words
    assert "so none is used" in words


def test_a_budget_that_is_not_spent_is_told(tune_run):
    *events, outcome = tune_run()
    words = Document(
        tune_page(heard([*events, dataclasses.replace(outcome, complete=False)]))
    ).words
    assert "budget not spent" in words


def test_unknown_ceilings_are_not_invented(tune_run):
    words = Document(tune_page(heard(tune_run(bound=False)))).words
    assert "no share of the roofline is known" in words
    assert "GFLOP/s" not in words


def test_a_resumed_run_is_marked(tune_run):
    document = Document(tune_page(heard(tune_run(resumed=40, trials=80))))
    assert "earlier" in document.classes
    assert "seam" in document.classes
    assert "before it was resumed" in document.words
    assert "after 40 trials" in document.words


def test_kernels_that_only_the_interrupted_run_has_tried_keep_their_place(tune_run):
    events = [
        event
        for event in tune_run(resumed=40, trials=80)
        if not (isinstance(event, TrialDone) and event.task == "conv0")
    ]
    whole, partial = heard(events), heard(events[:-1])
    assert whole.shares()["conv0"] > 0.3
    assert sum(whole.shares().values()) == pytest.approx(1)
    assert "conv0" not in partial.shares()
    assert sum(partial.shares().values()) == pytest.approx(1 - whole.shares()["conv0"], abs=0.1)


def test_nothing_is_fetched(tune_run):
    page = tune_page(heard(tune_run(resumed=5)))
    document = Document(page)
    assert not {"link", "img", "iframe", "object", "base"} & set(document.tags)
    assert not {"src", "href", "xlink:href", "action"} & {name for name, _ in document.attributes}
    assert "url(" not in page
    assert "@import" not in page
    assert document.tags.count("script") == 1


HOSTILE = (
    "<script>alert('x')</script>",
    '"><svg onload=alert(1)>',
    "</style><b>",
    "a & b < c",
    "\x1b[2Jname",
)


def with_strings(value, text):
    if isinstance(value, str):
        return text
    if isinstance(value, tuple):
        return tuple(with_strings(item, text) for item in value)
    if dataclasses.is_dataclass(value):
        changes = {f.name: with_strings(getattr(value, f.name), text) for f in fields(value)}
        return dataclasses.replace(value, **changes)
    return value


def fields(value):
    kept = ("failed",) if isinstance(value, TrialDone) else ()
    return [f for f in dataclasses.fields(value) if f.name not in kept]


@pytest.mark.parametrize("text", HOSTILE)
def test_every_string_is_escaped(tune_run, text):
    events = [*tune_run(), Note(text="note")]
    hostile = tune_page(heard([with_strings(e, text) for e in events]), ((text, text),))
    plain = tune_page(heard([with_strings(e, "plain") for e in events]), (("plain", "plain"),))
    document = Document(hostile)
    tags = [tag for tag in document.tags if tag != "wbr"]
    assert tags == [tag for tag in Document(plain).tags if tag != "wbr"]
    assert document.tags.count("script") == 1
    assert not [name for name, _ in document.attributes if name.startswith("on")]
    assert "\x1b" not in hostile


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.floats(1e-9, 1e3), min_size=1, max_size=6),
    st.floats(0, 1e7),
    st.none() | st.floats(1e-9, 1e3),
    st.none() | st.floats(1e-9, 1e3),
    st.booleans(),
)
def test_any_curve_stays_inside_of_its_chart(levels, end, template_s, after_s, timed):
    points = tuple(
        CurvePoint(at=end * i / len(levels), network_s=s, gain="x") for i, s in enumerate(levels)
    )
    curve = Curve(points=points, end=end, template_s=template_s, after_s=after_s)
    chart = tuning_curve(curve, timed=timed, name="curve")
    Document(chart)
    width, height = map(float, re.search(r'viewBox="0 0 (\d+) (\d+)"', chart).groups())
    for x in re.findall(r' (?:x|x1|x2|cx)="([^"]+)"', chart):
        assert 0 <= float(x) <= width
    for y in re.findall(r' (?:y|y1|y2|cy)="([^"]+)"', chart):
        assert 0 <= float(y) <= height
    ticks = re.findall(r'text-anchor="end">([^<]+s)<', chart)
    assert len(ticks) >= 2
    assert len(set(ticks)) == len(ticks)


def test_failures_that_differ_by_numbers_are_one_group(tune_run):
    started, *_ = tune_run()
    trial = next(event for event in tune_run() if isinstance(event, TrialDone))
    history = heard([started])
    for error in ("worker 17 died at 0x7fa0", "worker 3 died at 0xbeef", "no space left"):
        history.add(dataclasses.replace(trial, failed="run", error=error))
    groups = [(group.error, group.count) for group in history.failures()]
    assert groups == [("worker 17 died at 0x7fa0", 2), ("no space left", 1)]


def test_an_outcome_without_a_measured_network_has_an_estimate(tune_run):
    *events, outcome = tune_run()
    unmeasured = dataclasses.replace(outcome, template_network_s=None, tuned_network_s=None)
    document = Document(tune_page(heard([*events, unmeasured])))
    assert "Network, estimated" in document.words
    assert "after" not in document.classes


def test_events_of_the_fixture_are_what_the_tests_think(tune_run):
    events = tune_run()
    assert isinstance(events[0], RunStarted)
    assert isinstance(events[-1], TuneOutcome)
    assert sum(bool(e.failed) for e in events if isinstance(e, TrialDone)) == 6
