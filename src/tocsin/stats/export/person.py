"""What the ledger knows of people, as CleverTap's answers show it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection, select

from tocsin.channels import DEVICE_KINDS
from tocsin.store import schema
from tocsin.store.rows import among

TOKENS = tuple(DEVICE_KINDS)


class ExportedPerson(msgspec.Struct, frozen=True, kw_only=True):
    """A user: their identities by kind, the profile as JSON, and their devices as `platformInfo` shows them."""

    user: int
    identities: dict[str, list[str]]
    profile: str
    platforms: list[dict[str, str]]

    @property
    def names(self) -> dict[str, str]:
        """`identity` and `email`, as far as there are any."""
        shown = {"identity": "identity", "email": "Email"}
        return {name: self.identities[kind][0] for name, kind in shown.items() if kind in self.identities}


def read_people(connection: Connection, account_id: str, users: Sequence[int]) -> dict[int, ExportedPerson]:
    """Return those of the users who are there."""
    user, identity = schema.user, schema.identity
    identities: dict[int, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    mine = (identity.c.account_id == account_id, among(connection, identity.c.user_id, users))
    named = select(identity.c.user_id, identity.c.kind, identity.c.value).where(*mine)
    # Sorted here: for an order by the table's key SQLite would read all identities of the account.
    for one, kind, value in sorted(map(tuple, connection.execute(named))):
        identities[one][kind].append(value)
    tokens = _read_tokens(connection, account_id, users)
    query = select(user.c.id, user.c.profile).where(
        user.c.account_id == account_id, among(connection, user.c.id, users)
    )
    return {
        row.id: ExportedPerson(
            user=row.id,
            identities=dict(identities[row.id]),
            profile=row.profile,
            platforms=_list_platforms(identities[row.id].get("objectId", []), tokens[row.id]),
        )
        for row in connection.execute(query)
    }


def _read_tokens(connection: Connection, account_id: str, users: Sequence[int]) -> dict[int, dict[str, dict[str, str]]]:
    """Return the newest living token of each device, by user and objectId."""
    device = schema.device
    mine = (device.c.account_id == account_id, among(connection, device.c.user_id, users))
    query = select(
        device.c.registered_at, device.c.id, device.c.user_id, device.c.object_id, device.c.kind, device.c.token
    ).where(*mine, device.c.gone_at.is_(None), device.c.kind.in_(TOKENS))
    found: dict[int, dict[str, dict[str, str]]] = defaultdict(dict)
    for *_, user, object_id, kind, token in sorted(map(tuple, connection.execute(query))):
        label = DEVICE_KINDS[kind].label
        found[user][object_id] = {"platform": label, "push_token": token, "objectId": object_id}
    return found


def _list_platforms(object_ids: Sequence[str], tokens: dict[str, dict[str, str]]) -> list[dict[str, str]]:
    """Return every device; of one without a token no more is known than its objectId."""
    return [tokens.get(one, {"objectId": one}) for one in dict.fromkeys([*object_ids, *tokens])]
