"""Options that several commands have, and how they print an answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

data_option = click.option(
    "--data", type=click.Path(path_type=Path), required=True, help="The folder that holds everything."
)
account_option = click.option(
    "--account", "account_id", required=True, help="Account id, as `tocsin account list` shows it."
)


def print_json(value: dict[str, Any]) -> None:
    """Print a JSON object on one line of stdout."""
    click.echo(msgspec.json.encode(value))
