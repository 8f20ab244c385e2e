"""What holds for every route: methods, slashes, bodies that break off, and the name under which it is counted."""

from __future__ import annotations

import re
import socket
from contextlib import closing

import msgspec
import pytest
from conftest import Caller, Server, wait_for

from tocsin.api.endpoint import Endpoint
from tocsin.app import ENDPOINTS

SEND = msgspec.json.encode({"to": {"Identity": ["nobody"]}, "content": {"title": "Hello", "body": "there"}})
NOT_ALLOWED = {"status": "fail", "error": "Method Not Allowed", "code": 405}
every_endpoint = pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.path)


def fill(endpoint: Endpoint) -> str:
    """A path of an endpoint; nobody has what its parameter names."""
    return re.sub(r"{\w+}", "nobody", endpoint.path)


def counted(server: Server, route: str, status: int) -> float:
    line = f'tocsin_requests_total{{route="{route}",status="{status}"}} '
    page = Caller(server.port).get("/metrics")[1].decode()
    return sum(float(one.removeprefix(line)) for one in page.splitlines() if one.startswith(line))


@every_endpoint
def test_methods(server: Server, endpoint: Endpoint) -> None:
    """A wrong method is 405 in JSON, OPTIONS 204; both name the right ones, and both are counted by the route."""
    nobody, path, allow = Caller(server.port), fill(endpoint), {*endpoint.methods, "OPTIONS"}
    before = counted(server, endpoint.path, 405)
    for method in {"GET", "POST", "PUT", "PATCH", "DELETE"} - set(endpoint.methods):
        status, value, headers = nobody.call(method, path)
        assert (status, value, set(headers["allow"].split(", "))) == (405, NOT_ALLOWED, allow)
        before += 1
    status, value, headers = nobody.call("OPTIONS", path)
    assert (status, value, set(headers["allow"].split(", "))) == (204, b"", allow)
    assert counted(server, endpoint.path, 405) == before


@pytest.mark.parametrize("path", [fill(one) for one in ENDPOINTS if "GET" in one.methods and one.path != "/metrics"])
def test_head_is_get_without_a_body(server: Server, path: str) -> None:
    """Status and headers are those of GET, the length too."""
    nobody = Caller(server.port)
    wanted, _, got = nobody.call("GET", path)
    # By hand, for `call` would decode the JSON that is not there.
    with closing(socket.create_connection(("127.0.0.1", server.port), timeout=60)) as connection:
        connection.sendall(f"HEAD {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        head, _, body = connection.makefile("rb").read().partition(b"\r\n\r\n")
    lines = dict(line.lower().split(": ", 1) for line in head.decode().split("\r\n")[1:])
    assert (int(head.split()[1]), body) == (wanted, b"")
    assert (lines["content-length"], lines.get("content-type")) == (got["content-length"], got.get("content-type"))


@pytest.mark.parametrize(
    "path", ["/1/send/push.json/", "//1/send/push.json", "/1//send/push.json", "/1/send/push%2Ejson"]
)
def test_slashes_and_quoting_make_no_difference(caller: Caller, path: str) -> None:
    """Callers put paths together: a slash too many or a quoted letter is the same route, and the same request."""
    key = {"Idempotency-Key": "once"}
    assert caller.call("POST", "/1/send/push.json", SEND, key)[0] == 200
    status, _, headers = caller.call("POST", path, SEND, key)
    assert (status, headers["idempotent-replayed"]) == (200, "true")


@pytest.mark.parametrize("path", ["/track/viewed%2Fx", "/u/a%2Fb", "/u/", "/dashboard/static/..%2f__init__.py"])
def test_a_parameter_is_one_part_of_a_path(server: Server, path: str) -> None:
    """A quoted slash is a slash, and a parameter is never empty: nobody has these paths."""
    before = counted(server, "unknown", 404)
    status, value, _ = Caller(server.port).call("POST", path, b"{}")
    assert (status, value) == (404, {"status": "fail", "error": "Not Found", "code": 404})
    assert counted(server, "unknown", 404) == before + 1


def test_made_up_paths_make_no_series(server: Server) -> None:
    """A request is counted by the template of its route, whatever stands in its path."""
    nobody = Caller(server.port)
    before = counted(server, "/u/{push_id}", 404)
    for path in ("/u/made-up", "/made-up", "/1/made-up"):
        assert nobody.call("GET", path)[0] == 404
    assert counted(server, "/u/{push_id}", 404) == before + 1
    assert b"made-up" not in nobody.get("/metrics")[1]


@pytest.mark.parametrize("path", ["/1/send/push.json", "/1/upload", "/1/targets/create.json", "/a1"])
def test_a_body_that_breaks_off(server: Server, caller: Caller, path: str) -> None:
    """A body shorter than its length is refused, also when what came of it would do."""
    before = counted(server, path, 400)
    headers = {**caller.headers, "Host": "here", "Content-Type": "application/json", "Content-Length": len(SEND) + 1}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with closing(socket.create_connection(("127.0.0.1", server.port), timeout=60)) as connection:
        connection.sendall(f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + SEND)
        connection.shutdown(socket.SHUT_WR)
        reply = connection.makefile("rb").read()
    assert reply.startswith(b"HTTP/1.1 400")
    assert b"The connection ended before the body did" in reply
    wait_for(lambda: counted(server, path, 400) == before + 1)
