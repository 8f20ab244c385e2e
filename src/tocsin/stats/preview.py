"""What somebody sees of a campaign or a send: its content, rendered with their profile of now as delivery does."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import msgspec
from sqlalchemy import Connection

from tocsin.account import Account
from tocsin.campaign.spec import Spec
from tocsin.channels import CHANNELS, DEVICE_KINDS, AddressKind
from tocsin.content import Unrenderable
from tocsin.delivery.batch import PendingMessage, render
from tocsin.delivery.forecast import NO_SECRETS
from tocsin.delivery.plan import DeliveryPlan, Planner
from tocsin.delivery.recipients import Person, find_addresses, load_people
from tocsin.ingest.profile import allows_tracking
from tocsin.outcome import State
from tocsin.providers.contract import Address
from tocsin.queue import Chunk, Recipients
from tocsin.settings import Settings

# Of a message, for whom it is meant and not what it says.
OF_THE_WIRE = ("id", "collapse", "campaign", "push_id", "pieces", "unsubscribe", "bounce", "track_url", "expires_at")


class Seen(msgspec.Struct, frozen=True):
    """What is rendered for somebody: the plan of each platform's message."""

    person: Person | None
    plans: Mapping[str, DeliveryPlan]


def look_at(
    connection: Connection,
    account: Account,
    campaign_id: int,
    spec: Spec,
    settings: Settings,
    user: int,
    wanted: Mapping[str, str],
    now: float,
) -> Seen:
    """Return what a user's messages are made of. wanted: the variant on each platform. Their ids are good for
    nothing."""
    planner = Planner(connection, account.id, settings, NO_SECRETS)
    person = load_people(connection, account.id, [user], [CHANNELS[spec.channel]]).get(user)
    plans = {
        platform: planner.plan_campaign(_make_chunk(account.id, campaign_id, spec.channel, variant, now), spec)
        for platform, variant in wanted.items()
    }
    return Seen(person, plans)


def look_at_request(
    connection: Connection,
    account: Account,
    chunk: Chunk,
    settings: Settings,
    user: int,
    platforms: Collection[str],
) -> Seen:
    """Return what a user's messages of a `/1/send` request are made of. Their ids are good for nothing."""
    person = load_people(connection, account.id, [user], [CHANNELS[chunk.channel]]).get(user)
    plan = Planner(connection, account.id, settings, NO_SECRETS).plan(chunk)
    return Seen(person, dict.fromkeys(platforms, plan))


def show_messages(seen: Seen, now: float) -> dict[str, dict[str, Any]]:
    """Return what somebody sees, by platform. Call it in a thread: a template may take its time."""
    found: dict[str, dict[str, Any]] = {}
    for platform, plan in seen.plans.items():
        try:
            found[platform] = _render(plan, platform, seen.person, now)
        except (Unrenderable, msgspec.DecodeError) as error:
            found[platform] = {"error": str(error)}
    return found


def _render(plan: DeliveryPlan, platform: str, person: Person | None, now: float) -> dict[str, Any]:
    addresses = find_addresses(person, platform, every_device=False)
    device_id, address = (0, Address(_kind_of(platform), "")) if isinstance(addresses, State) else addresses[0]
    profile = person.profile if person is not None else ""
    tracked = person is None or platform != "email" or allows_tracking(person.profile)
    message = render(plan.context, platform, PendingMessage(0, device_id, address, profile, tracked), now)
    shown: dict[str, Any] = msgspec.to_builtins(message)
    shown["address"] = address.value
    return {name: value for name, value in shown.items() if value and name not in OF_THE_WIRE}


def _kind_of(platform: str) -> AddressKind:
    kinds = [one.kind for one in CHANNELS.values() if one.kind is not None and platform in one.platforms]
    return kinds[0] if kinds else next(one.kind for one in DEVICE_KINDS.values() if one.platform == platform)


def _make_chunk(account_id: str, campaign_id: int, channel: str, variant: str, now: float) -> Chunk:
    empty = Recipients()
    return Chunk(
        id=0,
        account_id=account_id,
        run_id=0,
        campaign_id=campaign_id,
        channel=channel,
        tag_group="",
        expires_at=now + 3600,
        started_at=now,
        request=None,
        users=empty.users,
        platforms=b"",
        states=bytearray(),
        notes={},
        variant=variant,
    )
