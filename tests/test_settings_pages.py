"""Settings by forms: credentials are checked, asked of their vendor, kept and never shown; who may not, cannot."""

from __future__ import annotations

import asyncio
import contextlib
import html
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from conftest import SERVER_KEY, Caller, Sandbox, Server
from support.browser import Browser, join, unique
from support.counting_pool import CountingPool

from tocsin.dashboard.credentials import check_relay
from tocsin.dashboard.form_entry import FormMistake
from tocsin.policy import Cap, Conversion, load_policy, set_policy
from tocsin.providers.credential import find_settings
from tocsin.providers.keyring import sandbox_settings
from tocsin.store.ledger import open_ledger

PROVIDERS = "/dashboard/settings/providers"
VILLAIN = '"><script>alert(1)</script>'


@pytest.fixture
def admin(server: Server, caller: Caller) -> Browser:
    return join(server, caller, "admin", unique("ada", caller))


def save(browser: Browser, name: str, fields: dict[str, str]) -> tuple[int, str]:
    status, page, _ = browser.send(
        f"{PROVIDERS}/{name}", {"token": browser.token(), "do": "save", "unasked": "yes"} | fields
    )
    return status, html.unescape(page)


def given_by(sandbox: Sandbox) -> dict[str, dict[str, Any]]:
    return sandbox_settings(sandbox.control.get("/credentials")[1])


SMTP = {"host": "8.8.8.8", "port": "587", "tls": "starttls", "sender": "news@example.com", "username": "", "bounce": ""}
APNS = {"key_id": "ABCDEFGHIJ", "team_id": "KLMNOPQRST", "topic": "a.b", "endpoint": "https://api.push.apple.com"}


@pytest.mark.parametrize(
    ("name", "fields", "field", "says"),
    [
        ("fcm", {"service_account": ""}, "service_account", "is needed"),
        (
            "fcm",
            {"style": "sdk", "service_account": '{"project_info": {}}'},
            "service_account",
            "not a Google service account's",
        ),
        (
            "fcm",
            {"style": "sdk", "service_account": '{"token_uri": "https://169.254.169.254/"}'},
            "service_account",
            "token_uri in the service account is not Google's",
        ),
        (
            "fcm",
            {"style": "sdk", "service_account": '{"token_uri": "https://["}'},
            "service_account",
            "token_uri in the service account is not Google's",
        ),
        ("fcm", {"service_account": "{}", "style": VILLAIN}, "style", "one of those offered"),
        ("apns", APNS | {"key": "no key"}, "key", "not the .p8 file"),
        ("apns", APNS | {"key": "x", "key_id": "SHORT"}, "key_id", "has to be 10"),
        ("apns", APNS | {"key": "x", "topic": "a.b\r\nx: y"}, "topic", "holds something"),
        ("apns", APNS | {"key": "x", "endpoint": "https://evil.example"}, "endpoint", "one of those offered"),
        ("wns", {"client_id": VILLAIN, "client_secret": "s", "tenant": ""}, "tenant", "tenant is needed"),
        ("wns", {"client_id": "a", "client_secret": "s" * 20_001, "tenant": "t"}, "client_secret", "too long"),
        ("smtp", SMTP | {"port": "abc"}, "port", "port must be a whole number from 1 to 65535"),
        ("smtp", SMTP | {"port": "22"}, "port", "one of 25, 465, 587, 2525"),
        ("smtp", SMTP | {"host": "127.0.0.1"}, "host", "in the server's own network"),
        ("smtp", SMTP | {"host": "[::ffff:10.0.0.1]"}, "host", "in the server's own network"),
        ("smtp", SMTP | {"host": "[64:ff9b::a00:1]"}, "host", "in the server's own network"),
        ("smtp", SMTP | {"host": "[2002:7f00:1::1]"}, "host", "in the server's own network"),
        ("smtp", SMTP | {"host": "nobody.invalid"}, "host", "No such host"),
        ("smtp", SMTP | {"host": "a b"}, "host", "host has to be a name"),
        ("smtp", SMTP | {"sender": VILLAIN}, "sender", "sender has to be an address"),
        ("smtp", SMTP | {"tls": "none", "username": "u", "password": "p"}, "tls", "show the password"),
        ("vapid", {"subject": "ops@example.com"}, "subject", "mailto:"),
        ("sms", {"url": "ftp://8.8.8.8/", "secret": ""}, "url", "url has to be an https URL"),
        ("sms", {"url": "https://10.0.0.1/sms", "secret": ""}, "url", "in the server's own network"),
        ("sms", {"url": "http://127.0.0.1:1/sms", "secret": ""}, "url", "in the server's own network"),
        ("webpush", {"url": "https://[::ffff:7f00:1]/", "secret": ""}, "url", "in the server's own network"),
        ("webpush", {"url": "https://nobody.invalid/", "secret": ""}, "url", "No such host"),
        ("sms", {"url": "https://8.8.8.8/", "secret": "whsec_c2hvcnQ="}, "secret", "base64 of 24 to 64 bytes"),
    ],
)
def test_what_is_wrong_stands_beside_its_field(
    admin: Browser, name: str, fields: dict[str, str], field: str, says: str
) -> None:
    """What was typed is kept, but for secrets; nothing is stored."""
    status, page, _ = admin.send(
        f"{PROVIDERS}/{name}", {"token": admin.token(), "do": "save", "unasked": "yes"} | fields
    )
    assert status == 422
    assert f'id="{field}-mistake"' in page
    assert says in html.unescape(page)
    assert "<script>alert" not in page
    for key, value in fields.items():
        if key in ("service_account", "key", "client_secret", "password", "secret"):
            assert not value or len(value) < 4 or value not in page
        elif key not in ("style", "endpoint", "tls", "topic"):
            assert f'value="{html.escape(value).replace("&quot;", "&#34;")}"' in page, key
    assert "set on" not in admin.look("/dashboard/settings")[1]


