import io

import pytest
from rich.console import Console

from tvm_iovt.report import plain as plain_text
from tvm_iovt.report import tables
from tvm_iovt.types import Decision


def plain(renderable, width=None):
    stream = io.StringIO()
    tables.render(renderable, stream, width=width)
    return stream.getvalue()


class _Terminal(io.StringIO):
    def isatty(self):
        return True


def every_table(manifest, discrepancy):
    targets = [target for d in manifest.deployments for target in d.targets]
    return [
        tables.operator_summary_table(manifest.operators),
        tables.operator_table(manifest.operators),
        tables.deployments_table(manifest.deployments),
        tables.discrepancy_table(discrepancy),
        tables.targets_table(targets),
        tables.decisions_table(manifest.decisions),
        tables.tensors_table("Inputs", tables.tensor_rows(manifest.inputs)),
        tables.facts_table([("model", "mobilenet_v2")]),
    ]


@pytest.mark.parametrize("width", [80, 100, 200])
def test_every_table_fits_and_is_plain_ascii_off_the_terminal(manifest, discrepancy, width):
    for table in every_table(manifest, discrepancy):
        text = plain(table, width)
        assert text.isascii()
        assert "\x1b" not in text
        assert max(map(len, text.splitlines())) <= width
        assert all(line == line.rstrip() for line in text.splitlines())


def test_numbers_are_not_cut_at_80_columns(manifest, discrepancy):
    text = plain(tables.operator_table(manifest.operators), 80)
    assert "21.0 MFLOP" in text
    assert "1x32x112x112" in text
    text = plain(tables.deployments_table(manifest.deployments), 80)
    assert "12.3 ms" in text
    assert "14.2 MB" in text


def test_default_width_off_the_terminal(operators):
    lines = plain(tables.operator_table(operators)).splitlines()
    assert 80 < max(map(len, lines)) <= plain_text.WIDTH_OFF_TERMINAL


def test_names_are_neither_markup_nor_control_sequences(operators):
    text = plain(tables.operator_table(operators), 200)
    assert "[red]" in text
    assert "\\x1b[2J" in text


def test_terminal_gets_colour(discrepancy):
    stream = _Terminal()
    tables.render(tables.discrepancy_table(discrepancy), stream, width=80)
    assert "\x1b[" in stream.getvalue()


def test_encoding_of_the_stream_is_respected(operators):
    buffer = io.BytesIO()
    stream = io.TextIOWrapper(buffer, encoding="ascii")
    tables.render(tables.facts_table([("latency", "4 µs")]), stream)
    stream.flush()
    assert buffer.getvalue().split() == [b"latency", b"4", b"?s"]


def test_summary_groups_and_sorts(operators):
    text = plain(tables.operator_summary_table(operators))
    rows = [line.split() for line in text.splitlines()]
    (conv,) = [row for row in rows if row[:1] == ["Conv"]]
    assert conv == ["Conv", "2", "28.0", "MFLOP", "97.2%", "2.0", "MB", "4.6", "kB", "13.97"]
    assert text.index("Conv") < text.index("Clip") < text.index("Transpose")
    assert "1 operator without a known cost" in text


def test_summary_of_nothing():
    assert "Operators by type" in plain(tables.operator_summary_table(()))


def test_deployments_say_what_was_checked(deployments):
    text = plain(tables.deployments_table(deployments), 160)
    for expected in (
        "passed",
        "FAILED",
        "not compared",
        "under qemu-aarch64",
        "this machine has no NVIDIA GPU",
        "max abs 5.5e-06",
        "12 of 1000",
        "[11.9 .. 13.8 ms]",
        "end to end, 50 runs",
        "not measured",
        "cuda sm_87",
        "aarch64-linux-gnu",
    ):
        assert expected in text


def test_discrepancy_names_the_tolerance(discrepancy):
    text = plain(tables.discrepancy_table(discrepancy))
    assert "|y - r| <= 1e-05 + 0.001 |r|" in text
    assert "12 of 1000" in text
    assert "ONNX Runtime 1.31.1" in text


def test_decisions_are_grouped_by_pass_and_reason():
    decisions = [
        Decision(transform="RestoreClip", subject=f"clip_{i}", applied=True, reason="pattern")
        for i in range(6)
    ]
    decisions.append(
        Decision(transform="RestoreClip", subject="y", applied=False, reason="2 users")
    )
    short = plain(tables.decisions_table(decisions))
    assert "applied (6): pattern" in short
    assert "clip_3 and 2 more" in short
    assert "not applied: 2 users" in short
    assert "clip_5" in plain(tables.decisions_table(decisions, every=True))


def test_no_decisions():
    assert "No pass" in plain(tables.decisions_table(()))


def test_tables_print_on_any_console(manifest, discrepancy):
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    for table in every_table(manifest, discrepancy):
        console.print(table)
