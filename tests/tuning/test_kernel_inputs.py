from __future__ import annotations

import numpy as np
import pytest
from tvm import te

from tests.tuning import kernels
from tvm_iovt.schedules.convolution import conv2d_packed
from tvm_iovt.schedules.tiles import Tile
from tvm_iovt.tuning.kernel_inputs import NORMAL, POSITIVE, Argument, arguments_of, draw


def argument(dtype, shape=(64, 64)):
    return Argument(shape=shape, dtype=dtype)


def test_weights_are_scaled_so_that_sums_are_near_one(conv):
    image, weight = te.placeholder((1, 12, 12, 32)), te.placeholder((1, 3, 3, 32, 32))
    bias = te.placeholder((32,), name="bias")
    result = conv2d_packed(image, weight, conv, Tile(rows=1, cols=6, vectors=2, lanes=16))
    shifted = te.compute(result.shape, lambda n, h, w, o: result(n, h, w, o) + bias(o), name="s")
    arguments = arguments_of(te.create_prim_func([image, weight, bias, shifted]))
    assert [a.shape for a in arguments] == [
        (1, 12, 12, 32),
        (1, 3, 3, 32, 32),
        (32,),
        (1, 12, 12, 32),
    ]
    assert {a.dtype for a in arguments} == {"float32"}
    assert [a.scale for a in arguments] == pytest.approx([1, 1 / np.sqrt(288), 1, 1])
    x, w, _, _ = draw(arguments, NORMAL, "key")
    assert np.std(np.tensordot(x[0, :3, :3].reshape(-1), w[0].reshape(288, 32), 1)) < 3


def test_functions_of_loops_only_have_arguments_too():
    assert [a.shape for a in arguments_of(kernels.segfault)] == [(1024,), (1024,)]


def test_equal_keys_give_equal_arrays():
    first, again, other = (draw((argument("float32"),), NORMAL, key)[0] for key in "aab")
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_floats_are_standard_normal_or_positive(dtype):
    (normal,) = draw((argument(dtype),), NORMAL, "key")
    (positive,) = draw((argument(dtype),), POSITIVE, "key")
    assert normal.dtype == positive.dtype == np.dtype(dtype)
    assert normal.astype(float).std() == pytest.approx(1, abs=0.05)
    assert 0.5 <= positive.astype(float).min() <= positive.astype(float).max() <= 1.5


def test_bytes_take_their_whole_range_and_wide_integers_are_small():
    drawn = draw(tuple(map(argument, ("int8", "uint8", "int32", "int64", "bool"))), NORMAL, "key")
    ranges = [(array.dtype.name, int(array.min()), int(array.max())) for array in drawn]
    assert ranges == [
        ("int8", -128, 127),
        ("uint8", 0, 255),
        ("int32", 0, 1),
        ("int64", 0, 1),
        ("bool", 0, 1),
    ]
