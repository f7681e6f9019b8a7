"""Modules in records."""

from __future__ import annotations

import json

import pytest

from tests.tuning.record_examples import workload
from tvm_iovt.errors import TuningError
from tvm_iovt.tuning.workload_modules import compress_module, decompress_module


def test_modules_are_kept_compressed():
    text = json.dumps({"nodes": ["prim_func ü"] * 1000})
    record = workload(module=compress_module(text))
    assert len(record.module) < len(text) / 50
    assert decompress_module(record) == text


@pytest.mark.parametrize("damage", ["cut", "base64", "zlib", "bomb"])
def test_a_damaged_module_is_an_error(damage, monkeypatch):
    module = compress_module("x" * 1000)
    if damage == "bomb":
        monkeypatch.setattr("tvm_iovt.tuning.workload_modules._LARGEST_BYTES", 999)
    changed = {"cut": module[:-8], "base64": "%%%%", "zlib": "AAAA" + module[4:], "bomb": module}
    with pytest.raises(TuningError, match=r"conv_w0 .* is damaged"):
        decompress_module(workload(module=changed[damage]))
