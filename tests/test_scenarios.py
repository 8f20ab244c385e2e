"""Who is in: events in, time passes, a question is asked. The chapters are those of `docs/queries.md`.

A row is a name, what people are and did on the account's clock, and what is asked: the question, the day, who is in.
A day without a time means noon, an event without a time LATELY. Everybody named in a row is a user of its account.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime, timedelta
from itertools import chain
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import pytest
from support.devices import live_devices
from support.members import count_members

from tocsin.account import Account, create_account
from tocsin.audience.compile import compile_members
from tocsin.audience.query import read_where
from tocsin.delivery.recipients import DeadAddresses, load_people, mark_gone
from tocsin.errors import Problem
from tocsin.ingest import refresh_profiles, upload
from tocsin.ingest.identity import find_users
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

pytest_plugins = ("engines",)

BERLIN = "Europe/Berlin"
KOLKATA = "Asia/Kolkata"
NEW_YORK = "America/New_York"
AUCKLAND = "Pacific/Auckland"
LATELY = "2025-06-01 12:00"
ASKED = "2025-06-15"  # a Sunday

Json = dict[str, Any]
Said = Sequence[Json | list[Json]]  # what was uploaded: records, and lists of them


# ---- what people are and did -----------------------------------------------------------------------------------------


class Moment(NamedTuple):
    """A time on the account's clock; with an offset, that very moment."""

    text: str

    def at(self, zone: str) -> int:
        moment = datetime.fromisoformat(self.text)
        return int((moment if moment.tzinfo else moment.replace(tzinfo=ZoneInfo(zone))).timestamp())


def is_(who: str, more: Mapping[str, Any] | None = None, /, **props: Any) -> Json:
    """A profile."""
    return {"type": "profile", "identity": who, "profileData": {**(more or {}), **props}}


def did(who: str, event: str, at: str = LATELY, more: Mapping[str, Any] | None = None, /, **props: Any) -> Json:
    """An event."""
    return {"type": "event", "identity": who, "evtName": event, "ts": Moment(at), "evtData": {**(more or {}), **props}}


def often(times: int, who: str, event: str, at: str = LATELY, /, **props: Any) -> list[Json]:
    """As many events, a minute apart."""
    first = datetime.fromisoformat(at)
    return [did(who, event, f"{first + timedelta(minutes=number)}", props) for number in range(times)]


def token(who: str, kind: str) -> list[Json]:
    """A device: `fcm`, `apns` or `wns`."""
    device = f"{who}-{kind}"
    address = f"https://db3.notify.windows.com/?token={who}" if kind == "wns" else device
    return [
        {"type": "profile", "identity": who, "objectId": device, "profileData": {}},
        {"type": "token", "objectId": device, "tokenData": {"type": kind, "id": address}},
    ]


def gone(who: str, kind: str) -> Json:
    """The vendor said that the device is dead; `email`: the address ann@example.com bounced for good."""
    return {"type": "gone", "identity": who, "kind": kind}


# ---- what is asked ---------------------------------------------------------------------------------------------------


class Ask(NamedTuple):
    where: Json
    who: set[str]
    on: str


class Row(NamedTuple):
    name: str
    said: Said
    asks: tuple[Ask, ...]
    zone: str
    uploads: int


def row(name: str, said: Said, *asks: Ask, zone: str = BERLIN, uploads: int = 1) -> Row:
    return Row(name, said, asks, zone, uploads)


def asked(where: Json, who: str, on: str = ASKED) -> Ask:
    """Who is in, by name; "" is nobody."""
    return Ask(where, set(who.split()), on)


def raised(event: str, first: Any = 20250101, last: Any = 20251231, **more: Any) -> Json:
    return {"event_name": event, "from": first, "to": last, **more}


def prop(name: str, operator: str | None = None, *value: Any, **more: Any) -> Json:
    """A condition."""
    return {
        "name": name,
        **({} if operator is None else {"operator": operator}),
        **({"value": value[0]} if value else {}),
        **more,
    }


def same(name: str, value: Any, **more: Any) -> Json:
    """A condition without an operator."""
    return prop(name, None, value, **more)


def has(name: str, operator: str, *value: Any, **more: Any) -> Json:
    """One condition on the profile."""
    return common(profile_fields=[prop(name, operator, *value, **more)])


def charged(name: str, operator: str, *value: Any, **more: Any) -> Json:
    """A Charged of this year that meets one condition."""
    return raised("Charged", event_properties=[prop(name, operator, *value, **more)])


def common(**lists: Any) -> Json:
    return {"common_profile_properties": lists}


def advanced(**parts: Any) -> Json:
    return {"advanced_query": parts}


def during(event: str, name: str, value: Any) -> Json:
    """An event of this year by one of its `session_properties`."""
    return raised(event, session_properties=[{"name": name, "value": value}])


# ---- the examples of CleverTap's documentation -----------------------------------------------------------------------

LAUNCHED_2015 = {"event_name": "App Launched", "from": 20150810, "to": 20151025}
FOOD = {
    "event_name": "choseNewFavoriteFood",
    "event_properties": [{"name": "value", "operator": "contains", "value": "pizza"}],
    "session_properties": [
        {"name": "first_time", "value": "True"},
        {"name": "time_of_day", "value": ["22:30", "22:35"]},
    ],
    "from": 20150810,
    "to": 20151025,
}
COMMON = {
    "event_name": "Charged",
    "from": 20151010,
    "to": 20151011,
    "common_profile_properties": {
        "app_fields": [{"name": "Make", "operator": "contains", "value": "Apple"}],
        "profile_fields": [{"name": "language", "operator": "equals", "value": "en"}],
        "demographics": [
            {"name": "Education", "operator": "equals", "value": ["College", "Graduate"]},
            {"name": "Gender", "value": "Female"},
        ],
        "technographics": [
            {"name": "Device", "operator": "equals", "value": ["Mobile", "Tablet"]},
            {"name": "Platform", "value": "AndroidApp"},
        ],
        "reachability": [{"name": "has_token", "value": "True"}],
        "geo_fields": [["India", "Maharashtra", "Mumbai"], ["United States", "New York", "New York City"]],
        "geo_radius": [[35, 42.5, 5.2], [77.6, 76.2, 11]],
    },
}
DID_ALL = advanced(
    did_all=[
        {
            "event_name": "Charged",
            "from": 20151010,
            "to": 20151011,
            "event_properties": [{"name": "Feedback", "operator": "contains", "value": "excellent"}],
        },
        {"event_name": "App Launched", "from": 20151011, "to": 20151012, "operator": "equals", "value": 10},
    ]
)
CHARGED_100 = {
    "event_name": "Charged",
    "from": 20151010,
    "to": 20151011,
    "event_properties": [{"name": "Amount", "operator": "equals", "value": 100}],
}
DID_ANY = advanced(
    did_any={
        "any_events": [CHARGED_100, {"event_name": "App Launched", "from": 20151011, "to": 20151012}],
        "operator": "equals",
        "value": 10,
    }
)
DID_NONE = advanced(did_none=[CHARGED_100, {"event_name": "App Launched", "from": 20151011, "to": 20151012}])
HYBRID = {
    **CHARGED_100,
    "common_profile_properties": {"profile_fields": [{"name": "language", "operator": "equals", "value": "fr"}]},
    "advanced_query": {
        "did_none": [
            {"event_name": "App Uninstalled", "from": 20151010, "to": 20151011},
            {"event_name": "UTM Visited", "from": 20151010, "to": 20151011},
        ],
        "did_any": {
            "any_events": [
                {
                    "event_name": "Added To Cart",
                    "from": 20150911,
                    "to": 20151011,
                    "event_properties": [{"name": "Product name", "operator": "equals", "value": "Model S"}],
                },
                {"event_name": "App Launched", "from": 20151010, "to": 20151011},
            ],
            "operator": "equals",
            "value": 10,
        },
    },
}
SYSTEM_EVENTS = (
    *("Notification Sent", "Notification Viewed", "Notification Clicked", "Push Impressions", "App Launched"),
    *("App Installed", "App Uninstalled", "App Version Changed", "Session Concluded", "UTM Visited"),
    *("State Transitioned", "Geocluster Entered", "Geocluster Exited", "Notification Replied", "Reply Sent"),
    *("Channel Unsubscribed", "Charged", "Identity Set", "Identity Reset", "Identity Error", "Reachable By"),
)


def customer(who: str, day: str = "2015-10-10", device: str = "fcm", **other: Any) -> list[Json]:
    """Somebody whom COMMON means, but for what is said."""
    props = {"Make": "Apple iPhone", "language": "en", "Education": "College", "Gender": "F", "Device": "Mobile"}
    props |= {"Country": "India", "Region": "Maharashtra", "City": "Mumbai"}
    place = {"Latitude": 35.04, "Longitude": 42.5}
    return [is_(who, props | place | other), *token(who, device), did(who, "Charged", f"{day} 12:00")]


def hybrid(who: str, *, language: str = "fr", amount: int = 100, carts: int = 4, launches: int = 6) -> list[Json]:
    """Somebody whom HYBRID means, but for what is said."""
    return [
        is_(who, language=language),
        did(who, "Charged", "2015-10-10 12:00", Amount=amount),
        *(did(who, "Added To Cart", f"2015-09-{11 + day} 08:00", {"Product name": "Model S"}) for day in range(carts)),
        *often(launches, who, "App Launched", "2015-10-11 09:00"),
    ]


