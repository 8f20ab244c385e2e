"""The sandbox as a whole: its control API, its credentials, its start and its end."""

from __future__ import annotations

import asyncio
import inspect
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlencode

import msgspec
import pycurl
import pytest
from structlog.testing import capture_logs
from support.sandbox_driver import Curl, running

from tocsin.errors import Misconfigured
from tocsin.sandbox import Sandbox, control, refusals
from tocsin.sandbox.faults import Fault, Kind, Vendor

VENDORS = ("fcm", "apns", "wns", "smtp", "webhook", "vapid")


@pytest.fixture
async def sandbox(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sandbox]:
    async with running(tmp_path_factory) as started:
        yield started


@pytest.fixture
def curl(tmp_path_factory: pytest.TempPathFactory) -> Curl:
    return Curl(tmp_path_factory.getbasetemp() / "ca.pem")


async def test_counts_begin_at_nothing(sandbox: Sandbox, curl: Curl) -> None:
    """Every vendor has all five counts from the start."""
    answer = await curl.ask("GET", sandbox.url + "/counts")
    nothing = {"accepted": 0, "refused": 0, "duplicates": 0, "connections": 0, "tokens": 0}
    assert answer.json == dict.fromkeys(VENDORS, nothing)


async def test_credentials_cover_every_vendor(sandbox: Sandbox, curl: Curl) -> None:
    """What a client needs is given out, with the service account pointing at the sandbox's own token endpoint."""
    given = (await curl.ask("GET", sandbox.url + "/credentials")).json
    assert given["fcm"]["service_account"]["token_uri"] == given["fcm"]["endpoint"] + "/token"
    assert given["fcm"]["service_account"]["project_id"] == "tocsin-sandbox"
    assert (len(given["apns"]["key_id"]), len(given["apns"]["team_id"])) == (10, 10)
    assert given["apns"]["topic"] == "dev.tocsin.sandbox"
    assert given["wns"]["channel_prefix"] == given["wns"]["endpoint"] + "/w/?token="
    assert given["smtp"]["port"] == sandbox.ports["smtp"]
    assert given["ca"].startswith("-----BEGIN CERTIFICATE-----")


BAD_CONTROL = {
    "unknown key": ("POST", "/faults", {"vendor": "fcm", "kind": "status", "status": 500, "often": 1}, 400),
    "unknown vendor": ("POST", "/faults", {"vendor": "hms", "kind": "cut"}, 400),
    "unknown kind": ("POST", "/faults", {"vendor": "fcm", "kind": "explode"}, 400),
    "share over one": ("POST", "/faults", {"vendor": "fcm", "kind": "cut", "share": 2}, 400),
    "status without a status": ("POST", "/faults", {"vendor": "fcm", "kind": "status"}, 400),
    "delay without seconds": ("POST", "/faults", [{"vendor": "fcm", "kind": "delay"}], 400),
    "shrink without streams": ("POST", "/faults", {"vendor": "fcm", "kind": "shrink"}, 400),
    "shrink in HTTP/1.1": ("POST", "/faults", {"vendor": "wns", "kind": "shrink", "streams": 2}, 400),
    "half of a mail": ("POST", "/faults", {"vendor": "smtp", "kind": "half"}, 400),
    "a token of APNs": ("POST", "/faults", {"vendor": "apns", "kind": "cut", "of": "token"}, 400),
    "framing": ("POST", "/faults", {"vendor": "fcm", "kind": "cut", "headers": {"Content-Length": "1"}}, 400),
    "two lines": ("POST", "/faults", {"vendor": "fcm", "kind": "cut", "headers": {"x": "a\r\nb: c"}}, 400),
    "too many": ("POST", "/faults", [{"vendor": "fcm", "kind": "cut"}] * 65, 400),
    "bad limit": ("GET", "/messages?limit=1001", None, 400),
    "bad vendor": ("GET", "/messages?vendor=hms", None, 400),
    "unknown query": ("GET", "/messages?before=3", None, 400),
    "unknown path": ("GET", "/nothing", None, 404),
    "wrong method": ("POST", "/counts", {}, 405),
}


