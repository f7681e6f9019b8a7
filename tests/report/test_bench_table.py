from __future__ import annotations

import io

from tvm_iovt.boards.bench import Bench, BundleTiming, Ratio
from tvm_iovt.boards.condition import Condition
from tvm_iovt.report.bench_table import bench_table, condition_lines
from tvm_iovt.report.plain import render
from tvm_iovt.types import Measurement


def measurement(median_s: float, scope: str) -> Measurement:
    return Measurement(
        median_s=median_s,
        p10_s=median_s * 0.9,
        p90_s=median_s * 1.2,
        samples=30,
        scope=scope,
        warmup=3,
        environment="a board",
    )


def timing(name: str, median_s: float, ratio: Ratio | None) -> BundleTiming:
    return BundleTiming(
        bundle=name,
        deployment="arm",
        discrepancy=None,
        device=measurement(median_s, "device"),
        end_to_end=measurement(2 * median_s, "end_to_end"),
        device_ratio=ratio,
        end_to_end_ratio=ratio,
    )


def text(*timings: BundleTiming) -> str:
    hot = Condition(temperature_c=71.0, frequencies_hz=(1_500_000_000, 600_000_000))
    bench = Bench(where="board rpi4 [bold]", board="rpi4", before=hot, after=hot, timings=timings)
    stream = io.StringIO()
    render(bench_table(bench), stream)
    return stream.getvalue()


def test_several_bundles() -> None:
    found = text(
        timing("a.iovt", 0.010, None),
        timing("b.iovt", 0.005, Ratio(median=0.5, low=0.49, high=0.51)),
        timing("c.iovt", 0.010, Ratio(median=1.01, low=0.98, high=1.04)),
    )
    assert "Latency on board rpi4 [bold]" in found
    assert "0.500 ±0.010" in found
    assert "1.010 ±0.030 =" in found
    assert "0.500 ±0.010 =" not in found
    assert "9.00 .. 12.0 ms" in found
    assert "not checked" in found
    assert "temperature 71 -> 71 °C; clock 0.60 .. 1.50 GHz -> 0.60 .. 1.50 GHz" in found


def test_one_bundle_has_no_ratio() -> None:
    assert "Ratio" not in text(timing("a.iovt", 0.010, None))


def test_a_machine_that_tells_nothing() -> None:
    assert condition_lines(None, Condition()) == []
    assert condition_lines(Condition(), Condition()) == ["load 0.0 -> 0.0"]