THEIRS = [
    row(
        "2.1 launched the app in those days",
        [
            did("ann", "App Launched", "2015-08-10 00:00"),
            did("bob", "App Launched", "2015-10-25 23:59:59"),
            did("early", "App Launched", "2015-08-09 23:59:59"),
            did("late", "App Launched", "2015-10-26 00:00"),
            did("small", "app launched", "2015-09-01 12:00"),
            did("other", "App Installed", "2015-09-01 12:00"),
            is_("idle"),
        ],
        asked(LAUNCHED_2015, "ann bob"),
    ),
    row(
        "2.1 chose pizza for the first time ever, between 22:30 and 22:35",
        [
            did("ann", "choseNewFavoriteFood", "2015-09-01 22:30", value="Pizza Napoli"),
            did("ann", "choseNewFavoriteFood", "2015-09-02 22:30", value="soup"),
            did("bob", "choseNewFavoriteFood", "2015-10-25 22:35:59", value="my pizza"),
            did("soon", "choseNewFavoriteFood", "2015-09-01 22:29:59", value="pizza"),
            did("late", "choseNewFavoriteFood", "2015-09-01 22:36", value="pizza"),
            did("soup", "choseNewFavoriteFood", "2015-09-01 22:31", value="soup"),
            did("second", "choseNewFavoriteFood", "2014-01-01 12:00", value="soup"),
            did("second", "choseNewFavoriteFood", "2015-09-01 22:31", value="pizza"),
            did("nothing", "choseNewFavoriteFood", "2015-09-01 22:31"),
            did("after", "choseNewFavoriteFood", "2015-10-26 22:31", value="pizza"),
        ],
        asked(FOOD, "ann bob"),
    ),
    row(
        "2.3 everything one can say of a person",
        [
            customer("ann"),
            customer("bob", Education="Graduate", Device=["tv", "Tablet"], Latitude=77.6, Longitude=76.2),
            customer("cid", Country="United States", Region="New York", City="New York City"),
            customer("android", Make="Samsung"),
            customer("french", language="fr"),
            customer("pupil", Education="School"),
            customer("man", Gender="M"),
            customer("desk", Device="Desktop"),
            customer("iphone", device="apns"),
            customer("dead"),
            gone("dead", "fcm"),
            [*customer("quiet"), is_("quiet", {"MSG-push": False})],
            customer("pune", City="Pune"),
            customer("far", Latitude=35.06),
            customer("idle", day="2015-10-12"),
        ],
        asked(COMMON, "ann bob cid"),
    ),
    row(
        "2.4 did_all: excellent feedback, and ten launches",
        [
            [did("ann", "Charged", "2015-10-10 12:00", Feedback="An Excellent shop")],
            often(10, "ann", "App Launched", "2015-10-11 08:00"),
            [did("nine", "Charged", "2015-10-10 12:00", Feedback="excellent")],
            often(9, "nine", "App Launched", "2015-10-11 08:00"),
            [did("eleven", "Charged", "2015-10-10 12:00", Feedback="excellent")],
            often(11, "eleven", "App Launched", "2015-10-11 08:00"),
            [did("good", "Charged", "2015-10-10 12:00", Feedback="good")],
            often(10, "good", "App Launched", "2015-10-11 08:00"),
            [did("before", "Charged", "2015-10-09 23:59:59", Feedback="excellent")],
            often(10, "before", "App Launched", "2015-10-11 08:00"),
            often(10, "launcher", "App Launched", "2015-10-11 08:00"),
            # the tenth launch is the first minute of the 13th
            [did("night", "Charged", "2015-10-10 12:00", Feedback="excellent")],
            often(10, "night", "App Launched", "2015-10-12 23:51"),
        ],
        asked(DID_ALL, "ann"),
    ),
    row(
        "2.4 did_any: the sum of both is ten",
        [
            often(4, "ann", "Charged", "2015-10-10 08:00", Amount=100),
            often(6, "ann", "App Launched", "2015-10-12 08:00"),
            often(10, "bob", "Charged", "2015-10-10 08:00", Amount="100"),
            often(10, "cid", "App Launched", "2015-10-12 08:00"),
            often(10, "eleven", "App Launched", "2015-10-12 08:00"),
            often(1, "eleven", "Charged", "2015-10-10 08:00", Amount=100),
            often(4, "cheap", "Charged", "2015-10-10 08:00", Amount=99),
            often(6, "cheap", "App Launched", "2015-10-12 08:00"),
            often(9, "nine", "App Launched", "2015-10-12 08:00"),
            often(1, "nine", "App Launched", "2015-10-10 08:00"),
            [is_("idle")],
        ],
        asked(DID_ANY, "ann bob cid"),
    ),
    row(
        "2.4 did_none: neither of them, not once",
        [
            is_("ann"),
            did("bob", "Charged", "2015-10-10 12:00", Amount=99),
            did("cid", "App Launched", "2015-10-10 23:59:59"),
            did("payer", "Charged", "2015-10-11 23:59:59", Amount=100),
            did("launcher", "App Launched", "2015-10-11 00:00"),
            did("both", "Charged", "2015-10-11 12:00", Amount=100),
            did("both", "App Launched", "2015-10-12 12:00"),
        ],
        asked(DID_NONE, "ann bob cid"),
    ),
    row(
        "2.4 hybrid: everything at once",
        [
            hybrid("ann"),
            hybrid("bob", carts=0, launches=10),
            hybrid("english", language="en"),
            hybrid("cheap", amount=99),
            hybrid("eleven", launches=7),
            hybrid("nine", carts=3),
            [*hybrid("left"), did("left", "App Uninstalled", "2015-10-11 23:59:59")],
            [*hybrid("utm"), did("utm", "UTM Visited", "2015-10-10 00:00")],
            [*hybrid("cid"), did("cid", "App Uninstalled", "2015-10-12 00:00")],
        ],
        asked(HYBRID, "ann bob cid"),
    ),
    row(
        "2.5 an event that nobody ever raised finds nobody",
        [did("ann", "Charged")],
        asked(raised("Chargd"), ""),
        asked(advanced(did_none=[raised("Chargd")]), "ann"),
    ),
    row(
        "2.5 a last day in the future is taken",
        [did("ann", "Charged", "2025-06-15 09:00"), is_("bob")],
        asked(raised("Charged", 20250601, 20991231), "ann"),
    ),
    row(
        "2.6 every event of the system can be asked for, its properties too",
        [did("ann", name, "2025-06-01 12:00", {"Campaign id": 7, "CT Source": "System"}) for name in SYSTEM_EVENTS]
        + [did("bob", name, "2025-06-01 12:00", {"Campaign id": 8}) for name in SYSTEM_EVENTS],
        *(asked(raised(name, props=[prop("Campaign id", "equals", 7)]), "ann") for name in SYSTEM_EVENTS),
    ),
    row(
        "2.6 who opened the last campaign, and who got it and did not",
        [
            did("ann", "Notification Sent", "2025-06-10 12:00", {"Campaign id": 1750000001, "Variant": "A"}),
            did("ann", "Notification Clicked", "2025-06-10 12:05", {"Campaign id": 1750000001, "Variant": "A"}),
            did("bob", "Notification Sent", "2025-06-10 12:00", {"Campaign id": 1750000001, "Variant": "B"}),
            did("cid", "Notification Sent", "2025-06-10 12:00", {"Campaign id": 1750000002}),
        ],
        asked(raised("Notification Clicked", event_properties=[prop("Campaign id", "equals", "1750000001")]), "ann"),
        asked(
            {
                **raised("Notification Sent", event_properties=[prop("Campaign id", "equals", 1750000001)]),
                **advanced(did_none=[raised("Notification Clicked")]),
            },
            "bob",
        ),
    ),
    row(
        "2.6 customers are those who ever paid, addressable those with an address",
        [
            did("ann", "Charged", "2019-01-01 12:00", Amount=1),
            is_("bob", Email="bob@example.com"),
            token("cid", "apns"),
            is_("anonymous"),
        ],
        asked(raised("Charged", 19700102, "today"), "ann"),
        asked(
            {
                "or": [
                    common(reachability=[same("has_token", "True")]),
                    common(reachability=[same("has_email", "True")]),
                ]
            },
            "bob cid",
        ),
    ),
]

# ---- Asking for an audience ------------------------------------------------------------------------------------------

ASKING = [
    row(
        "{} is everybody",
        [is_("ann"), did("bob", "Charged"), token("cid", "fcm")],
        asked({}, "ann bob cid"),
        asked({"segment": "all"}, "ann bob cid"),
        asked({"segment": "all", **raised("Charged")}, "bob"),
    ),
    row("{} of an account without people is nobody", [], asked({}, "")),
    row(
        "the first example of the document",
        [
            *(did(who, "Charged", Amount=101) for who in ("ann", "bob", "free", "left")),
            did("cheap", "Charged", Amount=100),
            did("old", "Charged", "2025-05-15 12:00", Amount=101),
            *(is_(who, Plan="gold") for who in ("ann", "cheap", "old", "left", "idle")),
            is_("bob", Plan="Platinum"),
            is_("free", Plan="Free"),
            did("left", "App Uninstalled", "2024-06-15 12:00"),
            did("ann", "App Uninstalled", "2024-06-14 12:00"),
        ],
        asked(
            {
                "event_name": "Charged",
                "from": "-30d",
                "to": "today",
                "event_properties": [{"name": "Amount", "operator": "greater_than", "value": 100}],
                "common_profile_properties": {"profile_fields": [{"name": "Plan", "value": ["Gold", "Platinum"]}]},
                "advanced_query": {"did_none": [{"event_name": "App Uninstalled", "from": "-365d", "to": "today"}]},
            },
            "ann bob",
        ),
    ),
    row(
        "older spellings mean the same",
        [
            did("ann", "Charged", Amount=5),
            is_("ann", {"Customer Type": "Platinum"}),
            did("bob", "Charged", Amount=6),
            is_("bob", {"Customer Type": "Platinum"}),
            did("cid", "Charged", Amount=5),
            is_("cid", {"Customer Type": "Gold"}),
        ],
        asked(common(profile_fields=[{"Key": "Customer Type", "value": "Platinum"}]), "ann bob"),
        asked(common(profile_fields=[{"field_name": "Customer Type", "operator": "equals", "value": "Gold"}]), "cid"),
        asked(raised("Charged", props=[{"name": "Amount", "value": 5}]), "ann cid"),
        asked({"common_profile_prop": {"profile_fields": [{"Key": "Customer Type", "value": "Gold"}]}}, "cid"),
        asked(
            raised(
                "Charged",
                props=[{"Key": "Amount", "value": 5}],
                common_profile_prop={"profile_fields": [{"field_name": "Customer Type", "value": "platinum"}]},
            ),
            "ann",
        ),
        asked(
            advanced(did_all=[raised("Charged", "20250101", "20251231", props=[{"Key": "Amount", "value": 6}])]), "bob"
        ),
    ),
    row(
        "without a base event there is no condition on events",
        [is_("ann", Plan="Gold"), is_("bob", Plan="Gold"), did("bob", "Charged", "2019-01-01 12:00")],
        asked(has("Plan", "equals", "Gold"), "ann bob"),
    ),
    row(
        "all that is asked must be true at once",
        [
            is_("ann", Plan="Gold", City="Bonn"),
            is_("bob", Plan="Gold", City="Ulm"),
            is_("cid", City="Bonn"),
            *(did(who, "Charged") for who in ("ann", "bob", "cid")),
            is_("dan", Plan="Gold", City="Bonn"),
        ],
        asked({**raised("Charged"), **common(profile_fields=[same("Plan", "Gold"), same("City", "Bonn")])}, "ann"),
    ),
]

# ---- Events ----------------------------------------------------------------------------------------------------------


def day_of(hours: str, zone: str, day: str, *between: str) -> Row:
    """A day of the account's clock, its first and last second, and those beside it; `between` are hard moments of it.
    Asked of events, and of a date in the profile."""
    number = int(day.replace("-", ""))
    before, after = (date.fromisoformat(day) + timedelta(days=days) for days in (-1, 1))
    inside = {"first": f"{day} 00:00", "last": f"{day} 23:59:59"} | {f"mid{n}": one for n, one in enumerate(between)}
    moments = {"before": f"{before} 23:59:59", **inside, "after": f"{after} 00:00"}
    both = [(is_(who, When=Moment(at)), did(who, "Played", at)) for who, at in moments.items()]
    within = " ".join(inside)
    return row(
        f"a day of {hours} hours: {day} in {zone}",
        list(chain.from_iterable(both)),
        asked(raised("Played", number, number), within),
        asked(raised("Played", "today", "today"), within, on=day),
        asked(raised("Played", "yesterday", "-1d"), within, on=f"{after} 00:00"),
        asked(raised("Played", "yesterday", "-1d"), within, on=f"{after} 23:59:59"),
        asked(raised("Played", "-1d", "today"), f"before {within}", on=f"{day} 23:59:59"),
        asked(has("When", "equals", day), within),
        asked(has("When", "between", [day, "-1d"]), within, on=f"{after} 00:00"),
        asked(has("When", "less_than", day), "before"),
        asked(has("When", "less_than_equals", day), f"before {within}"),
        asked(has("When", "greater_than", day), "after"),
        asked(has("When", "greater_than_equals", "today"), f"{within} after", on=day),
        asked(has("When", "not_equals", day), "before after"),
        zone=zone,
    )


WEEK = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")

