"""A campaign made on the dashboard is one that the API makes: the same requests, the same refusals, nothing dropped."""

from __future__ import annotations

import contextlib
import html
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import msgspec
import pytest
from conftest import Caller, Sandbox, Server, people, wait_for
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, event, insert
from support.browser import FORM, join, unique

from tocsin.account import Account
from tocsin.audience.query import read_where
from tocsin.audience.writing import write_where
from tocsin.campaign.spec import read_spec
from tocsin.channels import CHANNELS
from tocsin.dashboard.draft import Mistake, blank_draft, draft_of, make_request, place_mistake
from tocsin.dashboard.message import add_variant, drop_variant
from tocsin.dashboard.people import find_person
from tocsin.dashboard.question import QuestionRow, make_where, read_rows, split_question
from tocsin.dashboard.sample import load_examples
from tocsin.errors import Problem
from tocsin.store import schema
from tocsin.store.ledger import open_ledger

ACCOUNT = Account("ABC-DEF-GHIJ", "test", "Europe/Berlin")
NOW = 1_800_000_000.0
VILLAIN = "<script>alert(1)</script>"
GOOD = {
    "name": "Made here",
    "channel": "push",
    "devices": "android",
    "title": "Hello",
    "body": "there",
    "when": "now",
    "clock": "account",
    "repeat": "day",
    "every": "1",
    "caps": "1",
    "nonce": "0123456789abcdef",
}
WHERES: list[dict[str, Any]] = [
    {},
    {"segment": "all"},
    {"event_name": "A", "from": "-30d", "to": "today"},
    {"event_name": "A", "from": 20240101, "to": "yesterday", "operator": "less_than", "value": 3},
    {
        "event_name": "A",
        "from": "-6m",
        "to": "-1w",
        "event_properties": [{"name": "P", "operator": "between", "value": ["2024-01-01", "today"]}],
        "session_properties": [
            {"name": "first_time", "value": "True"},
            {"name": "time_of_day", "value": [["22:00", "06:30"]]},
            {"name": "day_of_week", "value": [1, 7]},
            {"name": "day_of_month", "value": 31},
        ],
    },
    {"common_profile_properties": {"profile_fields": [{"name": "P", "value": ["a|b", 5, True]}]}},
    {
        "common_profile_properties": {
            "profile_fields": [{"name": "P", "operator": "exists"}, {"name": "Q", "value": ""}]
        }
    },
    {"common_profile_properties": {"profile_fields": [{"name": "L", "value": ["x", "y"], "match": "all"}]}},
    {"common_profile_properties": {"technographics": [{"name": "Platform", "operator": "not_equals", "value": "iOS"}]}},
    {"common_profile_properties": {"reachability": [{"name": "has_email", "value": "False"}]}},
    {
        "common_profile_properties": {
            "geo_radius": [[52.5, 13.4, 10]],
            "geo_fields": [["Germany"], ["France", "Normandy"]],
        }
    },
    {"advanced_query": {"did_any": {"any_events": [{"event_name": "A", "from": "-1d", "to": "today"}], "value": 2}}},
    {"advanced_query": {"did_none": [{"event_name": "A", "from": "-30d", "to": "today"}]}},
    {"sample": {"percent": 33.33, "seed": "s"}, "event_name": "A", "from": "-1y", "to": "today"},
    {"or": [{"segment": "all"}, {"not": {"sample": {"percent": 5}}}], "and": [{"sample": {"percent": 50}}]},
]


def means(where: Any) -> Any:
    """A question without what makes no difference: lists in lists of the same kind, and one condition a profile."""
    return simplify(msgspec.to_builtins(read_where(where)))


