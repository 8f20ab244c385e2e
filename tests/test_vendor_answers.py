"""Every answer of FCM, APNs, WNS, push services and token endpoints, given by the sandbox over the real protocol."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import jwt
import msgspec
import pytest
from conftest import THOROUGH
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs
from support.bench import Bench, send
from vendor_rows import ACCEPTED, APNS, DENIED, GONE, LANE, REGISTERED, ROWS, TOKEN_ROWS, UNAVAILABLE, Row

from tocsin.errors import Misconfigured
from tocsin.providers import apns
from tocsin.providers.contract import Address, Message, Notice, Provider, Push

pytest_plugins = ("support.bench",)

MANY = 100
EVERY_ROW = [pytest.param(name, row, id=f"{name}, {row}") for name, rows in ROWS.items() for row in rows]
EVERY_TOKEN_ROW = [pytest.param(name, row, id=f"{name}, {row}") for name, row in TOKEN_ROWS]
TOKENED = pytest.mark.parametrize("name", ["fcm", "wns"])


def make_message(bench: Bench, name: str, collapse: str = "1_20260101") -> Message:
    """A push to a device registered at REGISTERED."""
    message = bench.message(name, collapse=collapse)
    assert isinstance(message, Push | Notice)
    address = Address(message.address.kind, message.address.value, REGISTERED)
    return msgspec.structs.replace(message, address=address)


async def count_requests(bench: Bench, name: str) -> int:
    """Messages that have reached the vendor, whatever became of them."""
    counted = await bench.counts(name)
    return counted["accepted"] + counted["refused"]


async def warm_up(bench: Bench, provider: Provider, row: Row) -> None:
    """One accepted message: there is a token, a connection, and where the row asks for it a proof of the campaign."""
    message = make_message(bench, provider.name, "1_20260101" if row.proved else "2_20260101")
    came = await provider.send(message, time.time() - row.aged)
    assert came.outcome is ACCEPTED, came
    if isinstance(provider, apns.Apns):  # its token is not replaced by the time of day in the middle of a case
        provider.signer._issued = time.time()


@pytest.mark.parametrize(("name", "row"), EVERY_ROW)
async def test_answer(bench: Bench, name: str, row: Row) -> None:
    """The receipt is the row's, and no request more than the row's has reached the vendor."""
    provider = bench.provider(name)
    await warm_up(bench, provider, row)
    before = await count_requests(bench, name)
    await bench.break_down(name, "status", count=row.times, **row.answer)
    came = await send(provider, make_message(bench, name))
    assert (came.outcome, came.scope, came.retry_after, came.suspect) == (
        row.outcome,
        row.scope,
        row.wait,
        row.suspect,
    ), came
    assert row.code in ("", came.code)
    assert came.code or came.outcome is ACCEPTED
    assert await count_requests(bench, name) - before == row.requests
    # Nothing of it stays: what one answer was about is over with the next.
    assert (await send(provider, make_message(bench, name))).outcome is ACCEPTED


LEFT = ["expired, ours is old", "expired, ours is young", "IdleTimeout", "UnrelatedKeyIdInToken", "Shutdown"]


@pytest.mark.parametrize("row", [r for r in APNS if r.name in [*LEFT, "TooManyProviderTokenUpdates"]], ids=str)
async def test_apns_connection_is_left(bench: Bench, row: Row) -> None:
    """After an answer that is about the connection, APNs goes on refusing on it: the next message takes another."""
    provider = bench.provider("apns")
    await warm_up(bench, provider, row)
    before = (await bench.counts("apns"))["connections"]
    await bench.break_down("apns", "status", **row.answer)
    await send(provider, make_message(bench, "apns"))
    assert (await send(provider, make_message(bench, "apns"))).outcome is ACCEPTED
    assert (await bench.counts("apns"))["connections"] == before + 1


async def test_apns_410_of_today_is_gone(bench: Bench) -> None:
    """The sandbox's own 410 is as of now, later than any registration; a scripted time may be earlier."""
    provider = bench.provider("apns")
    await bench.break_down("apns", "status", status=410)
    assert (await send(provider, make_message(bench, "apns"))).outcome is GONE
    await bench.break_down("apns", "status", status=410, timestamp=int(REGISTERED * 1000) - 1)
    assert (await send(provider, make_message(bench, "apns"))).outcome is not GONE