EVENTS = [
    row(
        "names of events are letter for letter",
        [did("ann", "Charged"), did("bob", "charged"), did("cid", "Charged ")],
        asked(raised("Charged"), "ann"),
        asked(raised("charged"), "bob"),
        asked(raised("CHARGED"), ""),
    ),
    row(
        "names of events may be anything",
        [did("ann", 'Größe\'s "x" {0} %s `q` \\ 日本 🔔'), did("bob", "e" * 480), did("cid", "é" * 240)],
        asked(raised('Größe\'s "x" {0} %s `q` \\ 日本 🔔'), "ann"),
        asked(raised("e" * 480), "bob"),
        asked(raised("é" * 240), "cid"),
    ),
    row(
        "both days are included, from their first to their last second",
        [
            did("before", "Charged", "2025-05-31 23:59:59"),
            did("ann", "Charged", "2025-06-01 00:00"),
            did("bob", "Charged", "2025-06-02 23:59:59"),
            did("after", "Charged", "2025-06-03 00:00"),
        ],
        asked(raised("Charged", 20250601, 20250602), "ann bob"),
        asked(raised("Charged", "20250601", "20250602"), "ann bob"),
        asked(raised("Charged", 20250601, 20250601), "ann"),
        asked(raised("Charged", 20250602, 20250602), "bob"),
        asked(raised("Charged", 20250603, 20250605), "after"),
    ),
    row(
        "a day is the account's, not London's",
        [
            did("ann", "Charged", "2025-06-01 00:30"),
            did("bob", "Charged", "2025-06-01 23:30"),
            did("cid", "Charged", "2025-06-02 05:00"),
        ],
        asked(raised("Charged", 20250601, 20250601), "ann bob"),
        asked(raised("Charged", "today", "today"), "cid", on="2025-06-02 05:29"),
        asked(raised("Charged", "yesterday", "yesterday"), "ann bob", on="2025-06-02 00:00"),
        zone=KOLKATA,
    ),
    row(
        "today in Auckland while it is still yesterday in London",
        [did("ann", "Charged", "2025-06-15 07:00"), did("bob", "Charged", "2025-06-14 22:00")],
        asked(raised("Charged", "today", "today"), "ann", on="2025-06-15 08:00"),
        asked(raised("Charged", "today", "today"), "", on="2025-06-16 00:00"),
        zone=AUCKLAND,
    ),
    day_of("23", BERLIN, "2025-03-30", "2025-03-30 01:59:59", "2025-03-30 03:00"),
    day_of("25", BERLIN, "2025-10-26", "2025-10-26 02:30+02:00", "2025-10-26 02:30+01:00"),
    day_of("23", NEW_YORK, "2025-03-09", "2025-03-09 01:59:59", "2025-03-09 03:00"),
    day_of("25", NEW_YORK, "2025-11-02", "2025-11-02 01:30-04:00", "2025-11-02 01:30-05:00"),
    day_of("23", AUCKLAND, "2025-09-28", "2025-09-28 03:00"),
    day_of("25", AUCKLAND, "2025-04-06", "2025-04-06 02:30+13:00", "2025-04-06 02:30+12:00"),
    day_of("23½", "Australia/Lord_Howe", "2025-10-05", "2025-10-05 02:30"),
    day_of("24½", "Australia/Lord_Howe", "2025-04-06", "2025-04-06 01:45+11:00", "2025-04-06 01:45+10:30"),
    day_of("23 (it begins at 01:00)", "America/Santiago", "2025-09-07", "2025-09-07 01:00"),
    day_of(
        "25 (23:30 comes twice)", "America/Santiago", "2025-04-05", "2025-04-05 23:30-03:00", "2025-04-05 23:30-04:00"
    ),
    day_of("25 (midnight comes twice)", "America/Havana", "2025-11-02", "2025-11-02 00:00-05:00"),
    day_of("23 (in the years before)", "America/Sao_Paulo", "2018-11-04", "2018-11-04 01:00"),
    day_of("24", "Asia/Kathmandu", "2025-06-01"),
    day_of("24", "UTC", "2024-02-29"),
    row(
        "a day that Samoa never had",
        [
            did("ann", "Played", "2011-12-29 23:59:59"),
            did("bob", "Played", "2011-12-31 00:00"),
            is_("bob", When=Moment("2011-12-31 00:00")),
        ],
        asked(raised("Played", 20111230, 20111230), ""),
        asked(raised("Played", 20111229, 20111230), "ann"),
        asked(raised("Played", 20111230, 20111231), "bob"),
        asked(raised("Played", "yesterday", "yesterday"), "", on="2011-12-31"),
        asked(has("When", "equals", "2011-12-30"), ""),
        asked(has("When", "greater_than", "2011-12-30"), "bob"),
        zone="Pacific/Apia",
    ),
    row(
        "relative days count back from the day of asking",
        [
            did("today", "Charged", "2025-06-15 11:00"),
            did("evening", "Charged", "2025-06-15 23:59:59"),
            did("yesterday", "Charged", "2025-06-14 00:00"),
            did("days30", "Charged", "2025-05-16 00:00"),
            did("days31", "Charged", "2025-05-15 23:59:59"),
            did("weeks4", "Charged", "2025-05-18 00:00"),
            did("months6", "Charged", "2024-12-15 00:00"),
            did("month6", "Charged", "2024-12-14 23:59:59"),
            did("year", "Charged", "2024-06-15 00:00"),
            did("years", "Charged", "2024-06-14 23:59:59"),
        ],
        asked(raised("Charged", "today", "today"), "today evening"),
        asked(raised("Charged", "yesterday", "yesterday"), "yesterday"),
        asked(raised("Charged", "-1d", "-1d"), "yesterday"),
        asked(raised("Charged", "-30d", "-30d"), "days30"),
        asked(raised("Charged", "-30d", "yesterday"), "days30 weeks4 yesterday"),
        asked(raised("Charged", "-4w", "-4w"), "weeks4"),
        asked(raised("Charged", "-6m", "-6m"), "months6"),
        asked(raised("Charged", "-1y", "-6m"), "year month6 months6"),
        asked(raised("Charged", 20240614, "-1y"), "years year"),
        asked(raised("Charged", "-1y", 20241214), "year month6"),
    ),
    row(
        "months and years ago end with the month that is shorter",
        [
            did("feb28", "Charged", "2025-02-28 12:00"),
            did("mar1", "Charged", "2025-03-01 12:00"),
            did("leap", "Charged", "2024-02-29 12:00"),
            did("leapless", "Charged", "2023-02-28 12:00"),
        ],
        asked(raised("Charged", "-6m", "-6m"), "feb28", on="2025-08-31"),
        asked(raised("Charged", "-6m", "-6m"), "feb28", on="2025-08-28"),
        asked(raised("Charged", "-6m", "-6m"), "mar1", on="2025-09-01"),
        asked(raised("Charged", "-12m", "-1y"), "leapless", on="2024-02-29"),
        asked(raised("Charged", "-1m", "-1m"), "leap", on="2024-03-31"),
        asked(raised("Charged", "-1y", "-1y"), "feb28", on="2026-02-28"),
    ),
    row(
        "time passes: the same question on another day",
        [did("ann", "Charged"), did("bob", "Charged", "2025-06-08 12:00"), is_("cid")],
        asked(raised("Charged", "-7d", "today"), "ann", on="2025-06-07"),
        asked(raised("Charged", "-7d", "today"), "ann bob", on="2025-06-08"),
        asked(raised("Charged", "-7d", "today"), "bob", on="2025-06-09"),
        asked(raised("Charged", "-7d", "today"), "bob", on="2025-06-15 23:59:59"),
        asked(raised("Charged", "-7d", "today"), "", on="2025-06-16 00:00"),
        asked(raised("Charged", 20250601, 20250601), "ann", on="2030-01-01"),
        asked(advanced(did_none=[raised("Charged", "-7d", "today")]), "bob cid", on="2025-06-07"),
        asked(advanced(did_none=[raised("Charged", "-7d", "today")]), "ann bob cid", on="2025-06-16"),
    ),
    row(
        "one and the same event must meet all conditions",
        [
            did("ann", "Charged", Amount=150, Currency="EUR"),
            did("bob", "Charged", Amount=150, Currency="USD"),
            did("bob", "Charged", "2025-06-02 12:00", Amount=50, Currency="EUR"),
        ],
        asked(
            raised(
                "Charged", event_properties=[prop("Amount", "greater_than", 100), prop("Currency", "equals", "eur")]
            ),
            "ann",
        ),
    ),
    row(
        "how often: exactly, more than, at least, fewer than, at most",
        [[is_("none")], *(often(times, f"x{times}", "Played") for times in (1, 2, 3, 4))],
        asked(raised("Played", operator="equals", value=2), "x2"),
        asked(raised("Played", operator="greater_than", value=2), "x3 x4"),
        asked(raised("Played", operator="greater_than_equals", value=2), "x2 x3 x4"),
        asked(raised("Played", operator="less_than", value=3), "x1 x2"),
        asked(raised("Played", operator="less_than_equals", value=3), "x1 x2 x3"),
        asked(raised("Played", operator="less_than_equals", value=1), "x1"),
        asked(raised("Played", operator="greater_than", value=0), "x1 x2 x3 x4"),
        asked(raised("Played", operator="greater_than_equals", value=0), "x1 x2 x3 x4"),
        asked(raised("Played", operator="equals", value=1000), ""),
        asked(advanced(did_all=[raised("Played", operator="less_than", value=3)]), "x1 x2"),
    ),
    row(
        "only events of those days that meet the conditions are counted",
        [
            [did("ann", "Played", Song="A"), did("ann", "Played", "2025-06-02 12:00", Song="a")],
            [did("bob", "Played", Song="A"), did("bob", "Played", "2025-06-02 12:00", Song="B")],
            [did("cid", "Played", Song="A"), did("cid", "Played", "2025-06-03 12:00", Song="A")],
            [did("dan", "Played", Song="A"), did("dan", "played", "2025-06-02 12:00", Song="A")],
        ],
        asked(
            raised(
                "Played", 20250601, 20250602, event_properties=[prop("Song", "equals", "A")], operator="equals", value=2
            ),
            "ann",
        ),
        asked(
            raised(
                "Played",
                20250601,
                20250602,
                event_properties=[prop("Song", "equals", "A")],
                operator="less_than",
                value=2,
            ),
            "bob cid dan",
        ),
    ),
    row(
        "a repeated upload of the same events counts once",
        [did("ann", "Played", Song="A"), often(2, "bob", "Played", Song="A")],
        asked(raised("Played", operator="equals", value=1), "ann"),
        asked(raised("Played", operator="equals", value=2), "bob"),
        asked(advanced(did_any={"any_events": [raised("Played")], "operator": "equals", "value": 2}), "bob"),
        uploads=3,
    ),
    row(
        "first_time: the first of that name ever, not the first of those days",
        [
            did("ann", "Charged", Amount=150),
            did("ann", "Charged", "2025-06-02 12:00", Amount=50),
            did("bob", "Charged", "2019-01-01 12:00", Amount=50),
            did("bob", "Charged", Amount=150),
            did("cid", "Charged", Amount=50),
            did("cid", "Charged", "2025-06-02 12:00", Amount=150),
            did("cid", "charged", "2019-01-01 12:00"),
        ],
        asked(during("Charged", "first_time", "True"), "ann cid"),
        asked(during("Charged", "first_time", "False"), "ann bob cid"),
        asked(raised("Charged", 20250602, 20250602, session_properties=[same("first_time", "True")]), ""),
        asked({**charged("Amount", "greater_than", 100), **during("Charged", "first_time", "True")}, "ann"),
        asked({**charged("Amount", "greater_than", 100), **during("Charged", "first_time", "False")}, "bob cid"),
        asked(advanced(did_none=[during("Charged", "first_time", "True")]), "bob"),
    ),
    row(
        "last_time: their latest of that name ever, also after those days",
        [
            did("ann", "Charged", Amount=150),
            did("bob", "Charged", Amount=50),
            did("bob", "Charged", "2026-06-01 12:00", Amount=150),
            did("cid", "Charged", Amount=150),
            did("cid", "Charged", "2025-06-02 12:00", Amount=50),
        ],
        asked(during("Charged", "last_time", "True"), "ann cid"),
        asked(during("Charged", "last_time", "False"), "bob cid"),
        asked({**charged("Amount", "greater_than", 100), **during("Charged", "last_time", "True")}, "ann"),
        asked(raised("Charged", 20260101, 20261231, session_properties=[prop("last_time", "equals", "True")]), "bob"),
        asked(raised("Charged", session_properties=[same("first_time", "True"), same("last_time", "True")]), "ann"),
    ),
    row(
        "of several events in the same second exactly one is the first and one the latest",
        [*(did("ann", "Charged", Item=number) for number in range(3)), did("bob", "Charged")],
        *(
            asked({**during("Charged", name, value), "operator": "equals", "value": count}, who)
            for name in ("first_time", "last_time")
            for value, count, who in (("True", 1, "ann bob"), ("False", 2, "ann"), ("True", 2, ""), ("True", 3, ""))
        ),
    ),
    row(
        "time_of_day: both minutes are included, to their last second",
        [
            did("soon", "Played", "2025-06-01 22:29:59"),
            did("ann", "Played", "2025-06-01 22:30"),
            did("bob", "Played", "2025-06-02 22:35:59"),
            did("late", "Played", "2025-06-01 22:36"),
            did("noon", "Played"),
        ],
        asked(during("Played", "time_of_day", ["22:30", "22:35"]), "ann bob"),
        asked(during("Played", "time_of_day", [["22:30", "22:35"]]), "ann bob"),
        asked(during("Played", "time_of_day", ["22:30", "22:30"]), "ann"),
        asked(during("Played", "time_of_day", [["12:00", "12:00"], ["22:36", "22:40"]]), "late noon"),
        asked(during("Played", "time_of_day", ["00:00", "23:59"]), "soon ann bob late noon"),
    ),
    row(
        "time_of_day over midnight",
        [
            did("evening", "Played", "2025-06-01 21:59:59"),
            did("ann", "Played", "2025-06-01 22:00"),
            did("bob", "Played", "2025-06-01 23:59:59"),
            did("cid", "Played", "2025-06-02 00:00"),
            did("dan", "Played", "2025-06-02 06:00:59"),
            did("morning", "Played", "2025-06-02 06:01"),
        ],
        asked(during("Played", "time_of_day", ["22:00", "06:00"]), "ann bob cid dan"),
        asked(
            raised("Played", 20250601, 20250601, session_properties=[same("time_of_day", ["22:00", "06:00"])]),
            "ann bob",
        ),
        asked(during("Played", "time_of_day", [["23:00", "01:00"], ["06:01", "07:00"]]), "bob cid morning"),
        zone=KOLKATA,
    ),
    row(
        "time_of_day is what the clock showed, in summer and in winter, and twice when it is put back",
        [
            did("winter", "Played", "2025-01-15 08:30"),
            did("summer", "Played", "2025-07-15 08:30"),
            did("once", "Played", "2025-10-26 02:30+02:00"),
            did("again", "Played", "2025-10-26 02:30+01:00"),
        ],
        asked(during("Played", "time_of_day", ["08:00", "09:00"]), "winter summer"),
        asked(during("Played", "time_of_day", ["02:30", "02:30"]), "once again"),
    ),
    row(
        "day_of_week: 1 is Sunday, 7 is Saturday",
        [did(name, "Played", f"2025-06-{15 + number} 00:30") for number, name in enumerate(WEEK)],
        *(asked(during("Played", "day_of_week", number), name) for number, name in enumerate(WEEK, 1)),
        asked(during("Played", "day_of_week", [1, 7]), "sun sat"),
        zone=KOLKATA,
    ),
    row(
        "day_of_month",
        [
            did("first", "Played", "2025-06-01 00:30"),
            did("last", "Played", "2025-05-31 23:59:59"),
            did("mid", "Played", "2025-06-15 12:00"),
        ],
        asked(during("Played", "day_of_month", 1), "first"),
        asked(during("Played", "day_of_month", [15, 31]), "last mid"),
        asked(during("Played", "day_of_month", 30), ""),
        zone=NEW_YORK,
    ),
    row(
        "payday Fridays: the same event meets all session properties",
        [
            did("ann", "Charged", "2025-02-28 19:00", utm_source="mail"),
            did("bob", "Charged", "2025-02-28 09:00"),
            did("bob", "Charged", "2025-02-27 19:00"),
            did("cid", "Charged", "2025-03-28 19:00"),
        ],
        asked(
            raised(
                "Charged",
                session_properties=[
                    prop("day_of_week", "equals", 6),
                    prop("day_of_month", "equals", [28, 31]),
                    prop("time_of_day", "equals", ["18:00", "20:00"]),
                ],
            ),
            "ann cid",
        ),
        asked(raised("Charged", session_properties=[same("day_of_week", 6), prop("utm_source", "exists")]), "ann"),
    ),
    row(
        "any other session property is the event's own",
        [
            did("ann", "App Launched", session_source="Newsletter", utm_source="mail"),
            did("bob", "App Launched", session_source="ad"),
            did("cid", "App Launched"),
            is_("cid", session_source="newsletter"),
        ],
        asked(during("App Launched", "session_source", "newsletter"), "ann"),
        asked(raised("App Launched", session_properties=[prop("session_source", "contains", "a")]), "bob"),
        asked(raised("App Launched", session_properties=[prop("utm_source", "does_not_exist")]), "bob cid"),
        asked(during("App Launched", "session_source", ["ad", "Newsletter"]), "ann bob"),
    ),
]