def simplify(node: Any) -> Any:
    parts = [simplify(part) for part in node["of"]] if isinstance(node.get("of"), list | tuple) else []
    match node["type"]:
        case "is":
            parts = [{"type": "is", "properties": [one]} for one in node["properties"]]
            return parts[0] if len(parts) == 1 else {"type": "all", "of": sorted(parts, key=repr)}
        case "all" | "any" as kind:
            flat = [one for part in parts for one in (part["of"] if part["type"] == kind else [part])]
            flat = [one for one in flat if not (kind == "all" and one["type"] == "everybody")]
            return flat[0] if len(flat) == 1 else {"type": kind, "of": sorted(flat, key=repr)}
        case "not":
            return {"type": "not", "of": simplify(node["of"])}
        case _:
            return node


@pytest.mark.parametrize("where", WHERES, ids=repr)
def test_questions_are_written_as_they_were_meant(where: dict[str, Any]) -> None:
    """As a `where`, and as the rows of a form with the rest of it as JSON."""
    query = read_where(where)
    assert means(write_where(query)) == means(where)
    rows, rest = split_question(query)
    fields = {name: value for row in rows for name, value in row.fields().items()}
    assert means(make_where(read_rows(fields), rest)[0]) == means(where)


names = st.text(
    st.characters(codec="utf-8", exclude_characters="\0|", exclude_categories=("C", "Z")), min_size=1, max_size=9
)
some_rows = st.builds(
    QuestionRow,
    number=st.just(0),
    box=st.sampled_from(["all", "any", "none"]),
    kind=st.sampled_from(["did", "is"]),
    name=names,
    times_op=st.sampled_from(["", "equals", "greater_than_equals"]),
    times=st.integers(1, 9).map(str),
    days=st.sampled_from(["", "1", "30", "365"]),
    prop=st.one_of(st.just(""), names),
    op=st.sampled_from(["equals", "not_equals", "contains", "exists"]),
    value=st.lists(names, min_size=1, max_size=3).map(" | ".join),
)


@given(st.lists(some_rows, max_size=6))
def test_rows_survive_a_campaign(rows: list[QuestionRow]) -> None:
    """What was clicked, sent and duplicated asks the same again, and stands in rows again."""
    numbered = [msgspec.structs.replace(row, number=number) for number, row in enumerate(rows)]
    where, _ = make_where(numbered)
    again, rest = split_question(read_where(where))
    assert rest is None
    assert means(make_where(again)[0]) == means(where)


FULL = {
    "name": "Full",
    "target_mode": "push",
    "devices": ["android", "ios"],
    "where": WHERES[4],
    "labels": ["a", "b"],
    "when": "now",
    "dnd": {"message_state": "discard", "dnd_timezone": "user", "dnd_info": {"1": [{"from": "22:00", "to": "08:00"}]}},
    "control_group": {"type": "campaign", "percentage": 5},
    "frequency_cap": {"most": 1, "days": 7, "dwell_minutes": 60},
    "respect_frequency_caps": False,
    "send_to_all_devices": True,
    "respect_throttle": True,
    "on_crash": "resend",
    "system_control_group_include": False,
    "users_limit_overall": 500,
    "users_limit_per_run": 200,
    "ttl": 90,
    "conversion_goal": {
        "event_name": "Charged",
        "conversion_time": "5H",
        "revenue_property": "Worth",
        "filter_type": {
            "event_property": [{"property_name": "Amount", "operator": "greater_than", "property_value": 5}],
            "first_time": "yes",
            "day_of_week": [1, 2],
        },
    },
    "content": {
        "title": "t",
        "body": "b",
        "platform_specific": {"android": {"own": "key", "deep_link": "a://b"}, "ios": {"category": "c"}},
    },
}
PLAIN = {key: FULL[key] for key in ("name", "target_mode", "devices", "where", "when", "content")}
WEB = {
    "title": "t",
    "body": "b",
    "platform_specific": {
        "chrome": {
            **{"deep_link": "https://a.example", "image": "https://a.example/i.png", "icon": "https://a.example/c.png"},
            **{
                "cta_title1": "Buy",
                "cta_link1": "https://a.example/buy",
                "urgency": "low",
                "require_interaction": True,
            },
        }
    },
}
NIGHTLY = {str(day): [{"from": "21:30", "to": "07:00"}] for day in range(1, 8)}


