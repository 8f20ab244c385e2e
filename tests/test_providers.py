"""What every provider has to do, held against the sandbox over the vendors' real protocols."""

from __future__ import annotations

import asyncio
import base64
import json
import socket
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from support.bench import WEBHOOKS, Bench, send

from tocsin.errors import Misconfigured
from tocsin.outcome import Outcome
from tocsin.providers import BY_NAME
from tocsin.providers.contract import NO_TLS, Scope

pytest_plugins = ("support.bench",)

EVERY = pytest.mark.parametrize("name", list(BY_NAME))
MULTIPLEXED = pytest.mark.parametrize("name", ["fcm", "apns", "vapid"])
PATIENCE = 0.4  # seconds: a vendor's answer comes in a tenth of it, even on a busy machine


def pem_of(key: Any) -> str:
    """A private key as PEM."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()  # type: ignore[no-any-return]


def make_stranger() -> str:
    """The certificate of an authority nobody here has been signed by."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "stranger")])
    start = datetime.now(UTC) - timedelta(days=1)
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(1).not_valid_before(start).not_valid_after(start + timedelta(days=9))
    return made.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM).decode()


def find_dead_port() -> int:
    """A port nobody listens on."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


@EVERY
async def test_accepted(bench: Bench, name: str) -> None:
    """A message of the vendor's kind arrives once, and the receipt is clean."""
    came = await send(bench.provider(name), bench.message(name))
    assert (came.outcome, came.code, came.scope) == (Outcome.ACCEPTED, "", Scope.MESSAGE), came
    assert (await bench.counts(name))["accepted"] == 1


@EVERY
async def test_many_at_once(bench: Bench, name: str) -> None:
    """A hundred concurrent sends are a hundred messages over few connections with one token."""
    provider = bench.provider(name)
    came = await asyncio.gather(*(send(provider, bench.message(name)) for _ in range(100)))
    assert {receipt.outcome for receipt in came} == {Outcome.ACCEPTED}
    counted = await bench.counts(name)
    assert (counted["accepted"], counted["duplicates"]) == (100, 0)


@EVERY
async def test_same_message_twice_is_the_same_twice(bench: Bench, name: str) -> None:
    """Sending is no dedupe: a second attempt goes out, with the same id, and the sandbox can tell."""
    provider, message = bench.provider(name), bench.message(name)
    assert [(await send(provider, message)).outcome for _ in range(2)] == [Outcome.ACCEPTED] * 2
    assert (await bench.counts(name))["duplicates"] == 1


@EVERY
async def test_hung_vendor_is_unknown_in_time(bench: Bench, name: str) -> None:
    """A vendor that took the whole message and never answers costs the time-out and an unknown."""
    provider = bench.provider(name)
    await send(provider, bench.message(name))  # connected, with a token
    await bench.break_down(name, "hang")
    provider = bench.provider(name, timeout=PATIENCE)
    started = time.monotonic()
    came = await send(provider, bench.message(name))
    assert came.outcome is Outcome.UNKNOWN, came
    assert time.monotonic() - started < 5


@EVERY
async def test_cut_after_the_message_is_unknown_and_not_repeated(bench: Bench, name: str) -> None:
    """A connection cut before the answer leaves one copy at most, whether it is new or has carried messages before."""
    provider = bench.provider(name)
    for _ in range(2):
        await send(provider, bench.message(name))
        await bench.break_down(name, "cut")
        came = await send(provider, bench.message(name))
        assert came.outcome is Outcome.UNKNOWN, came
    counted = await bench.counts(name)
    assert counted["accepted"] <= 4
    assert counted["duplicates"] == 0


@EVERY
async def test_cuts_under_load_double_nothing(bench: Bench, name: str) -> None:
    """Connections that die full of requests end in unknowns, not in second copies."""
    provider = bench.provider(name)
    await send(provider, bench.message(name))
    await bench.break_down(name, "cut", share=0.05, count=5)
    came = await asyncio.gather(*(send(provider, bench.message(name)) for _ in range(200)))
    assert {receipt.outcome for receipt in came} <= {Outcome.ACCEPTED, Outcome.UNKNOWN, Outcome.UNAVAILABLE}
    assert any(receipt.outcome is Outcome.UNKNOWN for receipt in came)
    assert (await bench.counts(name))["duplicates"] == 0


