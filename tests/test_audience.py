"""Audiences, beside the laws of test_queries.py: no text of a caller becomes SQL, hostile names and values are only
texts, and stored questions mean the same."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.members import count_members

from tocsin.account import Account, create_account
from tocsin.audience.compile import compile_members
from tocsin.audience.condition import COMPARISONS, OPERATORS
from tocsin.audience.node import Condition, Is, Query
from tocsin.audience.query import read_where
from tocsin.errors import Problem
from tocsin.ingest import upload
from tocsin.store.facts import Facts
from tocsin.store.ledger import Ledger
from tocsin.store.props import fold

pytest_plugins = ("engines",)

NOW = 1_800_000_000.0  # 2027-01-15 08:00 UTC


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).map(lambda text: f"zq{text}qz")


def one_of_each(text: tuple[str, ...], value: Any) -> Query:
    """A question with every operator, whose texts are the caller's."""
    fields = [
        {"name": text[0], "operator": operator} | ({} if "exist" in operator else {"value": [value, value]})
        for operator in OPERATORS
        if operator not in (*COMPARISONS, "between")
    ]
    event = {"event_name": text[1], "from": 20270101, "to": 20270102, "event_properties": fields}
    return read_where(event | {"common_profile_properties": {"profile_fields": fields}})


@given(st.tuples(texts, texts), st.tuples(texts, texts), texts, texts, texts)
def test_no_text_of_the_caller_is_in_the_sql(
    one: tuple[str, str], other: tuple[str, str], value: str, another: str, account: str
) -> None:
    """Whatever names, values and accounts are asked for, the statement is the same and holds none of them."""
    members = compile_members(one_of_each(one, value), Account(account, "", "UTC"), NOW)
    assert members.text == compile_members(one_of_each(other, another), Account("x", "", "UTC"), NOW).text
    assert "zq" not in members.text
    bound = {inner for item in members.parameters.values() for inner in (item if isinstance(item, list) else [item])}
    assert {account, one[1], f"\x1f{fold(value)}\x1f"} <= set(bound)


async def test_hostile_texts_are_only_texts(ledger: Ledger, facts: Facts) -> None:
    """A name or value made to break out of a statement finds nobody, or exactly the person who has it."""
    account = create_account(ledger, "hostile", "UTC", NOW)[0]
    hostile = ("') OR 1=1 --", "{account:String}", "\\'; DROP TABLE event", "%(account)s", "`x`", "a\x01b", "?", "$1")
    records = [{"type": "profile", "identity": text, "profileData": {text: text}} for text in hostile]
    assert (await upload(ledger, facts, account, {"d": records}, NOW)).unprocessed == []
    for text in hostile:
        for name, count in ((text, 1), ("other", 0)):
            where = {"common_profile_properties": {"profile_fields": [{"name": name, "value": text}]}}
            assert await count_members(facts, account, read_where(where), NOW) == count, (name, text)


@given(st.sampled_from(OPERATORS), st.sampled_from(("nan", "inf", "-Infinity", "1e999", 5, "5", 0.5, "x", True)))
def test_questions_survive_the_ledger(operator: str, value: Any) -> None:
    """A question that is taken means the same after it was stored with its campaign."""
    field = {"name": "k", "operator": operator, "value": value}
    try:
        query = read_where({"common_profile_properties": {"profile_fields": [field]}})
    except Problem:
        return
    assert msgspec.json.decode(msgspec.json.encode(query), type=Query) == query


@pytest.mark.parametrize("value", [10**400, "9" * 400, "1e400"], ids=["int", "digits", "exponent"])
def test_numbers_without_measure_are_refused(value: Any) -> None:
    """A number beyond what a comparison can hold is the caller's Problem, never a crash."""
    field = {"name": "k", "operator": "greater_than", "value": value}
    with pytest.raises(Problem):
        read_where({"common_profile_properties": {"profile_fields": [field]}})
    field = {"name": "k", "operator": "equals", "value": value}
    where = {"common_profile_properties": {"profile_fields": [field]}}
    if isinstance(value, int):
        with pytest.raises(Problem):
            read_where(where)
    else:  # a text of digits is a text
        compile_members(read_where(where), Account("a", "", "UTC"), NOW)


@pytest.mark.parametrize("operator", ["exists", "does_not_exist"])
@pytest.mark.parametrize(("value", "taken"), [("True", True), (True, True), ("", True), ("False", False), (0, False)])
def test_what_is_there_is_not_asked_for_by_a_value(operator: str, value: Any, taken: bool) -> None:
    """«exists: False» means the opposite of what it would find if its value were passed over."""
    fields = [{"name": "k", "operator": operator, "value": value}]
    where = {"common_profile_properties": {"profile_fields": fields}}
    if taken:
        assert read_where(where) == Is((Condition("k", operator),))
        return
    with pytest.raises(Problem, match="takes no value"):
        read_where(where)


async def test_list_without_a_null_text(ledger: Ledger, facts: Facts) -> None:
    """A null inside a list is no text: nobody asked for it by the word."""
    account = create_account(ledger, "nulls", "UTC", NOW)[0]
    record = {"type": "profile", "identity": "a", "profileData": {"k": ["x", None]}}
    assert (await upload(ledger, facts, account, {"d": [record]}, NOW)).processed == 1
    for value, count in (("x", 1), ("null", 0)):
        where = {"common_profile_properties": {"profile_fields": [{"name": "k", "value": value}]}}
        assert await count_members(facts, account, read_where(where), NOW) == count, value
