"""One server's folder under siege: two accounts, four vendors full of faults, and `kill -9` at random moments."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import select
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from conftest import ROOMY, Sandbox, Server, people, token, wait_for
from evidence import count_sent, read_recipients, read_states, read_users
from vendors import count_accepted, count_doubled, read_accepted, read_cut, read_refused, set_faults

from tocsin.delivery import sender_pool, settle
from tocsin.delivery.in_flight import MOST_AT_ONCE
from tocsin.outcome import FINAL, State

WINDOW = 64
CHUNKS_AT_ONCE = 4
SENDERS = 2
IN_FLIGHT = WINDOW * CHUNKS_AT_ONCE
"""Recipients that one failure of a store can make unknown."""

MOST_ON_THE_WIRE = 2 * 4 * SENDERS * MOST_AT_ONCE
"""What one kill can make unknown: each sender has no more on the wire in four lanes of each account. Mostly it is some
hundreds, for a lane is as wide as its vendor is slow; that all of it was on the wire the unseen show."""

LOST = (settle.LOST.code, sender_pool.LOST.code)
"""What the ledger says of those whom a kill made unknown. (A cut made others unknown, with libcurl's words; the vendor
has not read all that was on the connection.)"""

BOOT_ID_AT, BOOT_ID_BYTES = 8, 36
"""Where in a file of notes the boot's id is."""

UNSEEN = 20
"""Of a round's lost recipients so many may be unseen, however few they are: libcurl reads several bodies, which notes
them, before it writes them in one piece; a kill may come between. Ten kills left 15 of 199 so, most rounds none; over
200 kills one in a hundred is what counts."""

ENVIRONMENT = ROOMY | {
    "TOCSIN_WINDOW": str(WINDOW),
    "TOCSIN_CHUNKS_AT_ONCE": str(CHUNKS_AT_ONCE),
    "TOCSIN_SENDERS": str(SENDERS),
    "TOCSIN_LEASE_SECONDS": "2.5",  # what a killed worker held on PostgreSQL is free after this
    "PYTHONFAULTHANDLER": "1",  # SIGABRT makes it say where its threads are
}
KINDS = ("fcm", "apns", "wns")
PUSH: dict[str, Any] = {"content": {"title": "Hello {{ Profile.Name }}", "body": "there"}}
MAIL: dict[str, Any] = {"target_mode": "email", "content": {"subject": "Hello", "body": "<p>there</p>"}}
START_SECONDS = 1.5  # a server is ready after about this
COMPLETE_SECONDS = 120.0


