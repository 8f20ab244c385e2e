"""Requests of a command to the server that runs on its folder: chDB belongs to that process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import msgspec

from tocsin.errors import Misconfigured
from tocsin.store.data_folder import RunningServer


def ask(
    running: RunningServer, path: str, account_id: str, body: Mapping[str, Any], seconds: float = 600
) -> dict[str, Any]:
    """POST JSON to one of the server's `/local/…` routes and return its answer.

    Raises Misconfigured with the server's sentence for any status but 200, and when it does not answer in `seconds`.
    """
    request = Request(  # noqa: S310 - the address comes from the data folder
        running.url + path,
        msgspec.json.encode(body),
        {
            "Content-Type": "application/json",
            "X-Tocsin-Local": running.token,
            "X-CleverTap-Account-Id": account_id,
        },
    )
    try:
        with urlopen(request, timeout=seconds) as reply:  # noqa: S310
            answer: dict[str, Any] = msgspec.json.decode(reply.read())
            return answer
    except HTTPError as error:
        raise Misconfigured(f"The running server answered {error.code}: {error.read()[:300].decode()}") from None
    except (URLError, TimeoutError) as error:
        raise Misconfigured(f"The running server at {running.url} does not answer: {error}.") from None
