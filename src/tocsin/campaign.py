"""Stage 3 of 7, campaign: what was asked for, and its runs: states as a table, what is due at a given `now`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal
from zoneinfo import ZoneInfo

import msgspec
from sqlalchemy import Connection, Row, func, insert, select, text, update

from tocsin.account import Account
from tocsin.audience.condition import PARSE
from tocsin.audience.node import Query
from tocsin.audience.query import Segments, find_segment, read_where
from tocsin.content import Content, read_content
from tocsin.errors import Problem
from tocsin.store import schema

DEVICES = ("android", "ios", "windows")
CHANNELS = ("push", "email")
NAME_BYTES = 512
LABELS = 50
LEAST_USERS = 100  # that a limit may leave, as in CleverTap
WHEN = re.compile(r"([0-9]{4})([0-9]{2})([0-9]{2}) ([0-9]{2}):([0-9]{2})")
LATEST_ID = 2**31 - 1
LATEST_YEAR = 2100

# state of a run → the states it may go to. Ended ones stay.
RUN_STATES: Mapping[str, tuple[str, ...]] = {
    "scheduled": ("running", "stopped"),
    "running": ("completed", "stopped"),
    "completed": (),
    "stopped": (),
}

# Fields of the real service that narrow an audience or hold a message back. Ignored, they would send to more people or
# sooner than was asked, so until they are built they are refused by name. Any other unknown field is kept, unread.
NOT_YET = (
    *("users_limit_per_run", "upper_cap_for_target_segment", "control_group"),
    *("system_control_group_include", "subscription_groups", "provider_nick_name", "provider_group_nickname"),
    *("respect_throttle", "draft", "campaign_cutoff", "dnd", "users_limit"),
)


OnCrash = Literal["report", "resend"]
Record = Row[*tuple[Any, ...]]


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """A campaign as it was asked for: a snapshot, so that nothing edited later reaches a running one.

    due_at: epoch seconds. platforms: what a recipient can be on, of android, ios, windows, email.
    message_seconds: how long after the run begins a message may still be sent. users_limit: of so many users at most.
    on_crash: what becomes of a message nobody knows about, sent or not: "report" it as unknown, or "resend" it under
        the same collapse key, so that a second copy replaces the first on the screen.
    """

    name: str
    channel: str
    where: Query
    content: Content
    platforms: tuple[str, ...]
    due_at: float
    labels: tuple[str, ...] = ()
    respect_frequency_caps: bool = True
    send_to_all_devices: bool = False
    message_seconds: float | None = None
    users_limit: int | None = None
    on_crash: OnCrash = "report"


# Made here, before there are threads: msgspec lets a second thread use a type that a first one has half looked at.
_STORED = msgspec.json.Decoder(Spec)


def read_spec(
    body: Mapping[str, Any],
    account: Account,
    now: float,
    segments: Segments | None = None,
    *,
    require_channel: bool = False,
) -> Spec:
    """The campaign of a create request, in the order of the documented errors; `segments` are the saved ones it may
    name. Raises Problem."""
    name = body.get("name")
    if not isinstance(name, str) or not name.strip():
        raise Problem("Field name is empty")
    if len(name.encode()) > NAME_BYTES:
        raise Problem(f"name is longer than {NAME_BYTES} bytes (at $.name)")
    channel = _read_channel(body)
    content = read_content(body.get("content"), channel, require_channel=require_channel)
    due_at = _read_when(body.get("when"), account.zone, now)
    query = _read_audience(body, segments or {})
    for field in NOT_YET:
        if body.get(field):
            raise Problem(f"{field} is not supported yet, and leaving it out would send differently (at $.{field})")
    return Spec(
        name=name.strip(),
        channel=channel,
        where=query,
        content=content,
        platforms=("email",) if channel == "email" else _read_devices(body.get("devices")),
        due_at=due_at,
        labels=_read_labels(body.get("labels", [])),
        respect_frequency_caps=read_flag(body, "respect_frequency_caps", default=True),
        send_to_all_devices=read_flag(body, "send_to_all_devices"),
        message_seconds=_read_ttl(body.get("ttl")),
        users_limit=_read_users_limit(body.get("users_limit_overall")),
        on_crash=read_on_crash(body),
    )


def read_flag(body: Mapping[str, Any], key: str, *, default: bool = False, code: int = 400) -> bool:
    """A boolean field. A text is refused: «must be a Boolean» is the documented answer (73 for `/1/send`)."""
    value = body.get(key, default)
    if not isinstance(value, bool):
        raise Problem(f'"{key}" must be a Boolean', code=code)
    return value


def read_on_crash(body: Mapping[str, Any]) -> OnCrash:
    """`on_crash`, our own field: "report" or "resend". Raises Problem."""
    match body.get("on_crash", "report"):
        case "report":
            return "report"
        case "resend":
            return "resend"
    raise Problem('on_crash must be "report" or "resend" (at $.on_crash)')


def _read_channel(body: Mapping[str, Any]) -> str:
    mode = body.get("target_mode", "push")
    channel = mode.lower() if isinstance(mode, str) else mode
    if channel not in CHANNELS:
        raise Problem(f"target_mode must be one of {', '.join(CHANNELS)} (at $.target_mode)")
    return str(channel)


def _read_audience(body: Mapping[str, Any], segments: Segments) -> Query:
    if "segment" in body:
        if "where" in body:
            raise Problem("Send where or segment, not both (at $.segment)")
        return find_segment(body["segment"], segments, "$.segment")
    if "where" not in body:
        raise Problem(PARSE)
    return read_where(body["where"], segments)


def _read_devices(devices: Any) -> tuple[str, ...]:
    if not isinstance(devices, list) or not devices:
        raise Problem(f"devices must be an array of {', '.join(DEVICES)} (at $.devices)")
    for index, device in enumerate(devices):
        if device not in DEVICES:
            raise Problem(f"unknown device; known are {', '.join(DEVICES)} (at $.devices[{index}])")
    return tuple(device for device in DEVICES if device in devices)


def _read_when(when: Any, zone: ZoneInfo, now: float) -> float:
    if when is None or when == "":
        raise Problem("Field when is empty")
    if when == "now":
        return now
    found = WHEN.fullmatch(when) if isinstance(when, str) else None
    if found is None:
        raise Problem('when must be "now" or "YYYYMMDD HH:MM" (at $.when)')
    try:
        local = datetime(*(int(part) for part in found.groups()), tzinfo=zone)  # type: ignore[misc,arg-type]
        due_at = local.timestamp()
    except (ValueError, OverflowError):
        raise Problem(f"{when} is not a time of the calendar (at $.when)") from None
    if local.year >= LATEST_YEAR:
        raise Problem(f"{when} is after {LATEST_YEAR - 1} (at $.when)")
    if due_at < now - 60:  # «now» to the minute is not the past
        raise Problem(f"{when} is in the past in {zone.key} (at $.when)")
    return due_at


def _read_labels(labels: Any) -> tuple[str, ...]:
    if not isinstance(labels, list) or len(labels) > LABELS or not all(isinstance(one, str) for one in labels):
        raise Problem(f"labels must be a list of at most {LABELS} texts (at $.labels)")
    return tuple(labels)


def _read_ttl(ttl: Any) -> float | None:
    """Minutes, as a number or as `{"ttl_type": "relative", "value": 30}`; in seconds."""
    if isinstance(ttl, dict):
        if ttl.get("ttl_type") != "relative":
            raise Problem('only a ttl_type of "relative" is supported (at $.ttl.ttl_type)')
        ttl = ttl.get("value")
    if ttl is None:
        return None
    if isinstance(ttl, bool) or not isinstance(ttl, int | float) or not 0 < ttl <= 40_320:  # four weeks
        raise Problem("ttl must be between 1 and 40320 minutes (at $.ttl)")
    return float(ttl) * 60


def _read_users_limit(limit: Any) -> int | None:
    if limit is None:
        return None
    if isinstance(limit, bool) or not isinstance(limit, int) or not LEAST_USERS <= limit < 2**32:
        raise Problem(
            f"users_limit_overall must be a whole number of at least {LEAST_USERS} (at $.users_limit_overall)"
        )
    return limit


def insert_campaign(connection: Connection, account_id: str, spec: Spec, now: float) -> int:
    """Writes a campaign and its run; answers its id: like an epoch second, unique, within signed 32 bits."""
    table = schema.campaign
    if connection.dialect.name == "postgresql":  # SQLite has one writer anyway
        connection.execute(text("LOCK TABLE campaign IN EXCLUSIVE MODE"))
    last = connection.scalar(select(func.max(table.c.id))) or 0
    campaign_id = max(int(now), last + 1)
    if campaign_id > LATEST_ID:
        raise OverflowError("campaign ids have left 32 bits")
    connection.execute(
        insert(table).values(
            id=campaign_id,
            account_id=account_id,
            name=spec.name,
            channel=spec.channel,
            spec=msgspec.json.encode(spec).decode(),
            created_at=now,
        )
    )
    connection.execute(
        insert(schema.run).values(
            account_id=account_id, campaign_id=campaign_id, state="scheduled", due_at=spec.due_at, audience=0
        )
    )
    return campaign_id


def find_campaign(connection: Connection, account_id: str, campaign_id: int) -> Record:
    """The campaign and its run: (id, name, channel, run_id, state, due_at, audience, frozen_at, ended_at). Raises
    Problem when this account has none of that id."""
    found = list_campaigns(connection, account_id, campaign_id=campaign_id)
    if not found:
        raise Problem("Invalid campaign id")
    return found[0]


def list_campaigns(
    connection: Connection,
    account_id: str,
    *,
    campaign_id: int | None = None,
    due: tuple[float, float] | None = None,
    limit: int = 1000,
) -> Sequence[Record]:
    """Campaigns with their runs, newest first; `due` is [from, to) in epoch seconds."""
    campaign, run = schema.campaign, schema.run
    query = (
        select(
            *(campaign.c.id, campaign.c.name, campaign.c.channel, campaign.c.created_at),
            *(run.c.id.label("run_id"), run.c.state, run.c.due_at, run.c.audience, run.c.frozen_at, run.c.ended_at),
        )
        .join(run, run.c.campaign_id == campaign.c.id)
        .where(campaign.c.account_id == account_id)
        .order_by(campaign.c.id.desc())
        .limit(limit)
    )
    if campaign_id is not None:
        query = query.where(campaign.c.id == campaign_id)
    if due is not None:
        query = query.where(run.c.due_at >= due[0], run.c.due_at < due[1])
    return connection.execute(query).all()


def read_stored_spec(connection: Connection, account_id: str, campaign_id: int) -> Spec:
    table = schema.campaign
    stored = connection.scalar(select(table.c.spec).where(table.c.account_id == account_id, table.c.id == campaign_id))
    return _STORED.decode(stored or "")


def find_due(connection: Connection, now: float, limit: int = 10) -> Sequence[Record]:
    """Runs whose time has come: (id, account_id, campaign_id, due_at)."""
    run = schema.run
    return connection.execute(
        select(run.c.id, run.c.account_id, run.c.campaign_id, run.c.due_at)
        .where(run.c.state == "scheduled", run.c.due_at <= now, func.coalesce(run.c.retry_at, 0.0) <= now)
        .order_by(run.c.due_at)
        .limit(limit)
    ).all()


def postpone_run(connection: Connection, run_id: int, until: float) -> None:
    """A run that could not begin is tried again later, so that it holds up nobody else's."""
    connection.execute(update(schema.run).where(schema.run.c.id == run_id).values(retry_at=until))


def move_run(connection: Connection, run_id: int, to: str, now: float, **values: Any) -> bool:
    """Moves a run along the table of states; False when it is no longer where that can be done from."""
    run = schema.run
    sources = [state for state, targets in RUN_STATES.items() if to in targets]
    done = connection.execute(
        update(run).where(run.c.id == run_id, run.c.state.in_(sources)).values(state=to, **values)
    )
    return done.rowcount == 1


def stop_campaign(connection: Connection, account_id: str, campaign_id: int, now: float) -> str:
    """Stops a scheduled or running campaign; stopping it again changes nothing. What is already with a vendor is not
    called back: workers see the state at their next claim. Answers the state it was in."""
    found = find_campaign(connection, account_id, campaign_id)
    if found.state == "scheduled":
        move_run(connection, found.run_id, "stopped", now, ended_at=now)
    elif found.state == "running":
        move_run(connection, found.run_id, "stopped", now)
        chunk = schema.chunk  # those that wait for a retry need not wait to be told
        connection.execute(
            update(chunk).where(chunk.c.run_id == found.run_id, chunk.c.open == 1).values(not_before=now)
        )
    return str(found.state)
