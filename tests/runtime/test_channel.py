from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from tvm_iovt.runtime.channel import Channel, Turns


def later(call: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(call()))
    thread.start()
    time.sleep(0.05)
    return thread, found


def test_first_in_first_out() -> None:
    channel: Channel[int] = Channel(3)
    assert [channel.put(i) for i in range(3)] == [True] * 3
    assert [channel.get() for _ in range(3)] == [0, 1, 2]


def test_put_waits_for_room() -> None:
    channel: Channel[int] = Channel(1)
    channel.put(1)
    thread, found = later(lambda: channel.put(2))
    waiting, room = later(channel.wait_for_room)
    assert not found
    assert not room
    assert channel.get() == 1
    thread.join()
    assert found == [True]
    assert channel.get() == 2
    waiting.join()
    assert room == [True]


def test_get_waits_for_an_item_but_not_too_long() -> None:
    channel: Channel[int] = Channel(1)
    began_s = time.monotonic()
    assert channel.get(0.05) is None
    assert time.monotonic() - began_s >= 0.045
    thread, found = later(channel.get)
    assert not found
    channel.put(7)
    thread.join()
    assert found == [7]


def test_breaking_wakes_everybody_and_drops_the_items() -> None:
    full: Channel[int] = Channel(1)
    full.put(1)
    empty: Channel[int] = Channel(1)
    waiting = [later(lambda: full.put(2)), later(full.wait_for_room), later(empty.get)]
    full.break_()
    empty.break_()
    for thread, _ in waiting:
        thread.join(60)
        assert not thread.is_alive()
    assert [found for _, found in waiting] == [[False], [False], [None]]
    assert full.get() is None
    assert full.put(3) is False


def test_turns_come_in_order() -> None:
    turns = Turns(5)
    order: list[int] = []

    def take(number: int) -> None:
        if turns.wait(number):
            order.append(number)
            turns.advance()

    threads = [threading.Thread(target=take, args=(n,)) for n in (8, 6, 7, 5, 10)]
    for thread in threads:
        thread.start()
        time.sleep(0.01)
    deadline_s = time.monotonic() + 60
    while len(order) < 4 and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert order == [5, 6, 7, 8]
    turns.break_()  # 9 does not come
    threads[-1].join(60)
    assert not threads[-1].is_alive()
    assert order == [5, 6, 7, 8]
    assert turns.wait(9) is False
