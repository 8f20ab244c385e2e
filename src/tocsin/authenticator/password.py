"""Passwords: argon2id, two at a time, so that a burst of log-ins takes neither the memory nor the processors."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from tocsin.errors import Misconfigured

SHORTEST, LONGEST = 8, 256  # letters
# OWASP's Password Storage Cheat Sheet: at least 19 MiB, two passes, one lane.
HASHER = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
AT_ONCE = 2
# Of nobody's password: who does not exist takes as long to refuse as who does.
_NOBODY = HASHER.hash("nobody has this password")


class Passwords:
    """Compares passwords with their hashes in AT_ONCE threads."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="password")

    async def check(self, stored: str | None, given: str) -> bool:
        """Return whether a password is the stored one. stored: None for nobody, which is always wrong."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, _check, stored, given)


def hash_password(password: str) -> str:
    """Return what the ledger keeps of a password. Raise Misconfigured for one that is too short or too long."""
    if not SHORTEST <= len(password) <= LONGEST:
        raise Misconfigured(f"A password has {SHORTEST} to {LONGEST} letters; this one has {len(password)}.")
    return HASHER.hash(password)


def _check(stored: str | None, given: str) -> bool:
    try:
        HASHER.verify(stored or _NOBODY, given[: LONGEST + 1])
    except (VerificationError, InvalidHashError):
        return False
    return stored is not None
