"""A mail's bytes: bodies that read back as their text, header fields, signatures that others verify."""

from __future__ import annotations

import quopri
import time
from collections.abc import Callable
from email import message_from_bytes, policy
from email.header import decode_header, make_header
from email.message import EmailMessage
from email.utils import parseaddr
from pathlib import Path
from typing import Any

import dkim
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from dkim.canonicalization import Relaxed
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta
from support.signatures import KEYS, NACL, RSA_KEY, pem_of, verify

from tocsin.content import Renderer, read_content
from tocsin.content.content import Addressing
from tocsin.content.mail import is_mailbox
from tocsin.content.mail_body import Body
from tocsin.content.plain_text import tidy, to_text
from tocsin.content.template import ProfileValues, compile_template
from tocsin.errors import Misconfigured, Problem
from tocsin.providers.contract import Address, Mail, Pieces
from tocsin.providers.mail import mime
from tocsin.providers.mail.dkim import DkimSigner
from tocsin.providers.smtp import Smtp, SmtpSettings, return_path
from tocsin.providers.transport import Transport

NOW = 1_750_000_000.0  # a verifier takes no signature from the future
ID = "6f9619ff-8b86-4d01-b42d-00cf4fc964ff"
LINK = "https://tocsin.example.com/unsubscribe/1/abc"
# What quoted-printable, DKIM and SMTP care about, and letters of every width.
TEXTS = st.text(st.sampled_from(list("abé€😀=._ \t\n-") + ["="] * 3 + [" "] * 5) | st.characters(categories=["L", "P"]))


def mail(**changed: Any) -> Mail:
    """A mail with both bodies."""
    given = {"id": ID, "campaign": "1_20260101", "address": Address("email", "ann@example.com"), "subject": "Hello"}
    return Mail(**{**given, "html": "<p>World</p>", "text": "World", **changed})


def read(raw: bytes) -> EmailMessage:
    """The mail as another library reads it."""
    found = message_from_bytes(raw, policy=policy.default)
    assert isinstance(found, EmailMessage)
    assert not found.defects
    return found


def text_of(message: EmailMessage, kind: str) -> str:
    """A part of a mail, with LF."""
    part = message.get_body((kind,))
    assert part is not None
    content = part.get_payload(decode=True)
    assert isinstance(content, bytes)
    return content.decode().replace("\r\n", "\n")


@given(TEXTS, TEXTS)
def test_bodies_read_back_as_their_text(html: str, text: str) -> None:
    """The parsed mail says the whole of a text, in short lines."""
    written = mail(html=html, text=text)
    if not html and not text:
        assert mime.find_fault(written, "news@example.com") == "the mail is empty"
        return
    letter = mime.write(written, "news@example.com", NOW)
    assert max(map(len, letter.body.split(b"\r\n"))) <= 76
    assert letter.body.count(b"\n") == letter.body.count(b"\r\n") == letter.body.count(b"\r")
    assert letter.body.endswith(b"\r\n")
    message = read(letter.join())
    for kind, whole in (("html", html), ("plain", text)):
        if whole:
            assert text_of(message, kind) == (whole if whole.endswith("\n") else whole + "\n")


@given(TEXTS)
def test_canonical_form_is_dkims(text: str) -> None:
    """Our relaxed form of a body is the one a verifier makes."""
    for one in (mail(html=text, text=""), mail(html=text)):
        if one.html:
            letter = mime.write(one, "news@example.com", NOW)
            assert letter.relaxed == Relaxed.canonicalize_body(letter.body)


def test_blanks_at_line_ends_are_encoded() -> None:
    """Relays may strip blanks at the end of a line, so none stands there; long lines and half a character are safe."""
    for text in ("a \nb\t\n ", "é" * 500 + " " * 500, " " * 2000, "a\r\nb\rc", "\ud800"):
        wire, _ = mime.encode(text)
        assert not any(line.endswith((b" ", b"\t")) for line in wire.split(b"\r\n"))
        assert max(map(len, wire.split(b"\r\n"))) <= 76
        unix = text.encode("utf-8", "replace").decode().replace("\r\n", "\n").replace("\r", "\n")
        assert quopri.decodestring(wire).decode().replace("\r\n", "\n") == unix.removesuffix("\n") + "\n"


PRINTABLE = st.text(st.characters(exclude_categories=["C", "Z"]) | st.sampled_from(list(' "\\,;<>@=?_')), max_size=200)


