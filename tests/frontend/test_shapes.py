from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from tvm_iovt.errors import ModelError, UsageError
from tvm_iovt.frontend.onnx_model import dimensions
from tvm_iovt.frontend.shapes import fix_shapes, parse_input_shapes


@given(
    st.dictionaries(
        st.text(min_size=1, max_size=6),
        st.lists(st.integers(1, 999), min_size=1, max_size=5).map(tuple),
        max_size=3,
    )
)
def test_parse_reads_what_was_written(shapes: dict[str, tuple[int, ...]]) -> None:
    options = [f"{name}={'x'.join(map(str, shape))}" for name, shape in shapes.items()]
    assert parse_input_shapes(options) == shapes


def test_names_may_contain_colons_and_equals() -> None:
    assert parse_input_shapes(["a:0=b=1x3"]) == {"a:0=b": (1, 3)}


@pytest.mark.parametrize("option", ["", "x", "x=", "=1x3", "x=1x", "x=1x-3", "x=1x0", "x=axb"])
def test_unreadable_options(option: str) -> None:
    with pytest.raises(UsageError, match="could not be read"):
        parse_input_shapes([option])


def test_repeated_name() -> None:
    with pytest.raises(UsageError, match="twice"):
        parse_input_shapes(["x=1", "x=2"])


@pytest.fixture
def dynamic(make_model):
    node = helper.make_node("Relu", ["x"], ["y"])
    return make_model([node], {"x": ["N", 3, "H", "W"]}, {"y": ["N", 3, "H", "W"]})


def test_dynamic_shape_needs_the_flag(dynamic) -> None:
    with pytest.raises(ModelError) as caught:
        fix_shapes(dynamic, {})
    assert "x Nx3xHxW" in str(caught.value)
    assert "--input-shape x=1x3x224x224" in str(caught.value)


def test_fixed_copy_leaves_the_model_alone(dynamic) -> None:
    fixed = fix_shapes(dynamic, {"x": (1, 3, 8, 8)})
    assert dimensions(fixed.graph.input[0]) == (1, 3, 8, 8)
    assert dimensions(dynamic.graph.input[0]) == ("N", 3, "H", "W")


@pytest.mark.parametrize(
    ("shapes", "said"),
    [
        ({"x": (1, 4, 8, 8)}, "contradicts the model"),
        ({"x": (1, 3, 8)}, "contradicts the model"),
        ({"z": (1, 3, 8, 8)}, "no input 'z'"),
    ],
)
def test_contradictions(dynamic, shapes: dict[str, tuple[int, ...]], said: str) -> None:
    with pytest.raises(ModelError) as caught:
        fix_shapes(dynamic, shapes)
    assert said in str(caught.value)
    assert "Nx3xHxW" in str(caught.value)
