"""The commands as an operator types them."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import structlog
import structlog.testing
from conftest import ROOMY, Caller, Sandbox, Server, new_sqlite
from support.commands import MEASURED_COMMAND, run
from support.processes import read_answer

import tocsin
from tocsin.cli.bounce import LIMIT
from tocsin.errors import Misconfigured
from tocsin.feedback import bounce_report
from tocsin.settings import read_settings

STORES = {"sqlalchemy", "alembic"}
LOGGING = {"structlog", "rich"}
HEAVY = {
    *("pycurl", "cryptography", "phonenumbers", "email_validator", "pyarrow", "chdb", "clickhouse_connect", "jwt"),
    *("granian", "starlette", "prometheus_client", "tocsin.app", "tocsin.providers", "tocsin.sandbox", "tocsin.demo"),
}
RUN_AND_LIST = """
import sys
from tocsin.cli import main
try:
    main()
finally:
    print(*sys.modules, file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["nonsense"], 2, "No such command"),
        (["serve"], 2, "--data"),
        (["serve", "--data", "x", "--role", "cook"], 2, "cook"),
        (["account", "create", "A", "--data", "{data}", "--timezone", "Mars/Olympus"], 1, "time zone"),
        (["provider", "sandbox", "--account", "NO-SUC-HONE", "--data", "{data}", "--port", "1"], 1, "sandbox"),
        (["account", "list", "--data", "{data}/typo"], 1, "no folder"),
        (["import", "events", "{data}/none.csv", "--account", "X", "--data", "{data}"], 2, "does not exist"),
    ],
    ids=["command", "option", "choice", "zone", "sandbox", "folder", "file"],
)
def test_mistakes_are_one_sentence(tmp_path: Path, arguments: list[str], code: int, sentence: str) -> None:
    """A mistake ends with 2 (usage) or 1, and one line on stderr that names it."""
    done = run(*(argument.replace("{data}", str(tmp_path)) for argument in arguments))
    assert done.returncode == code
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("latin.csv", b"identity,Name\nu1,J\xc3\xbcrgen\nu2,J\xfcrgen\n"),
        ("broken.parquet", b"PAR1 no"),
        ("lines.jsonl", b"{no\n"),
    ],
    ids=["encoding", "parquet", "json"],
)
def test_files_that_cannot_be_read(server: Server, caller: Caller, tmp_path: Path, name: str, content: bytes) -> None:
    """A broken file is one sentence, not a trace."""
    file = tmp_path / name
    file.write_bytes(content)
    done = run("import", "profiles", str(file), "--account", caller.account_id, "--data", str(server.data))
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("tocsin: ")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "environment",
    [{"TOCSIN_LEDGER_URL": "bogus"}, {"TOCSIN_FACTS_URL": "bogus://x"}, {"TOCSIN_WINDOW": "abc"}],
    ids=["ledger", "facts", "number"],
)
def test_settings_that_do_not_fit(tmp_path: Path, environment: dict[str, str]) -> None:
    """A value that cannot work stops the start with its name."""
    done = run("serve", "--data", str(tmp_path), environment=environment)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert next(iter(environment)).removeprefix("TOCSIN_").lower() in done.stderr.lower()


def test_import_keeps_identities_as_texts(server: Server, caller: Caller, tmp_path: Path) -> None:
    """An identity that reads as a number or a boolean is a text all the same; wide rows go in smaller batches."""
    file = tmp_path / "p.csv"
    wide = "x" * 1900
    columns = ",".join(f"c{number}" for number in range(5))
    rows = [f"{name},{','.join([wide] * 5)}" for name in ("5e3", "true", "1.0", *map(str, range(800)))]
    file.write_text(f"identity,{columns}\n" + "\n".join(rows) + "\n", "utf-8")
    done = run("import", "profiles", str(file), "--account", caller.account_id, "--data", str(server.data))
    assert read_answer(done) == {"processed": 803, "unprocessed": 0}, done.stderr


def test_unknown_setting_stops_the_start(tmp_path: Path) -> None:
    """A typo in the environment is not ignored."""
    done = run("serve", "--data", str(tmp_path), environment={"TOCSIN_WINDOWS": "5"})
    assert done.returncode == 1
    assert "TOCSIN_WINDOWS is not a setting" in done.stderr


