"""The rolling export: each record is in the files once, whatever ends in the middle."""

from __future__ import annotations

import contextlib
import itertools
import random
import re
import secrets
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import obstore
import pyarrow.parquet
import pytest
from click.testing import CliRunner
from conftest import ROOMY, THOROUGH, Sandbox, Server, free_ports, people, wait_for
from sqlalchemy import Connection
from support import object_store
from support.database_clock import follow_clock

from tocsin.account import Account, create_account
from tocsin.cli import tocsin
from tocsin.errors import Misconfigured, Problem
from tocsin.ingest import event_row
from tocsin.settings import Settings
from tocsin.stats.warehouse import position
from tocsin.stats.warehouse.destination import PART, Bucket, Folder, open_destination
from tocsin.stats.warehouse.exporter import TROUBLE_SECONDS, Exporter
from tocsin.stats.warehouse.files import DATASETS, HOUR, ExportWindow, find_end, write_files
from tocsin.stats.warehouse.position import LEASE_SECONDS
from tocsin.stats.webhooks.feed import MICRO, listen_to
from tocsin.store import schema
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger, open_ledger
from tocsin.store.rows import insert_rows

pytest_plugins = ("engines",)

SECONDS = 0.01
CHUNKS = itertools.count(5_000_000)


class CrashError(BaseException):
    """The process ended here."""


class FragileExporter(Exporter):
    """Ends before or after something is written down."""

    dice: random.Random

    async def _save(self, account_id: str, **values: Any) -> bool:
        at = self.dice.random()
        if at < 0.15:
            raise CrashError
        saved = await super()._save(account_id, **values)
        if at < 0.3:
            raise CrashError
        return saved


class Objects:
    """A bucket of an S3 server, and a folder that its objects are read from."""

    def __init__(self, server: str, folder: Path):
        self.server, self.folder, self.name = server, folder, secrets.token_hex(8)
        target = f"s3://{self.name}/exports/of us"
        self.settings = Settings(export_folder=target, export_endpoint=server, export_seconds=SECONDS)

    def make(self) -> Objects:
        with urllib.request.urlopen(urllib.request.Request(f"{self.server}/{self.name}", method="PUT")):
            return self

    def open(self) -> Bucket:
        found = open_destination(self.settings)
        assert isinstance(found, Bucket)
        return found

    def fetch(self) -> list[str]:
        """Copy all objects to the folder; answers their names."""
        shutil.rmtree(self.folder, ignore_errors=True)
        store, names = self.open().store, list[str]()
        for one in (one for some in obstore.list(store) for one in some):
            place = self.folder / one["path"]
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(obstore.get(store, one["path"]).bytes())
            names.append(one["path"])
        return names


@pytest.fixture(scope="module")
def object_server() -> Iterator[str]:
    """A server that speaks S3, in a process of its own."""
    port = free_ports(1)
    with subprocess.Popen([sys.executable, object_store.__file__, str(port)]) as server:
        try:
            wait_for(lambda: _listens(port), 30)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