# ---- Conditions ------------------------------------------------------------------------------------------------------

LONG = "Lieblingsgetränk." + "ß" * 51  # 120 bytes
NAMES = (
    "test.dot7",
    'city\'s "x"',
    "Größe",
    "日本 🔔",
    "100%",
    "a_b",
    "a-b",
    "a%2Db",
    "a\\b",
    "`b`",
    "{c:String}",
    "?",
    "$1",
    LONG,
)
BIG = 2**53


def values(name: str, **of: Any) -> list[Json]:
    """People by name, each with that property."""
    return [is_(who, {name: value}) for who, value in of.items()]


def items(who: str, *categories: str | None) -> Json:
    """A Charged with an item of each category, one, two, … of them; None is an item without a category."""
    found = [{"Quantity": n} | ({"Category": one} if one else {}) for n, one in enumerate(categories, 1)]
    return did(who, "Charged", Amount=300, Items=found)


CONDITIONS = [
    row(
        "texts: every operator",
        [*values("Plan", ann="Gold", bob="GOLD", cid="Golden Circle", dan="Silver", eve=""), is_("fay")],
        asked(common(profile_fields=[{"name": "Plan", "value": "Gold"}]), "ann bob"),
        asked(has("Plan", "equals", "gold"), "ann bob"),
        asked(has("Plan", "equals", ["Gold", "silver"]), "ann bob dan"),
        asked(has("Plan", "equals", ""), "eve"),
        asked(has("Plan", "equals", "Gol"), ""),
        asked(has("Plan", "equals", "Gold "), ""),
        asked(has("Plan", "not_equals", "gold"), "cid dan eve fay"),
        asked(has("Plan", "not_equals", ["gold", "silver"]), "cid eve fay"),
        asked(has("Plan", "contains", "OLD"), "ann bob cid"),
        asked(has("Plan", "contains", "n c"), "cid"),
        asked(has("Plan", "contains", ["circle", "ilv"]), "cid dan"),
        asked(has("Plan", "does_not_contain", "old"), "dan eve fay"),
        asked(has("Plan", "does_not_contain", ["old", "ilv"]), "eve fay"),
        asked(has("Plan", "exists"), "ann bob cid dan eve"),
        asked(has("Plan", "does_not_exist"), "fay"),
        asked(has("Plan", "greater_than", 0), ""),
        asked(has("Plan", "less_than_equals", 0), ""),
        asked(has("Plan", "between", [-1e9, 1e9]), ""),
    ),
    row(
        "numbers: every operator",
        [*values("Points", ann=5, bob=5.5, cid=-5, dan=0, eve=1_000_000, fay="12 kg"), is_("gus")],
        asked(has("Points", "equals", 5), "ann"),
        asked(has("Points", "equals", [5, 0]), "ann dan"),
        asked(has("Points", "not_equals", 5), "bob cid dan eve fay gus"),
        asked(has("Points", "not_equals", [5, 5.5]), "cid dan eve fay gus"),
        asked(has("Points", "greater_than", 5), "bob eve"),
        asked(has("Points", "greater_than_equals", 5), "ann bob eve"),
        asked(has("Points", "less_than", 0), "cid"),
        asked(has("Points", "less_than_equals", 0), "cid dan"),
        asked(has("Points", "greater_than", [100, 5]), "bob eve"),
        asked(has("Points", "less_than", ["-1", 1]), "cid dan"),
        asked(has("Points", "between", [0, 5.5]), "ann bob dan"),
        asked(has("Points", "between", [5, 5]), "ann"),
        asked(has("Points", "between", ["-5", "0"]), "cid dan"),
        asked(has("Points", "contains", 5), "ann bob cid"),
        asked(has("Points", "contains", "000000"), "eve"),
        asked(has("Points", "contains", "."), "bob"),
        asked(has("Points", "contains", 12), "fay"),
        asked(has("Points", "does_not_contain", "5"), "dan eve fay gus"),
        asked(has("Points", "exists"), "ann bob cid dan eve fay"),
        asked(has("Points", "does_not_exist"), "gus"),
    ),
    row(
        "59.99 contains 9.9",
        [did("ann", "Charged", Amount=59.99), did("bob", "Charged", Amount=599)],
        asked(charged("Amount", "contains", "9.9"), "ann"),
        asked(charged("Amount", "contains", 9.9), "ann"),
        asked(charged("Amount", "contains", "99"), "ann bob"),
    ),
    row(
        '"5", 5, 5.0 and "05" are equal',
        [*values("Level", ann="5", bob=5, cid=5.0, dan="05", eve="5.0", fay="five", gus="15"), is_("hal")],
        *(asked(has("Level", "equals", five), "ann bob cid dan eve") for five in (5, 5.0, "5", "05", "5.0")),
        *(asked(has("Level", "not_equals", five), "fay gus hal") for five in (5, "5.0")),
        asked(has("Level", "equals", ["05", "FIVE"]), "ann bob cid dan eve fay"),
        asked(has("Level", "greater_than", 4), "ann bob cid dan eve gus"),
        asked(has("Level", "less_than", "5.5"), "ann bob cid dan eve"),
        asked(has("Level", "between", [5, 15]), "ann bob cid dan eve gus"),
        asked(has("Level", "contains", "5"), "ann bob cid dan eve gus"),
        asked(has("Level", "contains", "05"), "dan"),
    ),
    row(
        "what reads as a number is that number, also a version, a postal code or a telephone number",
        [
            *values("App Version", ann="1.10", bob="1.1", cid="1.9.3"),
            *values("Zip", dan="01067", eve=1067),
            is_("fay", Phone="+49 1511 2345678"),
        ],
        asked(has("App Version", "equals", "1.10"), "ann bob"),
        asked(has("App Version", "less_than", 1.9), "ann bob"),
        asked(has("App Version", "contains", "1.10"), "ann"),
        asked(has("Zip", "equals", "01067"), "dan eve"),
        asked(has("Zip", "contains", "010"), "dan"),
        asked(has("Phone", "equals", ["+4915112345678", "x"]), "fay"),
        asked(has("Phone", "contains", "+49"), "fay"),
    ),
    row(
        "the same in events",
        [did(who, "Charged", Amount=one) for who, one in {"ann": "5", "bob": 5, "cid": "five"}.items()],
        asked(charged("Amount", "equals", 5), "ann bob"),
        asked(charged("Amount", "equals", "5.0"), "ann bob"),
        asked(charged("Amount", "greater_than_equals", "5"), "ann bob"),
        asked(charged("Amount", "not_equals", 5), "cid"),
    ),
    row(
        "booleans are the texts true and false",
        [*values("Vip", ann=True, bob="True", cid="true", dan=False, eve="FALSE", gus=1, hal="yes"), is_("fay")],
        *(asked(has("Vip", "equals", true), "ann bob cid") for true in (True, "True", "true", "TRUE")),
        *(asked(has("Vip", "equals", false), "dan eve") for false in (False, "False", "false")),
        asked(has("Vip", "equals", [True, False]), "ann bob cid dan eve"),
        asked(has("Vip", "not_equals", "True"), "dan eve fay gus hal"),
        asked(has("Vip", "contains", "ru"), "ann bob cid"),
        asked(has("Vip", "exists"), "ann bob cid dan eve gus hal"),
        asked(has("Vip", "does_not_exist"), "fay"),
        asked(has("Vip", "equals", 1), "gus"),
        asked(has("Vip", "greater_than_equals", 0), "gus"),
    ),
    row(
        "a missing property meets the three negations and nothing else",
        [
            is_("never", Other=1),
            is_("null", Plan=None),
            is_("deleted", Plan="Gold"),
            is_("deleted", Plan={"$delete": 1}),
        ],
        *(asked(has("Plan", "equals", value), "") for value in ("Gold", "", "null", 0, False)),
        asked(has("Plan", "contains", "Gold"), ""),
        *(
            asked(has("Plan", f"{than}_than{equals}", 0), "")
            for than in ("greater", "less")
            for equals in ("", "_equals")
        ),
        asked(has("Plan", "between", [-1, 1]), ""),
        asked(has("Plan", "less_than", "today"), ""),
        asked(has("Plan", "exists"), ""),
        asked(has("Plan", "not_equals", "Gold"), "never null deleted"),
        asked(has("Plan", "does_not_contain", "Gold"), "never null deleted"),
        asked(has("Plan", "does_not_exist"), "never null deleted"),
    ),
    row(
        "a missing property of an event, which must have happened",
        [did("ann", "Charged", Amount=1), did("bob", "Charged", Coupon="X"), is_("cid")],
        asked(charged("Coupon", "does_not_exist"), "ann"),
        asked(charged("Coupon", "not_equals", "Y"), "ann bob"),
        asked(charged("Coupon", "does_not_contain", "x"), "ann"),
    ),
    row(
        "case does not count, in any script",
        values(
            "City", ann="STRASSE", bob="straße", cid="ГОРОД", dan="ΣΊΣΥΦΟΣ", eve="Übergröße", fay="ÅRHUS", gus="東京"
        ),
        asked(has("City", "equals", "Strasse"), "ann bob"),
        asked(has("City", "equals", "STRAßE"), "ann bob"),
        asked(has("City", "contains", "ASS"), "ann bob"),
        asked(has("City", "equals", "город"), "cid"),
        asked(has("City", "equals", "σίσυφος"), "dan"),
        asked(has("City", "contains", "GRÖSS"), "eve"),
        asked(has("City", "not_equals", ["strasse", "århus"]), "cid dan eve gus"),
        asked(has("City", "contains", "京"), "gus"),
    ),
    row(
        "a text is only its letters",
        values(
            "Motto", ann="100% _*.[a]", bob="1000 xy", cid='it\'s "\\n"', dan="it's", eve=" x ", fay="null", gus="[]"
        ),
        asked(has("Motto", "contains", "0%"), "ann"),
        asked(has("Motto", "contains", "_"), "ann"),
        asked(has("Motto", "contains", ".*"), ""),
        asked(has("Motto", "contains", "'"), "cid dan"),
        asked(has("Motto", "contains", "\\n"), "cid"),
        asked(has("Motto", "equals", "x"), ""),
        asked(has("Motto", "equals", " X "), "eve"),
        asked(has("Motto", "equals", "null"), "fay"),
        asked(has("Motto", "equals", "[]"), "gus"),
    ),
    row(
        "names of properties are letter for letter",
        [is_("ann", Plan="Gold"), is_("bob", plan="Gold"), is_("cid", {"Plan ": "Gold"})],
        asked(has("Plan", "equals", "Gold"), "ann"),
        asked(has("plan", "exists"), "bob"),
        asked(has("PLAN", "exists"), ""),
    ),
    row(
        "names with dots, quotes, any script, 120 bytes",
        [is_(f"u{number}", {name: "Gold", "Other": name}) for number, name in enumerate(NAMES)]
        + [did("e", "Charged", "2025-06-01 12:00", dict.fromkeys(NAMES, 5))],
        *(asked(has(name, "equals", "gold"), f"u{number}") for number, name in enumerate(NAMES)),
        *(asked(has(name, "exists"), f"u{number}") for number, name in enumerate(NAMES)),
        *(asked(charged(name, "greater_than", 4), "e") for name in NAMES),
        asked(has(LONG[:-1], "exists"), ""),
    ),
    row(
        "a thousand different names, as many as an account may have",
        [
            is_(f"u{number}", {f"p{number}_{one}": f"v{one}" if one % 2 else one for one in range(200)})
            for number in range(5)
        ],
        *(asked(has(f"p{number}_{one}", "exists"), f"u{number}") for number in (0, 2, 4) for one in (0, 199)),
        *(asked(has(f"p{number}_198", "equals", "198.0"), f"u{number}") for number in (0, 2, 4)),
        *(asked(has(f"p{number}_199", "equals", "V199"), f"u{number}") for number in (0, 2, 4)),
        asked(has("p4_199", "does_not_exist"), " ".join(f"u{number}" for number in range(4))),
    ),
    row(
        "whole numbers of 2^53 and more are equal by their digits only",
        values(
            "Id",
            a=BIG - 1,
            b=BIG,
            c=BIG + 1,
            d=BIG + 2,
            e=str(BIG + 1),
            f="12345678901234567890",
            g="12345678901234567891",
            h=-BIG - 1,
            i=2**63 - 1,
        ),
        asked(has("Id", "equals", BIG - 1), "a"),
        asked(has("Id", "equals", BIG), "b"),
        asked(has("Id", "equals", BIG + 1), "c e"),
        asked(has("Id", "equals", str(BIG + 1)), "c e"),
        asked(has("Id", "equals", [BIG + 2, BIG]), "b d"),
        asked(has("Id", "not_equals", BIG + 1), "a b d f g h i"),
        asked(has("Id", "equals", 12345678901234567890), "f"),
        asked(has("Id", "equals", "12345678901234567891"), "g"),
        asked(has("Id", "equals", -BIG - 1), "h"),
        asked(has("Id", "equals", -BIG), ""),
        asked(has("Id", "equals", 2**63 - 1), "i"),
        asked(has("Id", "equals", 2**63 - 2), ""),
        asked(has("Id", "contains", "0993"), "c e h"),
        asked(has("Id", "greater_than", 10**18), "f g i"),
        asked(has("Id", "less_than", 0), "h"),
    ),
    row(
        "long ids in lists and in events",
        [
            is_("ann", Ids=[BIG + 1, "x"]),
            is_("bob", Ids=[BIG, 5]),
            did("ann", "Charged", "2025-06-01 12:00", {"Charged ID": 76561198000000001}),
            did("bob", "Charged", "2025-06-01 12:00", {"Charged ID": 76561198000000002}),
        ],
        asked(has("Ids", "equals", BIG + 1), "ann"),
        asked(has("Ids", "equals", BIG), "bob"),
        asked(charged("Charged ID", "equals", 76561198000000001), "ann"),
        asked(charged("Charged ID", "equals", "76561198000000002"), "bob"),
    ),
    row(
        "a list meets a condition when one of its values does",
        [
            *values("Tags", ann=["Gold", "Silver"], bob=["Silver"], empty=[], dan="Gold", fay=["gold", "GOLD"]),
            is_("eve"),
        ],
        asked(has("Tags", "equals", "Gold"), "ann dan fay"),
        asked(has("Tags", "equals", "gold", match="any"), "ann dan fay"),
        asked(has("Tags", "equals", "gold", match="all"), "dan fay"),
        asked(has("Tags", "equals", ["gold", "silver"], match="all"), "ann bob dan fay"),
        asked(has("Tags", "equals", "Gold, Silver"), ""),
        asked(has("Tags", "not_equals", "gold"), "bob empty eve"),
        asked(has("Tags", "not_equals", "gold", match="any"), "bob empty eve"),
        asked(has("Tags", "contains", "il"), "ann bob"),
        asked(has("Tags", "contains", "il", match="all"), "bob"),
        asked(has("Tags", "contains", "dS"), ""),
        asked(has("Tags", "does_not_contain", "il"), "empty dan eve fay"),
        asked(has("Tags", "exists"), "ann bob empty dan fay"),
        asked(has("Tags", "does_not_exist"), "eve"),
    ),
    row(
        "lists of numbers: one value must meet the condition, or all",
        values("Marks", ann=[1, 5, 10], bob=[7, 8], cid="9", dan=[3, 7.5], eve=[7, "good"], fay=["8", 9], empty=[]),
        asked(has("Marks", "equals", 7), "bob eve"),
        asked(has("Marks", "equals", "7.0"), "bob eve"),
        asked(has("Marks", "not_equals", [7, 8]), "ann cid dan empty"),
        asked(has("Marks", "greater_than", 6), "ann bob cid dan eve fay"),
        asked(has("Marks", "greater_than", 6, match="all"), "bob cid fay"),
        asked(has("Marks", "less_than_equals", 1), "ann"),
        asked(has("Marks", "less_than", 9.5, match="all"), "bob cid dan fay"),
        asked(has("Marks", "between", [4, 6]), "ann"),
        asked(has("Marks", "between", [7, 9], match="all"), "bob cid fay"),
        asked(has("Marks", "equals", [7, "8"], match="all"), "bob"),
        asked(common(profile_fields=[prop("Marks", "less_than", 2), prop("Marks", "greater_than", 9)]), "ann"),
    ),
    row(
        "lists of anything: booleans, dates, nothing",
        values(
            "Any",
            ann=[True, 0],
            bob=["true"],
            cid=[1],
            dan=[None, "x"],
            eve=[Moment("2025-03-30 12:00"), "x"],
            fay=[["deep"]],
        ),
        asked(has("Any", "equals", True), "ann bob"),
        asked(has("Any", "equals", 1), "cid"),
        asked(has("Any", "equals", 0), "ann"),
        asked(has("Any", "equals", "null"), ""),
        asked(has("Any", "equals", "2025-03-30"), "eve"),
        asked(has("Any", "equals", "x"), "dan eve"),
        asked(has("Any", "equals", "deep"), "fay"),
    ),
    row(
        "a list that $add and $remove made",
        [
            *(is_("ann", Tags={"$add": [one]}) for one in ("a", "b")),
            *(is_("bob", Tags={operation: ["a"]}) for operation in ("$add", "$remove")),
        ],
        asked(has("Tags", "equals", "b"), "ann"),
        asked(has("Tags", "exists"), "ann bob"),
        asked(has("Tags", "not_equals", "a"), "bob"),
    ),
    row(
        "objects count as all their values; a key is asked for as outer.key; what was uploaded so goes first",
        [
            is_("ann", address={"city": "Berlin", "zip": {"code": 10115}}),
            is_("bob", address={"city": "Bonn"}),
            is_("cid", {"address.city": "Berlin"}),
            is_("dan", {"address": {"city": "Bonn"}, "address.city": "BERLIN"}),
            is_("eve"),
        ],
        asked(has("address.city", "equals", "berlin"), "ann cid dan"),
        asked(has("address.city", "equals", "Bonn"), "bob"),
        asked(has("address.city", "not_equals", "Bonn"), "ann cid dan eve"),
        asked(has("address", "equals", "berlin"), "ann"),
        asked(has("address", "contains", "bo"), "bob dan"),
        asked(has("address", "equals", 10115), "ann"),
        asked(has("address", "greater_than", 10000), "ann"),
        asked(has("address.zip", "equals", "10115"), "ann"),
        asked(has("address.zip.code", "equals", 10115), "ann"),
        asked(has("address.zip.code", "between", [10000, 11000]), "ann"),
        asked(has("address", "exists"), "ann bob dan"),
        asked(has("address.city", "exists"), "ann bob cid dan"),
        asked(has("address.street", "exists"), ""),
        asked(has("city", "exists"), ""),
    ),
    row(
        "Charged: one item, or all items",
        [
            items("ann", "books", "Toys"),
            items("bob", "Books", "books"),
            items("cid", "toys"),
            items("dan", "books", None),
            items("eve", None),
            did("fay", "Charged", Amount=300),
            did("gus", "Viewed", Items=[{"Category": "books"}]),
        ],
        asked(charged("Items.Category", "equals", "books"), "ann bob dan"),
        asked(charged("Items.Category", "equals", "books", match="any"), "ann bob dan"),
        asked(charged("Items.Category", "equals", "books", match="all"), "bob"),
        asked(charged("Items.Category", "equals", ["toys", "books"], match="all"), "ann bob cid"),
        asked(charged("Items.Category", "contains", "oo"), "ann bob dan"),
        asked(charged("Items.Category", "contains", "o", match="all"), "ann bob cid"),
        asked(charged("Items.Category", "not_equals", "books"), "cid eve fay"),
        asked(charged("Items.Category", "exists"), "ann bob cid dan"),
        asked(charged("Items.Category", "does_not_exist"), "eve fay"),
        asked(charged("Items.Quantity", "greater_than", 1), "ann bob dan"),
        asked(charged("Items.Quantity", "less_than", 2, match="all"), "cid eve"),
        asked(charged("Items.Quantity", "between", [1, 2], match="all"), "ann bob cid dan eve"),
        asked(charged("Items", "equals", "toys"), "ann cid"),
        asked(charged("Items", "equals", 2), "ann bob dan"),
    ),
    row(
        "each condition may be met by another item of the same event",
        [items("ann", "books", "toys"), items("bob", "toys"), items("bob", "books")],
        asked(raised("Charged", event_properties=[same("Items.Category", "books"), same("Items.Quantity", 2)]), "ann"),
        asked(
            raised("Charged", event_properties=[same("Items.Category", "books"), same("Items.Category", "toys")]), "ann"
        ),
    ),
    row(
        "items with lists and objects of their own",
        [
            did("ann", "Charged", Items=[{"Tags": ["new", "red"]}, {"Maker": {"City": "Ulm"}}]),
            did("bob", "Charged", Items={"Tags": "new"}),
            did("cid", "Charged", Items=[{"Tags": ["new"]}, {"Tags": ["new", "new"]}]),
        ],
        asked(charged("Items.Tags", "equals", "new"), "ann bob cid"),
        asked(charged("Items.Tags", "equals", "new", match="all"), "bob cid"),
        asked(charged("Items.Maker.City", "equals", "ulm"), "ann"),
        asked(charged("Items.Maker.City", "equals", "ulm", match="all"), ""),
    ),
    row(
        "items with lists of objects of their own",
        [
            did(
                "ann",
                "Charged",
                Items=[{"Options": [{"Color": "red"}]}, {"Options": [{"Color": "blue"}, {"Color": "red"}]}],
            ),
            did("bob", "Charged", Items={"Options": [{"Color": "red"}]}),
            did("cid", "Charged", Items=[{"Options": [{"Color": "blue"}]}]),
        ],
        asked(charged("Items.Options", "equals", "red"), "ann bob"),
        asked(charged("Items.Options.Color", "equals", "red"), "ann bob"),
        asked(charged("Items.Options.Color", "not_equals", "red"), "cid"),
    ),
    row(
        "dates are asked for by day, or as epoch seconds; texts are never before or after a day",
        [
            *values(
                "When",
                before=Moment("2025-03-29 23:59:59"),
                first=Moment("2025-03-30 00:00"),
                noon=Moment("2025-03-30 12:00"),
            ),
            *values(
                "When",
                last=Moment("2025-03-30 23:59:59"),
                after=Moment("2025-03-31 00:00"),
                text="2025-03-30",
                words="30 March",
            ),
            is_("none"),
        ],
        asked(has("When", "equals", "2025-03-30"), "first noon last text"),
        asked(has("When", "equals", ["2025-03-29", "2025-03-31"]), "before after"),
        asked(has("When", "not_equals", "2025-03-30"), "before after words none"),
        asked(has("When", "between", ["2025-03-30", "2025-03-30"]), "first noon last"),
        asked(has("When", "between", ["2025-03-29", "2025-03-30"]), "before first noon last"),
        asked(has("When", "greater_than", "2025-03-30"), "after"),
        asked(has("When", "greater_than_equals", "2025-03-30"), "first noon last after"),
        asked(has("When", "less_than", "2025-03-30"), "before"),
        asked(has("When", "less_than_equals", "2025-03-30"), "before first noon last"),
        asked(has("When", "contains", "2025-03-30"), "text"),
        asked(has("When", "equals", Moment("2025-03-30 12:00")), "noon"),
        asked(has("When", "less_than_equals", Moment("2025-03-30 12:00")), "before first noon"),
        asked(has("When", "between", [Moment("2025-03-30 12:00"), "2025-03-30"]), "noon last"),
        asked(has("When", "equals", "today"), "", on="2025-03-30"),
        asked(has("When", "equals", "-1d"), "", on="2025-03-31"),
        asked(has("When", "not_equals", "today"), "before first noon last after text words none", on="2025-03-30"),
        asked(has("When", "exists"), "before first noon last after text words"),
    ),
    row(
        "relative days of a date move with the day of asking",
        [
            *values(
                "Trial ends",
                ann=Moment("2025-06-14 18:00"),
                bob=Moment("2025-06-15 18:00"),
                cid=Moment("2025-06-16 18:00"),
            )
        ],
        asked(has("Trial ends", "less_than", "today"), "ann"),
        asked(has("Trial ends", "less_than", "today"), "ann bob", on="2025-06-16"),
        asked(has("Trial ends", "between", ["today", "today"]), "bob"),
        asked(has("Trial ends", "between", ["today", "today"]), "cid", on="2025-06-16 23:59:59"),
        asked(has("Trial ends", "between", ["-7d", "yesterday"]), "ann bob", on="2025-06-16 00:00"),
        asked(has("Trial ends", "greater_than", "-1m"), "ann bob cid"),
        asked(has("Trial ends", "greater_than", "-4w"), "bob cid", on="2025-07-12"),
        asked(has("Trial ends", "less_than_equals", "-1y"), "ann bob", on="2026-06-15"),
    ),
    row(
        "days of birth, long ago and by age",
        [
            *values(
                "DOB", ann=Moment("1960-01-01 12:00"), bob=Moment("1960-01-02 00:00"), cid=Moment("1990-06-15 12:00")
            ),
            *values("Contract ends", dan=Moment("2105-01-01 12:00")),
        ],
        asked(has("DOB", "equals", "1990-06-15"), "cid"),
        asked(has("DOB", "greater_than_equals", "-35y"), "cid"),
        asked(has("DOB", "less_than", "-30y"), "ann bob cid"),
        asked(has("DOB", "less_than", "1990-01-01"), "ann bob"),
    ),
    row(
        "days before 1970 and after 2100",
        [
            *values(
                "DOB", ann=Moment("1960-01-01 12:00"), bob=Moment("1960-01-02 00:00"), cid=Moment("1990-06-15 12:00")
            ),
            *values("Contract ends", dan=Moment("2105-01-01 12:00")),
        ],
        asked(has("DOB", "equals", "1960-01-01"), "ann"),
        asked(has("DOB", "less_than", "1960-01-02"), "ann"),
        asked(has("DOB", "between", ["1950-01-01", "1969-12-31"]), "ann bob"),
        asked(has("DOB", "between", ["-70y", "-60y"]), "ann bob"),
        asked(has("DOB", "greater_than", "-80y"), "ann bob cid"),
        asked(has("Contract ends", "equals", "2105-01-01"), "dan"),
    ),
    row(
        "dates in events and items",
        [
            did(
                "ann",
                "Charged",
                "2025-06-01 12:00",
                {"Delivery By": Moment("2025-06-15 00:00"), "Items": [{"Due": Moment("2025-06-15 09:00")}]},
            ),
            did(
                "bob",
                "Charged",
                "2025-06-01 12:00",
                {"Delivery By": Moment("2025-06-14 23:59:59"), "Items": [{"Due": Moment("2025-06-16 09:00")}]},
            ),
        ],
        asked(charged("Delivery By", "equals", "2025-06-15"), "ann"),
        asked(charged("Delivery By", "less_than", "today"), "bob"),
        asked(charged("Items.Due", "between", ["today", "today"]), "ann"),
        zone=NEW_YORK,
    ),
]

