"""The people a question means: counted, or streamed in blocks."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

from tocsin.audience.compile import compile_members
from tocsin.audience.query import Query
from tocsin.ingest.profile import REACHABLE
from tocsin.store.facts import Facts

PLATFORMS = ("android", "ios", "windows", "email")  # the order of compile_members


async def count_reachable(facts: Facts, account_id: str, query: Query, platforms: Sequence[str]) -> dict[str, int]:
    """How many would really get it on each of `platforms`: a live device, not opted out, each user once a platform."""
    members = compile_members(query, account_id)
    columns = ", ".join(f"countIf({name} = {REACHABLE})" for name in PLATFORMS)
    [counts] = await facts.query(f"SELECT {columns} FROM ({members.text})", members.parameters)
    by_name = dict(zip(PLATFORMS, counts, strict=True))
    return {platform: int(by_name[platform]) for platform in platforms}


async def count_members(facts: Facts, account_id: str, query: Query) -> int:
    """How many people the question means, whether they can be reached or not."""
    members = compile_members(query, account_id)
    [(count,)] = await facts.query(f"SELECT count() FROM ({members.text})", members.parameters)
    return int(count)


def stream_recipients(
    facts: Facts, account_id: str, query: Query, platforms: Sequence[str]
) -> Iterator[list[tuple[int, str]]]:
    """Blocks of (user, platform), for every one of `platforms` a member has or had a device on. In the calling thread:
    memory does not grow with the audience."""
    members = compile_members(query, account_id)
    wanted = [(PLATFORMS.index(platform) + 1, platform) for platform in platforms]
    for block in facts.stream(f"{members.text} ORDER BY user", members.parameters):
        yield [(row[0], platform) for row in block for index, platform in wanted if row[index]]


async def read_recipients(
    facts: Facts, account_id: str, query: Query, platforms: Sequence[str]
) -> list[tuple[int, str]]:
    """All of `stream_recipients` at once, off the event loop."""

    def read() -> list[tuple[int, str]]:
        return [pair for block in stream_recipients(facts, account_id, query, platforms) for pair in block]

    return await asyncio.to_thread(read)