@given(PRINTABLE.map(lambda text: " ".join(text.split())), PRINTABLE.map(str.strip))
def test_headers_read_back_as_written(subject: str, name: str) -> None:
    """Whatever a subject and a name say, they come back the same, in ASCII lines no longer than they may be."""
    raw = mime.write(mail(subject=subject, sender_name=name), "news@example.com", NOW).join()
    head = raw.partition(b"\r\n\r\n")[0]
    assert head.isascii()
    assert max(map(len, head.split(b"\r\n"))) <= 998
    message = read(raw)
    assert str(message["subject"]) == subject
    # With the older parser: the newer one keeps the blank between two encoded words of a name (RFC 2047 6.2).
    display, address = parseaddr(" ".join(message_from_bytes(raw)["from"].split()))
    assert (str(make_header(decode_header(display))), address) == (name, "news@example.com")


@pytest.mark.parametrize(
    ("name", "lines"),
    [("word " * 100, 7), ("Grüße " * 40, 8), ("x" * 900, 1)],
)
def test_long_subjects_are_folded(name: str, lines: int) -> None:
    """A long subject goes over several lines of at most 78 bytes, but a single word stays whole."""
    raw = mime.write(mail(subject=name.strip()), "news@example.com", NOW).join()
    field = raw[raw.index(b"Subject:") : raw.index(b"Date:")].split(b"\r\n")[:-1]
    assert len(field) >= lines
    assert max(map(len, field)) <= 78 or lines == 1
    assert str(read(raw)["subject"]) == name.strip()


def test_control_signs_are_encoded() -> None:
    """A BEL or a tab in a subject or a name is no such byte on the wire."""
    raw = mime.write(mail(subject="a\x07b\tc", sender_name="d\x0be"), "news@example.com", NOW).join()
    assert raw.partition(b"\r\n\r\n")[0].replace(b"\r\n", b"").decode().isprintable()
    assert str(make_header(decode_header(message_from_bytes(raw)["subject"]))) == "a\x07b\tc"


def test_reply_to_keeps_its_address() -> None:
    """A name in Reply-To may be encoded, its address never is."""
    found = read(mime.write(mail(reply_to="Jörg <help@example.com>"), "news@example.com", NOW).join())["reply-to"]
    assert [(one.display_name, one.addr_spec) for one in found.addresses] == [("Jörg", "help@example.com")]
    plain = read(mime.write(mail(reply_to="help@example.com"), "news@example.com", NOW).join())
    assert str(plain["reply-to"]) == "help@example.com"


async def test_answers_go_to_an_international_domain() -> None:
    """A Reply-To is spelled as in the DNS too, and the signature holds; one that is not ASCII before the @ is refused,
    by the content and, of a campaign that was made before, by the mail."""
    for answers in ("help@bücher.example", "Shop <help@bücher.example>", "Jörg <help@bücher.example>"):
        assert is_mailbox(answers)
        raw = await sign("rsa", mail(reply_to=answers))
        assert [one.addr_spec for one in read(raw)["reply-to"].addresses] == ["help@xn--bcher-kva.example"]
        assert verify(raw, "rsa")
    assert not is_mailbox("jörg@example.com")
    assert mime.find_fault(mail(reply_to="Jörg <jörg@example.com>"), "news@example.com")
    assert not mime.find_fault(mail(reply_to="Jörg <help@example.com>"), "news@example.com")


@pytest.mark.parametrize("word", ["x" * 990, "x" * 5000])
@pytest.mark.parametrize("form", ["{}", "New: {} {}"])
def test_a_word_of_a_profile_breaks_no_line(word: str, form: str) -> None:
    """A subject of letters without a blank, such as a profile may hold, stays within the 998 bytes of a line."""
    subject = form.format(word, word)
    raw = mime.write(mail(subject=subject), "news@example.com", NOW).join()
    assert max(map(len, raw.split(b"\r\n"))) <= 998
    assert str(make_header(decode_header(message_from_bytes(raw)["subject"]))) == subject


def test_one_click_link() -> None:
    """An https link makes both fields of RFC 8058, and nobody else writes them; another link makes none."""
    message = read(mime.write(mail(unsubscribe=LINK), "a@example.com", NOW).join())
    assert message.get_all("list-unsubscribe") == [f"<{LINK}>"]
    assert message.get_all("list-unsubscribe-post") == ["List-Unsubscribe=One-Click"]
    for link in ("", "http://example.com/u"):
        assert read(mime.write(mail(unsubscribe=link), "a@example.com", NOW).join())["list-unsubscribe"] is None


