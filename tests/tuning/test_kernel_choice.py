from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tvm_iovt import targets
from tvm_iovt.errors import UsageError
from tvm_iovt.schedules import selection
from tvm_iovt.schedules.selection import Candidate, kernel_name, predict
from tvm_iovt.schedules.tiles import Tile
from tvm_iovt.schedules.winograd import WinogradPlan
from tvm_iovt.tuning.convolution_worker import RunKernel, RunKernels
from tvm_iovt.tuning.kernel_bench import KernelBench
from tvm_iovt.tuning.kernel_choice import (
    KernelMeasurer,
    KernelSelector,
    check_is_here,
    decide,
    description,
    setting_of,
)
from tvm_iovt.tuning.kernel_records import (
    CpuKind,
    KernelChoice,
    MeasuredKernel,
    Records,
    Setting,
)
from tvm_iovt.tuning.kernel_timing import Timing
from tvm_iovt.tuning.worker_process import WorkerLost

SETTING = Setting(
    target=CpuKind(mcpu="znver4", triple="x86_64-linux-gnu", vector_bits=512, cores=2),
    threads=1,
    winograd=True,
)


def direct(cols):
    return Tile(rows=1, cols=cols, vectors=2, lanes=16)


def winograd(outputs):
    return WinogradPlan(
        outputs=(outputs, outputs), tiles=(3, 3), band_rows=1, tile=direct(3), whole_input=False
    )


PREDICTED, OTHER, THIRD = direct(6), direct(4), direct(3)
OUTPUT = np.ones((1, 2, 2, 4), np.float32)


def built(*kernels, wrong=(), dropped=()):
    return RunKernels(
        tuple(
            RunKernel(kernel_name(kernel), OUTPUT * (2 if kernel in wrong else 1))
            for kernel in kernels
            if kernel not in [k for k, _ in dropped]
        ),
        tuple((kernel_name(kernel), reason) for kernel, reason in dropped),
    )


def timer_giving(*rounds):
    """Milliseconds (or pairs with the spread) for each kernel, in one or several rounds."""
    seen = []

    def timer(names):
        times = {kernel_name(k): v for k, v in rounds[min(len(seen), len(rounds) - 1)].items()}
        seen.append(list(names))
        found = [times[name] for name in names]
        pairs = [pair if isinstance(pair, tuple) else (pair, 0.0) for pair in found]
        return tuple(Timing(median_s=m / 1e3, spread_s=s / 1e3) for m, s in pairs)

    timer.seen = seen
    return timer


def choose(conv, kernels, timer, **how):
    found = [Candidate(kernel=kernel, cycles=1.0) for kernel in kernels]
    return decide(conv, found, built(*kernels, **how), SETTING, timer)


def test_a_clearly_faster_kernel_replaces_the_predicted_one(conv):
    timer = timer_giving({PREDICTED: 1.0, OTHER: 0.9, THIRD: 1.2})
    choice = choose(conv, [PREDICTED, OTHER, THIRD], timer)
    assert (choice.predicted, choice.chosen) == (kernel_name(PREDICTED), kernel_name(OTHER))
    assert choice.gain == pytest.approx(0.9)
    assert [c.name for c in choice.candidates] == list(map(kernel_name, (PREDICTED, OTHER, THIRD)))
    assert timer.seen[1] == list(
        map(kernel_name, (PREDICTED, OTHER))
    )  # the two once more, on their own


@pytest.mark.parametrize(
    "times",
    [
        {PREDICTED: 1.0, OTHER: 0.98},  # within the margin
        {PREDICTED: (1.0, 0.06), OTHER: (0.9, 0.05)},  # within the noise
        {PREDICTED: 1.0, OTHER: 1.1},
    ],
)
def test_otherwise_the_predicted_kernel_stays(conv, times):
    choice = choose(conv, [PREDICTED, OTHER], timer_giving(times))
    assert choice.chosen == kernel_name(PREDICTED)
    assert choice.gain == 1


def test_a_win_by_luck_is_not_a_win(conv):
    lucky, fair = {PREDICTED: 1.0, OTHER: 0.8}, {PREDICTED: 1.0, OTHER: 1.0}
    choice = choose(conv, [PREDICTED, OTHER], timer_giving(lucky, fair))
    assert choice.chosen == kernel_name(PREDICTED)
    assert {c.name: c.median_s for c in choice.candidates}[kernel_name(OTHER)] == 1e-3


def test_the_second_fastest_has_its_turn(conv):
    first = {PREDICTED: 1.0, OTHER: 0.8, THIRD: 0.85}
    again = {PREDICTED: 1.0, OTHER: 1.0, THIRD: 0.85}
    choice = choose(conv, [PREDICTED, OTHER, THIRD], timer_giving(first, again))
    assert choice.chosen == kernel_name(THIRD)


