"""What the threads of a pipeline wait for each other with: bounded queues, and taking turns."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Channel(Generic[T]):
    """A bounded first-in-first-out queue that can be broken, which wakes all who wait.

    Args:
        capacity: Items that wait in it at most.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._items: deque[T] = deque()
        self._broken = False
        lock = threading.Lock()
        self._filled = threading.Condition(lock)
        self._drained = threading.Condition(lock)

    def wait_for_room(self) -> bool:
        """Wait until `put` would not; False if the channel is broken."""
        with self._drained:
            self._drained.wait_for(self._has_room)
            return not self._broken

    def put(self, item: T) -> bool:
        """Wait for room and add an item; False if the channel is broken, and the item dropped."""
        with self._drained:
            self._drained.wait_for(self._has_room)
            if not self._broken:
                self._items.append(item)
                self._filled.notify()
            return not self._broken

    def get(self, timeout_s: float | None = None) -> T | None:
        """Wait for an item and take it; None if the channel is broken or the time is over."""
        with self._filled:
            self._filled.wait_for(self._has_item, timeout_s)
            if self._broken or not self._items:
                return None
            item = self._items.popleft()
            self._drained.notify()
            return item

    def break_(self) -> None:
        """Drop all items and let nobody wait any more."""
        with self._filled:
            self._broken = True
            self._items.clear()
            self._filled.notify_all()
            self._drained.notify_all()

    def _has_room(self) -> bool:
        return self._broken or len(self._items) < self._capacity

    def _has_item(self) -> bool:
        return self._broken or bool(self._items)


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
