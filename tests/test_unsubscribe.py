"""The link in every mail: asking changes nothing, the form unsubscribes once and for all (RFC 8058)."""

from __future__ import annotations

import asyncio
import http.client
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from conftest import Caller, Sandbox, Server, people
from hypothesis import given
from hypothesis import strategies as st
from support.bounces import SECRET, Post, mail_all

from tocsin.api.unsubscribe import FORM_BYTES, is_one_click
from tocsin.delivery.push_id import sign_push_id, unsubscribe_url
from tocsin.errors import Misconfigured, Problem
from tocsin.feedback.bounce_report import Recipient, Report
from tocsin.feedback.mail import LINK_DAYS, REPORT_DAYS
from tocsin.settings import read_settings
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

pytest_plugins = ("engines",)

FORM = {"Content-Type": "application/x-www-form-urlencoded"}
FOREIGN = sign_push_id(b"x" * 32, 1, 0, "unsubscribe")
ONE_CLICK = b"List-Unsubscribe=One-Click"
BROWSER = {"Accept": "text/html,application/xhtml+xml;q=0.9"}


def multipart(value: bytes = b"One-Click", name: bytes = b'"List-Unsubscribe"', boundary: bytes = b"x-7") -> bytes:
    head = b"--" + boundary + b"\r\nContent-Disposition: form-data; name=" + name + b"\r\n\r\n"
    return head + value + b"\r\n--" + boundary + b"--\r\n"


@pytest.mark.parametrize(
    ("kind", "body", "expected"),
    [
        ("application/x-www-form-urlencoded", ONE_CLICK, True),
        ("Application/X-WWW-Form-Urlencoded; charset=utf-8", b"a=b&List%2DUnsubscribe=One%2DClick", True),
        ('multipart/form-data; boundary="x-7"', multipart(), True),
        ("multipart/form-data; boundary=x-7", multipart(name=b"List-Unsubscribe"), True),
        ("multipart/form-data; boundary=x-7", b"preamble\r\n" + multipart(), True),
        ("multipart/form-data; boundary=x-8", multipart(), False),
        ("multipart/form-data; boundary=x-7", multipart(b"One-Clic"), False),
        ("multipart/form-data; boundary=x-7", multipart(name=b'"List-Unsubscribe-Post"'), False),
        ("multipart/form-data", multipart(), False),
        ("application/x-www-form-urlencoded", b"List-Unsubscribe=one-click", False),
        ("application/x-www-form-urlencoded", b"List-Unsubscribe=", False),
        ("application/x-www-form-urlencoded", b"", False),
        ("application/json", b'{"List-Unsubscribe": "One-Click"}', False),
        ("text/plain", ONE_CLICK, False),
        ("", ONE_CLICK, False),
    ],
)
def test_what_a_one_click_is(kind: str, body: bytes, expected: bool) -> None:
    """The one field with the one value, in the two types of forms."""
    assert is_one_click(kind, body) is expected


@given(st.text(max_size=80), st.binary(max_size=200))
def test_any_body_is_a_yes_or_a_no(kind: str, body: bytes) -> None:
    """Nothing anybody sends makes the reading fail."""
    for one in (kind, "multipart/form-data; boundary=" + kind, "application/x-www-form-urlencoded"):
        assert is_one_click(one, body) in (True, False)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("", ""),
        ("https://mail.example.com", "https://mail.example.com"),
        ("https://mail.example.com/", "https://mail.example.com"),
        ("https://mail.example.com:8443/tocsin/", "https://mail.example.com:8443/tocsin"),
        ("http://127.0.0.1:8100", "http://127.0.0.1:8100"),
        ("http://localhost:8100", "http://localhost:8100"),
        ("http://[::1]:8100", "http://[::1]:8100"),
    ],
)
def test_public_urls(given: str, expected: str) -> None:
    """https to the world, http to this machine; the link is made of it, and without it there is none."""
    found = read_settings({"TOCSIN_PUBLIC_URL": given}, Path("d")).public_url
    assert found == expected
    assert unsubscribe_url(found, "ID") == (f"{expected}/u/ID" if expected else "")


