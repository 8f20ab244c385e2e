"""`tocsin bench dispatch`: a campaign from frozen to closed, every receipt settled and recorded."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from sqlalchemy import insert, select, update

from benchmarks.load import press
from benchmarks.reading import Reading, print_progress
from benchmarks.server import OFTEN, cpu_seconds, family, make_caller, peak_mib, serving
from benchmarks.sink import CONNECTIONS, STREAMS, Sink, open_mail_sink, open_sink, press_with_h2load
from tocsin.account import Account
from tocsin.demo import free_port
from tocsin.errors import Misconfigured
from tocsin.ingest import refresh_profiles
from tocsin.outcome import Outcome
from tocsin.providers.aes128gcm import encrypt
from tocsin.providers.contract import Address, Push
from tocsin.providers.fcm import Fcm
from tocsin.providers.transport import Transport
from tocsin.providers.vapid_key import decode_base64url, make_key
from tocsin.stats.counts import sum_numbers
from tocsin.store import schema
from tocsin.store.facts import Facts, open_facts
from tocsin.store.ledger import Ledger, open_ledger

BLOCK = 10_000  # people made by one statement
PLAIN = {"title": "Weekend sale", "body": "Everything in the shop is a fifth cheaper until Sunday night."}
PERSONAL = {"title": "Hello {{ Profile.Name }}", "body": 'Your {{ Profile.Plan | default: "basic" }} plan ends soon.'}
CAMPAIGN_SECONDS = 900.0
# Of all browsers: a message costs as much as if each had its own (these are RFC 8291's, appendix A).
SUBSCRIPTION_KEYS = {
    "p256dh": "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4",
    "auth": "BTBZMqHH6r4Tts7J_aSIgg",
}
LOOK_SECONDS = 0.1
SIGNATURES = 500
PARAGRAPH = (
    "<p style='margin:0 0 12px'>Lamps, chairs and tables that were made to last, and cost less until Sunday.</p>"
)
PLAIN_MAIL = {
    "subject": "Weekend sale",
    "body": f"<html><body><h1>Weekend sale</h1>{PARAGRAPH * 40}<p><a href='https://bench.example/'>Look</a></p></body>",
    "sender_name": "Bench",
}
PERSONAL_MAIL = PLAIN_MAIL | {
    "subject": "{{ Profile.Name }}, a word",
    "body": f"<html><body><h1>Hello {{{{ Profile.Name }}}}</h1>{PARAGRAPH * 40}<p>{{{{ Profile.Plan }}}}</p></body>",
}


class Delivered(msgspec.Struct, frozen=True):
    """The result and the costs of one campaign.

    result: recipients by sent, unknown, failed, suppressed. seconds: from frozen to closed. cpu: seconds of the server
    and its senders. server, senders: peak memory in MiB, the senders' together. progress: how many recipients had an
    outcome after how many of the seconds.
    """

    result: dict[str, int]
    seconds: float
    cpu: float
    server: float
    senders: float
    progress: list[tuple[float, int]]

    @property
    def rate(self) -> float:
        return self.result["sent"] / self.seconds

    def time_of(self, count: int) -> float:
        """Return the seconds after which so many recipients had an outcome, in a straight line between two looks."""
        before = (0.0, 0)
        for at, settled in [*self.progress, (self.seconds, sum(self.result.values()))]:
            if settled >= count:
                share = (count - before[1]) / max(1, settled - before[1])
                return before[0] + (at - before[0]) * share
            before = at, settled
        raise RuntimeError(f"{count} recipients never had an outcome: {self.result}")


def measure_dispatch(folder: Path, audience: int) -> list[Reading]:
    """Measure plain and personalised pushes to an HTTP/2 sink, beside h2load and a bare loop of the same client."""
    with open_sink(folder / "sink") as sink:
        print_progress(f"{audience:,} people are made; the sink is {sink.name}")
        caller, port = make_people(folder, audience, {"fcm": sink.fcm}), free_port(18_300, 1)
        with serving(folder, port, OFTEN) as pid:
            deliver(folder, port, pid, caller, {"content": PLAIN, "users_limit_overall": 2000})  # warm
            plain = deliver(folder, port, pid, caller, {"content": PLAIN})
            personal = deliver(folder, port, pid, caller, {"content": PERSONAL})
        bare = asyncio.run(_send_bare(sink, min(audience, 100_000)))
        known = sink.name == "nghttpd"
        ceiling = press_with_h2load(sink.url, folder, max(audience, 100_000)) if known else None
    for one in (plain, personal):
        if one.result["sent"] != audience:
            raise RuntimeError(f"of {audience} were sent {one.result}")
    beside, least = ("h2load, same sink", ceiling) if ceiling else ("bare loop, same sink", bare)
    return [
        Reading("plain, delivered and recorded", plain.rate, "notifications/s", beside, plain.rate / least),
        Reading(
            "personalised, delivered and recorded", personal.rate, "notifications/s", beside, personal.rate / least
        ),
        Reading("plain", plain.rate, "notifications/s", "bare loop, same sink", plain.rate / bare),
        Reading("bare loop of the same client", bare, "requests/s", beside, bare / least),
        *([Reading("h2load", ceiling, "requests/s")] if ceiling else []),
        Reading("CPU, plain", plain.cpu / audience * 1e6, "µs a notification"),
        Reading("CPU, personalised", personal.cpu / audience * 1e6, "µs a notification"),
        Reading("peak memory of the server", personal.server, "MiB"),
        Reading("peak memory of the senders", personal.senders, "MiB"),
        Reading(f"sent, sink {sink.name}", float(plain.result["sent"]), f"of {audience}, twice"),
    ]


def measure_mail(folder: Path, audience: int) -> list[Reading]:
    """Measure plain and personalised mails of HTML and text, signed with RSA-2048, beside the signatures alone."""
    with open_mail_sink(folder / "sink") as (name, settings):
        print_progress(f"{audience:,} people are made; the sink is {name}")
        caller, port = make_people(folder, audience, {"smtp": settings}), free_port(18_300, 1)
        with serving(folder, port, OFTEN | {"TOCSIN_PUBLIC_URL": "https://bench.example"}) as pid:
            mail = {"target_mode": "email", "content": PLAIN_MAIL}
            deliver(folder, port, pid, caller, {**mail, "users_limit_overall": 1000})  # warm
            plain = deliver(folder, port, pid, caller, mail)
            personal = deliver(folder, port, pid, caller, {**mail, "content": PERSONAL_MAIL})
        signing = 1 / _time_signature(settings["dkim_key"])
    for one in (plain, personal):
        if one.result["sent"] != audience:
            raise RuntimeError(f"of {audience} were sent {one.result}")
    beside = "RSA-2048 signatures alone, one core"
    return [
        Reading("plain, signed, delivered and recorded", plain.rate, "mails/s", beside, plain.rate / signing),
        Reading(
            "personalised, signed, delivered and recorded", personal.rate, "mails/s", beside, personal.rate / signing
        ),
        Reading("RSA-2048 signatures alone", signing, "signatures/s"),
        Reading("CPU, plain", plain.cpu / audience * 1e6, "µs a mail"),
        Reading("CPU, personalised", personal.cpu / audience * 1e6, "µs a mail"),
        Reading("peak memory of the server", personal.server, "MiB"),
        Reading("peak memory of the senders", personal.senders, "MiB"),
        Reading(f"sent, sink {name}", float(plain.result["sent"]), f"of {audience}, twice"),
    ]


def measure_webpush(folder: Path, audience: int) -> list[Reading]:
    """Measure plain and personalised web pushes to an HTTP/2 sink, beside the encryption alone."""
    with open_sink(folder / "sink") as sink:
        if sink.name != "nghttpd":
            raise Misconfigured("Web pushes are measured into nghttpd (Debian: nghttp2-server).")
        print_progress(f"{audience:,} people are made; the sink is {sink.name}")
        vapid = {key: sink.fcm[key] for key in ("endpoint", "ca")}
        vapid |= {"key": make_key(), "subject": "mailto:bench@bench.example"}
        caller, port = make_people(folder, audience, {"vapid": vapid}, "webpush"), free_port(18_300, 1)
        with serving(folder, port, OFTEN) as pid:
            push = {"target_mode": "webpush", "content": PLAIN}
            deliver(folder, port, pid, caller, {**push, "users_limit_overall": 1000})  # warm
            plain = deliver(folder, port, pid, caller, push)
            personal = deliver(folder, port, pid, caller, {**push, "content": PERSONAL})
        encryption = 1 / _time_encryption()
    for one in (plain, personal):
        if one.result["sent"] != audience:
            raise RuntimeError(f"of {audience} were sent {one.result}")
    beside = "encryption alone, one core"
    return [
        Reading("plain, delivered and recorded", plain.rate, "notifications/s", beside, plain.rate / encryption),
        Reading(
            "personalised, delivered and recorded", personal.rate, "notifications/s", beside, personal.rate / encryption
        ),
        Reading("encryption alone (RFC 8291)", encryption, "messages/s"),
        Reading("CPU, plain", plain.cpu / audience * 1e6, "µs a notification"),
        Reading("CPU, personalised", personal.cpu / audience * 1e6, "µs a notification"),
        Reading(f"sent, sink {sink.name}", float(plain.result["sent"]), f"of {audience}, twice"),
    ]


def _time_encryption() -> float:
    """Return the seconds that one web push of 300 bytes takes to be encrypted."""
    point, auth = (decode_base64url(SUBSCRIPTION_KEYS[name]) for name in ("p256dh", "auth"))
    started = time.perf_counter()
    for _ in range(SIGNATURES):
        encrypt(b"w" * 300, point, auth)
    return (time.perf_counter() - started) / SIGNATURES


def _time_signature(pem: str) -> float:
    """Return the seconds of one RSA signature over a mail's headers."""
    key = load_pem_private_key(pem.encode(), None)
    assert isinstance(key, RSAPrivateKey)
    started = time.perf_counter()
    for _ in range(SIGNATURES):
        key.sign(b"h" * 600, PKCS1v15(), SHA256())
    return (time.perf_counter() - started) / SIGNATURES


