import dataclasses
import io

import pytest

from tvm_iovt.report import plain, plan_tables

NASTY = "[red]conv\x1b[2J"


def printed(renderable, width=100):
    stream = io.StringIO()
    plain.render(renderable, stream, width=width)
    return stream.getvalue()


def everything(planned, verbosity=0):
    return plan_tables.plan_tables(
        planned.plan,
        planned.graph,
        planned.unit_s,
        planned.targets,
        measured=planned.measured,
        verbosity=verbosity,
    )


@pytest.mark.parametrize("width", [80, 100, 200])
def test_tables_fit_and_are_plain(planned, width):
    for part in everything(planned, verbosity=1):
        text = printed(part, width)
        assert "\x1b" not in text
        assert max(map(len, text.splitlines())) <= width
        assert text.replace("µ", "u").isascii()


@pytest.mark.parametrize("width", [80, 100])
def test_stage_table_keeps_its_numbers(planned, width):
    text = printed(plan_tables.stages_table(planned.plan, planned.graph, planned.targets), width)
    header = text.splitlines()[1].split()
    assert header == ["#", "Target", "Units", "Work", "Transfers", "Compute", "Memory"]
    for expected in (
        "2.10 ms in",
        "602.1 kB",
        "300 µs out",
        "41.0 MB",
        "100.0%",
        "4 threads",
        "cuda sm_87",
    ):
        assert expected in text, expected
    assert "19 units" in text
    assert "The period is that" in text


def test_summary_has_promise_and_source(planned):
    text = " ".join(printed(plan_tables.plan_facts(planned.plan, planned.graph)).split())
    prediction = planned.plan.prediction
    assert f"{1 / prediction.period_s:.1f} frames/s" in text
    assert "+-8.0%" in text
    assert "calibrated: unit times predicted by a model fitted" in text
    assert "throughput: most frames a second" in text


def test_reasons_and_alternatives(planned):
    text = " ".join(printed(plan_tables.cut_reasons(planned.plan)).split())
    assert "arm | x86 behind /features/4/depthwise_18: Moves 0.6 MB" in text
    table = printed(plan_tables.alternatives_table(planned.plan))
    latency_s = planned.plan.prediction.latency_s
    assert f"14.1 ms {0.0141 / latency_s:.2f}x" in table
    assert "the cut moves 1.2 MB" in table


def test_a_cut_without_a_reason_is_listed(planned):
    plan = dataclasses.replace(planned.plan, reasons=())
    assert printed(plan_tables.cut_reasons(plan)).count("no reason was recorded") == 2


def test_memory_beside_what_is_allowed(planned):
    text = printed(plan_tables.memory_table(planned.plan, planned.targets))
    assert "536.9 MB" in text
    assert "7.6%" in text
    assert text.count("any") == 2


def test_every_unit_with_its_time_on_each_target(planned):
    table = plan_tables.units_table(
        planned.plan, planned.graph, planned.unit_s, planned.targets, measured=planned.measured
    )
    lines = printed(table, 140).splitlines()
    rows = [line for line in lines if line.split() and line.split()[0].isdigit()]
    assert len(rows) == len(planned.graph.units)
    assert "cannot" in rows[0]  # the GPU has no time for the first unit
    assert "*m" in rows[0]  # arm runs it, and it was measured there
    assert sum(row.count("*") for row in rows) == len(rows)
    assert lines[-1].startswith("*: where the plan runs it. m: measured")


def test_units_are_listed_when_asked(planned):
    assert len(everything(planned, verbosity=1)) == len(everything(planned)) + 1


def test_a_plan_that_was_not_predicted(plan_of):
    planned = plan_of(stages=1)
    plan = dataclasses.replace(planned.plan, prediction=None, alternatives=())
    parts = everything(dataclasses.replace(planned, plan=plan))
    assert len(parts) == 2
    assert "Transfers" not in printed(parts[1])


def test_names_are_text(plan_of):
    planned = plan_of(names=lambda index: f"{NASTY}{index}")
    text = "".join(printed(part, 200) for part in everything(planned, verbosity=1))
    assert "[red]conv\\x1b[2J0" in text
    assert "\x1b" not in text
