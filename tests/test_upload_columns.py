"""Uploads of many records are stored by columns: the same as record by record, with the same answer."""

from __future__ import annotations

import asyncio
from typing import Any

from conftest import THOROUGH
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.both_stores import look, look_at_people

from tocsin.account import create_account
from tocsin.idempotency import IdempotencyKey, keep, mark_stored
from tocsin.ingest import UploadResult, upload
from tocsin.ingest.names import NameLimits
from tocsin.ingest.upload_columns import MANY
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

pytest_plugins = ("engines",)

NOW = 1_790_000_000.0
ROOMY = NameLimits(512, 2048, 1024)
KNOWN: list[Any] = [
    {"type": "profile", "identity": "u4", "objectId": "dev1", "profileData": {"Email": "b@example.com"}},
    {"type": "profile", "identity": "u6", "profileData": {"Phone": "+4915112345678", "a": 1}},
]
NAMES: Any = st.sampled_from(
    ["u1", "u2", "u3", "u4", "b@example.com", "+4915112345678", "", " ", "x" * 1025, 7, 7.0, None, []]
)
VALUES: Any = st.sampled_from(
    [
        *("", "Zoë", "Desk lamp", "5", "$D_1795000000", "x" * 2049, "a\0", "\ud800", "\x1f", "it's \"\\ \t", None),
        *(0, 1, -1, 2**53, 2**63, 2**70, True, False, 0.0, -0.0, 1.0, 2.5, 1e300, [], ["a", 5], [{"a": 1}], {"a": 1}),
    ]
)
KEYS = st.sampled_from(["a", "a", "a", "b.c", "ünï-code", "", "k" * 121, "d", "d"])
EVENT = st.fixed_dictionaries(
    {
        "type": st.just("event"),
        "evtName": st.sampled_from(["Seen", "Seen", "Charged", "App Launched", "N" * 481, "", 5]),
    },
    optional={
        "identity": NAMES,
        "objectId": st.sampled_from(["dev1", "dev2", None]),
        "ts": st.sampled_from(
            [1_795_000_000, 1_795_000_000_000, "1795000000", "2026-11-20T10:00:00Z", 1, "", None, {}]
        ),
        "evtData": st.one_of(st.dictionaries(KEYS, VALUES, max_size=3), st.sampled_from([None, [], 0, "x"])),
        "source": st.just("app"),
    },
)
PLAIN_EVENT = st.fixed_dictionaries(
    {
        "type": st.just("event"),
        "evtName": st.sampled_from(["Seen", "Charged"]),
        "identity": st.sampled_from(["u1", "u2", "u4", "b@example.com", 7, ""]),
        "evtData": st.dictionaries(
            st.sampled_from("abcd"), VALUES.filter(lambda one: not isinstance(one, dict)), max_size=3
        ),
    },
)
PROFILE = st.fixed_dictionaries(
    {"type": st.just("profile"), "identity": NAMES},
    optional={
        "ts": st.sampled_from([1_795_000_000, "now"]),
        "objectId": st.just("dev3"),
        "profileData": st.fixed_dictionaries(
            {},
            optional={
                "Email": st.sampled_from(["a@example.com", "A@Example.com ", "b@example.com", "", "none", 5]),
                "Phone": st.sampled_from(["+4915112345678", 4915112345678, "+49 30 1234567", "12"]),
                "Name": VALUES,
                "Age": st.sampled_from(["5", 5, 500]),
                "Gender": st.sampled_from(["male", "x"]),
                "Latitude": st.sampled_from([52.5, 91]),
                "Longitude": st.just(13.4),
                "Tz": st.just("Europe/Berlin"),
                "MSG-email": st.sampled_from([False, True, "no"]),
                "MSG-sms": st.sampled_from([False, "yes"]),
                "Count": st.sampled_from([1, {"$incr": 2}]),
                "identity": st.just("other"),
                "category-unsubscribe": st.just({"email": ["news"]}),
            },
        ),
    },
)
FILLING: dict[str, list[Any]] = {
    "event": [
        {
            "type": "event",
            "identity": f"f{n % 40}",
            "evtName": "Seen",
            "ts": 1_795_000_000 + n % 7,
            "evtData": {"a": n % 3},
        }
        for n in range(MANY)
    ],
    "profile": [
        {"type": "profile", "identity": f"f{n}", "profileData": {"Email": f"f{n}@example.com", "Name": f"F {n % 9}"}}
        for n in range(MANY)
    ],
}
# A record of no kind: with it, all go record by record.
ODD: dict[str, Any] = {"type": "none"}


