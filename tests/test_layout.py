"""The house: its rooms are few, each says what it is for, and a class name leads to one module."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "tocsin"
MOST_ROOMS = 27


def rooms() -> Iterator[tuple[str, str]]:
    """Yield each file and folder of src/tocsin, a folder with a slash, and the first sentence of its docstring.

    A sentence ends with the first full stop before a space or the end; line breaks count as spaces.
    """
    for path in sorted(SOURCE.iterdir()):
        if path.name.startswith("__") or (path.is_file() and path.suffix != ".py"):
            continue
        module = path / "__init__.py" if path.is_dir() else path
        text = " ".join((ast.get_docstring(ast.parse(module.read_text())) or "").split())
        yield f"{path.name}/" if path.is_dir() else path.name, text.partition(". ")[0].removesuffix(".") + "."


def test_rooms_are_few() -> None:
    """Somebody new can read the list of the rooms, and each has a docstring."""
    found = dict(rooms())
    assert len(found) <= MOST_ROOMS, sorted(found)
    assert [name for name, sentence in found.items() if sentence == "."] == []


def test_a_class_name_leads_to_one_module() -> None:
    """No class name stands in two modules, private ones included."""
    homes: dict[str, set[str]] = defaultdict(set)
    for path in SOURCE.glob("**/*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                homes[node.name].add(str(path.relative_to(SOURCE)))
    assert homes
    assert {name: sorted(places) for name, places in homes.items() if len(places) > 1} == {}


def test_no_failure_is_raised_twice() -> None:
    """An exception keeps the frames of everybody who ever raised it: one that is made once, for all, never lets go of
    a request."""
    kept = [
        f"{path.relative_to(SOURCE)}:{node.lineno}"
        for path in SOURCE.glob("**/*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Name) and node.exc.id.isupper()
    ]
    assert kept == []


ARCHITECTURE = (SOURCE.parent.parent / "ARCHITECTURE.md").read_text()


def test_the_table_of_rooms_is_what_they_say() -> None:
    """ARCHITECTURE.md has a row a room, in the order of `ls`, with the first sentence of its docstring."""
    rows = re.search(r"\| room \| what it does \|\n\|---\|---\|\n((?:\| .*\n)+)", ARCHITECTURE)
    assert rows is not None
    assert rows[1].splitlines() == [f"| `{name}` | {sentence} |" for name, sentence in rooms()]


def test_what_is_named_is_there() -> None:
    """Every module and folder that ARCHITECTURE.md names exists."""
    named = re.findall(r"`((?:[a-z_]+/)*[a-z_]+(?:/|\.py))`", ARCHITECTURE)
    assert len(named) > 40
    assert [name for name in named if not (SOURCE / name).exists()] == []
