"""Who may use the dashboard: log-in, sessions, roles, several accounts, and what other sites and guessers cannot do."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable
from email import message_from_string, policy
from pathlib import Path
from urllib.parse import urlencode

import pytest
from click.testing import CliRunner
from conftest import ROOMY, Caller, Sandbox, Server, free_ports, wait_for
from sqlalchemy import Connection
from support.browser import FORM, HASHED, PASSWORD, Browser, join, unique

from tocsin.account import create_account
from tocsin.authenticator import Authenticator, audit, members, session, tickets
from tocsin.cli import tocsin
from tocsin.dashboard import MEMBER_PAGES
from tocsin.errors import Problem
from tocsin.store.ledger import Ledger, open_ledger

OPEN = ("/dashboard/login", "/dashboard/logout", "/dashboard/forgot", "/dashboard/ticket")


def test_log_in_and_out(server: Server, caller: Caller) -> None:
    """The cookie opens the pages until the log-out, which ends it on the server too."""
    browser = join(server, caller, "marketer", unique("ana", caller))
    cookie = browser.headers["Cookie"]
    status, page = browser.look("/dashboard/")
    assert (status, unique("ana", caller) in page) == (200, True)
    status, _, headers = browser.send("/dashboard/logout", {"token": browser.token()})
    assert (status, headers["location"]) == (303, "/dashboard/login")
    assert browser.look("/dashboard/", Cookie=cookie)[0] == 401


def test_the_cookie_is_out_of_reach(server: Server, caller: Caller) -> None:
    """No script reads it, no other site sends it, and behind TLS it is for https alone."""
    join(server, caller, "viewer", unique("ana", caller))
    fields = {"email": unique("ana", caller), "password": PASSWORD}
    plain = Browser(server.port).send("/dashboard/login", fields)[2]["set-cookie"].lower()
    assert {"httponly", "samesite=lax", "path=/"} <= {part.strip() for part in plain.split(";")}
    assert "secure" not in plain
    behind = Browser(server.port).send("/dashboard/login", fields, **{"X-Forwarded-Proto": "https"})[2]["set-cookie"]
    assert behind.startswith("__Host-tocsin_session=")
    assert "Secure" in behind


@pytest.mark.parametrize("email", ["ana", "nobody@example.com"])
def test_a_wrong_log_in_says_nothing(server: Server, caller: Caller, email: str) -> None:
    """One answer for a wrong password and for nobody; what was typed is kept, but for the password."""
    join(server, caller, "viewer", unique("ana", caller))
    given = unique("ana", caller) if email == "ana" else email
    status, page, headers = Browser(server.port).send("/dashboard/login", {"email": given, "password": "wrong guess"})
    assert (status, "set-cookie" in headers, "www-authenticate" in headers) == (401, False, False)
    assert "E-mail and password do not go together" in page
    assert f'value="{given}"' in page
    assert "wrong guess" not in page


@pytest.mark.parametrize(
    ("place", "led"),
    [
        ("/dashboard/campaigns/7", "/dashboard/campaigns/7"),
        ("https://evil.example/", "/dashboard/"),
        ("//evil.example", "/dashboard/"),
        ("/dashboard/\\evil", "/dashboard/"),
        ("/dashboard/\r\nSet-Cookie: a=b", "/dashboard/"),
    ],
)
def test_a_log_in_leads_back(server: Server, caller: Caller, place: str, led: str) -> None:
    """To the page that asked for it, never to another site."""
    join(server, caller, "viewer", unique("ana", caller))
    fields = {"email": unique("ana", caller), "password": PASSWORD, "next": place}
    assert Browser(server.port).send("/dashboard/login", fields)[2]["location"] == led


def test_forms_of_other_sites(server: Server, caller: Caller) -> None:
    """A form without the token, or that a browser says is another site's, changes nothing."""
    browser = join(server, caller, "marketer", unique("ana", caller))
    campaign = caller.create(when="20990101 00:00", skip_estimate=True)
    path, token = f"/dashboard/campaigns/{campaign}/stop", browser.token()
    for fields, headers in (
        ({}, {}),
        ({"token": "0" * 64}, {}),
        ({"token": token}, {"Sec-Fetch-Site": "cross-site"}),
        ({"token": token}, {"Sec-Fetch-Site": "same-site"}),
    ):
        assert browser.send(path, fields, **headers)[0] == 403
    lan = Browser(server.port, {"Cookie": browser.headers["Cookie"]})
    for origin, expected in (("http://evil.example", 403), (f"http://127.0.0.1:{server.port}", 303)):
        body = urlencode({"token": token}).encode()
        assert lan.call("POST", path, body, FORM | {"Origin": origin})[0] == expected


