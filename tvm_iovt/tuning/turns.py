"""Who may build and who may measure: measuring needs cores that nobody builds on."""

from __future__ import annotations


class Turns:
    """The rules by which workers of one machine take turns; not safe against threads by itself.

    At most one kernel is measured at a time. Where it leaves cores free, building goes on there
    meanwhile; else a batch is built by all workers and then measured, one after another.

    Args:
        spare_cores: Cores that measuring leaves free.
        batch: Kernels to build before they are measured, where no core is left free.

    Attributes:
        building: Workers that build now; the caller counts as one while it is busy.
        measuring: Whether one measures now.
    """

    def __init__(self, *, spare_cores: int, batch: int) -> None:
        self.building = 0
        self.measuring = False
        self._spare_cores = spare_cores
        self._batch = batch
        self._batch_is_built = False

    def is_measuring_phase(self, waiting: int) -> bool:
        """Whether what is built is being measured, on all cores.

        Args:
            waiting: Kernels that are built and could be measured.
        """
        return self.are_exclusive and (self.measuring or (self._batch_is_built and waiting > 0))

    @property
    def are_exclusive(self) -> bool:
        """Whether measuring needs all cores."""
        return self._spare_cores == 0

    def may_measure(self, *, queued: int, waiting: int) -> bool:
        """Whether a worker may begin to measure.

        Args:
            queued: Trials that are to be built.
            waiting: Kernels that are built and could be measured.
        """
        if self.measuring or self.building > self._spare_cores:
            return False
        return self._spare_cores > 0 or self._is_batch_built(queued, waiting)

    def may_build(self, *, queued: int, waiting: int) -> bool:
        """Whether a worker may begin to build; the arguments are those of `may_measure`."""
        if not queued:
            return False
        if self._spare_cores > 0:
            # Once there is something to measure, building leaves the cores for it.
            idle = not self.measuring and not waiting
            return idle or self.building < self._spare_cores
        return not self.measuring and not self._is_batch_built(queued, waiting)

    def _is_batch_built(self, queued: int, waiting: int) -> bool:
        if not waiting:
            self._batch_is_built = False
        elif not queued or waiting >= self._batch:
            self._batch_is_built = True
        return self._batch_is_built
