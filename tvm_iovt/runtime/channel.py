"""What the threads of a pipeline wait for each other with: bounded queues, and taking turns."""

from __future__ import annotations

import contextlib
import queue
import threading
from typing import Generic, TypeVar

T = TypeVar("T")


class Channel(Generic[T]):
    """A bounded first-in-first-out queue that can be broken, which wakes all who wait.

    A frame passes one for each stage, so it costs little: two queues of the standard library's C
    code, one of the items and one of the places that are free.

    Args:
        capacity: Items that wait in it at most.
    """

    def __init__(self, capacity: int) -> None:
        self._items: queue.SimpleQueue[T | None] = queue.SimpleQueue()
        self._places: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._broken = False
        for _ in range(capacity):
            self._places.put(None)

    def wait_for_room(self) -> bool:
        """Wait until `put` would not; False if the channel is broken."""
        self._places.get()
        self._places.put(None)
        return not self._broken

    def put(self, item: T) -> bool:
        """Wait for room and add an item; False if the channel is broken, and the item dropped."""
        self._places.get()
        if self._broken:
            self._places.put(None)  # for the next one who waits
            return False
        self._items.put(item)
        return self._may_stay()

    def get(self, timeout_s: float | None = None) -> T | None:
        """Wait for an item and take it; None if the channel is broken or the time is over."""
        try:
            item = self._items.get(timeout=timeout_s)
        except queue.Empty:
            return None
        if self._broken:
            self._items.put(None)  # for the next one who waits
            return None
        self._places.put(None)
        return item

    def break_(self) -> None:
        """Drop all items and let nobody wait any more."""
        self._broken = True
        self._drop_items()
        self._places.put(None)

    def _may_stay(self) -> bool:
        """Whether the channel is still whole; if not, nobody would take out what was added."""
        if self._broken:
            self._drop_items()
        return not self._broken

    def _drop_items(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self._items.get_nowait()
        self._items.put(None)


class Turns:
    """Numbers have their turn one after the other: who holds one waits for those before it.

    Args:
        first: The number whose turn it is.
    """

    def __init__(self, first: int) -> None:
        self._next = first
        self._broken = False
        self._changed = threading.Condition()

    def wait(self, number: int) -> bool:
        """Wait for a number's turn; False if it will never come."""
        if self._next == number:  # nobody else can end that turn
            return not self._broken
        with self._changed:
            self._changed.wait_for(lambda: self._broken or self._next == number)
            return not self._broken

    def advance(self) -> None:
        """End the turn; called by who has it."""
        with self._changed:
            self._next += 1
            self._changed.notify_all()

    def break_(self) -> None:
        """Nobody gets a turn any more."""
        with self._changed:
            self._broken = True
            self._changed.notify_all()