async def test_names_are_looked_up_in_threads_of_their_own() -> None:
    """An account whose name server is silent holds up nothing else: what is sent is recorded in the loop's threads."""
    asyncio.get_running_loop().set_default_executor(pool := CountingPool())
    with pytest.raises(FormMistake):
        await check_relay("localhost", 25)
    assert pool.most == 0


def test_a_credential_is_kept_and_not_shown(server: Server, caller: Caller, admin: Browser) -> None:
    """A password is needed once; it stays for the same relay, and goes to no other one by itself."""
    status, page = save(admin, "smtp", SMTP | {"username": "ana", "password": "s3cret-word"})
    assert (status, "Saved." in page, "s3cret-word" in page) == (200, True, False)
    page = admin.look(f"{PROVIDERS}/smtp")[1]
    assert ('value="8.8.8.8"' in page, 'value="ana"' in page, "s3cret-word" in page) == (True, True, False)
    assert save(admin, "smtp", SMTP | {"username": "ana", "sender": "other@example.com"})[0] == 200
    status, page = save(admin, "smtp", SMTP | {"username": "ana", "host": "8.8.4.4"})
    assert (status, "Type the password again" in page) == (422, True)
    assert b"s3cret-word" not in (Path(server.data) / "ledger.db").read_bytes()
    with contextlib.closing(open_ledger(server.ledger_url)) as ledger:
        stored = ledger.read_now(lambda one: find_settings(one, caller.account_id, "smtp", SERVER_KEY))
    assert json.loads(stored or "")["network"] == "public", "its name leads into no private network later"
    assert "provider set" in admin.look("/dashboard/settings")[1]


def test_a_bad_key_does_not_replace_a_good_one(
    server: Server, sending: Caller, sandbox: Sandbox, admin: Browser
) -> None:
    """The vendor is asked first; its answer is explained, and may be overruled."""
    given = given_by(sandbox)
    fields = {"key_id": given["apns"]["team_id"], "team_id": given["apns"]["key_id"], "topic": given["apns"]["topic"]}
    asked = fields | {"endpoint": given["apns"]["endpoint"], "key": given["apns"]["key"], "unasked": ""}
    status, page = save(admin, "apns", asked)
    assert (status, "swapped" in page, "403 InvalidProviderToken" in page) == (422, True, True)
    checked = admin.send(f"{PROVIDERS}/apns", {"token": admin.token(), "do": "check"})
    assert (checked[0], "Apple takes this key" in checked[1] or "Too many requests" in checked[1]) in (
        (200, True),
        (422, True),
    )
    assert save(admin, "apns", asked | {"unasked": "yes"})[0] == 200


