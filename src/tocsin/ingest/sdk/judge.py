"""What is told becomes records, by the rules of an upload; what one property has wrong costs that property. Pure.

An app's token is public, so a device may do less than a server: it raises no event that only this server raises, takes
nobody's address off, and names nobody where the account wants an upload to confirm it (`policy.Apps`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from tocsin.ingest.record import (
    RESTRICTED_EVENTS,
    SPELLINGS,
    ProfileRecord,
    Record,
    Rejected,
    TokenRecord,
    read_record,
)
from tocsin.ingest.sdk.report import LAUNCHED, SdkBatch, SdkReport, tells_traits
from tocsin.ingest.sdk.traits import find_country, read_zone
from tocsin.ingest.subscription import UNSUBSCRIBED

# Only this server knows of them, or applies them to somebody.
FORBIDDEN = (RESTRICTED_EVENTS - {LAUNCHED}) | {UNSUBSCRIBED, "Mail Bounced", "Mail Complained", "App Installed"}
NAMING = frozenset((*SPELLINGS, "Email", "Phone"))  # properties that say who somebody is, or where to write to them
# What an SDK adds to a profile on its own, and the property that is made of it.
ADDED = {"tz": ("Tz", read_zone), "cc": ("Country", find_country)}
ENUM = "$E_"  # the Web SDK's mark of an enumerated value


class JudgedReport(msgspec.Struct, frozen=True):
    """A report that may be stored. logs_in: it says who uses the device."""

    report: SdkReport
    record: Record
    logs_in: bool = False


def judge(batch: SdkBatch, now: float, *, trust: bool) -> list[JudgedReport]:
    """Return what of a batch may be stored, profiles first as the SDKs order them. What may not is counted in
    `batch.dropped`. trust: a device may say who uses it."""
    found = [_judge_one(batch, report, now, trust) for report in batch.reports]
    judged = [one for one in found if one is not None]
    launches = [one.report.at for one in judged if tells_traits(one.report)]
    if launches and batch.traits:
        raw = {"type": "profile", "objectId": batch.device, "ts": max(launches), "profileData": dict(batch.traits)}
        if (record := _read_fitting(batch, raw, "profileData", now)) is not None:
            judged.append(JudgedReport(SdkReport("profile", record.at, 0), record))
    return sorted(judged, key=lambda one: (not isinstance(one.record, ProfileRecord), one.report.at))


def _judge_one(batch: SdkBatch, report: SdkReport, now: float, trust: bool) -> JudgedReport | None:
    raw: dict[str, Any] = {"objectId": batch.device, "ts": report.at}
    match report.kind:
        case "profile":
            data = _read_properties(report.data)
            if not trust:
                kept = {key: value for key, value in data.items() if key not in NAMING}
                batch.dropped["unconfirmed"] += len(kept) != len(data)
                data = kept
            record = _read_fitting(batch, raw | {"type": "profile", "profileData": data}, "profileData", now)
            return None if record is None else JudgedReport(report, record, _logs_in(record))
        case "event":
            if report.name in FORBIDDEN:
                batch.dropped["forbidden"] += 1
                return None
            props = {**report.data, **batch.marks}
            event = raw | {"type": "event", "evtName": report.name, "evtData": props}
            record = _read_fitting(batch, event, "evtData", now)
        case "unregister" if not report.data:
            record = TokenRecord(keys={"objectId": batch.device}, at=report.at, kind=report.name, token="")
        case _:
            token = raw | {"type": "token", "tokenData": report.data | {"type": report.name}}
            try:
                record = read_record(token, now)
            except Rejected:
                batch.dropped["token"] += 1
                return None
    return None if record is None else JudgedReport(report, record)


def _logs_in(record: Record) -> bool:
    return isinstance(record, ProfileRecord) and bool(len(record.keys) > 1 or record.email or record.phone)


def _read_properties(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the properties of a profile report, without what the SDK means by them."""
    found: dict[str, Any] = {}
    for key, value in data.items():
        if key in ADDED:
            name, read = ADDED[key]
            if text := read(value):
                found[name] = text
        else:
            found[key] = value[len(ENUM) :] if isinstance(value, str) and value.startswith(ENUM) else value
    return found


def _read_fitting(batch: SdkBatch, raw: dict[str, Any], field: str, now: float) -> Record | None:
    """Return the record of a report, without the properties that no record may hold; None when not even the rest of it
    is one."""
    try:
        return read_record(raw, now, system=True)
    except Rejected:
        pass
    data = raw[field]
    fitting = {key: value for key, value in data.items() if _fits(raw | {field: {key: value}}, now)}
    batch.dropped["property"] += len(data) - len(fitting)
    try:
        return read_record(raw | {field: fitting}, now, system=True)
    except Rejected:
        batch.dropped["record"] += 1
        return None


def _fits(raw: dict[str, Any], now: float) -> bool:
    try:
        read_record(raw, now, system=True)
    except Rejected:
        return False
    return True
