"""Push and e-mail by identity: who is reached by what name, what it looks like, what is counted."""

from __future__ import annotations

import email
import email.policy
from typing import Any

import pytest
from conftest import Caller, Sandbox, Server, people, token, wait_for

pytest_plugins = ("engines",)

CREATE, RESULT = "/1/targets/create.json", "/1/targets/result.json"
PATHS = {"push": "/1/send/push.json", "email": "/1/send/email.json"}
VENDORS = {"push": "fcm", "email": "smtp"}
QUEUED = (200, {"status": "success", "message": "Added to queue for processing"})
CONTENT = {
    "push": {"title": "Hi {{ Profile.Name | default: 'you' }}", "body": "Hello world!"},
    "email": {"subject": "Hi {{ Profile.Name | default: 'you' }}", "body": "<div>Hello <b>world</b>!</div>"},
}
# A spelling of `to`, how a user is known by it, and the name itself.
SPELLINGS = [
    ("FBID", "FBID", "102029292929388"),
    ("GPID", "GPID", "1928288389299292"),
    ("Email", "Email", "john@doe.com"),
    ("Identity", "identity", "JohnDoe"),
    ("identity", "identity", "JaneDoe"),
    ("objectId", "objectId", "_asdnkansdjknaskdjnasjkndja"),
    ("objectid", "objectId", "-adffajjdfoaiaefiohnefwprjf"),
]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def server(request: pytest.FixtureRequest, server: Server) -> Server:
    """The shared server, on each ledger in turn."""
    other: Server = request.getfixturevalue("postgres_server") if request.param == "postgresql" else server
    return other


def known(spelling: str, kind: str, name: str) -> list[dict[str, Any]]:
    """Records of a user known by one name only, beside an address and a device."""
    device = name if kind == "objectId" else f"device-of-{name}"
    who = {} if kind == "Email" else {kind: name}
    number = [one for one, _, _ in SPELLINGS].index(spelling)
    data = {"Name": spelling, "Email": name if kind == "Email" else f"user-{number}@example.com"}
    return [
        {"type": "profile", "objectId": device, **who, "profileData": data},
        {"type": "token", "objectId": device, "tokenData": {"type": "fcm", "id": token("fcm", spelling)}},
    ]


def send(caller: Caller, mode: str, to: dict[str, list[str]], tag: str = "tag", **fields: Any) -> None:
    """Sends what must be taken."""
    body = {"to": to, "tag_group": tag, "content": CONTENT[mode]} | fields
    assert caller.post(PATHS[mode], body) == QUEUED


def groups(caller: Caller) -> dict[str, dict[str, int]]:
    status, answer = caller.get("/1/tag_groups.json")
    assert (status, set(answer), answer["status"]) == (200, {"status", "tag_groups", "total"}, "success")
    numbers: dict[str, dict[str, int]] = answer["tag_groups"]
    return numbers


def settled(caller: Caller, tag: str = "tag", sent: int = 1) -> dict[str, int]:
    """A tag group's numbers once at least `sent` are sent and all add up."""

    def ask() -> dict[str, int] | None:
        group = groups(caller).get(tag)
        if group is None or group["sent"] < sent:
            return None
        parts = group["sent"] + group["unknown"] + group["failed"] + group["suppressed"]
        return group if parts == group["audience"] else None

    return wait_for(ask)


def titles(sandbox: Sandbox, mode: str) -> list[str]:
    """What the delivered messages say, in order of the alphabet."""
    messages = sandbox.messages(VENDORS[mode])
    if mode == "email":
        return sorted(message["headers"]["subject"] for message in messages)
    return sorted(message["body"]["message"]["data"]["nt"] for message in messages)


@pytest.mark.parametrize("mode", ["push", "email"])
def test_every_kind_of_name(sending: Caller, sandbox: Sandbox, mode: str) -> None:
    """Each kind of identifier, in each spelling, reaches the one user it names."""
    for one in SPELLINGS:
        sending.upload(*known(*one))

    for spelling, _, name in SPELLINGS:
        send(sending, mode, {spelling: [name]}, tag=spelling)

    numbers = {spelling: settled(sending, spelling) for spelling, _, _ in SPELLINGS}
    assert all((one["audience"], one["sent"]) == (1, 1) for one in numbers.values())
    assert titles(sandbox, mode) == sorted(f"Hi {spelling}" for spelling, _, _ in SPELLINGS)