@pytest.mark.parametrize("case", BAD_CONTROL.values(), ids=BAD_CONTROL.keys())
async def test_bad_control_requests(sandbox: Sandbox, curl: Curl, case: tuple[str, str, object, int]) -> None:
    """A request the control API does not know is answered with an error in JSON and changes nothing."""
    method, path, content, status = case
    answer = await curl.ask(method, sandbox.url + path, (), None if content is None else json.dumps(content).encode())
    assert answer.status == status
    assert isinstance(answer.json["error"], str)
    assert (await curl.ask("GET", sandbox.url + "/faults")).json == {"faults": []}


async def test_answers_word_for_word(sandbox: Sandbox, curl: Curl) -> None:
    """A status fault with a body or headers is answered as it is written, to messages or to requests for a token."""
    token, channel = await _wns_token(sandbox, curl), sandbox.credentials["wns"]["channel_prefix"] + "device"
    headers = (f"Authorization: Bearer {token}", "Content-Type: application/octet-stream", "X-WNS-Type: wns/raw")
    page: dict[str, object] = {"vendor": "wns", "kind": "status", "status": 404, "body": "<p>é", "retry_after": 9}
    scripts = [
        {**page, "headers": {"X-Who": "a proxy"}, "count": 1},
        {**page, "of": "token", "status": 429, "count": 1},
    ]
    await curl.ask("POST", sandbox.url + "/faults", (), json.dumps(scripts).encode())
    answer = await curl.ask("POST", channel, headers, b"raw")
    assert (answer.status, answer.body.decode(), answer.headers["x-who"]) == (404, "<p>é", "a proxy")
    assert answer.headers["retry-after"] == "9"
    assert (await curl.ask("POST", channel, headers, b"raw")).status == 200
    assert (await curl.ask("POST", sandbox.credentials["wns"]["token_endpoint"], (), b"")).status == 429
    counts = sandbox.record.counts["wns"]
    assert (counts.accepted, counts.refused, counts.tokens) == (1, 1, 2)


async def test_tokens_are_revoked(sandbox: Sandbox, curl: Curl) -> None:
    """`DELETE /tokens` takes back what the token endpoints gave out; the next one is good."""
    for status in (401, 200):
        old = await _wns_token(sandbox, curl)
        if status == 401:
            await curl.ask("DELETE", sandbox.url + "/tokens")
        headers = (f"Authorization: Bearer {old}", "Content-Type: application/octet-stream", "X-WNS-Type: wns/raw")
        channel = sandbox.credentials["wns"]["channel_prefix"] + "device"
        assert (await curl.ask("POST", channel, headers, b"raw")).status == status


def test_faults_are_documented() -> None:
    """Every kind and field of a fault script, and every route of the control API, stands in the reference."""
    reference = (Path(__file__).parent.parent / "docs" / "reference.md").read_text()
    section = reference.partition("\n## Sandbox\n")[2].partition("\n## ")[0]
    named = {word for line in section.splitlines() if line.startswith("| ") for word in line.split("|")[1].split("`")}
    assert {kind.value for kind in Kind} <= named
    assert {field.name for field in msgspec.structs.fields(Fault)} <= named
    routes = re.findall(r'\("(GET|POST|DELETE)", "(/\w+)"\)', inspect.getsource(control))
    assert routes
    assert {f"{method} {path}" for method, path in routes} <= named


async def test_faults_are_listed_and_forgotten(sandbox: Sandbox, curl: Curl) -> None:
    """A list of scripts is put in force together, shown with how often each fired, and taken back."""
    scripts: list[dict[str, object]] = [
        {"vendor": "fcm", "kind": "status", "status": 503, "share": 0.5},
        {"vendor": "smtp", "kind": "hang"},
    ]
    posted = await curl.ask("POST", sandbox.url + "/faults", (), json.dumps(scripts).encode())
    assert posted.status == 200
    assert posted.json == {"faults": [{**script, "fired": 0} for script in scripts]}
    assert (await curl.ask("DELETE", sandbox.url + "/faults")).json == {"faults": []}


async def test_chance_is_repeatable(sandbox: Sandbox, curl: Curl) -> None:
    """The same scripts hit the same messages after they were forgotten and added again, about as often as asked."""
    runs = []
    for _ in range(2):
        script = {"vendor": "wns", "kind": "cut", "share": 0.25}
        await curl.ask("POST", sandbox.url + "/faults", (), json.dumps(script).encode())
        runs.append([sandbox.faults.draw("wns") is not None for _ in range(1000)])
        await curl.ask("DELETE", sandbox.url + "/faults")
    assert runs[0] == runs[1]
    assert 200 < sum(runs[0]) < 300


