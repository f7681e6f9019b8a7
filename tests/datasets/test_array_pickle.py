from __future__ import annotations

import collections
import os
import pickle
import struct
import tracemalloc

import numpy as np
import pytest

from tvm_iovt.datasets.array_pickle import load_array_pickle
from tvm_iovt.errors import UsageError

ARRAY = np.arange(12, dtype=np.uint8).reshape(3, 4)

# What Python 2 with numpy 1 wrote: byte strings, and an array by its old names.
PYTHON2 = (
    b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04"
    b"K\x00\x85q\x05U\x01bq\x06\x87q\x07Rq\x08(K\x01K\x02K\x03\x86q\tcnumpy\ndtype\nq\n"
    b"U\x02u1q\x0bK\x00K\x01\x87q\x0cRq\r(K\x03U\x01|q\x0eNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00"
    b"tq\x0fb\x89U\x06\x00\x01\x02\xfd\xfe\xffq\x10tq\x11bU\x06labelsq\x12]q\x13(K\x07K\teu."
)


class Calls:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


@pytest.fixture
def load(tmp_path):
    def load(content: bytes):
        path = tmp_path / "some-batch"
        path.write_bytes(content)
        return load_array_pickle(path)

    return load


@pytest.mark.parametrize("protocol", range(5))
def test_round_trip(load, protocol):
    content = {b"data": ARRAY, "labels": [1, 2], b"names": [b"\xff\x00", "a", None, 2.5, (1, True)]}
    found = load(pickle.dumps(content, protocol=protocol))
    np.testing.assert_array_equal(found["data"], ARRAY)
    assert found["data"].dtype == np.uint8
    assert found["labels"] == [1, 2]
    assert found["names"] == content[b"names"]


def test_python2(load):
    found = load(PYTHON2)
    np.testing.assert_array_equal(found["data"], np.array([[0, 1, 2], [253, 254, 255]], np.uint8))
    assert found["labels"] == [7, 9]


@pytest.mark.parametrize(
    "array",
    [
        np.array([-1, 2**40], np.int64),
        np.array([1, 2], ">u2"),
        np.asfortranarray(ARRAY),
        ARRAY[:, ::2],
        np.zeros((0, 4), np.uint8),
        np.array(7, np.int8),
    ],
)
def test_arrays_of_integers(load, array):
    found = load(pickle.dumps({"a": array}, protocol=4))["a"]
    np.testing.assert_array_equal(found, array)
    assert found.shape == array.shape
    assert found.dtype == array.dtype


@pytest.mark.parametrize("protocol", range(5))
def test_system_is_not_called(load, tmp_path, protocol):
    marker = tmp_path / "marker"
    content = pickle.dumps({b"data": Calls(os.system, f"touch {marker}")}, protocol=protocol)
    with pytest.raises(UsageError) as info:
        load(content)
    assert not marker.exists()
    assert "some-batch" in info.value.what
    assert f"{os.system.__module__}.system" in info.value.seen
    pickle.loads(content)  # it would have been
    assert marker.exists()


@pytest.mark.parametrize(
    ("content", "asked"),
    [
        (b"(S'touch x'\nios\nsystem\n.", "os.system"),  # INST
        (b"(cos\nsystem\nS'touch x'\no.", "os.system"),  # OBJ
        (b"c__builtin__\neval\n(S'1'\ntR.", "__builtin__.eval"),
        (b"cnumpy\nndarray.tofile\n.", "numpy.ndarray.tofile"),
        (b"\x80\x04\x8c\x05numpy\x8c\x04load\x93.", "numpy.load"),
        (b"\x80\x04\x8c\x02os\x8c\x07x\x1b[2Jyz\x93.", r"os.x\x1b[2Jyz"),
        (pickle.dumps({"a": collections.OrderedDict()}), "collections.OrderedDict"),
        (pickle.dumps({"a": np.float32(1)}, protocol=4), "multiarray.scalar"),
        (pickle.dumps({"a": ARRAY}, protocol=5), "_frombuffer"),
    ],
)
def test_the_class_asked_for_is_named(load, content, asked):
    with pytest.raises(UsageError, match="not a pickle of plain values") as info:
        load(content)
    assert asked in info.value.seen
    assert "protocol 4" in info.value.do


