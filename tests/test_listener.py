"""The listener against strangers and against tenants: connections, headers and bodies are bounded in number, in bytes
and in time, and nobody's promises take anything from anybody."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import os
import shutil
import socket
import ssl
import struct
import subprocess
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import msgspec
import pytest
from conftest import Caller, Server, free_ports, people, wait_for

from tocsin.api.bodies import SHARE, Bodies
from tocsin.api.held import Held
from tocsin.api.places import Places
from tocsin.errors import Problem

BOUNDS = {
    "TOCSIN_HEADER_SECONDS": "2",
    "TOCSIN_BODY_SECONDS": "2",
    "TOCSIN_SENDERS": "0",
    "TOCSIN_BODY_MEGABYTES": "32",
}
MANY = 600
NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
SEND = {"to": {"Identity": ["user-0"]}, "content": {"title": "Hello", "body": "there"}}


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server whose patience is short."""
    server = Server(tmp_path_factory.mktemp("edge"), BOUNDS)
    yield server
    assert server.stop() == 0


@pytest.fixture
def mine(edge: Server) -> Caller:
    caller = edge.account()
    wait_for(lambda: caller.get("/1/labels.json")[0] == 200)  # while others guess, accounts are looked up once a second
    caller.upload(*people(1, kinds=("fcm",)))
    return caller


@pytest.fixture
def sockets() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def connect(server: Server, sockets: ExitStack, sent: bytes = b"") -> socket.socket:
    one = sockets.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=30))
    one.sendall(sent)
    return one


def head(path: str, caller: Caller | None, **headers: object) -> bytes:
    lines = {"Host": "x", "Content-Type": "application/json", **(caller.headers if caller else {})}
    lines |= {name.replace("_", "-"): str(value) for name, value in headers.items()}
    text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST {path} HTTP/1.1\r\n{text}\r\n".encode()


def resident(server: Server) -> int:
    """The server's memory, in MB."""
    [line] = [one for one in Path(f"/proc/{server.process.pid}/status").read_text().splitlines() if "VmRSS" in one]
    return int(line.split()[1]) // 1024


def measure(ask: Callable[[], object]) -> float:
    started = time.monotonic()
    ask()
    return time.monotonic() - started


def is_closed(one: socket.socket) -> bool:
    """Whether the server ends a connection, after whatever it says; waits for that."""
    try:
        while one.recv(65_536):
            pass
    except ConnectionError:
        pass
    return True