# ---- People ----------------------------------------------------------------------------------------------------------


def demographic(name: str, operator: str, *value: Any) -> Json:
    return common(demographics=[prop(name, operator, *value)])


def technographic(name: str, operator: str, *value: Any) -> Json:
    return common(technographics=[prop(name, operator, *value)])


def reachable(by: str, value: str = "True") -> Json:
    return common(reachability=[prop(by, None, value)])


PEOPLE = [
    row(
        "demographics: both spellings of each value",
        [
            is_("ann", Gender="F", Age=18, Education="School", Employed="Y", Married="N"),
            is_("bob", Gender="M", Age="65", Education="College", Employed="N", Married="Y"),
            is_("cid"),
        ],
        *(asked(demographic("Gender", "equals", one), "ann") for one in ("F", "Female")),
        *(asked(demographic("Gender", "equals", one), "bob") for one in ("M", "Male")),
        asked(demographic("Gender", "equals", ["Male", "F"]), "ann bob"),
        asked(demographic("Gender", "not_equals", "Female"), "bob cid"),
        asked(demographic("Gender", "exists"), "ann bob"),
        asked(demographic("Gender", "does_not_exist"), "cid"),
        asked(demographic("Age", "equals", 18), "ann"),
        asked(demographic("Age", "greater_than", 18), "bob"),
        asked(demographic("Age", "between", [18, 65]), "ann bob"),
        asked(demographic("Age", "less_than", "65"), "ann"),
        asked(demographic("Education", "equals", ["College", "Graduate"]), "bob"),
        asked(demographic("Education", "not_equals", "College"), "ann cid"),
        *(asked(demographic("Employed", "equals", one), "ann") for one in ("Y", "Yes", "True")),
        *(asked(demographic("Employed", "equals", one), "bob") for one in ("N", "No", "False")),
        *(asked(demographic("Married", "equals", one), "bob") for one in ("Y", "Yes", "True")),
        *(asked(demographic("Married", "equals", one), "ann") for one in ("N", "No", "False")),
        asked(demographic("Married", "not_equals", "Yes"), "ann cid"),
        asked(common(demographics=[same("Gender", "Female"), prop("Age", "less_than", 20)]), "ann"),
        asked(common(demographics=[same("Gender", "Female"), prop("Age", "greater_than", 20)]), ""),
    ),
    row(
        "Platform: has or had a device of it",
        [
            token("ann", "fcm"),
            token("bob", "apns"),
            token("cid", "wns"),
            [*token("dan", "fcm"), gone("dan", "fcm")],
            [*token("eve", "fcm"), *token("eve", "apns")],
            is_("fay", Platform="Android"),
            token("quiet", "apns"),
            is_("quiet", {"MSG-push": False}),
        ],
        *(asked(technographic("Platform", "equals", one), "ann dan eve") for one in ("Android", "AndroidApp")),
        *(asked(technographic("Platform", "equals", one), "bob eve quiet") for one in ("iOS", "iOSApp")),
        *(asked(technographic("Platform", "equals", one), "cid") for one in ("Windows", "WindowsApp")),
        asked(technographic("Platform", "equals", ["iOS", "Windows"]), "bob cid eve quiet"),
        asked(technographic("Platform", "not_equals", "Android"), "bob cid fay quiet"),
        asked(technographic("Platform", "not_equals", ["AndroidApp", "iOSApp"]), "cid fay"),
        asked(has("Platform", "equals", "Android"), "fay"),
    ),
    row(
        "other technographics and all app_fields are properties of the profile",
        [
            is_("ann", {"App Version": "1.10"}, Device="Mobile", OS="Android", Make="Apple iPhone", Model="15"),
            is_("bob", {"App Version": 2}, Device="Tablet", OS="iPadOS", Make="Samsung"),
        ],
        asked(technographic("Device", "equals", ["mobile", "TV"]), "ann"),
        asked(technographic("OS", "contains", "os"), "bob"),
        asked(technographic("Browser", "does_not_exist"), "ann bob"),
        asked(common(app_fields=[prop("Make", "contains", "apple"), same("Model", 15)]), "ann"),
        asked(common(app_fields=[prop("App Version", "greater_than_equals", 2)]), "bob"),
    ),
    row(
        "has_token: a push would reach one of their devices now",
        [
            token("ann", "fcm"),
            token("bob", "apns"),
            token("cid", "wns"),
            [*token("dead", "fcm"), gone("dead", "fcm")],
            [*token("half", "fcm"), *token("half", "apns"), gone("half", "fcm")],
            [*token("quiet", "fcm"), is_("quiet", {"MSG-push": False})],
            [*token("silent", "fcm"), is_("silent", {"MSG-push-all": False})],
            [*token("again", "fcm"), is_("again", {"MSG-push": False}), is_("again", {"MSG-push": True})],
            is_("none", Email="none@example.com"),
        ],
        asked(reachable("has_token"), "ann bob cid half again"),
        asked(reachable("has_token", "False"), "dead quiet silent none"),
    ),
    row(
        "has_email: an e-mail would reach them now",
        [
            is_("ann", Email="ann@example.com"),
            is_("optout", {"MSG-email": False}, Email="optout@example.com"),
            [is_("bounced", Email="bounced@example.com"), gone("bounced", "email")],
            [is_("moved", Email="moved@example.com"), is_("moved", Email={"$delete": 1})],
            is_("pushless", {"MSG-push": False}, Email="pushless@example.com"),
            token("none", "fcm"),
        ],
        asked(reachable("has_email"), "ann pushless"),
        asked(reachable("has_email", "False"), "optout bounced moved none"),
        asked(common(reachability=[same("has_email", "False"), same("has_token", "True")]), "none"),
    ),
    row(
        "geo_fields: country, region, city; fewer names ask for less",
        [
            is_("ann", Country="India", Region="Maharashtra", City="Mumbai"),
            is_("bob", Country="india", Region="MAHARASHTRA", City="Pune"),
            is_("cid", Country="India", Region="Goa"),
            is_("dan", Country="United States", Region="New York", City="New York City"),
            is_("eve", City="Mumbai"),
        ],
        asked(common(geo_fields=[["India", "Maharashtra", "Mumbai"]]), "ann"),
        asked(common(geo_fields=[["India", "Maharashtra"]]), "ann bob"),
        asked(common(geo_fields=[["INDIA"]]), "ann bob cid"),
        asked(common(geo_fields=[["India", "Maharashtra", "Mumbai"], ["United States"]]), "ann dan"),
        asked(common(geo_fields=[["Mumbai"]]), ""),
    ),
    row(
        "geo_radius: kilometres around a point, over the date line and the pole too",
        [
            is_("berlin", Latitude=52.52, Longitude=13.405),
            is_("potsdam", Latitude=52.391, Longitude=13.064),  # 27 km
            is_("fiji", Latitude=-17, Longitude=179.9),
            is_("date line", Latitude=-17, Longitude=-179.9),  # 21 km
            is_("pole", Latitude=89.9, Longitude=0),
            is_("other side", Latitude=89.9, Longitude=180),  # 22 km
            is_("null island", Latitude=0, Longitude=0),
            is_("half", Latitude=52.52),
            is_("nowhere"),
        ],
        Ask(common(geo_radius=[[52.52, 13.405, 1]]), {"berlin"}, ASKED),
        Ask(common(geo_radius=[[52.52, 13.405, 26]]), {"berlin"}, ASKED),
        Ask(common(geo_radius=[[52.52, 13.405, 28]]), {"berlin", "potsdam"}, ASKED),
        Ask(common(geo_radius=[[-17, 179.9, 20]]), {"fiji"}, ASKED),
        Ask(common(geo_radius=[[-17, 179.9, 22]]), {"fiji", "date line"}, ASKED),
        Ask(common(geo_radius=[[89.9, 0, 23]]), {"pole", "other side"}, ASKED),
        Ask(common(geo_radius=[[0, 0, 1]]), {"null island"}, ASKED),
        Ask(common(geo_radius=[[52.52, 13.405, 1], [0, 0, 1]]), {"berlin", "null island"}, ASKED),
    ),
    row(
        "all lists must be met",
        [
            [*token("ann", "fcm"), is_("ann", Gender="F", Plan="Gold")],
            token("bob", "fcm"),
            is_("cid", Gender="F", Plan="Gold"),
        ],
        asked(
            common(
                demographics=[same("Gender", "Female")],
                profile_fields=[same("Plan", "gold")],
                reachability=[same("has_token", "True")],
            ),
            "ann",
        ),
    ),
]

