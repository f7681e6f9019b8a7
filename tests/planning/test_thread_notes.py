"""A plan for more threads than anybody measured says so."""

from __future__ import annotations

import dataclasses

import pytest

from tvm_iovt import targets
from tvm_iovt.cost_graph import CostGraph
from tvm_iovt.planning.plan_file import PlanFile
from tvm_iovt.planning.thread_notes import thread_notes
from tvm_iovt.types import DeviceProfile, DtypePeak, KindFit, PartitionPlan, Roof, TargetSpec
from tvm_iovt.unit_laws import TERMS


def profile(*threads: int, fits: bool = True) -> DeviceProfile:
    return DeviceProfile(
        source="measured",
        roofs=tuple(
            Roof(
                threads=count,
                peaks=(DtypePeak(dtype="float32", flops_per_s=1e9),),
                bandwidth_bytes_per_s=1e9,
            )
            for count in threads
        ),
        launch_s=1e-6,
        fits=tuple(
            KindFit(
                kind="pointwise",
                threads=count,
                coefficients=(1.0,) * TERMS,
                median_error=0.1,
                samples=9,
            )
            for count in threads
            if fits
        ),
    )


def device(name: str, cores: int, known: DeviceProfile | None, base: str = "host") -> TargetSpec:
    spec = targets.load(base)
    cpu = dataclasses.replace(spec.cpu, cores=cores)
    return dataclasses.replace(spec, name=name, cpu=cpu, profile=known)


def notes(*specs: TargetSpec, measured: tuple[tuple[float, ...], ...] = ()) -> tuple[str, ...]:
    return thread_notes(
        PlanFile(
            model_name="m",
            model_sha256="",
            targets=specs,
            graph=CostGraph(units=(), edges=()),
            unit_s=(),
            measured=measured,
            plan=PartitionPlan(stages=(), objective="latency", reason=""),
        )
    )


def test_threads_beyond_the_measured_ones_are_told_with_what_mends_it():
    (note,) = notes(device("host", 2, profile(1)))
    assert "host was measured with 1 thread at most" in note
    assert "with 2 threads" in note
    assert note.endswith("tvm-iovt targets probe host")


@pytest.mark.parametrize(
    "known", [profile(1, 2), profile(2), profile(1, fits=False), None], ids=str
)
def test_known_or_scaled_threads_need_no_note(known):
    assert notes(device("host", 2, known)) == ()


def test_stages_that_share_the_cores_could_have_had_all_of_them():
    pair = (device("host", 1, profile(1)), device("host~2", 1, profile(1)))
    (note,) = notes(*pair)
    assert "with 2 threads" in note
    assert notes(device("host/1", 1, profile(1)), device("host/1~2", 1, profile(1))) == ()


def test_a_board_is_named_with_its_options_and_only_once():
    (note,) = notes(
        device("arm/4", 4, profile(1, 2), "arm"), device("arm/4~2", 4, profile(1, 2), "arm")
    )
    assert "arm/4 was measured with 2 threads at most" in note
    assert note.endswith("tvm-iovt targets probe arm/4 --tracker HOST:PORT --key KEY")


def test_measured_operators_need_no_profile():
    assert notes(device("host", 2, profile(1)), measured=((1.0,),)) == ()
