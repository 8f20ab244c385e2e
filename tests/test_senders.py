"""Senders: the processes that send. They come and go with the server; one that dies takes only what is on the wire."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Caller, Sandbox, Server, people, wait_for
from support.processes import children, command

from tocsin.delivery import sender_pool
from tocsin.delivery.batch import BatchContext, PendingMessage
from tocsin.delivery.handover import HandoverFolder
from tocsin.delivery.lane import Lane, Outgoing
from tocsin.delivery.push_id import Secrets
from tocsin.delivery.retry import Decision, RetryPolicy, decide
from tocsin.delivery.sender_pool import LOST, NOT_SENT, TOO_LONG, SenderProcess
from tocsin.outcome import State
from tocsin.providers.contract import Address, Credential, Receipt

UNSEEN = 5  # libcurl reads several bodies before it writes them in one piece, and a kill may come between


def begin(server: Server, sandbox: Sandbox, count: int, **fields: object) -> tuple[Caller, int]:
    caller = server.account()
    server.use_sandbox(caller, sandbox)
    caller.upload(*people(count, wns_port=sandbox.port + 3))
    return caller, caller.create(**fields)


def accepted(sandbox: Sandbox) -> int:
    return sum(one["accepted"] for one in sandbox.counts().values())


def accepted_with(sandbox: Sandbox, title: str) -> int:
    """Messages with a title; without what an earlier test's server had on the wire when it was killed."""
    return sum(title in str(one["body"]) for vendor in ("fcm", "apns", "wns") for one in sandbox.messages(vendor))


@pytest.mark.timeout(200)
@pytest.mark.parametrize("on_crash", ["report", "resend"])
def test_a_sender_dies(start_small: Callable[[int], Server], sandbox: Sandbox, on_crash: str) -> None:
    """The server goes on with a new one. What the dead one had on the wire is unknown, or sent again; what it had not
    handed over another sends."""
    for vendor in ("fcm", "apns", "wns"):
        sandbox.fault(vendor=vendor, kind="delay", seconds=1)
    server = start_small(2)
    title = f"one sender of two dies: {on_crash}"
    content = {"title": title, "body": "there"}
    caller, campaign = begin(server, sandbox, 600, on_crash=on_crash, content=content)
    wait_for(lambda: accepted(sandbox) >= 50)
    before = children(server.process.pid)
    assert len(before) == 2
    os.kill(before[0], signal.SIGKILL)
    wait_for(lambda: before[0] not in children(server.process.pid) and len(children(server.process.pid)) == 2)
    sandbox.control.call("DELETE", "/faults")
    result = caller.result(campaign)

    assert server.process.poll() is None
    assert result["audience"] == 600 == sum(result[name] for name in ("sent", "unknown", "failed", "suppressed"))
    counts = sandbox.counts().values()
    if on_crash == "resend":
        assert result["sent"] == 600
        assert accepted_with(sandbox, title) - sum(one["duplicates"] for one in counts) == 600
    else:
        assert result["unknown"] > 0
        assert result["sent"] + result["unknown"] == 600
        assert sum(one["duplicates"] for one in counts) == 0
        assert 600 - UNSEEN <= accepted_with(sandbox, title) <= 600
    assert server.stop() == 0


@pytest.mark.parametrize("senders", [0, 2])
def test_who_sends_makes_no_difference(start_small: Callable[[int], Server], sandbox: Sandbox, senders: int) -> None:
    """One campaign over all vendors, with an error that is always the same: the numbers do not depend on who sends."""
    sandbox.fault(vendor="fcm", kind="status", status=404, code="UNREGISTERED", count=3)
    server = start_small(senders)
    caller, campaign = begin(server, sandbox, 300)
    result = caller.result(campaign)

    assert (result["sent"], result["failed"], result["unknown"], result["suppressed"]) == (297, 3, 0, 0)
    assert {vendor: one["accepted"] for vendor, one in sandbox.counts().items()} == {
        **{"fcm": 97, "apns": 100, "wns": 100},
        "smtp": 0,
        "webhook": 0,
        "vapid": 0,
    }
    assert len(children(server.process.pid)) == senders
    assert server.stop() == 0


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_no_sender_outlives_its_server(start_small: Callable[[int], Server], sandbox: Sandbox, how: str) -> None:
    """After SIGTERM they have sent what was under way; after SIGKILL their pipe is closed, and they end."""
    sandbox.fault(vendor="fcm", kind="delay", seconds=0.5)
    server = start_small(2)
    _caller, _campaign = begin(server, sandbox, 300)
    wait_for(lambda: accepted(sandbox) >= 20)
    senders = children(server.process.pid)
    assert senders
    if how == "stop":
        assert server.stop() == 0
    else:
        server.kill()
    wait_for(lambda: not any(b"tocsin.delivery.sender" in command(one) for one in senders))


class Receipts:
    """Who waits for messages; what came of each."""

    def __init__(self) -> None:
        self.by_position: dict[int, Receipt | None] = {}
        self.all = asyncio.Event()

    def collect(self, message: Outgoing, receipt: Receipt | None) -> None:
        self.by_position[message.message.position] = receipt
        if len(self.by_position) == 3:
            self.all.set()


async def test_a_sender_that_says_nothing_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose message it hangs in rendering is refused, and not tried on the next sender; the others beside it are not
    lost: they go again, as if nothing had been."""
    monkeypatch.setattr(sender_pool, "SILENT_SECONDS", 0.1)
    monkeypatch.setattr(sender_pool, "TROUBLE_SECONDS", 0.0)
    folder = HandoverFolder(tmp_path, "me")
    came_back = asyncio.Event()
    sender = SenderProcess(folder, 8, came_back.set)
    await sender.start()
    came_back.clear()
    [pid] = children(os.getpid())
    os.kill(pid, signal.SIGSTOP)
    credential = Credential("a", "webhook", "{}", 1.0)
    lane, receipts = Lane(credential, [sender], time.time), Receipts()
    context = BatchContext("a", 1, b"{}", "", "", 0.0, "", Secrets(b"message", b"signing"))
    address = Address(kind="sms", value="1")
    messages = [Outgoing(lane, "sms", context, PendingMessage(position, 0, address), receipts) for position in range(3)]
    sender.claim(messages)
    lane.send([(sender, messages)], urgent=False)
    assert messages[1].notes is not None
    messages[1].notes.render(messages[1].slot)
    messages[2].notes.hand_over(messages[2].slot)  # type: ignore[union-attr]
    async with asyncio.timeout(30):
        while not receipts.all.is_set():
            sender.check()
            await asyncio.sleep(0.02)
        await came_back.wait()
    assert receipts.by_position == {0: NOT_SENT, 1: TOO_LONG, 2: LOST}
    assert lane.paused_until == 0.0
    rules = RetryPolicy(10.0, 0)
    assert decide(NOT_SENT, 0, 1.0, 100.0, rules, 0.5) == Decision(State.WAITING, 0, 2.0)
    await sender.aclose()
    folder.close(settled=False)
