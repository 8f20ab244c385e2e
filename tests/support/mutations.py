"""Requests that somebody's program might send by mistake, made from right ones: their JSON changed in structure, their
bytes, headers, query and method."""

from __future__ import annotations

import copy
import gzip
import json
import random
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

BODIES: dict[str, Any] = {
    "/1/send/push.json": {
        "to": {"Identity": ["somebody"], "Email": ["a@example.com"], "objectId": ["device"]},
        "tag_group": "tag",
        "campaign_id": 1,
        "respect_frequency_caps": False,
        "content": {
            "title": "Hello {{ Profile.Name | default: 'you' }}",
            "body": "there",
            "platform_specific": {"android": {"ttl": 60, "Key": "v"}, "ios": {"badge_count": 1, "sound_file": "a.caf"}},
        },
    },
    "/1/send/email.json": {
        "to": {"Identity": ["somebody"]},
        "tag_group": "tag",
        "content": {"subject": "s", "body": "<p>b {% if Profile.A %}c{% endif %}</p>", "sender_name": "n"},
    },
    "/1/send/sms.json": {"to": {"Identity": ["somebody"]}, "content": {"body": "b"}},
    "/sdk/report": {
        "device": "web-0b0e2cf2-6f0e-4a52-9f0a-2a6c3f1d0001",
        "identity": "somebody",
        "event": {"name": "Charged", "properties": {"Amount": 1.5}},
    },
    "/1/send/webpush.json": {"to": {"Identity": ["somebody"]}, "content": {"title": "t", "body": "b"}},
    "/1/upload": {
        "d": [
            {"type": "token", "objectId": "device", "tokenData": {"type": "fcm", "id": "one:fcm-registration-token"}},
            {
                "type": "event",
                "identity": "somebody",
                "ts": 1763000000,
                "evtName": "Charged",
                "evtData": {"Amount": 1.5, "Items": [{"Category": "Books"}], "At": "$D_1763000000"},
            },
            {
                "type": "profile",
                "identity": "somebody",
                "objectId": "device",
                "profileData": {
                    "Email": "a@example.com",
                    "Phone": "+491701234567",
                    "Tags": {"$add": ["x"]},
                    "Gender": "M",
                },
            },
        ]
    },
    "/1/targets/create.json": {
        "name": "n",
        "where": {
            "event_name": "Charged",
            "from": 20260101,
            "to": 20261231,
            "event_properties": [{"name": "Amount", "operator": "greater_than", "value": 1}],
            "common_profile_properties": {"profile_fields": [{"name": "Name", "operator": "contains", "value": ["a"]}]},
        },
        "content": {"title": "t", "body": "b"},
        "devices": ["android", "ios"],
        "when": {"type": "later", "delivery_date_time": ["202901011200"], "delivery_timezone": "user"},
        "target_mode": "push",
        "estimate_only": False,
        "respect_frequency_caps": True,
        "labels": ["a"],
        "conversion_goal": {
            "event_name": "Charged",
            "conversion_time": "1D",
            "revenue_property": "Amount",
            "filter_type": {
                "event_property": [{"property_name": "Amount", "operator": "less_than", "property_value": 10}],
                "first_time": "yes",
                "time_of_day": [["10:00", "12:00"]],
                "day_of_week": [1, 7],
            },
        },
    },
    "/1/targets/stop.json": {"id": 1},
    "/1/targets/result.json": {"id": 1},
    "/1/targets/compare.json": {"id": 1},
    "/1/targets/why.json": {"id": 1, "identity": "somebody"},
    "/1/send/why.json": {"tag_group": "receipts", "identity": "somebody"},
    "/1/targets/forecast.json": {"id": 1},
    "/1/targets/sample.json": {"id": 1, "each": 3},
    "/1/profile/timeline.json": {"identity": "somebody", "limit": 3, "days": 30},
    "/1/targets/list.json": {"from": 20260101, "to": 20260201, "page": 1, "limit": 10},
    "/1/segments/save.json": {"name": "gold", "where": {"segment": "all"}},
    "/1/segments/list.json": {"page": 1, "limit": 10},
    "/1/segments/get.json": {"name": "gold"},
    "/1/segments/delete.json": {"name": "gold"},
    "/1/segments/explain.json": {"where": {"or": [{"segment": "all"}, {"sample": {"percent": 10, "seed": "s"}}]}},
    "/1/profiles.json": {"event_name": "Charged", "from": "-30d", "to": "today", "props": [{"name": "A", "value": 1}]},
    "/1/events.json": {"event_name": "Charged", "from": 20260101, "to": "today", "common_profile_properties": {}},
    "/1/counts/profiles.json": {"common_profile_properties": {"profile_fields": [{"name": "Plan", "value": "Gold"}]}},
    "/1/counts/events.json": {"event_name": "Charged", "from": "-30d", "to": "today"},
    "/1/counts/top.json": {
        "event_name": "Charged",
        "from": "-30d",
        "to": "today",
        "groups": {"a": {"property_type": "profile_fields", "name": "Plan", "top_n": 2, "order": "asc"}},
    },
    "/1/counts/trends.json": {
        "event_name": "Charged",
        "from": "-30d",
        "to": "today",
        "unique": False,
        "groups": {"a": {"trend_type": "weekly"}},
    },
    "/1/now.json": {"user_type": True},
    "/1/message/report.json": {"from": 20260101, "to": "20261231", "channel": ["push"], "label": "a,b"},
    "/1/subscribe": {"d": [{"type": "email", "value": "a@example.com", "status": "Unsubscribe"}]},
    "/track/{kind}": {"id": "A" * 27},
    "/bounces": {"a": "b"},
}
"""A right body of each route that has one."""

