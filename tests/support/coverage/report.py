"""Add up the notes of all processes of a run: `python report.py FOLDER`. Fail below FLOOR per cent of the lines."""

import json
import sys
from pathlib import Path

from slipcover import Slipcover

ROOT = Path(__file__).parents[3]
SOURCE = ROOT / "src" / "tocsin"
FLOOR = 95.0
SHOWN = 15


def read_lines(folder: Path) -> dict[str, tuple[set[int], set[int]]]:
    """Return, for each module, the lines that ran in some process and all lines that can run."""
    whole = Slipcover(source=[str(SOURCE)]).get_coverage()["files"]  # every module, also those that nobody imported
    found = {_place(name): (set[int](), set(lines["missing_lines"])) for name, lines in whole.items()}
    for path in folder.glob("*.json"):
        for name, lines in json.loads(path.read_text()).items():
            ran, every = found[_place(name)]
            ran.update(every.intersection(lines))
    return found


def _place(name: str) -> str:
    return str((ROOT / name).resolve().relative_to(SOURCE))


def main(folder: Path) -> int:
    """Print the modules with the most lines that never ran, and the share of all; 1 where it is below FLOOR."""
    found = read_lines(folder)
    missing = {name: sorted(every - ran) for name, (ran, every) in found.items()}
    for name, lines in sorted(missing.items(), key=lambda one: -len(one[1]))[:SHOWN]:
        if lines:
            print(f"{name:40} {len(lines):4} of {len(found[name][1]):4} lines never ran")
    total = sum(len(every) for _, every in found.values())
    share = 100 * (1 - sum(map(len, missing.values())) / total)
    print(
        f"{share:.2f} % of {total} lines ran in {len(list(folder.glob('*.json')))} processes; the floor is {FLOOR:g} %"
    )
    return int(share < FLOOR)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
