"""Errors of the facts store: without its own sentences, and what kind of trouble each is."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

Trouble = Literal["parts", "memory", "busy", "replica", "network"]

# ClickHouse's numbers of what passes by itself; anything else does not get better by being repeated.
TROUBLES: dict[int, Trouble] = {
    252: "parts",  # TOO_MANY_PARTS: merging is behind
    **dict.fromkeys((241, 173), "memory"),  # MEMORY_LIMIT_EXCEEDED, CANNOT_ALLOCATE_MEMORY
    **dict.fromkeys((202, 159, 160), "busy"),  # TOO_MANY_SIMULTANEOUS_QUERIES, TIMEOUT_EXCEEDED, TOO_SLOW
    # TABLE_IS_READ_ONLY, KEEPER_EXCEPTION, NO_ZOOKEEPER, TOO_FEW_LIVE_REPLICAS, UNSATISFIED_QUORUM_FOR_PREVIOUS_WRITE,
    # UNKNOWN_STATUS_OF_INSERT, ALL_CONNECTION_TRIES_FAILED
    **dict.fromkeys((242, 999, 225, 285, 286, 319, 279), "replica"),
    # SOCKET_TIMEOUT, NETWORK_ERROR, ATTEMPT_TO_READ_AFTER_EOF; a server that ends: ABORTED, QUERY_WAS_CANCELLED
    **dict.fromkeys((209, 210, 32, 236, 394), "network"),
}

# «Code: 469. DB::Exception: Constraint … is violated … (VIOLATED_CONSTRAINT)»
_CODE = re.compile(r"[Cc]ode: (\d+)")
_NAME = re.compile(r"\(([A-Z][A-Z_]{3,})\)")


class FactsError(Exception):
    """The facts store refused a statement. Its own sentence, which may quote values, is left out."""

    def __init__(self, code: int, name: str):
        super().__init__(f"facts: code {code}, {name}")
        self.code = code


@contextmanager
def hide_values() -> Iterator[None]:
    """Leave only code and name of the store's errors: their sentences quote the rows and parameters they are about."""
    try:
        yield
    except Exception as error:
        if found := _CODE.search(str(error)):
            name = (_NAME.findall(str(error)) or ["no name"])[-1]
            raise FactsError(int(found[1]), name) from None
        raise


def find_trouble(error: Exception) -> Trouble | None:
    """Return what trouble an error of an insert is, None for one that does not pass by itself."""
    from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError

    if isinstance(error, FactsError):
        return TROUBLES.get(error.code)
    # Without a number of the server's: no connection, no answer, or the answer of a proxy.
    if isinstance(error, (OperationalError, OSError)) or type(error) is DatabaseError:
        return "network"
    return None
