"""Requests of a command to the server that runs on its folder: chDB belongs to that process."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import msgspec

from tocsin.errors import Misconfigured
from tocsin.store.data_folder import RunningServer

AGAIN = (409, 429)  # the first request of a key is under way still, or too many are


def ask(
    running: RunningServer,
    path: str,
    account_id: str,
    body: Mapping[str, Any] | bytes,
    seconds: float = 600,
    key: str | None = None,
) -> dict[str, Any]:
    """POST JSON, or bytes, to one of the server's `/local/…` routes and return its answer. key: an
    `Idempotency-Key`. Raises Misconfigured as `fetch` does."""
    answer: dict[str, Any] = msgspec.json.decode(fetch(running, path, account_id, body, seconds, key))
    return answer


def fetch(
    running: RunningServer,
    path: str,
    account_id: str,
    body: Mapping[str, Any] | bytes,
    seconds: float = 600,
    key: str | None = None,
) -> bytes:
    """Return the bytes that such a route answers.

    Raises Misconfigured with the server's sentence for any status but 200, and when it does not answer in `seconds`.
    Where the server says when to try again, that is done, for as long.
    """
    headers = {} if key is None else {"Idempotency-Key": key}
    deadline = time.monotonic() + seconds
    while True:
        try:
            return _post(running, path, account_id, body, seconds, headers)
        except HTTPError as error:
            wait = error.headers.get("Retry-After", "")
            if error.code not in AGAIN or not wait.isdigit() or time.monotonic() > deadline:
                text = error.read()[:300].decode()
                raise Misconfigured(f"The running server answered {error.code}: {text}") from None
            time.sleep(min(int(wait), 5))


def _post(
    running: RunningServer,
    path: str,
    account_id: str,
    body: Mapping[str, Any] | bytes,
    seconds: float,
    headers: Mapping[str, str],
) -> bytes:
    request = Request(  # noqa: S310 - the address comes from the data folder
        running.url + path,
        body if isinstance(body, bytes) else msgspec.json.encode(body),
        {
            "Content-Type": "application/octet-stream" if isinstance(body, bytes) else "application/json",
            "X-Tocsin-Local": running.token,
            "X-CleverTap-Account-Id": account_id,
            **headers,
        },
    )
    try:
        with urlopen(request, timeout=seconds) as reply:  # noqa: S310
            answer: bytes = reply.read()
            return answer
    except HTTPError:
        raise
    except (URLError, TimeoutError) as error:
        raise Misconfigured(f"The running server at {running.url} does not answer: {error}.") from None
