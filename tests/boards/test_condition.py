from __future__ import annotations

from pathlib import Path

from tvm_iovt.boards.condition import read_condition, total_memory_bytes


def test_what_sysfs_tells(tmp_path: Path) -> None:
    for zone, text in enumerate(("41000\n", "56500\n", "broken", "-274000")):
        folder = tmp_path / f"class/thermal/thermal_zone{zone}"
        folder.mkdir(parents=True)
        (folder / "temp").write_text(text)
    for cpu, kilohertz in enumerate((600000, 1500000)):
        folder = tmp_path / f"devices/system/cpu/cpu{cpu}/cpufreq"
        folder.mkdir(parents=True)
        (folder / "scaling_cur_freq").write_text(f"{kilohertz}\n")
    found = read_condition(tmp_path)
    assert found.temperature_c == 56.5
    assert found.frequencies_hz == (600_000_000, 1_500_000_000)


def test_a_machine_that_tells_nothing(tmp_path: Path) -> None:
    found = read_condition(tmp_path)
    assert found.temperature_c is None
    assert found.frequencies_hz == ()
    assert 0 < found.available_bytes <= total_memory_bytes()
    assert found.load >= 0