@pytest.mark.parametrize(
    "given",
    [
        *("http://mail.example.com", "mail.example.com", "ftp://mail.example.com", "https://", "https:///u", " "),
        *("https://a b.example.com", "https://a.example.com/\r\nBcc: x", "https://a.example.com/>", "https://[::1"),
        *("https://a.example.com?x=1", "https://a.example.com#x", "https://user:pass@a.example.com"),
        *("https://a.example.com:port", "https://a.example.com:99999", "https://a,b", "https://ä.example.com"),
        *("http://127.0.0.1.example.com", "http://localhost.example.com", "https://a/" + "x" * 300),
    ],
)
def test_urls_that_stop_the_start(given: str) -> None:
    with pytest.raises(Misconfigured, match="TOCSIN_PUBLIC_URL has to be an https URL"):
        read_settings({"TOCSIN_PUBLIC_URL": given}, Path("d"))


@pytest.fixture
def post(store: Ledger, facts: Facts) -> Post:
    return Post(store, facts)


async def test_unsubscribing_a_hundred_times(post: Post) -> None:
    """In turn and all at once: one event at the first time, and consent as an upload would have set it."""
    await post.move_in("u", "u@example.com")
    [mail] = post.mail(1)
    assert await post.reach() == 1
    await asyncio.gather(*(post.feedback.unsubscribe(mail, post.now + number) for number in range(50)))
    for number in range(50):
        await post.feedback.unsubscribe(mail, post.now + 100 + number)
    assert await post.reach() == 2
    [event] = await post.events("Channel Unsubscribed")
    assert event == {
        **{"Campaign ID": 9, "Campaign Type": "Email", "Group": "", "Identity": "u@example.com"},
        **{"Variant": "default", "Subscription Type": "profile", "Reason": "one-click unsubscribe"},
    }


async def test_back_and_away_again(post: Post) -> None:
    """The link of a mail from before somebody came back leaves them in and says why; a later mail's takes them off."""
    await post.move_in("u", "u@example.com")
    first, later = post.mail(1)[0], post.mail(1)[0]
    post.close(first, post.now + 10)
    await post.feedback.unsubscribe(first, post.now + 20)
    await post.feedback.unsubscribe(first, post.now + 21)
    assert (await post.reach(), len(await post.events("Channel Unsubscribed"))) == (2, 1)
    post.now += 100
    await post.upload({"type": "profile", "identity": "u", "profileData": {"MSG-email": True}})
    for ask in (post.feedback.unsubscribe, post.feedback.find_link):
        with pytest.raises(Problem, match="subscribed again") as refused:
            await ask(first, post.now + 1)
        assert refused.value.status == 410
    assert (await post.reach(), len(await post.events("Channel Unsubscribed"))) == (1, 1)
    await post.feedback.unsubscribe(later, post.now + 2)
    assert (await post.reach(), len(await post.events("Channel Unsubscribed"))) == (2, 2)
    await post.feedback.unsubscribe(first, post.now + 3)  # who is gone is gone
    assert (await post.reach(), len(await post.events("Channel Unsubscribed"))) == (2, 2)


async def test_a_yes_every_night_ends_no_link(post: Post) -> None:
    """Only who had left can come back: a source that says «yes» again and again is no news."""
    await post.move_in("u", "u@example.com")
    mail = post.mail(1)[0]
    post.close(mail, post.now)
    post.now += 100
    for _ in range(2):
        await post.upload({"type": "profile", "identity": "u", "profileData": {"MSG-email": True}})
    await post.feedback.unsubscribe(mail, post.now)
    assert await post.reach() == 2


async def test_a_complaint_counts_whoever_came_back(post: Post) -> None:
    """Spam is what the recipient says it is, of an earlier mail too."""
    await post.move_in("u", "u@example.com")
    mail = post.mail(1)[0]
    post.close(mail, post.now)
    for wanted in (False, True):
        post.now += 100
        await post.upload({"type": "profile", "identity": "u", "profileData": {"MSG-email": wanted}})
    complaint = Report("complaint", (mail,), feedback="abuse")
    assert (await post.feedback.take_report(complaint, post.now)).suppressed
    assert await post.reach() == 2


