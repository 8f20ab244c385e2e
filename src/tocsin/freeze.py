"""Stage 4 of 7, its beginning: a due run asks for its audience once, and is frozen into chunks."""

from __future__ import annotations

import asyncio
import functools

import structlog
from sqlalchemy import Connection

from tocsin import chunk as chunks
from tocsin.account import Account
from tocsin.audience.members import stream_recipients
from tocsin.campaign import Record, find_due, move_run, postpone_run, read_stored_spec
from tocsin.chunk import Recipients
from tocsin.settings import Settings
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

log = structlog.get_logger()

RETRY_SECONDS = 30.0  # before a run that could not begin is tried again


async def freeze_due(ledger: Ledger, facts: Facts, now: float, settings: Settings) -> int:
    """Freezes the runs whose time has come: the audience is asked once, and its chunks, the state and the numbers are
    one transaction. Answers how many runs began."""
    begun = 0
    for run in await ledger.read(lambda connection: find_due(connection, now)):
        try:
            begun += await _freeze(ledger, facts, run, now, settings)
        except Exception:
            log.exception("campaign cannot begin", account=run.account_id, campaign=run.campaign_id)
            await ledger.write(functools.partial(postpone_run, run_id=run.id, until=now + RETRY_SECONDS))
    return begun


async def _freeze(ledger: Ledger, facts: Facts, run: Record, now: float, settings: Settings) -> bool:
    spec = await ledger.read(lambda connection: read_stored_spec(connection, run.account_id, run.campaign_id))
    account = await ledger.read(lambda connection: Account.load(connection, run.account_id))

    def gather() -> Recipients:
        recipients = Recipients()
        for block in stream_recipients(facts, account, spec.where, spec.platforms, now, spec.users_limit):
            recipients.extend(block)
        return recipients

    recipients = await asyncio.to_thread(gather)
    lifetime = spec.message_seconds if spec.message_seconds is not None else settings.message_hours * 3600

    def write(connection: Connection) -> bool:
        if not move_run(connection, run.id, "running", now, frozen_at=now, audience=len(recipients)):
            return False  # stopped, or frozen by somebody else, in the meantime
        chunks.insert_run_chunks(
            connection,
            account_id=run.account_id,
            run_id=run.id,
            campaign_id=run.campaign_id,
            channel=spec.channel,
            recipients=recipients,
            resend=spec.on_crash == "resend",
            expires_at=now + lifetime,
            now=now,
        )
        chunks.end_run(connection, run.id, now)
        return True

    begun = await ledger.write(write)
    if begun:
        log.info("campaign begun", account=run.account_id, campaign=run.campaign_id, audience=len(recipients))
    return begun
