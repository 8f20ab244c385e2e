"""The body of `POST /a1`, as the Android and iOS SDKs send it: what each of its objects is. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgspec

from tocsin.ingest.sdk.report import FETCH, VIEWS, SdkBatch, SdkReport, is_device, make_id, read_clock, tells_traits
from tocsin.ingest.sdk.traits import read_marks, read_mobile_traits

OBJECTS = 600  # of one batch; the SDKs send 50, and what an iPhone kept for days comes 49 at a time

_parts = msgspec.json.Decoder(list[msgspec.Raw])
_object = msgspec.json.Decoder(dict[str, Any])


class Unreadable(Exception):  # noqa: N818 - an answer: it is dropped, for it would come again unchanged
    """A request that no SDK sends."""


class MobileMeta(msgspec.Struct, frozen=True):
    """The first object of a batch. shown: messages whose views wait for an acknowledgement."""

    device: str
    account: str
    token: str
    shown: bool
    fields: Mapping[str, Any]


def read_mobile(body: bytes, now: float) -> tuple[MobileMeta, SdkBatch]:
    """Return what a body says. Raise Unreadable for one without a right meta object."""
    try:
        parts = _parts.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise Unreadable from None
    if not 0 < len(parts) <= OBJECTS:
        raise Unreadable
    meta = _read_meta(_read_object(parts[0]))
    batch = SdkBatch(
        device=meta.device,
        reports=[],
        views=[],
        traits={},
        marks=read_marks(meta.fields, "Mobile"),
        dropped=Counter(),
    )
    equals: dict[bytes, int] = {}
    for part in parts[1:]:
        raw = bytes(part)
        equals[raw] = equals.get(raw, 0) + 1
        _add(batch, _read_object(part), make_id(meta.device, raw, equals[raw]), now)
    if any(tells_traits(one) for one in batch.reports):
        batch.traits.update(read_mobile_traits(meta.fields))
    return meta, batch


def _read_meta(meta: Mapping[str, Any] | None) -> MobileMeta:
    if meta is None or meta.get("type") != "meta" or not is_device(meta.get("g")):
        raise Unreadable
    fields, shown = meta.get("af"), meta.get("rtl")
    return MobileMeta(
        device=meta["g"],
        account=str(meta.get("id", "")),
        token=str(meta.get("tk", "")),
        shown=isinstance(shown, list) and bool(shown),
        fields=fields if isinstance(fields, dict) else {},
    )


def _read_object(part: msgspec.Raw) -> dict[str, Any] | None:
    try:
        return _object.decode(part)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _add(batch: SdkBatch, raw: dict[str, Any] | None, told: int, now: float) -> None:
    """Add one object of a body to a batch, or count why not."""
    kind = None if raw is None else raw.get("type")
    if raw is None or kind not in ("event", "profile", "data", "page", "ping"):
        batch.dropped["unreadable"] += 1
        return
    if kind in ("page", "ping") or raw.get("evtName") == FETCH:
        batch.dropped["internal"] += 1
        return
    at = read_clock(raw.get("ep"), now)
    if at is None:
        batch.dropped["clock"] += 1
        return
    match kind:
        case "profile" if isinstance(raw.get("profile"), dict):
            batch.reports.append(SdkReport("profile", at, told, data=raw["profile"]))
        case "event" if isinstance(raw.get("evtName"), str):
            add_event(batch, raw["evtName"], raw.get("evtData"), at, told)
        case "data" if isinstance(raw.get("data"), dict):
            _add_token(batch, raw["data"], at, told)
        case _:
            batch.dropped["unreadable"] += 1


def add_event(batch: SdkBatch, name: str, data: Any, at: int, told: int) -> None:
    """Add an event to a batch; a view or click of a message is known by the message's id alone."""
    props = data if isinstance(data, dict) else {}
    if name not in VIEWS:
        batch.reports.append(SdkReport("event", at, told, name, props))
    elif isinstance(push_id := props.get("wzrk_pid"), str):
        batch.views.append((VIEWS[name], push_id))
    else:
        batch.dropped["push id"] += 1


def _add_token(batch: SdkBatch, data: Mapping[str, Any], at: int, told: int) -> None:
    action, token, kind = data.get("action"), data.get("id"), data.get("type")
    if action not in ("register", "unregister") or not isinstance(token, str) or kind not in ("fcm", "apns"):
        batch.dropped["token"] += 1
        return
    batch.reports.append(SdkReport("register" if action == "register" else "unregister", at, told, kind, {"id": token}))
