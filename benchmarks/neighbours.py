"""`tocsin bench neighbours`: what one account's calls take while another account, or a stranger, does its worst."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from benchmarks.hostile import ACTS, PROPERTIES
from benchmarks.reading import Reading, print_progress
from benchmarks.server import make_caller, new_folder, serving
from benchmarks.trial import pick
from benchmarks.visitor import Visitor
from tocsin.cli.providers import store_providers
from tocsin.demo import free_port
from tocsin.demo.stage import running
from tocsin.providers.keyring import sandbox_settings
from tocsin.store.ledger import open_ledger

CALLS = ("upload", "send", "estimate", "health")
STRANGER = 19  # niceness
EVENTS = 20_000  # of the account that misbehaves, for its questions to look through
ROOMY = {"TOCSIN_CREATE_PER_SECOND": "1000", "TOCSIN_CREATE_AT_ONCE": "8"}


class Neighbours:
    """One server on a folder, with two accounts. quiet: the one that is timed. loud: the headers of the other."""

    def __init__(self, data: Path, port: int, quiet: Visitor, loud: dict[str, str]):
        self.data = data
        self.port = port
        self.quiet = quiet
        self.loud = loud
        self.refused = 0
        self.sent = 0  # messages of the quiet account that were accepted
        self._number = itertools.count()

    def measure(self, seconds: float) -> dict[str, list[float]]:
        """Return the seconds of each of the quiet account's calls, sorted, over so many seconds; `refused` counts those
        that were refused."""
        end = time.monotonic() + seconds
        return self.measure_while(lambda: time.monotonic() < end)

    def measure_while(self, going: Callable[[], bool], calls: Sequence[str] = CALLS) -> dict[str, list[float]]:
        """Return the same of some calls, for as long as `going` says."""
        found: dict[str, list[float]] = {name: [] for name in calls}
        while going():
            for name in calls:
                started = time.monotonic()
                status = self._call(name)
                self.refused += status != 200
                found[name].append(time.monotonic() - started)
        return {name: sorted(times) for name, times in found.items()}

    def _call(self, name: str) -> int:
        number = next(self._number)
        if name == "upload":
            event = {"type": "event", "identity": "a", "evtName": "Paid", "evtData": {"sum": number}}
            return self.quiet.post("/1/upload", {"d": [event]})
        if name == "send":
            content = {"title": "Your code", "body": str(number)}
            status = self.quiet.post("/1/send/push.json", {"to": {"Identity": ["a"]}, "content": content})
            self.sent += status == 200
            return status
        if name == "estimate":
            where = {"event_name": "Paid", "from": 20200101, "to": 20991231}
            content = {"title": "t", "body": "b"}
            asked = {"name": "n", "where": where, "content": content, "devices": ["android"], "when": "now"}
            return self.quiet.post("/1/targets/create.json", asked | {"estimate_only": True})
        return self.quiet.get("/healthz")

    def read_sent(self) -> dict[str, int]:
        """Return the numbers of what the quiet account sent."""
        total: dict[str, int] = self.quiet.read("/1/tag_groups.json")["total"]
        return total

    @contextmanager
    def beside(self, acts: Sequence[str]) -> Iterator[None]:
        """Let the other account do some of ACTS, each in a process of its own, while the context lasts."""
        context = multiprocessing.get_context("spawn")
        processes = [context.Process(target=_act, args=(name, self.port, self.loud), daemon=True) for name in acts]
        for process in processes:
            process.start()
        try:
            time.sleep(1.0)  # until they are at it
            yield
        finally:
            for process in processes:
                process.kill()
                process.join()


def _act(name: str, port: int, headers: dict[str, str]) -> None:
    """Do an act as somebody on another machine would: this one's processors are the server's first."""
    os.nice(STRANGER)
    ACTS[name](port, headers)


@contextmanager
def two_accounts() -> Iterator[Neighbours]:
    """Start a server, the sandbox and two accounts; the loud one has events to ask about."""
    with new_folder() as data, (data / "sandbox.log").open("ab") as log:
        port, vendors = free_port(18_300, 1), free_port(18_400, 6)
        with closing(open_ledger(f"sqlite:///{data / 'ledger.db'}")) as ledger:
            quiet, mine = make_caller(ledger)
            loud, theirs = make_caller(ledger)
        with running(log, "sandbox", "--port", str(vendors)), serving(data, port, ROOMY):
            for account_id in (quiet.id, loud.id):
                _use_sandbox(data, account_id, vendors)
            with closing(Visitor(port, mine)) as visitor:
                with closing(Visitor(port, theirs)) as other:
                    _fill(visitor, other)
                yield Neighbours(data, port, visitor, theirs)


def _use_sandbox(data: Path, account_id: str, port: int) -> None:
    with closing(Visitor(port, {})) as visitor:
        given = visitor.read("/credentials")
    store_providers(data, account_id, sandbox_settings(given))


def _fill(quiet: Visitor, loud: Visitor) -> None:
    token = {"type": "token", "objectId": "d", "tokenData": {"type": "fcm", "id": "f" * 40 + ":" + "t" * 20}}
    for one in (quiet, loud):
        profile = {"type": "profile", "identity": "a", "objectId": "d", "profileData": {"Name": "A"}}
        one.post("/1/upload", {"d": [profile, token]})
        token = {**token, "tokenData": {"type": "fcm", "id": "g" * 40 + ":" + "t" * 20}}
    for start in range(0, EVENTS, 1000):
        events = [
            {"type": "event", "identity": f"p{n % 500}", "evtName": "E", "evtData": {PROPERTIES[n % 40]: f"x{n}"}}
            for n in range(start, start + 1000)
        ]
        loud.post("/1/upload", {"d": events})


def measure_neighbours(seconds: float, mixtures: int, seed: int) -> list[Reading]:
    """Measure the four calls alone, beside each act, and beside random mixtures of them, `seconds` each."""
    readings: list[Reading] = []
    dice = random.Random(seed)  # noqa: S311 - a draw to repeat, no secret
    rounds: list[tuple[str, tuple[str, ...]]] = [(name, (name,)) for name in ACTS]
    rounds += [(f"mixture {n}", tuple(dice.sample(sorted(ACTS), dice.randint(2, 4)))) for n in range(mixtures)]
    with two_accounts() as both:
        both.measure(1.0)
        if both.refused:
            raise RuntimeError("the calls are refused with nobody beside them")
        alone = both.measure(max(seconds, 3.0))
        for call, times in alone.items():
            readings.append(Reading(f"{call}, alone, p50", pick(times, 0.5) * 1000, "ms"))
            readings.append(Reading(f"{call}, alone, p99", pick(times, 0.99) * 1000, "ms"))
        for name, acts in rounds:
            with both.beside(acts):
                both.refused = 0
                beside = both.measure(seconds)
            print_progress(f"{name}: {', '.join(acts)}")
            readings.append(Reading(f"refused, beside {' + '.join(acts)}", float(both.refused), "calls"))
            for call in CALLS:
                for part, share in (("p50", 0.5), ("p99", 0.99)):
                    took, before = pick(beside[call], share), pick(alone[call], share)
                    label = f"{call}, beside {' + '.join(acts)}, {part}"
                    readings.append(Reading(label, took * 1000, "ms", "alone", took / before))
            both.measure(0.5)  # what is left of it goes by
    return readings