def make_people(folder: Path, count: int, providers: dict[str, dict[str, Any]], kind: str = "fcm") -> dict[str, str]:
    """Make an account with so many people, each with a device of a kind and a mail address; return its headers.

    They are written straight into the stores.
    """
    with (
        closing(open_ledger(f"sqlite:///{folder / 'ledger.db'}")) as ledger,
        closing(open_facts(f"chdb://{(folder / 'facts').resolve()}")) as facts,
    ):
        return fill_people(ledger, facts, count, providers, kind)[1]


def fill_people(
    ledger: Ledger, facts: Facts, count: int, providers: dict[str, dict[str, Any]], kind: str = "fcm"
) -> tuple[Account, dict[str, str]]:
    """Do what `make_people` does in stores that are open; return the account too."""
    account, headers = make_caller(ledger)
    rows = [
        {"account_id": account.id, "name": name, "settings": msgspec.json.encode(one).decode(), "changed_at": 1.0}
        for name, one in providers.items()
    ]
    ledger.write_now(lambda connection: connection.execute(insert(schema.provider), rows))
    for first in range(1, count + 1, BLOCK):
        users = range(first, min(first + BLOCK, count + 1))
        _insert_people(ledger, account, users, kind)
        asyncio.run(refresh_profiles(ledger, facts, account.id, users))
    return account, headers


