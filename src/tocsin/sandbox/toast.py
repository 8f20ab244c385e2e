"""The XML of a Windows notification, checked against the basics of the toast schema.

Source: Microsoft Learn, «Toast schema»: one binding in one visual, at most three plain texts, five actions and inputs.
"""

from __future__ import annotations

from urllib.parse import parse_qs
from xml.etree import ElementTree

TEXTS_LIMIT, CONTROLS_LIMIT = 3, 5

_DURATIONS = ("short", "long")
_SCENARIOS = ("default", "reminder", "alarm", "incomingCall", "urgent")
_CHILDREN = ("visual", "actions", "audio", "header")
_ROOTS = {"wns/toast": "toast", "wns/tile": "tile", "wns/badge": "badge"}


class Malformed(Exception):  # noqa: N818 - it describes the document
    """A document that breaks the rules of its type; the text says which."""


class _Builder(ElementTree.TreeBuilder):
    """Builds the tree of a document without a document type, since only that could declare entities."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise Malformed("The payload may not declare a document type or entities.")


def read_document(body: bytes, wns_type: str) -> ElementTree.Element:
    """Return the root element of a payload of `wns_type` (not raw). Raise Malformed when a rule is broken."""
    parser = ElementTree.XMLParser(target=_Builder())  # noqa: S314 - the builder stops at a document type
    try:
        parser.feed(body)
        root = parser.close()
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise Malformed(f"The payload is not well-formed XML: {error}.") from None
    if root.tag != _ROOTS[wns_type]:
        raise Malformed(f"The root element of a {wns_type} payload is {_ROOTS[wns_type]}, not {root.tag}.")
    if wns_type == "wns/toast":
        _check_toast(root)
    return root


def campaign_in(root: ElementTree.Element) -> str:
    """Return `wzrk_id` of the launch attribute's query, an empty string when there is none."""
    launch = root.get("launch", "")
    return parse_qs(launch.rpartition("?")[2]).get("wzrk_id", [""])[0]


def _check_toast(root: ElementTree.Element) -> None:
    unknown = [child.tag for child in root if child.tag not in _CHILDREN]
    if unknown:
        raise Malformed(f"A toast has no {unknown[0]} element.")
    if root.get("duration", "short") not in _DURATIONS or root.get("scenario", "default") not in _SCENARIOS:
        raise Malformed("The duration or the scenario of the toast is not one of the schema's.")
    bindings = root.findall("visual/binding")
    if len(root.findall("visual")) != 1 or len(bindings) != 1:
        raise Malformed("A toast has exactly one visual with exactly one binding.")
    if not bindings[0].get("template"):
        raise Malformed("The binding needs a template.")
    texts = [text for text in bindings[0].findall("text") if text.get("placement") is None]
    if len(texts) > TEXTS_LIMIT:
        raise Malformed(f"A binding has at most {TEXTS_LIMIT} texts of its own.")
    if any(not image.get("src") for image in bindings[0].iter("image")):
        raise Malformed("An image needs a src.")
    _check_controls(root)


def _check_controls(root: ElementTree.Element) -> None:
    actions, inputs = root.findall("actions/action"), root.findall("actions/input")
    if len(actions) > CONTROLS_LIMIT or len(inputs) > CONTROLS_LIMIT:
        raise Malformed(f"A toast has at most {CONTROLS_LIMIT} actions and {CONTROLS_LIMIT} inputs.")
    if any(action.get("content") is None or action.get("arguments") is None for action in actions):
        raise Malformed("An action needs content and arguments.")
    audio = root.find("audio")
    if audio is not None and audio.get("loop") == "true" and root.get("duration") is None:
        raise Malformed("Looping audio needs a duration on the toast.")
