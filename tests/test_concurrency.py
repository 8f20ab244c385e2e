"""Slots of the worker pool: the ordinary, the urgent one, and those that are lent during a wait for a vendor."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from tocsin.delivery.concurrency import BORROW_AFTER_SECONDS, BORROWED_SLOTS, Slot, WorkerPool


class Office:
    """Work that goes on until the test says so."""

    def __init__(self, size: int, borrow_after: float = BORROW_AFTER_SECONDS):
        self.pool = WorkerPool(size, self._work, borrow_after)
        self.urgent = self.ordinary = self.waiting = 0
        self.gates: list[asyncio.Event] = []
        self.slow = False

    async def _work(self, slot: Slot) -> None:
        urgent = slot is Slot.URGENT
        name = "urgent" if urgent else "ordinary"
        setattr(self, name, getattr(self, name) + 1)
        gate = asyncio.Event()
        self.gates.append(gate)
        try:
            if self.slow and not urgent:
                async with self.pool.lending_slot():
                    self.waiting += 1
                    await gate.wait()
                    self.waiting -= 1
            else:
                await gate.wait()
        finally:
            setattr(self, name, getattr(self, name) - 1)

    def open(self) -> None:
        """Everybody who works now is done."""
        gates, self.gates = self.gates, []
        for gate in gates:
            gate.set()

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not true():  # noqa: ASYNC110 - turns of the loop, no time
                await asyncio.sleep(0)

    async def settle(self) -> None:
        """Everything that can happen without the clock has happened."""
        for _ in range(50):
            await asyncio.sleep(0)


@pytest.mark.parametrize("size", [1, 4])
async def test_so_many_and_one_for_urgent_ones(size: int) -> None:
    """The ordinary places are taken up to the size; the urgent one is never taken by ordinary work."""
    office = Office(size)
    running = asyncio.create_task(office.pool.run())
    await office.until(lambda: office.ordinary == size and office.urgent == 1)
    for _ in range(3):
        office.open()
        await office.settle()
        assert (office.ordinary, office.urgent) == (size, 1)
    office.pool.stop()
    office.open()
    await asyncio.wait_for(running, 10)
    assert (office.ordinary, office.urgent) == (0, 0)


async def test_slots_are_lent() -> None:
    """Who waits long lends its place, over and over, up to the bound; when the waiting ends so does the help."""
    office = Office(2, borrow_after=0.001)
    office.slow = True
    running = asyncio.create_task(office.pool.run())
    await office.until(lambda: office.pool._lent == 2 + BORROWED_SLOTS)  # everybody has asked for help
    await office.settle()
    assert (office.ordinary, office.urgent) == (2 + BORROWED_SLOTS, 1)

    office.slow = False
    office.open()
    await office.until(lambda: office.waiting == 0 and office.ordinary == 2)
    office.pool.stop()
    office.open()
    await asyncio.wait_for(running, 10)


async def test_nothing_is_lent_to_the_patient() -> None:
    """Waits shorter than the patience lend nothing."""
    office = Office(2)
    office.slow = True
    running = asyncio.create_task(office.pool.run())
    for _ in range(5):
        await office.until(lambda: office.waiting == 2)
        await office.settle()
        assert office.ordinary == 2
        office.open()
        await office.until(lambda: len(office.gates) == 3)
    office.pool.stop()
    office.open()
    await asyncio.wait_for(running, 10)