def test_a_key_for_browsers_is_made(admin: Browser, caller: Caller) -> None:
    status, page = save(admin, "vapid", {"subject": "mailto:ops@example.com", "unasked": ""})
    assert (status, "The key is well-formed" in page, "applicationServerKey" in page) == (200, True, True)
    public = page.split("applicationServerKey")[1].split('tabindex="0">')[1].split("<")[0]
    again = save(admin, "vapid", {"subject": "https://example.com"})[1]
    assert public in again


@pytest.mark.parametrize("name", ["sms", "webpush"])
def test_a_receiver_gets_a_secret_once(server: Server, caller: Caller, admin: Browser, name: str) -> None:
    """It is made where none is typed, shown once, and stays when the URL changes; no private network is posted to."""
    status, page = save(admin, name, {"url": "https://8.8.8.8/send", "secret": ""})
    assert (status, "Saved." in page) == (200, True)
    secret = re.findall(r"whsec_[A-Za-z0-9+/=]{44}", html.unescape(page))[0]
    assert secret not in html.unescape(admin.look(f"{PROVIDERS}/{name}")[1])
    assert "whsec_" not in save(admin, name, {"url": "https://8.8.4.4/send", "secret": ""})[1].replace("whsec_ and", "")
    stored = read_stored(server, caller, name)
    assert stored == stored | {
        "url": "https://8.8.4.4/send", "secret": secret, "network": "public"
    }  # fmt: skip


def test_a_secret_is_made_anew(server: Server, caller: Caller, admin: Browser) -> None:
    """By a button. A token in the URL is not shown, and stays when what is shown comes back."""
    save(admin, "sms", {"url": "https://8.8.8.8/a?token=s3cret-word", "secret": ""})
    status, page, _ = admin.send(f"{PROVIDERS}/sms", {"token": admin.token(), "do": "renew"})
    assert (status, len(re.findall(r"whsec_[A-Za-z0-9+/=]{44}", html.unescape(page)))) == (200, 1)
    shown = html.unescape(admin.look(f"{PROVIDERS}/sms")[1])
    [typed] = re.findall(r'value="(https://8\.8\.8\.8/[^"]*)"', shown)
    assert "s3cret-word" not in shown
    assert save(admin, "sms", {"url": typed, "secret": ""})[0] == 200
    assert read_stored(server, caller, "sms")["url"].endswith("?token=s3cret-word")
    status, page = save(admin, "sms", {"url": typed.replace("/a?", "/b?"), "secret": ""})
    assert (status, "Type the whole URL again" in page) == (422, True), "what is hidden is no token"
    log = admin.look("/dashboard/settings")[1]
    assert ("provider secret renewed" in log, "sms at 8.8.8.8" in log) == (True, True)


def test_the_sandbox_s_secret_signs_for_no_receiver(server: Server, sending: Caller, sandbox: Sandbox) -> None:
    """The sandbox tells it to whoever asks."""
    browser = join(server, sending, "admin", unique("sam", sending))
    save(browser, "sms", {"url": "https://8.8.8.8/send", "secret": ""})
    assert read_stored(server, sending, "sms")["secret"] != given_by(sandbox)["sms"]["secret"]


def test_browsers_are_not_lost_unsaid(admin: Browser) -> None:
    """A receiver replaces the key that browsers subscribed by: that is said before it is done."""
    save(admin, "vapid", {"subject": "mailto:ops@example.com"})
    status, page = save(admin, "webpush", {"url": "https://8.8.8.8/send", "secret": "", "unasked": ""})
    assert (status, "every browser that subscribed by it is lost" in page, 'name="unasked"' in page) == (
        422,
        True,
        True,
    )
    assert "applicationServerKey" in admin.look(f"{PROVIDERS}/vapid")[1]
    assert save(admin, "webpush", {"url": "https://8.8.8.8/send", "secret": ""})[0] == 200
    assert "applicationServerKey" not in admin.look(f"{PROVIDERS}/vapid")[1]
    status, page = save(admin, "vapid", {"subject": "mailto:ops@example.com", "unasked": ""})
    assert (status, "Its URL and its secret are deleted" in page) == (422, True)


