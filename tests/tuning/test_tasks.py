from __future__ import annotations

import tvm
from tvm import relax

from tests.tuning.search_cases import conv_function, dense_function
from tvm_iovt.schedules.cpu import SCHEDULED
from tvm_iovt.tuning.tasks import extract_tasks, module_of, workload_key

IMAGE, WEIGHT, RESULT = (1, 12, 12, 16), (3, 3, 3, 16, 16), (1, 12, 12, 40)


def network(**functions):
    """A module whose `main` calls each function on the same image and weight."""
    builder = relax.BlockBuilder()
    image = relax.Var("image", relax.TensorType(IMAGE, "float32"))
    weight = relax.Var("weight", relax.TensorType(WEIGHT, "float32"))
    callees = {name: builder.add_func(f, name) for name, (f, _) in functions.items()}
    with builder.function("main", [image, weight]):
        with builder.dataflow():
            results = [
                builder.emit(
                    relax.call_tir(
                        callees[name], [image, weight], relax.TensorType(RESULT, "float32")
                    )
                )
                for name, (_, calls) in functions.items()
                for _ in range(calls)
            ]
            output = builder.emit_output(relax.Tuple(results))
        builder.emit_func_output(output)
    return builder.get()


def test_equal_kernels_are_one_task_and_calls_are_counted():
    found = extract_tasks(
        network(
            first=(conv_function(), 2),
            second=(conv_function().with_attr("op_pattern", 4), 1),
            third=(conv_function().with_attr("op_pattern", 8), 1),
        )
    )
    (task,) = found.tasks
    assert task.weight == 4
    assert task.functions == ("first", "second", "third")
    assert task.workload.outputs == 1
    assert task.flops > 2 * 12 * 12 * 40 * 9 * 16
    assert task.moved_bytes == 4 * (12 * 12 * 16 + 3 * 9 * 16 * 16 + 12 * 12 * 40)
    assert not found.fixed


def test_scheduled_functions_are_left_alone():
    scheduled = conv_function().with_attr(SCHEDULED, True)
    found = extract_tasks(network(done=(scheduled, 1), open=(conv_function(), 1)))
    assert found.fixed == ("done",)
    assert [task.workload.name for task in found.tasks] == ["open"]


def test_keys_depend_on_what_is_computed_and_not_on_names():
    module = module_of(conv_function())
    renamed = module_of(conv_function().with_attr("global_symbol", "another"))
    assert workload_key(module) == workload_key(renamed)
    assert workload_key(module) != workload_key(module_of(dense_function()))
    again = tvm.ir.load_json(tvm.ir.save_json(module))
    assert workload_key(again) == workload_key(module)