def test_roles_apart_need_servers(tmp_path: Path) -> None:
    """On the embedded stores all roles share a process; the error says what to set."""
    done = run("serve", "--data", str(tmp_path), "--role", "worker")
    assert done.returncode == 1
    assert "TOCSIN_FACTS_URL" in done.stderr


def test_second_server_on_a_folder_is_refused(server: Server) -> None:
    """Two servers on one folder would fight over it; the second one says so and ends."""
    done = run("serve", "--data", str(server.data), "--port", "1")
    assert done.returncode == 1
    assert "Another tocsin runs" in done.stderr


def test_account_and_passcodes(server: Server) -> None:
    """Made while the server runs: the first passcode works, a second too, a revoked one no longer."""
    made = read_answer(run("account", "create", "Acme", "--data", str(server.data)))
    name = ("--account", made["account_id"], "--data", str(server.data))
    second = read_answer(run("account", "passcode", "add", *name, "--label", "backend"))["passcode"]
    body = {"from": 20260101, "to": 20260101}

    def status(passcode: str) -> int:
        headers = {"X-CleverTap-Account-Id": made["account_id"], "X-CleverTap-Passcode": passcode}
        return Caller(server.port, headers).post("/1/targets/list.json", body)[0]

    assert (status(made["passcode"]), status(second), status("wrong")) == (200, 200, 401)
    assert read_answer(run("account", "passcode", "revoke", *name, "--label", "backend"))["revoked"] == 1
    assert read_answer(run("account", "list", "--data", str(server.data)))["name"] == "Acme"
    # A server remembers credentials for a second, so this may have to be asked again.
    deadline_asks = 200
    assert any(status(second) == 401 for _ in range(deadline_asks))
    assert status(made["passcode"]) == 200


def write_files(folder: Path) -> list[Path]:
    """The same three events as CSV, JSON lines and Parquet."""
    rows = [
        {"identity": f"u{number}", "ts": 1420113600 + number, "evtName": "App Launched", "Price": number + 0.5}
        for number in range(3)
    ]
    csv, lines, parquet = folder / "e.csv", folder / "e.jsonl", folder / "e.parquet"
    csv.write_text(
        "identity,ts,evtName,Price\n" + "".join(",".join(map(str, row.values())) + "\n" for row in rows), "utf-8"
    )
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), parquet)
    return [csv, lines, parquet]


def count_events(caller: Caller) -> int:
    where = {
        "event_name": "App Launched",
        "from": 20150101,
        "to": 20150101,
        "event_properties": [{"name": "Price", "operator": "greater_than", "value": 1}],
    }
    caller.upload(
        *(
            {"type": "token", "objectId": f"d{number}", "tokenData": {"type": "fcm", "id": f"token-number-{number}"}}
            for number in range(3)
        ),
        *({"type": "profile", "identity": f"u{n}", "objectId": f"d{n}", "profileData": {"A": 1}} for n in range(3)),
    )
    body = {"name": "x", "where": where, "content": {"title": "t", "body": "b"}, "devices": ["android"], "when": "now"}
    answer = caller.post("/1/targets/create.json", body | {"estimate_only": True})[1]
    return int(answer["estimates"]["android"])


def test_import_through_a_running_server(server: Server, caller: Caller, tmp_path: Path) -> None:
    """Three formats hold the same events; imported one after the other they are the same events once."""
    for file in write_files(tmp_path):
        done = run("import", "events", str(file), "--account", caller.account_id, "--data", str(server.data))
        assert read_answer(done) == {"processed": 3, "unprocessed": 0}, done.stderr
    assert count_events(caller) == 2


