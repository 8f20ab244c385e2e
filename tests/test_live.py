"""A running campaign's page is sent as it changes: once read for all who watch, bounded, and ended with the session."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import re
import time
from collections.abc import Callable, Iterator

import pytest
from conftest import Caller, Sandbox, Server, people, wait_for
from support.browser import Browser, join, unique

from tocsin.api.broadcasts import WATCHING_EACH, Broadcasts
from tocsin.dashboard.campaigns import Lists
from tocsin.dashboard.queries import CampaignLine, Figures, Groups, Overview


class Stream:
    """The events of a campaign, as a browser reads them."""

    def __init__(self, browser: Browser, campaign: int):
        self.connection = http.client.HTTPConnection("127.0.0.1", browser.port, timeout=30)
        self.connection.request("GET", f"/dashboard/campaigns/{campaign}/stream", headers=browser.headers)
        self.answer = self.connection.getresponse()

    def next(self) -> str:
        """The next event; nothing at the end."""
        event = b""
        while not event.endswith(b"\n\n") and (line := self.answer.readline()):
            event += line
        return event.decode()

    def rest(self) -> list[str]:
        """The events up to the end."""
        return list(iter(self.next, ""))

    def close(self) -> None:
        self.answer.close()
        self.connection.close()


@pytest.fixture
def watch() -> Iterator[Callable[[Browser, int], Stream]]:
    """Opens streams, which are closed in the end."""
    with contextlib.ExitStack() as opened:
        yield lambda browser, campaign: opened.enter_context(contextlib.closing(Stream(browser, campaign)))


def test_numbers_come_as_they_change_until_it_is_over(
    server: Server, sending: Caller, sandbox: Sandbox, watch: Callable[[Browser, int], Stream]
) -> None:
    sending.upload(*people(3, kinds=("fcm",)))
    sandbox.fault(vendor="fcm", kind="delay", seconds=1.5)
    browser = join(server, sending, "viewer", unique("vi", sending))
    campaign = sending.create(name="Slow <b>")

    stream = watch(browser, campaign)
    assert (stream.answer.status, stream.answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert (stream.answer.headers["x-accel-buffering"], stream.answer.headers["cache-control"]) == ("no", "no-store")
    events = stream.rest()

    assert "Slow &lt;b&gt;" in events[0]
    assert "pill completed" not in events[0]
    assert "pill completed" in events[-2]
    assert "<dd>3</dd>" in events[-2]
    assert events[-1].startswith("event: over")
    page = browser.look(f"/dashboard/campaigns/{campaign}")[1]
    assert "hx-sse:connect" not in page  # there is nothing left to wait for


def test_a_report_is_seen_within_two_seconds(
    server: Server, sending: Caller, sandbox: Sandbox, watch: Callable[[Browser, int], Stream]
) -> None:
    """While its campaign still runs, in the stream of its page."""
    sending.upload(*people(2, kinds=("fcm", "apns")))
    sandbox.fault(vendor="apns", kind="delay", seconds=10)
    browser = join(server, sending, "viewer", unique("vi", sending))
    campaign = sending.create()
    stream = watch(browser, campaign)
    message = wait_for(lambda: next(iter(sandbox.messages("fcm")), None))
    push_id = message["body"]["message"]["data"]["wzrk_pid"]
    said = time.monotonic()
    assert sending.post("/track/viewed", {"id": push_id})[0] == 200
    event = next(one for one in iter(stream.next, "") if re.search(r"<dt>Viewed</dt>\s*<dd>1\b", one))
    assert time.monotonic() - said < 2
    assert "pill completed" not in event


def test_a_stream_ends_with_the_session(
    server: Server, sending: Caller, sandbox: Sandbox, watch: Callable[[Browser, int], Stream]
) -> None:
    sending.upload(*people(1, kinds=("fcm",)))
    sandbox.fault(vendor="fcm", kind="delay", seconds=3)
    browser = join(server, sending, "viewer", unique("vi", sending))
    stream = watch(browser, sending.create())
    assert 'id="live"' in stream.next()

    browser.send("/dashboard/logout", {"token": browser.token()})

    assert "You are logged out" in stream.rest()[-2]


def test_streams_are_bounded_and_private(
    server: Server, caller: Caller, watch: Callable[[Browser, int], Stream]
) -> None:
    """Whoever comes when all places are taken gets the numbers once and is told when to come back: that is polling."""
    campaign = caller.create(when="20990101 09:30")
    browser = join(server, caller, "viewer", unique("vi", caller))
    for _ in range(WATCHING_EACH):
        assert "pending" in watch(browser, campaign).next()

    assert [event.startswith("retry: 5000\n") for event in watch(browser, campaign).rest()] == [True]
    assert watch(browser, campaign + 1_000_000).answer.status == 404
    assert watch(Browser(server.port), campaign).answer.status == 401


async def _watch(broadcasts: Broadcasts, reads: list[int], count: int) -> list[int]:
    async def read() -> tuple[int, float]:
        reads.append(len(reads))
        await asyncio.sleep(0)
        return reads[-1], 0.001

    found = []
    async with contextlib.aclosing(broadcasts.watch("a", read)) as values:
        async for value in values:
            found.append(value)
            if len(found) == count:
                break
    return found


def test_one_reading_for_all_and_none_for_nobody() -> None:
    async def run() -> None:
        stop, reads = asyncio.Event(), list[int]()
        broadcasts = Broadcasts(stop, 30.0)
        both = await asyncio.gather(*(_watch(broadcasts, reads, 5) for _ in range(20)))
        assert all(one == sorted(set(one)) for one in both)  # nobody sees an older number after a newer one
        assert len(reads) < 10
        seen = len(reads)
        await asyncio.sleep(0.01)
        assert len(reads) == seen
        endless = asyncio.create_task(_watch(broadcasts, reads, -1))
        await asyncio.sleep(0.01)
        stop.set()
        await asyncio.wait_for(endless, 5)  # a server that stops waits for no viewer

    asyncio.run(run())


def test_a_reading_that_fails_ends_the_streams() -> None:
    async def fail() -> tuple[int, float]:
        raise ValueError("no store")

    async def run() -> list[int]:
        return [value async for value in Broadcasts(asyncio.Event(), 30.0).watch("a", fail)]

    assert asyncio.run(run()) == []


def test_what_many_ask_for_is_read_once() -> None:
    """Whoever asks while it is read, or soon after, gets the same; a reading that fails fails for all of them."""
    reads: list[int] = []

    async def read() -> int:
        reads.append(len(reads))
        await asyncio.sleep(0)
        return reads[-1]

    async def fail() -> int:
        raise ValueError("no store")

    async def run() -> None:
        broadcasts = Broadcasts(asyncio.Event(), 30.0)
        assert await asyncio.gather(*(broadcasts.share("a", read, 60) for _ in range(9))) == [0] * 9
        assert [await broadcasts.share("a", read, 60), await broadcasts.share("b", read, 0)] == [0, 1]
        assert await broadcasts.share("b", read, 0) == 2  # that one was old at once
        for _ in range(2):
            with pytest.raises(ValueError, match="no store"):
                await broadcasts.share("c", fail, 60)

    asyncio.run(run())


def test_a_list_is_followed_while_something_runs() -> None:
    """More seldom where reading takes long, and not at all when nothing runs or is about to."""

    def pause(state: str, due_at: float, took: float) -> int:
        line = CampaignLine(id=1, name="x", channel="push", state=state, due_at=due_at, figures=Figures())
        return Lists(Overview(lines=[line], more=False, total=Figures(), labels=[]), None, took).find_pause(1000.0)

    assert [pause("running", 0, 0.01), pause("running", 0, 1.1), pause("scheduled", 0, 0.01)] == [2, 6, 2]
    assert [pause("pending", 1300, 0.01), pause("pending", 9000, 0.01), pause("completed", 0, 9.0)] == [15, 0, 0]
    groups = Groups([], Figures(audience=2, sent=1))
    assert (Lists(None, groups, 0.1).find_pause(0.0), Lists(None, Groups([], Figures()), 0.1).find_pause(0.0)) == (2, 0)


def test_lists_of_what_runs_say_when_they_ask_again(server: Server, sending: Caller, sandbox: Sandbox) -> None:
    """As a part of their page, which a passcode's pages have no script for."""
    sending.upload(*people(1, kinds=("fcm",)))
    sandbox.fault(vendor="fcm", kind="delay", seconds=2)
    browser = join(server, sending, "viewer", unique("vi", sending))
    sending.create(name="Slow")
    page = wait_for(lambda: found if "pill running" in (found := browser.look("/dashboard/?live=1")[1]) else None)
    assert ('hx-trigger="every 2s"' in page, "<html" in page) == (True, False)
    page = wait_for(lambda: found if "pill completed" in (found := browser.look("/dashboard/?live=1")[1]) else None)
    assert "hx-trigger" not in page
    assert "<html" not in browser.look("/dashboard/tag-groups?live=1")[1]
