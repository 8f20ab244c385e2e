"""Large bodies of one account are worked on one after another while another account calls, and together while none
does."""

from __future__ import annotations

import asyncio
import contextlib
import time
from functools import partial
from types import SimpleNamespace
from typing import cast

import msgspec
import pytest
from starlette.requests import Request
from starlette.types import Message

from tocsin.account import Account, create_account
from tocsin.api.bodies import HELD, Bodies
from tocsin.api.context import RIGHT, Context
from tocsin.api.endpoint import Handler
from tocsin.api.held import Held
from tocsin.api.large_bodies import LARGE, REST_SECONDS, WAIT_SECONDS, WAITING, LargeBodies, LargeBodyTurn
from tocsin.api.places import Places
from tocsin.api.segments import explain
from tocsin.api.send_rates import SendRates
from tocsin.api.sends import send
from tocsin.api.subscriptions import subscribe
from tocsin.api.upload import upload
from tocsin.campaign.compile_pool import CompilePool
from tocsin.campaign.send_queue import QueuedSend
from tocsin.campaign.send_rate import SendRate
from tocsin.delivery.load_shedding import LoadMeter
from tocsin.errors import Problem
from tocsin.settings import Settings
from tocsin.store.ledger import Ledger

pytest_plugins = ("engines",)


def _shared(wait_seconds: float = WAIT_SECONDS) -> LargeBodies:
    """Those of two accounts that both call."""
    bodies = LargeBodies(wait_seconds)
    bodies.note("A")
    bodies.note("B")
    return bodies


async def _enter(bodies: LargeBodies, account_id: str) -> Held:
    held = Held()
    await bodies.enter(account_id, 10**6, held)
    return held


async def _turn(times: int = 5) -> None:
    for _ in range(times):
        await asyncio.sleep(0)


async def test_alone_all_at_once() -> None:
    """Nobody waits for nobody."""
    bodies = LargeBodies()
    bodies.note("A")
    for one in [await _enter(bodies, "A") for _ in range(20)]:
        one.close()
    await _enter(bodies, "A")


async def test_one_after_another() -> None:
    """In the order in which they came; the other account does not wait for them."""
    bodies = _shared()
    order: list[int] = []

    async def work(number: int) -> None:
        held = await _enter(bodies, "A")
        order.append(number)
        await _enter(bodies, f"B{number}")
        held.close()

    first = await _enter(bodies, "A")
    waiting = [asyncio.create_task(work(number)) for number in range(4)]
    await _turn()
    assert order == []
    first.close()
    await asyncio.gather(*waiting)
    assert order == [0, 1, 2, 3]


async def test_rests() -> None:
    """As long as the one before took."""
    loop = asyncio.get_running_loop()
    bodies = _shared()
    first, began = await _enter(bodies, "A"), loop.time()
    await asyncio.sleep(0.05)
    first.close()
    took = loop.time() - began
    await _enter(bodies, "A")
    assert loop.time() - began >= took + 0.9 * min(took, REST_SECONDS)


async def test_an_early_end() -> None:
    """Of a turn after which nothing but a commit is left; the end of the request adds nothing to it."""
    bodies, held = _shared(), Held()
    turn = await bodies.enter("A", 10**6, held)
    turn.end(rest=False)
    await _enter(bodies, "A")
    held.close()
    waiting = asyncio.create_task(_enter(bodies, "A"))
    await _turn()
    assert not waiting.done()
    waiting.cancel()


async def test_small_ones_wait_for_nobody() -> None:
    """However many there are."""
    bodies = _shared()
    await _enter(bodies, "A")
    for _ in range(100):
        await bodies.enter("A", 5_000, Held())


async def test_who_is_gone_keeps_nobody_waiting() -> None:
    """Neither before its turn has come nor in the moment in which it comes."""
    bodies = _shared()
    first = await _enter(bodies, "A")
    gone = [asyncio.create_task(_enter(bodies, "A")) for _ in range(2)]
    last = asyncio.create_task(_enter(bodies, "A"))
    await _turn()
    gone[0].cancel()
    first.close()
    line = bodies._lines["A", ""]
    while line.waiting and not line._busy:  # noqa: ASYNC110 - it is about the moment in which that changes
        await asyncio.sleep(0)
    gone[1].cancel()
    assert isinstance(await last, Held)
    assert (line._busy, line.waiting) == (1, 0)


async def test_nobody_waits_for_ever() -> None:
    """Who has waited too long is told to come again."""
    bodies = _shared(wait_seconds=0.01)
    await _enter(bodies, "A")
    with pytest.raises(Problem) as caught:
        await _enter(bodies, "A")
    assert (caught.value.status, caught.value.retry_after) == (429, 1)


async def test_only_so_many_wait() -> None:
    """Whoever comes then is told so at once."""
    bodies = _shared()
    await _enter(bodies, "A")
    waiting = [asyncio.create_task(_enter(bodies, "A")) for _ in range(WAITING)]
    await _turn()
    with pytest.raises(Problem):
        await _enter(bodies, "A")
    for one in waiting:
        one.cancel()
    await asyncio.wait(waiting)