@pytest.mark.parametrize(("time", "wins"), [(0.93, False), (0.88, True)])
def test_a_kernel_that_rounds_more_must_gain_more(conv, time, wins):
    timer = timer_giving({winograd(4): 1.0, winograd(6): time, PREDICTED: 2.0})
    choice = choose(conv, [winograd(4), winograd(6), PREDICTED], timer)
    assert choice.chosen == kernel_name(winograd(6) if wins else winograd(4))


def test_a_wrong_kernel_is_never_chosen(conv):
    timer = timer_giving({PREDICTED: 1.0, OTHER: 0.1})
    choice = choose(conv, [PREDICTED, OTHER], timer, wrong=[OTHER])
    assert choice.chosen == kernel_name(PREDICTED)
    (dropped,) = choice.dropped
    assert dropped.name == kernel_name(OTHER)
    assert "differ by 1.0e+00" in dropped.reason and kernel_name(PREDICTED) in dropped.reason


def test_if_the_predicted_kernel_fails_the_best_of_the_others_serves(conv):
    timer = timer_giving({OTHER: 1.0, THIRD: 0.5})
    choice = choose(conv, [PREDICTED, OTHER, THIRD], timer, dropped=[(PREDICTED, "LLVM gave up")])
    assert choice.chosen == kernel_name(THIRD)
    assert [(d.name, d.reason) for d in choice.dropped] == [
        (kernel_name(PREDICTED), "LLVM gave up")
    ]
    assert choice.gain == 1


def test_without_a_direct_kernel_nothing_is_chosen(conv):
    timer = timer_giving({})
    assert choose(conv, [winograd(4), PREDICTED], timer, dropped=[(PREDICTED, "no")]) is None


def host_setting(host):
    return setting_of(host, winograd=True)


def measured(conv, weights, host, setting, chosen):
    """A record that chose one of the real candidates."""
    names = [c.name for c in selection.candidates(conv, weights, host.cpu)]
    assert chosen in names
    return KernelChoice(
        setting=setting,
        convolution=conv,
        candidates=tuple(
            MeasuredKernel(name=name, median_s=1e-3 if name == chosen else 2e-3, spread_s=0.0)
            for name in names
        ),
        dropped=(),
        predicted=names[0],
        chosen=chosen,
        tvm_version="0",
        tool_version="0",
        date="2026-01-01",
    )


def test_a_selector_without_records_predicts(tmp_path, conv, weights, host):
    setting = host_setting(host)
    select = KernelSelector(host.cpu, setting, Records(setting, [tmp_path]))
    assert select(conv, weights) == predict(conv, weights, host.cpu)
    assert (select.predicted, select.measured, select.decisions) == (1, 0, [])


def test_a_selector_uses_what_was_measured_and_says_so(tmp_path, conv, weights, host):
    setting = host_setting(host)
    other = selection.candidates(conv, weights, host.cpu)[-1]
    Records(setting, [tmp_path]).add(measured(conv, weights, host, setting, other.name))
    select = KernelSelector(host.cpu, setting, Records(setting, [tmp_path]))
    assert select(conv, weights) == other.kernel != predict(conv, weights, host.cpu)
    assert select(conv, weights) == other.kernel
    assert select.summary == "kernels: 0 predicted, 2 from measurements"
    (decision,) = select.decisions
    assert decision.applied and decision.subject == "conv 32->32@12x12 k3"
    assert "1 ms against 2 ms of the predicted" in decision.reason


def test_each_geometry_is_measured_once_and_remembered(tmp_path, conv, weights, host):
    setting = host_setting(host)
    best = selection.candidates(conv, weights, host.cpu)[-1]
    asked = []

    def measure(geometry, values, under):
        asked.append(geometry)
        return measured(geometry, values, host, under, best.name)

    select = KernelSelector(host.cpu, setting, Records(setting, [tmp_path]), measure)
    assert select(conv, weights) == select(conv, weights + 1) == best.kernel
    assert asked == [conv]
    again = KernelSelector(host.cpu, setting, Records(setting, [tmp_path]), measure)
    assert again(conv, weights) == best.kernel
    assert asked == [conv]


def test_a_choice_that_does_not_fit_the_weights_is_not_used(
    tmp_path, conv, weights, host, monkeypatch
):
    setting = host_setting(host)
    plan = next(
        c
        for c in selection.candidates(conv, weights, host.cpu)[1:]
        if isinstance(c.kernel, WinogradPlan)
    )
    Records(setting, [tmp_path]).add(measured(conv, weights, host, setting, plan.name))
    monkeypatch.setattr(selection, "is_accurate", lambda *arguments: False)
    select = KernelSelector(host.cpu, setting, Records(setting, [tmp_path]))
    assert select(conv, weights) == predict(conv, weights, host.cpu)
    (decision,) = select.decisions
    assert not decision.applied and "not accurate enough" in decision.reason
    assert select.summary == "kernels: 1 predicted, 0 from measurements"


