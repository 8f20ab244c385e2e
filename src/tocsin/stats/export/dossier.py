"""Everything that both stores have about one person, for them to read: in pages, for nobody knows how much it is."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import Connection, select

from tocsin.account import Account
from tocsin.channels import CHANNELS
from tocsin.delivery.recipients import load_people
from tocsin.ingest.formers import find_formers
from tocsin.ingest.profile import READERS
from tocsin.ingest.subscription import FIELDS, find_unsubscribed
from tocsin.stats.export.person import read_people
from tocsin.store import schema
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger
from tocsin.store.rows import among

PAGE = 1000  # events, and messages, of a page

_EVENTS = (
    "SELECT name, at, raw FROM event FINAL WHERE {mine} AND name != 'Notification Sent' "
    "ORDER BY at, id LIMIT 1 BY name, at, id {page}"
)
_MESSAGES = (
    "SELECT at, campaign, chunk, channel, platform, outcome, code, tag_group, variant FROM outcome FINAL "
    "WHERE {mine} ORDER BY at, chunk, position {page}"
)


async def read_dossier(ledger: Ledger, facts: Facts, account: Account, user: int, page: int) -> dict[str, Any]:
    """Return a page of what is known of somebody: who they are, what they did, what was sent to them and what came of
    it, also before they were known. `next_page` is there unless it is the last."""
    formers = await ledger.read(lambda connection: find_formers(connection, account.id, [user]))
    mine = "account = {account:String} AND user IN {users:Array(UInt32)}"
    asked = {"account": account.id, "users": [user, *sorted(formers)], "limit": PAGE + 1, "offset": (page - 1) * PAGE}
    part = "LIMIT {limit:UInt32} OFFSET {offset:UInt64}"
    events = await facts.query(_EVENTS.replace("{mine}", mine).replace("{page}", part), asked)
    messages = await facts.query(_MESSAGES.replace("{mine}", mine).replace("{page}", part), asked)
    campaigns, chunks = {int(row[1]) for row in messages}, {int(row[2]) for row in messages if not row[1]}

    def read(connection: Connection) -> tuple[dict[str, Any], dict[int, str], dict[int, str]]:
        names = _read_texts(connection, account, schema.campaign.c.name, campaigns)
        contents = _read_texts(connection, account, schema.chunk.c.request, chunks)
        return _read_ledger(connection, account, user), names, contents

    person, names, contents = await ledger.read(read)
    found: dict[str, Any] = {
        "person": person,
        "events": [
            {"name": name, "at": _show(at), "event_props": msgspec.Raw(str(raw).encode() or b"{}")}
            for name, at, raw in events[:PAGE]
        ],
        "messages": [
            {
                **{"at": _show(at), "campaign": campaign, "name": names.get(campaign, ""), "channel": channel},
                **{"platform": platform, "outcome": outcome, "code": code, "tag_group": tag, "variant": variant},
                **({"request": msgspec.Raw(contents[chunk].encode())} if contents.get(chunk) else {}),
            }
            for at, campaign, chunk, channel, platform, outcome, code, tag, variant in messages[:PAGE]
        ],
    }
    return found | ({"next_page": page + 1} if len(events) > PAGE or len(messages) > PAGE else {})


def _show(moment: datetime) -> str:
    return moment.replace(tzinfo=UTC).isoformat()


def _read_ledger(connection: Connection, account: Account, user: int) -> dict[str, Any]:
    """Return who somebody is, by the ledger; nothing for who is not there any more."""
    one = read_people(connection, account.id, [user]).get(user)
    if one is None:
        return {}
    people, device, told, back = schema.user, schema.device, schema.app_profile, schema.returned
    mine = (people.c.account_id == account.id, people.c.id == user)
    times = connection.execute(select(people.c.created_at, people.c.updated_at).where(*mine)).one()
    columns = (device.c.object_id, device.c.kind, device.c.token, device.c.registered_at, device.c.gone_at)
    theirs = (device.c.account_id == account.id, device.c.user_id == user)
    devices = connection.execute(select(*columns, device.c.gone_code).where(*theirs).order_by(device.c.id))
    state = select(told.c.state).where(told.c.account_id == account.id, told.c.user_id == user)
    since = select(back.c.since).where(back.c.account_id == account.id, back.c.user_id == user)
    return {
        "identities": one.identities,
        "profileData": msgspec.Raw(one.profile.encode()),
        "created_at": times.created_at,
        "updated_at": times.updated_at,
        "devices": [dict(row) for row in devices.mappings()],
        "told_by_apps": msgspec.Raw((connection.scalar(state) or "null").encode()),
        "consents": {
            "unsubscribed": _find_left(connection, account, one.profile),
            "groups_left": _find_groups(connection, account, user),
            "devices_without_push": _find_silent(connection, account, one.identities.get("objectId", [])),
            "came_back_at": connection.scalar(since),
        },
    }


def _find_left(connection: Connection, account: Account, profile: str) -> list[str]:
    """Return the addresses of a profile that opted out."""
    data, found = msgspec.json.decode(profile), list[str]()
    for kind, name in FIELDS.items():
        if address := READERS[name](data.get(name)):
            found += find_unsubscribed(connection, account.id, kind, [address])
    return found


def _find_groups(connection: Connection, account: Account, user: int) -> list[str]:
    """Return the subscription groups that somebody, or their mailbox, left."""
    person = load_people(connection, account.id, [user], [CHANNELS["email"]]).get(user)
    return [] if person is None else sorted(person.groups_left.values())


def _find_silent(connection: Connection, account: Account, devices: Collection[str]) -> list[str]:
    """Return those of the devices that want no push."""
    table = schema.device_opt_out
    mine = (table.c.account_id == account.id, among(connection, table.c.object_id, devices))
    return list(connection.scalars(select(table.c.object_id).where(*mine)))


def _read_texts(connection: Connection, account: Account, column: Any, ids: Collection[int]) -> dict[int, str]:
    """Return a column of an account's rows that have these ids."""
    table = column.table
    mine = (table.c.account_id == account.id, among(connection, table.c.id, ids))
    return {number: text for number, text in connection.execute(select(table.c.id, column).where(*mine)) if text}