@pytest.mark.parametrize(
    ("array", "seen"),
    [
        (np.array([{}, 1], dtype=object), "objects"),
        (np.zeros(2, np.float32), "'f4'"),
        (np.zeros(2, "S3"), "'S3'"),
        (np.zeros(2, [("a", "u1")]), "'V1'"),
    ],
)
def test_arrays_of_other_things(load, array, seen):
    with pytest.raises(UsageError) as info:
        load(pickle.dumps({"data": array}, protocol=4))
    assert seen in info.value.seen


def test_object_array_from_raw_bytes(load):
    # numpy would take these bytes for pointers if the forged flags said that there are none.
    honest = pickle.dumps({b"data": np.zeros(2, np.uint64)}, protocol=2)
    forged = honest.replace(b"X\x02\x00\x00\x00u8", b"X\x02\x00\x00\x00O8")
    assert forged != honest
    with pytest.raises(UsageError) as info:
        load(forged)
    assert "objects" in info.value.seen


@pytest.mark.parametrize("end", [0, 1, 10, 100, len(PYTHON2) - 1])
def test_truncated(load, end):
    with pytest.raises(UsageError, match="not a pickle of plain values") as info:
        load(PYTHON2[:end])
    assert "again" in info.value.do


@pytest.mark.parametrize(
    "content",
    [
        b"not a pickle",
        b"\x89PNG\r\n\x1a\n",
        pickle.dumps([1, 2]),
        pickle.dumps({1: 2}),
        PYTHON2.replace(b"K\x02K\x03\x86", b"K\x02K\x04\x86"),  # another shape than bytes
        PYTHON2.replace(b"K\x02K\x03\x86", b"K\x02K\x02\x86"),
        PYTHON2.replace(b"K\x02K\x03\x86", b"K\x02N\x86"),  # shape with None
        # The byte order makes it two fields of one byte.
        PYTHON2.replace(b"U\x01|", b"U\x03u1,").replace(b"K\x02K\x03\x86", b"K\x01K\x03\x86"),
        PYTHON2.replace(b"K\x02K\x03\x86", b"K\x06\x88\x86"),  # shape with True
        PYTHON2.replace(b"cnumpy\ndtype\n", b"cnumpy\nndarray\n"),
        PYTHON2.replace(b"U\x01|q\x0e", b"U\x01?q\x0e"),  # byte order
        b"\x80\x02}(U\x04datacnumpy.core.multiarray\n_reconstruct\n)Ru.",  # without a state
        b"\x80\x02}(U\x04datac_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86Ru.",
        b"\x80\x02cnumpy\ndtype\n)\x81.",  # NEWOBJ of what is no class here
        b"\x80\x02U\x01aQ.",  # persistent id
    ],
)
def test_damaged(load, content):
    with pytest.raises(UsageError, match="not a pickle of plain values"):
        load(content)


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02}r" + struct.pack("<I", 2**27) + b".",  # LONG_BINPUT
        b"\x80\x02}p134217728\n.",
        b"\x80\x04\x8e" + struct.pack("<Q", 2**28) + b"abc.",  # BINBYTES8
        b"\x80\x05\x96" + struct.pack("<Q", 2**28) + b"abc.",  # BYTEARRAY8
    ],
)
def test_forged_lengths_do_not_allocate(load, content):
    tracemalloc.start()
    try:
        with pytest.raises(UsageError):
            load(content)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_state_set_on_a_name_does_not_stick(load):
    # BUILD on the function for bytes: the next file has to be read as if this one had not been.
    forged = b"\x80\x02}(U\x01ac_codecs\nencode\nN}X\x05\x00\x00\x00_makeNs\x86bu."
    with pytest.raises(UsageError, match="not a pickle of plain values"):
        load(forged)
    assert load(pickle.dumps({b"a": b"\xff"}, protocol=2)) == {"a": b"\xff"}


def test_missing_file(tmp_path):
    with pytest.raises(UsageError, match="Cannot read"):
        load_array_pickle(tmp_path / "nothing")
