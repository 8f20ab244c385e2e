"""Names of relays: looked up once for a connection, in threads of their own, and never into a private network where a
dashboard named the relay."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from typing import Any

import pytest

from tocsin.dashboard.credentials import check_relay
from tocsin.dashboard.form_entry import FormMistake
from tocsin.dashboard.texts import ENGLISH
from tocsin.providers.mail import lookup
from tocsin.providers.mail.lookup import find_addresses
from tocsin.providers.mail.wire import SmtpStream


class Resolver:
    """A resolver that answers by rote, each name with its answers in turn; a name without any is waited for."""

    def __init__(self, **answers: list[str]):
        self.answers = answers
        self.asked: list[str] = []
        self.answering = threading.Event()

    def __call__(self, host: str, *_: Any, **__: Any) -> list[Any]:
        self.asked.append(host)
        name = host.partition(".")[0]
        if name not in self.answers:
            assert self.answering.wait(60)
            return [(2, 1, 6, "", ("192.0.2.9", 0))]
        return [(2, 1, 6, "", (self.answers[name].pop(0), 0))]


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    found = Resolver(rebound=["8.8.8.8", "127.0.0.1"], inner=["10.0.0.1"], here=["127.0.0.1"])
    monkeypatch.setattr(socket, "getaddrinfo", found)
    return found


async def test_one_answer_is_checked_and_connected_to(resolver: Resolver) -> None:
    """A name that is public when it is looked at and this machine when it is connected to leads nowhere inside."""
    assert await find_addresses("rebound.example.com", public=True) == ["8.8.8.8"]
    with pytest.raises(OSError, match="private network"):
        await find_addresses("rebound.example.com", public=True)
    with pytest.raises(OSError, match="private network"):
        await SmtpStream.connect("inner.example.com", 25, public=True)
    assert len(resolver.asked) == 3


async def test_a_connection_asks_once(resolver: Resolver) -> None:
    """The address that was found is connected to, without another question."""
    writers: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
    server = await asyncio.start_server(lambda _, writer: writers.put_nowait(writer), "127.0.0.1", 0)
    wire = await SmtpStream.connect("here.example.com", server.sockets[0].getsockname()[1])
    async with asyncio.timeout(10):
        writer = await writers.get()
    wire.abort("done")
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    server.close()
    assert resolver.asked == ["here.example.com"]


async def test_a_name_that_is_not_answered_holds_up_nobody(resolver: Resolver) -> None:
    """However many connections wait for it, it holds one thread; another relay's name is found meanwhile, and who gives
    up takes the answer from nobody."""
    slow = [asyncio.create_task(find_addresses("slow.example.com", public=False)) for _ in range(64)]
    async with asyncio.timeout(10):
        assert await find_addresses("here.example.com", public=False) == ["127.0.0.1"]
        for task in slow[1::2]:
            task.cancel()
        resolver.answering.set()
        assert await asyncio.gather(*slow[::2]) == [["192.0.2.9"]] * 32
    assert resolver.asked.count("slow.example.com") == 1


async def test_names_that_are_not_answered_hold_up_no_others(
    resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many names wait for servers that are silent, another is found meanwhile. Those that were slow before have
    a share, and beyond it are refused at once."""
    resolver.answers |= {"there": ["127.0.0.1"]}
    now = [0.0]
    monkeypatch.setattr(lookup, "monotonic", lambda: now[0], raising=False)
    names = [f"silent{number}.example.com" for number in range(100)]
    async with asyncio.timeout(20):
        first = [asyncio.create_task(find_addresses(name, public=False)) for name in names]
        await asyncio.sleep(0)
        assert await find_addresses("here.example.com", public=False) == ["127.0.0.1"]
        now[0] += 10
        resolver.answering.set()
        assert await asyncio.gather(*first) == [["192.0.2.9"]] * 100
        resolver.answering.clear()
        again = [asyncio.create_task(find_addresses(name, public=False)) for name in names]
        await asyncio.sleep(0)
        assert await find_addresses("there.example.com", public=False) == ["127.0.0.1"]
        resolver.answering.set()
        found = await asyncio.gather(*again, return_exceptions=True)
    refused = [one for one in found if isinstance(one, OSError)]
    assert len(refused) == 100 - lookup.SLOW_THREADS
    assert "too many names wait" in str(refused[0])


async def test_forms_with_names_that_are_not_answered_hold_up_no_others(resolver: Resolver) -> None:
    """A relay that an admin names is looked up at once, whatever those of other accounts' forms wait for."""
    silent = [asyncio.create_task(check_relay(f"mute{number}.example.com", 587)) for number in range(10)]
    await asyncio.sleep(0)
    with pytest.raises(FormMistake) as caught:
        await check_relay("inner.example.com", 587)
    assert ENGLISH.inner_host in caught.value.args
    resolver.answering.set()
    await asyncio.gather(*silent, return_exceptions=True)
