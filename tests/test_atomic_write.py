"""Files that are there whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from tvm_iovt.atomic_write import write_atomically
from tvm_iovt.errors import UsageError


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path: Path, durable: bool) -> None:
    out = tmp_path / "made" / "file"
    for content in (b"old", b"new"):
        write_atomically(out, content, durable=durable)
        assert out.read_bytes() == content
    assert list(out.parent.iterdir()) == [out]


def test_an_error_names_the_file_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for out in (tmp_path / "file" / "x", tmp_path / "folder"):
        with pytest.raises(UsageError) as caught:
            write_atomically(out, b"content")
        assert caught.value.what == f"Cannot write {out}"
        assert caught.value.seen in ("File exists", "Not a directory", "Is a directory")
        assert "free space" in caught.value.do
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