async def test_a_link_ends_with_its_years(post: Post) -> None:
    """Three years after its mail a link is 410, a day before it works; so do reports with their 90 days."""
    await post.move_in("u", "u@example.com")
    old, mail = post.mail(1)[0], post.mail(1)[0]
    for one in (old, mail):
        post.close(one, post.now)
    bounce = Report("bounce", (old,), (Recipient("u@example.com", "failed", "5.1.1", "", "hard"),))
    for days, ask in (
        (LINK_DAYS, lambda now: post.feedback.unsubscribe(old, now)),
        (REPORT_DAYS, lambda now: post.feedback.take_report(bounce, now)),
    ):
        with pytest.raises(Problem, match="has ended") as refused:
            await ask(post.now + (days + 1) * 86_400)
        assert refused.value.status == 410
    await post.feedback.unsubscribe(mail, post.now + (LINK_DAYS - 1) * 86_400)
    assert await post.reach() == 2


async def test_a_crash_between_the_stores(post: Post) -> None:
    """When facts could not be written, the link used again does the rest."""
    await post.move_in("u", "u@example.com")
    [mail] = post.mail(1)
    name = f"refused_{post.account.id.replace('-', '_')}"
    for table, column in (("profile", "email = 2"), ("event", "name = 'Channel Unsubscribed'")):
        mine = f"account = '{post.account.id}' AND {column}"
        post.facts.command_now(f"ALTER TABLE {table} ADD CONSTRAINT {name} CHECK NOT ({mine})")
        try:
            with pytest.raises(Exception, match="VIOLATED_CONSTRAINT"):
                await post.feedback.unsubscribe(mail, post.now)
        finally:
            post.facts.command_now(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
    await post.feedback.unsubscribe(mail, post.now)
    assert (await post.reach(), len(await post.events("Channel Unsubscribed"))) == (2, 1)


async def test_only_mails_have_a_link(post: Post) -> None:
    """An id of a push, of nobody, of a place that is not there or of another server is 404."""
    await post.move_in("u", "u@example.com")
    push, nobody = post.mail(1, channel="push")[0], post.mail(0)[0]
    for one in (push, nobody, sign_push_id(SECRET, 10**9, 0, "unsubscribe"), FOREIGN, "", "A" * 27):
        with pytest.raises(Problem, match="not the id of a mail") as raised:
            await post.feedback.unsubscribe(one, post.now)
        assert raised.value.status == 404
    assert await post.reach() == 1


class Form(HTMLParser):
    """What a browser would send when the button of a page is pressed, and what a reader of the page is told."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


@pytest.fixture
def link(server: Server, sending: Caller, sandbox: Sandbox) -> str:
    """Where the second of two mails leads that the sandbox received."""
    sending.upload(*people(2, kinds=("fcm",)))
    result, ids = mail_all(server, sending)
    assert (result["sent"], len(sandbox.messages("smtp"))) == (2, 2)
    return f"/u/{ids[1]}"


def reached(sending: Caller) -> int:
    """How many people an e-mail would reach, by the facts store."""
    body = {"name": "n", "where": {}, "content": {"subject": "s", "body": "b", "sender_name": "T"}, "when": "now"}
    answer = sending.post("/1/targets/create.json", body | {"target_mode": "email", "estimate_only": True})[1]
    return int(answer["estimates"]["web"])


def test_the_page_asks(server: Server, sending: Caller, link: str) -> None:
    """GET and HEAD, however often, change nothing; the page has one button, whose form says what RFC 8058 asks."""
    browser = Caller(server.port, BROWSER)
    for _ in range(5):
        status, page, headers = browser.call("GET", link)
        assert browser.call("HEAD", link)[:2] == (200, b"")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert reached(sending) == 2
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "form-action 'self'" in policy
    assert "unsafe" not in policy
    assert not {"set-cookie", "location"} & set(headers)
    assert (headers["cache-control"], headers["referrer-policy"]) == ("no-store", "no-referrer")
    form = Form(page.decode())
    assert form.all("form") == [{"method": "post"}]
    assert form.all("input") == [{"type": "hidden", "name": "List-Unsubscribe", "value": "One-Click"}]
    assert form.all("button") == [{"type": "submit"}]
    assert form.all("html") == [{"lang": "en"}]
    assert len(form.all("h1")) == len(form.all("main")) == len(form.all("title")) == 1
    assert form.all("script") == form.all("img") == form.all("link") == []
    assert b"example.com" not in page, "whoever has the link need not learn whose it is"


@pytest.mark.parametrize(
    ("headers", "body"),
    [(FORM, ONE_CLICK), ({"Content-Type": "multipart/form-data; boundary=x-7"}, multipart())],
    ids=["urlencoded", "multipart"],
)
def test_one_click(server: Server, sending: Caller, sandbox: Sandbox, link: str, headers: Any, body: bytes) -> None:
    """The mail program's request, again and again: no more mail of any kind, a push still comes, one event."""
    program = Caller(server.port)
    for _ in range(10):
        status, _, answered = program.call("POST", link, body, headers)
        assert (status, {"set-cookie", "location"} & set(answered)) == (200, set())
    assert reached(sending) == 1
    sandbox.clear()
    result, _ = mail_all(server, sending)
    assert (result["sent"], result["suppressed"]) == (1, 1)
    assert [one["address"] for one in sandbox.messages("smtp")] == ["user-0@example.com"]
    where = {"event_name": "Channel Unsubscribed", "from": "yesterday", "to": "today", "operator": "equals", "value": 1}
    pushed = sending.result(sending.create(where=where, devices=["android"]))
    assert (pushed["audience"], pushed["sent"]) == (1, 1)


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (FORM, b""),
        (FORM, b"List-Unsubscribe=Yes"),
        ({"Content-Type": "application/json"}, b'{"List-Unsubscribe": "One-Click"}'),
        ({"Content-Type": "text/plain"}, ONE_CLICK),
    ],
    ids=["empty", "yes", "json", "text"],
)
def test_other_bodies_are_refused(server: Server, sending: Caller, link: str, headers: Any, body: bytes) -> None:
    status, answer, _ = Caller(server.port).call("POST", link, body, headers)
    assert (status, answer["code"], "RFC 8058" in answer["error"]) == (400, 400, True)
    assert reached(sending) == 2


