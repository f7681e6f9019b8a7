from __future__ import annotations

import xml.etree.ElementTree as ET

import chart
import latency_table
import numpy as np
import pytest
from contestants import BASE, OURS, PEERS, Contestant
from paired import Block
from results import NetworkResult, fastest_peer, largest_difference, measured, unfit

VARIANT = Contestant("unfused", OURS, compile_options=("--fuse", "never"))
ALL = (Contestant(OURS, OURS), VARIANT, *PEERS)
SECONDS = {
    OURS: 0.008,
    "unfused": 0.012,
    BASE: 0.02,
    "openvino": 0.016,
    "ncnn": 0.01,
    "mnn": 0.005,
    "openvino default": 0.004,
}


def result(*, other_cores: float = 0.0, rounds: int = 5) -> NetworkResult:
    blocks = {
        name: {i: Block(wall_s=s, cpu_s=s, other_cores=other_cores) for i in range(rounds)}
        for name, s in SECONDS.items()
    }
    found = NetworkResult(name="network")
    found.differences = dict.fromkeys(SECONDS, 1e-6) | {"mnn": 0.5}
    found.precisions = dict.fromkeys(SECONDS, "f32") | {"openvino default": "bf16"}
    found.measured = {threads: measured(blocks, ALL, threads) for threads in (1, 2)}
    return found


def test_the_fastest_peer_is_float32_and_right() -> None:
    # MNN is faster but wrong, the bfloat16 row faster but no peer.
    found = result()
    assert fastest_peer(found.measured[1], ALL, found.differences) == "ncnn"


def test_a_row_names_the_fastest_peer_and_the_paired_ratio() -> None:
    row, variant = latency_table.rows(result(), 1, ALL)
    assert row.split() == [
        *("network", "8.00", "20.00", "16.00", "10.00", "5.00!", "4.00"),
        *("0.80", "[0.80..0.80]", "ncnn", "35/35"),
    ]
    assert variant.split() == ["unfused", "12.00", "1.20", "[1.20..1.20]", "ncnn"]


def test_columns_are_aligned_and_lines_short() -> None:
    header, *rows = latency_table.header(ALL), *latency_table.rows(result(), 1, ALL)
    assert len(header) == len(rows[0]) <= 110
    assert header.index("ort") + len("ort") == rows[0].index("20.00") + len("20.00")
    assert all(len(line) <= 110 for line in latency_table.LEGEND.splitlines())


def test_a_busy_machine_marks_wall_times_as_guesses() -> None:
    row, _ = latency_table.rows(result(other_cores=1.0), 2, ALL)
    assert "~8.00" in row and "~0.80" in row and "0/35" in row
    row, _ = latency_table.rows(result(other_cores=1.0), 1, ALL)
    assert "~" not in row


def test_geometric_means_are_over_the_networks_of_each_peer() -> None:
    without_ncnn = result()
    del without_ncnn.measured[1].ratios[OURS]["ncnn"]
    del without_ncnn.measured[1].latencies["ncnn"]
    ours, variant = latency_table.means([result(), without_ncnn], 1, ALL)
    # 0.8 over ncnn in one network, 0.5 over OpenVINO in the other.
    assert ours.split()[-4:] == [f"{(0.8 * 0.5) ** 0.5:.3f}", "of", "2", "networks"]
    assert "0.400" in ours
    assert variant.startswith("  unfused")


def test_notes_tell_what_is_missing_and_what_is_not_float32() -> None:
    found = result()
    found.failures["ncnn"] = "no such layer"
    notes = list(latency_table.notes([found]))
    assert notes == [
        "network: ncnn is missing: no such layer",
        "openvino default computes in bf16",
    ]


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        (np.float32([1, -4]), 0.0),
        (np.float32([[1.5, -4]]), 0.125),
    ],
)
def test_differences_are_relative_to_the_largest_number(output, expected: float) -> None:
    assert largest_difference([output], [np.float32([1, -4])]) == expected


def test_outputs_that_cannot_be_compared_are_a_reason() -> None:
    reference = [np.float32([[1, -4]])]
    assert not unfit([np.float32([1, -4])], reference)  # a batch dimension less
    assert "shape (1,) instead of (1, 2)" in unfit([np.float32([1])], reference)
    assert "NaN" in unfit([np.float32([1, np.nan])], reference)


def test_the_chart_is_well_formed_and_self_contained() -> None:
    named = result()
    named.name = "a<b&c"
    root = ET.fromstring(chart.draw([named, result(other_cores=1.0)], ALL, "CPU <fast>"))
    text = " ".join(root.itertext())
    for shown in ("a<b&c", "CPU <fast>", "tvm-iovt", "unfused", "openvino default (bf16)"):
        assert shown in text
    assert "1 thread, CPU time" in text and "2 threads, wall time" in text
    assert "0.40" in text  # ours over ONNX Runtime
    references = [v for e in root.iter() for k, v in e.attrib.items() if k.endswith("href")]
    assert not references