@pytest.mark.parametrize(
    "changed",
    [
        {"unsubscribe": "https://e/>, <https://f/"},
        {"unsubscribe": "https://e/\r\nBcc: x"},
        {"bounce": "a@b> SIZE=1"},
        {"bounce": "a" * 65},
    ],
)
def test_link_and_bounce_id_are_checked(changed: dict[str, str]) -> None:
    """A link or an id that would say more than itself is found before anything is sent."""
    assert mime.find_fault(mail(**changed), "news@example.com")


async def sign(kind: str, given: Mail, sender: str = "news@mail.example.com") -> bytes:
    """A mail, signed."""
    letter = mime.write(given, sender, NOW)
    return await DkimSigner("example.com", "s1", pem_of(KEYS[kind])).sign(letter, NOW)


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize(
    "given",
    [
        mail(),
        mail(html="", text="Hi  \t there \n\n\nAnn \n "),
        mail(subject="Grüße " * 20, sender_name="Jörg", reply_to="a@example.com", unsubscribe=LINK, bounce="x"),
        mail(subject="a  b ", html="\n.\n..\n" * 99 + "x" * 200 + "=\t="),
    ],
)
async def test_signature_is_verified(kind: str, given: Mail, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another library, with the key from the DNS, finds the signature good."""
    monkeypatch.setattr(dkim, "nacl", NACL, raising=False)
    raw = await sign(kind, given)
    assert verify(raw, kind)
    tags = str(read(raw)["dkim-signature"])
    assert "l=" not in tags.replace("rel", "")
    assert f"a={kind}-sha256; c=relaxed/relaxed; d=example.com; s=s1" in tags


FORGERIES: dict[str, Callable[[bytes], bytes]] = {
    "body": lambda raw: raw.replace(b"World", b"Worse"),
    "subject": lambda raw: raw.replace(b"Subject: Hello", b"Subject: Hallo"),
    "second subject": lambda raw: b"Subject: Hi\r\n" + raw,
    "second sender": lambda raw: b"From: x@example.com\r\n" + raw,
    "second recipient": lambda raw: b"To: x@example.com\r\n" + raw,
    "link": lambda raw: raw.replace(LINK.encode(), b"https://evil.example/"),
    "one click": lambda raw: raw.replace(b"=One-Click", b"=Click"),
    "date": lambda raw: raw.replace(b"Date: Sun", b"Date: Sat"),
    "id": lambda raw: raw.replace(b"Message-ID: <6", b"Message-ID: <7"),
    "type": lambda raw: raw.replace(b"Content-Type: multipart/alternative", b"Content-Type: multipart/mixed"),
    "mime": lambda raw: raw.replace(b"MIME-Version: 1.0", b"MIME-Version: 1.1"),
    "reply": lambda raw: raw.replace(b"Reply-To: a", b"Reply-To: b"),
}


@pytest.mark.parametrize("forge", FORGERIES.values(), ids=FORGERIES.keys())
async def test_signature_covers(forge: Callable[[bytes], bytes]) -> None:
    """A mail that was changed in any part that matters no longer has a good signature."""
    raw = await sign("rsa", mail(unsubscribe=LINK, reply_to="a@example.com"))
    forged = forge(raw)
    assert forged != raw
    assert not verify(forged, "rsa")


async def test_signature_survives_relays() -> None:
    """Blanks that relays add or take, and fields they put before, do no harm."""
    raw = await sign("rsa", mail(text="a b\n\n\n", html=""))
    changed = b"Received: by relay\r\n" + raw.replace(b"Subject: Hello", b"subject:  Hello ").replace(b"a b", b"a   b")
    assert verify(changed + b"\r\n\r\n", "rsa")


def settings(**changed: Any) -> SmtpSettings:
    """Settings of a relay."""
    return SmtpSettings(**{"host": "relay.example.com", "sender": "news@mail.example.com", **changed})


SIGNED = {"dkim_domain": "example.com", "dkim_selector": "s1", "dkim_key": pem_of(RSA_KEY)}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"dkim_domain": "example.com"}, "all three or none"),
        ({**SIGNED, "dkim_key": ""}, "all three or none"),
        ({**SIGNED, "dkim_domain": "example.org"}, "dkim_domain has to be mail.example.com or a domain above"),
        ({**SIGNED, "dkim_domain": "ample.com"}, "dkim_domain has to be"),
        ({**SIGNED, "dkim_domain": "news.mail.example.com"}, "dkim_domain has to be"),
        ({**SIGNED, "dkim_selector": "s 1"}, "dkim_selector has to be"),
        ({**SIGNED, "dkim_selector": "s1;"}, "dkim_selector has to be"),
        ({**SIGNED, "dkim_key": "secret words"}, "dkim_key has to be a PEM"),
        ({**SIGNED, "dkim_key": pem_of(rsa.generate_private_key(65537, 1024))}, "1024 bits"),
        ({**SIGNED, "dkim_key": pem_of(ec.generate_private_key(ec.SECP256R1()))}, "RSA or an Ed25519"),
        ({"bounce": "bounces"}, "bounce has to be an address"),
        ({"bounce": "a@b\r\nX: y"}, "bounce has to be an address"),
        ({"ca": "-----BEGIN CERTIFICATE-----\nnone"}, "ca has to be"),
    ],
)
async def test_settings_that_cannot_work(changed: dict[str, str], said: str) -> None:
    """A mistake is told at the start, with the option's name and without the key."""
    async with Transport() as transport:
        with pytest.raises(Misconfigured) as caught:
            Smtp(settings(**changed), transport)
    assert said in str(caught.value)
    assert "secret" not in str(caught.value)
    assert "PRIVATE" not in str(caught.value)


async def test_keys_are_not_shown() -> None:
    """Neither settings nor provider nor signer show the key."""
    async with Transport() as transport:
        provider = Smtp(settings(**SIGNED, password="secret", username="u"), transport)
        shown = repr((provider, settings(**SIGNED), *vars(provider).values()))
    assert "secret" not in shown
    assert "PRIVATE" not in shown


def test_bounces_come_back_to_their_mail() -> None:
    """With an address for bounces and an id the envelope's sender holds the id; without either it is the sender."""
    given = settings(bounce="bounces@b.example.com")
    assert return_path(given, mail(bounce="7_ab-C")) == "bounces+7_ab-C@b.example.com"
    assert return_path(given, mail()) == return_path(settings(), mail(bounce="x")) == "news@mail.example.com"


VALUES = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="\x85") | st.just(" "), min_size=1)
TEMPLATES = [
    "<p>Hi {{ Profile.V }}!</p>",
    "{{ Profile.V }}",
    "<a href=\"https://e/?a={{ Profile.V }}&amp;b=1\">x {{- Profile.V -}} y</a><br>{{ Profile.V | append: '!' }} z",
    "<style>{{ Profile.V }}</style><ul><li>{{ Profile.None | default: 'none' }}<li>&lt;{{ Profile.V }}&gt;</ul>",
    "{% raw %}{{ Profile.V }}{% endraw %}<p>{{ Profile.V }}</p>",
    "<p>{% if Profile.V %}<b>{{ Profile.V }}</b>{% endif %}</p><p>{{ Profile.V }}</p>",
    "<ul>{% for i in (1..3) %}<li>{{ i }} {{ Profile.V }}</li>{% endfor %}</ul>",
    "&#123;&#123; {% if true %}{{ Profile.V }}{% endif %} &#125;&#125;",
    "<p>{{ Profile.V | escape }}</p>",
    "<p>{{ Profile.V | upcase | newline_to_br }}</p>",
    "\ue0000\ue001 {{ Profile.V }}",
]