@MULTIPLEXED
@pytest.mark.parametrize("kind", ["goaway", "refuse"])
async def test_refused_streams_are_sent_again_at_once(bench: Bench, name: str, kind: str) -> None:
    """What the peer says it did not process is sent again: nothing is lost, nothing doubled, nobody has to wait."""
    provider = bench.provider(name)
    await send(provider, bench.message(name))
    await bench.break_down(name, kind, share=0.05, count=3)
    came = await asyncio.gather(*(send(provider, bench.message(name)) for _ in range(200)))
    assert [receipt for receipt in came if receipt.outcome is not Outcome.ACCEPTED] == []
    counted = await bench.counts(name)
    assert (counted["accepted"], counted["duplicates"]) == (201, 0)


@EVERY
async def test_slow_vendor_is_waited_for(bench: Bench, name: str) -> None:
    """A delay shorter than the time-out is no failure."""
    provider = bench.provider(name)
    await bench.break_down(name, "delay", seconds=0.1)
    assert (await send(provider, bench.message(name))).outcome is Outcome.ACCEPTED


@pytest.mark.parametrize(
    ("name", "fault", "outcome", "code", "scope"),
    [
        ("fcm", {"status": 503, "code": "UNAVAILABLE"}, Outcome.UNAVAILABLE, "UNAVAILABLE", Scope.MESSAGE),
        ("fcm", {"status": 429, "code": "QUOTA_EXCEEDED"}, Outcome.THROTTLED, "QUOTA_EXCEEDED", Scope.LANE),
        ("fcm", {"status": 404, "code": "UNREGISTERED"}, Outcome.GONE, "UNREGISTERED", Scope.MESSAGE),
        ("apns", {"status": 503, "code": "ServiceUnavailable"}, Outcome.UNAVAILABLE, None, Scope.MESSAGE),
        ("apns", {"status": 410, "code": "Unregistered"}, Outcome.GONE, "410 Unregistered", Scope.MESSAGE),
        ("apns", {"status": 429, "code": "TooManyRequests"}, Outcome.THROTTLED, None, Scope.DEVICE),
        ("wns", {"status": 503}, Outcome.UNAVAILABLE, "503", Scope.MESSAGE),
        ("wns", {"status": 406, "retry_after": 3}, Outcome.THROTTLED, "406", Scope.LANE),
        ("wns", {"status": 410}, Outcome.GONE, "410", Scope.MESSAGE),
        ("vapid", {"status": 503, "retry_after": 7}, Outcome.UNAVAILABLE, "503 999", Scope.MESSAGE),
        ("vapid", {"status": 429, "retry_after": 3}, Outcome.THROTTLED, "429 999", Scope.DEVICE),
        ("vapid", {"status": 410}, Outcome.GONE, "410 999", Scope.MESSAGE),
        ("smtp", {"status": 451, "code": "4.7.1"}, Outcome.UNAVAILABLE, "451 4.7.1", Scope.MESSAGE),
        ("smtp", {"status": 550, "code": "5.1.1"}, Outcome.GONE, "550 5.1.1", Scope.MESSAGE),
    ],
)
async def test_vendors_refusal(
    bench: Bench, name: str, fault: dict[str, Any], outcome: Outcome, code: str | None, scope: Scope
) -> None:
    """A refusal comes back as the table says, and the next message goes through on whatever connection is left."""
    provider = bench.provider(name)
    await send(provider, bench.message(name))
    await bench.break_down(name, "status", **fault)
    came = await send(provider, bench.message(name))
    assert (came.outcome, came.scope) == (outcome, scope), came
    assert code is None or came.code == code
    assert came.retry_after == fault.get("retry_after", came.retry_after)
    assert (await send(provider, bench.message(name))).outcome is Outcome.ACCEPTED


@EVERY
async def test_connection_refused_is_unavailable(bench: Bench, name: str) -> None:
    """Nobody listening means that nothing was taken, and that the lane need not be tried for a while."""
    port = find_dead_port()
    dead = f"https://127.0.0.1:{port}"
    provider = bench.provider(name, endpoint=dead, token_endpoint=f"{dead}/token", url=dead, port=port)
    came = await send(provider, bench.message(name, channel_prefix=f"{dead}/w/?token="))
    assert (came.outcome, came.scope) == (Outcome.UNAVAILABLE, Scope.LANE), came
    assert came.retry_after


