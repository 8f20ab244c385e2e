"""What is compiled in a process of its own is what a thread makes of it; and its end takes nobody along."""

from __future__ import annotations

import asyncio
import operator
import os
import signal
import time
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
from conftest import Caller, Server, wait_for
from support.processes import children, find_settings

from tocsin.account import Account
from tocsin.campaign.compile_pool import CompilePool
from tocsin.campaign.compile_process import CompileProcess
from tocsin.campaign.send import _AskedContent
from tocsin.campaign.spec import read_encoded_spec, read_spec
from tocsin.dashboard.sample import preview_contents
from tocsin.errors import Problem

ACCOUNT = Account("ABC-DEF-GHIJ", "test", "Europe/Berlin")
NOW = 1_800_000_000.0
BODY: dict[str, Any] = {
    "name": "n",
    "where": {},
    "content": {"title": "{{ Profile.Name | upcase }}", "body": "{% for i in (1..3) %}{{ i }}{% endfor %}"},
    "devices": ["android", "ios"],
    "when": "now",
}
HEAVY = "{% for i in (1..40) %}{% for j in (1..24) %}{{ i | times: j }}{% endfor %}{% endfor %}" * 20


@pytest_asyncio.fixture
async def process() -> AsyncIterator[CompileProcess]:
    """One that is up."""
    process = CompileProcess(trouble_seconds=0.0)
    process.start()
    await _until(process, up=True)
    yield process
    await process.aclose()
    await asyncio.sleep(0)  # who waited hears of it


async def _until(process: CompileProcess, *, up: bool) -> None:
    async with asyncio.timeout(60):
        while process.up is not up:  # noqa: ASYNC110 - what is waited for happens elsewhere
            await asyncio.sleep(0.01)


async def test_it_makes_what_a_thread_makes(process: CompileProcess) -> None:
    """Campaigns and previews, and the sentence of what is wrong with one."""
    read = partial(read_spec, BODY, ACCOUNT, NOW, {})
    spec = read()
    assert await process.begin(read) == spec
    told = partial(read_encoded_spec, msgspec.json.encode(BODY), ACCOUNT, NOW, {})
    assert await process.begin(told) == spec
    asked = _AskedContent(msgspec.json.encode(BODY["content"]), "push", False, True)
    assert await process.begin(asked.compile) == asked.compile()
    show = partial(preview_contents, spec.contents, spec.platforms, {"Name": "Ann"}, NOW, webhook=False)
    assert await process.begin(show) == show()
    wrong = BODY | {"content": {"title": "t", "body": "{% nonsense %}"}}
    with pytest.raises(Problem) as here:
        read_spec(wrong, ACCOUNT, NOW, {})
    with pytest.raises(Problem) as there:
        await process.begin(partial(read_spec, wrong, ACCOUNT, NOW, {}))
    assert vars(there.value) == vars(here.value)
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        await process.begin(partial(operator.truediv, 1, 0))


async def test_its_end_ends_nothing_else(process: CompileProcess) -> None:
    """Who waited for it is told to try again, and it is started again when it is wanted."""
    waiting = process.begin(partial(time.sleep, 60))
    with pytest.raises(Problem) as caught:
        await process.begin(partial(signal.raise_signal, signal.SIGKILL))
    assert (caught.value.code, caught.value.status) == (503, 503)
    with pytest.raises(Problem):
        await waiting
    await _until(process, up=False)
    async with asyncio.timeout(60):
        while not process.up:
            process.start()
            await asyncio.sleep(0.01)
    assert await process.begin(partial(sum, (1, 2))) == 3


async def test_what_cannot_be_told(process: CompileProcess) -> None:
    """It is the caller's mistake, and nobody else's work ends with it."""
    with pytest.raises(Exception, match="pickle"):
        process.begin(lambda: 1)
    assert not process._waiting
    pool = CompilePool(process)
    for _ in range(5):
        with pytest.raises(Exception, match="pickle"):
            await pool.run("A", lambda: 1)
    assert await pool.run("A", os.getpid) != os.getpid()
    assert await process.begin(partial(sum, (1, 2))) == 3


async def test_a_process_that_cannot_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads go on, it is not tried again at once, and the server's end is as ever."""
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    process = CompileProcess()
    pool = CompilePool(process)
    assert await pool.run("A", _work_long) == os.getpid()
    assert process._task is not None
    for _ in range(20):
        assert await pool.run("A", os.getpid) == os.getpid()
    assert not process._task.done()
    await process.aclose()


async def test_what_does_not_end_is_ended() -> None:
    """When nothing else is answered either."""
    process = CompileProcess(silent_seconds=0.2)
    process.start()
    await _until(process, up=True)
    with pytest.raises(Problem):
        await process.begin(partial(time.sleep, 60))
    await process.aclose()


async def test_only_heavy_contents_start_it() -> None:
    """A quick one is compiled in a thread, and so are all until the process is up."""
    process = CompileProcess()
    pool = CompilePool(process)
    assert await pool.run("A", os.getpid) == os.getpid()
    assert process._task is None
    here = await pool.run("A", _work_long)
    assert (here, process._task is None) == (os.getpid(), False)
    await _until(process, up=True)
    there = await pool.run("A", os.getpid)
    assert there != os.getpid()
    await process.aclose()
    assert await pool.run("A", os.getpid) == os.getpid()


def _work_long() -> int:
    began = time.thread_time()
    while time.thread_time() - began < 0.05:
        pass
    return os.getpid()


async def test_a_place_is_held_until_the_process_is_done(process: CompileProcess) -> None:
    """Also when the caller has gone."""
    pool = CompilePool(process, wait_seconds=0)
    gone = [asyncio.create_task(pool.run("A", partial(time.sleep, 60))) for _ in range(2)]
    await asyncio.sleep(0)
    for one in gone:
        one.cancel()
    await asyncio.wait(gone)
    with pytest.raises(Problem) as caught:
        await pool.run("A", os.getpid)
    assert caught.value.status == 429
    assert await pool.run("B", os.getpid) != os.getpid()


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads /proc")
def test_a_server_has_one(server: Server, caller: Caller) -> None:
    """It inherits none of our settings; what compiles is answered as ever, before it is up and afterwards."""

    def send(body: str) -> tuple[int, Any]:
        return caller.post("/1/send/push.json", {"to": {"Identity": ["a"]}, "content": {"title": "t", "body": body}})

    def find() -> list[int]:
        send(HEAVY + str(time.monotonic()))
        return children(server.process.pid, "tocsin.campaign.compile_process")

    [pid] = wait_for(lambda: find() or None)
    assert find_settings(pid) == []
    caller.upload({"type": "profile", "identity": "a", "profileData": {"Name": "Ann"}})
    assert send("Hello {{ Profile.Name }}")[0] == 200
    assert send("Hello {% nonsense %}")[0] == 400
    made = caller.create(content=BODY["content"])
    status, said = caller.post("/1/targets/why.json", {"id": made, "identity": "a"})
    assert status == 200, said
