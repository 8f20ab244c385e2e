"""`kill -9` again and again, with faults at every vendor: nobody doubled, nobody lost, what nobody knows is said.

`FAULT_KILLS=200` for all of them, `FAULT_SEED=…` for those of an earlier run: `make faults`.
"""

from __future__ import annotations

import os
import random
import secrets
from collections import Counter
from pathlib import Path

import pytest
from conftest import THOROUGH, Sandbox
from siege import UNSEEN, Siege

pytest_plugins = ("engines",)

KILLS = int(os.environ.get("FAULT_KILLS", "16"))
SEED = os.environ.get("FAULT_SEED") or secrets.token_hex(4)
SIZE = 1500 if THOROUGH else 500  # people of each of the two accounts


@pytest.mark.timeout(120 + 15 * KILLS)
def test_kills_lose_and_double_nobody(tmp_path: Path, ledger_url: str, sandbox: Sandbox) -> None:
    """Half of the kills on each engine. After each round of campaigns the ledger, the facts and the vendors agree."""
    engine = ledger_url.partition(":")[0]
    print(f"FAULT_SEED={SEED} FAULT_KILLS={KILLS} on {engine}")
    with Siege(tmp_path, ledger_url, sandbox, random.Random(f"{SEED}/{engine}"), SIZE) as siege:
        sums = fight(siege, KILLS // 4, breaking=False)
        print(f"while no connection broke: {sums['lost']} lost by kills, {sums['unseen']} of them seen by no vendor")
        assert sums["unseen"] <= max(UNSEEN, sums["lost"] / 100)
        sums += fight(siege, KILLS // 2, breaking=True)
        assert sums["unknown"] > 0, "nothing was under way at any kill: this proves nothing"
        print(
            f"{siege.kills} kills on {engine}: {sums['unknown']} unknown, {sums['lost']} of them by the kills; "
            f"{sums['unseen']} of these seen by no vendor"
        )

        siege.begin(faults=False)
        calm = siege.check()
        assert calm["sent"] + calm["suppressed"] == calm["audience"]
        assert calm["sent"] == sum(one["accepted"] for one in sandbox.counts().values())
        assert siege.server.stop() == 0


def test_power_cut(tmp_path: Path, ledger_url: str, sandbox: Sandbox) -> None:
    """Notes of another boot count for nothing: who was claimed is unknown, nobody doubled, the rest goes out."""
    with Siege(tmp_path, ledger_url, sandbox, random.Random(SEED), 500) as siege:
        siege.begin(faults=False)
        claimed = siege.cut_power()
        sums = siege.check(believed=False)
        assert sums["unknown"] == sums["lost"] == claimed > 0
        assert siege.server.stop() == 0


def fight(siege: Siege, kills: int, *, breaking: bool) -> Counter[str]:
    """Rounds of campaigns until so many kills are done. The sums of their numbers."""
    sums = Counter[str]()
    while siege.kills < kills:
        siege.begin(breaking=breaking)
        if not siege.kills or siege.dice.random() < 0.5:
            siege.kill_early()
        while siege.kills < kills and not siege.completed():
            siege.kill_somehow()
        sums.update(siege.check())
    return sums
