"""`tocsin bench feedback`: reports of views and clicks by the way they come, beside uploads and sends."""

from __future__ import annotations

import asyncio
import threading
import time
import urllib.request
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec
from sqlalchemy import insert, select

from benchmarks.acceptance import serving_bare
from benchmarks.answering import Pace
from benchmarks.delivery import PLAIN, make_people
from benchmarks.ingest import make_events
from benchmarks.load import press
from benchmarks.pacer import PERSON, Order, Paced, run_pacer
from benchmarks.reading import Reading, print_progress
from benchmarks.reporters import run_reporter
from benchmarks.server import OFTEN, cpu_seconds, new_folder, serving
from benchmarks.timed_sink import open_timed_sink
from benchmarks.trial import pick
from benchmarks.visitor import Visitor
from tocsin.authenticator.apps import add_app
from tocsin.channels import PLATFORM_CODES
from tocsin.delivery.mail_id import LINK_PATH, PIXEL_ENDING, PIXEL_PATH, MailId, sign_mail_id
from tocsin.delivery.push_id import sign_push_id
from tocsin.demo import free_port
from tocsin.outcome import State, count_numbers
from tocsin.queue import SIZE
from tocsin.store import schema
from tocsin.store.ledger import Ledger, open_ledger
from tocsin.store.signing_key import read_signing_keys

PEOPLE = 5000
BARE = 64  # connections to a bare app, which answers at once
A_SECOND = 12_000  # messages that are there to be reported, for each second of a part
SETTLE_SECONDS = 5.0  # for what was reported last
SENDS = 50.0  # requests to `/1/send` a second
UPLOADED = 1000  # events in a request to `/1/upload`
TARGET = "https://shop.example/sale?utm_source=mail&utm_medium=email"
BROWSER = "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"
GROUP = "bench"
APP, TOKEN = "BENCH-APP", "BENCH-TOKEN"
DEVICES = 5000
# One account has all connections, and its apps half of them at most.
APPS_OFTEN = {
    **{"TOCSIN_APP_REQUESTS_PER_SECOND": "100000", "TOCSIN_APP_DEVICE_PER_MINUTE": "100000"},
    "TOCSIN_CONNECTIONS": "4096",
}
FIELDS = {
    **{"Build": "1", "Version": "1.0", "OS Version": "14", "SDK Version": 80200, "Make": "Google", "Model": "Pixel"},
    **{"OS": "Android", "locale": "en_US", "useIP": False, "cc": "us", "proxyDomain": "t.example"},
}

Place = tuple[int, int]  # a message's chunk and position


def _get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{BROWSER}\r\n\r\n".encode()


def report_track(key: bytes, place: Place) -> bytes:
    """A click, as an app reports it."""
    body = b'{"id":"%b"}' % sign_push_id(key, *place).encode()
    head = "POST /track/clicked HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def report_app(key: bytes, place: Place) -> bytes:
    """A view of a push, as an Android SDK reports it: alone."""
    return _post_batch(place, {"evtName": "Notification Viewed", "evtData": {"wzrk_pid": sign_push_id(key, *place)}})


def report_event(_: bytes, place: Place) -> bytes:
    """An event of a device that is known from its second one on."""
    return _post_batch(place, {"evtName": "Looked", "evtData": {"Order": f"{place[0]}-{place[1]}", "Price": 9.5}})


