"""Small doors that stay shut: headers of answers, browsers' endpoints, reply addresses, signatures, loopback, pages."""

from __future__ import annotations

import re
from typing import Any

import pytest
import structlog.testing
from conftest import Caller, Sandbox, Server
from support.signatures import RSA_KEY, pem_of, verify

from tocsin.api.endpoint import Endpoint
from tocsin.app import ENDPOINTS
from tocsin.cli.processes import warn_of_clear_text
from tocsin.content.mail import is_mailbox
from tocsin.errors import Misconfigured
from tocsin.ingest.push_service import is_push_service
from tocsin.providers.answer_table import check_endpoint
from tocsin.providers.contract import Address, Mail
from tocsin.providers.http.transfer import is_loopback
from tocsin.providers.mail import mime
from tocsin.providers.mail.dkim import COVERED, DkimSigner

SCRAPED = "/dashboard/static/{name}"  # the style sheet is nobody's secret


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.path)
def test_no_answer_is_kept_or_guessed_at(server: Server, caller: Caller, endpoint: Endpoint) -> None:
    """Whatever is asked, with and without credentials, right or wrong: no cache keeps it and no browser sniffs it."""
    path = re.sub(r"{\w+}", "nobody", endpoint.path)
    for one in (Caller(server.port), caller):
        for method in ("GET", "POST", "OPTIONS", "DELETE"):
            _, _, headers = one.call(method, path, b"{}" if method == "POST" else None)
            assert headers["x-content-type-options"] == "nosniff", method
            if (endpoint.path, method) == ("/openapi.json", "GET"):  # the same for everybody
                assert headers["cache-control"].startswith("public"), method
            elif endpoint.path != "/dashboard":  # a redirect, which says nothing
                assert headers["cache-control"] == "no-store", method


def test_what_nobody_has_is_not_kept_either(server: Server, caller: Caller) -> None:
    """A 404 of the server itself, and answers to requests that were done."""
    caller.upload({"type": "profile", "identity": "u", "profileData": {"Name": "Ann"}})
    send = {"to": {"Identity": ["u"]}, "content": {"title": "t", "body": "b"}}
    for method, path, body in (
        ("GET", "/nothing/here", None),
        ("GET", "/1/labels.json", None),
        ("POST", "/1/upload", {"d": []}),
        ("POST", "/1/send/push.json", send),
    ):
        _, _, headers = caller.call(method, path, body)
        assert (headers["cache-control"], headers["x-content-type-options"]) == ("no-store", "nosniff"), path


@pytest.mark.parametrize(
    ("endpoint", "good"),
    [
        ("https://fcm.googleapis.com/fcm/send/abc:APA91b", True),
        ("https://updates.push.services.mozilla.com/wpush/v2/gAAAA", True),
        ("https://web.push.apple.com:443/QGuQyavXutnMH", True),
        ("HTTPS://Web.Push.Apple.com/Q", True),
        ("http://push.example.com/x", False),
        ("file:///etc/passwd", False),
        ("https://169.254.169.254/latest/meta-data", False),
        ("https://[::1]/x", False),
        ("https://127.0.0.1/x", False),
        ("https://2130706433/x", False),
        ("https://0x7f000001/x", False),
        ("https://127.0.0.0x1/x", False),
        ("https://127.1/x", False),
        ("https://localhost/x", False),
        ("https://a.localhost/x", False),
        ("https://push.example.com:8443/x", False),
        ("https://push.example.com:port/x", False),
        ("https://u:p@push.example.com/x", False),
        ("https://push.example.com\\@evil.example/x", False),
        ("https://push..example.com/x", False),
        ("https:///x", False),
        ("fcm-token-of-another-kind", False),
    ],
)
def test_where_browsers_are_written_to(caller: Caller, endpoint: str, good: bool) -> None:
    """An https URL at a host name and the usual port; anything else could be inside the operator's network."""
    assert is_push_service(endpoint) is good
    keys = {"p256dh": "BPublic", "auth": "secret"}
    token = {"id": endpoint, "type": "chrome", "keys": keys}
    answer = caller.post("/1/upload", {"d": [{"type": "token", "objectId": "b", "tokenData": token}]})[1]
    assert (answer["processed"], [one["code"] for one in answer["unprocessed"]]) == ((1, []) if good else (0, [535]))


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("shop@example.com", True),
        ("Shop <shop@example.com>", True),
        ('"Shop, the" <shop@example.com>', True),
        ("Jörg <shop@example.com>", True),
        ('Joe "x <a@b>', False),
        ("Joe", False),
        ("Joe <>", False),
        ("shop@example.com, evil@example.org", False),
        ("shop@example.com\x0b", False),
        ("shop@", False),
        ("{{ Profile.Email }}", False),
    ],
)
def test_where_replies_go(sending: Caller, text: str, good: bool) -> None:
    """One address, with a name or without; anything else is refused with its place when the mail is asked for."""
    assert is_mailbox(text) is good
    content = {"subject": "s", "body": "b", "sender_name": "Shop", "reply_to": text}
    status, answer = sending.post("/1/send/email.json", {"to": {"Identity": ["nobody"]}, "content": content})
    assert (status, "at $.content.reply_to" in str(answer)) == ((200, False) if good else (400, True))


