from __future__ import annotations

import importlib
import inspect
import itertools
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import te
from tvm.ir.utils import derived_object
from tvm.s_tir import meta_schedule as ms
from tvm.s_tir.schedule import Trace

from tvm_iovt.schedules.convolution import (
    Conv2d,
    conv2d_packed,
    depthwise_packed,
    matmul_packed,
)
from tvm_iovt.schedules.cpu import schedule_function
from tvm_iovt.schedules.design_space import design_space, template_spaces
from tvm_iovt.schedules.tiles import Tile, window_cols
from tvm_iovt.schedules.tvm_api import Schedule
from tvm_iovt.schedules.winograd import WinogradPlan, conv2d_winograd

UNROLLED, VECTORIZED = tvm.tirx.stmt.ForKind.UNROLLED, tvm.tirx.stmt.ForKind.VECTORIZED
DRAWS = 20
CHECKED = 5


def conv_of(channels, out_channels, size, kernel, groups=1):
    return Conv2d(
        batch=1,
        in_size=(size, size),
        in_channels=channels,
        out_channels=out_channels,
        kernel=(kernel, kernel),
        strides=(1, 1),
        padding=(kernel // 2,) * 4,
        dilation=(1, 1),
        groups=groups,
    )


def with_relu(inputs, result):
    zero = tvm.tirx.const(0, "float32")
    relu = te.compute(result.shape, lambda *i: tvm.tirx.max(result(*i), zero), name="relu")
    return te.create_prim_func([*inputs, relu])


def convolution():
    conv, tile = conv_of(16, 40, 12, 3), Tile(rows=1, cols=12, vectors=1, lanes=16)
    image, weight = te.placeholder((1, 12, 12, 16)), te.placeholder((3, 3, 3, 16, 16))
    return with_relu([image, weight], conv2d_packed(image, weight, conv, tile)), "conv2d"


def cropped_convolution():
    conv, tile = conv_of(8, 32, 13, 3), Tile(rows=1, cols=6, vectors=2, lanes=16)
    image, weight = te.placeholder((1, 13, 13, 8)), te.placeholder((1, 3, 3, 8, 32))
    return with_relu([image, weight], conv2d_packed(image, weight, conv, tile)), "conv2d"


def large_convolution():
    """Its weights do not stay in a cache."""
    conv, tile = conv_of(256, 256, 8, 3), Tile(rows=1, cols=8, vectors=2, lanes=16)
    image, weight = te.placeholder((1, 8, 8, 256)), te.placeholder((8, 3, 3, 256, 32))
    return with_relu([image, weight], conv2d_packed(image, weight, conv, tile)), "conv2d"


def depthwise():
    conv = conv_of(64, 64, 14, 3, groups=64)
    image, weight = te.placeholder((1, 14, 14, 64)), te.placeholder((3, 3, 64))
    result = depthwise_packed(image, weight, conv, 7, 16)
    return with_relu([image, weight], result), "depthwise_conv2d"


def winograd():
    conv = conv_of(32, 64, 16, 3)
    plan = WinogradPlan(
        outputs=(4, 4),
        tiles=(4, 4),
        band_rows=2,
        tile=Tile(rows=1, cols=8, vectors=2, lanes=16),
        whole_input=True,
    )
    image, weight = te.placeholder((1, 16, 16, 32)), te.placeholder((2, 6, 6, 32, 32))
    return with_relu([image, weight], conv2d_winograd(image, weight, conv, plan)), "products"


def dense():
    tile = Tile(rows=1, cols=8, vectors=3, lanes=16)
    matrix, weight = te.placeholder((48, 64)), te.placeholder((2, 64, 48))
    return with_relu([matrix, weight], matmul_packed(matrix, weight, 96, tile)), "matmul"


FUNCTIONS = {
    f.__name__: f
    for f in (convolution, cropped_convolution, large_convolution, depthwise, winograd, dense)
}


@pytest.fixture(params=FUNCTIONS)
def case(request):
    """A PrimFunc and the name of its reduction."""
    return FUNCTIONS[request.param]()


def module_of(function):
    return tvm.IRModule({"main": function.with_attr("global_symbol", "main")})


def traced(module, seed=1):
    return Schedule(module, debug_mask="none", seed=seed)


def draws(module, spaces, count):
    """Schedules with random decisions, from each space in turn."""
    for seed, space in zip(range(1, count + 1), itertools.cycle(spaces), strict=False):
        schedule = traced(module, seed)
        Trace(space.trace.insts, {}).apply_to_schedule(schedule, remove_postproc=False)
        yield schedule


def samples(schedule):
    return [i for i in schedule.trace.insts if i.kind.name == "SampleCategorical"]


def outputs(module, target, inputs):
    """What a kernel computes; run once, it need not be fast."""
    quick = tvm.target.Target({**target.export(), "opt-level": 0})
    with quick:
        run = tvm.compile(module, target=quick)["main"]
    shape = [int(n) for n in module["main"].params[-1].shape]
    result = tvm.runtime.tensor(np.full(shape, np.nan, np.float32))
    run(*map(tvm.runtime.tensor, inputs), result)
    return result.numpy()


def inputs_of(function):
    rng = np.random.default_rng(0)
    return [
        rng.standard_normal([int(n) for n in p.shape], np.float32) for p in function.params[:-1]
    ]


INNER_LOOPS = {"conv2d": 4, "matmul": 3, "products": 3, "depthwise_conv2d": 2}
"""How many loops of a reduction make the register tile, the vector being the last."""


def registers_of(schedule, name):
    """Registers that the inner loop of a schedule needs, counted from its loops."""
    loops = schedule.get_loops(schedule.get_sblock(f"{name}_update"))
    *rest, lane = [schedule.get(loop) for loop in loops[-INNER_LOOPS[name] :]]
    assert {str(loop.kind) for loop in rest} <= {str(UNROLLED)}
    assert lane.kind == VECTORIZED
    extents = [int(loop.extent) for loop in rest]
    if name == "depthwise_conv2d":
        (cols,) = extents
        return cols + 9 + 2  # accumulators, the weights of a window, the input and a spare one
    *pixels, vectors = extents
    return int(np.prod(pixels)) * vectors + vectors + 1


def test_the_first_schedule_is_the_default(case, cpus):
    function, _ = case
    module = module_of(function)
    space, *_ = template_spaces(traced(module), cpus["avx512"])
    default, _ = schedule_function(module["main"], cpus["avx512"], "main")
    tvm.ir.assert_structural_equal(
        space.mod["main"].without_attr("tirx.is_scheduled"),
        default.without_attr("tirx.is_scheduled"),
    )


def test_twenty_draws_are_legal_and_several_are_right(case, cpus, host):
    function, reduction = case
    cpu, module = cpus["avx512"], module_of(function)
    spaces = template_spaces(traced(module), cpu)
    default, _ = schedule_function(module["main"], cpu, "main")
    inputs = inputs_of(function)
    expected = outputs(module_of(default), host, inputs)
    assert np.isfinite(expected).all()
    checked = 0
    seen = set()
    for schedule in draws(module, spaces, max(DRAWS, len(spaces))):
        assert registers_of(schedule, reduction) <= cpu.vector_registers
        text = schedule.mod["main"].script()
        if text not in seen and checked < CHECKED:
            checked += 1
            actual = outputs(schedule.mod, host, inputs)
            np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)
        seen.add(text)
    assert len(seen) > 2
    assert checked > 2


