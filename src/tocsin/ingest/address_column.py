"""E-mail addresses and phone numbers of a column: those that are plainly right, found and read all at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from tocsin.ingest.column import Texts, match, put
from tocsin.ingest.phone_number import find_normal
from tocsin.ingest.profile import READERS
from tocsin.ingest.record import DOMAIN_LETTERS, LOCAL_LETTERS, SIMPLE_ADDRESS, SPECIAL_DOMAINS

SIMPLE = rf"\A{SIMPLE_ADDRESS}\z"  # in RE2
SPECIAL = rf"(?i)[.@](?:{'|'.join(re.escape(one[1:]) for one in SPECIAL_DOMAINS)})\z"


def find_plain(key: str, array: Any) -> Any:
    """Return for each text of an Arrow array whether it is an address of a property (Email, Phone) that is stored as it
    is, and that its reader only makes lower case."""
    import pyarrow.compute as pc

    if key == "Phone":
        return pc.fill_null(find_normal(array), fill_value=False)
    local = pc.find_substring(array, "@")
    domain = pc.subtract(pc.subtract(pc.binary_length(array), local), 1)
    least, most = DOMAIN_LETTERS
    fits = pc.and_(
        pc.less_equal(local, LOCAL_LETTERS), pc.and_(pc.less_equal(least, domain), pc.less_equal(domain, most))
    )
    plain = pc.and_(pc.fill_null(fits, fill_value=False), match(array, SIMPLE))
    return pc.and_not(plain, match(array, SPECIAL))


def read_addresses(key: str, cells: Sequence[Any], read: Callable[[Any], Any]) -> Any:
    """Return an Arrow array with the address that each cell is, normalized, null for none. read: makes the value of a
    cell that is not plainly one."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not isinstance(cells, Texts):
        return pa.array([READERS[key](read(cell)) or None for cell in cells], pa.string())
    array = cells.array
    plain = find_plain(key, array)
    found = pc.if_else(plain, pc.ascii_lower(array), pa.scalar(None, pa.string()))
    odd = pc.indices_nonzero(pc.and_not(array.is_valid(), plain))
    others = [READERS[key](read(cell)) or None for cell in array.take(odd).to_pylist()]
    return put(found, odd.to_pylist(), others) if others else found
