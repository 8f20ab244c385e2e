"""Stage 4 of 7, what a chunk's worker has to know: the content, whom it may go to, and how often."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import msgspec
from sqlalchemy import Connection

from tocsin.campaign.quiet_hours import Quiet
from tocsin.campaign.runs import read_stored_spec
from tocsin.campaign.send import StoredRequest
from tocsin.content import Content
from tocsin.delivery.batch import BatchContext, PendingMessage
from tocsin.delivery.frequency_cap import CapDecision, CapRule, Claim, give_back, reserve
from tocsin.delivery.recipients import Person, find_addresses
from tocsin.outcome import State
from tocsin.policy import Cap, load_policy
from tocsin.queue import Chunk, Note
from tocsin.settings import Settings
from tocsin.store.ledger import Ledger

WINDOW_BYTES = 16 * 1024 * 1024  # of content rendered and in flight for one chunk


class DeliveryPlan(msgspec.Struct, frozen=True):
    """What a chunk's worker has to know of its content. personal: it looks at profiles. window: recipients at once.
    label: the content's, of which a campaign has one for each variant."""

    context: BatchContext
    every_device: bool
    personal: bool
    window: int
    quiet: Quiet | None = None
    rule: CapRule | None = None
    label: str = ""


async def read_plan(ledger: Ledger, chunk: Chunk, settings: Settings, secret: bytes) -> DeliveryPlan:
    """What a leased chunk says, and what holds for it."""
    if chunk.request is not None:
        request = msgspec.json.decode(chunk.request, type=StoredRequest)
        content = msgspec.json.decode(request.content, type=Content)
        plan = _make_plan(chunk, settings, secret, content, f"s{chunk.id}", request.send_to_all_devices, None)
        return await _with_caps(ledger, chunk, plan, respect=request.respect_frequency_caps)
    spec = await ledger.read(lambda connection: read_stored_spec(connection, chunk.account_id, chunk.campaign_id))
    quiet = None if spec.when is None else spec.when.quiet
    content = next((one.content for one in spec.variants if one.name == chunk.variant), spec.content)
    plan = _make_plan(chunk, settings, secret, content, str(chunk.campaign_id), spec.send_to_all_devices, quiet)
    respect, own = spec.respect_frequency_caps, spec.frequency_cap
    return await _with_caps(ledger, chunk, plan, respect=respect, own=own, throttled=spec.respect_throttle)


async def _with_caps(
    ledger: Ledger, chunk: Chunk, plan: DeliveryPlan, *, respect: bool, own: Cap | None = None, throttled: bool = False
) -> DeliveryPlan:
    policy = await ledger.read(lambda connection: load_policy(connection, chunk.account_id))
    cap = policy.caps.get(chunk.channel)
    rule = CapRule(
        account_id=chunk.account_id,
        channel=chunk.channel,
        message=f"s{chunk.id}" if chunk.run_id is None else f"r{chunk.run_id}",
        campaign_id=chunk.campaign_id,
        account=cap if respect and cap is not None and (cap.most or cap.dwell_minutes) else None,
        campaign=own if respect else None,
        throttle=cap.throttle if throttled and cap is not None else None,
    )
    if rule.account is None and rule.campaign is None and rule.throttle is None:
        return plan
    return msgspec.structs.replace(plan, rule=rule)


def _make_plan(
    chunk: Chunk,
    settings: Settings,
    secret: bytes,
    content: Content,
    name: str,
    every_device: bool,
    quiet: Quiet | None,
) -> DeliveryPlan:
    encoded = msgspec.json.encode(content)
    day = datetime.fromtimestamp(chunk.started_at, UTC).strftime("%Y%m%d")
    context = BatchContext(
        account_id=chunk.account_id,
        chunk_id=chunk.id,
        content=encoded,
        campaign=f"{name}_{day}",
        collapse=f"tocsin-{name}",
        expires_at=chunk.expires_at,
        public_url=settings.public_url,
        secret=secret,
    )
    window = min(settings.window, max(1, WINDOW_BYTES // (len(content.body) * 8 + 1)))
    personal = b"{{" in encoded or b"{%" in encoded
    return DeliveryPlan(context, every_device, personal, window, quiet, label=context.collapse + chunk.variant)


def cap_window(
    connection: Connection,
    chunk: Chunk,
    rule: CapRule,
    window: dict[str, list[PendingMessage]],
    unsent: Sequence[Claim],
    now: float,
) -> dict[str, list[PendingMessage]]:
    """The part of a window that the caps allow; the others are dropped or wait."""
    claims = find_claims(chunk, window, now)
    give_back(connection, rule, unsent)
    verdict = reserve(connection, rule, claims, now) if claims else CapDecision()
    for position, state in verdict.dropped.items():
        chunk.move(position, state)
    for position, until in verdict.later.items():
        chunk.notes.setdefault(position, Note()).not_before = min(until, chunk.expires_at)
    out = verdict.dropped.keys() | verdict.later.keys()
    kept = {name: [one for one in messages if one.position not in out] for name, messages in window.items()}
    return {name: messages for name, messages in kept.items() if messages}


def find_claims(chunk: Chunk, window: Mapping[str, Sequence[PendingMessage]], at: float) -> list[Claim]:
    positions = dict.fromkeys(message.position for messages in window.values() for message in messages)
    return [Claim(position, chunk.users[position], chunk.platforms[position], at) for position in positions]


def find_unsent(chunk: Chunk, window: Mapping[str, Sequence[PendingMessage]], at: float) -> list[Claim]:
    """Those of a window, claimed at a moment, who certainly got nothing."""
    sent = (State.ACCEPTED, State.UNKNOWN)
    return [claim for claim in find_claims(chunk, window, at) if chunk.states[claim.position] not in sent]


def make_messages(
    plan: DeliveryPlan, position: int, platform: str, person: Person | None
) -> list[PendingMessage] | State:
    """The messages of one recipient, or the reason not to send."""
    addresses = find_addresses(person, platform, every_device=plan.every_device)
    if isinstance(addresses, State):
        return addresses
    assert person is not None
    profile = person.profile if plan.personal else ""
    return [PendingMessage(position, device_id, address, profile) for device_id, address in addresses]
