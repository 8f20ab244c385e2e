"""`/1/send/…`: messages to people named one by one.

A thousand requests a second pass here, so what is refused is refused before anything is read, and most bodies are
decoded in one pass.
"""

from __future__ import annotations

from functools import partial

from starlette.requests import Request
from starlette.responses import Response

from tocsin.account import Account
from tocsin.api.bodies import HELD
from tocsin.api.context import Context
from tocsin.api.endpoint import post
from tocsin.api.http import CODE_UNEXPECTED, answer, read_object, replay, require_json_type
from tocsin.campaign.send import ANSWER, prepare, read_asked, read_plain
from tocsin.channels import CHANNELS
from tocsin.delivery import traces
from tocsin.errors import Problem
from tocsin.idempotency import read_key
from tocsin.policy import load_policy
from tocsin.providers import BY_NAME
from tocsin.providers.credential import find_named, require_named, require_provider

FEW = 100  # people; more are work for those who look them up
HUGE = 128 * 1024  # bytes; few mails have as many
# Made once: a thousand requests a second get the same answer.
ACCEPTED, REPLAYED = answer(ANSWER), replay(ANSWER)
BUG = Problem("Unexpected error, please try again", code=CODE_UNEXPECTED, status=500)


async def send(context: Context, request: Request, channel: str) -> Response:
    """Queue one request durably. Raises Problem 429 while too many wait, else as documented for `/1/send`."""
    account = await context.authenticate(request)  # before a span is begun: strangers must not fill the collector
    if traces.active is None:
        return await _send(context, request, account, channel, "")
    with traces.active.request(f"/1/send/{channel}.json", request.headers.get("traceparent")) as parent:
        return await _send(context, request, account, channel, parent)


async def _send(context: Context, request: Request, account: Account, channel: str, traceparent: str) -> Response:
    path = f"/1/send/{channel}.json"
    require_json_type(request)
    context.sends.take(account.id, request.scope[HELD])
    raw = await context.read_body(request, account.id)
    turn = await context.large_bodies.enter(account.id, len(raw), request.scope[HELD], "sends")
    if channel in BY_NAME:
        await context.ledger.read(lambda connection: require_provider(connection, account.id, channel))
    key = read_key(account.id, request.headers.get("idempotency-key"), path, raw)
    asked = read_plain(raw) or read_asked(read_object(raw, path))
    if asked.provider_nick_name:
        mine = account.id
        named = await context.ledger.read(lambda one: find_named(one, mine, load_policy(one, mine).provider_names))
        require_named(asked.provider_nick_name, named, CHANNELS[channel].platforms)
    rate = await context.send_rates.find(account.id, context.clock())
    people, now = sum(map(len, asked.to.values())), context.clock()  # what took long to arrive counts from now on
    context.send_rates.admit(account.id, rate, people, now)
    stages = account, channel, asked, now, context.settings, context.compile_pool
    prepared = await prepare(*stages, key, rate, traceparent)
    if people <= FEW:  # what is left is a commit, which takes nothing from others
        turn.end(rest=len(raw) > HUGE)
    new = await context.send_queue.put(prepared)
    context.load.count(people, now)
    return ACCEPTED if new else REPLAYED


ENDPOINTS = [
    post(f"/1/send/{channel}.json", partial(send, channel=channel), bug=BUG, right="send") for channel in CHANNELS
]
