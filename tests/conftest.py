"""What tests stand on: a real sandbox, a real server in a process of its own, and an account apiece."""

from __future__ import annotations

import contextlib
import functools
import http.client
import os
import random
import shutil
import socket
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import pytest
from hypothesis import settings

from tocsin.account import create_account
from tocsin.cli.providers import store_providers_in
from tocsin.policy import set_policy
from tocsin.providers.keyring import sandbox_settings
from tocsin.store.ledger import Ledger, open_ledger

pytest.register_assert_rewrite("support")

from support.commands import Command  # noqa: E402 - after the line above, which is about it
from support.workspace import make_workspace  # noqa: E402

# `make faults` and a nightly run look at more worlds than a submission has the time for.
THOROUGH = bool(os.environ.get("THOROUGH"))
EXAMPLES = 100 if THOROUGH else 25  # of a law that says no number of its own

# A submission is judged on the same examples as the run before it; everybody else's run looks at new ones. No example
# has a deadline: the workers of the suite share two cores with the servers they start.
settings.register_profile("ci", derandomize=True, deadline=None, max_examples=EXAMPLES)
settings.register_profile("here", deadline=None, max_examples=EXAMPLES)
settings.load_profile("ci" if os.environ.get("CI") else "here")

# The shared server reads providers' settings that were encrypted with it, and those that were not.
SERVER_KEY = "c2VydmVyLWtleS1zZXJ2ZXIta2V5LXNlcnZlci1rZXk="

T = TypeVar("T")
WORKSPACE = pytest.StashKey[Path]()
SMALL_WINDOW, SMALL_AT_ONCE = 50, 4

READY_SECONDS = 60
RESULT_SECONDS = 60
# Limits that are not what a test is about are set out of its way, and a server of its own has no processes beside it.
ROOMY = {
    "TOCSIN_SENDERS": "0",
    "TOCSIN_CREATE_PER_SECOND": "100000",
    "TOCSIN_CREATE_AT_ONCE": "1000",
    "TOCSIN_RETRY_FLOOR": "0.05",
    "TOCSIN_SLOW_START_SECONDS": "0",
    "TOCSIN_REFUSED_LOGINS": "1000000",
}


def pytest_configure(config: pytest.Config) -> None:
    """Make the folder that all workers of this run share."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        config.stash[WORKSPACE] = make_workspace()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Remove that folder, unless somebody wants to look at what failed."""
    folder = session.config.stash.get(WORKSPACE, None)
    if folder is None:
        return
    if exitstatus == pytest.ExitCode.TESTS_FAILED:
        print(f"\nfiles of what failed, until the next run: {folder}")
    else:
        session.config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


def port_range() -> tuple[int, int]:
    """The ports this process may pick: one's own for each worker of pytest-xdist, and none that Linux gives to clients
    (32768 and up), for what is free when looked at has to be free a second later."""
    first, last, workers = 10_000, 32_000, 8
    size = (last - first) // workers
    start = first + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % workers * size
    return start, start + size


_GIVEN: deque[int] = deque(maxlen=100)  # ports whose process may not listen yet


def free_ports(count: int) -> int:
    """The first of `count` ports in a row that nobody listens on, or was just given."""
    dice = random.Random()
    start, end = port_range()
    while True:
        first = dice.randrange(start, end - count)
        if not {*range(first, first + count)}.isdisjoint(_GIVEN):
            continue
        with contextlib.ExitStack() as sockets:
            try:
                for port in range(first, first + count):
                    sockets.enter_context(socket.socket()).bind(("127.0.0.1", port))
            except OSError:
                continue
            _GIVEN.extend(range(first, first + count))
            return first


