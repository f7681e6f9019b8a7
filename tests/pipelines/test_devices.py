"""Boards of a run, without boards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tvm_iovt import bundle
from tvm_iovt.boards.address import LOOPBACK, Address
from tvm_iovt.boards.session import BoardRequest
from tvm_iovt.errors import DeviceError
from tvm_iovt.pipelines import devices as devices_module
from tvm_iovt.pipelines.devices import Devices


class Board:
    name, connections = "the board", 1

    def __init__(self) -> None:
        self.closed = 0

    def kill(self) -> None:
        raise AssertionError("it was not there yet")

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("end", ["kill", "leave"])
def test_a_board_that_comes_after_the_end_is_given_back(
    end: str, staged_bundle: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = staged_bundle.write(tmp_path / "b.iovt", (("host", staged_bundle.HOST),) * 3)
    manifest = bundle.read_manifest(path)
    request = BoardRequest(tracker=Address(host=LOOPBACK, port=1), key="pi")
    board = Board()
    devices = Devices(
        path,
        manifest,
        None,
        boards={"host": request},
        threads=None,
        cpus=None,
        sequential=False,
        progress=lambda message: None,
    )

    def opened_late(*arguments: object) -> Board:
        if end == "kill":
            devices.kill()
        else:
            devices.__exit__(None, None, None)
        return board

    monkeypatch.setattr(devices_module, "open_board", opened_late)
    with pytest.raises(DeviceError, match="the board came too late"):
        devices.of(manifest.deployments[0])
    assert board.closed == 1
