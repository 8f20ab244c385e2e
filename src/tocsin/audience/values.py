"""Values that the properties of an account have, for whoever writes a question."""

from __future__ import annotations

from typing import Any

from tocsin.account import Account
from tocsin.store.facts import Facts
from tocsin.store.props import SEPARATOR, path_of

VALUES = 20
LOOKED_THROUGH = 20_000  # rows


async def find_values(facts: Facts, account: Account, kind: str, name: str, prop: str) -> list[str]:
    """Return the most frequent values of an event's property, or of a profile's (kind «is»), among the first rows."""
    asked: dict[str, Any] = {"account": account.id, "rows": LOOKED_THROUGH, "most": VALUES}
    if kind == "is" and name:
        source, path = "profile WHERE account = {account:String}", path_of(name)
    elif kind == "did" and name and prop:
        source, path = "event WHERE account = {account:String} AND name = {name:String}", path_of(prop)
        asked["name"] = name
    else:
        return []
    rows = await facts.query(
        "SELECT value, count() AS times FROM (SELECT ifNull(dynamicElement({path:Identifier}, 'String'), "
        f"toString(dynamicElement({{path:Identifier}}, 'Float64'))) AS value FROM {source} LIMIT {{rows:UInt32}}) "
        "WHERE value != '' AND value IS NOT NULL GROUP BY value ORDER BY times DESC, value LIMIT {most:UInt8}",
        {**asked, "path": path},
    )
    found = [part for value, _ in rows for part in str(value).strip(SEPARATOR).split(SEPARATOR) if part]
    return list(dict.fromkeys(found))[:VALUES]
