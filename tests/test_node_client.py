"""CleverTap's own client for Node, as npm has it: each of its calls does here what its users wait for."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from conftest import Caller
from support.libraries import INSTALL_SECONDS, install_npm, run

HERE = Path(__file__).parent / "node_client"
pytestmark = pytest.mark.timeout(2 * INSTALL_SECONDS)


@pytest.fixture
def found(caller: Caller) -> dict[str, Any]:
    """What each call of the client resolves to."""
    folder = install_npm(HERE / "package.json", "clevertap (npm)")
    shutil.copy(HERE / "calls.cjs", folder)  # modules are looked for from where the program lies
    arguments = (str(caller.port), caller.account_id, caller.headers["X-CleverTap-Passcode"])
    printed, problem = run(("node", "calls.cjs", *arguments), folder, {}, 120)
    assert problem == ""
    answers: dict[str, Any] = msgspec.json.decode(printed.splitlines()[-1])
    return answers


def test_every_call(found: dict[str, Any]) -> None:
    """Right answers, in the shape that the client reads; nothing is empty that should not be."""
    assert [one["status"] for one in found.pop("upload")] == ["success"] * 3
    for name, number in (("profile", 3), ("byIdentity", 4), ("byObjectId", 5)):
        record = found.pop(name)["record"]
        assert (record["identity"], record["email"]) == (f"n{number}", f"n+{number}@example.com")
        assert record["events"]["Bought"]["count"] == 1
    for name in ("nobody", "deleted"):
        assert (found[name]["status"], found.pop(name)["code"]) == ("fail", 404)
    assert sorted(one["identity"] for one in found.pop("profiles")) == sorted(f"n{number}" for number in range(12))
    assert sorted(one["event_props"]["Amount"] for one in found.pop("events")) == list(range(12))
    assert [found.pop(name)["count"] for name in ("profileCount", "eventCount", "now")] == [12, 12, 12]
    assert found.pop("top")["kind"] == {"STR": {"odd": 6, "even": 6}}
    assert sum(found.pop("trends")["daily"].values()) == 12
    made = found.pop("create")["id"]
    assert found.pop("estimate")["estimates"] == {"android": 1}
    assert [one["id"] for one in found.pop("list")["targets"]] == [made]
    assert found.pop("result")["status"] == "fail"  # it has not begun
    assert [one["message id"] for one in found.pop("reports")["messages"]] == [made]
    taken = {"status": "success", "processed": 1, "unprocessed": []}
    assert [found.pop(name) for name in ("tokens", "subscribe", "disassociate")] == [taken] * 3
    alone = found.pop("demerge")
    assert (alone["status"], alone["unprocessed"][0]["record"]) == ("fail", "n8")  # it was never merged
    assert [found.pop(name) for name in ("delete", "deleteSeveral")] == [
        {"status": "success", "deleted": 1},
        {"status": "success", "deleted": 2},
    ]
    assert found.pop("stop")["status"] == "success"
    assert found == {}