def make_device_token(kind: str, user: int) -> str:
    """Return a token of the length that real ones have. A browser's leads to the sink's one file."""
    match kind:
        case "fcm":
            return f"device-{user}:" + "t" * 140
        case "webpush":
            endpoint = f"https://fcm.googleapis.com/v1/projects/bench/messages:send?device-{user}:" + "t" * 140
            return msgspec.json.encode({"endpoint": endpoint, "keys": SUBSCRIPTION_KEYS}).decode()
        case _:
            return f"{user:064x}"


def _insert_people(ledger: Ledger, account: Account, users: range, kind: str) -> None:
    now = time.time()
    mine = {"account_id": account.id}
    times = {"created_at": now, "updated_at": now}
    people, identities, devices = [], [], []
    for user in users:
        profile = {"Name": f"Name {user}", "Email": f"user-{user}@example.com", "Plan": "gold"}
        text = msgspec.json.encode(profile).decode()
        people.append({**mine, "id": user, "profile": text, "version": 1, **times})
        identities.append({**mine, "kind": "identity", "value": f"user-{user}", "user_id": user})
        token = make_device_token(kind, user)
        device = {"user_id": user, "object_id": f"device-{user}", "kind": kind, "token": token, "registered_at": now}
        devices.append({**mine, **device})

    def write(connection: Any) -> None:
        connection.execute(insert(schema.user), people)
        connection.execute(insert(schema.identity), identities)
        connection.execute(insert(schema.device), devices)
        table = schema.account
        connection.execute(update(table).where(table.c.id == account.id).values(last_user=users[-1]))

    ledger.write_now(write)


