"""What the workloads under way are checked with: computed once, kept while there is room."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from tvm_iovt.tuning.build_pool import Builder
from tvm_iovt.tuning.kernel_replies import Reference
from tvm_iovt.tuning.trial import Workload

ROOM_BYTES = 1 << 30
"""Memory for the arrays of workloads; the ones last used stay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadArrays:
    """The inputs of a workload, and what it computes from them."""

    inputs: tuple[np.ndarray, ...]
    reference: Reference

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        found = (*self.inputs, *self.reference.outputs, *self.reference.fill)
        return sum(array.nbytes for array in found)


class WorkloadStore:
    """Arrays by workload; threads may ask at once, the first one computes.

    Args:
        builder: Computes them.
        room_bytes: For all of them.
    """

    def __init__(self, builder: Builder, room_bytes: int = ROOM_BYTES) -> None:
        self._builder = builder
        self._room_bytes = room_bytes
        self._lock = threading.Lock()
        self._found: OrderedDict[str, Future[WorkloadArrays]] = OrderedDict()

    def get(self, workload: Workload) -> WorkloadArrays:
        """The arrays of a workload.

        Raises:
            BuildError: They cannot be computed, now or ever.
            ToolchainError: Nothing can be built at all.
        """
        with self._lock:
            future = self._found.get(workload.key)
            mine = future is None
            if future is None:
                future = self._found[workload.key] = Future()
            self._found.move_to_end(workload.key)
        if mine:
            self._settle(future, lambda: self._compute(workload))
        arrays = future.result()
        self._make_room()
        return arrays

    def _compute(self, workload: Workload) -> WorkloadArrays:
        reference = self._builder.reference(workload)
        inputs = self._builder.inputs(workload, reference.how)
        return WorkloadArrays(inputs=inputs, reference=reference)

    @staticmethod
    def _settle(future: Future[WorkloadArrays], compute: Callable[[], WorkloadArrays]) -> None:
        try:
            future.set_result(compute())
        except BaseException as error:  # for all who wait
            future.set_exception(error)

    def _make_room(self) -> None:
        with self._lock:
            done = {
                key: future.result().nbytes
                for key, future in self._found.items()
                if future.done() and future.exception() is None
            }
            for key in list(done)[:-1]:  # the oldest first, and never the last
                if sum(done.values()) <= self._room_bytes:
                    return
                del self._found[key], done[key]
