from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from tvm_iovt import host_cpu, targets
from tvm_iovt.errors import TargetError

BOARD = """
description = "a board"
[cpu]
arch = "aarch64"
triple = "aarch64-linux-gnu"
mcpu = "cortex-a53"
cores = 4
vector_bits = 128
vector_registers = 32
l1d_bytes = 32768
l2_bytes = 524288
"""


def test_every_shipped_target_loads() -> None:
    names = targets.names()
    shipped = {"host", "arm", "armv7", "raspberry-pi-4", "raspberry-pi-5"}
    assert shipped | {"cuda", "jetson-orin", "vulkan"} <= set(names)
    for name in names:
        spec = targets.load(name)
        assert spec.name == name
        assert spec.description
        assert spec.cpu.vector_bits in (128, 256, 512)


def test_host_is_this_machine() -> None:
    assert targets.load("host").cpu == host_cpu.detect()


@pytest.mark.skipif(host_cpu.machine() != "x86_64", reason="levels are of x86-64")
def test_host_level_bounds_what_the_code_may_use() -> None:
    cpu = targets.load("host:x86-64-v3").cpu
    assert (cpu.mcpu, cpu.vector_bits, cpu.vector_registers) == ("x86-64-v3", 256, 16)
    assert "avx2" in cpu.features
    assert "avx512f" not in cpu.features


def test_cuda_architecture_is_explicit_and_can_be_overridden() -> None:
    default, other = targets.load("cuda"), targets.load("cuda:sm_90")
    assert default.gpu is not None
    assert other.gpu is not None
    assert (default.gpu.arch, other.gpu.arch) == ("sm_87", "sm_90")
    assert other.name == "cuda:sm_90"


def test_gpu_is_launched_by_the_cpu_target_beside_it() -> None:
    arm, cuda = targets.load_all("arm,cuda")
    assert cuda.cpu == arm.cpu
    assert cuda.cpu.arch == "aarch64"


def test_gpu_alone_is_launched_by_this_machine() -> None:
    (cuda,) = targets.load_all("cuda")
    assert cuda.cpu == host_cpu.detect()


def test_board_with_its_own_cpu_keeps_it() -> None:
    _, orin = targets.load_all("armv7,jetson-orin")
    assert orin.cpu.arch == "aarch64"


def test_explicit_host_wins() -> None:
    _, _, cuda = targets.load_all("host,arm,cuda@arm")
    assert cuda.cpu.arch == "aarch64"


def test_ambiguous_host_is_refused_with_the_choices() -> None:
    with pytest.raises(TargetError, match="cuda@host or cuda@arm"):
        targets.load_all("host,arm,cuda")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "No target was named"),
        (" , ", "No target was named"),
        ("arm,arm", "named twice: arm"),
        ("riscv", "There is no target 'riscv'"),
        ("cuda:87", "names no CUDA architecture"),
        ("arm:cortex-a53", "cannot be built"),
        ("arm@host", "only GPU targets have a host"),
        ("a:b:c", "not a target name"),
        ("none.toml", "no target file"),
    ],
)
def test_wrong_names(text: str, said: str) -> None:
    with pytest.raises(TargetError) as caught:
        targets.load_all(text)
    assert said in str(caught.value)
    assert caught.value.exit_code == 4


def test_unknown_target_lists_the_known_ones() -> None:
    with pytest.raises(TargetError, match="raspberry-pi-4"):
        targets.load("pi")


@pytest.mark.parametrize(
    ("name", "stated"),
    [("host/1", True), ("arm/2@x", True), ("host", False), ("./3d/a.toml", False)],
)
def test_threads_that_a_name_states(name: str, stated: bool) -> None:
    assert targets.states_threads(name) == stated


def test_user_folder_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "targets").mkdir()
    (tmp_path / "targets" / "arm.toml").write_text(BOARD)
    monkeypatch.setenv("TVM_IOVT_PATH", str(tmp_path))
    assert targets.load("arm").cpu.mcpu == "cortex-a53"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("cores = 4", "cores = 0"), "cpu.cores is wrong"),
        (("cores = 4", 'cores = "4"'), "positive whole number"),
        (("cores = 4", ""), "cpu.cores is wrong"),
        (("cores = 4", "cores = 4\nwheels = 3"), "cpu.wheels is wrong"),
        (('mcpu = "cortex-a53"', "mcpu = 53"), "a text in quotes"),
        (('arch = "aarch64"', 'arch = "mips"'), "cpu.arch is wrong"),
        (('description = "a board"', "description = "), "Cannot read the target"),
        (("[cpu]", "[cpu]\nmattr = 'neon'"), "a list of texts"),
        (("[cpu]", "[cpu]\nmattr = ['neon']"), 'write "+neon"'),
        (('triple = "aarch64', 'triple = "x'), "begins with aarch64-"),
        (('triple = "aarch64', 'triple = "x86_64'), "cpu.triple is wrong"),
        (('arch = "aarch64"', 'arch = "native"'), "cpu.triple is wrong"),
        (("[cpu]", "gpu = 3\n[cpu]"), "make it a table"),
        (("[cpu]", "[cpus]"), "cpus is wrong"),
    ],
)
def test_wrong_files_name_the_key(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    path = tmp_path / "board.toml"
    path.write_text(BOARD.replace(*change))
    with pytest.raises(TargetError) as caught:
        targets.load(str(path))
    assert said in str(caught.value)


def test_number_of_threads() -> None:
    assert targets.load("raspberry-pi-4/2").cpu.cores == 2
    assert targets.load("raspberry-pi-4/2").name == "raspberry-pi-4/2"
    orin = targets.load("cuda@raspberry-pi-4/2")
    assert orin.cpu.cores == 2


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("raspberry-pi-4/5", "has 4 cores"),
        ("raspberry-pi-4/0", "has none"),
        ("cuda/1", "only CPU targets"),
        ("arm/x", "not a target name"),
    ],
)
def test_wrong_numbers_of_threads(name: str, said: str) -> None:
    with pytest.raises(TargetError) as caught:
        targets.load(name)
    assert said in str(caught.value)


def test_devices_may_repeat_a_name() -> None:
    first, second, third = targets.load_devices("arm/1, arm/1,arm/2")
    assert [first.name, second.name, third.name] == ["arm/1", "arm/1~2", "arm/2"]
    assert dataclasses.replace(second, name=first.name) == first
    one, cuda, other = targets.load_devices("arm,cuda,arm")
    assert (one.name, cuda.name, other.name) == ("arm", "cuda", "arm~2")
    assert cuda.cpu == one.cpu
    with pytest.raises(TargetError, match="named twice"):
        targets.load_all("arm/1,arm/1")


def test_base_names() -> None:
    assert targets.base_name("host:x86-64-v3/2") == "host"
    assert targets.base_name("./a/board.toml/2") == "./a/board.toml"


def test_every_shipped_number_is_sensible() -> None:
    for name in targets.names():
        profile = targets.load(name).profile
        if profile is None:
            continue
        for roof in profile.roofs:
            (peak,) = (p.flops_per_s for p in roof.peaks if p.dtype == "float32")
            assert 1 <= peak / roof.bandwidth_bytes_per_s <= 100
            assert roof.cache_bandwidth_bytes_per_s >= roof.bandwidth_bytes_per_s