def test_layers_whose_weights_allow_other_kernels_are_measured_apart(tmp_path, conv, weights, host):
    """Whole numbers must be summed exactly: what is measured for them says nothing of others."""
    setting = host_setting(host)
    whole = np.round(weights * 3)
    asked = []

    def measure(geometry, values, under):
        asked.append(values)
        first = selection.candidates(geometry, values, host.cpu)[0]
        return measured(geometry, values, host, under, first.name)

    select = KernelSelector(host.cpu, setting, Records(setting, [tmp_path]), measure)
    for values in (whole, weights, whole, weights):
        assert select(conv, values) == predict(conv, values, host.cpu)
    assert isinstance(select(conv, whole), Tile)
    assert isinstance(select(conv, weights), WinogradPlan)
    assert len(asked) == 2
    again = KernelSelector(host.cpu, setting, Records(setting, [tmp_path]))
    assert isinstance(again(conv, whole), Tile)
    assert isinstance(again(conv, weights), WinogradPlan)
    assert again.summary == "kernels: 0 predicted, 2 from measurements"


def test_if_nothing_can_be_measured_the_kernel_is_predicted(tmp_path, conv, weights, host):
    setting = host_setting(host)
    records = Records(setting, [tmp_path])
    select = KernelSelector(host.cpu, setting, records, lambda *arguments: None)
    assert select(conv, weights) == predict(conv, weights, host.cpu)
    assert not records.path.exists()
    (decision,) = select.decisions
    assert not decision.applied


class LastIsFastest(KernelBench):
    """Builds and times real kernels, and then says that the last one is the fastest."""

    def time(self, names):
        assert len(super().time(names)) == len(names)
        return tuple(Timing(median_s=1 / (i + 1), spread_s=0.0) for i in range(len(names)))


def test_measuring_builds_checks_and_times_real_kernels(conv, weights, host):
    setting = host_setting(host)
    lines = []
    bench = LastIsFastest(host, setting.threads)
    measure = KernelMeasurer(host, setting.threads, lines.append, bench=bench)
    try:
        choice = measure(conv, weights, setting)
    finally:
        measure.close()
    names = [c.name for c in selection.candidates(conv, weights, host.cpu)]
    assert [c.name for c in choice.candidates] == names
    assert not choice.dropped
    assert (choice.predicted, choice.chosen) == (names[0], names[-1])
    assert lines == ["measuring kernels of conv 32->32@12x12 k3"]


def test_a_crash_while_timing_leaves_the_prediction(tmp_path, conv, weights, host):
    class Crashing(KernelBench):
        def time(self, names):
            message = "died of SIGSEGV"
            raise WorkerLost(message)

    setting = host_setting(host)
    lines = []
    bench = Crashing(host, setting.threads)
    measure = KernelMeasurer(host, setting.threads, lines.append, bench=bench)
    select = KernelSelector(host.cpu, setting, Records(setting, [tmp_path]), measure)
    assert select(conv, weights) == predict(conv, weights, host.cpu)
    assert lines[-1].endswith("the process died of SIGSEGV")
    assert not select.decisions[0].applied
    select.close()
    assert select(conv, weights) == predict(conv, weights, host.cpu)


def test_only_this_machine_can_be_measured(host):
    check_is_here(host)
    for name, reason in (("arm", "aarch64"), ("host:x86-64-v2", "x86-64-v2"), ("cuda", "GPU")):
        if name.startswith("host") and host.cpu.arch != "x86_64":
            continue
        with pytest.raises(UsageError, match="cannot be measured on this machine") as caught:
            check_is_here(targets.load(name))
        assert reason in caught.value.seen
        assert "--targets host" in caught.value.do


def test_the_setting_of_a_foreign_cpu_has_a_thread_a_core():
    spec = targets.load("raspberry-pi-4")
    setting = setting_of(spec, winograd=False)
    assert setting.threads == setting.target.cores == spec.cpu.cores
    assert setting.target.mcpu == spec.cpu.mcpu != "native"
    assert not setting.winograd


def test_descriptions_name_what_is_not_the_default(conv):
    assert description(conv) == "conv 32->32@12x12 k3"
    strange = dataclasses.replace(
        conv, batch=2, kernel=(1, 3), strides=(2, 2), dilation=(1, 2), groups=4
    )
    assert description(strange) == "conv 32->32@12x12 k1x3 stride 2 dilation 1x2 groups 4 batch 2"