@pytest.mark.parametrize("path", ["/u/made-up", "/u/" + "A" * 27, "/u/%00", "/u/%C3%A9", "/u/" + "A" * 3000])
@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
def test_links_that_lead_nowhere(server: Server, method: str, path: str) -> None:
    """404 with one sentence, as a page for people and in the shape of errors for programs."""
    body = ONE_CLICK if method == "POST" else None
    status, page, headers = Caller(server.port, BROWSER).call(method, path, body, FORM)
    assert (status, headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert method == "HEAD" or b"This is not the id of a mail this server sent." in page
    if method != "HEAD":
        assert Caller(server.port).call(method, path, body, FORM)[1]["code"] == 404


def test_a_push_has_no_link(server: Server, sending: Caller, sandbox: Sandbox) -> None:
    """The `wzrk_pid` of a push, which its app knows, unsubscribes nobody."""
    sending.upload(*people(1, kinds=("fcm",)))
    sending.result(sending.create(devices=["android"]))
    push_id = sandbox.messages("fcm")[0]["body"]["message"]["data"]["wzrk_pid"]
    for method in ("GET", "POST"):
        assert Caller(server.port).call(method, f"/u/{push_id}", ONE_CLICK, FORM)[0] == 404
    assert reached(sending) == 1


def test_a_body_without_end(server: Server, link: str) -> None:
    """More than a form needs is 413 and stays out of memory."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("POST", link, b"x" * (FORM_BYTES + 1), FORM)
    reply = connection.getresponse()
    reply.read()
    connection.close()
    assert reply.status == 413