def test_roles(server: Server, caller: Caller) -> None:
    """A viewer is shown no button and is refused the address behind it; a passcode likewise."""
    viewer = join(server, caller, "viewer", unique("vic", caller))
    marketer = join(server, caller, "marketer", unique("mia", caller))
    campaign = caller.create(when="20990101 00:00", skip_estimate=True)
    path = f"/dashboard/campaigns/{campaign}"
    assert f'href="{path}/stop"' not in viewer.look(path)[1]
    status, page = viewer.look(f"{path}/stop")
    assert (status, "Only a marketer of this account may do that" in page) == (403, True)
    assert viewer.send(f"{path}/stop", {"token": viewer.token()})[0] == 403
    assert f'href="{path}/stop"' in marketer.look(path)[1]
    assert "Stop it" in marketer.look(f"{path}/stop")[1]
    assert marketer.send(f"{path}/stop", {"token": marketer.token()})[0] == 303
    assert "pill stopped" in marketer.look(path)[1]


def test_another_account(server: Server, caller: Caller) -> None:
    """Its campaigns are not there, its forms not taken, and who is in both switches between them."""
    other = server.account()
    foreign = other.create(name="Foreign", when="20990101 00:00", skip_estimate=True)
    browser = join(server, caller, "marketer", unique("ana", caller))
    token = browser.token()
    assert browser.look(f"/dashboard/campaigns/{foreign}")[0] == 404
    assert browser.send(f"/dashboard/campaigns/{foreign}/stop", {"token": token})[0] == 404
    assert browser.send("/dashboard/account", {"token": token, "account": other.account_id})[0] == 404
    join(server, other, "viewer", unique("ana", caller))
    assert browser.send("/dashboard/account", {"token": token, "account": other.account_id})[0] == 303
    assert "Foreign" in browser.look("/dashboard/")[1]
    assert browser.send("/dashboard/logout", {"token": token})[0] == 403  # a form of the account before


def test_pages_ask_for_a_log_in(server: Server, caller: Caller) -> None:
    """A browser is shown the form where it is; a passcode opens no page that changes anything."""
    join(server, caller, "viewer", unique("ana", caller))
    status, page, headers = Caller(server.port).call("GET", "/dashboard/", headers={"Sec-Fetch-Mode": "navigate"})
    assert (status, "www-authenticate" in headers) == (401, False)
    assert b'action="/dashboard/login"' in page
    for one in MEMBER_PAGES:
        if "POST" in one.handlers and one.path not in OPEN:
            path = one.path.replace("{campaign_id}", "1")
            assert Caller(server.port).call("POST", path, b"", FORM)[0] == 401


async def test_sessions_end(ledger: Ledger) -> None:
    """After rest, after a day, with a new password, and when somebody leaves the account."""
    account, _ = create_account(ledger, "ends", "UTC", 0.0)
    email = f"ana@{account.id.lower()}"

    def open_one() -> str:
        def work(connection: object) -> str:
            found = members.find_password(connection, email)  # type: ignore[arg-type]
            assert found is not None
            opened = session.open_session(connection, found[0], 1000.0)  # type: ignore[arg-type]
            assert opened is not None
            return opened[0]

        return ledger.write_now(work)

    def is_open(token: str, now: float) -> bool:
        return ledger.read_now(lambda connection: session.find_session(connection, token, now)) is not None

    ledger.write_now(lambda one: members.add_member(one, email, HASHED, account.id, "viewer", 0.0))
    token = open_one()
    assert is_open(token, 999.0 + session.IDLE_SECONDS)
    assert not is_open(token, 1000.0 + session.IDLE_SECONDS)
    for at in (20_000.0, 40_000.0, 60_000.0, 80_000.0):
        ledger.write_now(lambda one, at=at: session.touch_session(one, token, at))  # type: ignore[misc]
    assert is_open(token, 999.0 + session.LONGEST_SECONDS)
    assert not is_open(token, 1000.0 + session.LONGEST_SECONDS)
    assert not is_open(token[:-1], 1000.0)
    ledger.write_now(lambda one: members.set_password(one, email, HASHED, 1000.0))
    assert not is_open(token, 1000.0)
    token = open_one()
    assert ledger.write_now(lambda one: members.remove_member(one, email, account.id, 1000.0)) == 1
    assert not is_open(token, 1000.0)
    with ledger._reader.connect() as connection:
        assert token not in str(connection.exec_driver_sql("SELECT * FROM session").all())


