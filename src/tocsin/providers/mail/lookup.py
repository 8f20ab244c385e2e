"""Looking up names of relays, in threads of their own: a name server that does not answer holds up the mail of its own
relay, and nothing else that this process does."""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeAlias

from tocsin.providers.public_address import is_allowed

THREADS = 16  # names that are looked up at one time; each holds one, however many connections wait for it

Found: TypeAlias = list[str]

_threads = ThreadPoolExecutor(THREADS, thread_name_prefix="relay-name")
_under_way: dict[str, Future[Found]] = {}


async def find_addresses(host: str, *, public: bool) -> Found:
    """Return the IP addresses of a host, in the resolver's order; what is connected to is one of these and no second
    answer. public: only those that are. Raises OSError when there are none."""
    if (found := _under_way.get(host)) is None:
        found = _under_way[host] = _threads.submit(_ask, host)
        found.add_done_callback(lambda _: _under_way.pop(host, None))
    # Whoever gives up must not take the answer from the others.
    addresses = await asyncio.shield(asyncio.wrap_future(found))
    good = [one for one in addresses if not public or is_allowed(one, ())]
    if not good:
        raise OSError(f"{host} is in a private network, where this relay may not be")
    return good


def _ask(host: str) -> Found:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except UnicodeError:  # a label that is empty or too long
        raise OSError(f"{host} is no name of a host") from None
    return list(dict.fromkeys(str(address[0]) for *_, address in found))