@pytest.mark.parametrize(
    "body",
    [
        FULL,
        PLAIN | {"dnd": {"message_state": "delay", "dnd_timezone": "account", "dnd_info": NIGHTLY}},
        PLAIN | {"frequency_cap": {"most": 2, "days": 1}, "content": {"title": "t", "body": "b"}},
        PLAIN
        | {
            "variants": [
                {"name": one, "percentage": 50, "content": {"title": one, "body": "b"} | more}
                for one, more in (("A", {}), ("B", {"platform_specific": {"ios": {"k": "v"}}}))
            ]
        },
        {**PLAIN, "target_mode": "email", "content": {"subject": "s", "body": "<p>b</p>", "sender_name": "Shop"}},
        {
            **PLAIN,
            **{"target_mode": "email", "content": {"subject": "s", "body": "<p>b</p>"}},
            **{"subscription_groups": ["News", "Offers"], "track_opens": False, "track_clicks": False},
        },
        {**PLAIN, "target_mode": "sms", "content": {"body": "b"}, "send_to_every_profile": True},
        {**PLAIN, "target_mode": "webpush", "content": WEB},
        {**PLAIN, "target_mode": "webpush", "content": WEB | {"platform_specific": {"chrome": {"ttl": 60}}}},
        {**PLAIN, "target_mode": "webpush", "content": WEB | {"platform_specific": {"safari": {"own": [1]}}}},
    ],
    ids=["full", "nights", "cap", "variants", "mail", "groups", "sms", "web push", "web ttl", "browsers"],
)
def test_a_copy_is_the_same_campaign(body: dict[str, Any]) -> None:
    """Everything but the name and the time, also what the form has no field for."""
    spec = read_spec(body, ACCOUNT, NOW)
    form = draft_of(spec, "Copy")
    copied = read_spec(make_request(form).body, ACCOUNT, NOW)
    one, other = (msgspec.to_builtins(found) | {"name": "", "where": {}} for found in (spec, copied))
    assert other == one
    assert simplify(msgspec.to_builtins(copied.where)) == simplify(msgspec.to_builtins(spec.where))


def test_fields_and_not_json_say_what_a_web_push_is() -> None:
    spec = read_spec({**PLAIN, "target_mode": "webpush", "content": WEB}, ACCOUNT, NOW)
    form = draft_of(spec, "Copy")
    assert (form["button_1"], form["link_1"], form["urgency"], form["stay"]) == (
        *(["Buy"], ["https://a.example/buy"]),
        *(["low"], ["1"]),
    )
    assert "more" not in form


def find_mistake(form: dict[str, list[str]]) -> Mistake:
    places: dict[str, str] = {}
    try:
        made = make_request(form)
        places = made.places
        read_spec(made.body, ACCOUNT, NOW)
    except Problem as problem:
        return place_mistake(problem, places)
    raise AssertionError("nothing is wrong with it")


