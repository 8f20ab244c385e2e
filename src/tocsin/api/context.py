"""What a handler may use. `app.py` makes one and hands it to every handler."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Callable
from typing import Any

import msgspec
from starlette.requests import Request

from tocsin.account import Account, list_accounts
from tocsin.api.app_directory import AppDirectory
from tocsin.api.app_rates import AppRates
from tocsin.api.bodies import HELD, STRANGERS, Bodies
from tocsin.api.broadcasts import Broadcasts
from tocsin.api.health import Health
from tocsin.api.http import read_object
from tocsin.api.identity_provider import IdentityProvider
from tocsin.api.large_bodies import LARGE, LargeBodies
from tocsin.api.places import Places
from tocsin.api.send_rates import SendRates
from tocsin.api.throttle import Throttle
from tocsin.authenticator import Authenticator
from tocsin.authenticator.password import Passwords
from tocsin.campaign.compile_pool import CompilePool
from tocsin.campaign.send_queue import SendQueue
from tocsin.delivery.load_shedding import LoadMeter
from tocsin.delivery.wakeup import Wakeups
from tocsin.errors import Problem
from tocsin.feedback.machines import QuickClicks
from tocsin.feedback.mail import Feedback
from tocsin.feedback.reports import Reports
from tocsin.feedback.signed_id import SignedIds
from tocsin.ingest.sdk.intake import Intake
from tocsin.settings import Settings
from tocsin.store.deadline import begin_deadline
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

RIGHT = "tocsin.right"  # in a request's scope: the right that its endpoint asks for


def read_single(request: Request, *names: str) -> list[str | None]:
    """Return the values of headers that prove who is asking, None for one that is not there. Raises Problem 400 for one
    that is there twice: a proxy that looks at the first and a server that takes the last would not mean the same."""
    found: dict[bytes, bytes] = {}
    wanted = [name.encode() for name in names]
    for name, value in request.scope["headers"]:
        if name in wanted:
            if name in found:
                raise Problem(f"The header {name.decode()} is there more than once")
            found[name] = value
    return [found[name].decode("latin-1") if name in found else None for name in wanted]


class Context(msgspec.Struct, frozen=True, kw_only=True):
    ledger: Ledger
    facts: Facts
    settings: Settings
    authenticator: Authenticator
    passwords: Passwords
    identity_provider: IdentityProvider
    creates: Throttle
    uploads: Throttle
    checks: Throttle
    sends: Places
    send_rates: SendRates
    reads: Places
    app_places: Places
    apps: AppDirectory
    app_rates: AppRates
    intake: Intake
    pages: Places
    bodies: Bodies
    large_bodies: LargeBodies
    health: Health
    send_queue: SendQueue
    compile_pool: CompilePool
    feedback: Feedback
    reports: Reports
    quick_clicks: QuickClicks
    load: LoadMeter
    broadcasts: Broadcasts
    wakeups: Wakeups
    signed_ids: SignedIds
    local_token: str
    clock: Callable[[], float]

    async def authenticate(self, request: Request) -> Account:
        """Return the account that the two headers speak for. Raises Problem 401, 429, and 403 when the passcode has not
        the right that the endpoint asks for."""
        account_id, passcode = read_single(request, "x-clevertap-account-id", "x-clevertap-passcode")
        return await self.check(request, account_id, passcode)

    async def check(self, request: Request, account_id: str | None, passcode: str | None) -> Account:
        """Return the account of these credentials of a request, as `authenticate` does."""
        address = request.client.host if request.client is not None else ""
        right = request.scope[RIGHT]
        account = await self.authenticator.authenticate(account_id, passcode, self.clock(), right, address)
        self.large_bodies.note(account.id)
        return account

    async def read(self, request: Request) -> tuple[Account, dict[str, Any]]:
        """Return the account of a request, and its body as an object; the request holds one of the account's places
        for reads until it ends. Raises Problem 401, 413, 429 or 400."""
        account = await self.authenticate(request)
        self.reads.take(account.id, request.scope[HELD])
        return account, read_object(await self.read_in_turn(request, account.id, "reads"), request.scope["path"])

    async def read_body(self, request: Request, owner: str = STRANGERS, limit: int = 0) -> bytes:
        """Return the body. limit: in bytes; 0 for the one of the settings. Raises Problem as Bodies.read does."""
        return await self.bodies.read(request, limit or self.settings.body_limit, owner)

    async def read_in_turn(self, request: Request, account_id: str, kind: str = "") -> bytes:
        """Return the body of a request with a passcode; a large one when it is its turn among the account's of its
        kind. Raises Problem as Bodies.read and LargeBodies.enter do."""
        raw = await self.read_body(request, account_id)
        if len(raw) > LARGE:
            await self.large_bodies.enter(account_id, len(raw), request.scope[HELD], kind)
            begin_deadline(self.settings.query_seconds)  # anew: to wait for its turn is no part of a question's time
        return raw

    async def read_json(self, request: Request, owner: str = STRANGERS, limit: int = 0) -> dict[str, Any]:
        """Return the body as an object. Raises Problem as Bodies.read does, or 400 with the place."""
        return read_object(await self.read_body(request, owner, limit), request.scope["path"])

    def prove_local(self, request: Request) -> None:
        """Raise Problem 401 unless a command of this machine is asking: it has the token of the data folder."""
        given = read_single(request, "x-tocsin-local")[0] or ""
        if not hmac.compare_digest(given.encode(), self.local_token.encode()):
            raise Problem("Invalid Credentials", code=401, status=401)

    async def authenticate_locally(self, request: Request) -> Account:
        """Return the account that a command of this machine names. It proves itself with the token of the data folder,
        which only the folder's owner can read. Raises Problem 401 or 404."""
        self.prove_local(request)
        account_id = request.headers.get("x-clevertap-account-id", "")
        accounts = await asyncio.to_thread(list_accounts, self.ledger)
        found = next((account for account in accounts if account.id == account_id), None)
        if found is None:
            raise Problem(f"There is no account {account_id}", code=404, status=404)
        return found
