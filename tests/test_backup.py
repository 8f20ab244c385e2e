"""Backup and restore: taken while a campaign runs and people are uploaded, put back after a `kill -9`, and nobody gets
a message that they had, unless somebody says so."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from conftest import ROOMY, Caller, Sandbox, Server, people, wait_for
from sqlalchemy import Connection, select
from support.commands import run
from support.stage import Stage, Vendor

from tocsin import queue
from tocsin.campaign.runs import stop_campaign
from tocsin.cli.backup import backup, restore
from tocsin.cli.maintenance import doctor
from tocsin.delivery.hold import drop_requests, hold_all, list_held, resume
from tocsin.errors import Misconfigured
from tocsin.outcome import State
from tocsin.store import schema
from tocsin.store.data_folder import RESTORING
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

pytest_plugins = ("engines",)

AUDIENCE = 1200
SLOW = {"TOCSIN_WINDOW": "16", "TOCSIN_CHUNKS_AT_ONCE": "1"}


def tocsin(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run(*arguments)


def accepted(sandbox: Sandbox) -> tuple[int, int]:
    counts = sandbox.counts().values()
    return sum(one["accepted"] for one in counts), sum(one["duplicates"] for one in counts)


class Uploads:
    """Somebody who uploads people with an event each, without end, and remembers how many were acknowledged."""

    def __init__(self, caller: Caller):
        self._caller = caller
        self.acknowledged = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._end.is_set():
            name = f"late-{self.acknowledged}"
            event = {"type": "event", "identity": name, "evtName": "Seen", "evtData": {"n": self.acknowledged}}
            self._caller.upload({"type": "profile", "identity": name, "profileData": {"Late": "yes"}}, event)
            self.acknowledged += 1

    def end(self) -> None:
        self._end.set()
        self._thread.join()


def estimate(caller: Caller, **where: object) -> int:
    status, answer = caller.post("/1/segments/explain.json", {"where": where})
    assert status == 200, answer
    return int(answer["count"])


SEEN = {"event_name": "Seen", "from": "-2d", "to": "today"}
LATE = {"common_profile_properties": {"profile_fields": [{"name": "Late", "value": "yes"}]}}


def test_restored_after_a_kill(start_server: Callable[..., Server], tmp_path: Path, sandbox: Sandbox) -> None:
    """All that was acknowledged before the backup is there, both stores agree, and a stop makes the sum of the campaign
    that was running; somebody who is uploaded afterwards gets a message of their own."""
    server = start_server(tmp_path / "data", ROOMY | SLOW)
    caller = server.account()
    server.use_sandbox(caller, sandbox)
    caller.upload(*people(AUDIENCE, kinds=("fcm",)))
    campaign = caller.create(devices=["android"])
    planned = caller.create(devices=["android"], when="20990101 08:00")
    uploads = Uploads(caller)
    wait_for(lambda: accepted(sandbox)[0] >= AUDIENCE // 8 and uploads.acknowledged > 3)
    before = uploads.acknowledged
    backup.main([str(tmp_path / "backup"), "--data", str(server.data)], standalone_mode=False)
    after = uploads.acknowledged + 1
    at_backup = accepted(sandbox)[0]
    wait_for(lambda: accepted(sandbox)[0] > min(at_backup + 100, AUDIENCE - 1))
    uploads.end()
    server.kill()
    sent = accepted(sandbox)[0]

    restored = tocsin("restore", str(tmp_path / "backup"), "--data", str(tmp_path / "again"))
    assert restored.returncode == 0, restored.stderr
    assert f"campaign {campaign} held since a restore" in restored.stdout
    manifest = json.loads((tmp_path / "backup" / "manifest.json").read_bytes())
    assert manifest["facts_at"] <= manifest["ledger_at"]
    tables = ["activity", "event", "feed", "interaction", "listener", "outcome", "profile"]
    assert sorted(manifest["tables"]) == tables
    sums = subprocess.run(
        ["sha256sum", "--quiet", "--check", "SHA256SUMS"], cwd=tmp_path / "backup", check=False, capture_output=True
    )
    assert sums.returncode == 0, sums.stderr

    again = start_server(tmp_path / "again", ROOMY | SLOW)
    back = Caller(again.port, caller.headers)
    seen, late = estimate(back, **SEEN), estimate(back, **LATE)
    assert before <= seen <= late <= after
    back.upload(*people(1, "new", kinds=("fcm",)))
    status, answer = back.post(
        "/1/send/push.json", {"to": {"Identity": ["new-0"]}, "content": {"title": "a", "body": "b"}}
    )
    assert status == 200, answer
    wait_for(lambda: accepted(sandbox)[0] == sent + 1)
    for one in (campaign, planned):
        assert back.post("/1/targets/stop.json", {"id": one})[0] == 200
    numbers = wait_for(lambda: result(back, campaign))
    assert numbers["audience"] == AUDIENCE == sum(numbers[name] for name in ("sent", "unknown", "failed", "suppressed"))
    assert accepted(sandbox) == (sent + 1, 0)
    assert numbers["sent"] <= sent
    assert again.stop() == 0


def result(caller: Caller, campaign: int) -> dict[str, int] | None:
    status, answer = caller.post("/1/targets/result.json", {"id": campaign})
    return answer["result"] if status == 200 else None


def refusal(command: click.Command, *arguments: str) -> str:
    """What a command says that refuses."""
    with pytest.raises(Misconfigured) as refused:
        command.main(list(arguments), standalone_mode=False)
    return str(refused.value)


def test_what_is_refused(tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is there or not empty, a damaged file, one too many, a newer ledger, half a restore, and stores of
    other machines are refused by a sentence, and nothing is left behind."""
    data, kept, again = str(server.data), tmp_path / "kept", tmp_path / "again"
    backup.main([str(kept), "--data", data], standalone_mode=False)
    assert not list(server.data.glob("facts/shadow/backup*"))
    assert "exists already" in refusal(backup, str(kept), "--data", data)
    assert "not empty" in refusal(restore, str(kept), "--data", data)
    with monkeypatch.context() as patch:
        patch.setenv("TOCSIN_LEDGER_URL", "postgresql://nobody@127.0.0.1:1/none")
        assert "pg_dump" in refusal(restore, str(kept), "--data", str(again))

    into = (str(kept), "--data", str(again))
    ledger = kept / "ledger.db"
    content = ledger.read_bytes()
    ledger.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "is damaged" in refusal(restore, *into)
    assert not any(again.iterdir())
    ledger.write_bytes(content)
    (kept / "more").touch()
    assert "too many or too few" in refusal(restore, *into)
    (kept / "more").unlink()
    manifest = (kept / "manifest.json").read_text()
    (kept / "manifest.json").write_text(manifest.replace('"migration": "', '"migration": "9'))
    assert "does not have" in refusal(restore, *into)
    (kept / "manifest.json").write_text(manifest[:-9])
    assert "no whole backup" in refusal(restore, *into)
    (again / RESTORING).touch()
    assert "half of a restore" in refusal(doctor, "--data", str(again))