@pytest.mark.parametrize(
    ("fields", "field", "sentence"),
    [
        ({"name": ""}, "name", "Field name is empty"),
        ({"name": "x" * 600}, "name", "name is longer than"),
        ({"title": ""}, "title", "Field title is empty"),
        ({"body": ""}, "body", "Field body is empty"),
        ({"body": "{{ Profile.Name"}, "body", ""),
        ({"devices": ""}, "devices", "devices must be"),
        ({"channel": "pigeon"}, "channel", "target_mode must be one of"),
        ({"channel": "sms", "body": ""}, "body", "Field body is empty"),
        ({"channel": "webpush", "urgency": "now"}, "urgency", "urgency must be one of"),
        ({"channel": "webpush", "link_2": "{{ Profile.Name"}, "link_2", ""),
        ({"labels": "x" * 200}, "labels", "a label must be"),
        ({"when": "later", "time": ""}, "time", ""),
        ({"when": "later", "time": "2020-01-01T00:00"}, "time", ""),
        ({"when": "recurring", "time": "2099-01-01T00:00", "every": "0"}, "every", "repeats_every must be"),
        ({"when": "recurring", "time": "2099-01-01T00:00", "runs": "many"}, "runs", "end_by_occurrences must be"),
        ({"quiet": "1", "quiet_from": "25:00", "quiet_to": "08:00", "quiet_state": "delay"}, "quiet_from", ""),
        ({"control": "110"}, "control", "percentage must be"),
        ({"cap_most": "-1"}, "cap_most", "most must be"),
        ({"ttl": "soon"}, "ttl", "between 1 and 40320 minutes"),
        ({"goal_event": "A", "goal_time": "a day"}, "goal_time", ""),
        ({"json": "{"}, "json", "This is not JSON"),
        ({"json": '{"or": []}'}, "json", ""),
        ({"more": "[]"}, "more", "It must be an object"),
        ({"more": '{"users_limit": 5}'}, "", "users_limit is not supported yet"),
        ({"row-3-box": "all", "row-3-kind": "did", "row-3-name": "", "row-3-op": "equals"}, "row-3-name", "event_name"),
        (
            {
                "row-1-box": "all",
                "row-1-kind": "is",
                "row-1-name": "P",
                "row-1-op": "exists",
                "row-4-box": "none",
                "row-4-kind": "is",
                "row-4-name": "Q",
                "row-4-op": "greater_than",
                "row-4-value": "much",
            },
            "row-4-name",
            "greater_than needs a number",
        ),
        ({"row-0-box": "all", "row-0-kind": "segment", "row-0-name": "nowhere"}, "row-0-name", "there is no segment"),
    ],
    ids=repr,
)
def test_a_mistake_stands_at_its_field(fields: dict[str, str], field: str, sentence: str) -> None:
    """The API's own sentence, at the field that it is about."""
    form = {name: [value] for name, value in (GOOD | fields).items()}
    mistake = find_mistake(form)
    assert (mistake.field, sentence in mistake.sentence) == (field, True), mistake
    assert "(at $" not in mistake.sentence


def test_a_form_that_nobody_touched_asks_for_everything_it_needs() -> None:
    """The first thing that is missing is said."""
    with pytest.raises(Problem, match="Field name is empty"):
        read_spec(make_request(blank_draft()).body, ACCOUNT, NOW)


def test_sent_once(server: Server, sending: Caller, sandbox: Sandbox) -> None:
    """Review says how many; pressed twice the form is one campaign; the report and the API agree; the log knows who."""
    sending.upload(*people(6, wns_port=sandbox.port + 3))
    browser = join(server, sending, "admin", unique("ana", sending))
    form = GOOD | {"token": browser.token(), "name": VILLAIN, "title": VILLAIN}
    status, page, _ = browser.send("/dashboard/new", form | {"do": "review"})
    assert (status, "Send 2 messages now" in page, VILLAIN in page) == (200, True, False)
    first = browser.send("/dashboard/new", form | {"do": "send"})
    again = browser.send("/dashboard/new", form | {"do": "send"})
    assert (first[0], first[2]["location"]) == (again[0], again[2]["location"])
    campaign = int(first[2]["location"].rsplit("/", 1)[1])
    assert sending.result(campaign)["sent"] == 2
    for path in (first[2]["location"], "/dashboard/", "/dashboard/settings", f"/dashboard/new?from={campaign}"):
        status, page = browser.look(path)
        assert (status, VILLAIN in page) == (200, False), path
    assert "campaign made" in browser.look("/dashboard/settings")[1]