async def test_kinds_have_lines_of_their_own() -> None:
    """A slow question keeps no upload waiting."""
    bodies = _shared()
    await bodies.enter("A", 10**6, Held(), "reads")
    await _enter(bodies, "A")


async def test_alone_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the other account has fallen silent, those that wait begin with who comes next, whatever is worked on."""
    bodies = _shared()
    first = await _enter(bodies, "A")
    order: list[int] = []

    async def work(number: int) -> None:
        await _enter(bodies, "A")
        order.append(number)

    waiting = [asyncio.create_task(work(number)) for number in range(4)]
    await _turn()
    monkeypatch.setattr("tocsin.api.large_bodies.SHARED_SECONDS", 0.0)
    await work(4)
    await asyncio.gather(*waiting)
    assert sorted(order) == [0, 1, 2, 3, 4]
    first.close()
    await asyncio.gather(*(work(number) for number in range(5, 9)))


class Refused(LargeBodies):
    """Lines in which nobody's turn comes."""

    async def enter(self, account_id: str, size: int, held: Held, kind: str = "") -> LargeBodyTurn:
        assert size > LARGE
        raise Problem(f"{account_id} waits with {kind or 'all'}")


class Rooms(SimpleNamespace):
    """What the routes that read large bodies ask of a context."""

    read_body, read_in_turn, read = Context.read_body, Context.read_in_turn, Context.read

    async def authenticate(self, _: Request) -> Account:
        account: Account = self.account
        return account


def _request(path: str, body: bytes, held: Held) -> Request:
    async def receive() -> Message:
        return {"type": "http.request", "body": body}

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": path, "headers": headers, "query_string": b"", HELD: held}
    return Request(scope, receive)


@pytest.mark.parametrize(
    ("path", "handler", "waits"),
    [
        ("/1/upload", upload, "A waits with all"),
        ("/1/subscribe", subscribe, "A waits with all"),
        ("/1/send/email.json", partial(send, channel="email"), "A waits with sends"),
        ("/1/segments/explain.json", explain, "A waits with reads"),
    ],
)
async def test_routes_take_turns(path: str, handler: Handler, waits: str) -> None:
    """Uploads and opt-outs, sends, and what is asked, each in a line of its own."""
    places, context = Places(10, 10), Rooms(settings=Settings(), bodies=Bodies(10**8, 30.0), large_bodies=Refused())
    context.account = Account("A", "a", "UTC")
    context.sends = context.reads = places
    context.clock = time.time
    context.uploads = SimpleNamespace(admit=lambda *_: contextlib.nullcontext())
    body = msgspec.json.encode({"d": [], "where": {}, "x": "x" * LARGE})

    with pytest.raises(Problem, match=waits):
        await handler(cast(Context, context), _request(path, body, Held()))


async def test_a_send_to_few_gives_its_turn_back_before_its_commit(own_ledger: Ledger) -> None:
    """A send to many keeps it: those have to be looked up."""
    account = create_account(own_ledger, "test", "UTC", 0.0)[0]
    bodies, begun = LargeBodies(), list[bool]()
    bodies.note("B")

    async def put(_: QueuedSend) -> bool:
        begun.append(not bodies._lines[account.id, "sends"].is_taken())
        return True

    context = Rooms(
        settings=Settings(), bodies=Bodies(10**8, 30.0), large_bodies=bodies, sends=Places(10, 10), clock=time.time
    )
    context.account, context.ledger, context.compile_pool = account, own_ledger, CompilePool()
    context.send_rates, context.load = SendRates(own_ledger, SendRate(None, None)), LoadMeter()
    context.send_queue = SimpleNamespace(put=put)
    for people in (1, 101):
        to = {"Identity": [f"person {number}" for number in range(people)]}
        body = msgspec.json.encode({"to": to, "content": {"title": "t", "body": "b"}, "note": "x" * LARGE})
        held = Held()
        await send(cast(Context, context), _request("/1/send/push.json", body, held), "push")
        held.close()
    assert begun == [True, False]


async def test_who_has_gone_is_not_waited_for() -> None:
    """Neither by who comes next nor in the count of those that wait."""
    bodies = _shared(wait_seconds=0.01)
    await _enter(bodies, "A")
    with pytest.raises(Problem):
        await _enter(bodies, "A")
    assert bodies._lines["A", ""].waiting == 0


async def test_who_calls_is_noted() -> None:
    """By a passcode: with nobody noted there are no turns."""

    async def authenticate(account_id: str, *_: object) -> Account:
        return Account(account_id, "a", "UTC")

    context = Rooms(
        large_bodies=LargeBodies(), authenticator=SimpleNamespace(authenticate=authenticate), clock=time.time
    )
    scope = {"type": "http", "headers": [], RIGHT: "all"}
    for name in ("A", "B"):
        await Context.check(cast(Context, context), Request(scope), name, "passcode")
    assert context.large_bodies._is_shared("A")