@functools.cache
def make_sqlite() -> bytes:
    """The file of a SQLite ledger with empty tables: to run all migrations takes four times as long as to open it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "ledger.db")
        open_ledger(f"sqlite:///{path}").close()
        return path.read_bytes()


def new_sqlite(folder: Path) -> str:
    """The URL of a new SQLite ledger in a folder, or of the one that is there."""
    path = folder / "ledger.db"
    if not path.exists():
        path.write_bytes(make_sqlite())
    return f"sqlite:///{path}"


class Process:
    """One tocsin command that runs on its own, until stopped or killed."""

    def __init__(
        self,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        log: Path | None = None,
        wait: bool = True,
    ):
        self._log = log.open("ab") if log is not None else None
        said, say = os.pipe()
        self._said = os.fdopen(said, "rb")
        with os.fdopen(say, "wb") as stdout:
            self.process = Command(*arguments, environment=environment, stdout=stdout, stderr=self._log)
        self.ready_line = self.wait_until_ready() if wait else ""

    def wait_until_ready(self) -> str:
        """The line a command prints when it is ready."""
        line = self._said.readline().decode()
        if not line:
            self.kill()
            said = Path(self._log.name).read_text()[-4000:] if self._log is not None else ""
            raise AssertionError(f"{self.process.args!r} ended before it was ready:\n{said}")
        return line

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.process.terminate()
        return self._end()

    def kill(self) -> None:
        """SIGKILL: no goodbye."""
        self.process.kill()
        self._end()

    def _end(self) -> int:
        code = self.process.wait(READY_SECONDS)
        self._said.close()
        if self._log is not None:
            self._log.close()
        return code


class Caller:
    """Somebody who calls a server over HTTP, as one account or as nobody."""

    def __init__(self, port: int, headers: Mapping[str, str] | None = None):
        self.port = port
        self.headers = dict(headers or {})

    @property
    def account_id(self) -> str:
        return self.headers["X-CleverTap-Account-Id"]

    def call(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, Any, Mapping[str, str]]:
        """(status, the JSON or the bytes, headers). `body`: bytes go as they are, anything else as JSON."""
        raw = body if isinstance(body, bytes | None) else msgspec.json.encode(body)
        sent = {"Content-Type": "application/json", **self.headers, **(headers or {})}
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)) as connection:
            connection.request(method, path, raw, sent)
            reply = connection.getresponse()
            content = reply.read()
            kind = reply.getheader("Content-Type", "")
            value = msgspec.json.decode(content) if kind.startswith("application/json") else content
            return reply.status, value, {name.lower(): text for name, text in reply.getheaders()}

    def post(self, path: str, body: Any) -> tuple[int, Any]:
        status, value, _ = self.call("POST", path, body)
        return status, value

    def get(self, path: str) -> tuple[int, Any]:
        status, value, _ = self.call("GET", path)
        return status, value

    def upload(self, *records: dict[str, Any]) -> None:
        """Uploads records that must all be taken."""
        for start in range(0, len(records), 1000):
            part = list(records[start : start + 1000])
            status, answer = self.post("/1/upload", {"d": part})
            assert (status, answer.get("processed")) == (200, len(part)), answer

    def create(self, **fields: Any) -> int:
        """Creates a campaign that must be accepted; its id."""
        body = {
            "name": "a campaign",
            "where": {},
            "content": {"title": "Hello", "body": "there"},
            "devices": ["android", "ios", "windows"],
            "when": "now",
        } | fields
        status, answer = self.post("/1/targets/create.json", body)
        assert status == 200, answer
        return int(answer["id"])

    def result(self, campaign_id: int) -> dict[str, int]:
        """The numbers of a campaign, once it is completed."""

        def ask() -> dict[str, int] | None:
            status, answer = self.post("/1/targets/result.json", {"id": campaign_id})
            return answer["result"] if status == 200 else None

        return wait_for(ask)


def wait_for(ask: Callable[[], T | None], seconds: float = RESULT_SECONDS) -> T:
    """The first answer that is not None or False; asks again until `seconds` are over, less often the longer it takes:
    who is asked has the same two cores."""
    began = time.monotonic()
    while True:
        answer = ask()
        if answer is not None and answer is not False:
            return answer
        waited = time.monotonic() - began
        if waited > seconds:
            raise AssertionError(f"no answer in {seconds} s")
        time.sleep(min(max(waited / 5, 0.02), 0.1))


class Server(Process):
    """`tocsin serve` on a folder."""

    def __init__(
        self, data: Path, environment: Mapping[str, str] | None = None, port: int | None = None, *, wait: bool = True
    ):
        self.data = data
        self.port = port or free_ports(1)
        self.environment = dict(environment or {})
        data.mkdir(parents=True, exist_ok=True)
        self.ledger_url = self.environment.get("TOCSIN_LEDGER_URL") or new_sqlite(data)
        arguments = ("serve", "--data", str(data), "--port", str(self.port))
        super().__init__(*arguments, environment=environment, log=data / "log", wait=wait)

    def again(self, *, wait: bool = True) -> Server:
        """A new process on the same folder and port."""
        return Server(self.data, self.environment, self.port, wait=wait)

    @functools.cached_property
    def ledger(self) -> Ledger:
        """Its ledger, opened in this process beside it."""
        return open_ledger(self.ledger_url)

    def stop(self) -> int:
        self._close_ledger()
        return super().stop()

    def kill(self) -> None:
        self._close_ledger()
        super().kill()

    def _close_ledger(self) -> None:
        """Close it before the server's end, which would not be the last one to leave otherwise."""
        if "ledger" in self.__dict__:
            self.ledger.close()
            del self.ledger

    def account(self, timezone: str = "UTC") -> Caller:
        """A new account, and somebody who calls as it."""
        account, passcode = create_account(self.ledger, "test", timezone, time.time())
        return Caller(self.port, {"X-CleverTap-Account-Id": account.id, "X-CleverTap-Passcode": passcode})

    def trust_pages(self, caller: Caller) -> None:
        """Lets pages of the account say who somebody is."""
        write = functools.partial(set_policy, account_id=caller.account_id, name="apps", now=time.time())
        self.ledger.write_now(lambda connection: write(connection, value='{"identities": "trust"}'))

    def use_sandbox(self, caller: Caller, sandbox: Sandbox, *, webhook: bool = False) -> None:
        """Points the account's providers at the sandbox. webhook: web pushes go to a server that encrypts them."""
        key = self.environment.get("TOCSIN_SECRET_KEY", "")
        store = functools.partial(store_providers_in, self.ledger, key, caller.account_id)
        given = sandbox.credentials
        store(sandbox_settings(given))
        if webhook:
            hook = {"url": given["webhook"]["webpush"], "secret": given["webhook"]["secret"], "ca": given["ca"]}
            store({"webpush": hook})


