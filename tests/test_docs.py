"""What is not in the docs does not exist: settings, commands, routes, outcomes, metrics, providers, states."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec
import pytest
from msgspec import Meta

from tocsin import metrics
from tocsin.app import ENDPOINTS
from tocsin.cli import tocsin
from tocsin.outcome import STATES, Outcome
from tocsin.providers import BY_NAME
from tocsin.settings import Settings

ROOT = Path(__file__).parent.parent
REFERENCE = (ROOT / "docs" / "reference.md").read_text()


def section(name: str) -> str:
    found = re.search(rf"^## {name}\n(.*?)(?=^## |\Z)", REFERENCE, re.MULTILINE | re.DOTALL)
    assert found is not None, f"docs/reference.md has no section {name}"
    return found[1]


def first_cells(name: str) -> set[str]:
    """What stands in back quotes in the first column of a section's table."""
    rows = [line.split("|")[1] for line in section(name).splitlines() if line.startswith("| ")]
    return {word for row in rows for word in re.findall(r"`([^`]+)`", row)}


def commands(group: click.Command, path: str = "tocsin") -> Iterator[tuple[str, click.Command]]:
    """Every command that does something; the vendors of `provider set` are options of one."""
    if not isinstance(group, click.Group) or path == "tocsin provider set":
        yield path, group
        return
    for name, command in group.commands.items():
        yield from commands(command, f"{path} {name}")


def test_settings_are_documented() -> None:
    """Each setting's row has its default and its sentence, and no row is of a setting that is gone."""
    expected = []
    for field in msgspec.structs.fields(Settings):
        meta = next(one for one in field.type.__metadata__ if isinstance(one, Meta))
        default = f"`{field.default}`" if field.default != "" else ""
        expected.append(f"| `TOCSIN_{field.name.upper()}` | {default} | {meta.description} |".replace("|  |", "| |"))
    assert [line for line in section("Settings").splitlines() if line.startswith("| `")] == expected


def test_commands_are_documented() -> None:
    """Every command has its row, and every row its command."""
    assert first_cells("Commands") == {path for path, _ in commands(tocsin)}


@pytest.mark.parametrize(("path", "command"), list(commands(tocsin)), ids=str)
def test_commands_show_an_example(path: str, command: click.Command) -> None:
    """The help of every command has an example that begins with it."""
    assert re.search(rf"Example: (\S+=\S+ )?{path}\b", " ".join((command.help or "").split()))


def test_routes_are_documented() -> None:
    """Every method of every route has its row, and every row a route: `GET, HEAD /healthz` documents two."""
    documented = [
        f"{method} {path}"
        for methods, path in (cell.rsplit(" ", 1) for cell in first_cells("Routes"))
        for method in methods.split(", ")
    ]
    assert sorted(documented) == sorted(f"{method} {one.path}" for one in ENDPOINTS for method in one.methods)


def test_outcomes_are_documented() -> None:
    """The vocabulary of results and its table are the same."""
    assert first_cells("Outcomes") == {outcome.value for outcome in Outcome}


def test_metrics_are_documented() -> None:
    """The metrics and their table are the same."""
    names = {one.name + ("_total" if one.type == "counter" else "") for one in metrics.REGISTRY.collect()}
    assert first_cells("Metrics") == names


def test_providers_are_documented() -> None:
    """Every provider has a row."""
    assert first_cells("Providers") == set(BY_NAME)


def test_diagram_is_the_table() -> None:
    """The diagram in ARCHITECTURE.md is drawn from the table of states."""
    drawn = re.findall(r"^    (\w+) --> (\w+)$", (ROOT / "ARCHITECTURE.md").read_text(), re.MULTILINE)
    allowed = {(source.name, target.name) for source, targets in STATES.items() for target in targets}
    assert set(drawn) == allowed


def test_threats_have_their_tests() -> None:
    """Every row of threats.md names tests, and each of them is there; SECURITY.md names nobody to write to."""
    rows = [line for line in (ROOT / "docs" / "threats.md").read_text().splitlines() if line.startswith("| ")]
    named = [re.findall(r"`(test_\w+)`", row.split("|")[3]) for row in rows if not row.startswith("| threat")]
    written = "".join(path.read_text() for path in ROOT.glob("tests/**/test_*.py"))
    known = set(re.findall(r"^(?:async )?def (test_\w+)", written, re.MULTILINE))
    assert all(named)
    assert {name for names in named for name in names} <= known
    assert "@" not in (ROOT / "SECURITY.md").read_text()


def test_links_lead_somewhere() -> None:
    """Every relative link of the documents names a file."""
    for document in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]:
        for target in re.findall(r"\]\((?!https?://)([^)#]+)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_long_files_have_a_reason() -> None:
    """No module is over 500 lines unless docs/why.md says why."""
    reasons = (ROOT / "docs" / "why.md").read_text()
    for path in ROOT.glob("src/**/*.py"):
        if len(path.read_text().splitlines()) > 500:
            assert path.name in reasons, f"{path} is long"


def test_stages_say_which_they_are() -> None:
    """The first line of each stage's module says its number and its promise."""
    stages = {
        1: "ingest/__init__.py",
        2: "audience/__init__.py",
        3: "campaign/__init__.py",
        4: "delivery/__init__.py",
        5: "providers/__init__.py",
        6: "outcome.py",
        7: "stats/__init__.py",
    }
    for number, name in stages.items():
        assert (ROOT / "src" / "tocsin" / name).read_text().startswith(f'"""Stage {number} of 7, '), name