def test_a_form_comes_back_as_it_was(server: Server, caller: Caller) -> None:
    """With what was typed, what is wrong at its field, and the status of a refusal; nothing is made."""
    browser = join(server, caller, "marketer", unique("ana", caller))
    form = GOOD | {"token": browser.token(), "control": "110", "title": 'A "title" & more', "labels": VILLAIN}
    for do in ("review", "send"):
        status, page, _ = browser.send("/dashboard/new", form | {"do": do})
        assert status == 400
        assert 'id="control-mistake">percentage must be' in page
        assert f'value="{html.escape(GOOD["name"])}"' in page
        assert 'value="A &#34;title&#34; &amp; more"' in page
        assert VILLAIN not in page
    assert "No campaign yet" in browser.look("/dashboard/")[1]


def test_rows_come_and_go_without_a_script(server: Server, caller: Caller) -> None:
    """Buttons add and drop conditions; what stands in the others stays."""
    browser = join(server, caller, "marketer", unique("ana", caller))
    form = GOOD | {"token": browser.token()}
    page = browser.send("/dashboard/new", form | {"do": "add-none"})[1]
    assert 'name="row-0-box" value="none"' in page
    row = {"row-0-box": "none", "row-0-kind": "is", "row-0-name": VILLAIN, "row-0-op": "exists"}
    page = browser.send("/dashboard/new", form | row | {"do": "add-all"})[1]
    assert 'name="row-1-box" value="all"' in page
    assert html.escape(VILLAIN) in page
    page = browser.send("/dashboard/new", form | row | {"do": "drop-0"})[1]
    assert "row-0-box" not in page


def test_outlook(server: Server, sending: Caller, sandbox: Sandbox) -> None:
    """Counts, examples, previews with their values and the request itself, before everything is filled in."""
    sending.upload(*people(6, wns_port=sandbox.port + 3))
    sending.upload({"type": "profile", "identity": "user-0", "profileData": {"Name": VILLAIN, "Plan": "Gold"}})
    browser = join(server, sending, "marketer", unique("ana", sending))
    row = {"row-0-box": "all", "row-0-kind": "is", "row-0-name": "Plan", "row-0-op": "equals", "row-0-value": "gold"}
    form = GOOD | row | {"token": browser.token(), "title": "Hi {{ Profile.Name }}", "name": ""}
    status, page, _ = browser.send("/dashboard/new/check", form)
    assert (status, VILLAIN in page) == (200, False)
    assert re.search(r'class="total">1\b', page)
    assert f"Hi {html.escape(VILLAIN)}" in page
    long = browser.send("/dashboard/new/check", form | {"body": "ä" * 2500})[1]
    assert ("FCM takes 4,096 bytes" in long, "APNs takes" in long) == (True, False)  # only Android is asked for
    other = browser.send("/dashboard/new/check", form | {"person": "user-3"})[1]
    assert ("Hi Name 3" in other, "as seen by Name 3" in other) == (True, True)
    assert "Before it can be sent: Field name is empty" in page
    assert "&#34;target_mode&#34;: &#34;push&#34;" in page
    assert browser.look("/dashboard/new/values?row-0-kind=is&row-0-name=Plan")[1].strip() == '<option value="gold">'
    found = browser.look("/dashboard/people?identity=user-0")[1]
    assert (html.escape(VILLAIN) in found, VILLAIN in found) == (True, False)
    assert "Nobody has that" in browser.look("/dashboard/people?identity=nobody")[1]
    mail = form | {"channel": "email", "subject": "s", "body": "<b>Hi {{ Profile.Name }}</b>", "person": "user-0"}
    status, mailed, headers = browser.call("POST", "/dashboard/new/mail", urlencode(mail).encode(), FORM)
    assert (status, b"<b>Hi " in mailed) == (200, True)
    assert headers["content-security-policy"].endswith("sandbox")
    assert "script-src" not in headers["content-security-policy"]


