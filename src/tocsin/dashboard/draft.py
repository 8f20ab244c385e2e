"""A campaign as a form: its fields, the request of the API that they mean, and where in the form the API's sentence
belongs. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from tocsin.audience.writing import write_condition, write_session
from tocsin.campaign.goal import Goal
from tocsin.campaign.spec import DEVICES, Spec
from tocsin.content import Content
from tocsin.dashboard.question import QuestionRow, make_where, read_number, read_rows, split_question
from tocsin.errors import Problem

WEEKDAYS = tuple("1234567")
AT = re.compile(r" ?\(at (\$[^()]*)\)$")
INSIDE = re.compile(r"^Field (\w+) is empty")
# The beginning of a place in the request → the field it was made of. The first that fits counts.
PLACES = (
    ("$.name", "name"),
    ("$.labels", "labels"),
    ("$.target_mode", "channel"),
    ("$.devices", "devices"),
    ("$.content.title", "title"),
    ("$.content.subject", "subject"),
    ("$.content.sender_name", "sender_name"),
    ("$.content.reply_to", "reply_to"),
    ("$.content.platform_specific.android.wzrk_cid", "channel_id"),
    ("$.content.platform_specific.android.background_image", "image"),
    ("$.content.platform_specific.ios.ct_mediaUrl", "image"),
    ("$.content.platform_specific", "deep_link"),
    ("$.content", "body"),
    ("$.when.repeats_every", "every"),
    ("$.when.end_by_occurrences", "runs"),
    ("$.when.dnd", "quiet_from"),
    ("$.dnd", "quiet_from"),
    ("$.when", "time"),
    ("$.control_group", "control"),
    ("$.frequency_cap", "cap_most"),
    ("$.ttl", "ttl"),
    ("$.conversion_goal.conversion_time", "goal_time"),
    ("$.conversion_goal", "goal_event"),
    ("$.test", "test_identity"),
    ("$.segment_name", "segment_name"),
    ("$.where", "json"),
    ("$.more", "more"),
    ("$.variants", "more"),
)
WORDS = {"name": "name", "title": "title", "subject": "subject", "body": "body"}
DEFAULTS: dict[str, Any] = {
    "channel": "push",
    "devices": [*DEVICES],
    "when": "now",
    "clock": "account",
    "repeat": "day",
    "every": "1",
    "quiet_from": "22:00",
    "quiet_to": "08:00",
    "quiet_state": "delay",
    "caps": "1",
}


class Request(msgspec.Struct, frozen=True):
    """The body of a create request, and which row of the form stands where in it."""

    body: dict[str, Any]
    rows: dict[str, int]


class Mistake(msgspec.Struct, frozen=True):
    """What is wrong: the API's sentence, and the field it belongs to."""

    field: str
    sentence: str


def make_request(form: Mapping[str, Sequence[str]]) -> Request:
    """Return the request that a form means. Raise Problem for JSON that is none."""
    get = _getter(form)
    channel = get("channel") or "push"
    where, rows = make_where(read_rows({name: values[-1] for name, values in form.items()}), _read_json(get("json")))
    body: dict[str, Any] = {"name": get("name"), "target_mode": channel, "where": where}
    if channel == "push":
        body["devices"] = [one for one in DEVICES if one in form.get("devices", ())]
    body["content"] = _make_content(channel, get)
    body["when"] = _make_when(get)
    if labels := [label.strip() for label in get("labels").split(",") if label.strip()]:
        body["labels"] = labels
    if get("quiet"):
        night = [{"from": get("quiet_from"), "to": get("quiet_to")}]
        body["dnd"] = {
            "message_state": get("quiet_state"),
            "dnd_timezone": get("clock") or "account",
            "dnd_info": dict.fromkeys(WEEKDAYS, night),
        }
    if get("control"):
        body["control_group"] = {"type": "campaign", "percentage": read_number(get("control"))}
    if not get("caps"):
        body["respect_frequency_caps"] = False
    if get("cap_most"):
        body["frequency_cap"] = {"most": read_number(get("cap_most")), "days": read_number(get("cap_days") or "7")}
    if get("ttl"):
        hours = read_number(get("ttl"))
        body["ttl"] = hours if isinstance(hours, str) else round(hours * 60)
    if get("goal_event"):
        body["conversion_goal"] = {"event_name": get("goal_event"), "conversion_time": get("goal_time") or "1D"}
    more = _read_json(get("more"), "$.more")
    if more is not None and not isinstance(more, dict):
        raise Problem("It must be an object (at $.more)")
    return Request(_merge(body, more or {}), rows)


