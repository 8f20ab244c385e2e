"""What a change of a provider's settings leaves behind: nothing, once the last answer is in."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import THOROUGH, wait_for
from support.bench import Bench, send
from support.signatures import KEYS, pem_of

from tocsin.delivery.lane import Lane, Lanes
from tocsin.outcome import Outcome
from tocsin.providers import BY_NAME
from tocsin.providers.credential import Credential

pytest_plugins = ("support.bench",)

CHANGES = 50 if THOROUGH else 12
EVERY = pytest.mark.parametrize("name", list(BY_NAME))
SIGNED = {"dkim_domain": "example.com", "dkim_selector": "s1", "dkim_key": pem_of(KEYS["rsa"])}


def count_open() -> tuple[int, int]:
    """The sockets and files of this process, the sandbox in it included, and the threads that sign."""
    signing = [thread for thread in threading.enumerate() if thread.name.startswith("dkim")]
    return len(list(Path("/proc/self/fd").iterdir())), len(signing)


async def come_down_to(files: int, threads: int) -> None:
    """Wait until no more than this is open."""
    await asyncio.to_thread(wait_for, lambda: count_open()[0] <= files and count_open()[1] <= threads)


def make_credential(bench: Bench, name: str, changed_at: float) -> Credential:
    """What the ledger holds of a provider."""
    options: dict[str, Any] = SIGNED if name == "smtp" else {}
    settings = json.loads(msgspec.json.encode(bench.settings(name, **options)))
    return Credential(account_id="a", name=name, settings=json.dumps(settings), trusted=False, changed_at=changed_at)


@EVERY
async def test_many_changes_leave_one_pool(bench: Bench, name: str) -> None:
    """Each provider has sent a message; in the end there are the connections and threads of the last one alone."""
    lanes = Lanes(bench.transport, time.time)

    async def change(number: int) -> Lane:
        lane = lanes.get(make_credential(bench, name, float(number)))
        assert (await lane.send(bench.message(name))).outcome is Outcome.ACCEPTED
        return lane

    await change(0)
    files, threads = count_open()
    for number in range(1, CHANGES + 1):
        lane = await change(number)
    await come_down_to(files, threads)
    assert (await lane.send(bench.message(name))).outcome is Outcome.ACCEPTED


@EVERY
async def test_what_is_under_way_gets_its_answer(bench: Bench, name: str) -> None:
    """Messages that are with the vendor when the settings change are answered; one that a worker hands to the old lane
    afterwards is sent; then nothing of it is open."""
    lanes = Lanes(bench.transport, time.time)
    await asyncio.to_thread(count_open)  # the loop's own thread for such waits is there from now on
    files, threads = count_open()
    old = lanes.get(make_credential(bench, name, 1.0))
    assert (await old.send(bench.message(name))).outcome is Outcome.ACCEPTED
    await bench.break_down(name, "delay", seconds=0.2, count=20)
    waiting = [asyncio.create_task(old.send(bench.message(name))) for _ in range(20)]
    await asyncio.sleep(0)
    new = lanes.get(make_credential(bench, name, 2.0))
    assert new is not old
    came = await asyncio.gather(*waiting, old.send(bench.message(name)))
    came.append(await old.send(bench.message(name)))
    assert {receipt.outcome for receipt in came} == {Outcome.ACCEPTED}
    counted = await bench.counts(name)
    assert (counted["accepted"], counted["duplicates"]) == (23, 0)
    assert new.provider is not None
    new.provider.retire()  # it has sent nothing
    await come_down_to(files, threads)


@EVERY
async def test_retired_twice_is_retired(bench: Bench, name: str) -> None:
    """It may be said again, before the first message too."""
    provider = bench.provider(name)
    for _ in range(2):
        provider.retire()
        assert (await send(provider, bench.message(name))).outcome is Outcome.ACCEPTED
    provider.retire()
