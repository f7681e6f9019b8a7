"""Module passes whose errors stay what they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm

from tvm_iovt.errors import IovtError


def module_pass(name: str) -> Callable[[type], Any]:
    """As `tvm.transform.module_pass`, but a pass that is called raises our errors as ours.

    TVM turns every exception of a pass into a `RuntimeError` with its text. Inside of a
    `tvm.transform.Sequential` it still does.

    Args:
        name: Of the pass.
    """

    def decorate(cls: type) -> Any:
        recording = type(cls.__name__, (_Recording, cls), {"__doc__": cls.__doc__})
        made: Any = tvm.transform.module_pass(opt_level=0, name=name)(recording)

        def call(self: Any, mod: Any) -> Any:
            try:
                return made.__call__(self, mod)
            except Exception:
                raised = self._inst.take_error()
                if raised is None:
                    raise
            raise raised

        return type(
            cls.__name__,
            (made,),
            {"__call__": call, "__doc__": cls.__doc__, "__module__": cls.__module__},
        )

    return decorate


class _Recording:
    _raised: IovtError | None = None

    def transform_module(self, mod: Any, context: Any) -> Any:
        self._raised = None
        try:
            return super().transform_module(mod, context)  # type: ignore[misc]
        except IovtError as error:
            self._raised = error
            raise

    def take_error(self) -> IovtError | None:
        """The error that the last call raised, once."""
        raised, self._raised = self._raised, None
        return raised