async def test_guessing_is_slowed_down(ledger: Ledger) -> None:
    """After the limit of one minute nothing is looked at any more, of this person or from this address."""
    authenticator = Authenticator(ledger, 3)
    for _ in range(3):
        authenticator.check_pace("ana@example.com", "192.0.2.1", 1000.0)
        authenticator.refuse_password("ana@example.com", "192.0.2.1", 1000.0)
    for person, address in (("ana@example.com", "192.0.2.9"), ("eve@example.com", "192.0.2.1")):
        with pytest.raises(Problem) as slow:
            authenticator.check_pace(person, address, 1001.0)
        assert (slow.value.status, slow.value.retry_after) == (429, 59)
    authenticator.check_pace("eve@example.com", "192.0.2.9", 1001.0)
    authenticator.check_pace("ana@example.com", "192.0.2.1", 1061.0)


def test_commands(server: Server, caller: Caller) -> None:
    """A user is made, listed, given another password and removed; a password is printed once and stored nowhere."""
    runner, data = CliRunner(), ["--data", str(server.data)]
    email, place = unique("cli", caller), ["--account", caller.account_id]
    made = json.loads(runner.invoke(tocsin, ["user", "create", email.upper(), *place, *data]).stdout)
    assert (made["email"], made["role"]) == (email, "admin")
    assert Browser(server.port).log_in(email, made["password"]) == 303
    again = json.loads(runner.invoke(tocsin, ["user", "create", email, *place, "--role", "viewer", *data]).stdout)
    assert (again["role"], "password" in again) == ("viewer", False)
    listed = [json.loads(line) for line in runner.invoke(tocsin, ["user", "list", *place, *data]).stdout.splitlines()]
    assert [(one["email"], one["role"]) for one in listed] == [(email, "viewer")]
    given = runner.invoke(tocsin, ["user", "set-password", email, "--password-stdin", *data], input="another one\n")
    assert "password" not in json.loads(given.stdout)
    assert Browser(server.port).log_in(email, "another one") == 303
    short = runner.invoke(tocsin, ["user", "set-password", email, "--password-stdin", *data], input="short\n")
    assert "8 to 256 letters" in str(short.exception)
    assert json.loads(runner.invoke(tocsin, ["user", "remove", email, *data]).stdout)["removed_from"] == 1
    assert Browser(server.port).log_in(email, "another one") == 401
    kept = (Path(server.data) / "ledger.db").read_bytes()
    assert made["password"].encode() not in kept


