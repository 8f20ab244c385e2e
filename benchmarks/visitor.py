"""Somebody who calls a server over one connection, and makes a new one when it ends."""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from typing import Any

import msgspec


class Visitor:
    """A caller with one kept connection. headers: of every request."""

    def __init__(self, port: int, headers: Mapping[str, str], timeout: float = 120.0):
        self._headers = {"Content-Type": "application/json", **headers}
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)

    def post(self, path: str, body: Any, **headers: str) -> int:
        """Return the status of a POST. body: bytes as they are, anything else as JSON."""
        return self._call("POST", path, body if isinstance(body, bytes) else msgspec.json.encode(body), headers)[0]

    def get(self, path: str) -> int:
        """Return the status of a GET."""
        return self._call("GET", path, None, {})[0]

    def read(self, path: str) -> Any:
        """Return the JSON of a GET."""
        return msgspec.json.decode(self._call("GET", path, None, {})[1])

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _call(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> tuple[int, bytes]:
        for again in (True, False):
            try:
                self._connection.request(method, path, body, {**self._headers, **headers})
                answer = self._connection.getresponse()
                return answer.status, answer.read()
            except (ConnectionError, http.client.HTTPException):
                self._connection.close()
                if not again:
                    raise
        raise AssertionError
