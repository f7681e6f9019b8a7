from __future__ import annotations

from pathlib import Path

import pytest

from tvm_iovt import resources


def test_shipped_data_is_found() -> None:
    assert (resources.shipped("targets") / "arm.toml").is_file()
    assert (resources.shipped("tuning_logs") / "README.md").is_file()


def test_user_folders_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TVM_IOVT_PATH", f"{tmp_path}/a:{tmp_path}/b")
    monkeypatch.setenv("XDG_CONFIG_HOME", f"{tmp_path}/config")
    assert resources.search_path("targets") == (
        tmp_path / "a" / "targets",
        tmp_path / "b" / "targets",
        tmp_path / "config" / "tvm-iovt" / "targets",
        resources.shipped("targets"),
    )


def test_cache_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert resources.cache("wheels") == tmp_path / "tvm-iovt" / "wheels"
    assert resources.cache("wheels").is_dir()
