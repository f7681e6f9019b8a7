"""`run --pipeline` as a user calls it, on this machine alone."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tvm_iovt.cli.main import run
from tvm_iovt.cli.run_pipeline import board_requests
from tvm_iovt.errors import UsageError


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory, staged_bundle: Any) -> Path:
    place = ("host", staged_bundle.HOST)
    return staged_bundle.write(tmp_path_factory.mktemp("cut") / "cut.iovt", (place, place, place))


def output(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    capsys.readouterr()
    code = run(["run", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_what_is_printed(cut: Path, tmp_path: Path, capsys: Any) -> None:
    page = tmp_path / "timeline.html"
    code, out, err = output(
        capsys,
        *(cut, "sample:25", "--pipeline", "--output", tmp_path / "out", "--timeline", page),
    )
    assert code == 0, err
    assert "frames   25 in" in out
    assert "frames/s" in out
    assert "p90" in out
    for stage in range(3):
        assert f"stage {stage} on host" in out
    assert f"25 frames are done and kept in {tmp_path / 'out'}" in out
    assert "25 of 25 frames" in err
    assert "stage 2, host: this machine" in err
    text = page.read_text()
    assert "<svg" in text
    assert "the sample, 25 times" in text


def test_json_is_alone(cut: Path, capsys: Any) -> None:
    code, out, _ = output(
        capsys, cut, "sample:9", "--pipeline", "--sequential", "--json", "--limit", 5
    )
    assert code == 0
    found = json.loads(out)
    assert found["frames"] == found["statistics"]["frames"] == 5
    assert found["sequential"]
    assert len(found["statistics"]["stages"]) == 3
    assert found["statistics"]["latency_p50_s"] > 0


def test_an_error_in_the_middle_keeps_and_tells(cut: Path, tmp_path: Path, capsys: Any) -> None:
    folder = tmp_path / "streams"
    folder.mkdir()
    for index in range(6):
        np.savez(folder / f"{index}.npz", image=np.ones((2, 3, 16, 16), np.float32))
    (folder / "4.npz").write_bytes(b"broken")
    code, out, err = output(capsys, cut, folder, "--pipeline", "--output", tmp_path / "out")
    assert code == 2
    assert "frames   8 in" in out, "what was finished is summarised"
    assert "Frame 8 of" in err
    assert f"8 frames are done and kept in {tmp_path / 'out'}" in err
    with np.load(next((tmp_path / "out").iterdir())) as arrays:
        assert arrays["sums"].shape == (8, 1, 8)
    code, out, err = output(capsys, cut, folder, "--pipeline", "--json")
    assert code == 2
    assert "Frame 8 of" in json.loads(out)["error"]["what"]


def test_a_page_that_cannot_be_written_costs_no_numbers(
    cut: Path, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "file").touch()
    page = tmp_path / "file" / "t.html"
    code, out, err = output(capsys, cut, "sample:5", "--pipeline", "--timeline", page)
    assert code == 2
    assert "frames/s" in out
    assert f"Cannot write {page}" in err
    assert "free space" in err
    code, out, err = output(capsys, cut, "sample:5", "--pipeline", "--timeline", page, "--json")
    found = json.loads(out)
    assert code == found["error"]["exit_code"] == 2
    assert found["statistics"]["frames"] == 5
    assert f"Cannot write {page}" in err


def test_an_error_in_the_middle_is_not_hidden_by_the_page(
    cut: Path, tmp_path: Path, capsys: Any
) -> None:
    (tmp_path / "file").touch()
    np.savez(tmp_path / "0.npz", image=np.ones((2, 3, 16, 16), np.float32))
    folder = tmp_path / "stream"
    folder.mkdir()
    (tmp_path / "0.npz").rename(folder / "0.npz")
    (folder / "1.npz").write_bytes(b"broken")
    page = tmp_path / "file" / "t.html"
    code, _, err = output(capsys, cut, folder, "--pipeline", "--timeline", page)
    assert code == 2
    assert "error: Frame 2 of" in err
    assert f"Cannot write {page}" in err


def test_an_interrupt_is_130_and_keeps(cut: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tvm_iovt", "run", str(cut), "sample:100000000"]
    command += ["--pipeline", "--output", str(tmp_path / "out")]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        began_s = time.monotonic()
        while not list(tmp_path.glob("out/frames-*.npz")):
            assert process.poll() is None
            assert time.monotonic() - began_s < 60
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    files = sorted((tmp_path / "out").iterdir())
    frames = sum(len(np.load(file)["sums"]) for file in files)
    assert f"interrupted: {frames} frames are done and kept in {tmp_path / 'out'}" in err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--pipeline"], 2, "one stream of frames"),
        (["a.png", "b.png", "--pipeline"], 2, "2 inputs"),
        (["nothing.mp4", "--pipeline"], 2, "no frames at nothing.mp4"),
        (["sample:x", "--pipeline"], 2, "number of frames"),
        (["sample:3", "--pipeline", "--limit", "0"], 2, "at least one frame"),
        (["sample:3", "--pipeline", "--output", "out.npz"], 2, "folder"),
        (["sample:3", "--pipeline", "--repeat", "3"], 2, "--repeat"),
        (["sample:3", "--pipeline", "--target", "pi"], 8, "no deployment pi"),
        (["sample:3", "--pipeline", "--board", "host=pi"], 2, "belong together"),
        (["sample:3", "--pipeline", "--tracker", "h:1"], 2, "belong together"),
        (["sample:3", "--pipeline", "--board", "pi", "--tracker", "h:1"], 2, "TARGET=KEY"),
        (
            ["sample:3", "--pipeline", "--board", "host=pi", "--tracker", "127.0.0.1:1"],
            5,
            "The tracker at 127.0.0.1:1",
        ),
        (
            ["sample:3", "--pipeline", "--board", "arm=cam", "--tracker", "127.0.0.1:1"],
            2,
            "its targets are host",
        ),
        (["--limit", "3"], 2, "--limit belongs to --pipeline"),
        (["--sequential"], 2, "--sequential belongs to --pipeline"),
        (["--wait", "0"], 2, "--wait belongs to --pipeline"),
        (["sample:3", "--pipeline", "--timeout", "9"], 2, "--wait and --timeout are for boards"),
    ],
)
def test_what_is_refused(
    cut: Path, capsys: Any, arguments: list[str], code: int, said: str
) -> None:
    found, _, err = output(capsys, cut, *arguments)
    assert found == code, err
    assert said in err
    assert "Traceback" not in err


def test_boards_are_read() -> None:
    found = board_requests("10.0.0.7", ["arm=rpi4", "host/1=x86=box"])
    assert {name: request.key for name, request in found.items()} == {
        "arm": "rpi4",
        "host/1=x86": "box",
    }
    assert str(found["arm"].tracker) == "10.0.0.7:9190"
    patient = board_requests("10.0.0.7", ["arm=rpi4"], 90.0, 300.0)["arm"]
    assert (patient.wait_s, patient.timeout_s) == (90.0, 300.0)
    with pytest.raises(UsageError, match="two boards"):
        board_requests("10.0.0.7", ["arm=a", "arm=b"])


def test_plain_run_still_works(cut: Path, capsys: Any) -> None:
    code, out, err = output(capsys, cut)
    assert code == 0, err
    assert "the sample of cut.iovt" in out