def test_silent_and_resting_connections_keep_nobody_out(edge: Server, mine: Caller, sockets: ExitStack) -> None:
    """1,200 of them beside an answer in a tenth of a second; and they are ended."""
    resting = [connect(edge, sockets, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n") for _ in range(MANY)]
    silent = [connect(edge, sockets) for _ in range(MANY)]
    half = [connect(edge, sockets, head("/bounces", None, Content_Length=100) + b"From") for _ in range(50)]
    assert [one.recv(12) for one in resting] == [b"HTTP/1.1 200"] * MANY
    times = [measure(lambda: mine.post("/1/send/push.json", SEND)) for _ in range(5)]
    times += [measure(lambda: Caller(edge.port).get("/healthz")) for _ in range(5)]
    assert min(times) < 0.1
    assert max(times) < 2.0  # on a loaded machine; 75 s and no answer before
    for one in (resting[0], silent[0], half[0]):
        assert is_closed(one)


def test_a_header_table_is_not_unfolded(edge: Server, sockets: ExitStack) -> None:
    """85 kB of HTTP/2 took 624 MB. HTTP/2 is not spoken here; a proxy speaks HTTP/1.1 to its backend."""

    def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
        return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload

    before = resident(edge)
    block = b"\x83\x86\x04\x08/bounces" + b"\x40\x03x-a\x7f\xbd\x1d" + b"z" * 3900 + b"\xbe" * 4000
    one = connect(edge, sockets, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b""))
    try:
        for stream in range(20):
            one.sendall(frame(1, 4, 1 + 2 * stream, block))
    except ConnectionError:
        pass
    assert is_closed(one)
    assert resident(edge) < before + 20


def test_a_head_is_bounded(edge: Server, sockets: ExitStack) -> None:
    """In bytes, and in time: a head that comes letter by letter is ended."""
    large = connect(edge, sockets, b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
    try:
        for _ in range(100):
            large.sendall(b"x-a: " + b"z" * 4000 + b"\r\n")
    except ConnectionError:
        pass
    assert is_closed(large)
    slow = connect(edge, sockets, b"GET /healthz HTTP/1.1\r\nHost: x\r\nx-a:")
    assert is_closed(slow)


@pytest.mark.parametrize("path", ["/1/send/push.json", "/1/targets/list.json", "/1/upload", "/bounces", "/1/subscribe"])
def test_a_promise_takes_nothing_from_anybody(edge: Server, mine: Caller, sockets: ExitStack, path: str) -> None:
    """Neither with a passcode nor without: a body counts when it comes, not when it is announced."""
    other = edge.account()
    for who in (other, other, Caller(edge.port, {"X-CleverTap-Account-Id": "made-up", "X-CleverTap-Passcode": "x"})):
        for _ in range(4):
            connect(edge, sockets, head(path, who, Content_Length=4_000_000))
            connect(edge, sockets, head(path, who, Content_Length=268_435_456))
    for _ in range(5):
        assert mine.post("/1/send/push.json", SEND)[0] == 200


def test_a_promise_too_large_is_refused_at_once(edge: Server, mine: Caller, sockets: ExitStack) -> None:
    one = connect(edge, sockets, head("/1/upload", mine, Content_Length=268_435_456))
    assert measure(lambda: one.recv(12)) < 1.5
    one = connect(edge, sockets, head("/1/upload", mine, Content_Length=268_435_456))
    assert one.recv(12) == b"HTTP/1.1 413"


@pytest.mark.parametrize("path", ["/1/send/push.json", "/1/targets/list.json"])
def test_chunked_bodies_count_as_they_come(edge: Server, mine: Caller, sockets: ExitStack, path: str) -> None:
    """Sixty bodies of 1 MB without a length, held open: an account may hold a quarter of 32 MB, and others go on."""
    other, before = edge.account(), resident(edge)
    chunk = b"10000\r\n" + b" " * 65_536 + b"\r\n"
    held = [connect(edge, sockets, head(path, other, Transfer_Encoding="chunked")) for _ in range(12)]
    for one in held:
        with contextlib.suppress(ConnectionError):  # refused already
            one.sendall(chunk * 16)
    started = time.monotonic()
    assert mine.post("/1/send/push.json", SEND)[0] == 200
    assert time.monotonic() - started < 2
    answers = [read_status(one) for one in held]
    assert set(answers) <= {429, 408}
    assert 429 in answers
    assert resident(edge) < before + 40


def read_status(one: socket.socket) -> int:
    answer = b""
    try:
        while b"\r\n" not in answer and (part := one.recv(100)):
            answer += part
    except ConnectionError:
        return 429  # it was told while we still wrote
    return int(answer.split()[1]) if answer else 429


def test_a_body_has_its_time(edge: Server, mine: Caller, sockets: ExitStack) -> None:
    """One that stays away is answered 408."""
    one = connect(edge, sockets, head("/1/upload", mine, Content_Length=100) + b'{"d":')
    assert read_status(one) == 408


@pytest.mark.parametrize(("encoding", "fold"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_a_compressed_body(edge: Server, mine: Caller, encoding: str, fold: Callable[[bytes], bytes]) -> None:
    body = b'{"d":[{"type":"event","identity":"user-0","evtName":"Paid","evtData":{}}]}'
    status, answer, _ = mine.call("POST", "/1/upload", fold(body), {"Content-Encoding": encoding})
    assert (status, answer["processed"]) == (200, 1)
    for wrong in (body, fold(body)[:-3], fold(body) + b"x"):
        assert mine.call("POST", "/1/upload", wrong, {"Content-Encoding": encoding})[0] == 400


def test_a_bomb_unfolds_no_further_than_the_limit(edge: Server, mine: Caller) -> None:
    before = resident(edge)
    bomb = gzip.compress(b" " * 300_000_000, 9)
    status, answer, _ = mine.call("POST", "/1/upload", bomb, {"Content-Encoding": "gzip"})
    assert (status, answer["code"]) == (413, 413)
    assert resident(edge) < before + 60
    assert mine.call("POST", "/1/upload", b"{}", {"Content-Encoding": "br"})[0] == 415


def test_health_and_metrics_of_the_operator(start_server: Callable[..., Server], tmp_path: Path) -> None:
    """On a port of their own; the public one tells no more than whether it is well."""
    operator = free_ports(1)
    server = start_server(tmp_path / "data", BOUNDS | {"TOCSIN_OPERATOR_PORT": str(operator)})
    assert Caller(operator).get("/metrics")[0] == 200
    assert Caller(operator).get("/healthz")[0] == Caller(server.port).get("/healthz")[0] == 200
    assert Caller(server.port).get("/metrics")[0] == 404
    assert Caller(operator).post("/1/send/push.json", SEND)[0] == 404
    assert server.stop() == 0


def test_an_account_holds_its_share() -> None:
    """Of bytes and of places; what is given back can be taken again, and others have theirs."""
    bodies = Bodies(SHARE * 100, 1.0)
    bodies.take("b", 100)
    with pytest.raises(Problem) as caught:
        bodies.take("b", 1)
    assert (caught.value.status, caught.value.retry_after) == (429, 1)
    bodies.take("a", 60)
    bodies.give_back("b", 100)
    bodies.take("b", 1)
    assert bodies.held == 61

    places = Places(3, 2)
    with closing(Held()) as others, closing(Held()) as held:
        places.take("b", others)
        places.take("b", others)
        with pytest.raises(Problem):
            places.take("b", others)
        places.take("a", held)
        with pytest.raises(Problem):
            places.take("c", others)
        held.close()
        places.take("c", others)


def test_nothing_stays_held(edge: Server, mine: Caller) -> None:
    """After refusals, broken connections and answers alike, an account has its whole share."""
    wait_for(lambda: mine.post("/1/send/push.json", SEND)[0] == 200)
    padding = {"x": "y" * 4_000_000}
    for _ in range(5):
        assert mine.post("/1/send/push.json", SEND | padding)[0] in (200, 400)


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed: the file of docs/ is not tried")
def test_behind_nginx(edge: Server, mine: Caller, tmp_path: Path) -> None:
    """The file of docs/, with the ports of this test: calls pass, and what is not for the world stays inside."""
    port = free_ports(1)
    key, certificate = tmp_path / "key.pem", tmp_path / "fullchain.pem"
    make = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*make.split(), *names], check=True, capture_output=True)
    file = (Path(__file__).parents[1] / "docs" / "nginx.conf").read_text()
    for old, new in {
        "127.0.0.1:8100": f"127.0.0.1:{edge.port}",
        "listen 443": f"listen 127.0.0.1:{port}",
        "/etc/ssl/tocsin/fullchain.pem": str(certificate),
        "/etc/ssl/tocsin/key.pem": str(key),
        "mail.example.com": "localhost",
    }.items():
        assert old in file
        file = file.replace(old, new)
    folders = "".join(
        f"{one}_temp_path {tmp_path}/{one};" for one in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    around = f"daemon off; pid {tmp_path}/pid; error_log {tmp_path}/log; events {{}}"
    (tmp_path / "nginx.conf").write_text(f"{around} http {{ access_log off; {folders} {file} }}")
    trust = wait_for(lambda: ssl.create_default_context(cafile=str(certificate)))

    def call(method: str, path: str, body: bytes | None = None) -> int:
        with contextlib.closing(http.client.HTTPSConnection("localhost", port, timeout=10, context=trust)) as one:
            one.request(method, path, body, {"Content-Type": "application/json", **mine.headers})
            return one.getresponse().status

    assert NGINX is not None
    command = [NGINX, "-c", str(tmp_path / "nginx.conf"), "-p", str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as proxy:
        try:
            wait_for((tmp_path / "pid").exists)
            assert call("POST", "/1/send/push.json", msgspec.json.encode(SEND)) == 200
            assert [call("GET", path) for path in ("/healthz", "/metrics", "/local/upload")] == [200, 404, 404]
            assert call("POST", "/1/upload", b" " * 6_000_000) == 413
        finally:
            proxy.terminate()
