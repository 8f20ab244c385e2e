"""How many messages a sender has in flight: as many as the vendor's latency needs."""

from __future__ import annotations

from pathlib import Path

from support.bench import Bench
from support.sender_here import SenderHere, make_credential

from tocsin.delivery.outgoing import LEAST_AT_ONCE, SAMPLE

pytest_plugins = ("support.bench",)


async def test_a_vendor_that_answers_late_gets_more_at_once(bench: Bench, tmp_path: Path) -> None:
    """After 0.3 s each, and one connection: the answers of a burst come in a burst, longer than a sample."""
    here = SenderHere(bench, tmp_path)
    lane = here.lanes.get(make_credential(bench, "apns", 1.0))
    await here.send(lane, "apns")  # until then APNs allows one stream
    await bench.break_down("apns", "delay", seconds=0.3, count=3_000)
    here.put(lane, "apns", 2_500)
    await here.accepted(1_501)
    assert here.answers.at_once["a/apns"] > 4 * SAMPLE
    await here.accepted(2_501)
    await here.lanes.aclose()


async def test_one_that_answers_at_once_gets_few(bench: Bench, tmp_path: Path) -> None:
    """More of them would only wait for us."""
    here = SenderHere(bench, tmp_path)
    lane = here.lanes.get(make_credential(bench, "apns", 1.0))
    here.put(lane, "apns", 2_500)
    await here.accepted(2_500)
    assert LEAST_AT_ONCE <= here.answers.at_once["a/apns"] < 4 * SAMPLE
    await here.lanes.aclose()
