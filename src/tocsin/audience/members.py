"""The people a question means: counted, or streamed in blocks."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from tocsin.account import Account
from tocsin.audience.compile import Sql, compile_draw, compile_members, select_people
from tocsin.audience.node import Query
from tocsin.channels import PLATFORMS, Channel
from tocsin.ingest.profile import REACHABLE
from tocsin.ingest.record import LEFT
from tocsin.store.facts import Facts
from tocsin.store.props import SEPARATOR, escape_key, fold

Recipient = tuple[int, str]  # user and platform


class Drawn(NamedTuple):
    """Some of an audience, after everything else about it is known: an SQL condition on `user`, with its values."""

    condition: str
    values: Mapping[str, Any]


class Survey(NamedTuple):
    """What one look at an audience tells. counts: how many a message would reach, by platform. some: a few of its
    users, reached or not, those with the lowest numbers."""

    counts: dict[str, int]
    some: list[int]


def draw_share(share: int) -> Drawn:
    """Return about `share` of 10,000 members, the same ones each time."""
    return Drawn("sipHash64(user) % 10000 < {drawn_share:UInt16}", {"drawn_share": share})


def draw_user(user: int) -> Drawn:
    """Return one member, or nobody."""
    return Drawn("user = {drawn_user:UInt32}", {"drawn_user": user})


async def count_reachable(
    facts: Facts,
    account: Account,
    query: Query,
    platforms: Sequence[str],
    now: float,
    limit: int | None = None,
    groups: Sequence[str] = (),
) -> dict[str, int]:
    """Return the number of users on each of `platforms` who would get a message: a live device, not opted out, each
    user once a platform; of at most `limit` users. groups: subscription groups; who left one gets nothing."""
    return (await survey_members(facts, account, query, platforms, now, limit, groups)).counts


async def survey_members(
    facts: Facts,
    account: Account,
    query: Query,
    platforms: Sequence[str],
    now: float,
    limit: int | None = None,
    groups: Sequence[str] = (),
    most: int = 0,
) -> Survey:
    """Return what `count_reachable` does, and at most `most` of those it counts in: in one question, for each looks at
    everybody."""
    members = _compile(query, account, platforms, now, limit)
    left, values = _who_left(groups)
    meets = f"WHERE user NOT IN (SELECT user FROM ({select_people(('account',), left)}))" if groups else ""
    lowest = f"groupArraySorted({int(most)})(user)" if most else "[]"
    text = f"SELECT reach, count(), {lowest} FROM ({members.text}) {meets} GROUP BY reach"
    rows = await facts.query(text, {**members.parameters, **values})
    bits = {platform: 1 << PLATFORMS.index(platform) for platform in platforms}
    counts = {platform: sum(int(row[1]) for row in rows if row[0] & bit) for platform, bit in bits.items()}
    return Survey(counts, sorted(int(user) for row in rows for user in row[2])[:most])


async def count_members(facts: Facts, account: Account, query: Query, now: float) -> int:
    """Return how many people a question means, reachable or not."""
    members = compile_members(query, account, now)
    [(count,)] = await facts.query(f"SELECT count() FROM ({members.text})", members.parameters)
    return int(count)


async def count_strangers(
    facts: Facts, account: Account, query: Query, platforms: Sequence[str], now: float, limit: int | None = None
) -> int:
    """Return how many people a question means who never had an address on any of `platforms`: no recipients."""
    members = _compile(query, account, platforms, now, limit)
    never = " AND ".join(f"{name} = 0" for name in PLATFORMS if name in platforms)
    [(count,)] = await facts.query(f"SELECT countIf({never}) FROM ({members.text})", members.parameters)
    return int(count)


def stream_recipients(
    facts: Facts,
    account: Account,
    query: Query,
    platforms: Sequence[str],
    now: float,
    limit: int | None = None,
    drawn: Drawn | None = None,
) -> Iterator[list[Recipient]]:
    """Yield blocks of (user, platform), for every one of `platforms` a member has or had a device on. Run in the
    calling thread; memory does not grow with the audience."""
    members = _draw(_compile(query, account, platforms, now, limit), drawn)
    wanted = [(PLATFORMS.index(platform) + 1, platform) for platform in platforms]
    for block in facts.stream(f"SELECT * FROM ({members.text}) ORDER BY user", members.parameters):
        yield [(row[0], platform) for row in block for index, platform in wanted if row[index]]


def stream_recipients_by_zone(
    facts: Facts,
    account: Account,
    query: Query,
    platforms: Sequence[str],
    now: float,
    limit: int | None = None,
    drawn: Drawn | None = None,
) -> Iterator[Mapping[str, list[Recipient]]]:
    """Yield the blocks of `stream_recipients`, each divided by the members' own time zones: `zone` of facts.sql."""
    members = _draw(_compile(query, account, platforms, now, limit, ("zone",)), drawn)
    wanted = [(PLATFORMS.index(platform) + 1, platform) for platform in platforms]
    for block in facts.stream(f"SELECT * FROM ({members.text}) ORDER BY user", members.parameters):
        zones: defaultdict[str, list[Recipient]] = defaultdict(list)
        for row in block:
            zones[row[-1]].extend((row[0], platform) for index, platform in wanted if row[index])
        yield zones


