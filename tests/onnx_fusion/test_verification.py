import copy

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from tvm_iovt.errors import ModelError, UsageError
from tvm_iovt.onnx_fusion.verification import check_fused, input_specs


def network(net, shape=(1, 4, 6, 6), **options):
    n = net()
    weight = n.constant(n.numbers(4, 4, 1, 1), "w")
    return n.model(n.node("Conv", "x", weight), shape, **options)


def with_error(model, error):
    """The model with one weight changed."""
    wrong = copy.deepcopy(model)
    weight = numpy_helper.to_array(wrong.graph.initializer[0]).copy()
    weight[0, 0] += error
    wrong.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "w"))
    return wrong


def test_three_inputs(net):
    model = network(net)
    checks = check_fused(model, model, {})
    assert [check.sample for check in checks] == ["normal", "normal x 10", "zeros"]
    assert all(check.passed and check.max_abs == 0 for check in checks)
    assert checks[0].allowed == pytest.approx(1e-4 * checks[0].largest)
    assert checks[0].largest < checks[1].largest
    assert checks[2].largest == 0


@pytest.mark.parametrize(("error", "passes"), [(1e-5, True), (1e-2, False)])
def test_the_bound_follows_the_largest_number(net, error, passes):
    model = network(net)
    checks = check_fused(model, with_error(model, error), {})
    assert all(check.passed for check in checks) == passes
    assert max(checks, key=lambda check: check.severity).max_rel > 0


def test_stated_tolerances(net):
    model = network(net)
    wrong = with_error(model, 1e-2)
    assert all(check.passed for check in check_fused(model, wrong, {}, rtol=0.1))
    assert all(check.passed for check in check_fused(model, wrong, {}, rtol=0, atol=1.0))
    assert not all(check.passed for check in check_fused(model, wrong, {}, rtol=0, atol=1e-3))
    with pytest.raises(UsageError, match="negative"):
        check_fused(model, model, {}, rtol=-1)


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1e-2, 1e6])
def test_outputs_of_any_magnitude(net, scale):
    model = network(net)
    weight = numpy_helper.to_array(model.graph.initializer[0]) * np.float32(scale)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "w"))
    assert all(c.passed for c in check_fused(model, with_error(model, scale * 1e-6), {}))
    wrong = check_fused(model, with_error(model, scale), {})
    assert [c.passed for c in wrong] == [False, False, True]


def test_classes_of_pixels_may_flip_at_ties(net):
    n = net()
    weight = n.constant(n.numbers(4, 4, 1, 1), "w")
    y = n.node("ArgMax", n.node("Conv", "x", weight), axis=1)
    model = n.model(y, (1, 4, 100, 100))
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    near = check_fused(model, with_error(model, 1e-4), {})
    assert all(check.passed for check in near)
    assert any(check.max_abs for check in near)
    assert not all(check.passed for check in check_fused(model, with_error(model, 0.5), {}))


def test_an_open_batch_is_one(net):
    (spec,) = input_specs(network(net, ["N", 4, 6, 6]), {})
    assert spec.shape == (1, 4, 6, 6)
    (spec,) = input_specs(network(net, ["N", 4, 6, 6]), {"x": (3, 4, 6, 6)})
    assert spec.shape == (3, 4, 6, 6)


def test_other_open_axes_are_asked_for(net):
    model = network(net, ["N", 4, "H", "W"])
    with pytest.raises(UsageError, match="open") as caught:
        check_fused(model, model, {})
    assert "--input-shape x=1x4x224x224" in caught.value.do
    assert len(check_fused(model, model, {"x": (1, 4, 5, 5)})) == 3


def test_a_shape_that_contradicts(net):
    with pytest.raises(ModelError, match="contradicts"):
        input_specs(network(net), {"x": (1, 5, 6, 6)})


def test_inputs_that_cannot_be_made_up(net):
    model = network(net)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING
    with pytest.raises(ModelError, match="No inputs can be made up") as caught:
        input_specs(model, {})
    assert "--no-verify" in caught.value.do
    sequence = helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None)
    model.graph.input[0].CopyFrom(sequence)
    with pytest.raises(ModelError, match="No inputs can be made up"):
        input_specs(model, {})


def test_quantized_networks_are_judged_by_direction(net):
    n = net()
    scale, zero = n.constant(np.float32(0.05), "s"), n.constant(np.int8(0), "z")
    y = n.node("Conv", "x", n.constant(n.numbers(4, 4, 1, 1), "w"))
    y = n.node("DequantizeLinear", n.node("QuantizeLinear", y, scale, zero), scale, zero)
    model = n.model(y, (1, 4, 6, 6))
    model.graph.initializer.sort(key=lambda tensor: tensor.name != "w")
    checks = check_fused(model, with_error(model, 1e-2), {})
    assert all(check.passed and check.allowed is None for check in checks)
    assert "cosine" in checks[0].limit
    assert not all(check.passed for check in check_fused(model, with_error(model, 9.0), {}))


def test_models_that_cannot_run(net):
    model = network(net)
    model.graph.node[0].domain = "com.example"
    with pytest.raises(ModelError, match="ONNX Runtime"):
        check_fused(model, model, {})