def claim_first(connection: Connection, now: float) -> None:
    """Leaves the first recipient of the first campaign with a vendor."""
    (one,) = queue.lease_due(connection, "lost", now, 60.0, priority=queue.CAMPAIGN)
    one.move(0, State.CLAIMED)
    queue.settle(connection, [one], now, 60.0)


@pytest.fixture
def own_ledger(store: Ledger) -> Ledger:
    """A ledger of its own for one test, on each engine in turn."""
    return store


async def test_held_until_somebody_says_so(own_ledger: Ledger, facts: Facts) -> None:
    """After a hold, done twice, nothing goes out but what is new; a resumed campaign goes on, what was with a vendor is
    unknown, a stopped one ends, and dropped requests expire."""
    vendor = Vendor()
    stage = Stage(own_ledger, facts, {"android": vendor})
    await stage.people(6)
    running, stopped = await stage.campaign(), await stage.campaign()
    await stage.send({"Identity": ["u0", "u1"]})
    chunk = await stage.lease("lost")
    assert chunk is not None
    newest = await own_ledger.read(lambda c: c.scalar(select(schema.chunk.c.id).order_by(schema.chunk.c.id.desc())))
    await own_ledger.write(lambda c: claim_first(c, stage.now))
    for _ in range(2):
        hold_all(own_ledger, stage.settings, stage.now)
    found = await own_ledger.read(list_held)
    assert [(one.campaign, one.waiting) for one in found] == [(0, 0), (running, 5), (stopped, 6)]
    await stage.deliver()
    assert vendor.tokens == []

    await stage.send({"Identity": ["u5"]})
    await stage.deliver()
    assert vendor.tokens == ["u5-fcm-0"]
    ids = await own_ledger.read(lambda c: c.scalars(select(schema.chunk.c.id).order_by(schema.chunk.c.id)).all())
    assert ids[-1] > (newest or 0) + 1_000_000

    account = stage.account.id
    assert await own_ledger.write(lambda c: resume(c, account, running))
    assert not await own_ledger.write(lambda c: resume(c, account, running))
    await own_ledger.write(lambda c: stop_campaign(c, account, stopped, stage.now))
    assert await own_ledger.write(lambda c: drop_requests(c, account, stage.now)) == 1
    await stage.deliver_all()
    assert sorted(vendor.tokens) == sorted(["u5-fcm-0", *(f"u{n}-fcm-0" for n in range(1, 6))])
    assert await stage.result(running) == {"audience": 6, "sent": 5, "unknown": 1}
    assert await stage.result(stopped) == {"audience": 6, "suppressed": 6}
    assert await own_ledger.read(list_held) == []