def test_import_and_repair_without_a_server(tmp_path: Path) -> None:
    """With no server running the commands open the stores themselves, and a server finds what they wrote."""
    data = tmp_path / "data"
    account = read_answer(run("account", "create", "Acme", "--data", str(data)))
    name = ("--account", account["account_id"], "--data", str(data))
    people = tmp_path / "p.csv"
    people.write_text("identity,Name,Email\nu1,Ann,ann@example.com\nu2,Bo,nonsense\n", "utf-8")
    done = run("import", "profiles", str(people), *name)
    assert read_answer(done, code=1) == {"processed": 1, "unprocessed": 1}
    assert "Email is not valid" in done.stderr
    assert read_answer(run("repair", *name)) == {"status": "success", "profiles": 1, "outcomes": 0}
    server = Server(data, ROOMY)
    headers = {"X-CleverTap-Account-Id": account["account_id"], "X-CleverTap-Passcode": account["passcode"]}
    body = {"name": "x", "where": {}, "target_mode": "email", "when": "now", "content": {"subject": "s", "body": "b"}}
    answer = Caller(server.port, headers).post("/1/targets/create.json", body | {"estimate_only": True})
    assert server.stop() == 0
    assert answer == (200, {"status": "success", "estimates": {"web": 1}})


def test_repair_and_doctor_beside_a_server(server: Server, caller: Caller, sandbox: Sandbox) -> None:
    """Repair goes through the running server; doctor says what is set."""
    caller.upload({"type": "profile", "identity": "u", "profileData": {"Name": "U"}})
    server.use_sandbox(caller, sandbox)
    name = ("--account", caller.account_id, "--data", str(server.data))
    assert read_answer(run("repair", *name))["profiles"] == 1
    done = run("doctor", "--data", str(server.data))
    assert f"{caller.account_id}: providers apns, fcm, sms, smtp, vapid, wns" in done.stdout
    key = sandbox.control.get("/credentials")[1]["vapid"]["public_key"]
    assert f"{caller.account_id}: web push by the key {key}, to 0 browsers" in done.stdout


def test_provider_set_reads_files(server: Server, caller: Caller, tmp_path: Path) -> None:
    """Credentials come from files, nothing of them is printed, and nonsense is refused before it is stored."""
    password = tmp_path / "password"
    password.write_text("hunter2-of-the-relay\n", "utf-8")
    key_of_server = {"TOCSIN_SECRET_KEY": server.environment["TOCSIN_SECRET_KEY"]}  # other accounts' are under it
    name = ("--account", caller.account_id, "--data", str(server.data))
    done = run(
        *("provider", "set", "smtp", *name, "--host", "127.0.0.1", "--port", "2525"),
        *("--sender", "news@example.com", "--username", "u", "--password", str(password)),
        environment=key_of_server,
    )
    assert read_answer(done) == {"account_id": caller.account_id, "provider": "smtp"}
    assert "hunter2" not in done.stdout + done.stderr
    key = tmp_path / "key.json"
    key.write_text('{"not": "a service account"}', "utf-8")
    refused = run("provider", "set", "fcm", *name, "--service-account", str(key), environment=key_of_server)
    assert refused.returncode == 1
    assert refused.stderr.startswith("tocsin: ")


@pytest.mark.parametrize(
    ("arguments", "unwanted"),
    [
        (["--help"], HEAVY | STORES | LOGGING),
        (["config"], HEAVY | STORES),
        (["account", "create", "Acme", "--data", "{data}"], HEAVY),
        (["bounce", "--url", "http://127.0.0.1:1", "/dev/null"], HEAVY | STORES),
        (["policy", "set", "--help"], HEAVY | STORES),
    ],
    ids=["help", "config", "account", "bounce", "policy"],
)
def test_commands_import_what_they_need(tmp_path: Path, arguments: list[str], unwanted: set[str]) -> None:
    """The list of commands is quick for it loads no engine, and no command loads what only others use."""
    given = [argument.replace("{data}", str(tmp_path)) for argument in arguments]
    done = subprocess.run(
        [sys.executable, "-c", RUN_AND_LIST, *given], capture_output=True, text=True, timeout=100, check=False
    )
    loaded = set(done.stderr.splitlines()[-1].split())
    assert "tocsin.cli.options" in loaded, done.stderr
    assert all(importlib.util.find_spec(name) for name in unwanted), "a module of the list is not there at all"
    assert loaded & unwanted == set()


