"""The promise about crashes, explored: every state that two recipients, their workers, senders and machines can come to
is visited, breadth first, and held against the laws. The steps are in `support/handover_world.py`."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import pytest
from support.handover_world import (
    ANSWER_NOTED,
    CLAIMED,
    NOTED,
    NOTES,
    NOTHING,
    QUEUED,
    RECEIPTS,
    SENDER_LOST,
    SETTINGS,
    TWO,
    Broken,
    Owner,
    Row,
    Setting,
    World,
    list_faults,
    list_progress,
    put,
)

from tocsin.outcome import FINAL, Outcome, State


def tidy(world: World, setting: Setting) -> World:
    """The same world without what nothing depends on any more, its owners and its recipients in one order."""
    row, disk, owners, copies = world
    disk = disk._replace(silent=False)
    if not setting.apart and State.CLAIMED not in disk.states:
        disk = disk._replace(lease=None)  # a power cut ends all owners, and this one had claimed nobody
    if row._replace(silent=False) == disk:
        disk = row
    world = World(row, disk, owners, copies)
    for position in TWO:
        on_its_way = any(owner.messages[position][0] in (QUEUED, NOTED) for owner in owners)
        if row.states[position] in FINAL and disk.states[position] in FINAL and not on_its_way:
            copies = put(copies, position, 0)
    wanted = {row.lease, disk.lease}
    kept = [
        (forget(owner, place, world, setting), place == row.lease, place == disk.lease, place)
        for place, owner in enumerate(owners)
        if owner.worker or owner.sender or place in wanted
    ]
    kept.sort(key=order)
    straight = arrange(row, disk, kept, copies)
    kept = [(swap(one[0]), *one[1:]) for one in kept]
    kept.sort(key=order)
    swapped = arrange(
        row._replace(states=row.states[::-1]), disk._replace(states=disk.states[::-1]), kept, copies[::-1]
    )
    return min(straight, swapped, key=compare)


def forget(owner: Owner, place: int, world: World, setting: Setting) -> Owner:
    """An owner without what nothing depends on: what may still be claimed, sent, or believed is all that counts."""
    row, disk = world.row, world.disk
    holds = place in (row.lease, disk.lease)  # who does not finds out at the next commit, and its notes are not read
    # A power cut of the one machine ends the trust in notes with all else.
    read = holds and owner.trusted and (place == row.lease or setting.apart)
    messages, notes = list(owner.messages), list(owner.notes)
    for position in TWO:
        stage = messages[position][0]
        over = row.states[position] in FINAL and disk.states[position] in FINAL
        if (
            ((over or not holds) and stage not in (CLAIMED, QUEUED, NOTED, SENDER_LOST))
            or (over and stage in (CLAIMED, SENDER_LOST) and not holds)
            or (not owner.worker and stage == ANSWER_NOTED)
        ):
            messages[position] = NOTHING
        claimed = State.CLAIMED in (row.states[position], disk.states[position])
        if not read or over or (not owner.worker and not owner.sender and not claimed):
            notes[position] = ""
    return owner._replace(
        held=owner.held if holds else None,
        messages=(messages[0], messages[1]),
        notes=(notes[0], notes[1]),
        trusted=owner.worker or read,
    )


def order(kept: tuple[Owner, bool, bool, int]) -> tuple[Any, ...]:
    return (kept[0]._replace(held=kept[0].held or b""), *kept[1:3])


def swap(owner: Owner) -> Owner:
    held = None if owner.held is None else owner.held[::-1]
    return owner._replace(held=held, messages=owner.messages[::-1], notes=owner.notes[::-1])


def arrange(row: Row, disk: Row, kept: list[tuple[Owner, bool, bool, int]], copies: tuple[int, int]) -> World:
    new: dict[int | None, int | None] = {one[3]: place for place, one in enumerate(kept)} | {None: None}
    row, disk = row._replace(lease=new[row.lease]), disk._replace(lease=new[disk.lease])
    return World(row, disk, tuple(one[0] for one in kept), copies)


def compare(world: World) -> tuple[Any, ...]:
    owners = [one._replace(held=one.held or b"") for one in world.owners]
    return (world.row.states, world.disk.states, world.copies, owners, world.row.lease or 0, world.disk.lease or 0)


def explore(setting: Setting) -> int:
    """Visit every state. Return how many there are; raises Broken with the way to the first that breaks a law."""
    start = World()
    seen: dict[World, int] = {start: 0}
    came: list[tuple[int, str]] = [(0, "")]
    before: list[list[int]] = [[]]  # by which progress alone
    queue = deque([start])
    while queue:
        world = queue.popleft()
        number = seen[world]
        steps = [(list_progress, True), (list_faults, False)]
        try:
            for find, progress in steps:
                for name, after in find(world, setting):
                    reached = tidy(after, setting)
                    place = seen.setdefault(reached, len(seen))
                    if place == len(came):
                        came.append((number, name))
                        before.append([])
                        queue.append(reached)
                    if progress:
                        before[place].append(number)
        except Broken as broken:
            raise Broken(f"{broken}: {', '.join(tell(came, number))}") from None
    require_ends(seen, came, before)
    return len(seen)


def tell(came: Sequence[tuple[int, str]], number: int) -> list[str]:
    names: list[str] = []
    while number:
        number, name = came[number]
        names.append(name)
    return names[::-1]


def require_ends(seen: dict[World, int], came: list[tuple[int, str]], before: list[list[int]]) -> None:
    """From each state one is reached in which everybody is final, without another fault."""
    ends = [number for world, number in seen.items() if all(state in FINAL for state in world.row.states)]
    good, queue = set(ends), deque(ends)
    while queue:
        for number in before[queue.popleft()]:
            if number not in good:
                good.add(number)
                queue.append(number)
    for number in seen.values():
        if number not in good:
            raise Broken(f"somebody waits for ever: {', '.join(tell(came, number))}")


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.name)
def test_nobody_twice_and_nobody_waits_for_ever(setting: Setting) -> None:
    """And who was never handed over is not unknown, as long as the notes can be believed."""
    print(f"{setting.name}: {explore(setting)} states")


SQLITE, ONE_MACHINE, _ = SETTINGS
APART = Setting("PostgreSQL on another machine", False, 1, 1, apart=True)


@pytest.mark.parametrize(
    ("setting", "fault", "broken"),
    [
        (SQLITE, "note after the bytes", "handed over twice"),
        (SQLITE, "rescue before the locks", "handed over twice"),
        (SQLITE, "slots freed early", "handed over twice"),
        (SQLITE, "claim not durable", "handed over twice"),
        (SQLITE, "arrival not durable", "handed over twice"),
        (ONE_MACHINE, "rescue before the locks", "handed over twice"),
        (APART, "settlement not durable", "handed over twice"),
        (SQLITE, "no note is unknown", "unknown, and never handed over"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_planted_faults_are_found(setting: Setting, fault: str, broken: str) -> None:
    with pytest.raises(Broken, match=broken) as found:
        explore(setting._replace(fault=fault))
    print(f"{fault}: {found.value}")


def test_taking_no_note_for_a_doubt_is_imprecise_only() -> None:
    """Nobody would be sent to twice; people who were never handed over would go without."""
    explore(SQLITE._replace(fault="no note is unknown", precise=False))


def test_a_dead_senders_notes_are_believed_by_its_worker() -> None:
    """Who was not handed over is held back, with a receipt that no vendor has to do with."""
    outcomes = {name: RECEIPTS[f"lost, {name}"].outcome for name in NOTES}
    assert outcomes == {
        "claimed": Outcome.THROTTLED,
        "handed over": Outcome.UNKNOWN,
        "taken": Outcome.ACCEPTED,
        "turned away": Outcome.THROTTLED,
    }
