"""The query of `GET /a`, as the Web SDK sends it, and the JavaScript or JSON it understands. Pure."""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgspec

from tocsin.ingest.push_service import CUT_OFF
from tocsin.ingest.sdk.lz_string import BadPacking, unpack
from tocsin.ingest.sdk.mobile import Unreadable, add_event
from tocsin.ingest.sdk.report import FETCH, LAUNCHED, SdkBatch, SdkReport, is_device, make_id, read_clock
from tocsin.ingest.sdk.traits import read_browser_traits, read_marks
from tocsin.ingest.sdk.transit import unseal

OPTED_OUT = ":OO"  # behind the GUID of a browser that may not be tracked
# The SDK cuts the host off a browser's push endpoint; Safari says no name, or the old one of its own tokens.
PUSH_SERVICES = {
    "Chrome": ("chrome", CUT_OFF["chrome"]),
    "Firefox": ("firefox", CUT_OFF["firefox"]),
    "": ("safari", CUT_OFF[""]),
}
MOST = 2**53  # of a number that JavaScript holds exactly


class WebAnswer(msgspec.Struct, frozen=True):
    """What a browser hears. guid: its CleverTap ID. resume: it belongs to somebody else from now on. opted_out: None
    where that was not the question."""

    guid: str
    session: int
    resume: bool
    request: int
    opted_out: bool | None = None


class WebRequest(msgspec.Struct, frozen=True):
    """What a browser says. account: the SDK's id of it. answer: None where none is wanted."""

    account: str
    batch: SdkBatch
    answer: WebAnswer | None


def read_web(query: Mapping[str, str], user_agent: str, now: float) -> WebRequest:
    """Return what a request says. Raise Unreadable for one that no SDK sends, and Undecryptable."""
    payload = _read_payload(query.get("d", ""))
    kind, number, at = (
        query.get("type", ""),
        _read_number(query.get("rn")),
        read_clock(_read_number(query.get("i")), now),
    )
    given = [one.removesuffix(OPTED_OUT) for one in (payload.get("g"), query.get("gc")) if isinstance(one, str)]
    guid = next((one for one in given if is_device(one)), "") or secrets.token_hex(16)
    session = _find_session(payload.get("s"), query.get("s"))
    opted_out = {"true": True, "false": False}.get(query.get("optOut", ""))
    answer = WebAnswer(
        guid=guid + (OPTED_OUT if opted_out else ""),
        session=int(now) if session is None else session,
        resume=payload.get("isOUL") is True,
        request=number or 0,
        opted_out=opted_out,
    )
    af = payload.get("af")
    fields: Mapping[str, Any] = af if isinstance(af, dict) else {}
    batch = SdkBatch(
        device=guid,
        reports=[],
        views=[],
        traits=read_browser_traits(fields, user_agent),
        marks=read_marks(fields, "Web"),
        dropped=Counter(),
    )
    told = make_id(guid, kind, number or 0, _read_number(query.get("i")) or 0, _read_number(query.get("sn")) or 0)
    # A subscription has no time of its own.
    at = int(now) if kind == "data" and at is None else at
    if at is None:
        batch.dropped["clock"] += 1
    elif kind == "page" and session is None:
        batch.reports.append(SdkReport("event", at, told, LAUNCHED))
    elif kind == "push":
        _add_push(batch, payload, at, told)
    elif kind == "data":
        _add_subscription(batch, payload, at, told)
    else:
        batch.dropped["internal"] += 1
    return WebRequest(str(payload.get("id", "")), batch, None if kind == "data" else answer)


def _add_push(batch: SdkBatch, payload: Mapping[str, Any], at: int, told: int) -> None:
    if payload.get("type") == "profile" and isinstance(payload.get("profile"), dict):
        batch.reports.append(SdkReport("profile", at, told, data=payload["profile"]))
    elif payload.get("evtName") == FETCH:
        batch.dropped["internal"] += 1
    elif payload.get("type") == "event" and isinstance(payload.get("evtName"), str):
        add_event(batch, payload["evtName"], payload.get("evtData"), at, told)
    else:
        batch.dropped["unreadable"] += 1


def _add_subscription(batch: SdkBatch, payload: Mapping[str, Any], at: int, told: int) -> None:
    """Add a browser's push subscription, or what takes all of them back."""
    if payload.get("action") == "unregister":
        batch.reports.append(SdkReport("unregister", at, told, "webpush"))
        return
    endpoint, service = payload.get("endpoint"), PUSH_SERVICES.get(payload.get("browser", ""))
    if not isinstance(endpoint, str) or service is None:
        batch.dropped["token"] += 1
        return
    name, start = service
    data = {"id": start + endpoint, "keys": payload.get("keys")}
    batch.reports.append(SdkReport("register", at, told, name, data))


def _read_payload(packed: str) -> dict[str, Any]:
    """Return the object that was packed, and encrypted where the app asks for that. Raise Unreadable, Undecryptable."""
    found = _unpack(packed)
    if found.get("encrypted") is True:
        text, _ = unseal(msgspec.json.encode(found))
        try:
            return _decode(text)
        except Unreadable:
            return _unpack(text.decode("ascii", "replace"))
    return found


def _unpack(packed: str) -> dict[str, Any]:
    try:
        return _decode(unpack(packed).encode())
    except (BadPacking, UnicodeEncodeError):
        raise Unreadable from None


def _decode(text: bytes) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Unreadable from None
    if not isinstance(found, dict):
        raise Unreadable
    return found


def _read_number(text: str | None) -> int | None:
    return int(text) if text and text.isascii() and text.isdigit() and len(text) < 16 else None


def _find_session(told: Any, asked: str | None) -> int | None:
    """Return the session that a request belongs to; None for a new one."""
    found = told if isinstance(told, int) and not isinstance(told, bool) else _read_number(asked)
    return found if found is not None and 0 < found < MOST else None


def write_script(answer: WebAnswer, push_key: str = "") -> str:
    """Return an answer as the script that calls the SDK. push_key: the VAPID key that it may subscribe with; both calls
    about it have to come before the answer itself, and with each."""
    arguments = [answer.guid, answer.session, answer.resume, answer.request]
    if answer.opted_out is not None:
        arguments.append(answer.opted_out)
    # A guid has letters that mean something in HTML; in a script they are written as escapes.
    text = msgspec.json.encode(arguments).decode().replace("<", "\\u003c")
    push = f'$WZRK_WR.enableWebPush(true,"{push_key}");$WZRK_WR.tr({{"webPushConfig":{{}}}});' if push_key else ""
    return f"{push}$WZRK_WR.s({text[1:-1]});"


def write_json(answer: WebAnswer, push_key: str = "") -> dict[str, Any]:
    """Return an answer as the object that the SDK's fetch mode reads. push_key: as for `write_script`."""
    meta: dict[str, Any] = {"g": answer.guid, "sid": answer.session, "rf": answer.resume, "rn": answer.request}
    meta = meta if answer.opted_out is None else meta | {"optOut": answer.opted_out}
    if not push_key:
        return {"tr": {}, "meta": meta}
    return {"tr": {"webPushConfig": {}}, "meta": meta, "wpe": {"enabled": True, "key": push_key}}
