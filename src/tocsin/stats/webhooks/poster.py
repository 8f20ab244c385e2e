"""The poster: looks for what is new, and posts each endpoint's batches one after the other, endpoints side by side.

An endpoint belongs to one process at a time, by a lease in the ledger. How far it is is written after each answer, so
what was answered in the moment of a crash is posted again, under the same ids. An endpoint that fails waits for longer
and longer; it delays no other one, and an account has few of the places.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import random
import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from operator import itemgetter
from typing import Any, TypeVar

import msgspec
import structlog
from cryptography.fernet import InvalidToken
from sqlalchemy import Connection

from tocsin import metrics
from tocsin.authenticator.audit import note
from tocsin.delivery.retry import retry_delay
from tocsin.providers.answer_table import clip, read_retry_after
from tocsin.providers.public_address import is_allowed, read_networks
from tocsin.providers.transport import Pool, PoolLimits, Transport, VendorAnswer
from tocsin.settings import Settings
from tocsin.stats.warehouse.position import list_exports
from tocsin.stats.webhooks import endpoint as endpoints
from tocsin.stats.webhooks.batch import MOST_EVENTS, WebhookBatch, make_batch, make_post, make_test, read_names
from tocsin.stats.webhooks.endpoint import CONVERTED, DAY, WebhookEndpoint
from tocsin.stats.webhooks.feed import MICRO, FeedWindow, Place, find_active, find_horizon, listen_to, read_page
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger
from tocsin.store.patience import rest

log = structlog.get_logger()
T = TypeVar("T")

POLL_SECONDS = 1.0
TROUBLE_SECONDS = 5.0  # before the loop looks again after it failed, or after an endpoint that another process has
PLACES, EACH = 100, 4  # endpoints posted to at one time, and of one account: a body of 256 KB each
TURN = 20  # batches of one endpoint before another one has its place
FLOOR = 5.0  # seconds before the first retry at least
GONE = 410
STOP_SECONDS = 5.0  # for the turns under way, when the process ends
UNREADABLE_SECONDS = 60.0  # before an endpoint whose secret cannot be decrypted is looked at again
BACK_SECONDS = 1.0  # a horizon that lies so far behind where an endpoint is means that the store's clock was set back
REWIND_SECONDS = 60.0  # what may have been stored between that and the moment it was noticed
WHO = "webhooks"

Key = tuple[str, str]  # account and id of an endpoint


def open_pool(transport: Transport, settings: Settings) -> Pool:
    """Return the connections for webhooks, to public addresses and TOCSIN_WEBHOOK_NETWORKS only."""
    allows = functools.partial(is_allowed, networks=read_networks(settings.webhook_networks))
    return transport.pool(limits=PoolLimits(connections=PLACES, streams=1, in_flight=PLACES, idle=60, allows=allows))


async def post_test(endpoint: WebhookEndpoint, settings: Settings, now: float) -> dict[str, Any]:
    """Post a batch that says nothing, and return what came back."""
    batch = make_test(endpoint, now)
    async with Transport() as transport:
        request = make_post(endpoint.url, batch, endpoint.read_secrets(settings.secret_key).list_keys(now), now)
        answer = await open_pool(transport, settings).request(request)
    return {"webhook_id": batch.id, "arrived": _is_taken(answer), "answer": describe_answer(answer)}


def describe_answer(answer: VendorAnswer) -> str:
    """Return the status and the beginning of an answer, or why there was none."""
    if answer.failure:
        return clip(answer.detail)
    return clip(f"{answer.status} {answer.body.decode('utf-8', 'replace')}")


def _is_taken(answer: VendorAnswer) -> bool:
    return not answer.failure and 200 <= answer.status < 300


class _EndedError(Exception):
    """A turn is over: the endpoint failed, or is no longer ours."""


class _Due(msgspec.Struct):
    """An endpoint with something to post. until: in microseconds, something was stored before it. not_before: epoch
    seconds, when it is looked at again. turn: when it last had a place."""

    until: int
    not_before: float = 0.0
    turn: int = 0


class WebhookPoster:
    """Posts the batches of all endpoints until it is stopped."""

    def __init__(self, ledger: Ledger, facts: Facts, settings: Settings, clock: Callable[[], float]):
        self._ledger, self._facts, self._settings, self._clock = ledger, facts, settings, clock
        # SQLite has one process: after a crash it goes on at once.
        self._owner = "" if ledger.embedded else secrets.token_hex(16)
        self._due: dict[Key, _Due] = {}
        self._tasks: dict[Key, asyncio.Task[None]] = {}
        # The accounts that the feed is written for, and those with every event; None: not known yet.
        self._listening: tuple[frozenset[str], frozenset[str]] | None = None
        self._known: set[Key] = set()  # others may have something from before `_seen`: new, or enabled again
        self._seen = 0  # what was stored before it is known to `_due`
        self._turns = itertools.count(1)
        self._stopping = False

    async def run(self, stop: asyncio.Event) -> None:
        """Post what is new until `stop` is set; a failure is logged, and nothing is lost by it."""
        async with Transport() as transport:
            pool = open_pool(transport, self._settings)
            while not stop.is_set():
                pause = POLL_SECONDS
                try:
                    await self.look(pool)
                except Exception:
                    log.exception("webhooks interrupted")
                    pause = TROUBLE_SECONDS
                await rest(stop, pause)
            self._stopping = True
            await self.finish(STOP_SECONDS)

    async def finish(self, seconds: float | None = None) -> None:
        """Wait for the turns under way; those that take longer are cancelled, and what they posted last is posted
        again by whoever goes on."""
        if tasks := list(self._tasks.values()):
            _, late = await asyncio.wait(tasks, timeout=seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def look(self, pool: Pool) -> None:
        """Begin to post to every endpoint that has something new, as far as there are places."""
        # One reading and not two: it is asked for once a second, for ever.
        found, exported = await self._ledger.read(lambda one: (endpoints.list_endpoints(one), list_exports(one)))
        accounts = {one.account_id for one in found}
        whole = {one.account_id for one in exported} | {one.account_id for one in found if CONVERTED in one.events}
        if (listening := (frozenset(accounts), frozenset(whole))) != self._listening:
            await listen_to(self._facts, accounts, whole)
            self._listening = listening
        if not found:
            self._due.clear()
            return
        horizon = await find_horizon(self._facts)
        await self._begin_new(found, horizon)
        await self._note_due(found, horizon)
        self._give_places(found, pool, horizon)

    def _give_places(self, found: Sequence[WebhookEndpoint], pool: Pool, horizon: int) -> None:
        """Begin a turn of those that are due, who waited longest first, as far as there are places."""
        now, busy = self._clock(), Counter(account for account, _ in self._tasks)
        waiting = [(due.turn, one, due) for one in found if (due := self._due.get((one.account_id, one.id)))]
        for _, one, due in sorted(waiting, key=itemgetter(0)):
            key = (one.account_id, one.id)
            if key in self._tasks or max(due.not_before, one.next_at) > now or busy[one.account_id] >= EACH:
                continue
            if len(self._tasks) >= PLACES:
                return
            due.turn = next(self._turns)
            busy[one.account_id] += 1
            self._tasks[key] = task = asyncio.create_task(self._post_some(one, due, pool, horizon))
            task.add_done_callback(functools.partial(self._leave, key))

    def _leave(self, key: Key, _: asyncio.Task[None]) -> None:
        del self._tasks[key]

    async def _begin_new(self, found: list[WebhookEndpoint], horizon: int) -> None:
        """Let those begin that are new: what is stored from now on is theirs."""
        for one in found:
            if one.live is None:
                live = FeedWindow(Place(horizon), Place(horizon))
                await self._ledger.write(functools.partial(endpoints.begin, endpoint=one, live=live))

    async def _note_due(self, found: list[WebhookEndpoint], horizon: int) -> None:
        active = await find_active(self._facts, self._seen) if self._known else set()
        self._seen = horizon
        there = {(one.account_id, one.id): one for one in found if one.disabled_at is None}
        self._due = {key: due for key, due in self._due.items() if key in there}
        for key, one in there.items():
            if one.account_id in active or one.replay is not None or key not in self._known:
                self._due.setdefault(key, _Due(horizon)).until = horizon
        self._known = set(there)

    async def _post_some(self, one: WebhookEndpoint, due: _Due, pool: Pool, horizon: int) -> None:
        """Post an endpoint's next batches, and say when it is looked at again."""
        try:
            held = await self._write(endpoints.lease, one)
            if held is None:
                due.not_before = self._clock() + TROUBLE_SECONDS
                return
            for _ in range(TURN):
                following = None if self._stopping else await self._post_next(held, pool, horizon)
                if following is None:
                    break
                held = following
            else:
                following = held
            if following is None and due.until <= horizon and not self._stopping:
                self._due.pop((one.account_id, one.id), None)
            await self._save(held, lease_until=None)
        except _EndedError:
            return
        except InvalidToken:
            log.error("webhook cannot be decrypted", account=one.account_id, webhook=one.id)
            due.not_before = self._clock() + UNREADABLE_SECONDS
        except Exception:
            log.exception("webhook interrupted", account=one.account_id, webhook=one.id)
            due.not_before = self._clock() + TROUBLE_SECONDS

    async def _post_next(self, one: WebhookEndpoint, pool: Pool, horizon: int) -> WebhookEndpoint | None:
        """Post the next batch: of what is new, then of what is replayed. Return the endpoint as it is then, None when
        there is nothing to post. Raises _EndedError when it failed, or is no longer ours."""
        live = move_on(one.live, horizon)
        name, window = ("replay", one.replay) if live.is_read else ("live", live)
        if window is None:
            return None
        rows = await read_page(self._facts, one.account_id, one.events, window, MOST_EVENTS)
        users = [row.place.user for row in rows]
        names = await self._ledger.read(lambda connection: read_names(connection, one.account_id, users))
        batch = make_batch(one, rows, window, names)
        values: dict[str, Any] = {name: None if name == "replay" and batch.rest.is_read else batch.rest}
        if batch.events:
            if window is not getattr(one, name):
                # Written first: whoever goes on after a crash cuts the same batches.
                await self._save(one, live=window)
            answer = await self._post(one, batch, pool)
            if not _is_taken(answer):
                await self._fail(one, answer)
            values |= {"answer": describe_answer(answer), "answered_at": self._clock()}
            values |= {"failing_since": None, "failures": 0, "next_at": None}
        await self._save(one, **values)
        return msgspec.structs.replace(one, **(values | {"next_at": 0.0}))

    async def _post(self, one: WebhookEndpoint, batch: WebhookBatch, pool: Pool) -> VendorAnswer:
        now = self._clock()
        keys = one.read_secrets(self._settings.secret_key).list_keys(now)
        answer = await pool.request(make_post(one.url, batch, keys, now))
        metrics.WEBHOOK_POSTS.labels(result="taken" if _is_taken(answer) else answer.failure or "refused").inc()
        return answer

    async def _fail(self, one: WebhookEndpoint, answer: VendorAnswer) -> None:
        """Say when a failed endpoint is tried again; disable one that is gone, or has failed for too long."""
        now, said = self._clock(), describe_answer(answer)
        since = now if one.failing_since is None else one.failing_since
        wait = retry_delay(read_retry_after(answer), one.failures, FLOOR, random.random())  # noqa: S311 - jitter
        values: dict[str, Any] = {"answer": said, "answered_at": now, "failing_since": since}
        values |= {"failures": one.failures + 1, "next_at": now + wait, "lease_until": None}
        reason = "gone" if answer.status == GONE else ""
        if now - since >= self._settings.webhook_days * DAY:
            reason = reason or "failing"
        if not reason:
            await self._save(one, **values)
            raise _EndedError

        def disable(connection: Connection) -> bool:
            held = endpoints.save(connection, one, self._owner, now, **values, disabled_at=now)
            if held:
                note(connection, one.account_id, WHO, "webhook disabled", f"{one.id} {reason}: {said}", now)
            return held

        if await self._ledger.write(disable):
            metrics.WEBHOOKS_DISABLED.labels(reason=reason).inc()
            log.warning("webhook disabled", account=one.account_id, webhook=one.id, reason=reason)
        raise _EndedError

    async def _save(self, one: WebhookEndpoint, **values: Any) -> None:
        """Write how far an endpoint is. Raises _EndedError when another process has it, or nobody any more."""
        if not await self._write(endpoints.save, one, **values):
            raise _EndedError

    async def _write(self, work: Callable[..., T], one: WebhookEndpoint, **values: Any) -> T:
        """Do one of the pieces of work on an endpoint. A power cut may undo it: then some is posted again."""
        bound = functools.partial(work, endpoint=one, owner=self._owner, now=self._clock(), **values)
        return await self._ledger.write(bound, durable=False)


def move_on(live: FeedWindow | None, horizon: int) -> FeedWindow:
    """Return the window that is left to read; once it is read, the next one, which reaches to the horizon."""
    assert live is not None  # else it could not be leased
    if not live.is_read:
        return live
    after = live.end
    if horizon < after.stored - BACK_SECONDS * MICRO:
        after = Place(max(0, horizon - int(REWIND_SECONDS * MICRO)))
    return FeedWindow(after, max(after, Place(horizon)))