def find_duplicates(
    facts: Facts,
    account: Account,
    query: Query,
    channel: Channel,
    now: float,
    limit: int | None = None,
    drawn: Drawn | None = None,
    groups: Sequence[str] = (),
) -> set[int]:
    """Return the members who can be reached at an address that another one has, all but the first of each address; of
    those drawn. groups: as in `count_reachable`. Blocks: call it in a thread."""
    sql = _compile_duplicates(query, account, channel, now, limit, groups)
    some, values = ("", {}) if drawn is None else drawn
    text = f"SELECT arrayFilter(user -> {some or '1'}, arraySlice(users, 2)) FROM ({sql.text})"
    blocks = facts.stream(text, {**sql.parameters, **values})
    return {user for block in blocks for (users,) in block for user in users}


async def count_duplicates(
    facts: Facts,
    account: Account,
    query: Query,
    channel: Channel,
    now: float,
    limit: int | None = None,
    groups: Sequence[str] = (),
) -> int:
    """Return how many `find_duplicates` returns."""
    sql = _compile_duplicates(query, account, channel, now, limit, groups)
    rows = await facts.query(f"SELECT sum(length(users) - 1) FROM ({sql.text})", sql.parameters)
    return int(rows[0][0] or 0)


def _compile_duplicates(
    query: Query, account: Account, channel: Channel, now: float, limit: int | None, groups: Sequence[str]
) -> Sql:
    """Return the users of each address that several have, as SQL."""
    members = _compile(query, account, channel.platforms, now, limit)
    [platform] = channel.platforms
    address = f"lower(props.`{channel.property}`.:String)"
    left, values = _who_left(groups)
    meets = f"{platform} = {REACHABLE} AND user IN (SELECT user FROM mine) AND NOT ({left})"
    people = select_people((f"{address} AS address",), meets)
    text = f"WITH mine AS ({members.text}) SELECT arraySort(groupArray(user)) AS users FROM ({people}) "
    parameters = {**members.parameters, **values}
    return Sql(f"{text} WHERE address != '' GROUP BY address HAVING count() > 1", parameters)


def _who_left(groups: Sequence[str]) -> tuple[str, Mapping[str, Any]]:
    """Return the condition on a row of `profile` that they, or their mailbox, left one of the groups, with its
    values."""
    if not groups:
        return "0", {}
    column = f"ifNull(props.`{escape_key(LEFT)}`.:String, '')"
    needles = [f"{SEPARATOR}{fold(name)}{SEPARATOR}" for name in groups]
    return f"multiSearchAny({column}, {{groups:Array(String)}})", {"groups": needles}


def _draw(members: Sql, drawn: Drawn | None) -> Sql:
    if drawn is None:
        return members
    text = f"SELECT * FROM ({members.text}) WHERE {drawn.condition}"
    return Sql(text, {**members.parameters, **drawn.values}, members.reads)


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