RAW = "@raw%d@"
NUMBERS = ("1e400", "-1e400", "1" * 400, "-0.0", "1.0e1", "NaN", "Infinity", "0x10", "01", "1_000", "+1", ".5", "--1")
KEY = re.compile(r'[{,] ?("\w+"):')
DOUBLES = ("null", "1", '"a"', "[]", "{}")
WORDS = ('"\\ud800"', '"\\udc00\\ud800"', '"\\u0000"', "undefined", "'a'", '"a\nb"', "[" * 300 + "]" * 300)
TOKENS = (*NUMBERS, *WORDS)
"""JSON that no library would write: each stands for the text RAW with its number."""

LETTERS = ("", " ", "\0", "\u202eabc", "\ufeff", "\U0010ffff", "👩‍👩‍👧‍👦", "Z̸̡͌a̵l̶g̷o", "İ", "ß", "ﷺ" * 50, "a" * 20_000)
ATTACKS = (
    "null",
    "%00",
    "{{",
    "{% for %}",
    "{{ 'a' | append: Profile }}",
    "'; DROP TABLE user; --",
    "../../etc/passwd",
)
TEXTS = (*LETTERS, *ATTACKS, "$D_99999999999999", "-1d", "\r\nX: y")
COUNTS = (0, -1, 2**31, 2**53 + 1, 2**63, 2**64, -(2**63) - 1, 1.5, -1e308, 5e-324)
WHOLES: tuple[Any, ...] = (
    [],
    {},
    [[]],
    [None],
    {"": {}},
    [{}] * 2,
    [*range(1001)],
    {str(number): number for number in range(300)},
)
VALUES: tuple[Any, ...] = (None, True, False, *COUNTS, *WHOLES)

TYPES = ("text/plain", "application/xml", "multipart/form-data; boundary=x", "application/json; charset=utf-7", "")
HEADERS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("Content-Type", TYPES),
    ("Content-Encoding", ("gzip", "deflate", "br", "zstd", "gzip, gzip", "x" * 50)),
    ("Idempotency-Key", ("", "k", "k" * 300, "ü")),
    ("X-CleverTap-Account-Id", ("", "ABC-DEF-GHIJ", "x" * 5000, "ü", "' OR 1=1 --")),
    ("X-CleverTap-Passcode", ("", "x" * 5000, "ü", "\t")),
    ("Accept", ("text/html", "x/y;q=9", "")),
    ("Range", ("bytes=0-1", "bytes=9-0,5-")),
    ("Cookie", ("a=b", "session=" + "x" * 3000, ";;==")),
    ("Authorization", ("Basic !!", "Bearer " + "x" * 3000, "Basic OjpA")),
    ("X-Tocsin-Local", ("", "x", "ü" * 20)),
    ("Expect", ("200-nothing",)),
    ("Host", ("example.com:99999", "[::1", "a b")),
)
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "ODD")
PARAMETERS = ("{kind}", "{push_id}", "{campaign_id}", "{name}", "{action}")
IDS = ("x", "0", "1", "-1", "9" * 30, "A" * 27)
PARTS = (*IDS, "viewed", "clicked", "style.css", "é", "a b", "%00", "..", "%2e%2e%2f", "%ff")
QUERY_NAMES = ("page", "limit", "from", "to", "s", "", "days", "labels", "state")
ENDS = ("?", "?%", "?a=%ff&a", "/", "//", "%00", ";a=b")


class Request:
    """What goes over the wire. headers: beside the account's own, whose names they replace."""

    def __init__(self, method: str, path: str, body: bytes, headers: dict[str, str]):
        self.method, self.path, self.body, self.headers = method, path, body, headers

    def __repr__(self) -> str:
        return f"{self.method} {self.path} {self.headers} {self.body[:2000]!r}"