# ---- More events -----------------------------------------------------------------------------------------------------


def any_of(*events: Json, **count: Any) -> Json:
    return advanced(did_any={"any_events": list(events), **count})


MORE_EVENTS = [
    row(
        "the example of the document",
        [
            *(often(3, who, "Charged", "2025-01-10 12:00") for who in ("ann", "bob", "one", "left")),
            often(2, "twice", "Charged", "2025-01-10 12:00"),
            *(often(2, who, "Added To Cart", "2025-06-08 12:00") for who in ("ann", "left", "twice")),
            [did("bob", "Added To Cart", "2025-06-08 12:00"), did("bob", "Wishlisted", "2025-06-15 12:00")],
            [did("one", "Added To Cart", "2025-06-08 12:00"), did("one", "Wishlisted", "2025-06-07 12:00")],
            did("left", "App Uninstalled", "2025-06-15 11:00"),
            did("ann", "App Uninstalled", "2025-05-15 23:00"),
        ],
        asked(
            {
                "advanced_query": {
                    "did_all": [
                        {
                            "event_name": "Charged",
                            "from": 20250101,
                            "to": 20250131,
                            "operator": "greater_than_equals",
                            "value": 3,
                        }
                    ],
                    "did_any": {
                        "any_events": [
                            {"event_name": "Added To Cart", "from": "-7d", "to": "today"},
                            {"event_name": "Wishlisted", "from": "-7d", "to": "today"},
                        ],
                        "operator": "greater_than_equals",
                        "value": 2,
                    },
                    "did_none": [{"event_name": "App Uninstalled", "from": "-30d", "to": "today"}],
                }
            },
            "ann bob",
        ),
    ),
    row(
        "did_all: each of them, in any order, on any of its days",
        [
            [did("ann", "A", "2025-06-02 12:00"), did("ann", "B")],
            [did("bob", "A")],
            [did("cid", "A"), did("cid", "B", "2024-06-01 12:00")],
            [is_("dan")],
        ],
        asked(advanced(did_all=[raised("A"), raised("B")]), "ann"),
        asked(advanced(did_all=[raised("A"), raised("B", 20240101, 20251231)]), "ann cid"),
        asked(advanced(did_all=[raised("A")]), "ann bob cid"),
    ),
    row(
        "did_any: at least one; with a number, the sum",
        [
            often(1, "one", "A"),
            [*often(1, "two", "A"), *often(1, "two", "B")],
            often(2, "twice", "B"),
            [*often(2, "three", "A"), *often(1, "three", "B")],
            [did("other", "C")],
        ],
        asked(any_of(raised("A"), raised("B")), "one two twice three"),
        asked(any_of(raised("B")), "two twice three"),
        asked(any_of(raised("A"), raised("B"), operator="equals", value=2), "two twice"),
        asked(any_of(raised("A"), raised("B"), operator="greater_than", value=2), "three"),
        asked(any_of(raised("A"), raised("B"), operator="greater_than_equals", value=2), "two twice three"),
        asked(any_of(raised("A"), raised("B"), operator="less_than", value=3), "one two twice"),
        asked(any_of(raised("A"), raised("B"), operator="less_than_equals", value=1), "one"),
    ),
    row(
        "did_any: an event that meets two entries counts twice in the sum",
        [did("ann", "A", Song="x"), *often(2, "bob", "A"), did("cid", "A")],
        asked(
            any_of(raised("A"), raised("A", event_properties=[prop("Song", "exists")]), operator="equals", value=2),
            "ann bob",
        ),
        asked(any_of(raised("A"), raised("A"), operator="equals", value=2), "ann cid"),
    ),
    row(
        "did_none: not a single one, of those days and conditions",
        [
            did("ann", "A", Song="x"),
            did("bob", "A", Song="y"),
            did("cid", "B"),
            did("dan", "A", "2024-06-01 12:00", Song="x"),
            is_("eve"),
        ],
        asked(advanced(did_none=[raised("A")]), "cid dan eve"),
        asked(advanced(did_none=[raised("A", event_properties=[same("Song", "X")])]), "bob cid dan eve"),
        asked(advanced(did_none=[raised("A"), raised("B")]), "dan eve"),
        asked(advanced(did_none=[raised("A", 20240101, 20251231), raised("B")]), "eve"),
    ),
    row(
        "entries take session properties",
        [
            did("ann", "A", "2025-06-15 12:00"),
            did("bob", "A", "2025-06-14 12:00"),
            did("bob", "A", "2025-06-15 12:00"),
            is_("cid"),
        ],
        asked(advanced(did_all=[during("A", "first_time", "False"), during("A", "day_of_week", 7)]), "bob"),
        asked(any_of(during("A", "day_of_week", 7), during("A", "day_of_week", 1), operator="equals", value=1), "ann"),
        asked(advanced(did_none=[during("A", "day_of_week", 7)]), "ann cid"),
    ),
    row(
        "hybrid: base event, people, all, any and none at once; without any one of them there are more",
        [
            *(is_(who, Plan="Gold") for who in ("ann", "nobase", "noall", "noany", "none")),
            *(did(who, "Base") for who in ("ann", "noplan", "noall", "noany", "none")),
            *(did(who, "All") for who in ("ann", "nobase", "noplan", "noany", "none")),
            *(did(who, "Any") for who in ("ann", "nobase", "noplan", "noall", "none")),
            did("none", "None"),
        ],
        *(
            asked(
                {key: value for key, value in full.items() if key != left_out}
                | (
                    {"advanced_query": {key: value for key, value in full["advanced_query"].items() if key != left_out}}
                ),
                who,
            )
            for full in [
                {
                    **raised("Base"),
                    **has("Plan", "equals", "Gold"),
                    **advanced(
                        did_all=[raised("All")], did_any={"any_events": [raised("Any")]}, did_none=[raised("None")]
                    ),
                }
            ]
            for left_out, who in {
                "": "ann",
                "common_profile_properties": "ann noplan",
                "did_all": "ann noall",
                "did_any": "ann noany",
                "did_none": "ann none",
            }.items()
        ),
    ),
]

