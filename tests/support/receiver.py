"""An HTTP server that webhooks are posted to: it keeps what came, and answers as it is told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import msgspec


class Posted(NamedTuple):
    """A request, and what it was answered."""

    headers: dict[str, str]
    body: bytes
    status: int

    @property
    def events(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = msgspec.json.decode(self.body)["data"]["events"]
        return found


Answer = tuple[int, Mapping[str, str]]  # a status of 0 breaks the connection off, after the request was read


class Receiver:
    """Listens on a port of its own. answer: called for each request, in a thread of its own; may take its time."""

    def __init__(self, answer: Callable[[], Answer] = lambda: (200, {})):
        self.answer = answer
        self.posted: list[Posted] = []
        self.came = threading.Semaphore(0)
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.came.release()
                status, headers = receiver.answer()
                posted = Posted({name.lower(): value for name, value in self.headers.items()}, body, status)
                receiver.posted.append(posted)
                if not status:
                    self.close_connection = True
                    return
                self.send_response(status)
                for name, value in {"Content-Length": "0", **headers}.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/hook"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def taken(self) -> list[dict[str, Any]]:
        """Every event that was answered 200, as often as it was."""
        return [event for one in self.posted if one.status == 200 for event in one.events]

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