@pytest.mark.parametrize(
    "field", ["Reply-To: a@evil.example", "List-Unsubscribe: <https://evil.example/>", "Date: now"]
)
@pytest.mark.parametrize("there", [True, False], ids=["second", "first"])
async def test_no_field_can_be_added(field: str, there: bool) -> None:
    """A mail that is sent on with one more field that the signature covers is no longer signed."""
    mine: dict[str, Any] = {"reply_to": "a@example.com", "unsubscribe": "https://m.example.com/u/x"} if there else {}
    message = Mail(
        id="6f9619ff-8b86-4011-b42d-00c04fc964ff",
        campaign="1_20270115",
        address=Address("email", "u@example.com"),
        subject="Hi",
        text="there",
        **mine,
    )
    letter = mime.write(message, "news@example.com", 1_700_000_000.0)
    raw = await DkimSigner("example.com", "s1", pem_of(RSA_KEY)).sign(letter, 1_700_000_000.0)
    assert verify(raw, "rsa")
    assert not verify(field.encode() + b"\r\n" + raw, "rsa")
    [named] = re.findall(rb"\sh=([^;]+);", raw)
    names = re.sub(rb"\s", b"", named).decode().split(":")
    present = {one.partition(":")[0].lower() for one in letter.fields} & set(COVERED)
    assert {name: names.count(name) for name in COVERED} == {name: 1 + (name in present) for name in COVERED}
    assert max(map(len, raw.split(b"\r\n"))) < 998


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://127.0.0.1", True),
        ("http://127.0.0.1:8200/x", True),
        ("http://localhost:1/", True),
        ("http://[::1]:8200/x", True),
        ("http://127.0.0.1:80@elsewhere.example/", False),
        ("http://localhost@elsewhere.example/", False),
        ("http://127.0.0.1.example.com/", False),
        ("http://localhost.example.com", False),
        ("http://127.0.0.1:x/", False),
        ("https://127.0.0.1/", False),
        ("ftp://127.0.0.1/", False),
        ("", False),
    ],
)
def test_what_is_this_machine(url: str, here: bool) -> None:
    """The host that the URL leads to decides, and not how it begins."""
    assert is_loopback(url) is here
    if not here and url.startswith("http:"):
        with pytest.raises(Misconfigured):
            check_endpoint("url", url)


@pytest.mark.parametrize(
    ("host", "warned"), [("127.0.0.1", 0), ("localhost", 0), ("::1", 0), ("0.0.0.0", 1), ("::", 1), ("192.0.2.1", 1)]
)
def test_a_server_that_others_reach_says_so(host: str, warned: int) -> None:
    """One warning that passcodes travel in the clear, and none on loopback."""
    with structlog.testing.capture_logs() as lines:
        warn_of_clear_text(host)
    assert len([one for one in lines if "passcodes travel in the clear" in one["event"]]) == warned


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/credentials", None),
        ("POST", "/faults", {"vendor": "fcm", "kind": "cut"}),
        ("DELETE", "/messages", None),
        ("DELETE", "/tokens", None),
    ],
)
def test_no_page_controls_the_sandbox(sandbox: Sandbox, method: str, path: str, body: Any) -> None:
    """What a web page sends carries an Origin, and is answered 403 without effect."""
    status, answer, _ = sandbox.control.call(method, path, body, {"Origin": "https://evil.example"})
    assert (status, answer) == (403, {"error": "A web page may not ask this."})
    assert sandbox.control.get("/faults")[1] == {"faults": []}
