"""Calls of CleverTap's API that are not built. Each is refused by name: some clients take any other answer for «done»,
or for «nothing there»."""

from __future__ import annotations

from typing import NoReturn

from starlette.requests import Request

from tocsin.account import Right
from tocsin.api.context import Context
from tocsin.api.endpoint import Endpoint, post
from tocsin.errors import Problem

PATHS: dict[str, Right] = {
    "/1/send/whatsapp.json": "send",
    "/1/send/externaltrigger.json": "send",
    "/2/send/externaltrigger.json": "send",
    "/1/targets/trigger.json": "send",
}


async def refuse_unsupported(context: Context, request: Request) -> NoReturn:
    """Refuse to do what is not built. Raises Problem 404, once the caller has logged in."""
    await context.authenticate(request)
    raise Problem(f"Not supported: nothing was done, {request.url.path} is not built yet", code=404, status=404)


ENDPOINTS: list[Endpoint] = [post(path, refuse_unsupported, right=right) for path, right in PATHS.items()]
