"""`/openapi.json`: the API described for programs, made from the structs that its requests are read with."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tocsin.api.context import Context
from tocsin.api.endpoint import Endpoint, get
from tocsin.api.openapi.document import make_document

FRESH_SECONDS = 3600
# It says nothing of anybody: a page of any site, an editor or a generator may read it.
OPEN = {"Access-Control-Allow-Origin": "*", "X-Content-Type-Options": "nosniff"}


def describe_endpoints(endpoints: Sequence[Endpoint]) -> Endpoint:
    """Return the endpoint that serves the document of the others. It is made when somebody first asks."""

    @functools.cache
    def make() -> tuple[bytes, str]:
        content = msgspec.json.encode(make_document(endpoints))
        return content, f'"{hashlib.sha256(content).hexdigest()[:32]}"'

    async def show(_: Context, request: Request) -> Response:
        content, tag = make()
        headers = OPEN | {"ETag": tag, "Cache-Control": f"public, max-age={FRESH_SECONDS}"}
        known = {one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")}
        if tag in known or "*" in known:
            return Response(status_code=304, headers=headers)
        return Response(content, 200, headers, "application/json")

    return get("/openapi.json", show)
