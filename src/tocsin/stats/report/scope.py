"""What a report is asked for: by which columns, of which campaigns and days."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any, Literal, TypeAlias, get_args

import msgspec
from sqlalchemy import ColumnElement

from tocsin.account import Account
from tocsin.errors import Problem

Column = Literal[
    "campaign", "run", "label", "channel", "variant", "platform", "tag_group", "outcome", "code", "day", "hour"
]
COLUMNS: tuple[Column, ...] = get_args(Column)
IN_KEPT_SUMS = frozenset(("campaign", "run", "variant", "tag_group", "outcome"))
CELLS = 200_000  # that a report adds up; as many as a question may answer with

# The values of a group, in the order of `ReportScope.keys`: numbers for campaign, run and hour, texts for the others.
Key: TypeAlias = tuple[Any, ...]


class ReportScope(msgspec.Struct, frozen=True, kw_only=True):
    """A report's question. campaigns: their ids, 0 for the sends by identity; None: all of them. first, last: days in
    the account's time zone, both included; None: of all time."""

    account: Account
    by: tuple[Column, ...] = ()
    campaigns: tuple[int, ...] | None = None
    labels: tuple[str, ...] = ()
    first: date | None = None
    last: date | None = None

    @property
    def keys(self) -> tuple[Column, ...]:
        """The columns that are counted by: of a label its campaigns."""
        found = dict.fromkeys(self.by)
        if "label" in found:
            del found["label"]
            found["campaign"] = None
        return tuple(found)

    @property
    def dated(self) -> bool:
        return self.first is not None or self.last is not None

    @property
    def sends(self) -> bool:
        """Whether the sends by identity are part of it."""
        return self.campaigns is None or 0 in self.campaigns

    def is_among(self, column: Any) -> list[ColumnElement[bool]]:
        """Return the conditions that a column of the ledger, of runs alone, is of one of the campaigns."""
        return [] if self.campaigns is None else [column.in_([one for one in self.campaigns if one])]

    def is_of_campaigns(self, column: Any) -> list[ColumnElement[bool]]:
        """Return the same for a column that is 0 for sends by identity."""
        return [] if self.campaigns is None else [column.in_(self.campaigns)]

    def write_conditions(self, campaign: str) -> tuple[str, Mapping[str, Any]]:
        """Return the conditions on rows of facts that have these columns, with their values. campaign: SQL."""
        meets, values = ["account = {account:String}"], dict[str, Any](account=self.account.id)
        if self.campaigns is not None:
            meets.append(f"{campaign} IN {{campaigns:Array(UInt32)}}")
            values["campaigns"] = list(self.campaigns)
        days, of_days = self.write_days()
        return " AND ".join([*meets, *days]), values | dict(of_days)

    def write_days(self) -> tuple[list[str], Mapping[str, Any]]:
        """Return the conditions on `day`, with their values."""
        meets, values = [], dict[str, Any](zone=self.account.timezone)
        for name, sign, day in (("from", ">=", self.first), ("to", "<=", self.last)):
            if day is not None:
                meets.append(f"day {sign} {{{name}:Date}}")
                values[name] = day
        return meets, values


def require_few(count: int) -> None:
    """Raise Problem when a report has more cells than are added up."""
    if count > CELLS:
        raise Problem(
            f"The report has more than {CELLS} cells; ask by fewer columns, of fewer days or fewer campaigns (at $.by)"
        )
