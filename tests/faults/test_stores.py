"""A store fails in a campaign, or the clock jumps: nobody is doubled, nobody lost, and it mends by itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from conftest import Caller, Sandbox, Server, people, wait_for
from evidence import count_sent, read_states
from siege import ENVIRONMENT, IN_FLIGHT, PUSH
from support.stage import SETTINGS, Stage, Vendor
from vendors import count_accepted, count_doubled

from tocsin.outcome import FINAL, Outcome
from tocsin.providers.contract import Message
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

if TYPE_CHECKING:
    from engines import Postgres

pytest_plugins = ("engines",)

AUDIENCE = 2000
TROUBLE_SECONDS = 3.0
"""A worker looks every 0.5 s and a lease runs out after 2.5 s: longer trouble is the same again and again."""

PROBES = 6  # of health in that time; each that fails is a line of log
LINES_A_SECOND, BYTES_A_SECOND = 30, 300_000
"""Of log, at most: four workers twice a second, each with a trace, and the requests that fail."""

REQUEST: dict[str, Any] = {"to": {"Identity": ["late"]}, "content": {"title": "Hello", "body": "there"}}


class Patient:
    """A server in the middle of a campaign, and what may be said of it during and after some trouble."""

    def __init__(self, server: Server, sandbox: Sandbox):
        self.server, self.sandbox = server, sandbox
        self.caller = server.account()
        server.use_sandbox(self.caller, sandbox)
        self.caller.upload(*people(AUDIENCE, wns_port=sandbox.port + 3))
        self.campaign = self.caller.create(**PUSH)
        self.answers: dict[str, set[int]] = {"/healthz": set(), "/metrics": set()}
        wait_for(lambda: count_accepted(sandbox) >= AUDIENCE * 0.15)

    def suffer(self, log: Path) -> None:
        """Asks after its health until TROUBLE_SECONDS are over: it must live, answer, and not fill the log."""
        before, moment = log.read_bytes(), time.monotonic()
        for _ in range(PROBES):
            assert self.server.process.poll() is None, "the server ended"
            for path, status in self._statuses().items():
                self.answers[path].add(status)
            moment += TROUBLE_SECONDS / PROBES
            wait_for(lambda moment=moment: time.monotonic() >= moment)  # type: ignore[misc]
        said = log.read_bytes()[len(before) :]
        assert said.count(b"\n") <= LINES_A_SECOND * TROUBLE_SECONDS, "the log is flooded"
        assert len(said) <= BYTES_A_SECOND * TROUBLE_SECONDS, "the log is flooded"
        assert not self.completed(), "the campaign was over before the trouble: this proves nothing"

    def completed(self) -> bool:
        with contextlib.suppress(OSError):
            return self.caller.post("/1/targets/result.json", {"id": self.campaign})[0] == 200
        return False

    def recover(self, unknown: int) -> None:
        """The campaign completes with nobody's help, with so many unknown at most, and everybody agrees."""
        result = self.caller.result(self.campaign)
        accepted = count_accepted(self.sandbox)
        assert count_doubled(self.sandbox) == 0
        assert result["audience"] == AUDIENCE == result["sent"] + result["unknown"]
        assert result["sent"] <= accepted <= AUDIENCE
        assert result["unknown"] <= unknown
        states = read_states(self.server.ledger_url, self.caller.account_id, self.campaign)
        assert len(states) == AUDIENCE
        assert set(states.values()) <= FINAL
        assert count_sent(self.caller, self.campaign, PUSH) == result["sent"]
        assert self._statuses() == {"/healthz": 200, "/metrics": 200}
        self.caller.upload(*people(1, prefix="late"))
        assert self.caller.post("/1/send/push.json", REQUEST)[0] == 200
        assert self.server.stop() == 0

    def _statuses(self) -> dict[str, int]:
        nobody = Caller(self.server.port)
        return {path: nobody.get(path)[0] for path in self.answers}


@contextlib.contextmanager
def log_through_pipe(data: Path) -> Iterator[Path]:
    """Takes what a server on this folder will log through a pipe, to a file that no limit of its process touches."""
    data.mkdir(parents=True, exist_ok=True)
    os.mkfifo(data / "log")
    path = data / "log.kept"
    path.touch()

    def pump() -> None:
        with (data / "log").open("rb", buffering=0) as pipe, path.open("wb", buffering=0) as kept:
            while piece := pipe.read(65536):
                kept.write(piece)

    thread = threading.Thread(target=pump, daemon=True)
    thread.start()
    yield path
    thread.join(10)


@contextlib.contextmanager
def full_disk(pid: int) -> Iterator[None]:
    """Not one byte more into any file by that process (EFBIG in place of ENOSPC, which needs no disk of its own)."""
    soft, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (soft, hard))


def fill_disk_and_recover(patient: Patient, log: Path) -> None:
    with full_disk(patient.server.process.pid):
        wait_for(lambda: b"disk I/O error" in log.read_bytes() or b"disk is full" in log.read_bytes())
        patient.suffer(log)
        assert count_accepted(patient.sandbox) < AUDIENCE, "it sends without having it written down"
        assert patient.caller.post("/1/send/push.json", REQUEST)[0] >= 500, "it acknowledges what it cannot keep"
    assert patient.answers["/metrics"] == {200}
    patient.recover(IN_FLIGHT)


def test_a_full_disk(tmp_path: Path, start_server: Callable[..., Server], sandbox: Sandbox) -> None:
    """While the disk is full nothing more is sent, and nothing is acknowledged; with room again it goes on."""
    with log_through_pipe(tmp_path) as log:
        fill_disk_and_recover(Patient(start_server(tmp_path, ENVIRONMENT), sandbox), log)


