"""What an account, or a stranger, may do to a server within its rights or against them. Each act goes on until its
process is ended, over loopback, with a bounded number of connections."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from benchmarks.visitor import Visitor

Headers = Mapping[str, str]
SILENT = 256
PROPERTIES = [f"P{n}" for n in range(40)]
SEND, UPLOAD, CREATE = "/1/send/push.json", "/1/upload", "/1/targets/create.json"


def _repeat(port: int, headers: Headers, callers: int, act: Callable[[Visitor, int], object]) -> None:
    """Do something over and over from so many callers; refusals and broken connections are what it is about."""

    def go(number: int) -> None:
        visitor = Visitor(port, headers)
        for turn in itertools.count(number, callers):
            with contextlib.suppress(OSError):
                act(visitor, turn)

    threads = [threading.Thread(target=go, args=(number,), daemon=True) for number in range(callers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _hold(port: int, count: int, sent: bytes) -> None:
    """Keep so many connections that have sent something, and open each again when it is closed."""
    open_now: list[socket.socket] = []
    while True:
        while len(open_now) < count:
            with contextlib.suppress(OSError):
                one = socket.create_connection(("127.0.0.1", port), timeout=5)
                one.sendall(sent)
                one.setblocking(False)
                open_now.append(one)
        time.sleep(0.5)
        for one in list(open_now):
            try:
                if one.recv(65_536):
                    continue
            except BlockingIOError:
                continue
            except OSError:
                pass
            open_now.remove(one)
            one.close()


def _head(path: str, headers: Headers, **more: object) -> bytes:
    named = {"Host": "x", "Content-Type": "application/json", **headers}
    named |= {name.replace("_", "-"): str(value) for name, value in more.items()}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in named.items()), "", ""]
    return "\r\n".join(lines).encode()


def hold_silent(port: int, headers: Headers) -> None:
    _hold(port, SILENT, b"")


def hold_resting(port: int, headers: Headers) -> None:
    _hold(port, SILENT, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")


def promise_bodies(port: int, headers: Headers) -> None:
    _hold(port, 32, _head(SEND, headers, Content_Length=5_000_000))


def hold_chunks(port: int, headers: Headers) -> None:
    _hold(port, 60, _head(SEND, headers, Transfer_Encoding="chunked") + b"100000\r\n" + b" " * 0x100000 + b"\r\n")


def try_passcodes(port: int, headers: Headers) -> None:
    _repeat(port, {**headers, "X-CleverTap-Passcode": "guess"}, 4, lambda one, _: one.get("/1/tag_groups.json"))


def ask_health(port: int, headers: Headers) -> None:
    _repeat(port, {}, 2, lambda one, _: (one.get("/healthz"), one.get("/metrics")))


def unfold_bombs(port: int, headers: Headers) -> None:
    bomb = gzip.compress(b" " * 100_000_000, 9)
    _repeat(port, {**headers, "Content-Encoding": "gzip"}, 2, lambda one, _: one.post(UPLOAD, bomb))


def ask_much(port: int, headers: Headers) -> None:
    def part(number: int) -> dict[str, Any]:
        named = [{"name": f"P{number}", "operator": "contains", "value": "x"}]
        times = {"operator": "greater_than_equals", "value": 1, "event_properties": named}
        return {"event_name": "E", "from": "-3650d", "to": "today", **times}

    parts = [{"advanced_query": {"did_all": [part(24 * k + m) for m in range(24)]}} for k in range(3)]
    _repeat(port, headers, 8, lambda one, _: one.post("/1/segments/explain.json", {"where": {"or": parts}}))


def send_much(port: int, headers: Headers) -> None:
    content = {"title": "t", "body": "b"}
    _repeat(port, headers, 32, lambda one, turn: one.post(SEND, {"to": {"Identity": [f"m{turn}"]}, "content": content}))


def name_nobody(port: int, headers: Headers) -> None:
    content = {"title": "t", "body": "b"}

    def act(one: Visitor, turn: int) -> int:
        return one.post(SEND, {"to": {"Identity": [f"n{turn}-{i}" for i in range(1000)]}, "content": content})

    _repeat(port, headers, 2, act)


def begin_campaigns(port: int, headers: Headers) -> None:
    asked = {"name": "n", "content": {"title": "t", "body": "b"}, "devices": ["android"], "when": "now"}
    where = {"event_name": "E", "from": 20200101, "to": 20991231}
    _repeat(port, headers, 4, lambda one, _: one.post(CREATE, asked | {"where": where}))


def nest_ranges(port: int, headers: Headers) -> None:
    bodies = (
        "{% for i in (1..400000000) limit:1 offset:399999999 %}x{% endfor %}",
        "{% for i in (1..20000000) reversed %}x{% endfor %}",
        "{% for i in (1..900) %}{% for j in (1..900) %}{{ i | times: j }}{% endfor %}{% endfor %}",
    )

    def act(one: Visitor, turn: int) -> int:
        return one.post(SEND, {"to": {"Identity": ["a"]}, "content": {"title": "t", "body": bodies[turn % 3]}})

    _repeat(port, headers, 4, act)


def make_work(port: int, headers: Headers) -> None:
    """Send what takes as long to try out as a template may."""
    loops = "{% for i in (1..40) %}{% for j in (1..24) %}{{ i | times: j }}{% endfor %}{% endfor %}" * 20

    def act(one: Visitor, turn: int) -> int:
        return one.post(SEND, {"to": {"Identity": ["a"]}, "content": {"title": f"{turn}", "body": loops}})

    _repeat(port, headers, 4, act)


def mail_mazes(port: int, headers: Headers) -> None:
    bodies = ("<!--" * 25_000, "}}" * 99 + "{{" * 99 + "x" * 200_000, "{% liquid\n" + "assign x = 1\n" * 20_000 + "%}")

    def act(one: Visitor, turn: int) -> int:
        content = {"subject": "s", "body": f"{turn}{bodies[turn % 3]}"}
        return one.post("/1/send/email.json", {"to": {"Identity": ["a"]}, "content": content})

    _repeat(port, headers, 8, act)


def fatten_profiles(port: int, headers: Headers) -> None:
    def act(one: Visitor, turn: int) -> int:
        values = {f"k{turn}-{i}": "v" * 1990 for i in range(250)}
        return one.post(UPLOAD, {"d": [{"type": "profile", "identity": "fat", "profileData": values}]})

    _repeat(port, headers, 4, act)


def name_properties(port: int, headers: Headers) -> None:
    def act(one: Visitor, turn: int) -> int:
        data = {f"prop{(turn * 20 + j) % 5000}": "y" * 80 for j in range(20)}
        events = [{"type": "event", "identity": f"p{i}", "evtName": "E", "evtData": data} for i in range(500)]
        return one.post(UPLOAD, {"d": events})

    _repeat(port, headers, 4, act)


def save_segments(port: int, headers: Headers) -> None:
    def act(one: Visitor, turn: int) -> None:
        values = [f"{turn}-{v}" + "x" * 400 for v in range(120)]
        where = {"common_profile_properties": {"profile_fields": [{"name": "P", "value": values}]}}
        one.post("/1/segments/save.json", {"name": f"s{turn % 500}", "where": where})
        one.post("/1/segments/list.json", {"limit": 1})

    _repeat(port, headers, 4, act)


ACTS: dict[str, Callable[[int, Headers], None]] = {
    "silent connections": hold_silent,
    "resting connections": hold_resting,
    "promised bodies": promise_bodies,
    "bodies held": hold_chunks,
    "wrong passcodes": try_passcodes,
    "health": ask_health,
    "bombs": unfold_bombs,
    "questions": ask_much,
    "sends": send_much,
    "names of nobody": name_nobody,
    "campaigns": begin_campaigns,
    "ranges": nest_ranges,
    "work": make_work,
    "mails": mail_mazes,
    "fat profiles": fatten_profiles,
    "property names": name_properties,
    "segments": save_segments,
}
