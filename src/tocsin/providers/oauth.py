"""The OAuth 2 access token of one credential: fetched once for all who wait, renewed before it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Annotated

import msgspec
from msgspec import Meta

from tocsin.providers.answer_table import DENIED, judge_failure, read_retry_after, unavailable
from tocsin.providers.contract import Receipt, Scope
from tocsin.providers.http.transfer import HttpPost, VendorAnswer
from tocsin.providers.transport import Pool

AHEAD_SECONDS = 300.0  # renew while the old token still works
SPENT_SECONDS = 30.0  # a token this close to its end may have expired when the vendor reads it
LIFETIME_SECONDS = 3600.0  # when the endpoint does not say; the WNS sample without `expires_in` lives longer
HOLD_SECONDS = 1.0  # a failure is the answer to all callers for so long, before the endpoint is asked again

# Errors a 400 may carry though the endpoint is what failed (RFC 6749 4.1.2.1; the last one is Google's).
_THEIRS = frozenset(("temporarily_unavailable", "server_error", "internal_failure"))


class _Grant(msgspec.Struct):
    access_token: Annotated[str, Meta(min_length=1)]
    expires_in: float | str = LIFETIME_SECONDS  # Entra's numbers may come as strings


class _GrantError(msgspec.Struct):
    error: str = ""
    error_description: str = ""


class Tokens:
    """The token of one credential. ask: makes the request for a new one, given the time in epoch seconds."""

    def __init__(self, pool: Pool, ask: Callable[[float], HttpPost]) -> None:
        self._pool = pool
        self._ask = ask
        self._token = ""
        self._ends = 0.0
        self._failure: Receipt | None = None
        self._failed = 0.0
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"Tokens(held={bool(self._token)})"

    async def get(self, now: float) -> str | Receipt:
        """Return the token, or the receipt that explains why there is none: `DENIED` when the endpoint refuses our
        credential, `UNAVAILABLE` when it cannot be reached; both hold for the whole lane."""
        if self._token and now < self._ends - AHEAD_SECONDS:
            return self._token
        resting = self._failure is not None and abs(now - self._failed) < HOLD_SECONDS
        if self._task is None and not resting:
            self._task = asyncio.create_task(self._renew(now))
            self._task.add_done_callback(self._forget)
        if self._token and now < self._ends - SPENT_SECONDS:
            return self._token
        if self._task is not None:
            await asyncio.shield(self._task)
        if self._token:
            return self._token
        return self._failure or unavailable(1.0, Scope.LANE).receipt("token", "no token was given")

    def drop(self, token: str) -> None:
        """Discard `token`, which the vendor refused: the next `get` fetches another, unless that is done already."""
        if token == self._token:
            self._token = ""

    def _forget(self, _task: asyncio.Task[None]) -> None:
        self._task = None

    async def _renew(self, now: float) -> None:
        answer = await self._pool.request(self._ask(now))
        found = read_grant(answer)
        if isinstance(found, Receipt):
            self._failure, self._failed = found, now
            if now >= self._ends - SPENT_SECONDS:
                self._token = ""
            return
        self._failure = None
        self._token, lifetime = found
        # A lifetime shorter than the margins is stretched, or every send would fetch a token.
        self._ends = now + max(lifetime, AHEAD_SECONDS + 60.0)


def read_grant(answer: VendorAnswer) -> tuple[str, float] | Receipt:
    """Return the token and its lifetime in seconds, or a receipt for the lane (RFC 6749 5.2: 400 and 401 refuse the
    credential; 429, 5xx and the errors of `_THEIRS` are the endpoint's own trouble)."""
    if answer.failure:
        # Asking twice for a token does no harm, so «unknown» may be retried as «unsent» is.
        return judge_failure(VendorAnswer(failure="unsent", detail=f"token endpoint: {answer.detail}"), 1.0)
    if answer.status == 200:
        try:
            grant = msgspec.json.decode(answer.body, type=_Grant)
            return grant.access_token, float(grant.expires_in)
        except (msgspec.DecodeError, ValueError):
            return unavailable(10.0, Scope.LANE).receipt("token 200", "the token endpoint's answer cannot be read")
    try:
        refusal = msgspec.json.decode(answer.body, type=_GrantError)
    except (msgspec.DecodeError, ValueError):
        refusal = _GrantError()
    if answer.status in (408, 429) or answer.status >= 500 or refusal.error in _THEIRS:
        code = f"token {refusal.error if refusal.error in _THEIRS else answer.status}"
        return unavailable(1.0, Scope.LANE).receipt(code, refusal.error_description, read_retry_after(answer))
    return DENIED.receipt(f"token {refusal.error or answer.status}", refusal.error_description)