async def test_redirect_is_told(bench: Bench) -> None:
    """WNS never redirects: somebody who does wants our token, and the operator hears of it, without the address."""
    provider = bench.provider("wns")
    message = make_message(bench, "wns")
    await bench.break_down("wns", "status", status=307, code="https://localhost/w/")
    with capture_logs() as logs:
        await send(provider, message)
    assert [entry["log_level"] for entry in logs] == ["error"]
    assert message.address.value not in f"{logs}"


@pytest.mark.parametrize(("name", "row"), EVERY_TOKEN_ROW)
async def test_token_endpoint(bench: Bench, name: str, row: Row) -> None:
    """A refused credential is denied, the endpoint's own trouble is waited for; no message leaves without a token."""
    provider = bench.provider(name)
    await bench.break_down(name, "status", of="token", **row.answer)
    came = await send(provider, make_message(bench, name))
    assert (came.outcome, came.scope, came.retry_after, came.suspect) == (row.outcome, row.scope, row.wait, False), came
    assert row.code in ("", came.code)
    assert await count_requests(bench, name) == 0
    later = await provider.send(make_message(bench, name), time.time() + 2.0)
    assert later.outcome is ACCEPTED, later


@TOKENED
@pytest.mark.parametrize("answer", [{}, {"status": 503}, {"status": 400, "code": "invalid_grant"}], ids=str)
async def test_hundred_wait_for_one_token(bench: Bench, name: str, answer: dict[str, object]) -> None:
    """However many messages wait for a token, the endpoint is asked once, and its answer is everybody's."""
    provider = bench.provider(name)
    if answer:
        await bench.break_down(name, "status", of="token", **answer)
    now = time.time()
    came = await asyncio.gather(*(provider.send(make_message(bench, name), now) for _ in range(MANY)))
    expected = ACCEPTED if not answer else UNAVAILABLE if answer["status"] == 503 else DENIED
    assert Counter(receipt.outcome for receipt in came) == {expected: MANY}
    assert {receipt.scope for receipt in came} == {LANE} or not answer
    counted = await bench.counts(name)
    assert (counted["tokens"], counted["accepted"]) == (1, 0 if answer else MANY)


@TOKENED
async def test_revoked_token_is_replaced_once_for_all(bench: Bench, name: str) -> None:
    """A hundred messages that meet a revoked token share one new one, and each is sent once more."""
    provider = bench.provider(name)
    await send(provider, make_message(bench, name))
    await bench.call("DELETE", "/tokens")
    came = await asyncio.gather(*(send(provider, make_message(bench, name)) for _ in range(MANY)))
    assert Counter(receipt.outcome for receipt in came) == {ACCEPTED: MANY}
    counted = await bench.counts(name)
    assert (counted["tokens"], counted["accepted"], counted["duplicates"]) == (2, MANY + 1, 0)


async def test_account_with_a_key_of_another_kind(bench: Bench) -> None:
    """Google's keys are RSA: another kind is told when it is set, not by an exception at the first message."""
    account = {**bench.credentials["fcm"]["service_account"], "private_key": bench.credentials["apns"]["key"]}
    with pytest.raises(Misconfigured, match="RSA"):
        bench.provider("fcm", service_account=account)


@TOKENED
async def test_revoked_token_and_no_other(bench: Bench, name: str) -> None:
    """A hundred messages with a revoked token and a refused credential are denied by one question."""
    provider = bench.provider(name)
    await send(provider, make_message(bench, name))
    await bench.call("DELETE", "/tokens")
    await bench.break_down(name, "status", of="token", status=400, code="invalid_client")
    now = time.time()
    came = await asyncio.gather(*(provider.send(make_message(bench, name), now) for _ in range(MANY)))
    assert Counter(receipt.outcome for receipt in came) == {DENIED: MANY}
    assert (await bench.counts(name))["tokens"] == 2


