from __future__ import annotations

import itertools
import platform

import pytest

from tvm_iovt import host_cpu


def test_detected_cpu_is_plausible() -> None:
    cpu = host_cpu.detect()
    assert cpu.arch == host_cpu.machine()
    assert cpu.cores >= 1
    assert cpu.l1d_bytes >= 8 * 1024
    assert cpu.l2_bytes >= cpu.l1d_bytes
    assert set(cpu.features) <= host_cpu.flags()


@pytest.mark.parametrize(
    ("features", "expected"),
    [((), (128, 16)), (("avx",), (128, 16)), (("avx2",), (256, 16)), (("avx512f",), (512, 32))],
)
def test_x86_registers(features: tuple[str, ...], expected: tuple[int, int]) -> None:
    assert host_cpu.vector_bits("x86_64", frozenset(features)) == expected


def test_arm_registers() -> None:
    assert host_cpu.vector_bits("aarch64", frozenset()) == (128, 32)
    assert host_cpu.vector_bits("armv7l", frozenset()) == (128, 16)


@pytest.mark.parametrize(
    ("machine", "bits", "expected"),
    [
        ("AMD64", "64bit", "x86_64"),
        ("arm64", "64bit", "aarch64"),
        ("aarch64", "32bit", "armv7l"),
        ("armv8l", "32bit", "armv7l"),
    ],
)
def test_one_spelling_an_architecture(
    monkeypatch: pytest.MonkeyPatch, machine: str, bits: str, expected: str
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(platform, "architecture", lambda: (bits, "ELF"))
    assert host_cpu.machine() == expected


def test_levels_build_on_each_other() -> None:
    levels = [set(features) for features in host_cpu.X86_LEVELS.values()]
    assert all(low < high for low, high in itertools.pairwise(levels))