@pytest.mark.parametrize("mode", ["push", "email"])
def test_kinds_together(sending: Caller, sandbox: Sandbox, mode: str) -> None:
    """All kinds of identifiers in one request reach everybody they name."""
    to: dict[str, list[str]] = {}
    for spelling, kind, name in SPELLINGS:
        sending.upload(*known(spelling, kind, name))
        to.setdefault(spelling, []).append(name)

    send(sending, mode, to)

    assert settled(sending, sent=7)["audience"] == 7
    assert titles(sandbox, mode) == sorted(f"Hi {spelling}" for spelling, _, _ in SPELLINGS)


@pytest.mark.parametrize("mode", ["push", "email"])
def test_one_person_by_many_names(sending: Caller, sandbox: Sandbox, mode: str) -> None:
    """A person named twice, and by names of several kinds, gets one message."""
    names = {"FBID": "1", "GPID": "2", "identity": "user", "objectId": "device"}
    data = {"Name": "User", "Email": "user@example.com"}
    sending.upload(
        {"type": "profile", **names, "profileData": data},
        {"type": "token", "objectId": "device", "tokenData": {"type": "fcm", "id": token("fcm", "user")}},
    )
    to = {
        "FBID": ["1", "1"],
        "GPID": ["2"],
        "Identity": ["user", "user"],
        "Email": ["user@example.com"],
        "objectId": ["device"],
    }

    send(sending, mode, to)

    group = settled(sending)
    assert (group["audience"], group["sent"]) == (1, 1)
    assert titles(sandbox, mode) == ["Hi User"]


def test_all_devices_of_a_person(sending: Caller, sandbox: Sandbox) -> None:
    """A push to a person with devices of three platforms is one recipient on each."""
    for kind in ("fcm", "apns", "wns"):
        address = {"type": kind, "id": token(kind, "user", sandbox.port + 3)}
        sending.upload(
            {"type": "profile", "identity": "user", "objectId": kind, "profileData": {"Name": "User"}},
            {"type": "token", "objectId": kind, "tokenData": address},
        )

    send(sending, "push", {"Identity": ["user"]})

    assert settled(sending, sent=3)["audience"] == 3
    counts = sandbox.counts()
    assert [counts[vendor]["accepted"] for vendor in ("fcm", "apns", "wns")] == [1, 1, 1]


@pytest.mark.parametrize("mode", ["push", "email"])
def test_unknown_people_are_accepted(sending: Caller, sandbox: Sandbox, mode: str) -> None:
    """Names of nobody are accepted, and those known beside them are reached."""
    sending.upload(*people(1, kinds=("fcm",)))

    send(sending, mode, {"Identity": ["nobody"], "FBID": ["a1"], "GPID": ["b1"], "objectId": ["c1"]})
    send(sending, mode, {"Identity": ["nobody", "user-0"], "FBID": ["a1"]})

    assert settled(sending)["sent"] == 1
    assert titles(sandbox, mode) == ["Hi Name 0"]


WRONG_CAPS: list[Any] = ["true", "false", "", 0, 1, [], {}, [True]]
CODES: list[tuple[str, dict[str, Any], int, str]] = [
    ("no to", {"to": ...}, 21, "to is a mandatory field"),
    ("empty to", {"to": {}}, 84, "Invalid recipients"),
    ("empty lists", {"to": {"Identity": []}}, 84, "Invalid recipients"),
    ("no list", {"to": {"Identity": "user-0"}}, 84, "Invalid recipients"),
    ("unknown kind", {"to": {"Telex": ["1"]}}, 84, "Invalid recipients"),
    *((f"caps {value!r}", {"respect_frequency_caps": value}, 73, "must be a Boolean") for value in WRONG_CAPS),
]


@pytest.mark.parametrize("mode", ["push", "email"])
@pytest.mark.parametrize(
    ("fields", "code", "text"), [pytest.param(fields, code, text, id=name) for name, fields, code, text in CODES]
)
def test_codes(caller: Caller, mode: str, fields: dict[str, Any], code: int, text: str) -> None:
    """A mistake with a documented code is a 400 with that code and its meaning, and nothing is queued."""
    body = {"to": {"Identity": ["user-0"]}, "content": CONTENT[mode]} | fields

    status, answer = caller.post(PATHS[mode], {key: value for key, value in body.items() if value is not ...})

    assert (status, answer["status"], answer["code"]) == (400, "fail", code)
    assert set(answer) == {"status", "error", "code"}
    assert text in answer["error"]
    assert groups(caller) == {}


