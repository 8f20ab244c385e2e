"""Senders: the processes that send. They come and go with the server; one that dies takes only what is on the wire."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Caller, Sandbox, Server, people, wait_for

UNSEEN = 5  # libcurl reads several bodies before it writes them in one piece, and a kill may come between


def children(pid: int) -> list[int]:
    """The senders of a server, as the kernel knows them."""
    found: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # a thread ended meanwhile
            found += map(int, path.read_text().split())
    return [one for one in found if b"tocsin.delivery.sender" in command(one)]


def command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return b""


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