def deliver(folder: Path, port: int, pid: int, caller: dict[str, str], fields: dict[str, Any]) -> Delivered:
    """Create a campaign, wait until it is closed, and read its times from the ledger."""
    before = sum(cpu_seconds(one) for one in family(pid))
    create_campaign(port, caller, fields)
    with closing(open_ledger(f"sqlite:///{folder / 'ledger.db'}")) as ledger:
        run, looks = wait_for_end(ledger)
    cpu = sum(cpu_seconds(one) for one in family(pid)) - before
    senders = sum(peak_mib(one) for one in family(pid)[1:])
    result = {name: int(run[name]) for name in ("sent", "unknown", "failed", "suppressed")}
    seconds = run["ended_at"] - run["frozen_at"]
    print_progress(f"{result['sent']:,} sent in {seconds:.1f} s, {result['sent'] / seconds:,.0f}/s")
    progress = [(at - run["frozen_at"], settled) for at, settled in looks]
    return Delivered(result, seconds, cpu, peak_mib(pid), senders, progress)


def create_campaign(port: int, caller: dict[str, str], fields: dict[str, Any]) -> None:
    """Create a campaign to everybody that is due now."""
    body = {"name": "bench", "where": {}, "devices": ["android"], "when": "now", "skip_estimate": True} | fields
    if body.get("target_mode") == "email":
        del body["devices"]
    asyncio.run(press(port, "/1/targets/create.json", caller, msgspec.json.encode(body), connections=1, seconds=0))


def wait_for_end(ledger: Ledger) -> tuple[dict[str, Any], list[tuple[float, int]]]:
    """Return the newest run with its numbers, once it is closed; and how many recipients had an outcome, a look every
    LOOK_SECONDS, by the wall clock. Raises RuntimeError after CAMPAIGN_SECONDS."""
    newest = select(schema.run).order_by(schema.run.c.id.desc()).limit(1)
    deadline = time.monotonic() + CAMPAIGN_SECONDS
    looks: list[tuple[float, int]] = []
    while time.monotonic() < deadline:
        run = ledger.read_now(lambda connection: connection.execute(newest).mappings().one())
        numbers = ledger.read_now(functools.partial(sum_numbers, campaign_id=run["campaign_id"]))
        if run["ended_at"] is not None:
            return {**run, **numbers}, looks
        looks.append((time.time(), sum(numbers.values())))
        time.sleep(LOOK_SECONDS)
    raise RuntimeError(f"the campaign is not over after {CAMPAIGN_SECONDS:.0f} s")


async def _send_bare(sink: Sink, count: int) -> float:
    """Return the requests a second of our FCM client without a ledger, with as many in flight as its pool allows."""
    now = time.time()
    messages = iter(_make_messages(count, int(now) + 3600))
    async with Transport() as transport:
        fcm = Fcm(Fcm.Settings(**sink.fcm), transport)

        async def pull() -> None:
            for message in messages:
                if (await fcm.send(message, now)).outcome is not Outcome.ACCEPTED:
                    raise RuntimeError("the sink refused a message")

        await fcm.send(_make_messages(1, int(now) + 3600)[0], now)  # the token, and the connection
        started = time.monotonic()
        await asyncio.gather(*(pull() for _ in range(CONNECTIONS * STREAMS)))
        return count / (time.monotonic() - started)


def _make_messages(count: int, expires_at: int) -> list[Push]:
    make: Callable[[int], Push] = lambda number: Push(  # noqa: E731
        id=f"{number:032x}",
        collapse="bench",
        address=Address("fcm", f"bare-{number}:" + "t" * 140),
        title=PLAIN["title"],
        body=PLAIN["body"],
        data={"wzrk_id": "bench_1", "wzrk_pid": str(number)},
        expires_at=expires_at,
    )
    return [make(number) for number in range(count)]
