from __future__ import annotations

from typing import Any

import pytest
import tvm

from relay_passes.module_pass import module_pass
from tvm_iovt.errors import UsageError


@module_pass("Picky")
class Picky:
    """Refuses what it is told to."""

    def __init__(self, error: Exception | None) -> None:
        self._error = error

    def transform_module(self, mod: Any, _ctx: Any) -> Any:
        """As it is."""
        if self._error is not None:
            raise self._error
        return mod


def test_our_errors_stay_ours() -> None:
    error = UsageError("The plan is wrong", seen="nothing", do="another")
    with pytest.raises(UsageError) as caught:
        Picky(error)(tvm.IRModule())
    assert caught.value is error


def test_other_errors_are_tvm_s() -> None:
    with pytest.raises(RuntimeError, match="by nothing"):
        Picky(ZeroDivisionError("by nothing"))(tvm.IRModule())


def test_it_is_a_pass_as_others_are() -> None:
    mod = tvm.IRModule()
    assert Picky(None)(mod).same_as(mod)
    sequence = tvm.transform.Sequential([Picky(None)])
    assert not sequence(mod).functions
    assert Picky.__doc__ == "Refuses what it is told to."
    assert Picky(None).info.name == "Picky"
    with pytest.raises(Exception, match="The plan is wrong"):
        tvm.transform.Sequential([Picky(UsageError("The plan is wrong"))])(mod)