@pytest.mark.parametrize("mode", ["push", "email"])
@pytest.mark.parametrize("body", [b"{", b"", b'{"to":', b"[]"], ids=str)
def test_code_78(caller: Caller, mode: str, body: bytes) -> None:
    """What is no JSON object is refused with code 78."""
    status, answer, _ = caller.call("POST", PATHS[mode], body)

    assert (status, answer["status"], answer["code"]) == (400, "fail", 78)
    assert answer["error"].startswith("Invalid JSON payload")


@pytest.mark.parametrize(
    ("mode", "content", "name"),
    [
        ("push", None, "title|content"),
        ("push", {}, "title"),
        ("push", {"body": "b"}, "title"),
        ("push", {"title": "t", "body": "{{ Profile.Name"}, "body"),
        ("push", {"title": "{% if %}", "body": "b"}, "title"),
        ("email", None, "subject|content"),
        ("email", {"body": "b"}, "subject"),
        ("email", {"subject": "s"}, "body"),
        ("email", {"subject": "{{ Profile.Name", "body": "b"}, "subject"),
    ],
)
def test_content(caller: Caller, mode: str, content: dict[str, str] | None, name: str) -> None:
    """Content that lacks something or does not parse is a 400 that names it, and nothing is queued."""
    body = {"to": {"Identity": ["user-0"]}} | ({} if content is None else {"content": content})

    status, answer = caller.post(PATHS[mode], body)

    assert (status, answer["status"], type(answer["code"])) == (400, "fail", int)
    assert any(one in answer["error"] for one in name.split("|"))
    assert groups(caller) == {}


def test_push_is_personal(sending: Caller, sandbox: Sandbox) -> None:
    """Liquid in the title, the body and an own key is filled in for each person, with a default for those without."""
    sending.upload(*people(2, kinds=("fcm",)))
    nameless = {"type": "fcm", "id": token("fcm", "nameless")}
    sending.upload({"type": "token", "objectId": "nameless", "tokenData": nameless})
    content = {
        "title": "Hi {{ Profile.Name | default: 'you' }}",
        "body": "{% if Profile.Name %}we know you{% else %}who are you?{% endif %} & <{{ Profile.Email }}>",
        "platform_specific": {"android": {"mine": "for {{ Profile.Name | upcase }}"}},
    }

    send(sending, "push", {"Identity": ["user-0", "user-1"], "objectId": ["nameless"]}, content=content)

    settled(sending, sent=3)
    found = {message["address"]: message["body"]["message"] for message in sandbox.messages("fcm")}
    seen = {address: (one["data"]["nt"], one["data"]["nm"], one["data"]["mine"]) for address, one in found.items()}
    assert seen == {
        token("fcm", "user-0"): ("Hi Name 0", "we know you & <user-0@example.com>", "for NAME 0"),
        token("fcm", "user-1"): ("Hi Name 1", "we know you & <user-1@example.com>", "for NAME 1"),
        token("fcm", "nameless"): ("Hi you", "who are you? & <>", "for "),
    }
    assert not any("collapse_key" in one["android"] for one in found.values()), "FCM keeps four for who is away"


def test_email_is_multipart(sending: Caller, sandbox: Sandbox) -> None:
    """An e-mail has both a text and an HTML part, a subject in any alphabet, and one recipient."""
    sending.upload(*people(1, kinds=("fcm",)))
    content = {
        "subject": "Grüße, {{ Profile.Name }} 😀",
        "body": "<div>Hello <b>{{ Profile.Name }}</b> &amp; äöü</div>",
    }

    send(sending, "email", {"Email": ["user-0@example.com"]}, content=content)

    settled(sending)
    (message,) = sandbox.messages("smtp")
    assert message["address"] == "user-0@example.com"
    mail = email.message_from_string(message["body"], policy=email.policy.default)
    assert (mail["Subject"], mail["To"]) == ("Grüße, Name 0 😀", "user-0@example.com")
    assert mail.get_content_type() == "multipart/alternative"
    parts = {part.get_content_type(): part.get_payload(decode=True) for part in mail.walk() if not part.is_multipart()}
    assert list(parts) == ["text/plain", "text/html"]
    assert "<div>Hello <b>Name 0</b> &amp; äöü</div>".encode() in bytes(parts["text/html"])
    plain = bytes(parts["text/plain"]).decode()
    assert "Name 0" in plain
    assert "äöü" in plain
    assert "<b>" not in plain


