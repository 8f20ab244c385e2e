"""The lanes of a sender in this process, over the sandbox."""

from __future__ import annotations

import asyncio
import functools
import json
import time
from pathlib import Path
from typing import Any

import msgspec
from conftest import wait_for

from support.bench import Bench
from support.signatures import KEYS, pem_of
from tocsin.content import read_content
from tocsin.delivery.batch import Batch, BatchContext, PendingMessage
from tocsin.delivery.handover import NoteFile
from tocsin.delivery.outgoing import Answers, OutgoingLane, OutgoingLanes, make_provider
from tocsin.delivery.push_id import Secrets
from tocsin.providers import BY_NAME
from tocsin.providers.credential import Credential

SECRETS = Secrets(b"message", b"signing")
CHANNEL_OF = {"smtp": "email", "sms": "sms", "webpush": "webpush"}
CONTENTS: dict[str, dict[str, Any]] = {
    "push": {"title": "Hi", "body": "there"},
    "email": {"subject": "Hi", "body": "<p>there</p>"},
    "sms": {"body": "Hi"},
    "webpush": {"title": "Hi", "body": "there", "platform_specific": {"chrome": {"deep_link": "https://x.example/"}}},
}
SIGNED = {"dkim_domain": "example.com", "dkim_selector": "s1", "dkim_key": pem_of(KEYS["rsa"])}


def make_credential(bench: Bench, name: str, changed_at: float) -> Credential:
    """What the ledger holds of a provider."""
    options: dict[str, Any] = SIGNED if name == "smtp" else {}
    settings = json.loads(msgspec.json.encode(bench.settings(name, **options)))
    return Credential(account_id="a", name=name, settings=json.dumps(settings), trusted=False, changed_at=changed_at)


class SenderHere:
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
