"""What a change of a provider's settings leaves behind: nothing, once the last answer is in."""

from __future__ import annotations

import asyncio
import functools
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

from tocsin.content import read_content
from tocsin.delivery.batch import Batch, BatchContext, PendingMessage
from tocsin.delivery.handover import NoteFile
from tocsin.delivery.outgoing import Answers, OutgoingLane, OutgoingLanes, make_provider
from tocsin.delivery.push_id import Secrets
from tocsin.outcome import Outcome
from tocsin.providers import BY_NAME
from tocsin.providers.contract import Credential

pytest_plugins = ("support.bench",)

SECRETS = Secrets(b"message", b"signing")
CHANGES = 50 if THOROUGH else 12
EVERY = pytest.mark.parametrize("name", list(BY_NAME))
CHANNEL_OF = {"smtp": "email", "sms": "sms", "webpush": "webpush", "vapid": "webpush"}
CONTENTS: dict[str, dict[str, Any]] = {
    "push": {"title": "Hi", "body": "there"},
    "email": {"subject": "Hi", "body": "<p>there</p>"},
    "sms": {"body": "Hi"},
    "webpush": {"title": "Hi", "body": "there", "platform_specific": {"chrome": {"deep_link": "https://x.example/"}}},
}
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


class Track:
    """The lanes of a sender in this process, and what they report."""

    def __init__(self, bench: Bench, folder: Path):
        self.bench = bench
        self.notes = NoteFile(folder / "notes", "boot")
        make = functools.partial(make_provider, bench.transport)
        self.answers = Answers()
        self.lanes = OutgoingLanes(make, self.notes, lambda: self.answers, time.time)

    def put(self, lane: OutgoingLane, name: str, count: int = 1) -> None:
        """Queue messages whose content is the bench's."""
        message = self.bench.message(name)
        channel = CHANNEL_OF.get(name, "push")
        content = msgspec.json.encode(read_content(CONTENTS[channel], channel))
        context = BatchContext("a", 1, content, "1_20260101", "c", time.time() + 3600, "https://example.com", SECRETS)
        slots = [self.notes.claim(1, number, 0) for number in range(count)]
        pending = [PendingMessage(number, 0, message.address) for number in range(count)]
        lane.put(Batch(BY_NAME[name].platform, [context], [0] * count, slots, pending))

    async def send(self, lane: OutgoingLane, name: str) -> None:
        """Send one message, which is accepted."""
        before = len(self.answers.accepted)
        self.put(lane, name)
        await self.accepted(before + 1)

    async def accepted(self, count: int) -> None:
        """Wait until so many were accepted, and nothing else came."""
        await asyncio.to_thread(wait_for, lambda: len(self.answers.accepted) >= count)
        assert (self.answers.answered, self.answers.held) == ([], [])


@EVERY
async def test_many_changes_leave_one_pool(bench: Bench, name: str, tmp_path: Path) -> None:
    """Each provider has sent a message; in the end there are the connections and threads of the last one alone."""
    track = Track(bench, tmp_path)

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
    track = Track(bench, tmp_path)
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
