"""A message is noted as handed over before a peer can have got it, and not while the peer certainly has not."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from support.bench import Bench

from tocsin.outcome import Outcome
from tocsin.providers.http.multi import BURST
from tocsin.providers.transport import HttpPost, MailTransfer, Server, Transport, VendorAnswer

pytest_plugins = ("support.bench",)

Peer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(peer: Peer) -> AsyncIterator[int]:
    """A peer on this machine, by its port. It hangs up when `peer` returns."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await peer(reader, writer)
        writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, limit=1_000_000)
    yield server.sockets[0].getsockname()[1]
    server.close()


class Note:
    """Whether a message is noted, and whether it was when the peer had all of it."""

    def __init__(self) -> None:
        self.times = 0
        self.at_the_peer: list[bool] = []

    def hand_over(self) -> None:
        self.times += 1

    def arrive(self) -> None:
        self.at_the_peer.append(bool(self.times))


def http_peer(note: Note, until: str) -> Peer:
    """A peer of HTTP/1.1 that hangs up at a point."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if until == "accept":
            return
        await reader.readuntil(b"\r\n\r\n")
        if until == "head":
            return
        await reader.readexactly(4)
        note.arrive()
        if until == "body":
            return
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        await reader.read()

    return talk


async def post(port: int, note: Note, *, secure: bool = False, patience: float = 5.0) -> VendorAnswer:
    request = HttpPost(
        url=f"{'https' if secure else 'http'}://127.0.0.1:{port}/",
        headers=("content-type: text/plain",),
        body=b"body",
        version="2" if secure else "1.1",
        timeout=patience,
    )
    async with Transport() as transport:
        return await transport.pool().request(request, note.hand_over)


@pytest.mark.parametrize("until", ["accept", "head", "body", "answer"])
async def test_http1(until: str) -> None:
    """Whatever the peer has read, the note was there before; without a note the message is certainly unsent."""
    note = Note()
    async with listening(http_peer(note, until)) as port:
        answer = await post(port, note)
    assert all(note.at_the_peer)
    assert bool(note.at_the_peer) is (until in ("body", "answer"))
    assert (answer.status == 200) is (until == "answer")
    if not note.times:
        assert answer.failure == "unsent"
    if answer.failure == "unknown":
        assert note.times


async def test_http_peer_that_reads_nothing() -> None:
    """The kernel has the bytes, and would deliver them after our death."""
    note, end = Note(), asyncio.Event()

    async def hold(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await end.wait()

    async with listening(hold) as port:
        answer = await post(port, note, patience=0.2)
        end.set()
    assert (answer.failure, note.times) == ("unknown", 1)


@pytest.mark.parametrize("secure", [False, True])
async def test_refused_connection_notes_nothing(secure: bool) -> None:
    note = Note()
    async with listening(http_peer(note, "accept")) as port:
        pass
    answer = await post(port, note, secure=secure)
    assert (answer.failure, note.times) == ("unsent", 0)


async def test_handshake_that_never_ends_notes_nothing() -> None:
    note, end = Note(), asyncio.Event()

    async def hold(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await end.wait()

    async with listening(hold) as port:
        answer = await post(port, note, secure=True, patience=0.2)
        end.set()
    assert (answer.failure, note.times) == ("unsent", 0)


STEPS = ["accept", "EHLO", "MAIL", "RCPT", "DATA", "the mail", "answer"]


def smtp_peer(note: Note, until: str) -> Peer:
    """A relay that hangs up in place of its answer to a step."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if until == "accept":
            return
        writer.write(b"220 hello\r\n")
        for step, reply in (("EHLO", b"250 hello\r\n"), ("MAIL", b"250 ok\r\n"), ("RCPT", b"250 ok\r\n")):
            await reader.readuntil(b"\r\n")
            if until == step:
                return
            writer.write(reply)
        await reader.readuntil(b"\r\n")
        if until == "DATA":
            return
        assert not note.times, "noted before the relay has asked for the mail"
        writer.write(b"354 go on\r\n")
        await reader.readuntil(b"\r\n.\r\n")
        note.arrive()
        if until == "the mail":
            return
        writer.write(b"250 taken\r\n")
        await reader.read()

    return talk


@pytest.mark.parametrize("size", [100, 300_000], ids=["small", "large"])
@pytest.mark.parametrize("until", STEPS)
async def test_smtp(until: str, size: int) -> None:
    """Noted from the moment the end of the mail can leave, and not before the relay has agreed to take it."""
    note = Note()
    envelope = MailTransfer(sender="a@b.c", recipient="d@e.f", body=b"Subject: x\r\n\r\n" + b"line\r\n" * (size // 6))
    async with listening(smtp_peer(note, until)) as port, Transport() as transport:
        relay = transport.relay(Server(host="127.0.0.1", port=port, hello="h", tls="none"))
        answer = await relay.mail(envelope, note.hand_over)
    assert all(note.at_the_peer)
    reached = until in ("the mail", "answer")
    assert (bool(note.at_the_peer), bool(note.times)) == (reached, reached)
    expected = {"the mail": "unknown", "answer": ""}.get(until, "unsent")
    assert answer.failure == expected


@pytest.mark.parametrize("kind", ["", "status", "cut", "goaway", "refuse", "hang"])
@pytest.mark.parametrize("name", ["fcm", "apns", "wns", "smtp"])
async def test_every_provider_notes(bench: Bench, name: str, kind: str) -> None:
    """What the vendor has accepted, and what is unknown, is noted. A relay that turns a mail away at MAIL has not got
    it."""
    note = Note()
    provider = bench.provider(name, timeout=0.5 if kind == "hang" else 10.0)
    if kind:
        await bench.break_down(name, kind, **({"status": 550 if name == "smtp" else 400} if kind == "status" else {}))
    receipt = await provider.send(bench.message(name), time.time(), note.hand_over)
    if (await bench.counts(name))["accepted"] or receipt.outcome in (Outcome.ACCEPTED, Outcome.UNKNOWN):
        assert note.times
    if not note.times:
        assert (name, receipt.outcome) == ("smtp", Outcome.UNAVAILABLE)


@pytest.mark.parametrize("name", ["fcm", "wns"])
async def test_without_an_access_token_nothing_is_noted(bench: Bench, name: str) -> None:
    note = Note()
    await bench.break_down(name, "cut", of="token")
    receipt = await bench.provider(name).send(bench.message(name), time.time(), note.hand_over)
    assert (receipt.outcome, note.times) == (Outcome.UNAVAILABLE, 0)


async def test_few_are_noted_at_once(bench: Bench) -> None:
    """Those whose bytes are still with us when they are noted are those that a kill makes unknown for nothing."""
    provider = bench.provider("fcm")
    await provider.send(bench.message("fcm"), time.time())  # opens the connection
    noted: list[int] = []
    turn = 0

    async def count_turns() -> None:
        nonlocal turn
        while len(noted) < 90:
            turn += 1
            await asyncio.sleep(0)

    sent = [provider.send(bench.message("fcm"), time.time(), lambda: noted.append(turn)) for _ in range(90)]
    receipts, _ = await asyncio.gather(asyncio.gather(*sent), count_turns())
    assert {one.outcome for one in receipts} == {Outcome.ACCEPTED}
    assert max(Counter(noted).values()) <= BURST
