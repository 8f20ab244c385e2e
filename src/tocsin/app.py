"""The only place where things are put together: stores are opened, roles started, and stopped in order."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sys
import time
from pathlib import Path
from typing import Literal

import structlog
from granian.constants import Interfaces
from granian.server.embed import Server

from tocsin.api import ENDPOINTS as API_ENDPOINTS
from tocsin.api import Context, Endpoint, build_router
from tocsin.api.throttle import Throttle
from tocsin.authenticator import Authenticator
from tocsin.campaign.runs import find_next_due
from tocsin.campaign.send_queue import SendQueue
from tocsin.dashboard import PAGES
from tocsin.delivery.circuit_breaker import BreakerRules
from tocsin.delivery.cleaner import clean_regularly
from tocsin.delivery.frequency_cap import forget_old_reservations
from tocsin.delivery.load_shedding import LoadMeter
from tocsin.delivery.sender_pool import SenderPool
from tocsin.delivery.snapshot import snapshot_due_runs
from tocsin.delivery.wakeup import Wakeups
from tocsin.delivery.worker import LONGEST_POLL_SECONDS, POLL_SECONDS, Worker
from tocsin.errors import Misconfigured
from tocsin.feedback.interactions import forget_old_reports
from tocsin.feedback.mail import Feedback
from tocsin.idempotency import forget_all_old
from tocsin.settings import Settings, read_settings
from tocsin.store.data_folder import forget_address, lock_folder, write_address
from tocsin.store.ledger import read_secret
from tocsin.store.notification import listen
from tocsin.store.open_files import describe_shortage, raise_open_files
from tocsin.store.stores import Stores, is_embedded

log = structlog.get_logger()

Role = Literal["all", "api", "worker", "scheduler"]
ENDPOINTS: tuple[Endpoint, ...] = (*API_ENDPOINTS, *PAGES)  # every route of the server
READY_SECONDS = 15.0
LOOK_SECONDS = 1.0  # how long a command beside us may hold the folder
SWITCH_SECONDS = 0.001  # after which a thread lets another one run: the API waits for those that look people up
SWEEP_SECONDS = 600.0
TROUBLE_SECONDS = 5.0  # before a loop that failed looks again


async def serve(data: Path, host: str, port: int, role: Role) -> None:
    """Run the roles until SIGTERM or SIGINT, then finish what is with the vendors."""
    settings = read_settings(os.environ, data)
    if role != "all" and settings.facts_url.startswith("chdb:"):
        raise Misconfigured(
            "chDB belongs to one process, so on it all roles share one: leave --role out, or set TOCSIN_FACTS_URL to a "
            "ClickHouse server and TOCSIN_LEDGER_URL to PostgreSQL."
        )
    if role != "all" and settings.ledger_url.startswith("sqlite"):
        raise Misconfigured("SQLite is for one process: set TOCSIN_LEDGER_URL to PostgreSQL to start roles apart.")
    allowed = raise_open_files()
    with lock_folder(data, patience=LOOK_SECONDS) if is_embedded(settings) else contextlib.nullcontext():
        forget_address(data)
        stores = Stores(settings)
        if shortage := describe_shortage(allowed):
            log.warning("few open files", what=shortage)
        try:
            await _run_roles(data, host, port, role, settings, stores)
        finally:
            stores.close()


async def _run_roles(data: Path, host: str, port: int, role: Role, settings: Settings, stores: Stores) -> None:
    sys.setswitchinterval(SWITCH_SECONDS)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    wakeups, load = Wakeups(), LoadMeter()
    secret = await asyncio.to_thread(read_secret, stores.ledger, "push_id")
    rules = BreakerRules(slow_start_seconds=settings.slow_start_seconds)
    sender_pool = SenderPool(settings.senders, 2 * settings.window, time.time, rules)
    url = f"http://{host}:{port}"
    listening = asyncio.create_task(listen(stores.ledger, wakeups.notify_all))
    tasks: list[asyncio.Task[None]] = []
    server: Server | None = None
    worker: Worker | None = None
    try:
        if role in ("all", "scheduler"):
            tasks.append(asyncio.create_task(_schedule(stores, settings, wakeups, stop)))
            tasks.append(asyncio.create_task(clean_regularly(stores.ledger, time.time, stop)))
            tasks.append(asyncio.create_task(_sweep_regularly(stores, settings, stop)))
        if role in ("all", "worker"):
            worker = Worker(
                *(stores.ledger, stores.facts, sender_pool, settings, secret, time.time, wakeups.chunks),
                folder=data / "handover",
                load=load,
            )
            tasks.append(asyncio.create_task(worker.run()))
        if role in ("all", "api"):
            context = _make_context(stores, settings, wakeups, load, secret, write_address(data, url))
            server, serving = await _start_api(context, host, port)
            tasks.append(serving)
        if worker is not None:
            await _wait(worker.ready, tasks)
        _settle_memory()
        print(f"tocsin is ready on {url} (role {role}, dashboard {url}/dashboard/)", flush=True)
        await _wait(stop, tasks)
    finally:
        await _stop(server, worker, tasks, stop, wakeups, settings)
        listening.cancel()
        await sender_pool.aclose()


def _make_context(
    stores: Stores, settings: Settings, wakeups: Wakeups, load: LoadMeter, secret: bytes, local_token: str
) -> Context:
    ledger, facts = stores.ledger, stores.facts
    return Context(
        ledger=ledger,
        facts=facts,
        settings=settings,
        authenticator=Authenticator(ledger),
        creates=Throttle(
            *(ledger, "create", settings.create_per_second, settings.create_at_once),
            pick=lambda own: (own.create_per_second, own.create_at_once),
        ),
        uploads=Throttle(
            *(ledger, "upload", None, settings.uploads_at_once), pick=lambda own: (None, own.uploads_at_once)
        ),
        send_queue=SendQueue(ledger),
        feedback=Feedback(ledger, facts, secret),
        load=load,
        wakeups=wakeups,
        secret=secret,
        local_token=local_token,
        clock=time.time,
    )


async def _start_api(context: Context, host: str, port: int) -> tuple[Server, asyncio.Task[None]]:
    """Serve the API and the dashboard; return when the port is open. Raises Misconfigured when it cannot be."""
    if await _is_open(host, port):
        raise Misconfigured(f"Port {port} of {host} is taken; give another --port.")
    app = build_router(context, ENDPOINTS)
    server = Server(app, address=host, port=port, interface=Interfaces.ASGI, log_enabled=False, websockets=False)
    serving: asyncio.Task[None] = asyncio.create_task(server.serve())
    deadline = time.monotonic() + READY_SECONDS
    while not await _is_open(host, port):
        if serving.done() or time.monotonic() > deadline:
            raise Misconfigured(f"{host}:{port} cannot be listened on; give another --host or --port.")
        await asyncio.sleep(0.02)
    return server, serving


async def _schedule(stores: Stores, settings: Settings, wakeups: Wakeups, stop: asyncio.Event) -> None:
    """Snapshot due runs until `stop` is set; a failure is logged and the run stays due."""
    while not stop.is_set():
        pause = POLL_SECONDS
        try:
            if await snapshot_due_runs(stores.ledger, stores.facts, time.time(), settings):
                wakeups.chunks.notify()
            if stores.ledger.embedded:  # who adds a run says so: only the time has to be looked at
                due = await stores.ledger.read(find_next_due)
                pause = LONGEST_POLL_SECONDS if due is None else min(max(due - time.time(), 0.05), LONGEST_POLL_SECONDS)
        except Exception:
            log.exception("scheduler interrupted")
            pause = TROUBLE_SECONDS
        await wakeups.runs.wait(pause)


async def _sweep_regularly(stores: Stores, settings: Settings, stop: asyncio.Event) -> None:
    """Delete what has an age every SWEEP_SECONDS until `stop` is set: keys of requests, places under caps, first
    reports. A failure is logged, and the next sweep does what was left."""
    while not stop.is_set():
        try:
            await forget_all_old(stores.ledger, time.time())
            await stores.ledger.write(lambda connection: forget_old_reservations(connection, time.time()))
            await forget_old_reports(stores.ledger, time.time(), settings.report_days)
        except Exception:
            log.exception("sweep interrupted")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), SWEEP_SECONDS)


def _settle_memory() -> None:
    """Keep what is loaded by now out of garbage collection: a full one would hold up requests for a tenth of a
    second."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)


async def _wait(event: asyncio.Event, tasks: list[asyncio.Task[None]]) -> None:
    """Return when `event` is set. Raises what a role died of, so that the process ends too: the ledger makes that
    safe."""
    stopping = asyncio.create_task(event.wait())
    await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    for task in tasks:
        if task.done():
            task.result()


async def _stop(
    server: Server | None,
    worker: Worker | None,
    tasks: list[asyncio.Task[None]],
    stop: asyncio.Event,
    wakeups: Wakeups,
    settings: Settings,
) -> None:
    """Stop the API first, so that nothing new is accepted; then the scheduler; then the worker, which drains."""
    stop.set()
    if server is not None:
        server.stop()  # type: ignore[no-untyped-call]
    if worker is not None:
        worker.stop()
    wakeups.runs.notify()
    if tasks:
        _, late = await asyncio.wait(tasks, timeout=settings.drain_seconds)
        for task in late:
            log.warning("gave up waiting for vendors; what was with them will be reported as unknown")
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)


async def _is_open(host: str, port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection(host, port)
    except OSError:
        return False
    writer.close()
    return True