def test_a_full_disk_with_the_log_on_it(tmp_path: Path, start_server: Callable[..., Server], sandbox: Sandbox) -> None:
    """The same where the log is a file on that disk: what cannot be said must not end the server."""
    patient = Patient(start_server(tmp_path, ENVIRONMENT), sandbox)
    with full_disk(patient.server.process.pid):
        patient.suffer(tmp_path / "log")
    patient.recover(IN_FLIGHT)


def test_postgresql_crashes(
    tmp_path: Path, start_server: Callable[..., Server], own_postgres: Postgres, sandbox: Sandbox
) -> None:
    """PostgreSQL goes down without a goodbye and comes back: the workers find it again, and their leases run out."""
    patient = Patient(start_server(tmp_path, ENVIRONMENT | {"TOCSIN_LEDGER_URL": own_postgres.new_database()}), sandbox)
    own_postgres.crash()
    patient.suffer(tmp_path / "log")
    assert 200 not in patient.answers["/healthz"]
    assert patient.caller.post("/1/send/push.json", REQUEST)[0] >= 500
    own_postgres.start()
    patient.recover(IN_FLIGHT)


def test_metrics_without_a_ledger(tmp_path: Path, start_server: Callable[..., Server], own_postgres: Postgres) -> None:
    """What the process counts by itself can be read while the ledger is away: that is when somebody looks."""
    server = start_server(tmp_path, ENVIRONMENT | {"TOCSIN_LEDGER_URL": own_postgres.new_database()})
    own_postgres.crash()
    assert Caller(server.port).get("/metrics")[0] == 200


def test_the_facts_store_fails(tmp_path: Path, start_server: Callable[..., Server], sandbox: Sandbox) -> None:
    """chDB's folder is gone for a while: the campaign ends when its outcomes can be recorded, and nobody is unknown."""
    patient = Patient(start_server(tmp_path, ENVIRONMENT), sandbox)
    folder, away = tmp_path / "facts" / "store", tmp_path / "facts" / "away"
    folder.rename(away)
    folder.touch()
    patient.suffer(tmp_path / "log")
    status, _ = patient.caller.post("/1/upload", {"d": people(1, prefix="late")})
    assert status >= 500, "it acknowledges what the facts store does not have"
    assert patient.answers["/metrics"] == {200}
    folder.unlink()
    away.rename(folder)
    patient.recover(0)


HOUR = 3600.0
CROWD = 300
RUNNING = msgspec.structs.replace(SETTINGS, window=20, chunks_at_once=2, message_hours=24.0)


class Jumping(Stage):
    """A stage whose clock runs, and jumps where `now` is set."""

    @property
    def now(self) -> float:
        return self._set + time.monotonic() - self._at

    @now.setter
    def now(self, value: float) -> None:
        self._set, self._at = value, time.monotonic()


async def wait_until(ask: Callable[[], Awaitable[bool]], seconds: float) -> bool:
    """Whether it became true in that time; `wait_for` for the event loop of this process."""
    deadline = time.monotonic() + seconds
    while not (true := await ask()) and time.monotonic() < deadline:  # noqa: ASYNC110 - the ledger wakes nobody
        await asyncio.sleep(0.02)
    return true


@pytest.mark.parametrize(
    "jumps",
    [
        pytest.param((HOUR,), id="forward"),
        pytest.param((-HOUR, HOUR), id="backward and right again"),
        pytest.param((-HOUR,), id="backward"),
    ],
)
async def test_the_clock_jumps(own_ledger: Ledger, facts: Facts, jumps: tuple[float, ...]) -> None:
    """While messages are with a vendor the clock jumps: what is with it is unknown at worst, the rest goes out."""

    async def jump(_message: Message) -> Outcome:
        """The vendor thinks until somebody else has finished the other chunk and, where its lease seems to have run
        out, taken this one."""
        stage.now += jumps[0]
        seen = len(vendor.got)

        async def noticed() -> bool:
            return len(vendor.got) > seen + CROWD + 2 * RUNNING.window

        await wait_until(noticed, 2.0)
        return Outcome.ACCEPTED

    vendor = Vendor(*[Outcome.ACCEPTED] * 50, jump)
    stage = Jumping(own_ledger, facts, {"android": vendor}, RUNNING)
    await stage.people(CROWD)
    campaigns = [await stage.campaign() for _ in range(3)]  # a chunk each, one more than are delivered side by side

    async def completed() -> bool:
        return [await stage.state(campaign) for campaign in campaigns] == ["completed"] * len(campaigns)

    async def work() -> None:
        """A stage's worker ends when nothing is due now: what was put back for a moment is due in the next run."""
        while not await completed():
            await stage.worker.run()

    working = asyncio.create_task(work())
    for seconds in jumps[1:]:
        await wait_until(completed, 2.0)
        stage.now += seconds
    done = await wait_until(completed, 30.0)
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    assert done, "campaigns wait for the clock"
    results = [await stage.result(campaign) for campaign in campaigns]
    assert max(vendor.accepted.values()) <= len(campaigns)
    assert sum(vendor.accepted.values()) <= CROWD * len(campaigns)
    assert len({(message.id) for message in vendor.got}) == len(vendor.got), "somebody got two of one campaign"
    for result in results:
        assert result["audience"] == CROWD == result["sent"] + result.get("unknown", 0)
        assert result.get("unknown", 0) <= RUNNING.window
