"""ClickHouse's HTTP interface before chDB, the same engine, for roles apart: `python clickhouse_server.py FOLDER PORT`.

As much of the interface as clickhouse-connect uses: statements with bound parameters and settings, and inserted blocks.
"""

from __future__ import annotations

import queue
import re
import sys
import tempfile
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import chdb

HANDLES = 8  # statements side by side
# What the interface itself reads, and no setting of the engine.
OURS = {
    "query",
    "database",
    "query_id",
    "compress",
    "decompress",
    "session_id",
    "wait_end_of_query",
    "user",
    "password",
}
OURS |= {"client_protocol_version", "send_progress_in_http_headers", "http_headers_progress_interval_ms", "quota_key"}
OURS |= {"enable_http_compression", "session_timeout", "session_check", "buffer_size", "role", "default_format"}
FORMAT = re.compile(r"\s*\bFORMAT\s+(\w+)\s*;?\s*$", re.IGNORECASE)
BLOCK = re.compile(rb"\s*(INSERT INTO\b[^\n]*\bFORMAT \w+)\n")  # and behind it the block
INSERT = re.compile(r"\s*(?:/\*.*?\*/\s*)?INSERT\s+INTO\b", re.IGNORECASE | re.DOTALL)


class Engine:
    """chDB's handles, each with the settings that its last statement had."""

    def __init__(self, folder: str):
        self._free: queue.Queue[tuple[Any, set[str]]] = queue.Queue()
        for _ in range(HANDLES):
            self._free.put((chdb.connect(folder), set()))

    def run(self, sql: str, block: bytes, parameters: Mapping[str, str]) -> bytes:
        """The answer of a statement, or of an insert of `block`. Raises RuntimeError with the engine's sentence."""
        bound = {name[6:]: value for name, value in parameters.items() if name.startswith("param_")}
        settings = {name: value for name, value in parameters.items() if name not in OURS and name[:6] != "param_"}
        connection, before = self._free.get()
        try:
            for name in before - settings.keys():
                connection.query(f"SET {name} = DEFAULT")
            for name, value in settings.items():
                connection.query(f"SET {name} = '{value}'")
            found = FORMAT.search(sql)
            name, bare = (found[1], sql[: found.start()]) if found else ("TabSeparated", sql)
            if block and INSERT.match(sql):
                with tempfile.NamedTemporaryFile() as file:
                    file.write(block)
                    file.flush()
                    return bytes(connection.query(f"{bare} FROM INFILE '{file.name}' FORMAT {name}").bytes())
            return bytes(connection.query(bare, name, params=bound).bytes())
        finally:
            self._free.put((connection, set(settings)))


class Handler(BaseHTTPRequestHandler):
    engine: Engine
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        parameters = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        body = self._read()
        asked = parameters.get("query")
        try:
            if asked is None and (found := BLOCK.match(body)):
                content = self.engine.run(found[1].decode(), body[found.end() :], parameters)
            elif asked is None:
                content = self.engine.run(body.decode(), b"", parameters)
            else:
                content = self.engine.run(asked, body, parameters)
            self._answer(200, content, {})
        except RuntimeError as error:
            code = re.search(r"Code: (\d+)", str(error))
            self._answer(500, str(error).encode(), {"X-ClickHouse-Exception-Code": code[1] if code else "1"})

    def _read(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self, status: int, content: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


def main() -> None:
    folder, port = sys.argv[1:]
    Path(folder).mkdir(parents=True, exist_ok=True)
    Handler.engine = Engine(folder)
    with ThreadingHTTPServer(("127.0.0.1", int(port)), Handler) as server:
        print("ready", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main()