async def test_the_log_is_bounded(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """By age and by number, for each account."""
    monkeypatch.setattr(audit, "MOST", 3)
    account, _ = create_account(ledger, "log", "UTC", 0.0)
    now = audit.KEPT_SECONDS + 1000.0

    def fill(connection: object) -> None:
        audit.note(connection, account.id, "ana", "logged in", "old", 1.0)  # type: ignore[arg-type]
        for number in range(5):
            audit.note(connection, account.id, "ana", "logged in", str(number), now)  # type: ignore[arg-type]

    ledger.write_now(fill)
    ledger.write_now(lambda one: audit.forget_old_deeds(one, now))
    kept = ledger.read_now(lambda one: audit.list_deeds(one, account.id, 10))
    assert [deed.detail for deed in kept] == ["4", "3", "2"]


def mailed(sandbox: Sandbox, to: str) -> list[str]:
    """The links that the relay took for an address, in order."""
    bodies = [one["body"] for one in sandbox.messages("smtp") if one["address"] == to]
    texts = [message_from_string(body, policy=policy.default).get_content() for body in bodies]
    return [re.findall(r"/dashboard/ticket\?ticket=[\w-]+", text)[0] for text in texts]


def test_links_by_mail(start_server: Callable[..., Server], sandbox: Sandbox, tmp_path: Path) -> None:
    """An invitation makes a member with a password of theirs; who forgot it chooses another; each link works once."""
    (tmp_path / "server").mkdir()
    with contextlib.closing(open_ledger(f"sqlite:///{tmp_path / 'server' / 'ledger.db'}")) as ledger:
        account, passcode = create_account(ledger, "Acme & co", "UTC", 1000.0)
    port = free_ports(1)
    settings = {"TOCSIN_MAIL_ACCOUNT": account.id, "TOCSIN_PUBLIC_URL": f"http://127.0.0.1:{port}"}
    server = start_server(tmp_path / "server", ROOMY | settings, port)
    caller = Caller(port, {"X-CleverTap-Account-Id": account.id, "X-CleverTap-Passcode": passcode})
    server.use_sandbox(caller, sandbox)
    admin, guest = join(server, caller, "admin", unique("ada", caller)), unique("gil", caller)
    path, token = "/dashboard/settings/members", admin.token()
    for wrong, field in (({"email": "gil", "role": "viewer"}, "email"), ({"email": guest, "role": "owner"}, "role")):
        status, page, _ = admin.send(path, {"token": token} | wrong)
        assert (status, f'id="{field}-mistake"' in page, f'value="{wrong["email"]}"' in page) == (422, True, True)
    assert "on its way" in admin.send(path, {"token": token, "email": guest, "role": "marketer"})[1]

    browser, [link] = Browser(port), mailed(sandbox, guest)
    assert guest in browser.look(link)[1]
    ticket = {"ticket": link.partition("=")[2]}
    short = browser.send("/dashboard/ticket", ticket | {"password": "short"})
    assert (short[0], "8 to 256 letters" in short[1]) == (422, True)
    elsewhere = {"Sec-Fetch-Site": "cross-site"}
    assert browser.send("/dashboard/ticket", ticket | {"password": PASSWORD}, **elsewhere)[0] == 403
    assert browser.send("/dashboard/ticket", ticket | {"password": PASSWORD})[0] == 303
    assert browser.log_in(guest) == 303
    assert browser.look("/dashboard/new")[0] == 200
    assert browser.send("/dashboard/ticket", ticket | {"password": "another one"})[0] == 404

    answers = [Browser(port).send("/dashboard/forgot", {"email": one})[:2] for one in (guest, "nobody@example.com")]
    assert answers[0] == answers[1]
    again = wait_for(lambda: mailed(sandbox, guest)[1:] or None)[0]
    assert mailed(sandbox, "nobody@example.com") == []
    chosen = {"ticket": again.partition("=")[2], "password": "new words"}
    assert Browser(port).send("/dashboard/ticket", chosen)[0] == 303
    assert browser.look("/dashboard/")[0] == 401  # sessions end
    assert (browser.log_in(guest), browser.log_in(guest, "new words")) == (401, 303)

    assert "on its way" in admin.send(path, {"token": token, "email": guest, "role": "admin"})[1]
    assert admin.send(f"{path}/remove", {"token": token, "email": unique("ada", caller)})[0] == 400
    assert admin.send(f"{path}/remove", {"token": token, "email": guest})[0] == 303
    assert admin.send(f"{path}/remove", {"token": token, "email": guest})[0] == 404
    assert browser.look(mailed(sandbox, guest)[2])[0] == 404  # taken out is out
    assert "on its way" in admin.send(path, {"token": token, "email": guest, "role": "viewer"})[1]
    page = admin.look("/dashboard/settings")[1]
    assert re.search(rf'id="link-table">.*{guest}.*<td>viewer</td><td>{unique("ada", caller)}</td>', page, re.DOTALL)
    given = {"token": token, "kind": "join", "email": guest}
    assert "on its way" in admin.send(f"{path}/links", given | {"do": "again"})[1]
    older, newer = mailed(sandbox, guest)[-2:]
    assert (browser.look(older)[0], browser.look(newer)[0]) == (404, 200)
    assert admin.send(f"{path}/links", given | {"do": "revoke"})[0] == 303
    assert browser.look(newer)[0] == 404
    for do in ("revoke", "again"):
        assert admin.send(f"{path}/links", given | {"do": do})[0] == 404
        assert admin.send(f"{path}/links", given | {"do": do, "kind": "pigeon"})[0] == 404
    Browser(port).send("/dashboard/forgot", {"email": unique("ada", caller)})
    wait_for(lambda: mailed(sandbox, unique("ada", caller)) or None)
    mine = {"token": token, "kind": "reset", "email": unique("ada", caller)}
    assert "on its way" in admin.send(f"{path}/links", mine | {"do": "again"})[1]
    assert admin.send(f"{path}/links", mine | {"do": "revoke"})[0] == 303
    assert [browser.look(one)[0] for one in mailed(sandbox, unique("ada", caller))] == [404, 404]
    log = admin.look("/dashboard/settings")[1]
    deeds = ["member invited", "member added", "password set", "log-in refused", "invitation sent again"]
    deeds += ["invitation revoked", "password link sent again", "password link revoked"]
    assert [words for words in deeds if words not in log] == []


def test_an_older_invitation_gives_no_role_back(ledger: Ledger) -> None:
    """Who has joined, or was given another role since, cannot be what an invitation from before says."""
    now, email = 1_000_000.0, "twice@example.com"
    account, other = (create_account(ledger, "invites", "UTC", now)[0].id for _ in range(2))

    def work(connection: Connection) -> None:
        older, first, third = (
            str(tickets.make_ticket(connection, "join", email, now, of, "admin")) for of in (account, account, other)
        )
        assert tickets.find_ticket(connection, older, now) is None
        assert tickets.use_ticket(connection, first, now) is not None
        members.add_member(connection, email, "hash", account, "admin", now)
        late = str(tickets.make_ticket(connection, "join", email, now, account, "admin"))
        members.add_member(connection, email, None, account, "viewer", now)
        assert tickets.use_ticket(connection, late, now) is None
        assert tickets.use_ticket(connection, third, now) is not None  # another account's

    ledger.write_now(work)


def test_open_links_are_listed(ledger: Ledger) -> None:
    """Of the account and of its members, with who invited, until they are used, ended, or another one is sent."""
    now, email = 1_000_000.0, "open@example.com"
    account, other = (create_account(ledger, "links", "UTC", now)[0].id for _ in range(2))

    def work(connection: Connection) -> None:
        def listed(of: str, at: float) -> list[tuple[str, str, str, str, float]]:
            found = tickets.list_open_tickets(connection, of, at)
            return [(one.kind, one.email, one.role, one.who, one.ends_at) for one in found]

        for role in ("viewer", "admin"):
            token = tickets.make_ticket(connection, "join", email, now, account, role, "ada")
        week = now + 7 * 86_400
        assert listed(account, now) == [("join", email, "admin", "ada", week)]
        assert (listed(account, week), listed(account, week + 1), listed(other, now)) == (listed(account, now), [], [])
        assert tickets.end_tickets(connection, "join", email, now, other) == 0
        assert tickets.use_ticket(connection, str(token), now) is not None
        assert listed(account, now) == []
        assert tickets.make_ticket(connection, "reset", email, now) is not None
        assert listed(account, now) == []  # nobody of this account
        members.add_member(connection, email, "hash", account, "viewer", now)
        assert listed(account, now) == [("reset", email, "viewer", "", now + 3600)]
        assert tickets.find_open_ticket(connection, other, "reset", email, now) is None
        assert tickets.end_tickets(connection, "reset", email, now) == 1
        assert listed(account, now) == []

    ledger.write_now(work)


async def test_tickets_end(ledger: Ledger) -> None:
    """By time and by use, and no more are made than there may be."""
    now = 1_000_000.0

    def work(connection: Connection) -> None:
        made = [tickets.make_ticket(connection, "reset", "t@example.com", now) for _ in range(4)]
        assert [one is None for one in made] == [False, False, False, True]
        older, first = str(made[1]), str(made[2])
        assert tickets.find_ticket(connection, first, now + 3600) is not None
        assert tickets.find_ticket(connection, first, now + 3601) is None
        assert tickets.find_ticket(connection, first + "x", now) is None
        assert tickets.use_ticket(connection, first, now) is not None
        assert tickets.use_ticket(connection, first, now) is None
        assert tickets.use_ticket(connection, older, now) is None  # a newer link ended it
        assert tickets.make_ticket(connection, "reset", "t@example.com", now + 3601) is not None
        tickets.forget_old_tickets(connection, now + 2 * tickets.KEPT_SECONDS)

    ledger.write_now(work)
    stored = ledger.read_now(lambda one: one.exec_driver_sql("SELECT count(*) FROM ticket").scalar())
    assert stored == 0
