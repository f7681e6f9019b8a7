"""Schedules that were found by measuring, as a build asks for them."""

from __future__ import annotations

from typing import Any, Protocol


class TunedSchedules(Protocol):
    """Knows schedules of some kernels."""

    def scheduled(self, function: Any) -> tuple[Any, str] | None:
        """The scheduled form of an unscheduled PrimFunc.

        Args:
            function: The PrimFunc; one that writes into a border leaves that alone.

        Returns:
            The function, scheduled, and where it comes from in a few words; None if it is not
            known, or no better than what there is without tuning.
        """
        ...
