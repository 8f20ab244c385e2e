"""Server-rendered pages over the same functions as the API. They only read: nothing here changes anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import structlog
from litestar import Response, get
from litestar.handlers import HTTPRouteHandler

from tocsin.api.context import Context
from tocsin.api.http import HttpRequest
from tocsin.campaign.spec import LATEST_ID
from tocsin.dashboard.page import Frame, log_in, move_on, refuse_page, render, serve_static
from tocsin.dashboard.queries import Detail, read_detail, read_overview
from tocsin.errors import Problem

log = structlog.get_logger()

BUSY_SECONDS, CALM_SECONDS = 2, 15  # how often a page loads itself anew
NOT_HERE = "There is no such campaign in this account."


def dashboard_pages(context: Context) -> Sequence[HTTPRouteHandler]:
    """The dashboard's routes. What goes wrong inside one of them is answered as a page; what the framework finds
    before it gets there (a wrong method, a path nobody has) stays JSON, as everywhere."""
    handlers: dict[type[Exception] | int, Any] = {Problem: _on_problem, Exception: _on_bug}

    @get("/dashboard", exception_handlers=handlers)
    async def overview(request: HttpRequest) -> Response[bytes]:
        # The framework drops a path's last slash; only the raw path still knows whether it was there.
        if request.scope.get("raw_path", b"").partition(b"?")[0] == b"/dashboard":
            return move_on("/dashboard/")
        account, now = await log_in(context, request), context.clock()
        found = await read_overview(context.ledger, context.facts, account.id, now)
        frame = Frame(account, now, BUSY_SECONDS if found.busy else CALM_SECONDS)
        return render("overview.html", frame=frame, found=found, server=_server_of(request))

    @get("/dashboard/campaigns/{campaign_id:str}", exception_handlers=handlers)
    async def campaign(request: HttpRequest, campaign_id: str) -> Response[bytes]:
        account, now = await log_in(context, request), context.clock()
        found = await _find(context, account.id, campaign_id, now)
        frame = Frame(account, now, BUSY_SECONDS if found.line.busy else CALM_SECONDS)
        return render("campaign.html", frame=frame, found=found)

    @get("/dashboard/static/{name:str}", exception_handlers=handlers)
    async def static(name: str) -> Response[bytes]:
        return serve_static(name)

    return [overview, campaign, static]


async def _find(context: Context, account_id: str, text: str, now: float) -> Detail:
    """The campaign of an address. Raises Problem 404: also for another account's, which nobody else may tell apart."""
    found = None
    if text.isascii() and text.isdigit() and len(text) < 11 and int(text) <= LATEST_ID:
        found = await read_detail(context.ledger, context.facts, account_id, int(text), now)
    if found is None:
        raise Problem(NOT_HERE, code=404, status=404)
    return found


def _server_of(request: HttpRequest) -> str:
    """This server as the visitor reached it, for the examples they can copy."""
    return f"{request.url.scheme}://{request.url.netloc}"


def _on_problem(_: HttpRequest, problem: Problem) -> Response[bytes]:
    return refuse_page(problem.status, problem.error)


def _on_bug(request: HttpRequest, error: Exception) -> Response[bytes]:
    log.error("page failed", path=request.url.path, exc_info=error)
    return refuse_page(500, "This page could not be made. The server's log says why.")
