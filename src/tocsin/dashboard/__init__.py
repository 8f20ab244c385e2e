"""Server-rendered pages over the same functions as the API. They only read: nothing here changes anything."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from tocsin.api.context import Context
from tocsin.api.endpoint import get
from tocsin.campaign.spec import LATEST_ID
from tocsin.dashboard.page import Frame, log_in, redirect, refuse_page, render, serve_static
from tocsin.dashboard.queries import Detail, read_detail, read_overview
from tocsin.errors import Problem

BUSY_SECONDS, CALM_SECONDS = 2, 15  # between two loads of a page
NOT_HERE = "There is no such campaign in this account."
BUG = Problem("This page could not be made. The server's log says why.", code=500, status=500)


async def move_to_overview(_context: Context, _request: Request) -> Response:
    return redirect("/dashboard/")


async def show_overview(context: Context, request: Request) -> Response:
    """Show the newest campaigns and the tag groups."""
    account, now = await log_in(context, request), context.clock()
    found = await read_overview(context.ledger, context.facts, account.id, now)
    frame = Frame(account, now, BUSY_SECONDS if found.busy else CALM_SECONDS)
    return render("overview.html", frame=frame, found=found, server=_server_of(request))


async def show_campaign(context: Context, request: Request) -> Response:
    """Show one campaign: what was asked, its numbers, what the vendors said."""
    account, now = await log_in(context, request), context.clock()
    found = await _find(context, account.id, request.path_params["campaign_id"], now)
    frame = Frame(account, now, BUSY_SECONDS if found.line.busy else CALM_SECONDS)
    return render("campaign.html", frame=frame, found=found)


async def show_static(_: Context, request: Request) -> Response:
    return serve_static(request.path_params["name"])


async def _find(context: Context, account_id: str, text: str, now: float) -> Detail:
    """Return the campaign of an address. Raises Problem 404, also for another account's, which nobody else may tell
    apart."""
    found = None
    if text.isascii() and text.isdigit() and len(text) < 11 and int(text) <= LATEST_ID:
        found = await read_detail(context.ledger, context.facts, account_id, int(text), now)
    if found is None:
        raise Problem(NOT_HERE, code=404, status=404)
    return found


def _server_of(request: Request) -> str:
    """Return this server as the visitor reached it, for the examples they can copy."""
    return f"{request.url.scheme}://{request.url.netloc}"


PAGES = [
    get("/dashboard", move_to_overview, refuse_page, BUG),
    get("/dashboard/", show_overview, refuse_page, BUG),
    get("/dashboard/campaigns/{campaign_id}", show_campaign, refuse_page, BUG),
    get("/dashboard/static/{name}", show_static, refuse_page, BUG),
]
