"""Devices as the ledger has them."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import Connection, select

from tocsin.providers.contract import Address
from tocsin.store import schema


def live_devices(connection: Connection, account_id: str, users: Sequence[int]) -> dict[int, list[tuple[int, Address]]]:
    """Return the devices of users that are not dead, whether they want push or not, with their ids in the ledger."""
    device = schema.device
    columns = (device.c.id, device.c.user_id, device.c.kind, device.c.token, device.c.registered_at)
    mine = (device.c.account_id == account_id, device.c.user_id.in_(users), device.c.kind != "email")
    found: dict[int, list[tuple[int, Address]]] = {user: [] for user in users}
    for device_id, user, kind, token, registered_at in connection.execute(
        select(*columns).where(*mine, device.c.gone_at.is_(None)).order_by(device.c.id)
    ):
        found[user].append((device_id, Address(kind, token, registered_at)))
    return found
