from __future__ import annotations

from pathlib import Path

import pytest

from tvm_iovt import targets
from tvm_iovt.errors import TargetError

BOARD = """
description = "a board"
memory_bytes = 1000
active_w = 4
[cpu]
arch = "aarch64"
triple = "aarch64-linux-gnu"
mcpu = "cortex-a53"
cores = 4
vector_bits = 128
vector_registers = 32
l1d_bytes = 32768
l2_bytes = 524288
[datasheet]
launch_s = 1e-6
[[datasheet.roof]]
threads = 1
peak_flops = { float32 = 1e9, int8 = 4e9 }
bandwidth_bytes_per_s = 1e9
[[datasheet.roof]]
threads = 4
peak_flops = { float32 = 4e9 }
bandwidth_bytes_per_s = 2e9
[[link]]
dst = "host"
bytes_per_s = 1e8
latency_s = 1e-3
"""


def loaded(tmp_path: Path, text: str) -> targets.TargetSpec:
    path = tmp_path / "board.toml"
    path.write_text(text)
    return targets.load(str(path))


def test_datasheet_is_the_profile(tmp_path: Path) -> None:
    spec = loaded(tmp_path, BOARD)
    assert spec.profile is not None
    assert spec.profile.source == "datasheet"
    assert [roof.threads for roof in spec.profile.roofs] == [1, 4]
    assert {p.dtype: p.flops_per_s for p in spec.profile.roofs[0].peaks} == {
        "float32": 1e9,
        "int8": 4e9,
    }
    assert (spec.memory_bytes, spec.active_w, spec.machine) == (1000, 4.0, "")
    (link,) = spec.links
    assert (link.src, link.dst, link.source) == (spec.name, "host", "stated")
    assert link.time_s(100_000_000) == pytest.approx(1.001)


@pytest.mark.parametrize(
    ("change", "key", "said"),
    [
        (("launch_s = 1e-6", ""), "datasheet.launch_s", "add the seconds"),
        (("launch_s = 1e-6", "launch_s = -1"), "datasheet.launch_s", "not negative"),
        (("launch_s = 1e-6", "launch_s = nan"), "datasheet.launch_s", "not negative"),
        (("launch_s = 1e-6", 'launch_s = "1"'), "datasheet.launch_s", "write a number"),
        (("launch_s = 1e-6", "launch_s = true"), "datasheet.launch_s", "write a number"),
        (("launch_s", "lanch_s"), "datasheet.lanch_s", "known: date"),
        (("float32 = 1e9,", ""), "datasheet.roof[0].peak_flops", "float32 ="),
        (("float32 = 1e9", "float32 = 0"), "datasheet.roof[0].peak_flops.float32", "above zero"),
        (("int8 = 4e9", "int4 = 4e9"), "datasheet.roof[0].peak_flops.int4", "known: float32"),
        (("int8 = 4e9", "int8 = inf"), "datasheet.roof[0].peak_flops.int8", "not negative"),
        (("threads = 4", "threads = 1"), "datasheet.roof", "increasing threads"),
        (("threads = 4", "threads = 0"), "datasheet.roof[1].threads", "positive whole number"),
        (("threads = 4", "threads = 2.5"), "datasheet.roof[1].threads", "positive whole number"),
        (
            ("bandwidth_bytes_per_s = 2e9", ""),
            "datasheet.roof[1].bandwidth_bytes_per_s",
            "above zero",
        ),
        (("[[datasheet.roof]]", "[[datasheet.rooff]]"), "datasheet.rooff", "known: date"),
        (("memory_bytes = 1000", "memory_bytes = -1"), "memory_bytes", "whole number of bytes"),
        (("memory_bytes = 1000", "memory_bytes = 1e9"), "memory_bytes", "whole number of bytes"),
        (("active_w = 4", "active_w = nan"), "active_w", "watts"),
        (("active_w = 4", "machine = 4"), "machine", "a text in quotes"),
        (('dst = "host"', ""), "link[0].dst", "the other end"),
        (("latency_s = 1e-3", "latency_s = -1e-3"), "link[0].latency_s", "not negative"),
        (("bytes_per_s = 1e8", "bytes_per_s = 0"), "link[0].bytes_per_s", "above zero"),
        (("[[link]]", "[link]"), "link", "[[link]]"),
        (("latency_s = 1e-3", 'latency_s = 1e-3\nsource = "x"'), "link[0].source", "stated"),
    ],
)
def test_wrong_numbers_name_file_and_key(
    tmp_path: Path, change: tuple[str, str], key: str, said: str
) -> None:
    with pytest.raises(TargetError) as caught:
        loaded(tmp_path, BOARD.replace(*change))
    error = caught.value
    assert str(tmp_path / "board.toml") in error.what
    assert f": {key} is wrong" in error.what
    assert said in error.do
    assert error.seen


def test_fits_of_another_version_ask_for_a_new_probe(tmp_path: Path) -> None:
    fit = '[[datasheet.fit]]\nkind = "conv"\nthreads = 1\ncoefficients = [1.0]\n'
    with pytest.raises(TargetError, match="targets probe"):
        loaded(tmp_path, BOARD + fit + "median_error = 0.1\nsamples = 3\n")


def test_roofs_are_needed(tmp_path: Path) -> None:
    with pytest.raises(TargetError, match=r"datasheet\.roof is wrong"):
        loaded(tmp_path, BOARD.split("[[datasheet.roof]]")[0])