def read_stored(server: Server, caller: Caller, name: str) -> dict[str, Any]:
    """A provider's settings as they are kept."""
    with contextlib.closing(open_ledger(server.ledger_url)) as ledger:
        stored = ledger.read_now(lambda one: find_settings(one, caller.account_id, name, SERVER_KEY))
    settings: dict[str, Any] = json.loads(stored or "{}")
    return settings


@pytest.mark.parametrize("role", ["viewer", "marketer"])
def test_only_admins(server: Server, caller: Caller, role: Any) -> None:
    browser = join(server, caller, role, unique("vic", caller))
    for path in (f"{PROVIDERS}/smtp", POLICIES, APPS):
        assert browser.look(path)[0] == 403
        assert browser.send(path, {"token": browser.token()} | SMTP)[0] == 403
        assert Caller(server.port).call("GET", path)[0] == 401


def test_forms_of_others_change_nothing(server: Server, caller: Caller, admin: Browser) -> None:
    """No token, another site's, and a provider that has no form."""
    assert admin.send(f"{PROVIDERS}/smtp", SMTP)[0] == 403
    token = admin.token()
    assert admin.send(f"{PROVIDERS}/smtp", SMTP | {"token": token}, **{"Sec-Fetch-Site": "cross-site"})[0] == 403
    for name in ("anything", "nothing", VILLAIN.replace("/", "")):
        status, page = admin.look(f"{PROVIDERS}/{quote(name)}")
        assert (status, "<script>" in page) == (404, False)
    assert json.dumps("set on") not in admin.look("/dashboard/settings")[1]


POLICIES, APPS = "/dashboard/settings/policies", "/dashboard/settings/apps"


@pytest.mark.parametrize(
    ("name", "fields", "field", "says"),
    [
        ("caps", {"push-most": "0"}, "push-most", "most must be a whole number from 1 to 10000, not 0"),
        ("caps", {"email-most": VILLAIN}, "email-most", "most must be a whole number"),
        ("caps", {"sms-most": "1", "sms-days": "1e999"}, "sms-days", "days must be"),
        ("dnd", {}, "monday", "No day has quiet hours"),
        ("dnd", {"tuesday": VILLAIN}, "tuesday", "Write it as 22:00-08:00"),
        ("dnd", {"sunday": "22:00-24:00"}, "sunday", "to must be a time of day"),
        ("dnd", {"monday": ",".join(["1:00-2:00"] * 9)}, "monday", "at most 8"),
        ("control", {"percent": "51"}, "percent", "percent must be a number from 0 to 50"),
        ("conversion", {"conversion_time": "1D"}, "event_name", "is needed"),
        ("conversion", {"event_name": "a", "conversion_time": "soon"}, "conversion_time", "conversion_time must be"),
        ("retention", {"days": "0"}, "days", "days must be a number from 1 to 3650"),
        ("apps", {"identities": "all"}, "identities", "one of those offered"),
    ],
)
def test_a_wrong_policy_is_not_kept(admin: Browser, name: str, fields: dict[str, str], field: str, says: str) -> None:
    asked = {"token": admin.token(), "policy": name, "do": "set"} | fields
    if name == "dnd":
        asked |= {"dnd_timezone": "user", "message_state": "delay"}
    status, page, _ = admin.send(POLICIES, asked)
    assert (status, f'id="{field}-mistake"' in page, says in html.unescape(page)) == (422, True, True)
    assert "<script>alert" not in page
    kept = fields[field] if field in fields and field != "identities" else ""
    assert f'value="{html.escape(kept).replace("&quot;", "&#34;")}"' in page


