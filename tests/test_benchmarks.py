"""The benchmarks that time each message: their sinks, their arithmetic, and a small run of each."""

from __future__ import annotations

import socket
import struct
from pathlib import Path
from typing import Any

import pytest
from conftest import THOROUGH
from support.commands import MEASURED_COMMAND, run
from support.processes import read_answer

from benchmarks.answering import AnsweringSink, Pace, Peer, Wire
from benchmarks.delivery import Delivered
from benchmarks.mail_sink import SmtpPeer
from benchmarks.pacer import Paced
from benchmarks.push_sink import PREFACE, Http2Peer
from benchmarks.stamps import Stamp, StampFile, mark, read_stamps
from benchmarks.trial import Trial, judge


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return struct.pack(">HBBBL", len(payload) >> 8, len(payload) & 255, kind, flags, stream) + payload


def push(stream: int, number: int) -> bytes:
    """A request whose body comes in two frames, its end in a third."""
    body = b'{"aps":{"alert":{"title":"Order ' + mark(number).encode() + b'"}}}'
    return (
        frame(1, 4, stream, b"\x82")
        + frame(0, 0, stream, body)
        + frame(0, 0, stream, b" " * 400)
        + frame(0, 1, stream, b"")
    )


PUSHES = PREFACE + frame(4, 0, 0, b"") + push(1, 7) + frame(6, 0, 0, b"12345678") + push(3, 8)
MAILS = b"EHLO a\r\n" + b"".join(
    b"MAIL FROM:<a@a.example>\r\nRCPT TO:<b@b.example>\r\nDATA\r\nSubject: Order %s\r\n\r\nHi\r\n.\r\n"
    % mark(number).encode()
    for number in (7, 8)
)
PUSH_ANSWERS = frame(4, 1, 0, b"") + frame(1, 5, 1, b"\x88") + frame(6, 1, 0, b"12345678") + frame(1, 5, 3, b"\x88")


@pytest.mark.parametrize("step", [1, 7, 64, 10_000])
@pytest.mark.parametrize("protocol", [Http2Peer, SmtpPeer])
def test_sinks_read_what_comes_in_pieces(tmp_path: Path, protocol: type[Http2Peer | SmtpPeer], step: int) -> None:
    """However the bytes are cut, both messages are counted, found by their numbers and answered once each."""
    sink = AnsweringSink(0, Pace(), tmp_path / "stamps", protocol)
    near, far = socket.socketpair()
    with near, far:
        wire = Wire(near)
        peer: Peer = protocol(sink, wire)
        greeting, sent = len(wire.out), PUSHES if protocol is Http2Peer else MAILS
        for start in range(0, len(sent), step):
            peer.feed(sent[start : start + step])
    assert sink.tally.messages == 2
    answers = bytes(wire.out[greeting:])
    if protocol is Http2Peer:
        assert answers == PUSH_ANSWERS
    else:
        assert answers.count(b"\r\n354 ") == answers.count(b"\r\n250 2.0.0 ") == 2
    sink.finish_turn()
    sink.close()
    assert [one.number for one in read_stamps(tmp_path / "stamps")] == [7, 8]


def test_tails_are_shares_and_the_same_in_every_run(tmp_path: Path) -> None:
    """Of many messages each tail has its own share, and which ones they are does not change."""
    pace, drawn = Pace(0.1, ((0.01, 2.0), (0.001, 10.0))), []
    for name in ("a", "b"):
        sink = AnsweringSink(0, pace, tmp_path / name, Http2Peer)
        drawn.append([sink.choose_wait() for _ in range(20_000)])
        sink.close()
    assert drawn[0] == drawn[1]
    assert drawn[0].count(0.1) + drawn[0].count(2.0) + drawn[0].count(10.0) == 20_000
    assert 150 < drawn[0].count(2.0) < 250
    assert 8 < drawn[0].count(10.0) < 35


def test_stamps_are_read_while_they_are_written(tmp_path: Path) -> None:
    """A record of which only a part is on disk is left for later."""
    path = tmp_path / "stamps"
    assert read_stamps(path) == []
    writer = StampFile(path)
    writer.add(5, 1.0, 2.5)
    writer.tick(100.0)
    with path.open("ab") as file:
        file.write(b"part")
    assert read_stamps(path) == [Stamp(5, 1.0, 2.5)]
    writer.close()


def test_a_trial_counts_what_was_lost_and_doubled() -> None:
    """Latencies count from due, not from sent; what is missing counts with the time it was waited for."""
    paced = Paced(
        first=10,
        due=[1.0, 2.0, 3.0, 4.0],
        sent=[1.0, 2.5, 3.0, 0.0],
        answered=[1.1, 2.6, 3.1, 0.0],
        status=[200, 200, 200, 0],
    )
    seen = [Stamp(10, 1.0, 1.5), Stamp(10, 1.0, 1.6), Stamp(11, 2.0, 6.0), Stamp(13, 1.0, 4.5), Stamp(99, 1.0, 2.0)]
    trial = judge(paced, seen, now=9.0)
    assert (trial.offered, trial.accepted, trial.delivered, trial.twice, trial.strays) == (4, 3, 2, 1, 1)
    assert trial.latencies == [0.5, 4.0, 6.0]
    assert (trial.backlog_half, trial.backlog_end) == (1, 3)
    assert trial.delivered_rate == pytest.approx(2 / 5.0)
    assert trial.late_p99 == 5.0  # the last was never sent
    assert judge(paced, seen, now=9.0, until=2.0).offered == 2


