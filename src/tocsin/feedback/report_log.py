"""Lines of the log about reports that changed nothing: some at once, and of a flood one a minute with how many there
were. No line has an id, a link or an address in it."""

from __future__ import annotations

from collections import OrderedDict

import msgspec
import structlog

log = structlog.get_logger()

MINUTE = 60.0
AT_ONCE = 10  # lines a minute of one way, result and account
MOST = 10_000  # of these that are remembered


class _Told(msgspec.Struct):
    began: float
    told: int = 0
    untold: int = 0


class ReportLog:
    """Tells the log about reports, by the way they came, what became of them, and account."""

    def __init__(self) -> None:
        self._minutes: OrderedDict[tuple[str, str, str], _Told] = OrderedDict()

    def tell(self, way: str, result: str, account_id: str, now: float) -> None:
        """Tell of one report, with those before it that no line was about. account_id: "" when it is not known."""
        name = (way, result, account_id)
        minute = self._minutes.get(name)
        if minute is None:
            minute = self._minutes[name] = _Told(now)
            if len(self._minutes) > MOST:
                self._minutes.popitem(last=False)
        elif not 0 <= now - minute.began < MINUTE:
            minute.began, minute.told = now, 0
        self._minutes.move_to_end(name)
        minute.untold += 1
        if minute.told < AT_ONCE:
            log.info(
                "report changed nothing", way=way, result=result, account=account_id or "unknown", count=minute.untold
            )
            minute.told += 1
            minute.untold = 0
