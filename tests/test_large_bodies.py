"""Large bodies of one account are worked on one after another while another account calls, and together while none
does."""

from __future__ import annotations

import asyncio

import pytest

from tocsin.api.held import Held
from tocsin.api.large_bodies import WAITING, LargeBodies
from tocsin.errors import Problem


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
    bodies = LargeBodies()
    bodies.note("A")
    bodies.note("B")
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
    bodies = LargeBodies()
    bodies.note("A")
    bodies.note("B")
    first, began = await _enter(bodies, "A"), loop.time()
    await asyncio.sleep(0.05)
    first.close()
    took = loop.time() - began
    await _enter(bodies, "A")
    assert loop.time() - began >= 1.9 * took


async def test_an_early_end() -> None:
    """Of a turn after which nothing but a commit is left; the end of the request adds nothing to it."""
    bodies, held = LargeBodies(), Held()
    bodies.note("A")
    bodies.note("B")
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
    bodies = LargeBodies()
    bodies.note("A")
    bodies.note("B")
    await _enter(bodies, "A")
    for _ in range(100):
        await bodies.enter("A", 5_000, Held())


async def test_who_is_gone_keeps_nobody_waiting() -> None:
    """Neither before its turn has come nor in the moment in which it comes."""
    bodies = LargeBodies()
    bodies.note("A")
    bodies.note("B")
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
    bodies = LargeBodies(wait_seconds=0.01)
    bodies.note("A")
    bodies.note("B")
    await _enter(bodies, "A")
    with pytest.raises(Problem) as caught:
        await _enter(bodies, "A")
    assert (caught.value.status, caught.value.retry_after) == (429, 1)


async def test_only_so_many_wait() -> None:
    """Whoever comes then is told so at once."""
    bodies = LargeBodies()
    bodies.note("A")
    bodies.note("B")
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
    bodies = LargeBodies()
    bodies.note("A")
    bodies.note("B")
    await bodies.enter("A", 10**6, Held(), "reads")
    await _enter(bodies, "A")


async def test_alone_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """When the other account has fallen silent, those that wait begin together, and before who comes later."""
    bodies = LargeBodies()
    bodies.note("A")
    bodies.note("B")
    first = await _enter(bodies, "A")
    order: list[int] = []

    async def work(number: int) -> None:
        await _enter(bodies, "A")
        order.append(number)

    waiting = [asyncio.create_task(work(number)) for number in range(4)]
    await _turn()
    monkeypatch.setattr("tocsin.api.large_bodies.SHARED_SECONDS", 0.0)
    waiting.append(asyncio.create_task(work(4)))
    await _turn()
    assert order == []
    first.close()
    await asyncio.gather(*waiting)
    assert order == [0, 1, 2, 3, 4]
    await asyncio.gather(*(work(number) for number in range(5, 9)))
