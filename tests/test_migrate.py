"""An installation of the first days is brought up to date by a command, and all that reads still does."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import closing
from importlib.metadata import version
from pathlib import Path

import pytest
from conftest import ROOMY, Caller, Server
from support.commands import run
from support.old_facts import OLD

from tocsin.account import hash_passcode
from tocsin.cli.maintenance import repair
from tocsin.cli.migration import migrate as migrate_command
from tocsin.errors import Misconfigured
from tocsin.outcome import State
from tocsin.store.ledger import find_newest_migration, list_migrations, migrate, open_ledger, read_migration

ACCOUNT, PASSCODE, THEN = "a", "GOOD-OLDX-DAYS", 1_795_000_000.0
QUESTION = {"type": "did", "event": "Seen", "first": "2026-01-01", "last": "2026-12-31", "properties": []}
CONTENT = {"title": "Hi", "body": "there", "subject": "", "sender_name": "", "reply_to": "", "platforms": {}}
# Word for word what the first version stored.
SPEC = {
    **{"name": "n", "channel": "push", "where": {"type": "all", "of": [QUESTION]}, "content": CONTENT},
    **{"platforms": ["android"], "due_at": THEN, "labels": ["spring"], "respect_frequency_caps": True},
    **{"send_to_all_devices": False, "message_seconds": None},
}
STATES = bytes((State.ACCEPTED, State.GONE, State.UNKNOWN))
CHUNK = {
    **{"id": 1, "account_id": ACCOUNT, "run_id": 1, "campaign_id": 1_795_000_000, "channel": "push", "tag_group": ""},
    **{"priority": 1, "open": 0, "not_before": THEN, "expires_at": THEN + 9, "notes": "{}", "size": 3, "sent": 1},
    **{"users": b"\1\0\0\0\2\0\0\0\3\0\0\0", "platforms": b"\0\0\0", "states": STATES, "unknown": 1, "failed": 1},
    **{"suppressed": 0, "created_at": THEN},
}
ROWS: list[tuple[str, Mapping[str, object]]] = [
    ("account", {"id": ACCOUNT, "name": "Old", "timezone": "Europe/Berlin", "created_at": THEN, "last_user": 3}),
    ("passcode", {"account_id": ACCOUNT, "digest": hash_passcode(PASSCODE), "label": "first", "created_at": THEN}),
    *(
        ("user", {"account_id": ACCOUNT, "id": n, "profile": profile, "version": 5, "created_at": 1, "updated_at": 1})
        for n, profile in enumerate(['{"Name":"Jane"}', '{"MSG-push":false}', "{}"], 1)
    ),
    *(
        ("identity", {"account_id": ACCOUNT, "kind": "identity", "value": f"u{n}", "user_id": n})
        for n in (1, 2, 3)
    ),
    *(
        ("device", {"account_id": ACCOUNT, "user_id": n, "object_id": f"d{n}", "kind": "fcm", "token": f"token-{n}"}
         | {"registered_at": THEN, "gone_at": THEN if n == 2 else None, "gone_code": None})
        for n in (1, 2, 3)
    ),
    ("campaign", {"id": 1_795_000_000, "account_id": ACCOUNT, "name": "n", "channel": "push", "created_at": THEN}
     | {"spec": json.dumps(SPEC, separators=(",", ":"))}),
    ("run", {"id": 1, "account_id": ACCOUNT, "campaign_id": 1_795_000_000, "state": "completed", "due_at": THEN}
     | {"audience": 3, "frozen_at": THEN, "ended_at": THEN}),
    ("chunk", CHUNK),
    ("chunk", CHUNK | {"id": 2, "run_id": None, "campaign_id": 0, "tag_group": "orders", "priority": 0}),
    ("tag_group", {"account_id": ACCOUNT, "name": "orders", "created_at": THEN}),
]  # fmt: skip


def make_old(folder: Path) -> None:
    """A data folder as the first version's migration and an early facts store left it."""
    folder.mkdir()
    migrate(f"sqlite:///{folder / 'ledger.db'}", "0001")
    with closing(sqlite3.connect(folder / "ledger.db")) as connection, connection:
        for table, row in ROWS:
            marks = ", ".join("?" * len(row))
            connection.execute(f'INSERT INTO "{table}" ({", ".join(row)}) VALUES ({marks})', tuple(row.values()))
    subprocess.run([sys.executable, "-c", OLD, str((folder / "facts").resolve())], check=True, timeout=100)


