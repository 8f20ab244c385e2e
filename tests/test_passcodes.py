"""Passcodes: what each right opens, on every route, and when one ends."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import Caller, Server

from tocsin.account import RIGHTS, Right, add_passcode, create_account, list_passcodes
from tocsin.api.endpoint import Endpoint
from tocsin.app import ENDPOINTS
from tocsin.authenticator import Authenticator
from tocsin.cli import tocsin
from tocsin.dashboard import MEMBER_PAGES
from tocsin.errors import Problem
from tocsin.store.ledger import Ledger, open_ledger

pytest_plugins = ("engines",)

REFERENCE = Path(__file__).parent.parent / "docs" / "reference.md"
# Nobody logs in there, or by the token of the data folder.
APPS = ("/a1", "/a", "/hello", "/inbox/v2/{action}")  # there an app names itself
OPEN = (
    "/healthz",
    "/metrics",
    "/track/",
    "/u/",
    "/o/",
    "/l/",
    "/bounces",
    "/local/",
    "/dashboard/static/",
    "/sdk/",
    "/openapi.json",
)
LOCKED = [
    one for one in ENDPOINTS if not one.path.startswith(OPEN) and one not in MEMBER_PAGES and one.path not in APPS
]
SOME = [tuple(some) for size in (1, 2) for some in itertools.combinations(RIGHTS, size)]


def add(server: Server, caller: Caller, rights: Sequence[Right], ends: float | None = None) -> Caller:
    """Somebody who calls with a passcode of these rights."""
    with contextlib.closing(open_ledger(server.ledger_url)) as ledger:
        code = add_passcode(ledger, caller.account_id, "some", time.time(), rights, ends)
    return Caller(caller.port, caller.headers | {"X-CleverTap-Passcode": code})


def ask(caller: Caller, endpoint: Endpoint) -> tuple[int, Any]:
    """The answer of a route to a body that is never good enough to do anything."""
    user, password = caller.account_id, caller.headers["X-CleverTap-Passcode"]
    basic = base64.b64encode(f"{user}:{password}".encode()).decode()
    method = "POST" if "POST" in endpoint.handlers else "GET"
    path = endpoint.path.replace("{campaign_id}", "1")
    status, value, _ = caller.call(
        method, path, b"[]" if method == "POST" else None, {"Authorization": f"Basic {basic}"}
    )
    return status, value


@pytest.mark.parametrize("rights", SOME, ids="+".join)
def test_a_right_opens_its_routes(server: Server, caller: Caller, rights: tuple[Right, ...]) -> None:
    """Each route is open to who has its right, and 403 with code and sentence to everybody else."""
    holder = add(server, caller, rights)
    for endpoint in LOCKED:
        status, value = ask(holder, endpoint)
        allowed = endpoint.right in rights or "all" in rights
        assert (status != 403) is allowed, endpoint.path
        assert status != 401, endpoint.path
        if status == 403 and isinstance(value, dict):
            assert value["code"] == 403
            assert value["error"].startswith(
                f"This passcode may not do that: the request needs the right {endpoint.right}"
            )


def test_a_route_without_a_right_needs_all_of_them() -> None:
    """A route that forgets to say which right it asks for is open to the fewest."""
    assert Endpoint("/new", {}).right == "all"
    assert {one.right for one in LOCKED} == set(RIGHTS) - {"all"}


def test_rights_are_documented() -> None:
    """The table of routes says which right each asks for, and «–» where nobody logs in."""
    rows = re.findall(r"^\| (`[A-Z].*?) \|.*\| (`\w+`|–) \|$", REFERENCE.read_text(), re.MULTILINE)
    said = {cell.rsplit(" ", 1)[1]: right for cells, right in rows for cell in re.findall(r"`([^`]+)`", cells)}
    rights = {one.path: f"`{one.right}`" if one in LOCKED else "–" for one in ENDPOINTS}
    rights["/dashboard"] = said["/dashboard"]  # only leads to the first page
    assert said == rights


def test_a_passcode_may_have_every_right(store: Ledger) -> None:
    """All rights at once fit into each ledger."""
    account, _ = create_account(store, "rights", "UTC", 1000.0)
    add_passcode(store, account.id, "every", 1000.0, RIGHTS)
    assert list_passcodes(store, account.id)[1].rights == ",".join(RIGHTS)


async def test_a_passcode_ends(ledger: Ledger) -> None:
    """It is good until its end and wrong from then on; one that does not end stays good."""
    account, forever = create_account(ledger, "ends", "UTC", 1000.0)
    short = add_passcode(ledger, account.id, "short", 1000.0, RIGHTS[2:3], 2000.0)
    authenticator = Authenticator(ledger)
    for now in (1000.0, 1999.9):
        assert (await authenticator.authenticate(account.id, short, now, "read")).id == account.id
    for now in (2000.0, 1e12):
        with pytest.raises(Problem, match="Invalid Credentials: this passcode has ended") as refused:
            await authenticator.authenticate(account.id, short, now, "read")
        assert (refused.value.status, refused.value.code) == (401, 401)
        assert (await authenticator.authenticate(account.id, forever, now, "read")).id == account.id


def test_commands_of_passcodes(server: Server, caller: Caller) -> None:
    """`add` says it once, `list` shows everything but the passcode, an ended one leaves room for another."""
    place = ["--account", caller.account_id, "--data", str(server.data)]
    runner = CliRunner()
    made = runner.invoke(
        tocsin,
        ["account", "passcode", "add", *place, "--label", "shop", "--right", "read", "--right", "send", "--days", "2"],
    )
    code = json.loads(made.stdout)["passcode"]
    listed = runner.invoke(tocsin, ["account", "passcode", "list", *place])
    first, shop = (json.loads(line) for line in listed.stdout.splitlines())
    assert (first["label"], first["rights"], first["expires_at"]) == ("first", ["all"], None)
    assert (shop["label"], shop["rights"], shop["revoked_at"]) == ("shop", ["send", "read"], None)
    assert shop["expires_at"] > shop["created_at"]
    assert code not in listed.stdout
    told = runner.invoke(tocsin, ["doctor", "--data", str(server.data)]).stdout
    assert f"{caller.account_id}: its passcode 'shop' ends at " in told
    assert "'first'" not in told
    refused = runner.invoke(tocsin, ["account", "passcode", "add", *place, "--label", "x", "--right", "everything"])
    assert refused.exit_code == 2