class Siege:
    """Campaigns of two accounts on one server that is killed again and again; `story` is what was done to it."""

    def __init__(self, data: Path, ledger_url: str, sandbox: Sandbox, dice: random.Random, size: int):
        self.sandbox, self.dice, self.size = sandbox, dice, size
        self.story: list[str] = []
        self.kills = self.round_kills = 0
        self.breaking = False
        self._bag: list[Callable[[], None]] = []
        self._orphans: list[int] = []  # pidfds of children whose parent was killed
        self.server = Server(data, ENVIRONMENT | {"TOCSIN_LEDGER_URL": ledger_url})
        self.callers = [self.server.account() for _ in range(2)]
        for number, caller in enumerate(self.callers):
            self.server.use_sandbox(caller, sandbox)
            caller.upload(*people(size, prefix=self.prefix(number), kinds=KINDS, wns_port=sandbox.port + 3))
        self.campaigns: list[tuple[int, int, bool]] = []  # account, campaign, whether it is a push

    def __enter__(self) -> Siege:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is TimeoutError:  # it does not answer at all: what are its threads about?
            pid = self.server.process.pid
            resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))
            os.kill(pid, signal.SIGABRT)
            wait_for(lambda: self.server.process.poll() is not None)
            print((self.server.data / "log").read_text()[-20_000:])
        self.server.kill()

    @staticmethod
    def prefix(account: int) -> str:
        return f"siege{account}"

    def begin(self, *, faults: bool = True, breaking: bool = True) -> None:
        """Starts a push and an e-mail campaign on each account, with nothing remembered of earlier ones. breaking:
        whether faults break connections."""
        self.sandbox.clear()
        if faults:
            set_faults(self.sandbox, breaking=breaking)
        self.breaking = faults and breaking
        self.round_kills = 0
        self.campaigns = [
            (account, caller.create(**(PUSH if push else MAIL)), push)
            for account, caller in enumerate(self.callers)
            for push in (True, False)
        ]
        self._tell(f"campaigns {[campaign for _, campaign, _ in self.campaigns]}")

    def completed(self) -> bool:
        """Whether every campaign has its result."""
        for account, campaign, _ in self.campaigns:
            status, answer = self.callers[account].post("/1/targets/result.json", {"id": campaign})
            if status != 200:
                assert "hasn't been completed" in answer["error"], answer
                return False
        return True

    def kill_somehow(self) -> None:
        """One kill at a random moment of a random kind, and a server that is ready again. The first six are one of each
        kind, however few there are."""
        if not self._bag:
            kinds = (
                *(self._kill_after_time, self._kill_at_share, self._kill_in_drain),
                *(self._kill_start, self._kill_child, self._kill_all),
            )
            often = (5, 3, 2, 2, 2, 3) if self.kills >= len(kinds) else (1,) * len(kinds)
            self._bag = self.dice.sample(kinds, sum(often), counts=often)
        self._bag.pop()()

    def cut_power(self) -> int:
        """Kill all as a power cut does: the notes that are left are of another boot. How many were claimed."""
        wait_for(lambda: count_accepted(self.sandbox) >= self.size)
        self._kill(start=False)
        wait_for(self._no_orphans)
        for path in (self.server.data / "handover").glob("*/*.notes"):
            with path.open("r+b") as file:
                file.seek(BOOT_ID_AT)
                file.write(b"0" * BOOT_ID_BYTES)
        claimed = sum(
            state is State.CLAIMED
            for account, campaign, _ in self.campaigns
            for state in read_states(self.server.ledger_url, self.callers[account].account_id, campaign).values()
        )
        self._tell(f"a power cut, {claimed} claimed")
        self.server = self.server.again()
        return claimed

    def kill_early(self) -> None:
        """Within half a second of `create`: the audience is read, the chunks are written, or the first are claimed."""
        self._kill_after(self.dice.uniform(0.0, 0.5), "after create")

    def _kill_after_time(self) -> None:
        self._kill_after(self.dice.uniform(0.05, 1.2), "after start")

    def _kill_at_share(self) -> None:
        now, share = count_accepted(self.sandbox), self.dice.uniform(0.02, 0.3)
        target = now + share * (4 * self.size - now)
        self._tell(f"waits until {target:.0f} are accepted")
        wait_for(lambda: count_accepted(self.sandbox) >= target or self.completed())
        self._kill()

    def _kill_in_drain(self) -> None:
        """SIGTERM, and then it is not allowed to finish."""
        self._wait(self.dice.uniform(0.05, 1.0))
        self.server.process.terminate()
        seconds = self.dice.uniform(0.0, 0.25)
        self._tell(f"SIGTERM, {seconds:.3f} s before")
        self._wait(seconds)
        self._kill()

    def _kill_start(self) -> None:
        """Two kills shortly after each other: the second meets a server that is just starting."""
        self._kill(start=False)
        self.server = self.server.again(wait=False)
        seconds = self.dice.uniform(0.0, START_SECONDS * 1.3)
        self._tell(f"starts, {seconds:.3f} s before")
        self._wait(seconds)
        self._kill()

    def _kill_child(self) -> None:
        """One child process of the server, where it has any: it must go on by itself. Else the server."""
        self._wait(self.dice.uniform(0.05, 1.0))
        children = find_children(self.server.process.pid)
        if not children:
            self._kill()
            return
        pid = self.dice.choice(children)
        self._tell(f"kill child {children.index(pid)} of {len(children)}")
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        self.kills += 1
        self.round_kills += 1

    def _kill_all(self) -> None:
        """The server and its senders in the same instant, in either order."""
        self._wait(self.dice.uniform(0.05, 1.0))
        children = find_children(self.server.process.pid)
        pids = [*children, self.server.process.pid]
        self.dice.shuffle(pids)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._tell(f"killed the server and {len(children)} children")
        self._kill()

    def _kill_after(self, seconds: float, why: str) -> None:
        self._tell(f"{why}, {seconds:.3f} s before")
        self._wait(seconds)
        self._kill()

    def _kill(self, *, start: bool = True) -> None:
        for pid in find_children(self.server.process.pid):
            with contextlib.suppress(ProcessLookupError):
                self._orphans.append(os.pidfd_open(pid))
        self.server.kill()
        self.kills += 1
        self.round_kills += 1
        self._tell(f"kill {self.kills}")
        if start:
            self.server = self.server.again()

    @staticmethod
    def _wait(seconds: float) -> None:
        moment = time.monotonic() + seconds
        wait_for(lambda: time.monotonic() >= moment)

    def _tell(self, what: str) -> None:
        self.story.append(what)
        print(what)

    def check(self, *, believed: bool = True) -> dict[str, int]:
        """Waits for the campaigns and holds what the server says beside what the vendors have. believed: whether the
        notes of hand-over are, after all kills. The sums."""
        wait_for(self.completed, COMPLETE_SECONDS)
        wait_for(self._no_orphans)
        assert self.server.process.poll() is None, "the server ended by itself"
        accepted, sums, refused = read_accepted(self.sandbox), Counter[str](), read_refused(self.sandbox)
        assert count_doubled(self.sandbox) == 0
        assert set(accepted) <= {campaign for _, campaign, _ in self.campaigns}, "an ended campaign went on"
        for account, campaign, push in self.campaigns:
            got = accepted.get(campaign, Counter())
            assert [address for address, count in got.items() if count > 1] == []
            sums.update(self._check_campaign(account, campaign, push, set(got), refused))
        lost, unseen = sums["lost"], sums["unseen"]
        self._tell(f"{dict(sums)} after {self.round_kills} kills")
        if believed:
            assert self.breaking or unseen <= max(UNSEEN, lost / 100), "people are unknown whom no vendor has seen"
            assert lost <= MOST_ON_THE_WIRE * self.round_kills
        assert sums["unknown"] - lost <= read_cut(self.sandbox)
        return dict(sums)

    def _check_campaign(self, account: int, campaign: int, push: bool, got: set[str], refused: str) -> dict[str, int]:
        """The sums of one campaign, after they were held beside its recipients. refused: see `vendors.read_refused`."""
        caller = self.callers[account]
        result = caller.result(campaign)
        numbers = {name: result[name] for name in ("audience", "sent", "unknown", "failed", "suppressed")}
        assert numbers["audience"] == sum(numbers.values()) - numbers["audience"], numbers
        assert numbers["sent"] <= len(got) <= numbers["sent"] + numbers["unknown"], (numbers, len(got))
        found = read_recipients(self.server.ledger_url, caller.account_id, campaign)
        states = {user: state for user, (state, _) in found.items()}
        assert len(states) == numbers["audience"], "somebody is in the audience twice or not at all"
        assert {state for state in states.values() if state not in FINAL} == set()
        known = self._addresses(account, push)
        owners = {known[address] for address in got}
        users = read_users(self.server.ledger_url, caller.account_id, sorted(known.values()))
        took = {users[name] for name in owners}
        assert {user for user, state in states.items() if state is State.ACCEPTED} <= took, "sent, and not accepted"
        assert {states[user].name for user in took} <= {"ACCEPTED", "UNKNOWN"}, "accepted, and not said so"
        assert count_sent(caller, campaign, PUSH if push else MAIL) == numbers["sent"], "facts and result disagree"
        lost = {user for user, (state, code) in found.items() if state is State.UNKNOWN and code in LOST}
        seen = took | {users[name] for address, name in known.items() if find_address(address) in refused}
        return numbers | {"lost": len(lost), "unseen": len(lost - seen)}

    def _addresses(self, account: int, push: bool) -> dict[str, str]:
        """Whose address is which."""
        found = {}
        for number in range(self.size):
            name, kind = f"{self.prefix(account)}-{number}", KINDS[number % len(KINDS)]
            address = token(kind, name, self.sandbox.port + 3) if push else f"{name}@example.com"
            found[address] = name
        return found

    def _no_orphans(self) -> bool:
        """Whether all children of killed servers have ended."""
        ended, _, _ = select.select(self._orphans, [], [], 0)
        for pidfd in ended:
            os.close(pidfd)
        self._orphans = [pidfd for pidfd in self._orphans if pidfd not in ended]
        return not self._orphans


def find_address(address: str) -> str:
    """What of an address is in a request: of a channel (a URL) its path."""
    return address.partition("/w/")[2] or address


def find_children(pid: int) -> list[int]:
    """The child processes of a process, of any of its threads (Linux)."""
    children: list[int] = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            children += map(int, path.read_text().split())
    return sorted(children)