# ---- Nesting ---------------------------------------------------------------------------------------------------------


def deep(levels: int, where: Json) -> Json:
    """A question inside as many `not`s."""
    return {"not": deep(levels - 1, where)} if levels else where


GOLD, BONN = has("Plan", "equals", "Gold"), has("City", "equals", "Bonn")

NESTING = [
    row(
        "and, or, not",
        [
            is_("ann", Plan="Gold", City="Bonn"),
            is_("bob", Plan="Gold"),
            is_("cid", City="Bonn"),
            is_("dan", Plan="Free"),
            is_("eve"),
        ],
        asked({"or": [GOLD, BONN]}, "ann bob cid"),
        asked({"and": [GOLD, BONN]}, "ann"),
        asked({"and": [GOLD]}, "ann bob"),
        asked({"not": GOLD}, "cid dan eve"),
        asked({"not": {"not": GOLD}}, "ann bob"),
        asked({"not": {"or": [GOLD, BONN]}}, "dan eve"),
        asked({"and": [GOLD, {"not": BONN}]}, "bob"),
        asked({"or": [{"and": [GOLD, {"not": BONN}]}, {"and": [BONN, {"not": GOLD}]}]}, "bob cid"),
        asked({"and": [{"segment": "all"}, {"not": {"segment": "all"}}]}, ""),
        asked({"or": [GOLD, {"segment": "all"}]}, "ann bob cid dan eve"),
        asked({**GOLD, "not": BONN}, "bob"),
        asked({**GOLD, "or": [BONN, has("Plan", "equals", "Free")]}, "ann"),
        asked({"and": [GOLD], "or": [BONN], "not": has("Plan", "does_not_exist")}, "ann"),
        asked(deep(8, GOLD), "ann bob"),
        asked(deep(7, GOLD), "cid dan eve"),
        asked({"or": [GOLD] * 50}, "ann bob"),
        asked({"and": [{"or": [GOLD] * 45}] * 4}, "ann bob"),
        asked(common(profile_fields=[same("Plan", "Gold")] * 100), "ann bob"),
        asked(has("Plan", "equals", ["Gold", *range(999)]), "ann bob"),
        asked(has("Plan", "contains", ["x" * 2048, "gol"]), "ann bob"),
    ),
    row(
        "not over events is never in those days",
        [did("ann", "A", Song="x"), did("ann", "A", "2025-06-02 12:00", Song="y"), did("bob", "A"), is_("cid")],
        asked({"not": raised("A")}, "cid"),
        asked({"not": raised("A", event_properties=[same("Song", "x")])}, "bob cid"),
        asked({"not": raised("A", operator="equals", value=1)}, "ann cid"),
        asked({"not": advanced(did_none=[raised("A")])}, "ann bob"),
    ),
    row(
        "the example of the document, without its segment",
        [
            did("ann", "Charged"),
            is_("ann", Plan="Free"),
            is_("bob", Plan="Gold"),
            is_("cid", Plan="free"),
            is_("dan"),
            did("cid", "Charged", "2025-03-16 12:00"),
        ],
        asked(
            {
                "or": [
                    raised("Charged", "-90d", "today"),
                    {"and": [has("Plan", "exists"), {"not": has("Plan", "equals", "Free")}]},
                ]
            },
            "ann bob",
        ),
        asked(
            {
                "or": [
                    raised("Charged", "-90d", "today"),
                    {"and": [has("Plan", "exists"), {"not": has("Plan", "equals", "Free")}]},
                ]
            },
            "ann bob cid",
            on="2025-06-14",
        ),
    ),
    row(
        "parts are whole questions: events, people, more events, parts again",
        [
            [is_("ann", Plan="Gold"), did("ann", "A")],
            [is_("bob", Plan="Free"), did("bob", "A"), did("bob", "B")],
            [did("cid", "A")],
            [did("dan", "B")],
        ],
        asked({"or": [{**raised("A"), **GOLD}, {**raised("A"), **advanced(did_all=[raised("B")])}]}, "ann bob"),
        asked({**raised("A"), "or": [GOLD, {"not": has("Plan", "exists")}]}, "ann cid"),
        asked({"or": [any_of(raised("A"), raised("B"), operator="equals", value=2), {"not": raised("A")}]}, "bob dan"),
    ),
]

# ---- Samples ---------------------------------------------------------------------------------------------------------

SAMPLES = [
    row(
        "a hundred percent is everybody",
        [is_(f"u{number}") for number in range(50)] + [is_("gold", Plan="Gold")],
        asked({"sample": {"percent": 100}}, " ".join(f"u{number}" for number in range(50)) + " gold"),
        asked(
            {"sample": {"percent": 100.0, "seed": "autumn"}}, " ".join(f"u{number}" for number in range(50)) + " gold"
        ),
        asked({"sample": {"percent": 100}, **GOLD}, "gold"),
        asked({"not": {"sample": {"percent": 100}}}, ""),
    )
]

CHAPTERS: dict[str, list[Row]] = {
    "theirs": THEIRS,
    "asking": ASKING,
    "events": EVENTS,
    "conditions": CONDITIONS,
    "people": PEOPLE,
    "more events": MORE_EVENTS,
    "nesting": NESTING,
    "samples": SAMPLES,
}

# ---- What is refused -------------------------------------------------------------------------------------------------

PARSE = "Query specified in where failed to parse"
BACKWARDS = "Query parse failure - The from date cannot be after the to date"
NO_WHERE: tuple[Any, ...] = ("", "all", [], [{}], 5, True)
YEAR = {"from": 20250101, "to": 20251231}


class Refusal(NamedTuple):
    """A question that is refused, and what the sentence must hold."""

    name: str
    where: Any
    words: tuple[str, ...]


def refused(name: str, where: Any, *words: str) -> Refusal:
    return Refusal(name, where, words)


def session(name: Any, *operator_and_value: Any, **more: Any) -> Json:
    return raised("A", session_properties=[prop(name, *operator_and_value, **more)])