def test_a_sender_and_a_migrated_ledger_need_little(tmp_path: Path) -> None:
    """A sender opens no store and reads no upload, and to open a ledger of this version needs no migrations: what is
    loaded at a start is paid for at each start."""
    program = "import sys, tocsin.delivery.sender; print(*sys.modules)"
    sender = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=100, check=True)
    unwanted = {*STORES, "phonenumbers", "tocsin.ingest", "tocsin.store.schema", "tocsin.store.rows", "jinja2"}
    assert set(sender.stdout.split()) & unwanted == set()
    program = (
        "import sys; from tocsin.store.ledger import open_ledger as o; o(sys.argv[1]).close(); print(*sys.modules)"
    )
    command = [sys.executable, "-c", program, new_sqlite(tmp_path)]
    ledger = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)
    assert "tocsin.store.ledger" in ledger.stdout.split()
    assert "alembic" not in ledger.stdout.split()


def test_bounce_hands_over_as_much_as_is_read() -> None:
    """The command has its own limit, for the server's stands among modules it does not need."""
    assert LIMIT == bounce_report.LIMIT


def test_bench_outside_a_checkout_says_what_to_do(tmp_path: Path) -> None:
    """The installed package has no benchmarks; the sentence names the way to them."""
    shutil.copytree(Path(tocsin.__file__).parent, tmp_path / "tocsin", ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "tocsin", "bench", "ingest"]
    there = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, cwd=tmp_path, env=there)
    assert (done.returncode, done.stdout) == (1, "")
    assert "in a checkout of Tocsin run `make setup`" in done.stderr


def test_bench_runs_from_anywhere(tmp_path: Path) -> None:
    """In a checkout the harness is found from every folder, and the last line is one object with all readings."""
    done = run("bench", "ingest", "--records", "200", "--json", folder=tmp_path, program=str(MEASURED_COMMAND))
    measured = read_answer(done)
    assert (measured["bench"], measured["arguments"]) == ("ingest", {"records": 200})
    names = [one["name"] for one in measured["readings"]]
    assert names[:3] == ["events through /1/upload", "bare insert", "peak memory of the server"]
    assert "events of a CSV file" in names
    assert all(one["value"] > 0 for one in measured["readings"])


def test_config_lists_the_value_in_force() -> None:
    """`tocsin config` shows what the environment says, under the old name of a setting too."""
    shown = run("config", environment={"TOCSIN_WINDOW": "17", "TOCSIN_COURIERS": "3"}).stdout
    assert "TOCSIN_WINDOW=17\n" in shown
    assert "TOCSIN_SENDERS=3\n" in shown


@pytest.mark.parametrize(
    ("environment", "senders", "slow_start", "logged"),
    [
        ({"TOCSIN_COURIERS": "5"}, 5, 60.0, [("TOCSIN_COURIERS", "TOCSIN_SENDERS", False)]),
        (
            {"TOCSIN_RAMP_SECONDS": "7"},
            *(2, 7.0, [("TOCSIN_RAMP_SECONDS", "TOCSIN_SLOW_START_SECONDS", False)]),
        ),
        (
            {"TOCSIN_COURIERS": "5", "TOCSIN_SENDERS": "1"},
            *(1, 60.0, [("TOCSIN_COURIERS", "TOCSIN_SENDERS", True)]),
        ),
        ({"TOCSIN_SENDERS": "1"}, 1, 60.0, []),
    ],
    ids=["couriers", "ramp", "both", "new"],
)
def test_settings_keep_their_old_names(
    tmp_path: Path, environment: dict[str, str], senders: int, slow_start: float, logged: list[tuple[str, str, bool]]
) -> None:
    """A renamed setting is read under its old name, with one line in the log; beside the new one it is ignored."""
    with structlog.testing.capture_logs() as lines:
        settings = read_settings(environment, tmp_path)
    assert (settings.senders, settings.slow_start_seconds) == (senders, slow_start)
    assert [(line["old"], line["new"], line["ignored"]) for line in lines] == logged


def test_a_value_under_an_old_name_has_to_fit(tmp_path: Path) -> None:
    """An old name is no way around the check of its value."""
    with pytest.raises(Misconfigured, match="senders"):
        read_settings({"TOCSIN_COURIERS": "many"}, tmp_path)


@pytest.mark.timeout(240)
def test_demo_ends_with_every_number_right(tmp_path: Path) -> None:
    """The demo compares what it shows with what the vendors counted, and ends with 0 only when all holds."""
    done = run("demo", "--once", "--users", "300", "--data", str(tmp_path / "demo"), program=str(MEASURED_COMMAND))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "All of it holds" in done.stdout