def test_header_injection(sending: Caller, sandbox: Sandbox) -> None:
    """A name with a line break adds no header to an e-mail."""
    profile = {"Name": "Eve\r\nBcc: everybody@example.com", "Email": "eve@example.com"}
    sending.upload(
        {"type": "profile", "identity": "eve", "profileData": profile},
        {"type": "profile", "identity": "end", "profileData": {"Name": "End", "Email": "end@example.com"}},
    )

    send(sending, "email", {"Identity": ["eve", "end"]})

    settled(sending)
    messages = sandbox.messages("smtp")
    assert "end@example.com" in {message["address"] for message in messages}
    assert {message["address"] for message in messages} <= {"eve@example.com", "end@example.com"}
    assert all("bcc" not in message["headers"] for message in messages)


def test_tag_groups_add_up(sending: Caller, sandbox: Sandbox) -> None:
    """The numbers of each tag group are its own, add up, and are the vendors'."""
    sandbox.fault(vendor="fcm", kind="status", status=404, code="UNREGISTERED", share=1, count=4)
    sending.upload(*people(30, kinds=("fcm",)))
    everybody = {"Identity": [f"user-{number}" for number in range(30)]}

    send(sending, "push", everybody, tag="push")
    pushes = settled(sending, "push", sent=26)
    send(sending, "email", everybody, tag="mail")
    mails = settled(sending, "mail", sent=30)

    assert (pushes["audience"], pushes["sent"], pushes["failed"]) == (30, 26, 4)
    assert (mails["audience"], mails["sent"], mails["failed"]) == (30, 30, 0)
    assert set(groups(sending)) == {"push", "mail"}
    counts = sandbox.counts()
    assert (counts["fcm"]["accepted"], counts["smtp"]["accepted"]) == (26, 30)


def test_opted_out_of_a_send(sending: Caller, sandbox: Sandbox) -> None:
    """Whoever wants no e-mail gets none by identity either, and is counted as suppressed."""
    sending.upload(*people(2, kinds=("fcm",)))
    sending.upload({"type": "profile", "identity": "user-0", "profileData": {"MSG-email": False}})

    send(sending, "email", {"Identity": ["user-0", "user-1"]})

    group = settled(sending)
    assert (group["audience"], group["sent"], group["suppressed"]) == (2, 1, 1)
    assert [message["address"] for message in sandbox.messages("smtp")] == ["user-1@example.com"]


@pytest.mark.parametrize(
    ("path", "number", "event"),
    [
        ("/track/clicked", "clicked", "Notification Clicked"),
        ("/track/viewed", "viewed", "Notification Viewed"),
    ],
    ids=["clicked", "viewed"],
)
def test_tracking(sending: Caller, sandbox: Sandbox, path: str, number: str, event: str) -> None:
    """A click or a view reported twice counts once, and can be asked for in a `where`."""
    sending.upload(*people(3, kinds=("fcm",)))
    campaign = sending.create(devices=["android"])
    sending.result(campaign)
    send(sending, "push", {"Identity": ["user-1"]})
    settled(sending)
    by_address: dict[str, list[str]] = {}
    for one in sandbox.messages("fcm"):
        by_address.setdefault(one["address"], []).append(one["body"]["message"]["data"]["wzrk_pid"])
    ids = by_address[token("fcm", "user-0")] + by_address[token("fcm", "user-1")]
    assert len(set(ids)) == 3

    for pid in ids * 2:
        assert sending.post(path, {"id": pid})[0] in {200, 202, 204}

    result = wait_for(lambda: _when(sending.result(campaign), number, 2))
    assert (result["sent"], result[number]) == (3, 2)
    assert wait_for(lambda: _when(groups(sending)["tag"], number, 1))["sent"] == 1
    where = {"event_name": event, "from": 20200101, "to": 20991231}

    def found() -> int | None:
        body = {"name": "n", "where": where, "content": CONTENT["push"], "devices": ["android"], "when": "now"}
        _, answer = sending.post(CREATE, body | {"estimate_only": True})
        return answer["estimates"]["android"] or None

    assert wait_for(found) == 2


def _when(numbers: dict[str, int], name: str, value: int) -> dict[str, int] | None:
    return numbers if numbers[name] >= value else None


@pytest.mark.parametrize(
    "body", [{}, {"id": ""}, {"id": 7}, {"id": "made-up"}, {"id": "A" * 27}, {"id": None}], ids=str
)
def test_tracking_of_nothing(sending: Caller, body: dict[str, Any]) -> None:
    """A click on a message that was never sent does no harm and counts nothing."""
    sending.upload(*people(1, kinds=("fcm",)))
    campaign = sending.create(devices=["android"])
    sending.result(campaign)

    status, _ = sending.post("/track/clicked", body)

    assert status < 500
    assert sending.result(campaign)["clicked"] == 0