class Mutator:
    """Makes requests, wrong in one to some ways or by chance not at all; a seed makes the same ones again."""

    def __init__(self, seed: int):
        self._dice = random.Random(seed)

    def make(self, route: str, methods: list[str]) -> Request:
        """A request to one route, at times to another one with this one's method."""
        dice = self._dice
        path = dice.choice([*BODIES]) if self._sometimes(0.05) else route
        method = dice.choice(METHODS) if self._sometimes(0.05) else dice.choice(methods)
        good = dice.choice([*BODIES.values()]) if self._sometimes(0.1) else BODIES.get(path)
        body = self._write(good) if good is not None or self._sometimes(0.5) else b""
        headers = {name: dice.choice(values) for name, values in dice.sample(HEADERS, dice.choice((0, 0, 0, 0, 1, 2)))}
        if headers.get("Idempotency-Key") == "k":  # a key belongs to its first request: the next one has another
            headers["Idempotency-Key"] = f"k{dice.getrandbits(64)}"
        if headers.get("Content-Encoding") == "gzip" and self._sometimes(0.5):
            body = gzip.compress(body, 1)
        return Request(method, self._aim(path), body, headers)

    def _sometimes(self, share: float) -> bool:
        return self._dice.random() < share

    def _aim(self, path: str) -> str:
        """The path with its parameters filled in, at times with a query or an end it should not have."""
        dice = self._dice
        for name in PARAMETERS:
            path = path.replace(name, quote(dice.choice(PARTS), safe="%"))
        if self._sometimes(0.2):
            pairs = [(dice.choice(QUERY_NAMES), dice.choice(TEXTS)[:50]) for _ in range(dice.choice((1, 1, 2)))]
            path += "?" + "&".join(f"{quote(name)}={quote(text)}" for name, text in pairs)
        return path + dice.choice(ENDS) if self._sometimes(0.1) else path

    def _write(self, good: Any) -> bytes:
        """A body as JSON with up to three things changed in it, and at times in its bytes."""
        body = copy.deepcopy(good)
        for _ in range(self._dice.choice((0, 1, 1, 1, 2, 3))):
            body = self._change(body)
        text = json.dumps(body, ensure_ascii=self._sometimes(0.5))
        for number, token in enumerate(TOKENS):
            text = text.replace(f'"{RAW % number}"', token)
        if self._sometimes(0.1):
            text = self._double(text)
        raw = text.encode("utf-8", "surrogatepass")
        return self._damage(raw) if self._sometimes(0.2) else raw

    def _double(self, text: str) -> str:
        """JSON in which an object has one of its keys twice, with another value."""
        starts = [match.start(1) for match in KEY.finditer(text)]
        if not starts:
            return text
        at = self._dice.choice(starts)
        key = text[at : text.index(":", at)]
        return f"{text[:at]}{key}: {self._dice.choice(DOUBLES)}, {text[at:]}"

    def _change(self, body: Any) -> Any:
        """The body with one value replaced, left out, wrapped, repeated, or joined by another key."""
        dice = self._dice
        places = [*find_places(body)]
        if not places or self._sometimes(0.03):
            return self._strange()
        holder, key = dice.choice(places)
        match dice.randrange(8):
            case 0:
                del holder[key]
            case 1:
                holder[key] = [holder[key]]
            case 2:
                holder[key] = {dice.choice(TEXTS): holder[key]}
            case 3 if isinstance(holder, dict):
                holder[dice.choice((*TEXTS, str(key).upper(), f"{key} "))] = self._strange()
            case 4 if isinstance(holder, list):
                holder.extend([holder[key]] * dice.choice((1, 2, 1100)))
            case _:
                holder[key] = self._strange()
        return body

    def _strange(self) -> Any:
        """A value that hardly belongs where it comes."""
        dice = self._dice
        match dice.randrange(5):
            case 0:
                return RAW % dice.randrange(len(TOKENS))
            case 1:
                return dice.choice(TEXTS)
            case 2:
                return "".join(chr(dice.choice((dice.randrange(128), dice.randrange(0x110000)))) for _ in range(9))
            case _:
                return copy.deepcopy(dice.choice(VALUES))  # a later change must not reach the next request

    def _damage(self, raw: bytes) -> bytes:
        """Bytes with a piece missing, doubled or replaced."""
        dice = self._dice
        start = dice.randint(0, len(raw))
        end = min(len(raw), start + dice.randint(0, 12))
        pieces = (b"", raw[start:end] * 2, b"\xff\xfe", b"\xed\xa0\x80", b"{", b"}" * 9, b"\\", dice.randbytes(3))
        return raw[:start] + dice.choice(pieces) + raw[end:]


def find_places(body: Any) -> Iterator[tuple[Any, Any]]:
    """Every place in a body: the object or list, and the key or index."""
    places = body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ()
    for key, value in list(places)[:50]:
        yield body, key
        yield from find_places(value)
