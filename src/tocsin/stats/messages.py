"""The campaigns of some days with their numbers, as `message/report.json` lists them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal

import msgspec
from sqlalchemy import Connection

from tocsin.account import Account
from tocsin.campaign.runs import PAGE, read_stored_spec
from tocsin.campaign.spec import Spec
from tocsin.stats.results import count_interactions, documented_state, list_targets
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger

MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
# Our channel → what the report calls it, and what a request does.
NAMES = {
    "push": ("Push", "push"),
    "email": ("Email", "email"),
    "sms": ("SMS", "sms"),
    "webpush": ("Browser", "browser"),
}

Delivery = Literal["one_time", "multiple_dates", "recurring"]


class Outline(msgspec.Struct, frozen=True):
    """What the report takes from a spec. event: of its conversion goal; "" for none."""

    delivery: Delivery
    kind: Literal["single", "ab"]
    devices: tuple[str, ...]
    labels: tuple[str, ...]
    event: str


class MessageFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which campaigns: those that have one of each, where any are named."""

    channels: Sequence[str] = ()
    deliveries: Sequence[str] = ()
    states: Sequence[str] = ()
    kinds: Sequence[str] = ()
    labels: Sequence[str] = ()


async def list_messages(
    ledger: Ledger, facts: Facts, account: Account, due: tuple[float, float], filters: MessageFilter, now: float
) -> list[dict[str, Any]]:
    """Return the campaigns with a run that is due then, newest first."""
    found: list[dict[str, Any]] = []
    offset = 0
    while targets := await list_targets(ledger, account.id, due=due, limit=PAGE, offset=offset):
        offset += PAGE
        some = {one["id"]: one for one in targets if _is_on(one["channel"], filters)}
        seen = await count_interactions(facts, account.id, list(some)) if some else {}
        for one, outline in (await _read_outlines(ledger, account.id, list(some))).items():
            state = documented_state(some[one]["state"], some[one]["due_at"], now).replace("pending", "scheduled")
            if _is_wanted(outline, state, filters):
                found.append(_show(account, some[one], outline, state, seen[one]))
    return found


def _is_on(channel: str, filters: MessageFilter) -> bool:
    return not filters.channels or NAMES[channel][1] in filters.channels


async def _read_outlines(ledger: Ledger, account_id: str, campaigns: Sequence[int]) -> dict[int, Outline]:
    """Return what the specs say, one after the other: each may have megabytes."""

    def read(connection: Connection) -> dict[int, Outline]:
        return {one: _outline(read_stored_spec(connection, account_id, one)) for one in campaigns}

    return await ledger.read(read)


def _outline(spec: Spec) -> Outline:
    return Outline(
        delivery=_delivery(spec),
        kind="ab" if spec.variants else "single",
        devices=spec.platforms if spec.channel == "push" else (),
        labels=spec.labels,
        event=spec.conversion_goal.event_name if spec.conversion_goal else "",
    )


def _delivery(spec: Spec) -> Delivery:
    if spec.when is not None and spec.when.repeat is not None:
        return "recurring"
    return "multiple_dates" if spec.when is not None and len(spec.when.times) > 1 else "one_time"


def _is_wanted(outline: Outline, state: str, filters: MessageFilter) -> bool:
    """Return whether a campaign is asked for. Whatever the API made has the delivery `api` there, beside its own."""
    return not (
        (filters.deliveries and not {outline.delivery, "api"} & set(filters.deliveries))
        or (filters.states and state not in filters.states)
        or (filters.kinds and outline.kind not in filters.kinds)
        or (filters.labels and not set(outline.labels) & set(filters.labels))
    )


def _show(
    account: Account, target: Mapping[str, Any], outline: Outline, state: str, seen: Mapping[str, int]
) -> dict[str, Any]:
    """Return a campaign as the report shows it."""
    start = datetime.fromtimestamp(target["due_at"], account.zone)
    return {
        "message id": target["id"],  # a space, as there
        "message_name": target["name"],
        "channel": NAMES[target["channel"]][0],
        "delivery": outline.delivery,
        "start_date": f"{start:%d} {MONTHS[start.month - 1]}, {start:%Y %H:%M:%S}",
        "status": state,
        "sent": target["sent"],
        "viewed": seen["viewed"],
        "clicked": seen["clicked"],
        "conversion_event": outline.event,
        "labels": outline.labels,
        "device": outline.devices,
    }
