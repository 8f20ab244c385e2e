"""Looking up names of relays, in threads of their own: a name server that does not answer holds up the mail of its own
relay, and nothing else that this process does."""

from __future__ import annotations

import asyncio
import socket
import threading
from concurrent.futures import Future
from time import monotonic
from typing import TypeAlias

from tocsin.providers.public_address import is_allowed

THREADS = 256  # names that are looked up at one time; each holds one, however many connections wait for it
SLOW_THREADS = 32  # of these for names whose last answer took long, or never came
SLOW_SECONDS = 2.0
NAMES = 1000  # slow ones that are remembered

Found: TypeAlias = list[str]

_under_way: dict[str, Future[Found]] = {}
_slow: dict[str, None] = {}


async def find_addresses(host: str, *, public: bool) -> Found:
    """Return the IP addresses of a host, in the resolver's order; what is connected to is one of these and no second
    answer. public: only those that are. Raises OSError when there are none, and when too many names wait for theirs."""
    if (found := _under_way.get(host)) is None:
        found = _begin(host)
    # Whoever gives up must not take the answer from the others.
    addresses = await asyncio.shield(asyncio.wrap_future(found))
    good = [one for one in addresses if not public or is_allowed(one, ())]
    if not good:
        raise OSError(f"{host} is in a private network, where this relay may not be")
    return good


def _begin(host: str) -> Future[Found]:
    """Look a name up in a thread of its own: in a queue it would wait for strangers' name servers."""
    slow = sum(name in _slow for name in list(_under_way)) if host in _slow else 0
    if slow >= SLOW_THREADS or len(_under_way) >= THREADS:
        raise OSError(f"{host} is not looked up: too many names wait for their name servers")
    found: Future[Found] = Future()
    found.set_running_or_notify_cancel()  # nobody can cancel it any more
    _under_way[host] = found
    try:
        threading.Thread(target=_look_up, args=(host, found), name="relay-name", daemon=True).start()
    except RuntimeError:
        _under_way.pop(host, None)
        raise OSError(f"{host} is not looked up: the system has no more threads") from None
    return found


def _look_up(host: str, found: Future[Found]) -> None:
    began = monotonic()
    try:
        addresses, failure = _ask(host), None
    except Exception as error:  # whoever waits gets to hear it
        addresses, failure = [], error
    _remember(host, slow=monotonic() - began > SLOW_SECONDS)
    _under_way.pop(host, None)
    if failure is None:
        found.set_result(addresses)
    else:
        found.set_exception(failure)


def _ask(host: str) -> Found:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except UnicodeError:  # a label that is empty or too long
        raise OSError(f"{host} is no name of a host") from None
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


def _remember(host: str, *, slow: bool) -> None:
    """Keep whether a name's answer took long, of those that were asked for last."""
    _slow.pop(host, None)
    if slow:
        _slow[host] = None
        for name in list(_slow)[:-NAMES]:
            _slow.pop(name, None)
