"""What is ours in place of python-liquid's says the same: the lexer and the filters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from conftest import THOROUGH
from hypothesis import example, given, settings
from hypothesis import strategies as st
from liquid import Environment
from liquid.exceptions import LiquidError
from liquid.lex import get_lexer

from tocsin.content.filters import FILTERS
from tocsin.content.lexer import lex
from tocsin.content.liquid_environment import parse


def outcome(make: Callable[[], Any]) -> Any:
    try:
        return make()
    except Exception:
        return None


sources = st.lists(
    st.one_of(
        st.sampled_from(
            ("{{", "}}", "{%", "%}", "-", "raw", "endraw", "doc", "enddoc", "comment", "endcomment", "liquid")
        ),
        st.sampled_from(
            ("{% raw %}", "{%- endraw -%}", "{% comment %}", "{% endcomment -%}", "{%- doc %}", "{% enddoc %}")
        ),
        st.sampled_from(
            ("{{ a }}", "{{- a -}}", "{% if a %}", "{% endif %}", "{{'}}'}}", "#", " ", "\n", "a", "}", "{")
        ),
    ),
    max_size=14,
).map("".join)


@given(sources)
@settings(max_examples=400 if THOROUGH else 80)
@example("{% comment %}{{{% endcomment %}a")
@example("{% raw -%} {{ }} {% endraw %} a")
@example("{{-}}{{--}}{{ - }}{{}}}")
@example("{{{% raw %}{%- endraw -%}")
@example("{% comment %}a{%endcomment{% raw %}b")
def test_the_lexer_says_what_python_liquids_says(source: str) -> None:
    """The same tokens, in linear time. What python-liquid leaves to its parser to refuse may be refused at once, and it
    takes a line's end at the end of the source for a text of its own. Of braces right before a tag it makes texts,
    where they are an output that nobody closed."""
    source = source.rstrip()
    ours = outcome(lambda: [(one.kind, one.value) for one in lex(source) if one.kind != "comment"])
    theirs = outcome(lambda: [(one.kind, one.value) for one in get_lexer()(source) if one.kind != "comment"])
    if ours is not None:
        assert ours == theirs
    elif theirs is not None and "{{%" not in source and "{{{" not in source:
        with pytest.raises(LiquidError):
            Environment().from_string(source)


lists = st.lists(
    st.sampled_from((1, True, 1.0, "1", None, "a", "A", 2, {"k": 1}, {"k": 1.0}, {"k": None}, [1], [1, [2]])),
    max_size=8,
)
texts = st.text("ab<> &;é\n", max_size=12)


@given(
    kind=st.sampled_from(sorted(FILTERS)),
    value=lists | texts | st.integers(),
    args=st.lists(texts | st.integers(-3, 3), max_size=2),
    html=st.booleans(),
)
@settings(max_examples=300 if THOROUGH else 60)
def test_our_filters_say_what_python_liquids_say(kind: str, value: Any, args: list[Any], html: bool) -> None:
    """For what is no bomb, a filter of ours says what it says in python-liquid."""
    if kind == "strip_html":  # html.parser's own mistakes are not asked for
        value, args = f"{value}<b>".replace("<", "<b").replace("&", ""), []
    source = (
        "{% assign r = v | "
        + kind
        + (": " + ", ".join(f"a{index}" for index in range(len(args))) if args else "")
        + " %}{{ r | join: '|' }}|{{ r | size }}"
    )
    given_values = {"v": value, **{f"a{index}": one for index, one in enumerate(args)}}
    ours = outcome(lambda: parse(source, html=html).render(**given_values))
    assert ours == outcome(lambda: Environment(autoescape=html).from_string(source).render(**given_values))
