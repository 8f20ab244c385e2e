"""Whether a vendor takes a credential: asked of the sandbox, said in words, and nobody got a message."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import Caller, Sandbox, Server, free_ports, wait_for
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tocsin.cli import tocsin
from tocsin.cli.processes import run_sandbox
from tocsin.errors import Misconfigured
from tocsin.providers.credential_check import check_credential
from tocsin.providers.keyring import ask_sandbox, read_given, sandbox_settings


@pytest.fixture
def given(sandbox: Sandbox) -> dict[str, dict[str, Any]]:
    """Settings for every provider that work."""
    return sandbox_settings(sandbox.control.get("/credentials")[1])


def other_key() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@pytest.mark.parametrize("name", ["fcm", "apns", "wns", "smtp", "vapid"])
async def test_a_good_one_is_accepted(sandbox: Sandbox, given: dict[str, dict[str, Any]], name: str) -> None:
    found = await check_credential(name, read_given(name, given[name]), time.time())
    assert (found.verdict, bool(found.sentence)) == ("accepted", True), found
    accepted = [one for vendor in ("fcm", "apns", "smtp") for one in sandbox.messages(vendor)]
    assert [one for one in accepted if one["campaign"] == "check"] == []


@pytest.mark.parametrize(
    ("name", "changed", "verdict", "says"),
    [
        ("fcm", {"private_key_id": "0" * 40}, "refused", "new key"),
        ("fcm", {"project_id": "nobodys"}, "refused", "project"),
        ("apns", {"key": "other"}, "refused", "swapped"),
        ("apns", {"swap": True}, "refused", "swapped"),
        ("apns", {"topic": "com.example.other"}, "refused", "bundle id"),
        ("wns", {"client_secret": "wrong"}, "refused", "secret"),
        ("smtp", {"password": "wrong"}, "refused", "password"),
        ("smtp", {"ca": ""}, "refused", "certificate"),
        ("smtp", {"port": 0}, "open", "check host and port"),
        ("sms", {}, "open", "webhooks"),
    ],
)
async def test_a_wrong_one_is_explained(
    given: dict[str, dict[str, Any]], name: str, changed: dict[str, Any], verdict: str, says: str
) -> None:
    """Who has the credential is told what to change."""
    settings = given[name] | {key: value for key, value in changed.items() if key != "swap"}
    if name == "fcm":
        account = json.loads(given[name]["service_account"]) | changed
        settings = given[name] | {"service_account": json.dumps(account)}
    if changed.get("key"):
        settings["key"] = other_key()
    if changed.get("swap"):
        settings |= {"key_id": given[name]["team_id"], "team_id": given[name]["key_id"]}
    if changed.get("port") == 0:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            settings["port"] = taken.getsockname()[1]  # nobody listens there
    found = await check_credential(name, read_given(name, settings), time.time())
    assert (found.verdict, says in found.sentence) == (verdict, True), found


async def test_a_silent_vendor_is_not_waited_for(given: dict[str, dict[str, Any]]) -> None:
    """An address that takes connections and says nothing costs the time that was given."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        settings = given["smtp"] | {"port": silent.getsockname()[1]}
        began = time.monotonic()
        found = await check_credential("smtp", read_given("smtp", settings), time.time(), seconds=0.2)
    assert (found.verdict, found.code) == ("open", "timed out")
    assert time.monotonic() - began < 5


def test_ids_of_apple_have_ten_characters(given: dict[str, dict[str, Any]]) -> None:
    for field in ("key_id", "team_id"):
        with pytest.raises(Misconfigured, match=f"^{field} has to be 10"):
            read_given("apns", given["apns"] | {field: "SHORT"})


def test_no_sandbox(sandbox: Sandbox) -> None:
    """Nothing, or something else, on the port is said in a sentence."""
    for port in (1, sandbox.port + 1):
        with pytest.raises(Misconfigured, match="No sandbox answers"):
            ask_sandbox(port)


def test_command(server: Server, sending: Caller) -> None:
    runner, place = CliRunner(), ["--account", sending.account_id, "--data", str(server.data)]
    environment = {"TOCSIN_SECRET_KEY": server.environment["TOCSIN_SECRET_KEY"]}
    checked = runner.invoke(tocsin, ["provider", "check", "fcm", *place], env=environment)
    assert (checked.exit_code, json.loads(checked.stdout)["verdict"]) == (0, "accepted"), checked.output
    missing = runner.invoke(tocsin, ["provider", "check", "webpush", *place], env=environment)
    assert "has no provider webpush" in str(missing.exception)


def test_a_sandbox_beside_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers while `serve --sandbox` runs, and no longer."""
    port = free_ports(7)
    monkeypatch.setenv("TOCSIN_SANDBOX_PORT", str(port))

    def ask() -> bool:
        with contextlib.suppress(Misconfigured):
            return "fcm" in ask_sandbox(port)
        return False

    with run_sandbox(tmp_path):
        assert wait_for(ask)
    assert not ask()