def test_a_trial_of_nothing() -> None:
    """A load that was refused altogether has no latencies, and no division by zero."""
    trial: Trial = judge(Paced(0, [], [], [], []), [], now=1.0)
    assert (trial.offered, trial.percentile(0.99), trial.delivered_rate) == (0, 0.0, 0.0)


def test_the_time_of_a_share_is_between_two_looks() -> None:
    """Half of a campaign lies on the straight line between what was seen before and after it."""
    result = {"sent": 100, "unknown": 0, "failed": 0, "suppressed": 0}
    campaign = Delivered(result, 10.0, 0.0, 0.0, 0.0, [(-0.1, 0), (2.0, 0), (4.0, 40), (6.0, 80)])
    assert campaign.time_of(60) == pytest.approx(5.0)
    assert campaign.time_of(90) == pytest.approx(8.0)
    assert campaign.time_of(100) == 10.0


def measure(*arguments: str, folder: Path) -> dict[str, dict[str, Any]]:
    """Return the readings of a benchmark by their names."""
    done = run("bench", *arguments, "--json", folder=folder, program=str(MEASURED_COMMAND))
    return {one["name"]: one for one in read_answer(done)["readings"]}


@pytest.mark.timeout(400)
@pytest.mark.parametrize("email", [False, True], ids=["push", "email"])
def test_bench_transactional(tmp_path: Path, email: bool) -> None:
    """What is accepted is delivered and recorded, nothing twice, and every latency is there."""
    if email and not THOROUGH:
        pytest.skip("as the other one, but for the sink, which has its own test")
    arguments = ["transactional", "--rate", "20", "--seconds", "0.5", *["--email"] * email, "--beside", "100"]
    found = measure(*arguments, folder=tmp_path)
    for name in ("20/s, accepted", "20/s, delivered", "20/s, recorded as sent"):
        assert found[name]["value"] == 10, name
    assert found["20/s, delivered twice"]["value"] == found["of the burst delivered twice"]["value"] == 0
    burst = found["of the burst delivered"]
    assert burst["unit"] == f"of {burst['value']:.0f}"
    assert 0 < found["20/s, p50"]["value"] <= found["20/s, p99"]["value"] <= found["20/s, max"]["value"]
    assert found["20/s, first after a start"]["value"] > 0
    assert found["delivered, from the first to the last"]["ratio"] > 0
    assert found["sent of the campaign"]["value"] == 100
    assert found["300/s beside a campaign, delivered twice"]["value"] == 0


def test_bench_dispatch_with_tails(tmp_path: Path) -> None:
    """The campaign is delivered with and without tails, and some of the answers were late."""
    found = measure("dispatch", "--audience", "100", "--latency", "0.01", "--tail", "0.1:0.5", folder=tmp_path)
    assert found["requests at the sink"]["value"] == 400
    assert 5 < found["answered late"]["value"] < 40
    rates = [one for name, one in found.items() if "settled" in name]
    assert [one["value"] > 0 for one in rates] == [True, True]
    assert rates[1]["ratio"] == pytest.approx(rates[1]["value"] / rates[0]["value"])


@pytest.mark.parametrize("tail", ["0.5:1", "0.1:60", "0.1", "x:y", "0:1"])
def test_a_tail_that_cannot_be(tail: str) -> None:
    """A tail is a share and seconds, within what our client waits for."""
    done = run("bench", "dispatch", "--tail", tail)
    assert done.returncode == 2
    assert "must be like 0.01:2" in done.stderr


@pytest.mark.timeout(400)
def test_bench_feedback(tmp_path: Path) -> None:
    """Every report that is answered is counted, whatever the way it came; each way has its rate."""
    readings = measure("feedback", "--seconds", "0.5", folder=tmp_path)
    for way in ("track", "link", "pixel", "app view", "app event"):
        assert readings[f"{way}, alone"]["value"] > 0
        counted = readings[f"{way}, alone, counted"]
        assert counted["unit"] == f"of {counted['value']:.0f}"
    together = readings["all ways, beside them, counted"]
    assert together["unit"] == f"of {together['value']:.0f}"
    assert {"/1/send, alone, answer p99", "/1/send, beside them, answer p99"} < readings.keys()


@pytest.mark.timeout(400)
def test_bench_reports(tmp_path: Path) -> None:
    """Every question has its time, and both sides of the export wrote rows."""
    sizes = ("--recipients", "2000", "--campaigns", "5", "--events", "10000", "--exported", "1000")
    readings = measure("reports", *sizes, folder=tmp_path)
    for name in ("running campaign by nothing", "the dashboard's overview", "all campaigns by day"):
        assert readings[name]["unit"] == "ms"
        assert readings[name]["value"] > 0
    assert readings["events read back as pages of JSON"]["value"] > 0
    assert readings["DuckDB writes as many"]["ratio"] > 0


@pytest.mark.timeout(400)
def test_bench_scale(tmp_path: Path) -> None:
    """Workers side by side deliver to everybody once, and a claim has its time at each length of the queue."""
    sizes = ("--seconds", "0.2", "--workers", "2", "--backlog", "20", "--backlog", "100")
    readings = measure("scale", *sizes, folder=tmp_path)
    assert 0 < readings["2 workers, each"]["ratio"] <= 1.5
    for name in ("a claim, 20 chunks in the queue", "a claim, 100 chunks in the queue"):
        assert readings[name]["value"] > 0
