"""The tables of states: what a recipient and a run may become, and that nobody stays on the way for ever."""

from __future__ import annotations

import array
import itertools
from collections.abc import Mapping

import pytest
from sqlalchemy import Connection, select, update

from tocsin.campaign.runs import RUN_STATES, move_run
from tocsin.outcome import FINAL, NUMBERS, OUTCOME_OF, STATES, SUPPRESSED, Outcome, State, count_numbers
from tocsin.queue import Chunk
from tocsin.store import schema
from tocsin.store.ledger import Ledger

STORED = {
    "WAITING": 0,
    "CLAIMED": 1,
    "ACCEPTED": 2,
    "GONE": 3,
    "REFUSED": 4,
    "EXPIRED": 5,
    "UNKNOWN": 6,
    "NO_DEVICE": 16,
    "UNSUBSCRIBED": 17,
    "STOPPED": 18,
    "NOT_FOUND": 19,
    "NO_PROVIDER": 20,
    "QUIET_HOURS": 21,
    "CUT_OFF": 22,
    "TIME_PASSED": 23,
    "CONTROL_GROUP": 24,
    "FREQUENCY_CAP": 25,
    "DWELL_TIME": 26,
    "CAMPAIGN_CAP": 27,
    "DUPLICATE_ADDRESS": 28,
}
NEVER_TRIED = tuple(name for name, number in STORED.items() if number >= 16)
ALLOWED = {
    *(("WAITING", to) for to in ("CLAIMED", "REFUSED", "EXPIRED", *NEVER_TRIED)),
    *(("CLAIMED", to) for to in ("WAITING", "ACCEPTED", "GONE", "REFUSED", "EXPIRED", "UNKNOWN")),
}
RUNS_ALLOWED = {
    ("scheduled", "running"),
    ("scheduled", "stopped"),
    ("scheduled", "missed"),
    ("running", "completed"),
    ("running", "stopped"),
}


def make_chunk(states: bytes) -> Chunk:
    return Chunk(
        id=1,
        account_id="a",
        run_id=None,
        campaign_id=0,
        channel="push",
        tag_group="",
        expires_at=0.0,
        started_at=0.0,
        request=None,
        users=array.array("I", range(len(states))),
        platforms=bytes(len(states)),
        states=bytearray(states),
        notes={},
    )


def reachable(table: Mapping[str, tuple[str, ...]], start: str) -> set[str]:
    """The states that can follow `start`, however many moves later."""
    seen: set[str] = set()
    ahead = [start]
    while ahead:
        for to in table[ahead.pop()]:
            if to not in seen:
                seen.add(to)
                ahead.append(to)
    return seen


def test_numbers_of_states_are_pinned() -> None:
    """The bytes that stand in ledgers mean what they have always meant."""
    assert {state.name: state.value for state in State} == STORED


@pytest.mark.parametrize(("source", "to"), list(itertools.product(State, State)), ids=lambda state: state.name)
def test_table_decides_every_move(source: State, to: State) -> None:
    """A recipient moves where the table allows, and any other move raises and changes nobody."""
    chunk = make_chunk(bytes((State.WAITING, source, State.WAITING)))
    if (source.name, to.name) in ALLOWED:
        chunk.move(1, to)
        assert chunk.states == bytes((State.WAITING, to, State.WAITING))
    else:
        with pytest.raises(ValueError, match=f"recipient 1 .* {source.name} to {to.name}"):
            chunk.move(1, to)
        assert chunk.states == bytes((State.WAITING, source, State.WAITING))


def test_no_recipient_is_stuck() -> None:
    """Every state is either final for ever or has a way to a final one."""
    table = {state.name: tuple(to.name for to in STATES[state]) for state in State}
    ends = {name for name, targets in table.items() if not targets}
    assert ends == set(STORED) - {"WAITING", "CLAIMED"}
    assert ends == {state.name for state in FINAL}
    assert all(reachable(table, name) & ends for name in ("WAITING", "CLAIMED"))
    assert reachable(table, "WAITING") == set(STORED)


def test_every_final_state_counts_once() -> None:
    """A final recipient adds one to exactly one number and has one outcome; one under way adds nothing."""
    for state in State:
        counted = count_numbers(bytes([state]))
        assert set(counted) == {"sent", "unknown", "failed", "suppressed"}
        assert sum(counted.values()) == (1 if state in FINAL else 0), state
        assert sum(state in members for members in NUMBERS.values()) == (1 if state in FINAL else 0), state
    assert set(OUTCOME_OF) == set(FINAL)
    assert {state.name for state, outcome in OUTCOME_OF.items() if outcome is Outcome.SUPPRESSED} == set(NEVER_TRIED)
    assert {state.name for state in SUPPRESSED} == set(NEVER_TRIED)


def test_numbers_count_what_their_names_say() -> None:
    """Sent is what a vendor took, failed what it or time refused, unknown and suppressed the rest."""
    names = ("ACCEPTED", "ACCEPTED", "ACCEPTED", "UNKNOWN", "UNKNOWN", "GONE", "REFUSED", "EXPIRED", "EXPIRED")
    states = bytes(State[name] for name in (*names, *NEVER_TRIED, "WAITING", "CLAIMED"))
    assert count_numbers(states) == {"sent": 3, "unknown": 2, "failed": 4, "suppressed": len(NEVER_TRIED)}


def test_chunk_is_settled_when_all_are_final() -> None:
    """One recipient under way keeps a chunk unsettled."""
    assert make_chunk(bytes(sorted(FINAL))).settled
    for state in (State.WAITING, State.CLAIMED):
        assert not make_chunk(bytes((*FINAL, state))).settled


@pytest.mark.parametrize(("source", "to"), list(itertools.product(RUN_STATES, (*RUN_STATES, "bogus"))))
def test_run_moves_along_its_table(ledger: Ledger, source: str, to: str) -> None:
    """The ledger moves a run where the table allows, and leaves it alone for any other move."""
    run = schema.run

    def attempt(connection: Connection) -> tuple[bool, str]:
        made = connection.execute(
            run.insert().values(account_id="states", campaign_id=0, state=source, due_at=0.0, audience=0)
        )
        assert made.inserted_primary_key is not None
        run_id = made.inserted_primary_key[0]
        moved = move_run(connection, run_id, to, audience=7)
        row = connection.execute(select(run.c.state, run.c.audience).where(run.c.id == run_id)).one()
        connection.execute(update(run).where(run.c.id == run_id).values(state="stopped"))
        assert row.audience == (7 if moved else 0)
        return moved, row.state

    allowed = (source, to) in RUNS_ALLOWED
    assert ledger.write_now(attempt) == (allowed, to if allowed else source)


def test_no_run_is_stuck() -> None:
    """A run that has not ended can end, and one that has ended stays."""
    ends = {state for state, targets in RUN_STATES.items() if not targets}
    assert ends == {"completed", "stopped", "missed"}
    assert all(reachable(RUN_STATES, state) & ends for state in ("scheduled", "running"))
    assert reachable(RUN_STATES, "scheduled") == set(RUN_STATES) - {"scheduled"}
