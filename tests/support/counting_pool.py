"""Threads that are counted."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class CountingPool(ThreadPoolExecutor):
    """Threads of an event loop, and how many of them were wanted at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.busy, self.most = set[Future[Any]](), 0

    def submit(self, *given: Any, **named: Any) -> Future[Any]:
        future = super().submit(*given, **named)
        self.busy.add(future)
        self.most = max(self.most, len(self.busy))
        future.add_done_callback(self.busy.discard)
        return future