def compare(store: Ledger, facts: Facts, kind: str, records: list[Any], limits: NameLimits = ROOMY) -> None:
    """Upload records by columns, and one by one; compare the answers and what is stored, and upload them again."""
    records = [*FILLING[kind][:60], *records, *FILLING[kind][60:]]
    said: list[Any] = []
    answers: list[UploadResult] = []
    for more in ([], [ODD]):
        account, _ = create_account(store, "x", "Europe/Berlin", NOW)
        asyncio.run(upload(store, facts, account, {"d": KNOWN}, NOW))
        answers.append(asyncio.run(upload(store, facts, account, {"d": [*records, *more]}, NOW, limits=limits)))
        people = look_at_people(store, facts, account)
        said.append((people, look(store, facts, account)["event" if kind == "event" else "unsubscribed"]))
        asyncio.run(upload(store, facts, account, {"d": [*records, *more]}, NOW, limits=limits))
        assert kind == "profile" or look(store, facts, account)["event"] == said[-1][1]
    assert answers[0].processed == answers[1].processed
    assert answers[0].unprocessed == answers[1].unprocessed[:-1]
    assert said[0] == said[1]


EXAMPLES = settings(
    max_examples=20 if THOROUGH else 3, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@EXAMPLES
@given(records=st.one_of(st.lists(EVENT, max_size=12), st.lists(PLAIN_EVENT, min_size=6, max_size=12)))
def test_events_are_stored_as_one_by_one(store: Ledger, facts: Facts, records: list[Any]) -> None:
    compare(store, facts, "event", records)


@EXAMPLES
@given(records=st.lists(PROFILE, max_size=10), limits=st.sampled_from([ROOMY, ROOMY, NameLimits(2, 3, 3)]))
def test_profiles_are_stored_as_one_by_one(store: Ledger, facts: Facts, records: list[Any], limits: NameLimits) -> None:
    compare(store, facts, "profile", records, limits)


def test_what_a_key_stored_is_marked(store: Ledger, facts: Facts) -> None:
    """Stored by columns under an Idempotency-Key: a repeat knows that it was, and an increment beside counts once."""
    account, _ = create_account(store, "x", "UTC", NOW)
    for number, kind in enumerate(FILLING):
        key = IdempotencyKey(account.id, f"key-{number}", b"body")
        records = [*FILLING[kind], *([] if kind == "event" else [profile_of("f1", Count={"$incr": 2})])]
        store.write_now(lambda connection, key=key: keep(connection, key, "", NOW))  # type: ignore[misc]
        for _ in range(2):
            asyncio.run(upload(store, facts, account, {"d": records}, NOW, key=key))
        assert store.write_now(lambda connection, key=key: mark_stored(connection, key))  # type: ignore[misc]
    people = {tuple(names): text for names, text in look_at_people(store, facts, account)[0]}
    assert people[("Email", "f1@example.com"), ("identity", "f1")].endswith('"Count":2}')
    assert len(look(store, facts, account)["event"]) == MANY


def profile_of(name: str, **data: Any) -> dict[str, Any]:
    return {"type": "profile", "identity": name, "profileData": data}


def test_an_identity_that_no_store_keeps_is_refused_alone(store: Ledger, facts: Facts) -> None:
    account, _ = create_account(store, "x", "UTC", NOW)
    records = [profile_of("a\0b"), *FILLING["profile"], profile_of("\ud800")]
    answer = asyncio.run(upload(store, facts, account, {"d": records}, NOW))
    assert answer.numbers == [0, MANY + 1]
    assert len(look_at_people(store, facts, account)[0]) == MANY


def test_a_property_that_nobody_has_is_no_name(store: Ledger, facts: Facts) -> None:
    """`null` says that there is none: a name of it would count to the account's limit for ever."""
    account, _ = create_account(store, "x", "UTC", NOW)
    for kind, field in (("event", "evtData"), ("profile", "profileData")):
        records = [{**one, field: {**one[field], "none": None}} for one in FILLING[kind]]
        asyncio.run(upload(store, facts, account, {"d": records}, NOW))
    names = look(store, facts, account)["known_name"]
    assert names == [("event_names", "Seen"), ("event_properties", "a")]
