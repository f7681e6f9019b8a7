"""How a tuning run ends on the terminal."""

from __future__ import annotations

import dataclasses
import io

from tvm_iovt.report import plain
from tvm_iovt.report.tune_history import TuneHistory
from tvm_iovt.report.tune_tables import network_verdict, outcome_table, summary_lines


def ended(events):
    history = TuneHistory()
    for event in events:
        history.add(event)
    return history


def printed(renderable):
    stream = io.StringIO()
    plain.render(renderable, stream)
    return stream.getvalue()


def test_kernels_that_save_most_come_first(tune_run):
    text = printed(outcome_table(ended(tune_run())))
    lines = [line for line in text.splitlines() if "->" in line]
    saved = {
        task.task: task.template_network_s - task.chosen_network_s for task in tune_run()[-1].tasks
    }
    assert [line.split()[0] for line in lines] == sorted(saved, key=saved.get, reverse=True)


def test_kernels_that_keep_their_template_are_not_in_the_table(tune_run):
    *events, outcome = tune_run()
    kept = dataclasses.replace(outcome.tasks[0], chosen="template")
    outcome = dataclasses.replace(outcome, tasks=(kept, *outcome.tasks[1:]))
    text = printed(outcome_table(ended([*events, outcome])))
    assert "conv0" not in text
    assert "dense" in text


def test_times_that_are_not_known_are_dashes(tune_run):
    *events, outcome = tune_run()
    unknown = dataclasses.replace(
        outcome.tasks[0], template_s=None, template_network_s=None, chosen_network_s=None
    )
    outcome = dataclasses.replace(outcome, tasks=(unknown,))
    (line,) = [
        line
        for line in printed(outcome_table(ended([*events, outcome]))).splitlines()
        if "conv0" in line
    ]
    assert "- -> 3" in line


def test_names_are_text(tune_run):
    *events, outcome = tune_run()
    name = "[bold]conv\x1b[2J[/]"
    outcome = dataclasses.replace(
        outcome, tasks=(dataclasses.replace(outcome.tasks[0], task=name),)
    )
    text = printed(outcome_table(ended([*events, outcome])))
    assert "[bold]conv" in text
    assert "\x1b" not in text


def test_a_change_within_the_noise_is_called_that(tune_run):
    outcome = tune_run()[-1]
    change = {"template_network_s": 2.31e-3, "tuned_network_s": 2.19e-3}
    assert (
        network_verdict(dataclasses.replace(outcome, **change, noise=0.01))
        == "2.31 ms -> 2.19 ms, 0.95x +- 0.01"
    )
    assert network_verdict(dataclasses.replace(outcome, **change, noise=0.06)).endswith(
        "(no more than the noise)"
    )
    assert network_verdict(dataclasses.replace(outcome, **change, noise=None)) == (
        "2.31 ms -> 2.19 ms, 0.95x"
    )
    assert network_verdict(dataclasses.replace(outcome, tuned_network_s=None)) == ""


def test_schedules_that_do_not_make_the_network_faster_are_told_as_unused(tune_run):
    outcome = dataclasses.replace(
        tune_run(gained=False)[-1],
        template_network_s=2.31e-3,
        tuned_network_s=2.42e-3,
        noise=0.01,
    )
    assert network_verdict(outcome) == (
        "2.31 ms; with the best schedules found 2.42 ms, 1.05x +- 0.01, so none is used"
    )


def test_an_unspent_budget_is_told(tune_run):
    *events, outcome = tune_run()
    assert not [line for line in summary_lines(ended([*events, outcome])) if "budget" in line]
    unspent = dataclasses.replace(outcome, complete=False)
    assert summary_lines(ended([*events, unspent]))[-1] == (
        "the budget is not spent: run the same command to go on"
    )


def test_failures_of_a_run_that_was_resumed_are_told_by_the_outcome(tune_run):
    *_, outcome = tune_run()
    history = ended([tune_run()[0], outcome])
    assert "failed: LLVM gave up" in summary_lines(history)
