"""Commands that are imported when somebody asks for them: `tocsin account create` loads no vendor's client."""

from __future__ import annotations

from collections import UserDict
from importlib import import_module
from typing import Any

import click


class LazyCommands(UserDict[str, Any]):
    """The commands of a click group by name; one given as `module:attribute` is imported when it is looked up."""

    def __getitem__(self, name: str) -> click.Command:
        found = self.data[name]
        if isinstance(found, str):
            module, _, attribute = found.partition(":")
            found = self.data[name] = getattr(import_module(module), attribute)
        return found  # type: ignore[no-any-return]