async def test_the_same_folder_keeps_credentials(tmp_path: Path) -> None:
    """A restart with the same folder has the same keys, in a file only its owner may read."""
    kept = []
    for _ in range(2):
        sandbox = await Sandbox.start(tmp_path, 0)
        kept.append((sandbox.credentials["ca"], sandbox.credentials["apns"]["key"]))
        await sandbox.stop()
    assert kept[0] == kept[1]
    assert (tmp_path / "sandbox.json").stat().st_mode & 0o777 == 0o600


async def test_a_taken_port_is_named(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A port in use stops the start with a sentence that names it."""
    with pytest.raises(Misconfigured, match=str(sandbox.ports["control"])):
        await Sandbox.start(tmp_path_factory.getbasetemp() / "sandbox", sandbox.ports["control"])


async def test_damaged_credentials_are_named(tmp_path: Path) -> None:
    """A file that is no sandbox's credentials stops the start instead of being replaced."""
    (tmp_path / "sandbox.json").write_text("{}")
    with pytest.raises(Misconfigured, match=r"sandbox\.json"):
        await Sandbox.start(tmp_path, 0)


async def test_the_command_serves_until_sigterm(tmp_path_factory: pytest.TempPathFactory, curl: Curl) -> None:
    """`python -m tocsin.sandbox` prints one line when it is ready and ends with 0 on SIGTERM."""
    folder = tmp_path_factory.getbasetemp() / "sandbox"
    command = [sys.executable, "-m", "tocsin.sandbox", "--port", "0", "--data", str(folder)]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, env=dict(os.environ))
    assert process.stdout is not None
    line = (await asyncio.wait_for(process.stdout.readline(), 10)).decode()
    assert line.startswith("sandbox ready on http://127.0.0.1:")
    assert all(vendor in line for vendor in VENDORS)
    assert (await curl.ask("GET", line.split()[3] + "/counts")).status == 200
    process.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(process.wait(), 5) == 0
    assert await process.stdout.read() == b""


async def test_a_garbled_request_is_answered_400(sandbox: Sandbox) -> None:
    """Bytes that are no HTTP get a 400 and the end of the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", sandbox.ports["control"])
    writer.write(b"hello\r\n\r\n")
    assert (await asyncio.wait_for(reader.read(), 5)).startswith(b"HTTP/1.1 400 ")
    writer.close()
    await writer.wait_closed()


async def test_messages_are_paged(sandbox: Sandbox, curl: Curl) -> None:
    """`after` and `next` walk through all messages, of one vendor where asked; DELETE forgets them and the counts."""
    channel, token = sandbox.credentials["wns"]["channel_prefix"], await _wns_token(sandbox, curl)
    headers = (f"Authorization: Bearer {token}", "Content-Type: application/octet-stream", "X-WNS-Type: wns/raw")
    for number in range(3):
        assert (await curl.ask("POST", f"{channel}device{number}", headers, b"raw")).status == 200
    first = (await curl.ask("GET", sandbox.url + "/messages?limit=2")).json
    rest = (await curl.ask("GET", f"{sandbox.url}/messages?vendor=wns&after={first['next']}")).json
    assert [message["address"] for message in first["messages"] + rest["messages"]] == [
        f"{channel}device{number}" for number in range(3)
    ]
    assert "authorization" not in first["messages"][0]["headers"]
    assert (await curl.ask("GET", sandbox.url + "/messages?vendor=fcm")).json == {"messages": [], "next": 0}
    await curl.ask("DELETE", sandbox.url + "/messages")
    assert (await curl.ask("GET", sandbox.url + "/messages")).json["messages"] == []
    assert (await curl.ask("GET", sandbox.url + "/counts")).json["wns"]["accepted"] == 0


async def _wns_token(sandbox: Sandbox, curl: Curl) -> str:
    wns = sandbox.credentials["wns"]
    form = {"grant_type": "client_credentials", "scope": "https://wns.windows.com/.default"}
    form |= {"client_id": wns["client_id"], "client_secret": wns["client_secret"]}
    answer = await curl.ask("POST", wns["token_endpoint"], (), urlencode(form).encode())
    return str(answer.json["access_token"])


VENDOR_PATHS: dict[str, tuple[Vendor, str, int]] = {
    "fcm.googleapis.com": ("fcm", "/v1/projects/tocsin-sandbox/messages:send", 401),
    "oauth2.googleapis.com": ("fcm", "/token", 400),
    "api.push.apple.com": ("apns", "/3/device/", 400),
    "api.sandbox.push.apple.com:2197": ("apns", "/3/device/", 400),
    "login.microsoftonline.com": ("wns", "/my-tenant/oauth2/v2.0/token", 400),
    "db5p.notify.windows.com": ("wns", "/?token=x", 401),
    "127.0.0.1:{fcm}": ("fcm", "/token", 400),
}


@pytest.mark.parametrize("host", VENDOR_PATHS)
async def test_the_proxy_leads_to_the_vendors(sandbox: Sandbox, curl: Curl, host: str) -> None:
    """A client that knows the vendor's own host comes by the proxy, and finds that name in the certificate."""
    vendor, path, status = VENDOR_PATHS[host]
    curl.proxy = sandbox.url
    answer = await curl.ask("POST", f"https://{host.format_map(sandbox.ports)}{path}", (), b"{}")
    assert answer.status == status
    assert sandbox.record.counts[vendor].connections == 1
    curl.close()


