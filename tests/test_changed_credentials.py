"""What a change of a provider's settings leaves behind: nothing, once the last answer is in."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
from conftest import THOROUGH, wait_for
from support.bench import Bench, send
from support.sender_here import SenderHere, make_credential

from tocsin.delivery.outgoing import OutgoingLane
from tocsin.outcome import Outcome
from tocsin.providers import BY_NAME

pytest_plugins = ("support.bench",)

CHANGES = 50 if THOROUGH else 12
EVERY = pytest.mark.parametrize("name", list(BY_NAME))


def count_open() -> tuple[int, int]:
    """The sockets and files of this process, the sandbox in it included, and the threads that sign."""
    signing = [thread for thread in threading.enumerate() if thread.name.startswith("dkim")]
    return len(list(Path("/proc/self/fd").iterdir())), len(signing)


async def come_down_to(files: int, threads: int) -> None:
    """Wait until no more than this is open."""
    await asyncio.to_thread(wait_for, lambda: count_open()[0] <= files and count_open()[1] <= threads)


@EVERY
async def test_many_changes_leave_one_pool(bench: Bench, name: str, tmp_path: Path) -> None:
    """Each provider has sent a message; in the end there are the connections and threads of the last one alone."""
    track = SenderHere(bench, tmp_path)

    async def change(number: int) -> OutgoingLane:
        lane = track.lanes.get(make_credential(bench, name, float(number)))
        await track.send(lane, name)
        return lane

    await change(0)
    files, threads = count_open()
    for number in range(1, CHANGES + 1):
        lane = await change(number)
    await come_down_to(files, threads)
    await track.send(lane, name)
    await track.lanes.aclose()


@EVERY
async def test_what_is_under_way_gets_its_answer(bench: Bench, name: str, tmp_path: Path) -> None:
    """Messages that are with the vendor when the settings change are answered; one that a worker hands to the old lane
    afterwards is sent; then nothing of it is open."""
    track = SenderHere(bench, tmp_path)
    await asyncio.to_thread(count_open)  # the loop's own thread for such waits is there from now on
    files, threads = count_open()
    old = track.lanes.get(make_credential(bench, name, 1.0))
    await track.send(old, name)
    await bench.break_down(name, "delay", seconds=0.2, count=20)
    track.put(old, name, 20)
    await asyncio.sleep(0)
    new = track.lanes.get(make_credential(bench, name, 2.0))
    assert new is not old
    track.put(old, name)
    await track.accepted(22)
    await track.send(old, name)
    counted = await bench.counts(name)
    assert counted["accepted"] == 23
    new.retire()  # it has sent nothing
    await come_down_to(files, threads)
    await old.aclose()


@EVERY
async def test_retired_twice_is_retired(bench: Bench, name: str) -> None:
    """It may be said again, before the first message too."""
    provider = bench.provider(name)
    for _ in range(2):
        provider.retire()
        assert (await send(provider, bench.message(name))).outcome is Outcome.ACCEPTED
    provider.retire()
