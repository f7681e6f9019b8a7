from __future__ import annotations

import numpy as np
import pytest

from tvm_iovt.errors import UsageError
from tvm_iovt.runtime import libtvm
from tvm_iovt.runtime.network_inputs import InputPlace, check_inputs
from tvm_iovt.types import TensorSpec

SPEC = TensorSpec(name="x", shape=(100, 100), dtype="float32")


def place() -> InputPlace:
    return InputPlace(SPEC, libtvm.load())


def aligned(shift: int = 0) -> np.ndarray:
    nbytes = SPEC.nbytes
    buffer = np.zeros(nbytes + 128, np.uint8)
    start = -buffer.ctypes.data % 64 + shift
    return buffer[start : start + nbytes].view(np.float32).reshape(SPEC.shape)


def test_arrays_that_kernels_can_read_stay_where_they_are() -> None:
    array = aligned()
    assert place().tensor(array).data_ptr() == array.ctypes.data


def test_others_are_copied_to_one_place() -> None:
    into = place()
    array = aligned(shift=4)
    array[:] = 3
    first = into.tensor(array)
    assert first.data_ptr() % 64 == 0
    assert (np.from_dlpack(first) == 3).all()
    array[:] = 4
    assert into.tensor(array).data_ptr() == first.data_ptr()
    assert (np.from_dlpack(first) == 4).all()


def test_a_place_that_an_output_looks_into_is_left_to_it() -> None:
    into = place()
    array = aligned(shift=4)
    array[:] = 3
    tensor = into.tensor(array)
    other = libtvm.load().from_dlpack(aligned())
    into.leave_to([other])
    assert into.tensor(array).data_ptr() == tensor.data_ptr()
    view = libtvm.load().from_dlpack(np.from_dlpack(tensor).reshape(-1)[64:])
    into.leave_to([other, view])
    array[:] = 4
    assert into.tensor(array).data_ptr() != tensor.data_ptr()
    assert (np.from_dlpack(view) == 3).all()
    into.leave_to([view])


def test_inputs_are_compared_with_what_the_network_takes() -> None:
    check_inputs([SPEC], {"x": aligned()})
    with pytest.raises(UsageError, match="wrong names"):
        check_inputs([SPEC], {"y": aligned()})
    with pytest.raises(UsageError, match="wrong shape or dtype") as caught:
        check_inputs([SPEC], {"x": aligned()[1:]})
    assert "99x100 float32" in caught.value.seen
