"""Stage 3 of 7, campaign: what was asked for, and its runs: states as a table, what is due at a given `now`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from tocsin.account import Account
from tocsin.audience.condition import PARSE
from tocsin.audience.node import Query
from tocsin.audience.query import Segments, find_segment, read_where
from tocsin.campaign.goal import Goal, read_goal
from tocsin.campaign.schedule import When, begins_at, read_schedule
from tocsin.channels import CHANNELS
from tocsin.content import Content, read_content
from tocsin.errors import Problem
from tocsin.policy import Cap

DEVICES = ("android", "ios", "windows")
NAME_BYTES = 512
LABELS = 50
LEAST_USERS = 100  # that a limit may leave, as in CleverTap
LATEST_ID = 2**31 - 1


# Fields of the real service that narrow an audience or hold a message back. Ignored, they would send to more people or
# sooner than was asked, so until they are built they are refused by name. Any other unknown field is kept, unread.
NOT_YET = (
    *("users_limit_per_run", "upper_cap_for_target_segment", "subscription_groups"),
    *("provider_nick_name", "provider_group_nickname"),
    *("draft", "users_limit"),
)


VARIANTS = 8


class Variant(msgspec.Struct, frozen=True):
    """One content of several, and the percent of the audience that gets it."""

    name: str
    content: Content
    percentage: float


OnCrash = Literal["report", "resend"]


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """A campaign as it was asked for: a snapshot, so that nothing edited later reaches a running one.

    due_at: epoch seconds, of the first run. platforms: what a recipient can be on, of android, ios, windows, email.
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
    frequency_cap: Cap | None = None
    control_percentage: float = 0.0
    system_control_group: bool = True
    variants: tuple[Variant, ...] = ()
    conversion_goal: Goal | None = None
    respect_throttle: bool = False
    message_seconds: float | None = None
    when: When | None = None
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
    variants = _read_variants(body.get("variants"), channel, require_channel=require_channel)
    content = variants[0].content if variants else None
    if content is None:
        content = read_content(body.get("content"), channel, require_channel=require_channel)
    when = read_schedule(body, account.zone, now)
    due_at = begins_at(when.times[0], when, account.zone) if body["when"] != "now" else now
    query = _read_audience(body, segments or {})
    for field in NOT_YET:
        if body.get(field):
            raise Problem(f"{field} is not supported yet, and leaving it out would send differently (at $.{field})")
    return Spec(
        name=name.strip(),
        channel=channel,
        where=query,
        content=content,
        platforms=_read_devices(body.get("devices")) if channel == "push" else (channel,),
        due_at=due_at,
        labels=_read_labels(body.get("labels", [])),
        respect_frequency_caps=read_flag(body, "respect_frequency_caps", default=True),
        send_to_all_devices=read_flag(body, "send_to_all_devices"),
        control_percentage=_read_control(body.get("control_group")),
        system_control_group=read_flag(body, "system_control_group_include", default=True),
        variants=variants,
        conversion_goal=read_goal(body.get("conversion_goal")),
        frequency_cap=_read_cap(body.get("frequency_cap")),
        respect_throttle=read_flag(body, "respect_throttle"),
        message_seconds=_read_ttl(body.get("ttl")),
        when=when,
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


def _read_labels(labels: Any) -> tuple[str, ...]:
    if not isinstance(labels, list) or len(labels) > LABELS or not all(isinstance(one, str) for one in labels):
        raise Problem(f"labels must be a list of at most {LABELS} texts (at $.labels)")
    return tuple(labels)


def _read_control(raw: Any) -> float:
    """The percent of a campaign's own control group. Raises Problem, of a custom group with the documented sentence."""
    if raw is None:
        return 0.0
    if isinstance(raw, dict) and raw.get("type") == "custom":
        raise Problem(f"No custom control group with name {str(raw.get('name'))[:100]} is defined")
    percentage = raw.get("percentage") if isinstance(raw, dict) and raw.get("type") == "campaign" else None
    if isinstance(percentage, bool) or not isinstance(percentage, int | float) or not 2 <= percentage <= 99:
        raise Problem('control_group is {"type": "campaign", "percentage": 2 to 99} (at $.control_group)')
    return float(percentage)


def _read_variants(raw: Any, channel: str, *, require_channel: bool) -> tuple[Variant, ...]:
    """`variants`, our own field: 2 to VARIANTS of {name, percentage, content}. Raises Problem."""
    if raw is None:
        return ()
    if not isinstance(raw, list) or not 2 <= len(raw) <= VARIANTS:
        raise Problem(f"variants must be a list of 2 to {VARIANTS} objects (at $.variants)")
    found: list[Variant] = []
    for index, one in enumerate(raw):
        place = f"$.variants[{index}]"
        name, percentage = (one.get(key) if isinstance(one, dict) else None for key in ("name", "percentage"))
        if not isinstance(name, str) or not 0 < len(name) <= 16 or name in [other.name for other in found]:
            raise Problem(f"a variant needs a name of its own of at most 16 letters (at {place}.name)")
        if isinstance(percentage, bool) or not isinstance(percentage, int | float) or not 0 < percentage < 100:
            raise Problem(f"a variant needs a percentage between 0 and 100 (at {place}.percentage)")
        content = read_content(one.get("content"), channel, require_channel=require_channel)
        found.append(Variant(name, content, float(percentage)))
    if abs(sum(one.percentage for one in found) - 100) > 1e-6:
        raise Problem("the percentages of the variants must sum to 100 (at $.variants)")
    return tuple(found)


def _read_cap(raw: Any) -> Cap | None:
    """`frequency_cap`, our own field: so often one user gets this campaign, over all its runs."""
    if raw is None:
        return None
    try:
        cap = msgspec.convert(raw, Cap)
    except msgspec.ValidationError as error:
        raise Problem(f"frequency_cap: {error} (at $.frequency_cap)") from None
    if cap.throttle is not None or (cap.most is None and cap.dwell_minutes is None):
        raise Problem("frequency_cap has most and days, or dwell_minutes (at $.frequency_cap)")
    return cap


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
