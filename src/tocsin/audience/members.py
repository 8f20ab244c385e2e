"""The people a question means: counted, or streamed in blocks."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from tocsin.account import Account
from tocsin.audience.compile import Sql, compile_draw, compile_members
from tocsin.audience.node import Query
from tocsin.channels import PLATFORMS
from tocsin.store.facts import Facts

Recipient = tuple[int, str]  # user and platform


async def count_reachable(
    facts: Facts, account: Account, query: Query, platforms: Sequence[str], now: float, limit: int | None = None
) -> dict[str, int]:
    """Return the number of users on each of `platforms` who would get a message: a live device, not opted out, each
    user once a platform; of at most `limit` users."""
    members = _compile(query, account, platforms, now, limit)
    rows = await facts.query(f"SELECT reach, count() FROM ({members.text}) GROUP BY reach", members.parameters)
    bits = {platform: 1 << PLATFORMS.index(platform) for platform in platforms}
    return {platform: sum(int(count) for reach, count in rows if reach & bit) for platform, bit in bits.items()}


def stream_recipients(
    facts: Facts, account: Account, query: Query, platforms: Sequence[str], now: float, limit: int | None = None
) -> Iterator[list[Recipient]]:
    """Yield blocks of (user, platform), for every one of `platforms` a member has or had a device on. Run in the
    calling thread; memory does not grow with the audience."""
    members = _compile(query, account, platforms, now, limit)
    wanted = [(PLATFORMS.index(platform) + 1, platform) for platform in platforms]
    for block in facts.stream(f"SELECT * FROM ({members.text}) ORDER BY user", members.parameters):
        yield [(row[0], platform) for row in block for index, platform in wanted if row[index]]


def stream_recipients_by_zone(
    facts: Facts, account: Account, query: Query, platforms: Sequence[str], now: float, limit: int | None = None
) -> Iterator[Mapping[str, list[Recipient]]]:
    """Yield the blocks of `stream_recipients`, each divided by the members' own time zones: `zone` of facts.sql."""
    members = _compile(query, account, platforms, now, limit, ("zone",))
    wanted = [(PLATFORMS.index(platform) + 1, platform) for platform in platforms]
    for block in facts.stream(f"SELECT * FROM ({members.text}) ORDER BY user", members.parameters):
        zones: defaultdict[str, list[Recipient]] = defaultdict(list)
        for row in block:
            zones[row[-1]].extend((row[0], platform) for index, platform in wanted if row[index])
        yield zones


def _compile(
    query: Query,
    account: Account,
    platforms: Sequence[str],
    now: float,
    limit: int | None,
    more: Sequence[str] = (),
) -> Sql:
    members = compile_members(query, account, now, more)
    if limit is None:
        return members
    # The same question draws the same people, so that the estimate is what is sent.
    seed = hashlib.blake2b(msgspec.json.encode(query), digest_size=16).hexdigest()
    return compile_draw(members, platforms, limit, seed)