class Sandbox(Process):
    """`tocsin sandbox`: the vendors and their control API."""

    def __init__(self) -> None:
        self.port = free_ports(7)
        super().__init__("sandbox", "--port", str(self.port))
        self.control = Caller(self.port)

    @functools.cached_property
    def credentials(self) -> dict[str, Any]:
        """What it takes, by vendor."""
        found: dict[str, Any] = self.control.get("/credentials")[1]
        return found

    def counts(self) -> dict[str, dict[str, int]]:
        counts: dict[str, dict[str, int]] = self.control.get("/counts")[1]
        return counts

    def messages(self, vendor: str) -> list[dict[str, Any]]:
        """Everything a vendor accepted."""
        found: list[dict[str, Any]] = []
        after = 0
        while page := self.control.get(f"/messages?vendor={vendor}&limit=1000&after={after}")[1]["messages"]:
            found.extend(page)
            after = page[-1]["id"]
        return found

    def read_refused(self) -> list[dict[str, str]]:
        """The newest messages that a script answered with an error."""
        refused: list[dict[str, str]] = self.control.get("/refused")[1]["messages"]
        return refused

    def fault(self, **script: Any) -> None:
        status, answer = self.control.post("/faults", script)
        assert status == 200, answer

    def clear(self) -> None:
        self.control.call("DELETE", "/faults")
        self.control.call("DELETE", "/messages")


