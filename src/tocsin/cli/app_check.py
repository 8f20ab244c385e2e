"""`tocsin app check`: what an SDK would see at a running server, through the name and the proxy that apps will use."""

from __future__ import annotations

import time
from collections.abc import Mapping
from email.message import Message
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import msgspec

from tocsin.authenticator.apps import ClientApp

SECONDS = 10.0  # what the SDKs wait
DEVICE = "__htocsin-check"  # of the one person that checks are
FIELDS = {"Version": "check", "OS": "Android", "SDK Version": 80200}


def check_app(app: ClientApp, url: str, now: float) -> dict[str, Any]:
    """Send a batch with one `App Launched` as an Android SDK does, and ask what the SDKs ask. Return what was seen;
    `wrong` is a list of sentences, empty when an app would work."""
    found: dict[str, Any] = {"url": url, "app": app.name}
    wrong: list[str] = []
    host = urlsplit(url).netloc
    try:
        status, _, headers = _ask("GET", f"{url}/hello?os=Android&t=80200&z={app.sdk_id}")
        found["hello"] = {"status": status, "reports to": headers.get("x-wzrk-rd")}
        if status != 200 or headers.get("x-wzrk-rd") not in (host, urlsplit(url).hostname):
            wrong.append("GET /hello does not name the host that was asked: let the proxy pass Host on.")
        found["batch"] = _send_batch(app, url, int(now), wrong)
        status, _, headers = _ask("OPTIONS", f"{url}/a")
        found["web"] = {"status": status, "open to pages": headers.get("access-control-allow-origin")}
        if status != 204 or headers.get("access-control-allow-origin") != "*":
            wrong.append("OPTIONS /a does not come from Tocsin: let the proxy hand it on.")
    except (URLError, TimeoutError, OSError) as error:
        wrong.append(f"{url} does not answer: {getattr(error, 'reason', error)}.")
    if not url.startswith("https://"):
        found["note"] = "Apps speak https on port 443 only; check the name they will use with --url."
    return {**found, "wrong": wrong}


def _send_batch(app: ClientApp, url: str, now: float, wrong: list[str]) -> dict[str, Any]:
    """Send the batch. A message said to be shown is acknowledged to who has the right id and token alone."""
    meta = {"type": "meta", "g": DEVICE, "id": app.sdk_id, "tk": app.token, "af": FIELDS, "rtl": ["check"]}
    launch = {"type": "event", "evtName": "App Launched", "evtData": FIELDS, "ep": now, "s": now, "pg": 1}
    system = "iOS" if app.platforms == "ios" else "Android"
    headers = {
        "Content-Type": "application/json; charset=utf-8",
        "X-CleverTap-Account-ID": app.sdk_id,
        "X-CleverTap-Token": app.token,
    }
    path = f"{url}/a1?os={system}&t=80200&z={app.sdk_id}&ts={now}"
    started = time.monotonic()
    status, body, got = _ask("POST", path, headers, msgspec.json.encode([meta, launch]))
    seen = {"status": status, "milliseconds": round(1000 * (time.monotonic() - started))}
    if status != 200:
        wrong.append(f"POST /a1 is answered {status}: an SDK would keep its batch and send it again.")
    elif b"pushamp_notifs" not in body and app.platforms != "web":
        wrong.append("POST /a1 did not know the app: is it the server of this account, and no older than a second?")
    if "x-wzrk-rd" in got:
        wrong.append("POST /a1 is answered with X-WZRK-RD, which makes an Android app send its batch again.")
    return seen


def _ask(
    method: str, url: str, headers: Mapping[str, str] | None = None, body: bytes | None = None
) -> tuple[int, bytes, Mapping[str, str]]:
    request = Request(url, body, dict(headers or {}), method=method)  # noqa: S310 - the operator's own words
    try:
        with urlopen(request, timeout=SECONDS) as reply:  # noqa: S310
            return reply.status, reply.read(), _lower(reply.headers)
    except HTTPError as error:
        return error.code, error.read(), _lower(error.headers)


def _lower(headers: Message) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}
