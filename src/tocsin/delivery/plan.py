"""The delivery plan of a chunk: its content, how large its windows are, its quiet hours and caps."""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from tocsin.campaign.quiet_hours import Quiet
from tocsin.campaign.runs import read_stored_spec
from tocsin.campaign.send import StoredRequest
from tocsin.content import Content
from tocsin.delivery.batch import BatchContext
from tocsin.delivery.frequency_cap import CapRule
from tocsin.policy import Cap, load_policy
from tocsin.queue import Chunk
from tocsin.settings import Settings
from tocsin.store.ledger import Ledger

WINDOW_BYTES = 16 * 1024 * 1024  # of content rendered and in flight for one chunk


class DeliveryPlan(msgspec.Struct, frozen=True):
    """What holds for every window of a chunk.

    personal: the content reads profiles. window: recipients of one window. rule: None when no cap applies.
    label: names the content; each variant of a campaign has its own.
    """

    context: BatchContext
    every_device: bool
    personal: bool
    window: int
    quiet: Quiet | None = None
    rule: CapRule | None = None
    label: str = ""


async def read_plan(ledger: Ledger, chunk: Chunk, settings: Settings, secret: bytes) -> DeliveryPlan:
    """Return the plan of a leased chunk: from its request, or from its campaign; with the account's caps."""
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
