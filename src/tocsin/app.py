"""The only place where things are put together: stores are opened, roles started, and stopped in order."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import secrets
import signal
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import structlog
from granian.constants import HTTPModes, Interfaces
from granian.http import HTTP1Settings
from granian.server.embed import Server
from starlette.types import ASGIApp

from tocsin.api import ENDPOINTS as API_ENDPOINTS
from tocsin.api import Context, Endpoint, build_router
from tocsin.api.app_directory import AppDirectory
from tocsin.api.app_rates import AppRates
from tocsin.api.bodies import SHARE, Bodies
from tocsin.api.broadcasts import Broadcasts
from tocsin.api.health import Health, Installation
from tocsin.api.identity_provider import IdentityProvider
from tocsin.api.large_bodies import LargeBodies
from tocsin.api.operator import HEALTH, METRICS
from tocsin.api.places import Places
from tocsin.api.send_rates import SendRates
from tocsin.api.throttle import Throttle
from tocsin.authenticator import Authenticator
from tocsin.authenticator.audit import forget_old_deeds
from tocsin.authenticator.password import Passwords
from tocsin.authenticator.session import forget_old_sessions
from tocsin.authenticator.tickets import forget_old_tickets
from tocsin.campaign.compile_pool import CompilePool
from tocsin.campaign.compile_process import CompileProcess
from tocsin.campaign.runs import find_next_due
from tocsin.campaign.send_queue import SendQueue
from tocsin.campaign.send_rate import SendRate
from tocsin.dashboard import PAGES
from tocsin.delivery.circuit_breaker import BreakerRules
from tocsin.delivery.cleaner import clean_regularly
from tocsin.delivery.frequency_cap import forget_old_reservations
from tocsin.delivery.hold import list_held
from tocsin.delivery.leavers import erase_regularly
from tocsin.delivery.load_shedding import LoadMeter
from tocsin.delivery.push_id import Secrets
from tocsin.delivery.sender_pool import SenderPool
from tocsin.delivery.snapshot import Snapshots
from tocsin.delivery.traces import open_traces
from tocsin.delivery.wakeup import Wakeups
from tocsin.delivery.worker import LONGEST_POLL_SECONDS, POLL_SECONDS, Worker
from tocsin.errors import Misconfigured
from tocsin.feedback.interactions import forget_old_reports
from tocsin.feedback.machines import QuickClicks
from tocsin.feedback.mail import Feedback
from tocsin.feedback.reports import Reports
from tocsin.feedback.signed_id import SignedIds
from tocsin.feedback.suppression import end_soft_bounces
from tocsin.idempotency import forget_all_old
from tocsin.ingest.names import read_limits
from tocsin.ingest.sdk.intake import Intake
from tocsin.providers.encryption import check_stored
from tocsin.repair.drift import reconcile_regularly
from tocsin.settings import Settings, read_settings
from tocsin.stats.warehouse.exporter import Exporter
from tocsin.stats.webhooks.conversion_finder import ConversionFinder
from tocsin.stats.webhooks.poster import WebhookPoster
from tocsin.store.data_folder import forget_address, lock_folder, write_address
from tocsin.store.ledger import read_migration, read_secret
from tocsin.store.notification import listen
from tocsin.store.open_files import describe_shortage, raise_open_files
from tocsin.store.patience import rest
from tocsin.store.signing_key import FIRST, read_signing_keys
from tocsin.store.stores import Stores, is_embedded

log = structlog.get_logger()

Role = Literal["all", "api", "worker", "scheduler"]
ENDPOINTS: tuple[Endpoint, ...] = (*API_ENDPOINTS, *PAGES)  # every route of the server
BACKLOG = 4096  # connections that wait to be served; the kernel's net.core.somaxconn may allow fewer
HEADER_BYTES = 64 * 1024  # of a request's head
READY_SECONDS = 15.0
LOOK_SECONDS = 1.0  # how long a command beside us may hold the folder
SWITCH_SECONDS = 0.001  # after which a thread lets another one run: the API waits for those that look people up
SWEEP_SECONDS = 600.0
CHECKS_PER_SECOND = 0.5  # of one account's credentials: Apple takes rapid reconnecting for an attack
TROUBLE_SECONDS = 5.0  # before a loop that failed looks again
YOUNG = 100_000  # objects that are made before garbage is looked for among them


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
    made = open_traces(os.environ, settings.trace_share, role, version("tocsin"))
    allowed = raise_open_files()
    with lock_folder(data, patience=LOOK_SECONDS) if is_embedded(settings) else contextlib.nullcontext():
        forget_address(data)
        delivers = role in ("all", "worker")
        stores = Stores(settings, (lambda one: check_stored(one, settings.secret_key)) if delivers else None)
        if shortage := describe_shortage(allowed):
            log.warning("few open files", what=shortage)
        if not settings.public_url:
            log.info("mails have no unsubscribe link and report no opens and clicks: set TOCSIN_PUBLIC_URL for that")
        try:
            await _run_roles(data, host, port, role, settings, stores)
        finally:
            stores.close()
            if made is not None:
                await asyncio.to_thread(made.close)


async def _run_roles(data: Path, host: str, port: int, role: Role, settings: Settings, stores: Stores) -> None:
    sys.setswitchinterval(SWITCH_SECONDS)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, stop.set)
    wakeups, load = Wakeups(), LoadMeter()
    message_secret = await asyncio.to_thread(read_secret, stores.ledger, FIRST)
    keys = await asyncio.to_thread(read_signing_keys, stores.ledger, time.time())
    rules = BreakerRules(slow_start_seconds=settings.slow_start_seconds)
    sender_pool = SenderPool(settings.senders, 2 * settings.window, time.time, rules)
    compile_process = CompileProcess()
    listening = asyncio.create_task(listen(stores.ledger, wakeups.notify_all))
    tasks: list[asyncio.Task[None]] = []
    url = f"http://{host}:{port}"
    servers: list[Server] = []
    worker: Worker | None = None
    try:
        if role in ("all", "scheduler"):
            tasks.append(asyncio.create_task(_schedule(stores, settings, wakeups, stop)))
            tasks.append(asyncio.create_task(clean_regularly(stores.ledger, stores.facts, time.time, stop)))
            tasks.append(asyncio.create_task(erase_regularly(stores.ledger, stores.facts, time.time, stop)))
            tasks.append(asyncio.create_task(_sweep_regularly(stores, settings, stop)))
            tasks.append(asyncio.create_task(reconcile_regularly(stores.ledger, stores.facts, time.time, stop)))
            poster = WebhookPoster(stores.ledger, stores.facts, settings, time.time)
            tasks.append(asyncio.create_task(poster.run(stop)))
            finder = ConversionFinder(stores.ledger, stores.facts)
            tasks.append(asyncio.create_task(finder.run(stop)))
            exporter = Exporter(stores.ledger, stores.facts, settings, time.time)
            tasks.append(asyncio.create_task(exporter.run(stop)))
        if role in ("all", "worker"):
            worker = Worker(
                *(stores.ledger, stores.facts, sender_pool, settings, Secrets(message_secret, keys[0].value)),
                *(time.time, wakeups.chunks),
                folder=data / "handover",
                load=load,
            )
            tasks.append(asyncio.create_task(worker.run()))
            if held := await stores.ledger.read(list_held):
                log.warning("held since a restore: `tocsin campaign held`", campaigns=len(held))
        serves = role in ("all", "api")
        if serves or settings.operator_port:
            context = _make_context(
                *(stores, settings, wakeups, load, worker, compile_process, SignedIds(keys, stores.ledger)),
                Broadcasts(stop, settings.query_seconds),
                write_address(data, url) if serves else secrets.token_urlsafe(),  # nobody asks the others locally
                await asyncio.to_thread(_describe, stores, role),
            )
            await _start_listening(context, (host, port) if serves else None, servers, tasks)
        if worker is not None:
            await _wait(worker.ready, tasks)
        _settle_memory()
        where = f" on {url}" if serves else ""
        print(f"tocsin is ready{where} (role {role}{f', dashboard {url}/dashboard/' if serves else ''})", flush=True)
        await _wait(stop, tasks)
    finally:
        await _stop(servers, worker, tasks, stop, wakeups, settings)
        listening.cancel()
        await compile_process.aclose()
        await sender_pool.aclose()


def _describe(stores: Stores, role: Role) -> Installation:
    ledger, facts = stores.ledger, stores.facts
    return Installation(
        version=version("tocsin"),
        role=role,
        ledger="sqlite" if ledger.embedded else "postgresql",
        migration=read_migration(ledger.url) or "",
        facts="chdb" if facts.embedded else "clickhouse",
        facts_version=facts.engine,
        started_at=time.time(),
    )


def _make_context(
    stores: Stores,
    settings: Settings,
    wakeups: Wakeups,
    load: LoadMeter,
    worker: Worker | None,
    compile_process: CompileProcess,
    signed_ids: SignedIds,
    broadcasts: Broadcasts,
    local_token: str,
    installation: Installation,
) -> Context:
    ledger, facts = stores.ledger, stores.facts

    return Context(
        ledger=ledger,
        facts=facts,
        settings=settings,
        authenticator=Authenticator(ledger, settings.refused_logins),
        passwords=Passwords(),
        identity_provider=IdentityProvider(settings),
        creates=Throttle(
            *(ledger, "create", settings.create_per_second, settings.create_at_once),
            pick=lambda own: (own.create_per_second, own.create_at_once),
        ),
        uploads=Throttle(
            *(ledger, "upload", None, settings.uploads_at_once), pick=lambda own: (None, own.uploads_at_once)
        ),
        checks=Throttle(ledger, "check", CHECKS_PER_SECOND, 1, pick=lambda _: (None, None)),
        send_rates=SendRates(
            ledger, SendRate(settings.send_requests_per_second or None, settings.send_people_per_second or None)
        ),
        sends=Places(settings.requests_at_once, settings.requests_at_once // SHARE),
        reads=Places(settings.requests_at_once, settings.reads_at_once),
        app_places=Places(settings.connections, settings.connections // 2),
        apps=AppDirectory(ledger),
        app_rates=AppRates(settings.app_requests_per_second, settings.app_device_per_minute),
        intake=Intake(ledger, facts, read_limits(settings)),
        pages=Places(settings.requests_at_once, settings.reads_at_once),
        bodies=Bodies(max(settings.body_megabytes << 20, SHARE * settings.body_limit), settings.body_seconds),
        large_bodies=LargeBodies(),
        health=Health(ledger, facts, time.time, installation),
        send_queue=SendQueue(ledger, worker, wakeups.chunks.notify),
        compile_pool=CompilePool(compile_process),
        feedback=Feedback(ledger, facts, signed_ids),
        reports=Reports(ledger, facts, settings.report_days),
        quick_clicks=QuickClicks(),
        load=load,
        broadcasts=broadcasts,
        wakeups=wakeups,
        signed_ids=signed_ids,
        local_token=local_token,
        clock=time.time,
    )


async def _start_listening(
    context: Context, place: tuple[str, int] | None, servers: list[Server], tasks: list[asyncio.Task[None]]
) -> None:
    """Serve the API and the dashboard where they have a place, and the operator's pages where they have a port of their
    own."""
    public = ENDPOINTS
    if operator_port := context.settings.operator_port:
        app = build_router(context, (HEALTH, METRICS))
        server, serving = await _listen(app, "127.0.0.1", operator_port, context.settings)
        servers.append(server)
        tasks.append(serving)
        public = tuple(endpoint for endpoint in ENDPOINTS if endpoint is not METRICS)
    if place is not None:
        server, serving = await _listen(build_router(context, public), *place, context.settings)
        servers.append(server)
        tasks.append(serving)


async def _listen(app: ASGIApp, host: str, port: int, settings: Settings) -> tuple[Server, asyncio.Task[None]]:
    """Serve an application; return when the port is open. Raises Misconfigured when it cannot be."""
    if await _is_open(host, port):
        raise Misconfigured(f"Port {port} of {host} is taken; give another --port.")
    server = Server(
        *(app, host, port),
        interface=Interfaces.ASGI,
        http=HTTPModes.http1,  # HTTP/2's header table unfolds kilobytes to gigabytes; a proxy speaks HTTP/1.1 to us
        http1_settings=HTTP1Settings(
            header_read_timeout=int(settings.header_seconds * 1000), max_buffer_size=HEADER_BYTES
        ),
        backlog=BACKLOG,
        backpressure=settings.connections,
        log_enabled=False,
        websockets=False,
    )
    serving: asyncio.Task[None] = asyncio.create_task(server.serve())
    deadline = time.monotonic() + READY_SECONDS
    while not await _is_open(host, port):
        if serving.done() or time.monotonic() > deadline:
            raise Misconfigured(f"{host}:{port} cannot be listened on; give another --host or --port.")
        await asyncio.sleep(0.02)
    return server, serving


async def _schedule(stores: Stores, settings: Settings, wakeups: Wakeups, stop: asyncio.Event) -> None:
    """Snapshot due runs until `stop` is set; a failure is logged and the run stays due."""

    def note_end(begun: bool) -> None:
        wakeups.runs.notify()
        if begun:
            wakeups.chunks.notify()

    snapshots = Snapshots(stores.ledger, stores.facts, settings, note_end)
    while not stop.is_set():
        pause = POLL_SECONDS
        try:
            await snapshots.begin_due(time.time())
            if stores.ledger.embedded and not snapshots.busy:  # who adds a run says so: only the time is looked at
                due = await stores.ledger.read(find_next_due)
                pause = LONGEST_POLL_SECONDS if due is None else min(max(due - time.time(), 0.05), LONGEST_POLL_SECONDS)
        except Exception:
            log.exception("scheduler interrupted")
            pause = TROUBLE_SECONDS
        await wakeups.runs.wait(pause)
    await snapshots.finish()


async def _sweep_regularly(stores: Stores, settings: Settings, stop: asyncio.Event) -> None:
    """Delete what has an age every SWEEP_SECONDS until `stop` is set: keys of requests, places under caps, sessions,
    lines of the audit log, first reports, soft bounces. A failure is logged, and the next sweep does what was left."""
    while not stop.is_set():
        try:
            await forget_all_old(stores.ledger, time.time())
            await stores.ledger.write(lambda connection: forget_old_reservations(connection, time.time()))
            await stores.ledger.write(lambda connection: forget_old_sessions(connection, time.time()))
            await stores.ledger.write(lambda connection: forget_old_deeds(connection, time.time()))
            await stores.ledger.write(lambda connection: forget_old_tickets(connection, time.time()))
            await forget_old_reports(stores.ledger, time.time(), settings.report_days)
            await end_soft_bounces(stores.ledger, stores.facts, time.time())
        except Exception:
            log.exception("sweep interrupted")
        await rest(stop, SWEEP_SECONDS)


def _settle_memory() -> None:
    """Keep what is loaded by now out of garbage collection: a full one would hold up requests for a tenth of a second.
    Two thousand requests under way are some 100,000 objects, and none of them is garbage."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, 20, 50)


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
    servers: list[Server],
    worker: Worker | None,
    tasks: list[asyncio.Task[None]],
    stop: asyncio.Event,
    wakeups: Wakeups,
    settings: Settings,
) -> None:
    """Stop the API first, so that nothing new is accepted; then the scheduler; then the worker, which drains."""
    stop.set()
    for server in servers:
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
