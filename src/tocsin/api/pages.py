"""`/sdk/…`: what pages of a site load and report, for sites without CleverTap's SDK. See docs/webpush.md.

Nobody logs in. A page names its account and shows its VAPID public key, or an app's token, which stand in its source
for everybody to read: they open this one route, for browsers and events, and nothing that reads.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from sqlalchemy import Connection
from starlette.requests import Request
from starlette.responses import Response

from tocsin import ingest, metrics
from tocsin.account import Account
from tocsin.api.bodies import HELD
from tocsin.api.context import Context
from tocsin.api.endpoint import Endpoint, get
from tocsin.api.http import answer, refuse
from tocsin.errors import Problem, read_struct
from tocsin.ingest.names import read_limits
from tocsin.ingest.push_service import make_token
from tocsin.policy import Policy, load_policy
from tocsin.providers.credential import find_web_push_keys

BODY_BYTES = 16 * 1024
SCRIPT_SECONDS = 3600  # that a browser may keep a script
# A page of any site may ask and read the answer: what opens this stands in its source. There are no cookies.
OPEN = {"Access-Control-Allow-Origin": "*", "Cross-Origin-Resource-Policy": "cross-origin"}
# Devices of pages have names of their own, so that no page can speak for a phone.
DEVICE = "^web-[0-9a-f-]{8,64}$"
SCRIPTS = {path.name: path.read_bytes() for path in sorted((Path(__file__).parent / "scripts").glob("*.js"))}


class PageEvent(msgspec.Struct, frozen=True):
    name: str
    properties: dict[str, Any] = {}


class PageReport(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a page reports: who is at the browser, that it can be pushed to, and what happened; each may be left out.
    subscription: `PushSubscription.toJSON()`."""

    device: Annotated[str, Meta(pattern=DEVICE)]
    identity: str = ""
    subscription: dict[str, Any] | None = None
    event: PageEvent | None = None


class PageAccount(msgspec.Struct, frozen=True):
    """Whose page it is. key: the VAPID key that it should subscribe with, "" when there is none. trust: it may say who
    somebody is. per_second: requests the account's apps may make, where it has its own limit."""

    account: Account
    key: str
    trust: bool
    per_second: float | None = None


async def authenticate_app(context: Context, request: Request) -> PageAccount:
    """Return whose page is asking, by the account's VAPID public key, now or before the last rotation, or by the id and
    token of an app on the web. Raises Problem 401."""
    account_id, key = (request.query_params.get(name, "") for name in ("account", "key"))
    app = await context.apps.find(account_id, context.clock())
    if app is not None and "web" in app.tokens.get(key, ()):
        return _describe_page(app.account, app.policy, app.web_push_key)

    def find(connection: Connection) -> PageAccount | None:
        keys = find_web_push_keys(connection, account_id)
        if key not in keys:
            return None
        return _describe_page(Account.load(connection, account_id), load_policy(connection, account_id), keys[0])

    found = await context.ledger.read(find)
    if found is None:
        raise Problem(
            "The page's account or key is not valid: `tocsin provider vapid show` has them", code=401, status=401
        )
    return found


def _describe_page(account: Account, policy: Policy, key: str) -> PageAccount:
    return PageAccount(account, key, policy.apps.identities == "trust", policy.limits.app_requests_per_second)


async def take_report(context: Context, request: Request) -> Response:
    """Take what a page reports, and answer the key to subscribe with. Raises Problem 400, 401, 413, 429."""
    page = await authenticate_app(context, request)
    account = page.account
    context.pages.take(account.id, request.scope[HELD])
    context.app_rates.admit(account.id, context.clock(), page.per_second)
    report = read_struct(await context.read_json(request, account.id, BODY_BYTES), PageReport)
    context.app_rates.admit_device(account.id, report.device, context.clock())
    records = _list_records(report, page.trust)
    if records:
        limits = read_limits(context.settings)
        result = await ingest.upload(
            context.ledger, context.facts, account, {"d": records}, context.clock(), limits=limits
        )
        metrics.RECORDS.labels(result="processed").inc(result.processed)
        metrics.RECORDS.labels(result="unprocessed").inc(len(result.unprocessed))
        if result.unprocessed:
            wrong = result.unprocessed[0]
            raise Problem(re.sub(r" ?Skipped record number : \d+$", "", wrong["error"]), code=wrong["code"])
    doubt = {"unconfirmed": report.device} if report.identity and not page.trust else {}
    return answer({"status": "success", "key": page.key, **doubt}, OPEN)


def _list_records(report: PageReport, trust: bool) -> list[dict[str, Any]]:
    """Return a report as records of an upload: first who it is, where pages are trusted to say so, then the rest."""
    records: list[dict[str, Any]] = []
    if report.identity and trust:
        records.append({"type": "profile", "identity": report.identity, "objectId": report.device, "profileData": {}})
    if report.subscription is not None:
        if not make_token(report.subscription):
            raise Problem("subscription is not one of a browser's push service (at $.subscription)")
        token = {"type": "chrome", "id": report.subscription["endpoint"], "keys": report.subscription["keys"]}
        records.append({"type": "token", "objectId": report.device, "tokenData": token})
    if report.event is not None:
        event = {"evtName": report.event.name, "evtData": report.event.properties}
        records.append({"type": "event", "objectId": report.device, **event})
    return records


async def show_script(_: Context, request: Request) -> Response:
    """Return one of our scripts. Raises Problem 404 for any other name."""
    content = SCRIPTS.get(request.path_params["name"])
    if content is None:
        raise Problem("Not Found", code=404, status=404)
    headers = {"Cache-Control": f"public, max-age={SCRIPT_SECONDS}", "X-Content-Type-Options": "nosniff", **OPEN}
    return Response(content, 200, headers, "text/javascript")


def refuse_page(request: Request, problem: Problem) -> Response:
    """Return a Problem that a page may read."""
    response = refuse(request, problem)
    response.headers.update(OPEN)
    return response


ENDPOINTS = [
    Endpoint("/sdk/report", {"POST": take_report}, refuse_page, paced=True),
    get("/sdk/{name}", show_script),
]
