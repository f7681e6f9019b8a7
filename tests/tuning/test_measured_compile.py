from __future__ import annotations

import pytest

from tvm_iovt.compiler import Compilation, CompileOptions, compile_model
from tvm_iovt.errors import UsageError
from tvm_iovt.tuning.kernel_bench import KernelBench
from tvm_iovt.tuning.kernel_timing import Timing


@pytest.fixture
def compile_small(small_model, tmp_path, monkeypatch):
    """Compile the small network with records in an empty folder; the last candidate is fastest."""
    monkeypatch.setenv("TVM_IOVT_PATH", str(tmp_path / "user"))

    def time(bench, names):
        return tuple(Timing(median_s=1 / (i + 1), spread_s=0.0) for i in range(len(names)))

    monkeypatch.setattr(KernelBench, "time", time)

    def compile_small(**options) -> tuple[Compilation, list[str]]:
        lines: list[str] = []
        chosen = CompileOptions(output=tmp_path / "small.iovt", overwrite=True, **options)
        return compile_model(small_model, chosen, progress=lines.append), lines

    return compile_small


def chosen(compilation):
    return [d for d in compilation.manifest.decisions if d.transform == "ChooseKernel"]


def test_measured_kernels_are_used_now_and_later(compile_small, tmp_path):
    before, lines = compile_small()
    assert not chosen(before)
    assert not [line for line in lines if line.startswith("kernels:")]

    measured, lines = compile_small(measure=True)
    assert "measuring kernels of conv 3->24@16x16 k3 stride 2" in lines
    assert "kernels: 0 predicted, 1 from measurements" in lines
    (decision,) = chosen(measured)
    assert decision.applied and decision.subject == "host: conv 3->24@16x16 k3 stride 2"
    (path,) = (tmp_path / "user" / "tuning_logs").glob("*/kernel_choice.jsonl")
    (record,) = path.read_text().splitlines()

    later, lines = compile_small()
    assert chosen(later) == chosen(measured)
    assert "kernels: 0 predicted, 1 from measurements" in lines
    assert not [line for line in lines if line.startswith("measuring")]

    _, lines = compile_small(measure=True)
    assert not [line for line in lines if line.startswith("measuring")]
    assert path.read_text().splitlines() == [record]


def test_broken_records_are_a_warning(compile_small, tmp_path):
    compile_small(measure=True)
    (path,) = (tmp_path / "user" / "tuning_logs").glob("*/kernel_choice.jsonl")
    path.write_text("nonsense\n" + path.read_text())
    _, lines = compile_small()
    (warning,) = [line for line in lines if line.startswith("warning:")]
    assert f"{path}, line 1, was skipped" in warning
    assert "kernels: 0 predicted, 1 from measurements" in lines


def test_foreign_targets_cannot_be_measured(compile_small, tmp_path):
    with pytest.raises(UsageError, match="arm cannot be measured on this machine"):
        compile_small(targets="host,arm", measure=True)
    assert not (tmp_path / "small.iovt").exists()