@pytest.fixture(scope="module")
def apns_settings(bench_of_module: Bench) -> apns.ApnsSettings:
    """Settings with the sandbox's key."""
    made = bench_of_module.settings("apns")
    assert isinstance(made, apns.ApnsSettings)
    return made


@settings(deadline=None, max_examples=60 if THOROUGH else 20)
@given(
    steps=st.lists(
        st.tuples(st.floats(0, 5000), st.sampled_from(["send", "expired", "too many"])), min_size=1, max_size=40
    )
)
def test_signer_over_a_simulated_clock(apns_settings: apns.ApnsSettings, steps: list[tuple[float, str]]) -> None:
    """Whatever APNs answers and however long the pauses: never two new tokens within 20 minutes, never one issued more
    than an hour ago, and the same one for as long as 20 minutes."""
    signer, now, held, minted = apns.ApnsSigner(apns_settings), 1_700_000_000.0, 0.0, dict[str, float]()
    for pause, met in steps:
        now += pause
        token = signer.token(now)
        if token not in minted:
            assert all(now - then >= 20 * 60 for then in minted.values())
            minted[token] = now
        issued = jwt.decode(token, options={"verify_signature": False})["iat"]
        assert 0 <= now - issued < 60 * 60
        assert token == list(minted)[-1]
        if met == "expired":
            assert signer.replace(token, now) == (now - minted[token] >= 20 * 60 and now >= held)
        elif met == "too many":
            signer.hold(now)
            held = now + 20 * 60
        if met != "expired" and now - minted[token] < 20 * 60:
            assert signer.token(now) == token


@given(st.floats(1_700_000_000, 1_700_100_000), st.floats(0, 19 * 60))
def test_signers_of_all_processes_show_one_token(apns_settings: apns.ApnsSettings, now: float, later: float) -> None:
    """Processes that begin within the same 35 minutes show the same token, without asking each other."""
    first, second = apns.ApnsSigner(apns_settings), apns.ApnsSigner(apns_settings)
    same = now // apns.MINT_SECONDS == (now + later) // apns.MINT_SECONDS
    assert (second.token(now + later) == first.token(now)) == same


def test_signer_mints_in_time(apns_settings: apns.ApnsSettings) -> None:
    """Left alone it mints every 30 to 50 minutes; told of too many tokens it keeps the old one for 20 minutes more."""
    signer, start = apns.ApnsSigner(apns_settings), 1_700_000_000.0 // apns.MINT_SECONDS * apns.MINT_SECONDS
    first = signer.token(start)
    assert signer.token(start + 30 * 60 - 1) == first
    assert signer.token(start + 50 * 60) != first
    held = apns.ApnsSigner(apns_settings)
    first = held.token(start)
    held.hold(start + 30 * 60 - 1)
    assert held.token(start + 50 * 60 - 2) == first
    assert held.token(start + 50 * 60) != first
    late = apns.ApnsSigner(apns_settings)
    first = late.token(start)
    late.hold(start + 45 * 60)
    assert late.token(start + 50 * 60) == first
    assert late.token(start + 60 * 60 - 1) != first


async def test_one_signer_for_a_key_and_environment(bench: Bench) -> None:
    """Providers with the same team, key and environment share one signer; another key or environment has its own."""
    one, same = bench.provider("apns"), bench.provider("apns", topic="dev.tocsin.other", timeout=3.0)
    assert isinstance(one, apns.Apns)
    assert isinstance(same, apns.Apns)
    now = time.time()
    tokens = [each.signer.token(now) for each in (one, same)]
    assert tokens[0] == tokens[1]
    for changed in ({"endpoint": "https://localhost"}, {"team_id": "ABCDEFGHIJ"}, {"key_id": "ABCDEFGHIJ"}):
        other = bench.provider("apns", **changed)
        assert isinstance(other, apns.Apns)
        assert other.signer is not one.signer
        assert (other.signer.token(now) == tokens[0]) == ("endpoint" in changed)