REFUSED = [
    # CleverTap's own
    refused("no where at all", None, PARSE),
    *(refused(f"a where that is {json.dumps(what)}", what, PARSE) for what in NO_WHERE),
    refused("from is after to", raised("Charged", 20250102, 20250101), BACKWARDS),
    refused("from is after to, in did_all", advanced(did_all=[raised("A", 20250102, 20250101)]), BACKWARDS),
    refused("from is after to, relatively", raised("A", "today", "-30d"), BACKWARDS),
    refused("from is after to, yesterday", raised("A", "-1d", "-2d"), BACKWARDS),
    refused("an empty event_name", raised(""), PARSE, "event_name"),
    # unknown keys, at every level
    refused("an unknown key", {**raised("A"), "until": 20250101}, PARSE, "until"),
    refused("a key in other letters", {"Event_Name": "A", **YEAR}, "Event_Name"),
    refused("prompt", {"prompt": "everybody who paid"}, "prompt"),
    refused("group", {**raised("A"), "group": "B"}, "group"),
    refused("an unknown key of an event", advanced(did_all=[raised("A", until=5)]), "until", "did_all"),
    refused("an unknown key of an event in any_events", any_of(raised("A", until=5)), "until", "any_events"),
    refused("an unknown key of an event in did_none", advanced(did_none=[raised("A", until=5)]), "until", "did_none"),
    refused("people in an entry of did_all", advanced(did_all=[{**raised("A"), **GOLD}]), "common_profile_properties"),
    refused("an unknown key of a condition", has("Plan", "equals", "Gold", valeu=5), "valeu", "profile_fields[0]"),
    refused(
        "an unknown key of an event's condition",
        charged("Plan", "equals", 5, cases="no"),
        "cases",
        "event_properties[0]",
    ),
    refused("an unknown key of a session property", session("first_time", None, "True", ever=True), "ever"),
    refused("an unknown key of demographics", common(demographics=[same("Age", 5, unit="years")]), "unit"),
    refused("an unknown key of reachability", common(reachability=[same("has_token", "True", app=1)]), "app"),
    refused("an unknown list of people", common(profile_field=[same("Plan", 5)]), "profile_field"),
    refused("did_not, which CleverTap ignores", advanced(did_not=[raised("A")]), PARSE, "did_not"),
    refused("did_not beside did_all", advanced(did_all=[raised("A")], did_not=[raised("B")]), "did_not"),
    refused("did_not_any", advanced(did_not_any=[raised("A")]), "did_not_any"),
    refused("did_all outside of advanced_query", {"did_all": [raised("A")]}, "did_all"),
    refused("an unknown key of did_any", any_of(raised("A"), times=2), "times"),
    refused("an unknown key of sample", {"sample": {"percent": 10, "of": "gold"}}, "'of'"),
    refused("unknown keys inside or", {"or": [GOLD, {"plan": "Gold"}]}, "plan", "or[1]"),
    refused("unknown keys inside not", {"not": {"plan": "Gold"}}, "plan", "$.where.not"),
    # unknown names and operators
    *(
        refused(f"the operator {operator!r}", has("Plan", operator, "x"), PARSE, str(operator))
        for operator in ("is", "EQUALS", "starts_with", "not_contains", "regex", "")
    ),
    refused(
        "an operator that is no text",
        common(profile_fields=[{"name": "Plan", "operator": ["equals"], "value": 5}]),
        "operator",
    ),
    refused("an unknown operator of an event's condition", charged("Amount", "over", 5), "over"),
    *(
        refused(f"counting by {operator}", raised("A", operator=operator, value=2), operator)
        for operator in ("between", "contains", "not_equals", "exists", "at_least")
    ),
    refused("counting by an unknown operator in did_any", any_of(raised("A"), operator="around", value=2), "around"),
    refused("unknown demographics", common(demographics=[prop("Income", "greater_than", 5)]), "Income", "Gender"),
    refused("demographics in other letters", common(demographics=[same("gender", "F")]), "gender", "Gender"),
    refused("an unknown Gender", common(demographics=[same("Gender", ["F", "X"])]), "Gender"),
    refused("Gender by contains", common(demographics=[prop("Gender", "contains", "Male")]), "Gender"),
    refused("unknown reachability", common(reachability=[same("has_sms", "True")]), "has_sms", "has_token"),
    refused(
        "reachability that is not True or False", common(reachability=[same("has_token", "maybe")]), "True", "False"
    ),
    refused(
        "reachability by another operator",
        common(reachability=[prop("has_token", "not_equals", "True")]),
        "has_token takes equals only",
    ),
    refused("an unknown Platform", common(technographics=[same("Platform", "Symbian")]), "Platform", "AndroidApp"),
    *(
        refused(
            f"Platform by {operator}",
            common(technographics=[prop("Platform", *asked)]),
            "equals and not_equals only",
        )
        for operator, *asked in (("contains", "contains", "iOS"), ("exists", "exists"))
    ),
    # days
    refused("no first day", {"event_name": "A", "to": 20250101}, "$.where.from"),
    refused("no last day", {"event_name": "A", "from": 20250101}, "$.where.to"),
    refused("days without an event", YEAR, "event_name"),
    refused("properties without an event", {"event_properties": [same("a", 5)]}, "event_name"),
    *(
        refused(f"{day!r} is no day", raised("A", day, 20251231), PARSE, "from")
        for day in (
            20250230,
            20251301,
            2025,
            "2025-01-01",
            "tomorrow",
            "+1d",
            "-5h",
            "-d",
            "30d",
            "Today",
            "",
            None,
            True,
            20250101.5,
            [20250101],
        )
    ),
    # how often
    *(
        refused(f"{operator} {value} times", raised("A", operator=operator, value=value), "did_none")
        for operator, value in (("equals", 0), ("less_than", 1), ("less_than_equals", 0))
    ),
    refused("equals 0 times in did_all", advanced(did_all=[raised("A", operator="equals", value=0)]), "did_none"),
    refused("equals 0 times in did_any", any_of(raised("A"), operator="equals", value=0), "did_none"),
    refused("half a time", raised("A", operator="equals", value=2.5), "value"),
    refused("True times", raised("A", operator="equals", value=True), "value"),
    refused("fewer than never", raised("A", operator="greater_than_equals", value=-1), "value"),
    refused("an operator without a number", raised("A", operator="equals"), "value"),
    refused(
        "a number of times in did_none", advanced(did_none=[raised("A", operator="greater_than", value=2)]), "operator"
    ),
    refused("a number of times inside any_events", any_of(raised("A", operator="equals", value=2)), "operator"),
    # conditions
    *(
        refused(f"match with {operator}", has("Tags", operator, *value, match="all"), "match")
        for operator, value in (
            ("not_equals", ["a"]),
            ("does_not_contain", ["a"]),
            ("exists", []),
            ("does_not_exist", []),
        )
    ),
    refused("match by another word", has("Tags", "equals", "a", match="some"), "match"),
    refused("no name", common(profile_fields=[{"value": 5}]), "name"),
    refused("two names", common(profile_fields=[{"name": "a", "Key": "b", "value": 5}]), "name"),
    refused("an empty name", has("", "equals", 5), "name"),
    refused("a name that is no text", common(profile_fields=[{"name": 5, "value": 5}]), "name"),
    refused("no value", has("Plan", "equals"), "value"),
    refused("an empty list of values", has("Plan", "equals", []), "value"),
    *(
        refused(f"the value {value!r}", has("Plan", "equals", value), "value")
        for value in (None, {"a": 5}, [["a"]], [None])
    ),
    refused("greater_than a text", has("Amount", "greater_than", "many"), "greater_than"),
    refused("greater_than a boolean", has("Amount", "greater_than", True), "greater_than"),
    refused("between one number", has("Amount", "between", 5), "between"),
    refused("between three numbers", has("Amount", "between", [1, 2, 3]), "between"),
    refused("between the higher and the lower", has("Amount", "between", [2, 1]), "between"),
    refused("contains nothing", has("Plan", "contains", ""), "contains"),
    refused("between texts", has("Amount", "between", ["a", "b"]), "between"),
    refused("a day that the calendar lacks", has("When", "less_than", "2025-02-30"), "2025-02-30", "calendar"),
    refused("two spellings of one key", raised("A", props=[], event_properties=[]), "props"),
    # session properties
    *(
        refused(f"{name} by not_equals", session(name, "not_equals", value), "equals only")
        for name, value in {
            "first_time": "True",
            "last_time": "True",
            "time_of_day": ["22:00", "23:00"],
            "day_of_week": 1,
            "day_of_month": 1,
        }.items()
    ),
    *(
        refused(f"{name} {value!r}", session(name, None, value), "session_properties[0]")
        for name, those in {
            "first_time": ("maybe", 5, ["True", "False", 1]),
            "time_of_day": (
                "22:00",
                ["22:00"],
                ["22:00", "24:00"],
                ["22:00", "22:60"],
                ["10pm", "11pm"],
                [22, 23],
                [["22:00"]],
            ),
            "day_of_week": (0, 8, "Sunday", 1.5, []),
            "day_of_month": (0, 32, -1, []),
        }.items()
        for value in those
    ),
    # shapes
    refused("did_all that is no list", advanced(did_all=raised("A")), "did_all"),
    refused("did_any that is a list", advanced(did_any=[raised("A")]), "did_any"),
    refused("did_any without any_events", advanced(did_any={"operator": "equals", "value": 2}), "any_events"),
    refused("did_any of nothing", any_of(), "any_events"),
    refused("did_none that is no list", advanced(did_none=raised("A")), "did_none"),
    refused("an entry without an event", advanced(did_all=[YEAR]), "event_name"),
    refused("advanced_query that is a list", {"advanced_query": [raised("A")]}, "advanced_query"),
    refused("people that are a list", {"common_profile_properties": [same("a", 5)]}, "common_profile_properties"),
    refused("a condition that is no object", common(profile_fields=["Plan"]), "profile_fields[0]"),
    refused("places with four names", common(geo_fields=[["a", "b", "c", "d"]]), "geo_fields"),
    refused("a place without a name", common(geo_fields=[[]]), "geo_fields"),
    refused("a place that is a text", common(geo_fields=["India"]), "geo_fields"),
    *(
        refused(f"the circle {circle!r}", common(geo_radius=[circle]), "geo_radius")
        for circle in ([1, 2], [1, 2, 3, 4], [91, 0, 5], [0, 181, 5], [0, 0, -1], ["a", 0, 5], 5, [0, 0, True])
    ),
    # parts
    refused("{} inside or would be everybody", {"or": [GOLD, {}]}, "or[1]"),
    refused("{} inside and", {"and": [{}]}, "and[0]"),
    refused("{} inside not would be nobody", {"not": {}}, "$.where.not"),
    refused("an empty or", {"or": []}, "$.where.or"),
    refused("an empty and", {"and": []}, "$.where.and"),
    refused("or that is an object", {"or": GOLD}, "$.where.or"),
    refused("not that is a list", {"not": [GOLD]}, "$.where.not"),
    *(
        refused(f"{where} has no condition", where, PARSE)
        for where in (common(), common(profile_fields=[]), advanced(), advanced(did_all=[]), advanced(did_none=[]))
    ),
    # bounds
    refused("nine levels", deep(9, GOLD), "8"),
    *(
        refused(f"51 parts of {name}", where, "51", "50")
        for name, where in {
            "or": {"or": [GOLD] * 51},
            "and": {"and": [GOLD] * 51},
            "did_all": advanced(did_all=[raised("A")] * 51),
            "did_none": advanced(did_none=[raised("A")] * 51),
            "any_events": any_of(*[raised("A")] * 51),
        }.items()
    ),
    refused("more than 200 parts all together", {"or": [{"or": [GOLD] * 45}] * 5}, "200"),
    refused("101 conditions", common(profile_fields=[same("a", 5)] * 101), "101", "100"),
    refused("101 conditions of an event", raised("A", event_properties=[same("a", 5)] * 101), "101", "100"),
    refused("101 places", common(geo_fields=[["India"]] * 101), "100"),
    refused("101 circles", common(geo_radius=[[0, 0, 1]] * 101), "100"),
    refused("1001 values", has("Plan", "equals", [*range(1001)]), "1000"),
    refused(
        "1001 values in one list of conditions", common(profile_fields=[same("a", [*range(91)])] * 11), "1001", "1000"
    ),
    refused("a name of 481 bytes", has("x" * 481, "equals", 5), "name", "480"),
    refused("a name of 241 letters with dots", has("ö" * 241, "equals", 5), "name", "480"),
    refused("an event_name of 481 bytes", raised("x" * 481), "event_name", "480"),
    refused("a value of 2049 bytes", has("Plan", "equals", "x" * 2049), "2048"),
    refused("a number without measure", has("Plan", "equals", 10**400), "number"),
    # samples
    *(
        refused(f"{percent!r} percent", {"sample": {"percent": percent}}, "percent")
        for percent in (0, 101, 100.01, 0.001, 33.333, -1, True, None, "ten", [10])
    ),
    refused("a sample without percent", {"sample": {"seed": "autumn"}}, "percent"),
    refused("a seed that is no text", {"sample": {"percent": 10, "seed": 5}}, "seed"),
    refused("a sample that is a number", {"sample": 10}, "sample"),
]

# ---- How the tables are run ------------------------------------------------------------------------------------------


def resolve(value: Any, zone: str) -> Any:
    """A record or question with its moments as `$D_` dates of that zone."""
    match value:
        case Moment():
            return f"$D_{value.at(zone)}"
        case dict():
            return {key: resolve(inner, zone) for key, inner in value.items()}
        case list():
            return [resolve(inner, zone) for inner in value]
    return value


def flatten(said: Said) -> Iterator[Json]:
    for one in said:
        yield from one if isinstance(one, list) else [one]


async def load(ledger: Ledger, facts: Facts, said: Said, zone: str, uploads: int = 1) -> tuple[Account, dict[int, str]]:
    """A new account that was told all that, and the names of its users."""
    account = create_account(ledger, "scenario", zone, 0)[0]
    records = list(flatten(said))
    uploaded = [resolve(record, zone) for record in records if record["type"] != "gone"]
    for record in uploaded:
        if "ts" in record:
            record["ts"] = record["ts"].removeprefix("$D_")
    now = Moment(ASKED).at(zone)
    for _ in range(uploads if uploaded else 0):
        assert (await upload(ledger, facts, account, {"d": uploaded}, now, system=True)).unprocessed == []
    keys = [("identity", record["identity"]) for record in records if "identity" in record]
    users = await ledger.read(lambda connection: find_users(connection, account.id, keys))
    lost = [record for record in records if record["type"] == "gone"]
    devices = await ledger.read(lambda connection: live_devices(connection, account.id, list(users.values())))
    people = await ledger.read(lambda connection: load_people(connection, account.id, list(users.values())))
    dead: DeadAddresses = {}
    for record in lost:
        user, kind = users["identity", record["identity"]], record["kind"]
        known = people[user].addresses["email"] if kind == "email" else devices[user]
        code = "5.1.1" if kind == "email" else "410"
        dead = {**dead, user: [(place, address, code) for place, address in known if address.kind == kind]}
    await ledger.write(lambda connection: mark_gone(connection, account.id, dead, now))
    await refresh_profiles(ledger, facts, account.id, list(dead))
    return account, {user: name for (_, name), user in users.items()}


async def find(
    facts: Facts, account: Account, names: Mapping[int, str], where: Json, on: str = ASKED, *, counted: bool = True
) -> set[str]:
    """Who is in, that day. counted: the count of members is asked for as well, and is the same."""
    now = float(Moment(on if " " in on else f"{on} 12:00").at(account.timezone))
    query = read_where(resolve(where, account.timezone))
    sql = compile_members(query, account, now)
    found = [names[one[0]] for one in await facts.query(sql.text, sql.parameters)]
    assert len(found) == len(set(found))
    assert not counted or len(found) == await count_members(facts, account, query, now)
    return set(found)


ROWS = [pytest.param(one, id=f"{chapter}: {one.name}") for chapter, rows in CHAPTERS.items() for one in rows]


@pytest.mark.parametrize("scenario", ROWS)
async def test_who_is_in(ledger: Ledger, facts: Facts, scenario: Row) -> None:
    """Each question of the row finds exactly the people who are named, on the day it is asked."""
    account, names = await load(ledger, facts, scenario.said, scenario.zone, scenario.uploads)
    asks = enumerate(scenario.asks)
    answers = [await find(facts, account, names, ask.where, ask.on, counted=not place) for place, ask in asks]
    wrong = [
        f"{ask.where} on {ask.on}: missing {sorted(ask.who - found)}, not meant {sorted(found - ask.who)}"
        for ask, found in zip(scenario.asks, answers, strict=True)
        if ask.who != found
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("refusal", [pytest.param(one, id=one.name) for one in REFUSED])
def test_what_is_refused(refusal: Refusal) -> None:
    """What is not understood is refused with a sentence that says what and where."""
    with pytest.raises(Problem) as caught:
        read_where(resolve(refusal.where, BERLIN))
    for words in refusal.words:
        assert words in caught.value.error


async def test_samples_are_the_same_people_every_time(ledger: Ledger, facts: Facts) -> None:
    """The same seed draws the same people, another seed others; with other keys, of those who meet them."""
    crowd = [is_(f"u{number}", Even=number % 2 == 0) for number in range(600)]
    account, names = await load(ledger, facts, crowd, BERLIN)

    async def draw(where: Json | None = None, on: str = ASKED, **sample: Any) -> set[str]:
        return await find(facts, account, names, {**(where or {}), "sample": sample}, on)

    half = await draw(percent=50)
    assert 220 < len(half) < 380
    assert half == await draw(percent=50) == await draw(percent=50, seed="", on="2030-01-01")
    other = await draw(percent=50, seed="autumn")
    assert 220 < len(other) < 380
    assert 80 < len(half & other) < 220
    assert 15 < len(await draw(percent=10)) < 115
    assert len(await draw(percent=0.01)) < 10
    even = await draw(has("Even", "equals", "True"), percent=50)
    assert 90 < len(even) < 210
    assert even <= await find(facts, account, names, has("Even", "equals", "True"))
    assert await find(facts, account, names, {"not": {"sample": {"percent": 50}}}) == set(names.values()) - half
