"""Refused log-ins: told and slowed down, without a word of what was tried, and never at the cost of the right ones."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from typing import Any

import pytest
import structlog.testing
from conftest import Caller, Server
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import event

from tocsin import metrics
from tocsin.account import create_account
from tocsin.authenticator import Authenticator
from tocsin.authenticator.refused_logins import MOST, RefusedLogins, group_address
from tocsin.errors import Problem
from tocsin.store.ledger import Ledger

NOW, LIMIT = 1000.0, 20


def read_counter(reason: str) -> float:
    return metrics.REGISTRY.get_sample_value("tocsin_refused_logins_total", {"reason": reason}) or 0.0


class Door:
    """An authenticator with one account, and how often it asked the ledger."""

    def __init__(self, ledger: Ledger):
        self.account, self.passcode = create_account(ledger, "door", "UTC", NOW)
        self.authenticator = Authenticator(ledger, LIMIT)
        self.questions = 0

    def count(self, *_: Any) -> None:
        self.questions += 1

    async def knock(self, account_id: str, passcode: str, now: float, address: str = "192.0.2.1") -> int:
        """The status of a log-in."""
        try:
            await self.authenticator.authenticate(account_id, passcode, now, "read", address)
        except Problem as problem:
            return problem.status
        return 200


@pytest.fixture
def door(ledger: Ledger) -> Iterator[Door]:
    door = Door(ledger)
    event.listen(ledger._reader, "before_cursor_execute", door.count)
    yield door
    event.remove(ledger._reader, "before_cursor_execute", door.count)


async def test_the_right_passcode_is_never_locked_out(door: Door) -> None:
    """However many wrong ones came, for its account or from its address, it is let in at once."""
    own = door.account.id
    for number in range(100):
        status = await door.knock(own, f"wrong {number}", NOW + number / 10)
        assert status == (401 if number < LIMIT else 429)
        assert await door.knock(own, door.passcode, NOW + number / 10) == 200
    assert await door.knock(own, "wrong", NOW + 10, "198.51.100.7") == 429, "the account counts from everywhere"
    assert await door.knock("NOB-ODY-HERE", "wrong", NOW + 10) == 429, "the address counts for all accounts"
    assert await door.knock("NOB-ODY-HERE", "wrong", NOW + 10, "198.51.100.8") == 401
    assert await door.knock(own, "wrong", NOW + 100) == 401, "the next minute is a new one"
    for _ in range(LIMIT):
        await door.knock(own, "wrong", NOW + 101)
    with pytest.raises(Problem) as slowed:
        await door.authenticator.authenticate(own, "wrong", NOW + 101)
    assert slowed.value.retry_after == 59, "until the minute is over"


async def test_made_up_accounts_cost_no_question_each(door: Door, ledger: Ledger) -> None:
    """Beyond the limit the ledger is asked once a second, and an account that is new is known a second later."""
    for number in range(LIMIT):
        await door.knock(f"MADE-UP-{number}", "x", NOW)
    door.questions = 0
    for number in range(500):
        assert await door.knock(f"UP-{number}", "x", NOW + number / 250) == 429
    assert door.questions <= 6  # each is a transaction with a statement
    account, passcode = create_account(ledger, "new", "UTC", NOW)
    assert await door.knock(account.id, passcode, NOW + 4) == 200


async def test_the_log_tells_it_once_a_minute(door: Door) -> None:
    """One line a minute and account with how many there were; nothing of what was tried."""
    own, tried = door.account.id, "SECRET-PASSCODE-OF-SOMEBODY"
    before = read_counter("passcode")
    with structlog.testing.capture_logs() as lines:
        for second in range(120):
            await door.knock(own, tried, NOW + second)
            await door.knock(tried, own, NOW + second)
    told = [(one["account"], one["count"]) for one in lines]
    assert told == [(own, 1), ("unknown", 1), (own, 60), ("unknown", 60)]
    assert tried not in repr(lines)
    # In each minute the limit of them; the others were slowed, and some made-up accounts took the address's share.
    assert 0 < read_counter("passcode") - before <= 2 * LIMIT
    assert read_counter("slowed") > 0


@given(st.lists(st.tuples(st.integers(0, 50), st.floats(0, 500)), max_size=60))
def test_few_are_never_slowed(refusals: list[tuple[int, float]]) -> None:
    """Whatever the order and the clock, who was refused fewer times than the limit in all is not slowed."""
    refused = RefusedLogins(limit=len(refusals) + 1)
    for number, now in refusals:
        refused.count("passcode", f"A{number}", f"192.0.2.{number}", now)
        assert refused.slow_down(f"A{number}", f"192.0.2.{number}", now) is None


def test_memory_is_bounded() -> None:
    """A stranger with a million addresses is remembered by the last of them."""
    refused = RefusedLogins(LIMIT)
    for number in range(MOST + 500):
        refused.count("account", "", f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", NOW)
    assert len(refused._minutes) <= MOST


def test_addresses_of_one_line() -> None:
    """IPv6 counts by its first 64 bits; what is no address counts as it is written."""
    assert group_address("2001:db8::1") == group_address("2001:db8::ffff:2")
    assert group_address("2001:db8::1") != group_address("2001:db8:0:1::1")
    assert group_address("::ffff:192.0.2.1") == group_address("192.0.2.1")
    assert len(group_address("x" * 1000)) == 64


@pytest.mark.parametrize("name", ["X-CleverTap-Account-Id", "X-CleverTap-Passcode"])
def test_a_header_twice_is_refused(server: Server, caller: Caller, name: str) -> None:
    """A proxy that checks the first and a server that takes the last would let in somebody else."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.putrequest("POST", "/1/send/push.json")
    for key, value in [*caller.headers.items(), (name.lower(), caller.headers[name]), ("Content-Length", "2")]:
        connection.putheader(key, value)
    connection.endheaders(b"{}")
    reply = connection.getresponse()
    assert (reply.status, b"more than once" in reply.read()) == (400, True)
    connection.close()


def test_basic_twice_is_refused(server: Server) -> None:
    """The dashboard's header too."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.putrequest("GET", "/dashboard/")
    for _ in range(2):
        connection.putheader("Authorization", "Basic eDp5")
    connection.endheaders()
    assert connection.getresponse().status == 400
    connection.close()
