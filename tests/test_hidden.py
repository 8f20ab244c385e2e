"""What no log line, no error and no child process may hold: values of statements, rows, passwords, our settings."""

from __future__ import annotations

import io
import traceback
from pathlib import Path
from typing import Any

import pytest
import structlog
from conftest import Caller, Server, wait_for
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from support.processes import children, find_settings

from tocsin.errors import Misconfigured
from tocsin.providers.answer_table import check_endpoint
from tocsin.providers.webhook import WebhookSettings
from tocsin.settings import Settings, hide_passwords, read_settings, show_value
from tocsin.store import schema
from tocsin.store.child_process import make_environment
from tocsin.store.facts import Facts, open_facts
from tocsin.store.ledger import Ledger, open_ledger

pytest_plugins = ("engines",)

SECRET = "hunter2@example.com"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:p@db/t", "postgresql://u:…@db/t"),
        ("postgresql://u:p/w?x#y@db/t", "postgresql://u:…@db/t"),
        ("postgresql://u:p@w@db/t", "postgresql://u:…@db/t"),
        ("postgresql://:p@db/t", "postgresql://:…@db/t"),
        ("postgresql://u@db/t?password=p&sslmode=require", "postgresql://u@db/t?password=…&sslmode=require"),
        ("postgresql:///t?host=/tmp&PASSWORD=p", "postgresql:///t?host=/tmp&PASSWORD=…"),
        ("https://db:8443/tocsin?user=u&access_token=p", "https://db:8443/tocsin?user=u&access_token=…"),
        ("clickhouses://u:p@db:9440/tocsin", "clickhouses://u:…@db:9440/tocsin"),
        ("sqlite:////var/lib/tocsin/ledger.db", "sqlite:////var/lib/tocsin/ledger.db"),
        ("chdb:///var/lib/tocsin/facts", "chdb:///var/lib/tocsin/facts"),
        ("http://db:8123/tocsin", "http://db:8123/tocsin"),
        ("", ""),
    ],
)
def test_passwords_of_urls(url: str, shown: str) -> None:
    """In the log-in and in the query; everything else stays to be read."""
    assert hide_passwords(url) == shown


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=4, max_size=20))
def test_no_password_shows(password: str) -> None:
    """Whatever the password holds, and however clumsily it was written into the URL."""
    marked = f"<<{password}>>"
    assert marked not in hide_passwords(f"postgresql://user:{marked}@db/t")