def place_mistake(problem: Problem, rows: Mapping[str, int] | None = None) -> Mistake:
    """Return the API's sentence without its place, and the field of that place; "" where it belongs to none."""
    text, known = problem.error, rows or {}
    if (found := AT.search(text)) is None:
        inside = INSIDE.match(text)
        return Mistake(WORDS.get(inside[1], "") if inside else "", text)
    place, sentence = found[1], text[: found.start()]
    of_rows = [
        start for start in known if place.startswith(start) and place[len(start) : len(start) + 1] in ("", ".", "[")
    ]
    if of_rows:
        return Mistake(f"row-{known[max(of_rows, key=len)]}-name", sentence)
    return Mistake(next((field for start, field in PLACES if place.startswith(start)), ""), sentence)


def draft_of(spec: Spec, name: str) -> dict[str, list[str]]:
    """Return the fields of a form that means the same as a campaign, but when it is sent, which is for its maker to
    say. name: what the copy is called."""
    fields: dict[str, str] = {"name": name, "channel": spec.channel, "labels": ", ".join(spec.labels), "when": "now"}
    content = spec.content
    fields |= {"title": content.title, "body": content.body, "subject": content.subject}
    fields |= {"sender_name": content.sender_name, "reply_to": content.reply_to, "clock": "account", "repeat": "day"}
    fields |= {"every": "1", "quiet_from": "22:00", "quiet_to": "08:00", "quiet_state": "delay"}
    fields |= _read_blocks(content)
    rows, rest = split_question(spec.where)
    for row in rows:
        fields |= row.fields()
    if rest is not None:
        fields["json"] = msgspec.json.format(msgspec.json.encode(rest), indent=2).decode()
    if spec.control_percentage:
        fields["control"] = f"{spec.control_percentage:g}"
    if spec.respect_frequency_caps:
        fields["caps"] = "1"
    cap, more = spec.frequency_cap, _list_more(spec)
    if cap is not None and cap.most is not None and cap.dwell_minutes is None:
        fields |= {"cap_most": str(cap.most), "cap_days": f"{cap.days:g}"}
    if spec.message_seconds:
        fields["ttl"] = f"{spec.message_seconds / 3600:g}"
    if spec.conversion_goal:
        fields |= {"goal_event": spec.conversion_goal.event_name, "goal_time": _show_time(spec.conversion_goal.seconds)}
    if (night := _read_night(spec)) is not None:
        fields |= {"quiet": "1"} | night
    if more:
        fields["more"] = msgspec.json.format(msgspec.json.encode(more), indent=2).decode()
    devices: list[str] = [one for one in spec.platforms if one in DEVICES] or [*DEVICES]
    return {key: [value] for key, value in fields.items()} | {"devices": devices}


def blank_draft() -> dict[str, list[str]]:
    """Return the fields of a form that nobody has touched."""
    return {name: value if isinstance(value, list) else [value] for name, value in DEFAULTS.items()}


def add_row(form: dict[str, list[str]], box: str, kind: str = "did", name: str = "") -> None:
    """Put one more row into a form."""
    numbers = [row.number for row in read_rows({key: values[-1] for key, values in form.items()})]
    row = QuestionRow(number=max(numbers, default=-1) + 1, box=box, kind=kind, name=name, days="30" * (kind == "did"))
    form |= {key: [value] for key, value in row.fields().items()}


def drop_row(form: dict[str, list[str]], number: str) -> None:
    """Take a row out of a form."""
    for key in [key for key in form if key.startswith(f"row-{number}-")]:
        del form[key]


def _getter(form: Mapping[str, Sequence[str]]) -> Any:
    def get(name: str) -> str:
        values = form.get(name)
        return values[-1].strip() if values else ""

    return get


