"""Providers' settings at rest: encrypted by a key from the environment, readable by nobody without it."""

from __future__ import annotations

import base64
import contextlib
import json
import time
from pathlib import Path

import pytest
import structlog.testing
from click.testing import CliRunner
from conftest import SERVER_KEY, Caller, Sandbox, Server, people
from cryptography.fernet import InvalidToken
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select
from support.commands import run

from tocsin.account import create_account
from tocsin.cli import tocsin
from tocsin.cli.providers import store_providers
from tocsin.errors import Misconfigured
from tocsin.providers.credential import read_credentials
from tocsin.providers.encryption import NO_SETTINGS, decrypt, encrypt, encrypt_again, open_settings, read_keys
from tocsin.store import schema
from tocsin.store.ledger import open_ledger

OLD, NEW, OTHER = (base64.b64encode(bytes([number]) * 32).decode() for number in (1, 2, 3))
SMTP = {"host": "mail.example.com", "sender": "news@example.com", "username": "u", "password": "hunter2-hunter2"}
WNS = {"client_id": "ms-app://s-1-15-2-1", "client_secret": "hunter2-hunter2", "endpoint": "https://127.0.0.1:9"}


@given(st.text(max_size=300), st.sampled_from((OLD, f"{NEW},{OLD}", f" {OLD} , {NEW} ")))
def test_what_is_encrypted_comes_back(password: str, keys: str) -> None:
    """With the keys it was encrypted under, in any order and company; nothing of it can be seen."""
    settings = json.dumps({"password": password})
    stored = encrypt(read_keys(OLD), "A", "smtp", settings)
    assert decrypt(read_keys(keys), "A", "smtp", stored) == settings
    assert len(password) < 6 or json.dumps(password)[1:-1] not in stored
    assert encrypt(None, "A", "smtp", settings) == settings == decrypt(read_keys(keys), "A", "smtp", settings)


@pytest.mark.parametrize(
    ("keys", "account", "name"), [(OTHER, "A", "smtp"), ("", "A", "smtp"), (OLD, "B", "smtp"), (OLD, "A", "fcm")]
)
def test_another_key_or_row_reads_nothing(keys: str, account: str, name: str) -> None:
    """Neither another key nor another account's row makes anything of it: a lane without settings, and one line."""
    stored = encrypt(read_keys(OLD), "A", "smtp", '{"password": "hunter2"}')
    with pytest.raises(InvalidToken):
        decrypt(read_keys(keys), account, name, stored)
    open_settings.cache_clear()
    with structlog.testing.capture_logs() as lines:
        assert {open_settings(keys, account, name, stored) for _ in range(5)} == {NO_SETTINGS}
    assert len(lines) == 1


@pytest.mark.parametrize("text", ["short", "x" * 44, base64.b64encode(bytes(31)).decode(), f"{OLD},no"])
def test_keys_of_another_form(text: str) -> None:
    """A key that is none is named as such, without itself."""
    with pytest.raises(Misconfigured, match="openssl rand -base64 32") as refused:
        read_keys(text)
    assert text not in str(refused.value)
    assert read_keys("") is None is read_keys(" , ")


class Installation:
    """A folder with an account, and its commands under a key."""

    def __init__(self, data: Path, patch: pytest.MonkeyPatch):
        self.data, self.patch = data, patch
        with contextlib.closing(open_ledger(f"sqlite:///{data / 'ledger.db'}")) as ledger:
            self.account = create_account(ledger, "a", "UTC", time.time())[0].id

    def use(self, keys: str) -> None:
        self.patch.setenv("TOCSIN_SECRET_KEY", keys)

    def run(self, *arguments: str) -> tuple[int, str]:
        done = CliRunner().invoke(tocsin, [*arguments, "--data", str(self.data)])
        return done.exit_code, done.output if done.exception is None or done.output else str(done.exception)

    def stored(self) -> dict[str, str]:
        table = schema.provider
        with contextlib.closing(open_ledger(f"sqlite:///{self.data / 'ledger.db'}")) as ledger:
            query = select(table.c.name, table.c.settings)
            return {row[0]: row[1] for row in ledger.read_now(lambda connection: connection.execute(query).all())}

    def read(self, keys: str) -> dict[str, str]:
        with contextlib.closing(open_ledger(f"sqlite:///{self.data / 'ledger.db'}")) as ledger:
            found = ledger.read_now(lambda connection: read_credentials(connection, self.account, keys))
        return {one.name: one.settings for one in found}