@EVERY
async def test_unknown_authority_is_unavailable(bench: Bench, name: str) -> None:
    """A certificate we have no reason to trust gets neither a message nor a credential."""
    came = await send(bench.provider(name, ca=make_stranger()), bench.message(name))
    assert (came.outcome, came.scope) == (Outcome.UNAVAILABLE, Scope.LANE), came
    assert (await bench.counts(name))["accepted"] == 0


def spoil(bench: Bench, name: str) -> dict[str, Any]:
    """A credential of the right form that the vendor never gave out."""
    if name == "fcm":
        account = bench.credentials["fcm"]["service_account"]
        known = json.loads(account) if isinstance(account, str) else account
        return {"service_account": {**known, "private_key": pem_of(rsa.generate_private_key(65537, 2048))}}
    if name in ("apns", "vapid"):
        return {"key": pem_of(ec.generate_private_key(ec.SECP256R1()))}
    if name in WEBHOOKS:
        return {"secret": "whsec_" + base64.b64encode(b"w" * 32).decode()}
    return {"client_secret": "wrong"} if name == "wns" else {"password": "wrong"}


@pytest.mark.parametrize(
    "name", [one for one in BY_NAME if one != "vapid"]
)  # which is told about one browser at a time
async def test_wrong_credentials_are_denied(bench: Bench, name: str) -> None:
    """A refused credential stops the lane; the address is not blamed."""
    came = await send(bench.provider(name, **spoil(bench, name)), bench.message(name))
    assert (came.outcome, came.scope) == (Outcome.DENIED, Scope.LANE), came
    assert came.code


@EVERY
async def test_secrets_are_not_shown(bench: Bench, name: str) -> None:
    """No credential in the repr of settings, provider or what they are made of, nor in a receipt."""
    settings = bench.settings(name, timeout=PATIENCE)
    provider = BY_NAME[name](settings, bench.transport)
    receipt = await send(bench.provider(name, **spoil(bench, name)), bench.message(name))
    shown = " ".join(repr(thing) for thing in (settings, provider, *vars(provider).values(), receipt))
    for field in msgspec.structs.fields(type(settings)):
        if field.name in ("service_account", "key", "client_secret", "password", "secret"):
            value = getattr(settings, field.name)
            secret = json.loads(value)["private_key"] if field.name == "service_account" else value
            assert secret[-40:].strip() not in shown
            assert json.dumps(secret)[-42:-2] not in shown


@EVERY
async def test_wrong_kind_of_message_is_refused(bench: Bench, name: str) -> None:
    """A push does not go by mail, nor a mail by push."""
    came = await send(bench.provider(name), bench.message("fcm" if name == "smtp" else "smtp"))
    assert came.outcome is Outcome.REFUSED


@EVERY
def test_settings_describe_themselves(name: str) -> None:
    """Every option has a description, and what is secret is read from a file."""
    schema = msgspec.json.schema(BY_NAME[name].Settings)
    for option in next(iter(schema["$defs"].values()))["properties"].values():
        assert option["description"]


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        *((name, {"ca": "not a certificate"}) for name in BY_NAME),
        *((name, {"endpoint": "http://example.com"}) for name in ("fcm", "apns", "wns")),
        ("fcm", {"service_account": "{}"}),
        ("fcm", {"service_account": {"project_id": "p", "private_key": "x", "client_email": "e"}}),
        ("apns", {"key": "x"}),
        ("wns", {"token_endpoint": "", "tenant": ""}),
        ("wns", {"tenant": "a/b"}),
        *((name, {"url": "http://example.com"}) for name in WEBHOOKS),
        *((name, {"secret": "whsec_c2hvcnQ="}) for name in WEBHOOKS),
        ("vapid", {"endpoint": "http://example.com"}),
        ("vapid", {"key": "x"}),
        ("vapid", {"subject": "ops@example.com"}),
        ("vapid", {"hosts": "*.com"}),
        ("vapid", {"hosts": ""}),
        ("smtp", {"host": "a/b"}),
        ("smtp", {"sender": "a@b\r\nX: y"}),
        ("smtp", {"tls": "none"}),
    ],
)
async def test_settings_that_cannot_work(bench: Bench, name: str, changed: dict[str, Any]) -> None:
    """A mistake of the operator is told at the start, in a sentence that holds no secret."""
    with pytest.raises(Misconfigured) as caught:
        bench.provider(name, **changed)
    assert "PRIVATE KEY" not in str(caught.value)