@pytest.mark.parametrize("name", ["avx2", "sse", "neon64", "neon32"])
def test_every_register_file_is_respected(cpus, name):
    cpu = cpus[name]
    lanes = cpu.vector_bits // 32
    conv, tile = conv_of(16, 4 * lanes, 12, 3), Tile(rows=1, cols=3, vectors=2, lanes=lanes)
    image, weight = te.placeholder((1, 12, 12, 16)), te.placeholder((2, 3, 3, 16, 2 * lanes))
    module = module_of(with_relu([image, weight], conv2d_packed(image, weight, conv, tile)))
    spaces = template_spaces(traced(module), cpu)
    assert len(spaces) > 2
    for schedule in draws(module, spaces, 3 * len(spaces)):
        assert registers_of(schedule, "conv2d") <= cpu.vector_registers


def test_windows_fit_the_registers(cpus):
    function, _ = depthwise()
    module = module_of(function)
    for cpu in (cpus["avx512"], cpus["avx2"]):
        for schedule in draws(module, template_spaces(traced(module), cpu), 20):
            loops = schedule.get_loops(schedule.get_sblock("depthwise_conv2d_update"))
            cols = int(schedule.get(loops[-2]).extent)
            assert cols == 7 or window_cols(cols, 9, cpu) == cols  # 7 was packed for


def test_the_choices_are_sampled_decisions(cpus):
    function, _ = convolution()
    spaces = template_spaces(traced(module_of(function)), cpus["avx512"])
    assert len(spaces) > 3  # orders of loops, rows of tiles, the epilogue
    for space in spaces:
        for step in samples(space):
            values = [int(value) for value in step.attrs[0]]
            assert len(set(values)) == len(values) > 1
            assert all(12 % value == 0 for value in values)
    assert max(len(samples(space)) for space in spaces) == 2  # columns and bands


def test_both_orders_and_both_ways_of_the_transformed_input_are_there(cpus):
    function, _ = winograd()
    spaces = template_spaces(traced(module_of(function)), cpus["avx512"])
    scripts = {space.mod["main"].script() for space in spaces}
    assert len(scripts) == len(spaces) >= 3