@pytest.fixture
def installation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installation:
    return Installation(tmp_path, monkeypatch)


def test_clear_text_encrypted_rotated_and_cleared(installation: Installation) -> None:
    """Settings stored in clear text are encrypted by a command, then under a new key, then are clear again; the file
    holds nothing of the password while they are encrypted, and doctor says which it is."""
    store_providers(installation.data, installation.account, {"smtp": SMTP, "wns": WNS})
    before = installation.read("")
    assert "clear text" in installation.run("doctor")[1]
    installation.use(OLD)
    assert '"providers":2' in installation.run("provider", "encrypt")[1]
    assert all("hunter2" not in text for text in installation.stored().values())
    files = b"".join(one.read_bytes() for one in installation.data.glob("ledger.db*"))
    assert b"hunter2" not in files
    assert installation.read(OLD) == before
    assert json.loads(installation.stored()["wns"])["endpoint"] == WNS["endpoint"], "uploads ask for it"
    assert "2 providers are encrypted" in installation.run("doctor")[1]
    installation.use(f"{NEW},{OLD}")
    installation.run("provider", "encrypt")
    assert installation.read(NEW) == before
    installation.use(NEW)
    installation.run("provider", "encrypt", "--clear")
    assert installation.read("") == before


@pytest.mark.parametrize("keys", ["", OTHER])
def test_without_the_right_key_nothing_is_mixed(installation: Installation, keys: str) -> None:
    """Who has no key or another one neither encrypts again nor stores a second provider beside; what to do is said.
    Setting anew what cannot be read is possible: a lost key costs the settings only."""
    installation.use(OLD)
    store_providers(installation.data, installation.account, {"smtp": SMTP})
    installation.use(keys)
    code, said = installation.run("doctor")
    assert (code, "MEND" in said, f"smtp of {installation.account}" in said) == (1, True, True)
    assert installation.run("provider", "encrypt")[0] == 1
    with pytest.raises(Misconfigured, match="Set it to the key they were encrypted with"):
        store_providers(installation.data, installation.account, {"wns": WNS})
    store_providers(installation.data, installation.account, {"smtp": SMTP})
    assert "hunter2" in installation.read(keys)["smtp"]


def test_a_server_sends_with_encrypted_keys(
    server: Server, sandbox: Sandbox, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Messages go out over every vendor while the ledger holds no key of any."""
    monkeypatch.setenv("TOCSIN_SECRET_KEY", SERVER_KEY)
    table = schema.provider
    with contextlib.closing(open_ledger(server.ledger_url)) as ledger:
        ledger.write_now(lambda connection: encrypt_again(connection, SERVER_KEY))
        try:
            server.use_sandbox(caller, sandbox)
            rows = ledger.read_now(lambda connection: connection.execute(select(table.c.settings)).scalars().all())
            assert not [row for row in rows if "PRIVATE KEY" in row or "whsec" in row]
            caller.upload(*people(3))
            assert caller.result(caller.create())["sent"] == 3
        finally:  # other tests store theirs in clear text
            ledger.write_now(lambda connection: encrypt_again(connection, SERVER_KEY, clear=True))


def test_a_server_without_the_key_does_not_start(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what is missing, and for whom; not a minute of messages is lost to a lane that cannot work."""
    installation.use(OLD)
    store_providers(installation.data, installation.account, {"smtp": SMTP})
    monkeypatch.delenv("TOCSIN_SECRET_KEY")
    done = run("serve", "--data", str(installation.data))
    assert done.returncode == 1
    assert "TOCSIN_SECRET_KEY is not set. Set it to the key" in done.stderr
    assert f"smtp of {installation.account}" in done.stderr
