"""The short way through a template of texts and fields says what python-liquid says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from liquid.template import BoundTemplate

from tocsin.content.fast_template import FastTemplate, read_fast_template
from tocsin.content.liquid_environment import OUTPUT_BYTES, parse
from tocsin.content.profile_values import ProfileValues
from tocsin.content.template import compile_template

KEYS = ("Name", "name", "NAME", "Straße", "Customer Type", "a1", "_x", "n-o", "é")
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=True)
    | st.text("aé\"'<>&\r\n\t {}%😀\ud800", max_size=6)
)
values = st.recursive(
    scalars,
    lambda one: st.lists(one, max_size=3) | st.dictionaries(st.sampled_from("ab"), one, max_size=2),
    max_leaves=5,
)
profiles = st.dictionaries(st.sampled_from(KEYS) | st.text("aN", max_size=2), values, max_size=6)
spaces = st.text(" \n\t", max_size=2)
texts = st.text("aé<&\"' \r\n{}%|.:x", max_size=5)
words = st.sampled_from(
    (*KEYS, "Nobody", "size", "first", "last", "true", "nil", "empty", "blank", "and", "or", "if", "x?")
)
paths = st.one_of(
    st.builds("Profile.{}".format, words),
    st.builds("Profile['{}']".format, words | st.text("aN\\ '\"]", max_size=3)),
    st.builds('Profile["{}"]'.format, words),
    st.sampled_from(("Profile", "profile.Name", "Profile.Name.a", "Profile.a1[0]", "Other", "'x'", "")),
)
defaults = st.one_of(
    st.just(""),
    st.builds('|{}default:{}"{}"'.format, spaces, spaces, texts),
    st.builds("|{}default:{}'{}'".format, spaces, spaces, texts),
    st.sampled_from(("| default: 5", "| default: Profile.Name", "| default", "| upcase", "| default: 'a' | upcase")),
    st.sampled_from(("| default: 'a', allow_false: true", "|| 'x'", "| default: 'a' 'b'", "x")),
)
marks = st.sampled_from(("", "", "", "-"))
outputs = st.builds("{{{{{}{}{}{}{}{}{}}}}}".format, marks, spaces, paths, spaces, defaults, spaces, marks)
usual = st.builds(
    "{{{{{}{}{}}}}}".format,
    spaces,
    st.sampled_from(("Profile.Name", "Profile.nobody", "Profile['Customer Type']", 'Profile["straße"]', "Profile._x")),
    st.just("") | st.builds(" |{}default:{}'{}'".format, spaces, spaces, st.text('aé<&" \n.|:x', max_size=5)),
)
templates = st.one_of(
    st.lists(outputs | texts, max_size=5).map("".join),
    st.lists(usual | st.text("aé<&\"' \n%|.:x", max_size=5), max_size=5).map("".join),
)


def outcome(template: Any, profile: dict[str, Any]) -> str | None:
    """The text, None where it cannot be rendered."""
    values = ProfileValues(profile)
    try:
        return template.render(values) if isinstance(template, FastTemplate) else template.render(Profile=values)
    except Exception:
        return None


@pytest.mark.parametrize("html", [False, True], ids=["push", "mail"])
@given(template=templates, profile=profiles)
@example("{{ Profile.Name | default: '<b>' }}", {"Name": False})
@example("{{{Profile.Name}}}", {"Name": "x"})
@example("\n{{ Profile.Name }}\n", {"Name": "a\r"})
@example("{{ Profile.Name }}\r\n", {"Name": "a"})
@example("{{ Profile.Name }}", {"Name": 0})
@example("{{ Profile.Name | default: 'x' }}", {"Name": 0.0})
@example("{{ Profile.Name }}{{ Profile['Name'] }}", {"Name": ["<", None, True, ["'"]]})
def test_the_short_way_says_the_same(html: bool, template: str, profile: dict[str, Any]) -> None:
    """Whatever the short way takes on, python-liquid parses too, and says the same of the profile or fails with it."""
    phrase = read_fast_template(template, html=html, limit=OUTPUT_BYTES)
    if phrase is None:
        return
    assert outcome(phrase, profile) == outcome(parse(template, html=html), profile)


@given(name=st.sampled_from(KEYS[:4]), profile=profiles, default=st.none() | st.text("aé <&", max_size=4))
def test_the_usual_shape_goes_the_short_way(name: str, profile: dict[str, Any], default: str | None) -> None:
    """A name with or without a default is not left to python-liquid, and says the same."""
    name = "Name" if name == "Straße" else name
    text = f"Hi {{{{ Profile.{name}" + (f" | default: '{default}' }}}}!" if default is not None else " }}!")
    template = compile_template("title", text).template
    assert isinstance(template, FastTemplate)
    assert outcome(template, profile) == outcome(parse(text, html=False), profile)


@pytest.mark.parametrize(
    "text",
    ["{{ Profile.Name | upcase }}", "{{ Profile.size }}", "{% if Profile.x %}a{% endif %}", "{{- Profile.Name }}"],
)
def test_other_shapes_are_left_to_liquid(text: str) -> None:
    """A filter, a word with a meaning, a tag, a sign for white space."""
    assert isinstance(compile_template("title", text).template, BoundTemplate)


def test_the_short_way_has_the_same_limit() -> None:
    """Two megabytes of text are as much as a template may make."""
    text = "{{ Profile.Name }}" * 3
    short = compile_template("body", text + "x" * 2_000_000).template
    for size in (32_000, 33_000):
        profile = {"Name": "x" * size}
        assert outcome(short, profile) == outcome(parse(text + "x" * 2_000_000, html=False), profile)
        assert (outcome(short, profile) is None) == (3 * size + 2_000_000 > OUTPUT_BYTES)