@pytest.fixture
def objects(object_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Objects:
    own = dict(zip(("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"), object_store.KEY, strict=True))
    for name, value in {**own, "REGION": "eu-central-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    return Objects(object_server, tmp_path / "fetched")


class Export:
    """One exported account on a ledger and the facts store, and exporters that look when they are told."""

    def __init__(self, store: Ledger, facts: Facts, folder: Path | Objects, seed: int):
        self.store, self.facts, self.dice = store, facts, random.Random(seed)
        self.objects = None if isinstance(folder, Path) else folder
        self.folder = folder if isinstance(folder, Path) else folder.folder
        self.now = datetime.now(UTC).timestamp()
        follow_clock(store, lambda: self.now)
        self.account = create_account(store, "test", "UTC", self.now)[0]
        self.settings = Settings(export_folder=str(folder), export_seconds=SECONDS)
        if self.objects is not None:
            self.settings = self.objects.settings
        self.stored: Counter[tuple[Any, ...]] = Counter()

    async def begin(self) -> None:
        self.store.write_now(lambda one: position.start(one, self.account.id, "test", self.now))
        await listen_to(self.facts, [], [self.account.id])
        assert await self.new_exporter(Exporter).look()

    def new_exporter(self, kind: type[Exporter]) -> Exporter:
        return kind(self.store, self.facts, self.settings, lambda: self.now)

    async def outcomes(self, chunk: int, count: int) -> None:
        at = datetime.fromtimestamp(self.now, UTC)
        own = (self.account.id, 7, chunk)
        rows = [
            (*own, place, 1 + place, "ios", "push", "accepted", "", "", "", date.today(), at) for place in range(count)
        ]
        await self.facts.insert("outcome", rows)
        for place in range(count):
            self.stored["outcomes", f"{chunk}-{place}", 1 + place] = 1

    async def events(self, chunk: int, count: int, name: str) -> None:
        rows = [
            event_row(self.account, name, user, self.now - 1e7 * user, chunk * 65536 + user, {"Campaign id": 7})
            for user in range(1, count + 1)
        ]
        await self.facts.insert("event", rows)
        for user in range(1, count + 1):
            if name == "Notification Viewed by Machine":
                self.stored["reports", f"{chunk}-{user}", user] = 1
            else:
                self.stored["events", chunk * 65536 + user, user] = 1

    async def finish(self) -> None:
        """Write all that is there: a later row proves that the windows before it are over."""
        self.now += LEASE_SECONDS + TROUBLE_SECONDS
        exporter = self.new_exporter(Exporter)
        for _ in range(50):
            await exporter.look()
            if sum(self.read().values()) >= sum(self.stored.values()):
                break
        for _ in range(3):
            await exporter.look()

    def read(self) -> Counter[tuple[Any, ...]]:
        """How often each record is in the files."""
        if self.objects is not None:
            self.objects.fetch()
        return read_files(self.folder, self.account)


def read_files(folder: Path, account: Account | str) -> Counter[tuple[Any, ...]]:
    """How often each record is in the files."""
    found: Counter[tuple[Any, ...]] = Counter()
    for dataset in DATASETS:
        key = "id" if dataset.name == "events" else "message"
        mine = folder / (account if isinstance(account, str) else account.id) / dataset.name
        for path in sorted(mine.glob("day=*/*.parquet")):
            table = pyarrow.parquet.ParquetFile(path).read()
            found.update(
                (dataset.name, *row) for row in zip(table[key].to_pylist(), table["user"].to_pylist(), strict=True)
            )
    return found


@pytest.mark.parametrize("kind", ["folder", "bucket"])
@pytest.mark.parametrize("seed", range(30 if THOROUGH else 2))
async def test_each_record_is_there_once(
    own_ledger: Ledger, facts: Facts, tmp_path: Path, objects: Objects, seed: int, kind: str
) -> None:
    """Records stored once or many times, exporters that end at any point: each is in one file."""
    export = Export(own_ledger, facts, tmp_path / "files" if kind == "folder" else objects.make(), seed)
    await export.begin()
    dice, chunks = export.dice, [next(CHUNKS)]
    exporter: FragileExporter | None = None
    for _ in range(12):
        chunk = dice.choice([*chunks, next(CHUNKS)])
        chunks.append(chunk)
        match dice.randrange(3):
            case 0:
                await export.outcomes(chunk, dice.choice([1, 40]))
            case 1:
                await export.events(chunk, dice.choice([1, 40]), "Charged")
            case _:
                await export.events(chunk, 3, "Notification Viewed by Machine")
        if exporter is None:
            exporter = export.new_exporter(FragileExporter)  # type: ignore[assignment]
            assert exporter is not None
            exporter.dice = dice
        try:
            await exporter.look()
        except CrashError:
            exporter = None
            export.now += LEASE_SECONDS + 1
    await export.finish()
    assert export.read() == export.stored
    one = own_ledger.read_now(lambda connection: position.find_export(connection, export.account.id))
    assert (one.writing_until, one.trouble) == (None, "")
    assert not list((tmp_path / "files").rglob("*.unfinished"))


async def test_what_a_file_says(own_ledger: Ledger, facts: Facts, tmp_path: Path) -> None:
    """Names, types and values of the columns; what cannot be written is told and tried again."""
    export = Export(own_ledger, facts, tmp_path / "files", 0)
    await export.begin()
    (tmp_path / "files").write_text("no folder")
    chunk = next(CHUNKS)
    await export.outcomes(chunk, 1)
    await export.events(chunk, 1, "Charged")
    exporter = export.new_exporter(Exporter)

    def read() -> position.ExportPosition:
        return own_ledger.read_now(lambda connection: position.find_export(connection, export.account.id))

    while not read().trouble:
        await exporter.look()
    assert "NotADirectoryError" in read().trouble
    (tmp_path / "files").unlink()
    await export.finish()
    assert (read().trouble, read().rows) == ("", 2)
    [path] = (tmp_path / "files").glob("*/outcomes/*/*.parquet")
    [row] = pyarrow.parquet.ParquetFile(path).read().to_pylist()
    assert path.parent.name == f"day={row['stored_at']:%Y-%m-%d}"
    assert path.stat().st_mode & 0o777 == 0o600
    expected = {"message": f"{chunk}-0", "campaign": 7, "variant": "default", "channel": "push", "platform": "ios"}
    expected |= {"tag_group": "", "outcome": "accepted", "code": "", "user": 1, "identity": None, "object_id": None}
    assert {name: row[name] for name in expected} == expected
    [path] = (tmp_path / "files").glob("*/events/*/*.parquet")
    [row] = pyarrow.parquet.ParquetFile(path).read().to_pylist()
    assert (row["name"], row["props"], row["at"].utcoffset()) == ("Charged", '{"Campaign id":7}', timedelta(0))


async def test_what_is_wrong_with_a_bucket_is_said(own_ledger: Ledger, facts: Facts, objects: Objects) -> None:
    """A bucket that is not there is told without a secret, and what waited is written once it is."""
    export = Export(own_ledger, facts, objects, 0)
    await export.begin()
    await export.outcomes(next(CHUNKS), 2)
    exporter, told = export.new_exporter(Exporter), ""
    while not told:
        await exporter.look()
        told = own_ledger.read_now(lambda one: position.find_export(one, export.account.id)).trouble
    assert told.startswith(f"Misconfigured: There is no bucket for s3://{objects.name}/exports/of us: make it.")
    assert object_store.KEY[1] not in told
    objects.make()
    await export.finish()
    assert export.read() == export.stored
    assert own_ledger.read_now(lambda one: position.find_export(one, export.account.id)).trouble == ""


def test_an_object_is_whole_or_not_there(objects: Objects) -> None:
    """One that is put in parts, and twice, is one; of one that is given up there is none, nor of one removed."""
    destination, name, raw = objects.make().open(), "a/day=2026-11-26/x.parquet", secrets.token_bytes(PART + 1)
    for _ in range(2):
        with destination.write(name) as file:
            file.write(raw)
            assert objects.fetch() in ([], [name])
    assert (objects.fetch(), (objects.folder / name).read_bytes() == raw) == ([name], True)
    with contextlib.suppress(CrashError), destination.write("a/y.parquet") as file:
        file.write(raw)
        raise CrashError
    assert objects.fetch() == [name]
    for _ in range(2):
        destination.remove(name)
    assert objects.fetch() == []


def test_a_store_that_is_away_is_given_up(objects: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    """Soon, with a sentence and without its library's own words."""
    monkeypatch.setattr("tocsin.stats.warehouse.destination.RETRIES", 1)
    objects.settings = msgspec.structs.replace(objects.settings, export_endpoint=f"http://127.0.0.1:{free_ports(1)}")
    with pytest.raises(Misconfigured, match="could not be written; it is tried again") as told:
        objects.open().remove("a")
    assert "\n" not in str(told.value)


def test_credentials_that_may_not_write_are_told(objects: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "another secret")
    with pytest.raises(Misconfigured, match="credentials in the environment may not write to s3://") as told:
        objects.make().open().remove("a")
    assert "another secret" not in str(told.value)


@pytest.mark.parametrize(
    ("target", "endpoint", "said"),
    [
        ("ftp://bucket/a", "", "ftp:// is none of s3, gs, az"),
        ("s3:///a", "", "TOCSIN_EXPORT_FOLDER: "),
        ("s3://known:secret@a/b", "", "TOCSIN_EXPORT_FOLDER is a bucket and a prefix; credentials of s3:// "),
        ("az://a/b?sig=secret", "", "TOCSIN_EXPORT_FOLDER is a bucket and a prefix; credentials of az:// "),
        ("s3://bucket", "minio:9000", "has to be a URL"),
        ("s3://bucket", "https://me:word@minio", "not 'https://me:…@minio'"),
        ("gs://bucket", "https://minio", "is of an s3://"),
        ("/srv/files", "https://minio", "is of an s3://"),
    ],
)
def test_a_destination_that_cannot_be_is_refused(target: str, endpoint: str, said: str) -> None:
    with pytest.raises(Misconfigured, match=re.escape(said)):
        open_destination(Settings(export_folder=target, export_endpoint=endpoint))


def test_without_its_library_a_bucket_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tocsin.stats.warehouse.destination.find_spec", lambda _: None)
    with pytest.raises(Misconfigured, match=r"pip install 'tocsin\[object-store\]'"):
        open_destination(Settings(export_folder="s3://bucket/a"))


async def test_a_clock_that_is_set_back_leaves_nothing_out(own_ledger: Ledger, facts: Facts, tmp_path: Path) -> None:
    """Whoever waits for the end of a window notices it at once, and goes on from then."""
    export = Export(own_ledger, facts, tmp_path / "files", 0)
    await export.begin()
    slow = Exporter(own_ledger, facts, Settings(export_folder=export.settings.export_folder), lambda: export.now)
    await export.events(next(CHUNKS), 1, "Charged")
    await slow.look()
    behind = int((export.now + 86_400) * MICRO)
    own_ledger.write_now(lambda one: one.execute(position.table.update().values(done_until=behind)))
    await export.events(next(CHUNKS), 1, "Charged")
    await slow.look()
    [one] = own_ledger.read_now(position.list_exports)
    assert one.done_until is not None
    assert one.done_until < export.now * MICRO
    await export.finish()
    assert set(read_files(tmp_path / "files", export.account)) == set(export.stored)  # rather twice than never


async def test_events_of_any_name_and_campaign_are_written(own_ledger: Ledger, facts: Facts, tmp_path: Path) -> None:
    """A caller's event is none of a machine, whatever it ends with; and no number is too large for a column."""
    export = Export(own_ledger, facts, tmp_path / "files", 0)
    await export.begin()
    await export.events(next(CHUNKS), 1, "Washed by Machine")
    props = {"Campaign id": 2**40}
    row = event_row(export.account, "Notification Viewed by Machine", 1, export.now, 65536, props)
    await facts.insert("event", [row])
    export.stored["reports", "1-0", 1] = 1
    await export.finish()
    assert read_files(tmp_path / "files", export.account) == export.stored


class OvertakenLedger:
    """A ledger whose process was stopped while it wrote a window: another one writes the same meanwhile."""

    def __init__(self, ledger: Ledger, meanwhile: Callable[[], object]):
        self._ledger, self._meanwhile = ledger, [meanwhile]

    def read_now(self, work: Callable[[Connection], Any]) -> Any:
        if self._meanwhile:
            self._meanwhile.pop()()
        return self._ledger.read_now(work)


async def test_two_processes_write_a_window(own_ledger: Ledger, facts: Facts, tmp_path: Path) -> None:
    """A process that goes on after its lease is over spoils no file of who has it now, though what it writes has become
    shorter."""
    export = Export(own_ledger, facts, tmp_path / "files", 0)
    await export.begin()
    await export.outcomes(next(CHUNKS), 40)
    given = (facts, Folder(tmp_path / "files"), export.account.id, ExportWindow(0, int(export.now + 3600) * MICRO))
    names = [
        {"account_id": export.account.id, "kind": "identity", "value": secrets.token_hex(8), "user_id": user}
        for user in range(1, 41)
    ]
    own_ledger.write_now(lambda one: insert_rows(one, schema.identity, names))

    def overtake() -> None:
        write_files(own_ledger, *given)
        own_ledger.write_now(lambda one: one.execute(schema.identity.delete()))

    stopped = OvertakenLedger(own_ledger, overtake)
    write_files(stopped, *given)  # type: ignore[arg-type]
    assert read_files(tmp_path / "files", export.account) == export.stored
    assert not list((tmp_path / "files").rglob("*.unfinished"))


async def test_nothing_is_left_of_a_crash(own_ledger: Ledger, facts: Facts, tmp_path: Path) -> None:
    """Whoever writes the window of a process that ended while it wrote it cleans up behind it."""
    export, folder = Export(own_ledger, facts, tmp_path / "files", 0), tmp_path / "files"
    await export.begin()
    await export.outcomes(next(CHUNKS), 3)
    start = own_ledger.read_now(lambda one: position.find_export(one, export.account.id)).done_until or 0
    window = ExportWindow(start, start + HOUR)

    def crash() -> None:
        raise CrashError

    with pytest.raises(CrashError):
        write_files(OvertakenLedger(own_ledger, crash), facts, Folder(folder), export.account.id, window)  # type: ignore[arg-type]
    assert len(list(folder.rglob("*.unfinished"))) == 1
    own_ledger.write_now(lambda one: one.execute(position.table.update().values(writing_until=window.end)))
    assert await export.new_exporter(Exporter).look()
    assert read_files(folder, export.account) == export.stored
    assert not list(folder.rglob("*.unfinished"))


@pytest.mark.parametrize(
    ("stored", "seconds", "end"),
    [
        (HOUR, 900.0, HOUR + 900 * MICRO),
        (HOUR + 899 * MICRO, 900.0, HOUR + 900 * MICRO),
        (2 * HOUR - 1, 900.0, 2 * HOUR),
        (2 * HOUR - 1, 3600.0, 2 * HOUR),
        (2 * HOUR - 1, 1100.0, 2 * HOUR),
    ],
)
def test_windows_follow_the_clock(stored: int, seconds: float, end: int) -> None:
    assert find_end(stored, seconds) == end
    assert ExportWindow(HOUR, HOUR + 1).name == "19700101T010000.000000Z-19700101T010000.000001Z.parquet"


def test_over_kills_each_record_is_there_once(tmp_path: Path, sandbox: Sandbox) -> None:
    """Uploads and campaigns through the API, while the server is killed again and again."""
    folder = tmp_path / "files"
    own = {"TOCSIN_EXPORT_FOLDER": str(folder), "TOCSIN_EXPORT_SECONDS": "0.05"}
    server = Server(tmp_path / "data", ROOMY | own)
    caller = server.account()
    server.use_sandbox(caller, sandbox)
    runner = CliRunner(env=own)
    given = ("--account", caller.account_id, "--data", str(tmp_path / "data"))
    assert runner.invoke(tocsin, ["export", "start", *given]).exit_code == 0
    again = runner.invoke(tocsin, ["export", "start", *given])
    assert isinstance(again.exception, Problem)

    def begun() -> bool:
        with contextlib.closing(open_ledger(server.ledger_url)) as ledger:
            [one] = ledger.read_now(position.list_exports)
            return one.done_until is not None

    wait_for(begun)
    caller.upload(*people(30, "p", ("fcm",)))
    for number in range(6 if THOROUGH else 1):
        caller.upload(*({"identity": f"p-{one}", "type": "event", "evtName": "Charged", "ts": 1_700_000_000 + number,
                         "evtData": {"n": number}} for one in range(30)))  # fmt: skip
        caller.result(caller.create(devices=["android"]))
        server.kill()
        server = server.again()
    caller.upload({"identity": "p-0", "type": "event", "evtName": "Last", "evtData": {}})
    rounds = 6 if THOROUGH else 1
    wait_for(lambda: sum(read_files(folder, caller.account_id).values()) >= 60 * rounds + 1, 30)
    found = read_files(folder, caller.account_id)
    assert set(found.values()) == {1}
    assert Counter(name for name, *_ in found) == {"outcomes": 30 * rounds, "events": 30 * rounds + 1}
    [path, *_] = (folder / caller.account_id / "events").glob("day=*/*.parquet")
    assert pyarrow.parquet.ParquetFile(path).read()["identity"][0].as_py().startswith("p-")
    listed = runner.invoke(tocsin, ["export", "list", *given[2:]])
    assert caller.account_id in listed.output
    assert runner.invoke(tocsin, ["export", "stop", *given]).exit_code == 0
    assert isinstance(runner.invoke(tocsin, ["export", "stop", *given]).exception, Problem)
    assert server.stop() == 0