@pytest.fixture(scope="module")
def intrinsics():
    """TVM's tensor intrinsics, which every TuneContext imports, without those of other devices.

    They take half a minute to import, most of it for the source lines of stack frames.
    """
    name = "tvm.s_tir.tensor_intrin"
    others = [f"{name}.{device}" for device in ("cuda", "rocm", "hexagon", "metal", "trn")]
    absent = [other for other in others if other not in sys.modules]
    stack = inspect.stack
    inspect.stack = lambda context=1: stack(0)
    sys.modules.update({other: types.ModuleType(other) for other in absent})
    try:
        importlib.import_module(name)
    finally:
        inspect.stack = stack
        for other in absent:
            del sys.modules[other]


def test_functions_without_a_template_get_generic_spaces(cpus, host, intrinsics):
    matrix, vector = te.placeholder((64, 32)), te.placeholder((64, 32))
    k = te.reduce_axis((0, 32))
    result = te.compute((64,), lambda i: te.sum(matrix[i, k] * vector[i, k], axis=k), name="dot")
    module = module_of(te.create_prim_func([matrix, vector, result]))
    pytest.importorskip("psutil", reason="MetaSchedule's contexts need `pip install psutil`")
    generator = design_space(cpus["avx512"], host)
    assert not template_spaces(traced(module), cpus["avx512"])
    context = ms.TuneContext(module, target=host, space_generator=generator)
    spaces = context.generate_design_space()
    assert len(spaces) > 1  # the template of reductions, and TVM's


def test_decisions_can_be_mutated(cpus, host, intrinsics):
    pytest.importorskip("psutil", reason="MetaSchedule's contexts need `pip install psutil`")
    function, reduction = convolution()
    module = module_of(function)
    generator = design_space(cpus["avx512"], host)
    context = ms.TuneContext(module, target=host, space_generator=generator)
    space = next(s for s in context.generate_design_space() if len(samples(s)) > 1)
    (mutator,) = [m for m in generator.mutator_probs if "PyMutator" in str(m)]
    trace = mutator.apply(space.trace)
    schedule = traced(module)
    trace.apply_to_schedule(schedule, remove_postproc=False)
    assert schedule.mod["main"].script() != space.mod["main"].script()
    assert registers_of(schedule, reduction) <= cpus["avx512"].vector_registers
    assert mutator.apply(traced(module).trace) is None


@derived_object
class InProcessBuilder(ms.builder.PyBuilder):
    """Builds in this process: TVM's own starts a process for each batch."""

    def __init__(self, folder):
        super().__init__()
        self.folder = Path(folder)
        self.count = 0

    def build(self, build_inputs):
        results = []
        for build_input in build_inputs:
            self.count += 1
            folder = self.folder / f"candidate{self.count}"  # removed by TVM after the run
            folder.mkdir()
            path = str(folder / "candidate.so")
            with build_input.target:
                tvm.compile(build_input.mod, target=build_input.target).export_library(path)
            results.append(ms.builder.BuilderResult(path, None))
        return results


@derived_object
class Finished(ms.runner.PyRunnerFuture):
    def __init__(self, outcome):
        super().__init__()
        self.outcome = outcome

    def done(self):
        return True

    def result(self):
        return self.outcome


@derived_object
class CheckingRunner(ms.runner.PyRunner):
    """Compares the outputs of each candidate, and calls the one with the longest path slow."""

    def __init__(self, inputs, expected):
        super().__init__()
        self.inputs, self.expected, self.runs = inputs, expected, 0

    def run(self, runner_inputs):
        futures = []
        for runner_input in runner_inputs:
            result = tvm.runtime.tensor(np.full(self.expected.shape, np.nan, np.float32))
            run = tvm.runtime.load_module(runner_input.artifact_path)["main"]
            run(*map(tvm.runtime.tensor, self.inputs), result)
            np.testing.assert_allclose(result.numpy(), self.expected, rtol=1e-4, atol=1e-4)
            self.runs += 1
            futures.append(Finished(ms.runner.RunnerResult([1e-3 / self.runs], None)))
        return futures


def test_metaschedule_searches_the_space(cpus, host, intrinsics, tmp_path):
    pytest.importorskip("psutil", reason="MetaSchedule needs `pip install psutil`")
    function, reduction = convolution()
    module = module_of(function)
    inputs = inputs_of(function)
    default, _ = schedule_function(module["main"], cpus["avx512"], "main")
    expected = outputs(module_of(default), host, inputs)
    database = ms.tune_tir(
        module,
        host,
        str(tmp_path / "work"),
        max_trials_global=8,
        num_trials_per_iter=4,
        builder=InProcessBuilder(str(tmp_path)),
        runner=CheckingRunner(inputs, expected),
        cost_model="random",
        space=design_space(cpus["avx512"], host),
        strategy=ms.search_strategy.EvolutionarySearch(
            population_size=16, init_min_unmeasured=4, genetic_num_iters=2
        ),
        seed=1,
    )
    records = database.get_all_tuning_records()
    assert len(records) == 8
    best = database.query_schedule(module, host, "main")
    assert registers_of(best, reduction) <= cpus["avx512"].vector_registers
    np.testing.assert_allclose(outputs(best.mod, host, inputs), expected, rtol=1e-4, atol=1e-4)
