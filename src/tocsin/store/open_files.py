"""How many files this process may have open. chDB opens those of every part it reads or merges, and a large part has
some for each property that has a column of its own: with the usual 1,024 uploads fail."""

from __future__ import annotations

import resource

ENOUGH = 65_536


def raise_open_files() -> int:
    """Raise this process's limit, and that of the processes it starts, to what its own hard limit allows. Return it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return allowed_files()


def allowed_files() -> int:
    """Return how many files this process may have open, once it has raised its limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return ENOUGH if hard == resource.RLIM_INFINITY else hard


def describe_shortage(allowed: int) -> str:
    """Return what to do about a limit under ENOUGH; "" for one that is enough."""
    if allowed >= ENOUGH:
        return ""
    return (
        f"{allowed} files may be open at once; with less than {ENOUGH} uploads may fail once there are many properties."
        f" Raise the hard limit: LimitNOFILE={ENOUGH} in a systemd unit, --ulimit nofile={ENOUGH} for a container"
    )
