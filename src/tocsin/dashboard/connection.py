"""Work for somebody who may leave: a part of a page that is not waited for any more is not made to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from starlette.requests import Request

from tocsin.errors import Problem

T = TypeVar("T")


async def while_connected(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """Return what work returns; cancel it, and raise Problem, when the connection is closed first. For a request whose
    body was read."""
    working, leaving = asyncio.create_task(work), asyncio.create_task(_wait_until_gone(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Problem("The connection was closed before there was an answer", code=499, status=499)
        return working.result()
    finally:
        working.cancel()
        leaving.cancel()


async def _wait_until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
