"""The server's event loop: whatever another thread hands over is run at once, and no thread wakes it for nothing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from tocsin.api.server_loop import ServerLoop

PATIENCE = 20.0  # seconds, for what takes some microseconds


@pytest.fixture
def loop() -> Iterator[ServerLoop]:
    loop = ServerLoop()
    yield loop
    loop.close()


def test_a_sleeping_loop_is_woken(loop: ServerLoop) -> None:
    """Each of three threads hands over one thing, waits until it was run, and hands over the next: whenever the loop is
    about to sleep, sleeps or wakes, none waits for another one's."""
    late: list[int] = []

    def play() -> None:
        for number in range(2000):
            done = threading.Event()
            loop.call_soon_threadsafe(done.set)
            if not done.wait(PATIENCE):
                late.append(number)
                return

    async def main() -> None:
        await asyncio.gather(*(asyncio.to_thread(play) for _ in range(3)))

    loop.run_until_complete(asyncio.wait_for(main(), 2 * PATIENCE))
    assert late == []


def test_one_that_is_awake_is_not(loop: ServerLoop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand things that come while it runs are all run next, and cost no byte through its socket."""
    written, ran = list[int](), list[int]()
    wake = asyncio.SelectorEventLoop._write_to_self  # type: ignore[attr-defined]

    def count(self: ServerLoop) -> None:
        written.append(1)
        wake(self)

    monkeypatch.setattr(asyncio.SelectorEventLoop, "_write_to_self", count)

    def hand_over() -> None:
        for number in range(1000):
            loop.call_soon_threadsafe(ran.append, number)

    async def main() -> None:
        await asyncio.sleep(0)
        thread = threading.Thread(target=hand_over)
        thread.start()
        thread.join()  # the loop is in the middle of this
        assert (ran, written) == ([], [])
        await asyncio.sleep(0)
        assert ran == list(range(1000))
        await asyncio.sleep(0.01)

    loop.run_until_complete(asyncio.wait_for(main(), PATIENCE))
    assert written == []