@pytest.mark.parametrize("name", ["fcm", "wns"])
async def test_token_is_renewed_once_after_a_401(bench: Bench, name: str) -> None:
    """A token that the vendor no longer takes is replaced, and the message goes again; a second 401 denies the lane."""
    provider = bench.provider(name)
    await send(provider, bench.message(name))
    fault = {"status": 401, "code": ""}
    await bench.break_down(name, "status", **fault)
    assert (await send(provider, bench.message(name))).outcome is Outcome.ACCEPTED
    await bench.break_down(name, "status", count=2, **fault)
    came = await send(provider, bench.message(name))
    assert (came.outcome, came.scope) == (Outcome.DENIED, Scope.LANE), came


async def test_smtp_never_falls_back_to_clear_text(bench: Bench) -> None:
    """A relay without STARTTLS, or without TLS where it has to begin, gets neither the password nor the mail."""
    heard = bytearray()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 relay\r\n")
        while line := await reader.readline():
            heard.extend(line)
            writer.write(b"250 relay\r\n")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    came = await send(bench.provider("smtp", port=port), bench.message("smtp"))
    assert (came.outcome, came.code, came.detail) == (Outcome.UNAVAILABLE, NO_TLS, "the relay does not offer STARTTLS")
    came = await send(bench.provider("smtp", port=port, tls="tls"), bench.message("smtp"))
    assert (came.code, came.detail.partition(":")[0]) == (NO_TLS, "the relay speaks no TLS there")
    server.close()
    assert b"AUTH" not in heard
    assert b"MAIL" not in heard


async def test_smtp_relay_that_hangs_up_is_called_again(bench: Bench) -> None:
    """421 on a kept connection costs a new connection; on a new one the lane has to wait."""
    provider = bench.provider("smtp")
    await send(provider, bench.message("smtp"))
    await bench.break_down("smtp", "status", status=421, code="4.3.2")
    assert (await send(provider, bench.message("smtp"))).outcome is Outcome.ACCEPTED
    await bench.break_down("smtp", "status", status=421, code="4.3.2", count=2)
    came = await send(provider, bench.message("smtp"))
    assert (came.outcome, came.code, came.scope) == (Outcome.UNAVAILABLE, "421 4.3.2", Scope.LANE), came


@MULTIPLEXED
async def test_silent_connection_is_left(bench: Bench, name: str) -> None:
    """After a time-out on a connection that says nothing at all, the next message takes a new one."""
    provider = bench.provider(name, timeout=PATIENCE)
    await send(provider, bench.message(name))
    before = (await bench.counts(name))["connections"]
    await bench.break_down(name, "hang")
    assert (await send(provider, bench.message(name))).outcome is Outcome.UNKNOWN
    assert (await send(provider, bench.message(name))).outcome is Outcome.ACCEPTED
    assert (await bench.counts(name))["connections"] == before + 1


async def test_wns_channel_elsewhere_is_not_called(bench: Bench) -> None:
    """An address that is not Microsoft's is dropped before a token is even asked for."""
    before = await bench.counts("wns")
    message = bench.message("wns", channel_prefix="https://evil.example/?token=")
    came = await send(bench.provider("wns"), message)
    assert (came.outcome, came.code) == (Outcome.GONE, "channel not allowed")
    assert await bench.counts("wns") == before


@pytest.mark.parametrize("name", ["fcm", "apns", "wns", "vapid"])
async def test_what_cannot_be_shortened_is_refused_here(bench: Bench, name: str) -> None:
    """A body that is too long is shortened and taken; keys that are too large go no further than us."""
    assert (await send(bench.provider(name), bench.message(name, body="x" * 9000))).outcome is Outcome.ACCEPTED
    came = await send(bench.provider(name), bench.message(name, data={"key": "x" * 5000}))
    assert (came.outcome, came.code) == (Outcome.REFUSED, "payload too large")
    assert "bytes over the limit" in came.detail
    counts = await bench.counts(name)
    assert (counts["accepted"], counts["refused"]) == (1, 0)


async def test_apns_collapse_and_id_arrive(bench: Bench) -> None:
    """The vendor gets our id and answers with it."""
    message = bench.message("apns")
    assert (await send(bench.provider("apns"), message)).vendor_id == message.id