@pytest.mark.parametrize("template", TEMPLATES)
@given(value=VALUES)
def test_text_is_what_a_reader_sees(template: str, value: str) -> None:
    """The HTML is what Liquid renders, and the text what a reader of that HTML would see."""
    values = {"Profile": ProfileValues({"V": value})}
    whole = compile_template("body", template, html=True).fill(values)
    html, text = Body(template).render(values)
    assert html == whole
    assert tidy(text) == to_text(whole)


def test_text_has_its_values_unescaped() -> None:
    """A value is escaped in the HTML and not in the text, and keeps its line breaks there."""
    values = {"Profile": ProfileValues({"V": "a\n\n  b", "W": "<"})}
    assert Body("<p>Hi {{ Profile.V }},</p> <p>{{ Profile.W }}</p>").render(values) == (
        "<p>Hi a\n\n  b,</p> <p>&lt;</p>",
        "Hi a\n\n  b,\n<",
    )


def test_line_ends_of_a_template_are_lf() -> None:
    """A template written on another system makes the same mail."""
    assert Body("a\r\nb\rc{{ 1 }}").render({})[0] == "a\nb\nc1"


def test_mail_has_its_link_and_its_id() -> None:
    """The link that takes a mailbox off the list, and the id that a bounce has to bring back, travel with the mail."""
    envelope = Addressing(
        id=ID, collapse="c", campaign="1", push_id="p-_1", address=mail().address, expires_at=int(time.time()),
        unsubscribe=LINK,
    )  # fmt: skip
    message = Renderer(read_content({"subject": "s", "body": "b"}, "email")).render("email", {}, envelope)
    assert isinstance(message, Mail)
    assert (message.unsubscribe, message.bounce) == (LINK, "p-_1")