def test_config_and_settings_hide_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`tocsin config` and the settings' own words show where the stores are, and no password and no key."""
    from click.testing import CliRunner

    from tocsin.cli import tocsin

    key = "A" * 43 + "="
    given = {
        "TOCSIN_LEDGER_URL": f"postgresql://u:{SECRET}@db/t",
        "TOCSIN_FACTS_URL": f"https://db/t?password={SECRET}",
        "TOCSIN_SECRET_KEY": key,
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    shown = CliRunner().invoke(tocsin, ["config"]).stdout + repr(read_settings(given, tmp_path))
    assert SECRET not in shown
    assert key not in shown
    assert "TOCSIN_LEDGER_URL=postgresql://u:…@db/t\n" in shown
    assert "TOCSIN_SECRET_KEY=…\n" in shown
    assert show_value("secret_key", "") == ""
    assert show_value("window", 512) == "512"
    assert "secret_key=''" in repr(Settings())


@pytest.mark.parametrize(
    "work",
    [
        lambda: read_settings({"TOCSIN_PUBLIC_URL": f"https://u:{SECRET}@mail.example.com"}, Path()),
        lambda: check_endpoint("url", f"https://u:{SECRET}@gateway.example.com"),
        lambda: check_endpoint("url", f"https://u:{SECRET}@["),
        lambda: check_endpoint("url", f"https://u:{SECRET}@h:99999"),
        lambda: open_facts(f"https://u:{SECRET}@["),
        lambda: open_ledger(f"postgresql://u:{SECRET}@127.0.0.1:1/t?connect_timeout=1"),
        lambda: open_ledger(f"postgresql://u@127.0.0.1:1/t?connect_timeout=1&password={SECRET}"),
    ],
    ids=["public", "endpoint", "bracket", "port", "facts", "log-in", "query"],
)
def test_errors_hide_them(work: Any) -> None:
    """The sentence that says a URL is wrong, or that nobody answers there, shows the URL without its password."""
    with pytest.raises(Misconfigured) as refused:
        work()
    assert SECRET not in str(refused.value)


def test_words_of_settings_hide_them() -> None:
    """What a webhook's settings say of themselves shows its URL without the token that gateways put there."""
    secret = "whsec_" + "A" * 32
    url = f"https://gateway.example.com/sms?from=shop&token={SECRET}"
    shown = repr(WebhookSettings(url=url, secret=secret))
    assert "gateway.example.com/sms?from=shop" in shown
    assert SECRET not in shown
    assert secret not in shown


def shown_in_a_log(error: BaseException) -> str:
    """All that a log line with this error would hold, and what the CLI would print."""
    return "".join(traceback.format_exception(error)) + str(error)


def test_a_failed_write_hides_its_values(store: Ledger) -> None:
    """A row that is refused is not told: neither by its parameters nor by the database's details."""
    row = {"name": SECRET, "value": SECRET.encode()}
    store.write_now(lambda connection: connection.execute(schema.secret.insert().values(**row)))
    with pytest.raises(Exception, match=r"(?i)unique") as refused:
        store.write_now(lambda connection: connection.execute(schema.secret.insert().values(**row)))
    assert SECRET not in shown_in_a_log(refused.value)


def test_a_failed_read_hides_its_values(store: Ledger) -> None:
    """Nor are the parameters of a question that fails."""
    broken = text("SELECT nothing FROM secret WHERE name = :name")
    with pytest.raises(Exception, match="nothing") as refused:
        store.read_now(lambda connection: connection.execute(broken, {"name": SECRET}))
    assert SECRET not in shown_in_a_log(refused.value)


async def test_a_failed_insert_hides_its_rows(facts: Facts) -> None:
    """The facts store quotes the row that a constraint refuses; we pass on its number and its name."""
    facts.command_now(
        "CREATE TABLE IF NOT EXISTS refusing (name String, CONSTRAINT never CHECK name = '') ENGINE = Memory"
    )
    with pytest.raises(Exception, match="VIOLATED_CONSTRAINT") as refused:
        facts.command_now(f"INSERT INTO refusing VALUES ('{SECRET}')")
    assert SECRET not in shown_in_a_log(refused.value)
    with pytest.raises(Exception, match="facts: code") as asked:
        await facts.query("SELECT toUInt8({value:String})", {"value": SECRET})
    assert SECRET not in shown_in_a_log(asked.value)


def test_an_exception_in_the_log_has_no_locals() -> None:
    """A trace says where, not with what."""
    from tocsin.log import configure_log

    stream, before = io.StringIO(), structlog.get_config()
    configure_log()
    try:
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(stream), cache_logger_on_first_use=False)
        log = structlog.get_logger()
        password = "-".join(["hunter2", "local"])
        try:
            raise ValueError(len(password))
        except ValueError:
            log.exception("failed")
    finally:
        structlog.configure(**before)
    assert "ValueError" in stream.getvalue()
    assert "hunter2" not in stream.getvalue()


INHERITED = {
    *("PATH", "HOME", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR", "PYTHONPATH"),
    *("HTTPS_PROXY", "https_proxy", "http_proxy", "NO_PROXY", "no_proxy", "ALL_PROXY"),
}
KEPT_BACK = {
    *("TOCSIN_LEDGER_URL", "TOCSIN_FACTS_URL", "TOCSIN_SECRET_KEY", "TOCSIN_PUBLIC_URL", "PGPASSWORD", "DATABASE_URL"),
    *("AWS_SECRET_ACCESS_KEY", "TOCSIN_NEW", "SSL_CERTAIN", "MY_PATH", "CLICKHOUSE_PASSWORD"),
}


def test_what_a_sender_inherits() -> None:
    """What Python, TLS and proxies read, and nothing else."""
    given = dict.fromkeys(INHERITED | KEPT_BACK, SECRET)
    assert set(make_environment(given)) == INHERITED


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads /proc")
def test_no_sender_knows_our_settings(server: Server, caller: Caller) -> None:
    """The senders of a running server have none of its settings in their environment."""
    assert caller.get("/healthz")[0] == 200

    for pid in wait_for(lambda: children(server.process.pid)):
        assert find_settings(pid) == []
