"""Members of an account at a browser, without one: cookies and forms over plain HTTP."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Mapping
from urllib.parse import urlencode

from conftest import Caller, Server

from tocsin.authenticator.members import Role, add_member
from tocsin.authenticator.password import hash_password
from tocsin.store.ledger import open_ledger

PASSWORD = "correct horse"
HASHED = hash_password(PASSWORD)
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


class Browser(Caller):
    """Somebody at a browser: keeps the cookie and says whence a form comes."""

    def look(self, path: str, **headers: str) -> tuple[int, str]:
        status, page, _ = self.call("GET", path, headers=headers)
        return status, page.decode() if isinstance(page, bytes) else json.dumps(page)

    def send(self, path: str, fields: Mapping[str, str], **headers: str) -> tuple[int, str, Mapping[str, str]]:
        """Posts a form; with the token of the first page when there is none in the fields."""
        body = urlencode(fields).encode()
        status, page, got = self.call("POST", path, body, FORM | {"Sec-Fetch-Site": "same-origin"} | headers)
        if "set-cookie" in got:
            self.headers["Cookie"] = got["set-cookie"].split(";")[0]
        return status, page.decode() if isinstance(page, bytes) else json.dumps(page), got

    def token(self) -> str:
        """The token of this session's forms."""
        found = re.search(r'name="token" value="(\w+)"', self.look("/dashboard/")[1])
        assert found is not None
        return found[1]

    def log_in(self, email: str, password: str = PASSWORD) -> int:
        return self.send("/dashboard/login", {"email": email, "password": password})[0]


def join(server: Server, caller: Caller, role: Role, email: str) -> Browser:
    """A browser in which a new member of the account has logged in."""
    with contextlib.closing(open_ledger(server.ledger_url)) as ledger:
        ledger.write_now(lambda one: add_member(one, email, HASHED, caller.account_id, role, time.time()))
    browser = Browser(server.port)
    assert browser.log_in(email) == 303
    return browser


def unique(name: str, caller: Caller) -> str:
    """An address that nobody else's account has."""
    return f"{name}@{caller.account_id.lower()}.example"