@pytest.mark.parametrize("host", ["example.com", "fcm.googleapis.com:80", "127.0.0.1:22", "[::1]:443", "a@b"])
async def test_the_proxy_leads_nowhere_else(sandbox: Sandbox, curl: Curl, host: str) -> None:
    """It is no way out, and none to other ports of this machine; the log says so."""
    curl.proxy = sandbox.url
    with capture_logs() as logs, pytest.raises(pycurl.error, match="403"):
        await curl.ask("GET", f"https://{host}/")
    assert [(line["vendor"], line["answer"]) for line in logs] == [("proxy", "403")]
    curl.close()


async def test_a_tunnel_carries_much_and_ends(sandbox: Sandbox) -> None:
    """What comes before the tunnel stands is not lost, megabytes go through, and its ends close together."""
    port = sandbox.ports["smtp"]
    reader, writer = await asyncio.open_connection("127.0.0.1", sandbox.ports["control"])
    writer.write(f"CONNECT localhost:{port} HTTP/1.1\r\nHost: localhost\r\n\r\nNOOP\r\n".encode())
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 200 Connection established\r\n\r\n"
    assert (await reader.readline()).startswith(b"220 ")
    assert (await asyncio.wait_for(reader.readline(), 10)).startswith(b"250 ")
    writer.write(b"NOOP\r\n" * 50_000)
    for _ in range(50_000):
        assert (await asyncio.wait_for(reader.readline(), 10)).startswith(b"250 ")
    writer.write(b"QUIT\r\n")
    assert (await reader.read()).startswith(b"221 ")
    writer.close()


async def test_the_same_refusal_is_told_once_a_second(
    sandbox: Sandbox, curl: Curl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sender that repeats its mistake fills no log, and the next line counts; another mistake is told at once."""
    endpoint = sandbox.credentials["fcm"]["endpoint"]
    with capture_logs() as logs:
        for path, quiet in (("/nothing", 60), ("/nothing", 60), ("/token", 60), ("/nothing", 60), ("/nothing", 0)):
            monkeypatch.setattr(refusals, "QUIET_SECONDS", quiet)
            await curl.ask("POST", endpoint + path, (), b"")
    told = [(line["answer"], line.get("left_out")) for line in logs]
    assert told == [("404", None), ("400 unsupported_grant_type", None), ("404", 2)]


async def test_files_for_senders(sandbox: Sandbox, curl: Curl) -> None:
    """The authority, the service account and Apple's key can be had as the files that libraries want."""
    given = sandbox.credentials
    files = {"ca.pem": given["ca"], "apns.p8": given["apns"]["key"]}
    for name, content in files.items():
        assert (await curl.ask("GET", f"{sandbox.url}/{name}")).body.decode() == content
    assert (await curl.ask("GET", sandbox.url + "/service_account.json")).json == given["fcm"]["service_account"]
