"""`python -m tocsin.sandbox [--data DIR] [--port 8200]`: a sandbox until SIGTERM or Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from tocsin.errors import Misconfigured
from tocsin.log import configure_log
from tocsin.sandbox import serve


def main() -> None:
    """Read the command line and serve until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m tocsin.sandbox", description="The vendors on loopback.")
    parser.add_argument(
        "--data", type=Path, help="folder that keeps the credentials; without it they are new each time"
    )
    parser.add_argument("--port", type=int, default=8200, help="control port, the vendors follow; 0 takes free ones")
    given = parser.parse_args()
    configure_log()
    try:
        asyncio.run(serve(given.data, given.port))
    except Misconfigured as problem:
        sys.exit(f"{problem}")


if __name__ == "__main__":
    main()
