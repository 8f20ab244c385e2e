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
from tocsin.dashboard.message import (
    CONTENT_PLACES,
    find_places,
    getter,
    make_content,
    make_variants,
    read_blocks,
    write_content,
    write_message,
    write_variants,
)
from tocsin.dashboard.question import QuestionRow, make_where, read_number, read_rows, split_question
from tocsin.errors import Problem

WEEKDAYS = tuple("1234567")
AT = re.compile(r" ?\(at (\$[^()]*)\)$")
EMPTY = re.compile(r"^(Field (\w+) is empty)(?: \(inside (\$[^()]*)\))?")
# The beginning of a place in the request → the field it was made of. The first that fits counts.
PLACES = (
    ("$.name", "name"),
    ("$.labels", "labels"),
    ("$.target_mode", "channel"),
    ("$.devices", "devices"),
    *((f"$.content{end}", field) for end, field in CONTENT_PLACES),
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
    """The body of a create request, and which fields of the form stand where in it, as far as that differs from form
    to form."""

    body: dict[str, Any]
    places: dict[str, str]


class Mistake(msgspec.Struct, frozen=True):
    """What is wrong: the API's sentence, and the field it belongs to."""

    field: str
    sentence: str


def make_request(form: Mapping[str, Sequence[str]]) -> Request:
    """Return the request that a form means. Raise Problem for JSON that is none."""
    get = getter(form)
    channel = get("channel") or "push"
    where, rows = make_where(read_rows({name: values[-1] for name, values in form.items()}), _read_json(get("json")))
    body: dict[str, Any] = {"name": get("name"), "target_mode": channel, "where": where}
    if channel == "push":
        body["devices"] = [one for one in DEVICES if one in form.get("devices", ())]
    if variants := make_variants(form, channel):
        body["variants"] = variants
    else:
        body["content"] = make_content(channel, get)
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
    if get("throttle"):
        body["respect_throttle"] = True
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
    places = {start: f"row-{number}-name" for start, number in rows.items()} | find_places(form)
    return Request(_merge(body, more or {}), places)


def place_mistake(problem: Problem, places: Mapping[str, str] | None = None) -> Mistake:
    """Return the API's sentence without its place, and the field of that place; "" where it belongs to none."""
    text, known = problem.error, places or {}
    if (found := AT.search(text)) is not None:
        place, sentence = found[1], text[: found.start()]
    elif (empty := EMPTY.match(text)) is not None and empty[3]:
        place, sentence = f"{empty[3]}.{empty[2]}", empty[1]
    else:
        return Mistake(WORDS.get(empty[2], ""), empty[1]) if empty else Mistake("", text)
    own = [start for start in known if place.startswith(start) and place[len(start) : len(start) + 1] in ("", ".", "[")]
    if own:
        return Mistake(known[max(own, key=len)], sentence)
    return Mistake(next((field for start, field in PLACES if place.startswith(start)), ""), sentence)


def draft_of(spec: Spec, name: str) -> dict[str, list[str]]:
    """Return the fields of a form that means the same as a campaign, but when it is sent, which is for its maker to
    say. name: what the copy is called."""
    fields: dict[str, str] = {"name": name, "channel": spec.channel, "labels": ", ".join(spec.labels), "when": "now"}
    fields |= write_message(spec.content) | (write_variants(spec) or {})
    fields |= {name: DEFAULTS[name] for name in ("clock", "repeat", "every", "quiet_from", "quiet_to", "quiet_state")}
    rows, rest = split_question(spec.where)
    for row in rows:
        fields |= row.fields()
    if rest is not None:
        fields["json"] = msgspec.json.format(msgspec.json.encode(rest), indent=2).decode()
    if spec.control_percentage:
        fields["control"] = f"{spec.control_percentage:g}"
    if spec.respect_frequency_caps:
        fields["caps"] = "1"
    if spec.respect_throttle:
        fields["throttle"] = "1"
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


def _list_more(spec: Spec) -> dict[str, Any]:
    """Return what of a campaign the form has no field for, as fields of the API."""
    more: dict[str, Any] = {}
    if spec.variants and write_variants(spec) is None:
        more["variants"] = [
            {"name": one.name, "percentage": one.percentage, "content": write_content(one.content)}
            for one in spec.variants
        ]
    elif not spec.variants and spec.content.platforms and not read_blocks(spec.content):
        more["content"] = {"platform_specific": spec.content.platforms}
    usual = {"send_to_all_devices": False, "send_to_every_profile": False, "track_opens": True, "track_clicks": True}
    more |= {name: not value for name, value in usual.items() if getattr(spec, name) != value}
    if spec.subscription_groups:
        more["subscription_groups"] = spec.subscription_groups
    if spec.on_crash != "report":
        more["on_crash"] = spec.on_crash
    if not spec.system_control_group:
        more["system_control_group_include"] = False
    if spec.users_limit is not None:
        more["users_limit_overall"] = spec.users_limit
    if spec.users_limit_per_run is not None:
        more["users_limit_per_run"] = spec.users_limit_per_run
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