def _merge(body: dict[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object with the fields of another one put into it, however deep they stand."""
    both = {key: _merge(body[key], more[key]) for key in more if _are_objects(body.get(key), more[key])}
    return {**body, **more, **both}


def _are_objects(one: Any, other: Any) -> bool:
    return isinstance(one, dict) and isinstance(other, dict)


def _read_json(text: str, place: str = "$.where") -> Any:
    if not text:
        return None
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Problem(f"This is not JSON: {error} (at {place})") from None


def _make_content(channel: str, get: Any) -> dict[str, Any]:
    match channel:
        case "email":
            content = {"subject": get("subject"), "body": get("body")}
            return content | {key: get(key) for key in ("sender_name", "reply_to") if get(key)}
        case "sms":
            return {"body": get("body")}
    content = {"title": get("title"), "body": get("body")}
    if channel != "push":
        return content
    blocks: dict[str, dict[str, str]] = {one: {} for one in DEVICES}
    for block in blocks.values():
        if get("deep_link"):
            block["deep_link"] = get("deep_link")
    if get("image"):
        blocks["android"]["background_image"] = get("image")
        blocks["ios"]["ct_mediaUrl"] = get("image")
    if get("channel_id"):
        blocks["android"]["wzrk_cid"] = get("channel_id")
    if kept := {name: block for name, block in blocks.items() if block}:
        content["platform_specific"] = kept
    return content


def _read_blocks(content: Content) -> dict[str, str]:
    """Return the fields of the blocks of a push; none where they say more, or not the same for each platform."""
    android, ios = content.platforms.get("android", {}), content.platforms.get("ios", {})
    links = [block["deep_link"] for block in content.platforms.values() if block.get("deep_link")]
    found = {
        "deep_link": links[0] if links else "",
        "image": android.get("background_image") or ios.get("ct_mediaUrl") or "",
        "channel_id": android.get("wzrk_cid") or "",
    }
    fields = {name: str(value) for name, value in found.items()}
    drawn = _make_content("push", _getter({name: [value] for name, value in fields.items()}))
    return fields if content.platforms == drawn.get("platform_specific", {}) else {}


def _list_more(spec: Spec) -> dict[str, Any]:
    """Return what of a campaign the form has no field for, as fields of the API."""
    more: dict[str, Any] = {}
    if spec.variants:
        more["variants"] = [
            {"name": one.name, "percentage": one.percentage, "content": _write_content(one.content)}
            for one in spec.variants
        ]
    elif spec.content.platforms and not _read_blocks(spec.content):
        more["content"] = {"platform_specific": spec.content.platforms}
    for name, usual in (("send_to_all_devices", False), ("send_to_every_profile", False), ("respect_throttle", False)):
        if getattr(spec, name) != usual:
            more[name] = not usual
    if spec.on_crash != "report":
        more["on_crash"] = spec.on_crash
    if not spec.system_control_group:
        more["system_control_group_include"] = False
    if spec.users_limit is not None:
        more["users_limit_overall"] = spec.users_limit
    if spec.conversion_goal is not None and (limits := _write_goal(spec.conversion_goal)):
        more["conversion_goal"] = limits
    if spec.frequency_cap is not None and (spec.frequency_cap.dwell_minutes or spec.frequency_cap.most is None):
        cap = msgspec.to_builtins(spec.frequency_cap)
        more["frequency_cap"] = {name: value for name, value in cap.items() if value is not None}
    if spec.when is not None and spec.when.quiet is not None and _read_night(spec) is None:
        quiet = spec.when.quiet
        more["dnd"] = {
            "message_state": quiet.state,
            "dnd_timezone": quiet.zone,
            "dnd_info": {
                day: [{"from": f"{one.start:%H:%M}", "to": f"{one.end:%H:%M}"} for one in windows]
                for day, windows in quiet.windows.items()
            },
        }
    return more


def _write_goal(goal: Goal) -> dict[str, Any]:
    """Return what the form has no field for of a goal: which of the events count, and what says what they are worth."""
    limits: dict[str, Any] = {one["name"]: one["value"] for one in write_session(goal.session)}
    names = {"name": "property_name", "value": "property_value"}
    if goal.properties:
        written = [write_condition(one) for one in goal.properties]
        limits["event_property"] = [{names.get(key, key): value for key, value in one.items()} for one in written]
    more: dict[str, Any] = {"filter_type": limits} if limits else {}
    return more if goal.revenue_property is None else more | {"revenue_property": goal.revenue_property}


def _write_content(content: Content) -> dict[str, Any]:
    names = {"platforms": "platform_specific"}
    given = msgspec.to_builtins(content)
    return {names.get(name, name): value for name, value in given.items() if value and name != "channel"}


def _read_night(spec: Spec) -> dict[str, str] | None:
    """Return the fields of quiet hours that are the same each night; None for others, and for none."""
    quiet = spec.when.quiet if spec.when is not None else None
    if quiet is None:
        return None
    nights = list(quiet.windows.values())
    if set(quiet.windows) != set(WEEKDAYS) or len(nights[0]) != 1 or any(night != nights[0] for night in nights):
        return None
    night = nights[0][0]
    times = {"quiet_from": f"{night.start:%H:%M}", "quiet_to": f"{night.end:%H:%M}"}
    return {"quiet_state": quiet.state, "clock": quiet.zone, **times}


def _show_time(seconds: int) -> str:
    """Return a time as a goal has it: 30m, 5H, 7D."""
    for unit, size in (("D", 86_400), ("H", 3600)):
        if seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds // 60}m"


def _make_when(get: Any) -> Any:
    kind = get("when")
    if kind not in ("later", "recurring"):
        return "now"
    at = _read_time(get("time"))
    if kind == "later":
        return {"type": "later", "delivery_date_time": [at], "delivery_timezone": get("clock") or "account"}
    when: dict[str, Any] = {
        "type": "recurring",
        "start_time": at,
        "repeat_type": get("repeat"),
        "repeats_every": read_number(get("every") or "1"),
        "delivery_timezone": get("clock") or "account",
    }
    if get("runs"):
        when["end_by_occurrences"] = read_number(get("runs"))
    return when


def _read_time(text: str) -> str:
    """Return the time of a field as the API wants it; as it is where it is none, for the API to refuse it."""
    try:
        return datetime.fromisoformat(text).strftime("%Y%m%d %H:%M")
    except ValueError:
        return text