@pytest.fixture(scope="session")
def sandbox_process() -> Iterator[Sandbox]:
    sandbox = Sandbox()
    yield sandbox
    assert sandbox.stop() == 0


@pytest.fixture
def sandbox(sandbox_process: Sandbox) -> Sandbox:
    """The vendors, with no faults and nothing received."""
    sandbox_process.clear()
    return sandbox_process


@pytest.fixture
def start_server() -> Iterator[Callable[..., Server]]:
    """Starts servers of a test's own, called like `Server`; those that still run at its end are killed."""
    started: list[Server] = []

    def start(*arguments: Any, **options: Any) -> Server:
        started.append(Server(*arguments, **options))
        return started[-1]

    yield start
    for server in started:
        server.kill()


@pytest.fixture
def start_small(start_server: Callable[..., Server], tmp_path: Path) -> Callable[[int], Server]:
    """Starts a server with so many senders, whose windows are small."""

    def start_one(senders: int) -> Server:
        sizes = {"TOCSIN_WINDOW": str(SMALL_WINDOW), "TOCSIN_CHUNKS_AT_ONCE": str(SMALL_AT_ONCE)}
        return start_server(tmp_path / str(senders), ROOMY | sizes | {"TOCSIN_SENDERS": str(senders)})

    return start_one


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests that do not kill it, with senders; every test has an account of its own."""
    own = {"TOCSIN_SECRET_KEY": SERVER_KEY, "TOCSIN_SENDERS": "2"}
    server = Server(tmp_path_factory.mktemp("server"), ROOMY | own)
    yield server
    assert server.stop() == 0


@pytest.fixture
def caller(server: Server) -> Caller:
    """A new account on the shared server, in Berlin's time zone."""
    return server.account("Europe/Berlin")


@pytest.fixture
def sending(server: Server, caller: Caller, sandbox: Sandbox) -> Caller:
    """A new account whose providers are the sandbox."""
    server.use_sandbox(caller, sandbox)
    return caller


@pytest.fixture
def hooked(server: Server, caller: Caller, sandbox: Sandbox) -> Caller:
    """A new account whose providers are the sandbox, web pushes by its receiver of webhooks."""
    server.use_sandbox(caller, sandbox, webhook=True)
    return caller


@pytest.fixture(scope="session")
def ledger(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ledger]:
    """A ledger in this process."""
    ledger = open_ledger(new_sqlite(tmp_path_factory.mktemp("ledger")))
    yield ledger
    ledger.close()


def people(
    count: int, prefix: str = "user", kinds: tuple[str, ...] = ("fcm", "apns", "wns"), wns_port: int = 0
) -> list[dict[str, Any]]:
    """Records of `count` users with a name, an address, and one device each, its kind in turn."""
    records: list[dict[str, Any]] = []
    for number in range(count):
        name, device = f"{prefix}-{number}", f"{prefix}-device-{number}"
        profile = {"Name": f"Name {number}", "Email": f"{name}@example.com"}
        records.append({"type": "profile", "identity": name, "objectId": device, "profileData": profile})
        kind = kinds[number % len(kinds)]
        records.append(
            {"type": "token", "objectId": device, "tokenData": {"type": kind, "id": token(kind, name, wns_port)}}
        )
    return records


def token(kind: str, name: str, wns_port: int = 0) -> str:
    """A well-formed address of that kind. A channel is the sandbox's own at that port, or else one of Microsoft's."""
    match kind:
        case "apns":
            return name.encode().hex().rjust(64, "a")[-64:]
        case "wns":
            origin = f"https://127.0.0.1:{wns_port}/w" if wns_port else "https://db3.notify.windows.com"
            return f"{origin}/?token={name}"
        case _:
            return f"{name}:fcm-registration-token"
