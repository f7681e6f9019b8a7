from __future__ import annotations

from pathlib import Path

from tvm_iovt.stages.library import new_file


def test_names_that_look_alike_get_files_of_their_own(tmp_path: Path) -> None:
    for name, file in (
        ("host+arm", "host-arm.so"),
        ("host arm", "host-arm~2.so"),
        ("host/arm", "host-arm~3.so"),
        ("arm~2", "arm-2.so"),
    ):
        assert new_file(tmp_path, name, ".so") == file
        (tmp_path / file).touch()
