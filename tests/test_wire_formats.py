"""Wire formats: a struct, one function that reads it, and the sentence and place of what is wrong."""

from __future__ import annotations

import subprocess
import sys
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

import msgspec
import pytest
from msgspec import Meta, field

from tocsin.campaign.schedule import read_schedule
from tocsin.errors import Invalid, Problem, read_struct


class Daily(msgspec.Struct, frozen=True, tag_field="type", tag="daily"):
    hour: Annotated[int, Meta(ge=0, le=23)]


class Weekly(msgspec.Struct, frozen=True, tag_field="type", tag="weekly"):
    days: Annotated[tuple[Annotated[int, Meta(ge=1, le=7)], ...], Meta(min_length=1)] = (1,)


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One of each kind of field."""

    name: Annotated[str, Meta(min_length=1, max_length=5)] = "n"
    share: Annotated[float, Meta(gt=0, lt=1)] = 0.5
    least: Annotated[int, Meta(ge=100)] = 100
    tags: Annotated[tuple[str, ...], Meta(max_length=2)] = ()
    mode: Literal["fast", "slow"] = "fast"
    flag: Annotated[bool, Meta(extra={"code": 73})] = True
    clock: Annotated[str, Meta(pattern="^[0-9]+$", extra={"is": "a time"})] = "1"
    when: str | Daily | Weekly | None = None
    pairs: tuple[tuple[int, str], ...] = ()
    parts: tuple[Order, ...] = ()
    from_: int = field(name="from", default=0)

    def __post_init__(self) -> None:
        if self.name == "bad":
            raise Invalid("bad is no name", ".name")


WRONG: list[tuple[Any, str]] = [
    (7, "order must be an object, not 7 (at $.order)"),
    ({"name": ""}, "name must be a text of 1 to 5 letters, not '' (at $.order.name)"),
    ({"share": 1}, "share must be a number above 0 and below 1, not 1 (at $.order.share)"),
    ({"least": 9}, "least must be a whole number of at least 100, not 9 (at $.order.least)"),
    ({"least": True}, "least must be a whole number of at least 100, not True (at $.order.least)"),
    ({"tags": ["a"] * 3}, "tags must be a list of at most 2 elements, not 3 (at $.order.tags)"),
    ({"tags": ["a", None]}, "tags[1] must be a text, not None (at $.order.tags[1])"),
    ({"mode": "slower"}, "mode must be one of fast, slow, not 'slower' (at $.order.mode)"),
    ({"flag": "yes"}, '"flag" must be a Boolean (at $.order.flag)'),
    ({"clock": "x"}, "clock must be a time, not 'x' (at $.order.clock)"),
    ({"when": 7}, "when must be a text or an object, not 7 (at $.order.when)"),
    ({"when": {}}, "type must be one of daily, weekly (at $.order.when.type)"),
    ({"when": {"type": "x"}}, "type must be one of daily, weekly, not 'x' (at $.order.when.type)"),
    ({"when": {"type": "daily"}}, "hour must be a whole number from 0 to 23 (at $.order.when.hour)"),
    (
        {"when": {"type": "weekly", "days": []}},
        "days must be a list of at least 1 elements, not 0 (at $.order.when.days)",
    ),
    ({"pairs": [[1]]}, "pairs[0] must be a list of 2 elements, not 1 (at $.order.pairs[0])"),
    ({"pairs": [[1, 2]]}, "pairs[0][1] must be a text, not 2 (at $.order.pairs[0][1])"),
    ({"from": "x"}, "from must be a whole number, not 'x' (at $.order.from)"),
    ({"parts": [{}, {"name": "bad"}]}, "bad is no name (at $.order.parts[1].name)"),
    (
        {"parts": [{"form": 1}]},
        "'form' is not supported here; known are clock, flag, from, least, mode, name, pairs, parts, share, tags, when "
        "(at $.order.parts[0].form)",
    ),
]


@pytest.mark.parametrize(("raw", "sentence"), WRONG, ids=str)
def test_what_is_wrong_says_what_and_where(raw: Any, sentence: str) -> None:
    with pytest.raises(Problem) as caught:
        read_struct(raw, Order, "$.order")
    assert caught.value.error == sentence
    assert caught.value.code == (73 if "Boolean" in sentence else 400)


def test_a_start_and_a_code() -> None:
    with pytest.raises(Problem) as caught:
        read_struct({"least": 1}, Order, start="Invalid order: ", code=84)
    assert caught.value.error.startswith("Invalid order: least must be")
    assert caught.value.code == 84


@pytest.mark.parametrize(
    "key", ["x` - at `$.name", "` - at `$.parts[9].name", "` - at `$[0][1]", "`", "x" * 100_000, "- at `$"]
)
def test_a_key_that_looks_like_an_error(key: str) -> None:
    """A key of the caller's that msgspec quotes in its error is only a key."""
    with pytest.raises(Problem, match="is not supported here") as caught:
        read_struct({"parts": [{key: 1}]}, Order)
    assert "$.parts[0]" in caught.value.error
    assert len(caught.value.error) < 500
    with pytest.raises(Problem):
        read_struct({key: 1}, Order)


RACE = """
import sys, threading, msgspec
from tocsin.errors import read_struct
sys.setswitchinterval(1e-7)
for turn in range(20):
    inner = [msgspec.defstruct(f"Inner{n}", [(f"g{m}", int | None, None) for m in range(5)]) for n in range(60)]
    kind = msgspec.defstruct("Wide", [(f"f{n}", one | None, None) for n, one in enumerate(inner)])
    gate = threading.Barrier(4)
    def read():
        gate.wait()
        assert read_struct({"f59": {"g1": 1}}, kind).f59 == inner[59](g1=1)
    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
"""


def test_threads_that_read_a_type_for_the_first_time() -> None:
    """msgspec 0.22 crashes the process when two threads look at a new type at once; here the first one does."""
    done = subprocess.run([sys.executable, "-c", RACE], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_quiet_hours_beside_a_time() -> None:
    """`dnd` and `campaign_cutoff` beside a `when` that is a text hold for it, as beside "now" and in an object."""
    beside = {"dnd": {"dnd_info": {"1": [{"from": "22:00", "to": "08:00"}]}}, "campaign_cutoff": "14:20"}
    whens = ("now", "20300101 10:00", {"type": "later", "delivery_date_time": "20300101 10:00"})
    read = [read_schedule({"when": when} | beside, ZoneInfo("UTC"), 0.0) for when in whens]
    assert {(str(one.quiet), str(one.cut_off)) for one in read} == {(str(read[0].quiet), "14:20:00")}
    assert read[0].quiet is not None