def check(data: Path) -> int:
    """The exit code of `tocsin migrate --check`."""
    with pytest.raises(SystemExit) as ended:
        migrate_command.main(["--check", "--data", str(data)], standalone_mode=False)
    return int(ended.value.code or 0)


def test_a_folder_of_the_first_days(
    tmp_path: Path, start_server: Callable[..., Server], capsys: pytest.CaptureFixture[str]
) -> None:
    """Migrated by the command, told by `--check` and by health; its people, campaign, numbers and pages are read, its
    passcode logs in, and its people are asked about after a repair."""
    data = tmp_path / "data"
    make_old(data)
    newest = list_migrations()[-1]
    assert find_newest_migration() == newest
    assert check(data) == 1
    done = run("migrate", "--data", str(data))  # chDB takes one folder a process
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert (answer["before"], answer["ledger"]) == ("0001", newest)
    assert check(data) == 0

    server = start_server(data, ROOMY)
    with pytest.raises(Misconfigured, match="Another tocsin runs"):
        migrate_command.main(["--data", str(data)], standalone_mode=False)
    caller = Caller(server.port, {"X-CleverTap-Account-Id": ACCOUNT, "X-CleverTap-Passcode": PASSCODE})
    health = caller.get("/healthz?verbose")[1]
    assert (health["version"], health["migration"], health["role"]) == (version("tocsin"), newest, "all")
    assert caller.get("/healthz")[1] == {"status": "success"}
    capsys.readouterr()
    repair.main(["--account", ACCOUNT, "--data", str(data)], standalone_mode=False)
    assert json.loads(capsys.readouterr().out) == {"status": "success", "profiles": 3, "outcomes": 6}
    numbers = caller.result(1_795_000_000)
    assert (numbers["audience"], numbers["sent"], numbers["unknown"], numbers["failed"]) == (3, 1, 1, 1)
    assert caller.get("/1/tag_groups.json")[1]["tag_groups"]["orders"]["sent"] == 1
    listed = caller.post("/1/targets/list.json", {"from": 20260101, "to": 20271231})[1]["targets"]
    assert [one["id"] for one in listed] == [1_795_000_000]
    name = {"common_profile_properties": {"profile_fields": [{"name": "Name", "value": "Jane"}]}}
    assert caller.post("/1/segments/explain.json", {"where": name})[1]["count"] == 1
    for path in ("/dashboard/", f"/dashboard/campaigns/{1_795_000_000}"):
        status, page, _ = caller.call("GET", path, headers=basic())
        assert (status, b"Seen" in page) == (200, "campaigns" in path)
    assert caller.post("/1/targets/create.json", CREATE)[1]["estimates"]["android"] == 2
    assert server.stop() == 0


CREATE = {
    **{"name": "c", "where": {}, "content": {"title": "a", "body": "b"}, "devices": ["android"]},
    **{"when": "now", "estimate_only": True},
}


def basic() -> dict[str, str]:
    import base64

    return {"Authorization": "Basic " + base64.b64encode(f"{ACCOUNT}:{PASSCODE}".encode()).decode()}


def test_a_newer_ledger_is_refused(tmp_path: Path) -> None:
    """Tables of a version that is not known here are left alone, and a ledger that is not there is not made."""
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    assert read_migration(url) is None
    assert not (tmp_path / "ledger.db").exists()
    open_ledger(url).close()
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as connection, connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(Misconfigured, match="newer version"):
        open_ledger(url)