@pytest.mark.parametrize("tag", ["*|UNSUBSCRIBE|*", "*%7CUNSUBSCRIBE%7C*", "*%7cUNSUBSCRIBE%7c*"])
def test_the_tag_of_the_link_may_be_escaped(tag: str) -> None:
    """Editors of HTML escape what stands in an address; the link leads off the list all the same."""
    envelope = Addressing(
        id=ID, collapse="c", campaign="1", push_id="p", address=mail().address, expires_at=int(time.time()),
        unsubscribe=LINK,
    )  # fmt: skip
    content = read_content({"subject": "s", "body": f'<a href="{tag}">Leave</a>'}, "email")
    message = Renderer(content).render("email", {}, envelope)
    assert isinstance(message, Mail)
    assert (message.html, message.text) == (f'<a href="{LINK}">Leave</a>', f"{LINK} Leave")
    with pytest.raises(Problem, match="needs a public address"):
        read_content({"subject": "s", "body": tag}, "email", unsubscribe_link=False)


def test_international_domain() -> None:
    """An address of an international domain is spelled as in the DNS; a local part outside ASCII is refused."""
    assert mime.to_ascii("ann@bücher.example") == "ann@xn--bcher-kva.example"
    assert mime.to_ascii("jörg@example.com") == ""


def test_options_are_documented() -> None:
    """Each option of `tocsin provider set smtp` has its row, with its default and its sentence."""
    reference = (Path(__file__).parent.parent / "docs" / "reference.md").read_text()
    found = reference.partition("## Options of smtp\n")[2].partition("\n## ")[0]
    expected = []
    for field in msgspec.structs.fields(SmtpSettings):
        meta = next(one for one in field.type.__metadata__ if isinstance(one, Meta))
        default = "" if field.required or field.default == "" else f"`{field.default}`"
        row = f"| `--{field.name.replace('_', '-')}` | {default} | {meta.description} |"
        expected.append(row.replace("|  |", "| |"))
    assert [line for line in found.splitlines() if line.startswith("| `--")] == expected


PIECES = st.lists(TEXTS | st.sampled_from(["", "\n", "x" * 75, "=" * 30, "a  \n", " ", "."]), min_size=1, max_size=5)


@given(
    PIECES,
    st.lists(st.sampled_from(["", "https://m.example/l/" + "A" * 32, "https://m.example/" + "a=" * 60]), min_size=4),
)
def test_pieces_read_back_as_their_html(frame: list[str], fills: list[str]) -> None:
    """However HTML is cut into pieces, a reader gets the whole; no line is too long, and DKIM's form is that of the
    bytes."""
    for fixed in (True, False):
        pieces = Pieces(tuple(frame), tuple(fills[: len(frame) - 1]), fixed=fixed)
        if len(pieces.fills) != len(frame) - 1 or not pieces.join():
            return
        wire, relaxed = mime.encode_pieces(pieces)
        expected, _ = mime.encode(pieces.join())
        # Line breaks at its very end may be one more: no reader sees them.
        read, whole = (quopri.decodestring(one).replace(b"\r\n", b"\n") for one in (wire, expected))
        assert read.rstrip(b"\n") == whole.rstrip(b"\n")
        assert max(map(len, wire.split(b"\r\n"))) <= 76
        assert Relaxed.canonicalize_body(wire) == relaxed.rstrip(b"\r\n") + (b"\r\n" if relaxed.strip(b"\r\n") else b"")
