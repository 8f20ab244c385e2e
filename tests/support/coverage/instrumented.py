"""Instrumented code of modules, kept in a folder of the run. SlipCover takes longer to put its probes into a module
than Python to import it, and every process of the suite imports the same modules: one does it for all. For Python
3.11, where a probe is a call among the code's own; from 3.12 on the interpreter has them."""

import contextlib
import marshal
import os
import types
from pathlib import Path
from typing import Any

from slipcover import Slipcover, probe

MARK = "__slipcover__"  # what SlipCover adds as the last constant, after `probe.signal` and the probes


class KeptCode(Slipcover):  # type: ignore[misc]  # it has no types
    """A SlipCover that instruments each module once for all processes with the same `folder`."""

    def __init__(self, folder: Path, **options: Any):
        super().__init__(**options)
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def instrument(self, co: types.CodeType, parent: types.CodeType | None = None) -> types.CodeType:
        """Return the code of a module with a probe before each line, or that of a function in it (its `parent`)."""
        if parent is not None:
            return self._insert_probes(co, parent)
        path = self._folder / co.co_filename.replace("/", "-")
        with contextlib.suppress(FileNotFoundError):
            lines, frozen = marshal.loads(path.read_bytes())
            return self._thaw_module(lines, frozen)
        made = self._insert_probes(co)
        written = path.with_suffix(f".{os.getpid()}")
        written.write_bytes(marshal.dumps((sorted(self.code_lines[co.co_filename]), self._freeze(made))))
        written.replace(path)  # whole or not at all: others may read it already
        return made

    def deinstrument_seen(self) -> None:
        """Take out probes, or leave them until the next time: SlipCover goes through the names of modules while other
        threads add to them, and what it raises then would come out of whatever line runs just now."""
        with contextlib.suppress(RuntimeError):
            super().deinstrument_seen()

    def _insert_probes(self, code: types.CodeType, parent: types.CodeType | None = None) -> types.CodeType:
        made: types.CodeType = super().instrument(code, parent)
        return made

    def _freeze(self, code: types.CodeType) -> types.CodeType:
        """Return a code whose last constant is the places of its probes instead of the probes."""
        places = tuple(self.code2index[code])
        *kept, mark = code.co_consts[: -len(places) - 2] + code.co_consts[-1:]
        assert mark == MARK
        return code.replace(co_consts=(*(self._freeze(one) if _is_code(one) else one for one in kept), places))

    def _thaw_module(self, lines: list[int], frozen: types.CodeType) -> types.CodeType:
        code = self._thaw(frozen)
        with self.lock:
            self.code_lines[code.co_filename].update(lines)
            self.instrumented[code.co_filename].add(code)
        return code

    def _thaw(self, frozen: types.CodeType) -> types.CodeType:
        *kept, places = frozen.co_consts
        own = [self._thaw(one) if _is_code(one) else one for one in kept]
        probes = [probe.new(self, frozen.co_filename, line, self.d_miss_threshold) for _, line in places]
        code = frozen.replace(co_consts=(*own, probe.signal, *probes, MARK))
        self.code2index[code] = list(places)
        return code


def _is_code(constant: object) -> bool:
    return isinstance(constant, types.CodeType)
