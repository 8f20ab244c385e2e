"""ClickHouse's HTTP interface before chDB, the same engine, for roles apart: `python clickhouse_server.py FOLDER PORT`.

As much of the interface as clickhouse-connect uses: statements with bound parameters and settings, and inserted blocks.
`POST /faults?kind=KIND&count=N` has the next N inserts meet a fault, one of FAULTS or the number of an error;
`GET /inserts` counts those that came since the faults were told, and those that were stored.
"""

from __future__ import annotations

import json
import os
import queue
import re
import sys
import tempfile
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
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

FAULTS = {
    "drop before": "the connection ends before anything is stored",
    "drop after": "all is stored, and the connection ends without an answer",
    "silent after": "all is stored, and no answer comes until the caller hangs up",
    "half": "the table has the rows and its view has none, and the answer is «memory limit exceeded»",
    "die before": "the server is gone before anything is stored",
    "die half": "the server is gone when the table has the rows and its view has none",
    "die after": "the server is gone when all is stored",
}
VIEW = "event_to_activity"  # what is left out of an insert that ends halfway


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
    alone: ClassVar[threading.Lock] = threading.Lock()
    faults: ClassVar[list[str]] = []
    inserts: ClassVar[dict[str, int]] = {"came": 0, "stored": 0}
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        split = urlsplit(self.path)
        parameters = dict(parse_qsl(split.query, keep_blank_values=True))
        if split.path in ("/faults", "/inserts"):
            self._control(split.path, parameters)
            return
        body = self._read()
        asked = parameters.get("query")
        if asked is None:
            found = BLOCK.match(body)
            asked, body = (found[1].decode(), body[found.end() :]) if found else (body.decode(), b"")
        try:
            if body and INSERT.match(asked):
                self._insert(asked, body, parameters)
            else:
                self._answer(200, self.engine.run(asked, body, parameters), {})
        except RuntimeError as error:
            code = re.search(r"Code: (\d+)", str(error))
            self._answer(500, str(error).encode(), {"X-ClickHouse-Exception-Code": code[1] if code else "1"})

    def _control(self, path: str, parameters: Mapping[str, str]) -> None:
        self._read()
        if path == "/faults":
            self.faults[:] = [parameters["kind"]] * int(parameters["count"])
            self.inserts.update(came=0, stored=0)
        self._answer(200, json.dumps(self.inserts).encode(), {})

    def _insert(self, sql: str, block: bytes, parameters: Mapping[str, str]) -> None:
        self.inserts["came"] += 1
        fault = self.faults.pop() if self.faults else ""
        if fault.isdigit():
            raise RuntimeError(f"Code: {fault}. DB::Exception: As the test wants it. (PLANTED)")
        with self.alone:  # while the view is away, no other insert is answered as stored
            if "half" in fault:
                self.engine.run(f"DETACH TABLE {VIEW}", b"", {})
            if "before" not in fault:
                content = self.engine.run(sql, block, parameters)
            if "half" in fault:
                self.engine.run(f"ATTACH TABLE {VIEW}", b"", {})
            self.inserts["stored"] += "before" not in fault
            if fault.startswith("die"):
                os._exit(1)
        if fault == "half":
            raise RuntimeError("Code: 241. DB::Exception: Memory limit exceeded. (MEMORY_LIMIT_EXCEEDED)")
        if fault == "silent after":
            self.rfile.read(1)  # until the caller hangs up
        if fault:
            self.close_connection = True
            self.connection.close()
            return
        self._answer(200, content, {})

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