def test_policies_are_kept_and_taken_back(server: Server, caller: Caller, admin: Browser) -> None:
    """What the forms say is what the policy says, and the page shows it again."""
    token = admin.token()
    given: list[dict[str, str]] = [
        {"policy": "caps", "push-most": "3", "push-days": "7", "email-days": "1", "sms-throttle": "100"},
        {"policy": "dnd", "monday": "22:00 - 08:00, 12:00–13:30", "sunday": "0:00-0:00"}
        | {"dnd_timezone": "account", "message_state": "discard"},
        {"policy": "control", "percent": "2.5"},
        {"policy": "conversion", "event_name": "Charged", "revenue_property": "Amount"},
        {"policy": "retention", "days": "90"},
        {"policy": "apps", "identities": "trust"},
        {"policy": "tracking", "clicks": "yes"},
    ]
    for fields in given:
        assert admin.send(POLICIES, {"token": token, "do": "set"} | fields)[0] == 303
    with contextlib.closing(open_ledger(server.ledger_url)) as ledger:
        policy = ledger.read_now(lambda one: load_policy(one, caller.account_id))
        assert policy.caps == {"push": Cap(most=3, days=7), "sms": Cap(throttle=100)}
        assert policy.dnd is not None
        assert json.loads(msgspec.json.encode(policy.dnd)) == {
            "dnd_info": {
                "2": [{"from": "22:00", "to": "08:00"}, {"from": "12:00", "to": "13:30"}],
                "1": [{"from": "00:00", "to": "00:00"}],
            },
            "dnd_timezone": "account",
            "message_state": "discard",
        }
        assert (policy.control.percent, policy.retention.days, policy.apps.identities) == (2.5, 90, "trust")
        assert policy.conversion == Conversion(event_name="Charged", revenue_property="Amount")
        assert (policy.tracking.opens, policy.tracking.clicks) == (False, True)
        kept = '{"days": 3, "events": {"Viewed": 7}}'
        ledger.write_now(lambda one: set_policy(one, caller.account_id, "retention", kept, 1.0))
        assert admin.send(POLICIES, {"token": token, "do": "set"} | given[4])[0] == 303
        retention = ledger.read_now(lambda one: load_policy(one, caller.account_id)).retention
        assert (retention.days, retention.events) == (90, {"Viewed": 7})  # what the form does not show stays
        page = admin.look(POLICIES)[1]
        assert 'value="22:00-08:00, 12:00-13:30"' in page
        assert all(f'value="{value}"' in page for value in ("3", "7", "100", "2.5", "90", "Charged"))
        assert admin.send(POLICIES, {"token": token, "policy": "caps", "do": "clear"})[0] == 303
        assert ledger.read_now(lambda one: load_policy(one, caller.account_id)).caps == {}
    assert admin.send(POLICIES, {"token": token, "policy": "limits", "create_per_second": "99"})[0] == 404


def test_apps_are_made_and_removed(admin: Browser) -> None:
    token = admin.token()
    fields = {"token": token, "do": "add", "platforms": "ios"}
    for wrong, field in ((fields, "name"), (fields | {"name": "a", "sdk_id": "no id!"}, "sdk_id")):
        status, page, _ = admin.send(APPS, wrong)
        assert (status, f'id="{field}-mistake"' in page) == (422, True)
    assert admin.send(APPS, fields | {"name": VILLAIN, "app_token": "abc-123"})[0] == 303
    page = admin.look(APPS)[1]
    assert ("abc-123" in page, "<script>alert" in page) == (True, False)
    assert admin.send(APPS, {"token": token, "do": "remove", "name": "nobody's"})[0] == 404
    assert admin.send(APPS, {"token": token, "do": "remove", "name": VILLAIN})[0] == 303
    assert "abc-123" not in admin.look(APPS)[1]


def test_a_wrong_passcode_form_keeps_what_was_typed(admin: Browser) -> None:
    path, fields = "/dashboard/settings/passcodes", {"token": admin.token(), "do": "add"}
    for wrong, field in (
        ({"days": "3"}, "label"),
        ({"label": "a\nb"}, "label"),
        ({"label": VILLAIN, "days": "-1", "rights": "read"}, "days"),
        ({"label": "back", "days": "٣"}, "days"),
        ({"label": "back", "days": "3", "rights": "none"}, "rights"),
    ):
        status, page, _ = admin.send(path, fields | wrong)
        assert (status, f'id="{field}-mistake"' in page, "<script>alert" in page) == (422, True, False)
        assert f'value="{html.escape(wrong.get("days", "")).replace("&quot;", "&#34;")}"' in page
    assert "It is shown once" in admin.send(path, fields | {"label": "back", "days": "3", "rights": "read"})[1]