def test_a_few_people_are_read_without_everybody(tmp_path: Path) -> None:
    """Found by whose identities they are: SQLite reads all of an account where it would save sorting a few."""
    account = {"account_id": "a"}
    asked: list[tuple[str, Any]] = []

    def fill(connection: Connection) -> None:
        times = {"created_at": NOW, "updated_at": NOW}
        connection.execute(insert(schema.account).values(id="a", name="a", timezone="UTC", created_at=NOW, last_user=1))
        connection.execute(insert(schema.user).values(**account, id=1, profile="{}", version=1, **times))
        connection.execute(insert(schema.identity).values(**account, kind="identity", value="jane", user_id=1))

    def read(connection: Connection) -> None:
        event.listen(connection, "before_cursor_execute", lambda *told: asked.append((told[2], told[3])))
        person = find_person(connection, "a", "jane")
        assert (person and person.identities, load_examples(connection, "a", [1])[0].identity) == (
            [("identity", "jane")],
            "jane",
        )
        for statement, values in [one for one in asked if "identity.user_id =" in one[0] or "user_id IN" in one[0]]:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", values).all()
            assert any("identity_of_user" in str(row) for row in plan) or "FROM identity" not in statement, statement

    with contextlib.closing(open_ledger(f"sqlite:///{tmp_path / 'ledger.db'}")) as ledger:
        ledger.write_now(fill)
        ledger.read_now(read)
    assert sum("FROM identity" in statement for statement, _ in asked) > 3


def test_every_channel_has_a_preview(server: Server, sending: Caller) -> None:
    """A text message with its parts, a web push with its buttons and limit; each counts, and says it as a call."""
    sending.upload({"type": "profile", "identity": "jane", "profileData": {"Name": "Şule", "Phone": "+491701234567"}})
    browser = join(server, sending, "marketer", unique("ana", sending))
    form = GOOD | {"token": browser.token(), "title": "Hi", "body": "Hello {{ Profile.Name }}"}
    page = browser.look("/dashboard/new")[1]
    assert re.findall(r'<option value="(\w+)"', page.partition('id="channel"')[2].partition("</select>")[0]) == [
        *CHANNELS
    ]
    sms = browser.send("/dashboard/new/check", form | {"channel": "sms"})[1]
    assert ("One part, in UCS-2; 60 letters are left. Not in the GSM alphabet: Ş" in sms) is True
    assert (re.search(r'class="total">1\b', sms) is not None, "target_mode&#34;: &#34;sms" in sms) == (True, True)
    long = browser.send("/dashboard/new/check", form | {"channel": "sms", "body": "x" * 161})[1]
    assert ("2 parts, in GSM-7; 145 letters are left" in long, "as 2 messages" in long) == (True, True)
    web = {"channel": "webpush", "button_1": VILLAIN, "link_1": "https://a.example", "stay": "1"}
    shown = browser.send("/dashboard/new/check", form | web)[1]
    assert (f"<span>{html.escape(VILLAIN)}</span>" in shown, VILLAIN in shown) == (True, False)
    assert "Web push takes 3,993 bytes" in browser.send("/dashboard/new/check", form | web | {"body": "x" * 4000})[1]
    page = browser.send("/dashboard/new", form | web)[1]
    assert all(f'name="{name}"' in page for name in ("link_2", "icon", "urgency", "stay"))
    made = browser.send("/dashboard/new", form | web | {"do": "send", "when": "later", "time": "2099-01-01T00:00"})
    assert html.escape(VILLAIN) in browser.look(made[2]["location"])[1]


def test_a_test_goes_to_one(server: Server, sending: Caller, sandbox: Sandbox) -> None:
    """As `/1/send` sends it; nobody is a mistake at the field."""
    sending.upload(*people(2, kinds=("fcm",)))
    browser = join(server, sending, "marketer", unique("ana", sending))
    form = GOOD | {"token": browser.token(), "do": "test", "test_identity": "user-1"}
    assert "The test to user-1 is on its way" in browser.send("/dashboard/new", form)[1]
    status, page, _ = browser.send("/dashboard/new", form | {"test_identity": "nobody"})
    assert (status, 'id="test_identity-mistake">Nobody has the identity' in page) == (400, True)


