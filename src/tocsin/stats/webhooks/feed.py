"""The feed: what an account's webhooks are told, in the order it was stored, each record in one place.

The store writes a row's time by its own clock while it is inserted, so a row may appear behind another that is there.
No page goes beyond the horizon, before which no insert is under way: what is read up to there is all there will be.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from tocsin.store.facts import Facts

KEPT_DAYS = 30
MICRO = 1_000_000
MARGIN = 1_000  # microseconds: how long a query has run is rounded
# The inserts of other servers are not seen from one of a cluster, so there the horizon is as far away as an insert can
# take.
CLUSTER_LAG = 60 * MICRO
BASIC, EVERY_EVENT = 1, 2  # the bits of `listener.active`

_COLUMNS = "stored, id, type, user"


class Place(msgspec.Struct, frozen=True, array_like=True, order=True):
    """A place in the feed: the key of the row before it."""

    stored: int
    id: int = 0
    type: str = ""
    user: int = 0

    @staticmethod
    def at(seconds: float) -> Place:
        """Return the place before everything that was stored from a time on."""
        return Place(max(0, int(seconds * MICRO)))


class FeedWindow(msgspec.Struct, frozen=True, array_like=True):
    """What is left to read: the rows behind `after`, and before `end`."""

    after: Place
    end: Place

    @property
    def is_read(self) -> bool:
        return self.after >= self.end


class FeedRow(msgspec.Struct, frozen=True):
    """A row. at: epoch seconds, when it happened. detail: JSON. first: not stored before, in another place."""

    place: Place
    at: int
    detail: str
    first: bool


async def find_horizon(facts: Facts) -> int:
    """Return the time in microseconds before which nothing will be stored any more."""
    # The clock first: what begins to be inserted between the two questions is stored behind it.
    ((now,),) = await facts.query("SELECT toUnixTimestamp64Micro(now64(6))", {})
    ((longest,),) = await facts.query("SELECT max(elapsed) FROM system.processes WHERE query_kind = 'Insert'", {})
    lag = CLUSTER_LAG if facts.distributed else 0
    return int(now) - max(int(longest * MICRO), lag) - MARGIN


async def listen_to(facts: Facts, accounts: Collection[str], every_event: Collection[str] = ()) -> None:
    """Have the feed written for these accounts, with every event for some of them, and for no others."""
    rows = await facts.query("SELECT account, active FROM listener FINAL", {})
    active = {str(account): int(bits) for account, bits in rows}
    wanted = dict.fromkeys(accounts, BASIC) | dict.fromkeys(every_event, BASIC | EVERY_EVENT)
    changed = sorted(one for one in {*active, *wanted} if active.get(one, 0) != wanted.get(one, 0))
    if wanted:
        await facts.make_feed(every_event=bool(every_event))  # before their place in it is looked for
    if changed:
        ((now,),) = await facts.query("SELECT toUnixTimestamp64Micro(now64(6))", {})
        await facts.insert("listener", [(one, int(now), wanted.get(one, 0)) for one in changed])


async def find_fed(facts: Facts) -> set[str]:
    """Return the accounts for which the feed is written with every event."""
    rows = await facts.query(
        "SELECT account FROM listener FINAL WHERE bitAnd(active, {every:UInt8}) != 0", {"every": EVERY_EVENT}
    )
    return {str(account) for (account,) in rows}


async def find_active(facts: Facts, since: int) -> set[str]:
    """Return the accounts of which something was stored since a time."""
    rows = await facts.query(
        "SELECT DISTINCT account FROM feed WHERE stored >= {since:UInt64} AND NOT startsWith(type, 'event.')",
        {"since": since},
    )
    return {str(account) for (account,) in rows}


async def read_page(
    facts: Facts, account_id: str, types: Sequence[str], window: FeedWindow, limit: int
) -> list[FeedRow]:
    """Return the first rows of a window, at most `limit`. A record that was stored again has several rows until they
    are merged: all but the first are marked."""
    key = "({stored:UInt64}, {id:UInt64}, {type:String}, {user:UInt32})"
    end = "({end_stored:UInt64}, {end_id:UInt64}, {end_type:String}, {end_user:UInt32})"
    row = "(stored, id, toString(type), user)"
    found = await facts.query(
        f"WITH page AS (SELECT {_COLUMNS}, toUnixTimestamp(at) AS happened, detail FROM feed "  # noqa: S608
        "WHERE account = {account:String} AND type IN {types:Array(String)} "
        "AND stored >= {stored:UInt64} AND stored <= {end_stored:UInt64} "
        f"AND {row} > {key} AND {row} < {end} ORDER BY {_COLUMNS} LIMIT {{limit:UInt32}}) "
        f"SELECT {_COLUMNS}, happened, detail, (id, type, user, stored) IN ("
        "SELECT id, type, user, min(stored) FROM feed WHERE account = {account:String} "
        "AND id IN (SELECT id FROM page) GROUP BY id, type, user) "
        f"FROM page ORDER BY {_COLUMNS}",
        {
            "account": account_id,
            "types": list(types),
            "limit": limit,
            **msgspec.structs.asdict(window.after),
            **{f"end_{name}": value for name, value in msgspec.structs.asdict(window.end).items()},
        },
    )
    return [
        FeedRow(Place(int(stored), int(one), str(kind), int(user)), int(at), str(detail), bool(first))
        for stored, one, kind, user, at, detail, first in found
    ]