def _post_batch(place: Place, event: dict[str, Any]) -> bytes:
    """Return a batch of one event, as an SDK sends most: it waits a second for more, and people are slow."""
    device = (place[0] * SIZE + place[1]) % DEVICES
    meta = {"type": "meta", "g": f"__{device:032x}", "id": APP, "tk": TOKEN, "af": FIELDS, "l_ts": 1, "f_ts": 1}
    common = {"type": "event", "ep": int(time.time()), "s": int(time.time()) - 60, "pg": 1, "f": False, "lsl": 0}
    body = msgspec.json.encode([meta, event | common])
    head = (
        f"POST /a1?os=Android&t=80200&z={APP}&ts={int(time.time())} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
        f"Content-Type: application/json; charset=utf-8\r\nX-CleverTap-Account-ID: {APP}\r\n"
        f"X-CleverTap-Token: {TOKEN}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def report_link(key: bytes, place: Place) -> bytes:
    """A click on a mail's link."""
    return _get(f"{LINK_PATH}{sign_mail_id(key, _mail(place), 'link', TARGET.encode())}?{TARGET}")


def report_pixel(key: bytes, place: Place) -> bytes:
    """A mail program that shows the picture."""
    return _get(f"{PIXEL_PATH}{sign_mail_id(key, _mail(place), 'open')}{PIXEL_ENDING}")


# By the way a report comes: its channel, and what makes its request.
WAYS: Mapping[str, tuple[str, Callable[[bytes, Place], bytes]]] = {
    "track": ("push", report_track),
    "link": ("email", report_link),
    "pixel": ("email", report_pixel),
    "app view": ("push", report_app),
    "app event": ("push", report_event),
}


def _mail(place: Place) -> MailId:
    return MailId(*place, int(time.time()) - 60)


class Stage(msgspec.Struct, frozen=True):
    """A server with people and a sink, and the key that signs its ids."""

    folder: Path
    port: int
    pid: int
    headers: dict[str, str]
    key: bytes


@contextmanager
def _staged() -> Iterator[Stage]:
    with new_folder() as folder, open_timed_sink(folder / "sink", Pace()) as sink:
        headers = make_people(folder, PEOPLE, {sink.provider: sink.settings}, "apns")
        port = free_port(18_700, 1)
        with serving(folder, port, OFTEN | APPS_OFTEN) as pid, closing(_open(folder)) as ledger:
            add_app(ledger, headers["X-CleverTap-Account-Id"], "bench", time.time(), sdk_id=APP, token=TOKEN)
            yield Stage(folder, port, pid, headers, read_signing_keys(ledger, time.time())[0].value)


def _open(folder: Path) -> Ledger:
    return open_ledger(f"sqlite:///{folder / 'ledger.db'}")


def measure_feedback(seconds: float) -> list[Reading]:
    """Measure each way alone; then all of them, uploads and sends together. After each part the numbers are read.

    Raises RuntimeError when a report that was answered is not counted.
    """
    readings: list[Reading] = []
    with _staged() as stage:
        alone = _send(stage, seconds)
        with serving_bare() as port:
            requests = _prepare(stage, ["link"], int(A_SECOND * seconds))
            bare = _rate(run_reporter(port, requests, seconds, connections=BARE))
        readings.append(Reading("bare app, the same generator", bare, "requests/s"))
        for way in WAYS:
            readings += _measure_alone(stage, way, seconds, bare)
        readings += _measure_together(stage, seconds, alone)
    return readings


def _measure_alone(stage: Stage, way: str, seconds: float, bare: float) -> list[Reading]:
    requests = _prepare(stage, [way], int(A_SECOND * seconds))
    before, cpu = _count(stage), cpu_seconds(stage.pid)
    paced = run_reporter(stage.port, requests, seconds)
    cpu = cpu_seconds(stage.pid) - cpu
    taken = _taken(paced)
    counted = _wait_for(stage, before, taken)
    print_progress(f"{way}: {taken:,} reports, {_rate(paced):,.0f}/s")
    return [
        Reading(f"{way}, alone", _rate(paced), "reports/s", "bare app", _rate(paced) / bare),
        Reading(f"{way}, alone, answer p99", _percentile(paced, 0.99), "ms"),
        Reading(f"{way}, alone, CPU of the server", cpu / taken * 1e6, "µs a report"),
        Reading(f"{way}, alone, counted", float(counted), f"of {taken}"),
    ]


def _measure_together(stage: Stage, seconds: float, alone: Paced) -> list[Reading]:
    """Measure all ways in turn, as fast as they are answered, while events are uploaded and pushes are sent."""
    requests = _prepare(stage, list(WAYS), int(A_SECOND * seconds))
    before, found = _count(stage), dict[str, Any]()
    uploads = threading.Thread(target=lambda: found.update(records=asyncio.run(_upload(stage, seconds))))
    sends = threading.Thread(target=lambda: found.update(sends=_send(stage, seconds)))
    for one in (uploads, sends):
        one.start()
    paced = run_reporter(stage.port, requests, seconds)
    for one in (uploads, sends):
        one.join()
    taken = _taken(paced)
    counted = _wait_for(stage, before, taken)
    beside = found["sends"]
    first, second = _percentile(alone, 0.99), _percentile(beside, 0.99)
    print_progress(f"together: {_rate(paced):,.0f} reports/s, sends p99 {second:,.1f} ms")
    return [
        Reading("all ways, beside /1/upload and /1/send", _rate(paced), "reports/s"),
        Reading("all ways, beside them, answer p99", _percentile(paced, 0.99), "ms"),
        Reading("all ways, beside them, counted", float(counted), f"of {taken}"),
        Reading("/1/upload, beside the reports", found["records"] / seconds, "records/s"),
        Reading("/1/send, alone, answer p99", first, "ms"),
        Reading("/1/send, beside them, answer p99", second, "ms", "alone", second / first),
        Reading("/1/send, beside them, accepted", float(len(beside.accepted)), f"of {len(beside.due)}"),
    ]


def _prepare(stage: Stage, ways: Sequence[str], count: int) -> list[bytes]:
    """Make so many messages that were sent, and the request that reports each; the ways in turn."""
    each = -(-count // len(ways) // SIZE) * SIZE
    columns: list[list[bytes]] = []
    with closing(_open(stage.folder)) as ledger:
        for way in ways:
            channel, make = WAYS[way]
            places = _add_sent(ledger, stage.headers["X-CleverTap-Account-Id"], channel, each)
            columns.append([make(stage.key, place) for place in places])
    return [request for row in zip(*columns, strict=True) for request in row]


def _add_sent(ledger: Ledger, account_id: str, channel: str, count: int) -> list[Place]:
    """Write closed chunks of messages that were all accepted; return their places."""
    now, states = time.time(), bytes([State.ACCEPTED]) * SIZE
    platform = "ios" if channel == "push" else channel
    row: dict[str, Any] = {
        **{"account_id": account_id, "run_id": None, "campaign_id": 0, "channel": channel, "tag_group": GROUP},
        **{"priority": 0, "open": 0, "not_before": now, "expires_at": now, "started_at": now, "created_at": now},
        **{"request": None, "notes": "{}", "states": states, "size": SIZE, **count_numbers(states)},
        "users": array("I", [1 + number % PEOPLE for number in range(SIZE)]).tobytes(),
        "platforms": bytes([PLATFORM_CODES.index(platform)]) * SIZE,
    }

    def write(connection: Any) -> list[int]:
        group = {"account_id": account_id, "name": GROUP, "created_at": now}
        if connection.scalar(select(schema.tag_group.c.name)) is None:
            connection.execute(insert(schema.tag_group).values(group))
        made = [connection.execute(insert(schema.chunk).values(row)) for _ in range(count // SIZE)]
        return [int(one.inserted_primary_key[0]) for one in made]

    return [(chunk, position) for chunk in ledger.write_now(write) for position in range(SIZE)]


def _send(stage: Stage, seconds: float) -> Paced:
    """Send pushes of one recipient each at an even rate; they are delivered to the sink."""
    body = {"to": {"Identity": [f"user-{PERSON.decode()}"]}, "content": PLAIN}
    order = Order(
        port=stage.port,
        path="/1/send/push.json",
        headers=stage.headers,
        body=msgspec.json.encode(body).decode(),
        people=PEOPLE,
        rate=SENDS,
        count=max(1, int(SENDS * seconds)),
        seconds=seconds,
        connections=16,
        first=1,
    )
    return run_pacer(order)


async def _upload(stage: Stage, seconds: float) -> int:
    """Upload events over one connection; return how many."""
    load = await press(stage.port, "/1/upload", stage.headers, make_events(0, UPLOADED), connections=1, seconds=seconds)
    return load.requests * UPLOADED


def _count(stage: Stage) -> dict[str, int]:
    """Return the views and clicks of the tag group, and the events of apps that both stores have."""
    with closing(Visitor(stage.port, stage.headers)) as visitor:
        groups = visitor.read("/1/tag_groups.json")["tag_groups"]
    with urllib.request.urlopen(f"http://127.0.0.1:{stage.port}/metrics") as page:
        text = page.read().decode()
    stored, views = (
        sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(start))
        for start in ('tocsin_app_reports_total{result="stored"}', 'tocsin_reports_total{result="counted",way="app"}')
    )
    counts = {kind: int(groups.get(GROUP, {}).get(kind, 0)) for kind in ("viewed", "clicked")}
    return counts | {"events": int(stored - views)}


def _wait_for(stage: Stage, before: Mapping[str, int], wanted: int) -> int:
    """Return how many reports were counted since, once they are as many as wanted. Raise RuntimeError when
    they are not after SETTLE_SECONDS."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while True:
        found = sum(_count(stage).values()) - sum(before.values())
        if found >= wanted:
            return found
        if time.monotonic() > deadline:
            raise RuntimeError(f"of {wanted} reports {found} were counted")
        time.sleep(0.1)


def _taken(paced: Paced) -> int:
    return sum(status in (200, 302) for status in paced.status)


def _rate(paced: Paced) -> float:
    times = [at for at, status in zip(paced.answered, paced.status, strict=True) if status in (200, 302)]
    return len(times) / (max(times) - paced.due[0])


def _percentile(paced: Paced, share: float) -> float:
    """Return a percentile of the times from due to answered, in milliseconds."""
    return pick(sorted(at - due for at, due in zip(paced.answered, paced.due, strict=True) if at), share) * 1000