def test_segments_and_passcodes(server: Server, caller: Caller) -> None:
    """A saved audience is one of the API's; a passcode made here works until it is revoked; a viewer is refused."""
    browser = join(server, caller, "admin", unique("ana", caller))
    viewer = join(server, caller, "viewer", unique("vic", caller))
    token = browser.token()
    row = {"row-0-box": "all", "row-0-kind": "is", "row-0-name": "Plan", "row-0-op": "exists"}
    saved = browser.send("/dashboard/new", GOOD | row | {"token": token, "do": "segment", "segment_name": VILLAIN})
    assert "is saved" in saved[1]
    assert caller.post("/1/segments/get.json", {"name": VILLAIN})[1]["segment"]["where"] == {
        "common_profile_properties": {"profile_fields": [{"name": "Plan", "operator": "exists"}]}
    }
    for reader in (browser, viewer):
        page = reader.look("/dashboard/segments")[1]
        assert (html.escape(VILLAIN) in page, VILLAIN in page) == (True, False)
    assert browser.look(f"/dashboard/segments/count?{urlencode({'name': VILLAIN})}")[1].strip() == "0"
    assert viewer.send("/dashboard/segments/delete", {"token": viewer.token(), "name": VILLAIN})[0] == 403
    assert browser.send("/dashboard/segments/delete", {"token": token, "name": VILLAIN})[0] == 303
    assert caller.post("/1/segments/list.json", {})[1]["segments"] == []

    for path in ("/dashboard/settings", "/dashboard/people", "/dashboard/new", "/dashboard/start"):
        assert viewer.look(path)[0] == 403, path
    asked = {"token": token, "do": "add", "label": "shop", "rights": "read"}
    saying = browser.send("/dashboard/settings/passcodes", asked)
    made = re.search(r"<pre[^>]*>([A-Z0-9-]{39})</pre>", saying[1])
    assert made is not None
    holder = Caller(server.port, caller.headers | {"X-CleverTap-Passcode": made[1]})
    wait_for(lambda: holder.post("/1/segments/list.json", {})[0] == 200)
    assert made[1] not in browser.look("/dashboard/settings")[1]
    assert browser.send("/dashboard/settings/passcodes", {"token": token, "do": "add", "label": "x"})[0] == 422
    assert browser.send("/dashboard/settings/passcodes", {"token": token, "do": "revoke", "label": "shop"})[0] == 303


def test_first_steps(server: Server, sending: Caller) -> None:
    """The list ticks itself: the provider is there, made-up people bring devices and an event."""
    browser = join(server, sending, "marketer", unique("ana", sending))
    assert browser.look("/dashboard/start")[1].count("pill completed") == 1
    assert browser.send("/dashboard/start", {"token": browser.token()})[0] == 303
    assert browser.look("/dashboard/start")[1].count("pill completed") == 3
    assert "Both stores answer" in browser.look("/dashboard/system")[1]


def test_variants_by_form() -> None:
    """Added with the first one's words and even shares; dropped, the others move up; each mistake at its own field."""
    form = {name: [value] for name, value in GOOD.items()}
    add_variant(form)
    add_variant(form)
    assert [form[f"variant-{number}-share"] for number in range(3)] == [["34"], ["33"], ["33"]]
    assert form["variant-2-title"] == [GOOD["title"]]
    form |= {"variant-1-title": [""], "variant-2-title": ["C"]}
    assert (find_mistake(form).field, find_mistake(form).sentence) == ("variant-1-title", "Field title is empty")
    assert find_mistake(form | {"title": [""]}).field == "title"
    assert find_mistake(form | {"variant-1-name": ["A"], "variant-1-title": ["B"]}).field == "variant-1-name"
    assert find_mistake(form | {"variant-1-title": ["B"], "variant-0-share": ["90"]}).field == "variant-0-share"
    drop_variant(form, 1)
    made = make_request(form).body
    assert [(one["name"], one["percentage"], one["content"]["title"]) for one in made["variants"]] == [
        ("A", 50, GOOD["title"]),
        ("C", 50, "C"),
    ]
    assert draft_of(read_spec(made, ACCOUNT, NOW), "Copy")["variant-1-title"] == ["C"]
    drop_variant(form, 1)
    assert "variants" not in make_request(form).body
    for _ in range(20):
        add_variant(form)
    assert len(read_spec(make_request(form).body, ACCOUNT, NOW).variants) == 8


def test_variants_without_a_script(server: Server, sending: Caller, sandbox: Sandbox) -> None:
    sending.upload(*people(6, wns_port=sandbox.port + 3))
    browser = join(server, sending, "marketer", unique("ana", sending))
    form = GOOD | {"token": browser.token()}
    page = browser.send("/dashboard/new", form | {"do": "add-variant"})[1]
    fields = form | dict(re.findall(r'name="(variant-[\w-]+)" type="\w+" value="(.*?)"', page))
    fields |= {"variant-1-title": VILLAIN, "variant-1-body": "b"}
    status, page, _ = browser.send("/dashboard/new", fields | {"do": "review"})
    assert (status, "A · 50 %, about 1" in page, VILLAIN in page) == (200, True, False)
    made = browser.send("/dashboard/new", fields | {"do": "send"})[2]["location"]
    assert sending.result(int(made.rsplit("/", 1)[1]))["sent"] == 2
    assert re.findall(r'<th scope="row">([AB])</th>', browser.look(made)[1]) == ["A", "B"]


def test_drafts(server: Server, sending: Caller, sandbox: Sandbox) -> None:
    """Left and taken up again as it was, by anybody who may send; gone once it is sent; nobody else's."""
    sending.upload(*people(2, wns_port=sandbox.port + 3))
    browser = join(server, sending, "marketer", unique("ana", sending))
    form = GOOD | {"token": browser.token(), "name": VILLAIN, "title": "", "row-0-box": "all", "row-0-kind": "did"}
    page = browser.send("/dashboard/new", form | {"do": "keep", "row-0-name": "Paid"})[1]
    draft = re.findall(r'name="draft" value="(\d+)"', page)[0]
    browser.send("/dashboard/new", form | {"do": "keep", "row-0-name": "Bought", "draft": draft})
    colleague = join(server, sending, "admin", unique("bea", sending))
    listed = colleague.look("/dashboard/")[1]
    assert (listed.count("/dashboard/new?draft="), VILLAIN in listed) == (1, False)
    assert html.escape(VILLAIN) in colleague.look("/dashboard/?state=draft")[1]
    page = colleague.look(f"/dashboard/new?draft={draft}")[1]
    assert ('value="Bought"' in page, html.escape(VILLAIN) in page, VILLAIN in page) == (True, True, False)
    viewer = join(server, sending, "viewer", unique("vi", sending))
    assert "?draft=" not in viewer.look("/dashboard/")[1]
    other = server.account("Europe/Berlin")
    stranger = join(server, other, "admin", unique("eve", other))
    assert stranger.look(f"/dashboard/new?draft={draft}")[0] == 404
    stranger.send("/dashboard/drafts/delete", {"token": stranger.token(), "draft": draft})
    sent = browser.send("/dashboard/new", GOOD | {"token": form["token"], "draft": draft, "do": "send"})
    assert sent[0] == 303
    assert colleague.look(f"/dashboard/new?draft={draft}")[0] == 404
    large = colleague.send("/dashboard/new", form | {"token": colleague.token(), "do": "keep", "body": "x" * 600_000})
    assert (large[0], "A draft may have 512 KiB" in large[1]) == (400, True)
