"""Opens and clicks of mails, from the campaign to the numbers: through the sandbox and the links in its mails."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from email import message_from_string, policy
from email.message import EmailMessage
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import ROOMY, Caller, Sandbox, Server, free_ports, wait_for

from tocsin.cli import tocsin
from tocsin.delivery.mail_id import read_mail_id, sign_mail_id
from tocsin.store.ledger import open_ledger
from tocsin.store.signing_key import find_signing_keys

BROWSER = {"User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"}
MACHINES = [
    ("GET", {"User-Agent": "Mozilla/5.0"}, "proxy"),
    ("GET", {"User-Agent": "Mozilla/5.0 (Windows NT 5.1) Firefox/11.0 (via ggpht.com GoogleImageProxy)"}, "proxy"),
    ("GET", {"User-Agent": "Mozilla/5.0 (compatible; Barracuda Sentinel)"}, "scanner"),
    ("GET", {**BROWSER, "Sec-Purpose": "prefetch;prerender"}, "prefetch"),
    ("HEAD", BROWSER, "head"),
]
TARGETS = ["https://shop.example/sale?utm_source=mail&utm_medium=email#top", "https://shop.example/%C3%A9/Name%20{}"]
BODY = (
    '<html><body><p>Hi {{ Profile.Name }}</p><a href="https://shop.example/sale?utm_source=mail&amp;utm_medium=email#top">'
    'Sale</a> <a href=\'https://shop.example/é/{{ Profile.Name | url_encode | replace: "+", "%20" }}\'>You</a>'
    '<a href="mailto:a@shop.example">Write</a><a href="#top">Up</a><a href="*|UNSUBSCRIBE|*">Leave</a></body></html>'
)
CONTENT = {"subject": "Sale", "body": BODY, "sender_name": "Shop"}


@pytest.fixture(scope="module")
def public(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that knows its address."""
    port = free_ports(1)
    settings = ROOMY | {"TOCSIN_PUBLIC_URL": f"http://127.0.0.1:{port}"}
    server = Server(tmp_path_factory.mktemp("public"), settings, port)
    yield server
    assert server.stop() == 0


@pytest.fixture
def shop(public: Server, sandbox: Sandbox) -> Caller:
    caller = public.account()
    public.use_sandbox(caller, sandbox)
    return caller


def move_in(shop: Caller, count: int, **profile: Any) -> None:
    people = [{"Name": f"Name {one}", "Email": f"u{one}@x.example", **profile} for one in range(count)]
    shop.upload(*({"type": "profile", "identity": f"u{one}", "profileData": data} for one, data in enumerate(people)))


def written(number: int) -> list[str]:
    """The addresses of a mail that is not tracked."""
    return [TARGETS[0], f"https://shop.example/é/Name%20{number}"]


class Letter(HTMLParser):
    """A mail as a mail program shows it: its links, its pictures, its text part."""

    def __init__(self, raw: str):
        super().__init__()
        self.links: list[str] = []
        self.pictures: list[str] = []
        message = message_from_string(raw, policy=policy.default)
        assert isinstance(message, EmailMessage)
        parts = {kind: message.get_body((kind,)) for kind in ("html", "plain")}
        self.html, self.text = (part.get_content() if part is not None else "" for part in parts.values())
        self.size = len(raw.encode())
        self.feed(self.html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "a":
            self.links.append(given["href"] or "")
        elif tag == "img":
            self.pictures.append(given["src"] or "")

    @property
    def followed(self) -> list[str]:
        return [link for link in self.links if "/l/" in link]


def send(shop: Caller, sandbox: Sandbox, count: int = 1, **fields: Any) -> tuple[int, list[Letter]]:
    """A campaign by e-mail, and what came to the mailboxes."""
    campaign = shop.create(**{"target_mode": "email", "devices": [], "content": CONTENT} | fields)
    assert shop.result(campaign)["sent"] == count
    found = [one for one in sandbox.messages("smtp") if one["campaign"].startswith(f"{campaign}_")]
    return campaign, [Letter(one["body"]) for one in sorted(found, key=lambda one: str(one["address"]))]


def ask(url: str, headers: Mapping[str, str] = BROWSER, method: str = "GET") -> tuple[int, Any, Mapping[str, str]]:
    port, path = re.fullmatch(r"http://127\.0\.0\.1:(\d+)(/.*)", url).groups()  # type: ignore[union-attr]
    return Caller(int(port)).call(method, path, None, {"Accept": "text/html", **headers})


def numbers(shop: Caller, campaign: int) -> dict[str, int]:
    kept = ("viewed", "clicked", "machine_viewed", "machine_clicked")
    return {name: count for name, count in shop.result(campaign).items() if name in kept and count}


def wait_for_sent(shop: Caller, group: str) -> None:
    """Until one mail of a tag group is sent."""
    wait_for(lambda: shop.get("/1/tag_groups.json")[1]["tag_groups"].get(group, {}).get("sent") == 1)


def metric(server: Server, way: str, result: str) -> float:
    text = Caller(server.port).call("GET", "/metrics")[1].decode()
    found = re.search(rf'tocsin_reports_total{{result="{result}",way="{way}"}} (\S+)', text)
    return float(found[1]) if found else 0.0


def test_from_the_campaign_to_the_numbers(shop: Caller, sandbox: Sandbox) -> None:
    """Every link leads to its target, with what it had; the picture is one; each mail counts once, within two seconds
    of the report. On the wire a link costs less than 100 bytes, with what quoted-printable adds."""
    move_in(shop, 3)
    campaign, letters = send(shop, sandbox, 3)
    assert numbers(shop, campaign) == {}
    for letter in letters:
        assert (len(letter.followed), len(letter.pictures)) == (2, 1)
        assert letter.links[2:4] == ["mailto:a@shop.example", "#top"]
        assert "/u/" in letter.links[4]
        assert "/l/" not in letter.text
    for number, target in enumerate(TARGETS):
        status, _, headers = ask(letters[number].followed[number])
        assert (status, headers["location"], headers["cache-control"]) == (302, target.format(number), "no-store")
        assert headers["referrer-policy"] == "no-referrer"
    reported = time.monotonic()
    for _ in range(2):
        status, picture, headers = ask(letters[0].pictures[0])
        assert (status, headers["content-type"], headers["cache-control"]) == (200, "image/gif", "no-store")
        assert picture.startswith(b"GIF89a")
    wait_for(lambda: numbers(shop, campaign) == {"viewed": 1, "clicked": 2})
    assert time.monotonic() - reported < 10, "two seconds, on a machine with nothing else to do"
    _, plain = send(shop, sandbox, 3, track_clicks=False)
    assert 0 < (letters[0].size - plain[0].size) / 2 < 100


def test_machines_are_counted_apart(shop: Caller, sandbox: Sandbox) -> None:
    """Proxies, scanners, prefetching and HEAD: marked, and neither views nor clicks; who comes after them counts."""
    move_in(shop, len(MACHINES))
    campaign, letters = send(shop, sandbox, len(MACHINES))
    for letter, (method, headers, _) in zip(letters, MACHINES, strict=True):
        assert ask(letter.followed[0], headers, method)[0] == 302
        assert ask(letter.pictures[0], headers, method)[0] == 200
    count = len(MACHINES)
    wait_for(lambda: numbers(shop, campaign) == {"machine_viewed": count, "machine_clicked": count})
    ask(letters[0].followed[1])
    ask(letters[0].pictures[0])
    both = {"machine_viewed": count, "machine_clicked": count, "viewed": 1, "clicked": 1}
    wait_for(lambda: numbers(shop, campaign) == both)


def test_all_links_at_once_are_a_scanner(shop: Caller, sandbox: Sandbox) -> None:
    """Two links of a mail within two seconds of its sending are nobody's; one may be."""
    move_in(shop, 2)
    campaign, letters = send(shop, sandbox, 2)
    for link in letters[0].followed:
        assert ask(link)[0] == 302
    assert ask(letters[1].followed[0])[0] == 302
    wait_for(lambda: numbers(shop, campaign) == {"clicked": 1, "machine_clicked": 1})


def test_what_is_not_ours_changes_nothing(public: Server, shop: Caller, sandbox: Sandbox) -> None:
    """Altered, forged, put together anew, or with another target: 404, a number in the metric, a line in the log that
    gives nothing away; and no redirect to anywhere."""
    move_in(shop, 1)
    campaign, [letter] = send(shop, sandbox)
    link, picture = letter.followed[0], letter.pictures[0]
    head, _, query = link.partition("?")
    letters = head.rpartition("/")[2]
    other = picture.rpartition("/")[2].removesuffix(".gif")
    before = metric(public, "link", "forged"), metric(public, "pixel", "forged")
    wrong = [
        f"{head}?https://evil.example/",
        f"{head}?{query}x",
        head,
        f"{head}?",
        f"{head}?{query.replace('https', 'http')}",
        f"{head[:-1]}{'A' if head[-1] != 'A' else 'B'}?{query}",
        head.replace(letters, other) + f"?{query}",
        head.replace(letters, letters.swapcase()) + f"?{query}",
        head.replace(letters, "") + f"?{query}",
        head.replace(letters, "A" * 32) + "?javascript:alert(1)",
        head.replace(letters, "%C3%A9" * 16) + f"?{query}",
        link.replace("/l/", "/o/"),
    ]
    for url in wrong:
        status, _, headers = ask(url)
        assert status == 404, url
        assert "location" not in headers
    assert ask(picture.replace(other, letters))[0] == ask(picture.replace(".gif", "x.gif"))[0] == 404
    assert [ask(link, method=method)[0] for method in ("POST", "DELETE")] == [405, 405]
    assert metric(public, "link", "forged") - before[0] >= 10
    assert metric(public, "pixel", "forged") - before[1] >= 2
    assert numbers(shop, campaign) == {}
    log = (public.data / "log").read_text()
    assert re.search('"forged".*report changed nothing', log)
    assert letters not in log
    assert "evil.example" not in log


def test_a_replay_changes_nothing(public: Server, shop: Caller, sandbox: Sandbox) -> None:
    move_in(shop, 1)
    campaign, [letter] = send(shop, sandbox)
    before = metric(public, "pixel", "repeated")
    for _ in range(5):
        assert ask(letter.pictures[0])[0] == 200
    assert numbers(shop, campaign) == {"viewed": 1}
    assert metric(public, "pixel", "repeated") - before == 4


def test_a_stale_mail_leads_on_and_counts_no_more(public: Server, shop: Caller, sandbox: Sandbox) -> None:
    """Its link and its picture work as long as somebody keeps the mail; nothing is read or written for them."""
    move_in(shop, 1)
    campaign, [letter] = send(shop, sandbox)
    with closing(open_ledger(public.ledger_url)) as ledger:
        key = ledger.read_now(find_signing_keys)[0].value
    head, _, query = letter.followed[0].partition("?")
    target = TARGETS[0].encode()
    mail = read_mail_id(key, head.rpartition("/")[2], "link", target)
    old = mail._replace(sent_at=int(time.time()) - 91 * 86_400)
    start, before = head[: -len("/l/") - 32], [metric(public, way, "stale") for way in ("link", "pixel")]
    status, _, headers = ask(f"{start}/l/{sign_mail_id(key, old, 'link', target)}?{query}")
    assert (status, headers["location"]) == (302, TARGETS[0])
    assert ask(f"{start}/o/{sign_mail_id(key, old, 'open')}.gif")[0] == 200
    assert [metric(public, way, "stale") - one for way, one in zip(("link", "pixel"), before, strict=True)] == [1, 1]
    assert numbers(shop, campaign) == {}


@pytest.mark.parametrize(
    ("fields", "opens", "clicks"),
    [
        ({"track_opens": False}, 0, 2),
        ({"track_clicks": False}, 1, 0),
        ({"track_opens": False, "track_clicks": False}, 0, 0),
    ],
)
def test_off_by_campaign(shop: Caller, sandbox: Sandbox, fields: dict[str, bool], opens: int, clicks: int) -> None:
    """A campaign without them has the mail that was written."""
    move_in(shop, 1)
    _, [letter] = send(shop, sandbox, **fields)
    assert (len(letter.pictures), len(letter.followed)) == (opens, clicks)
    if not opens and not clicks:
        assert letter.links[:2] == written(0)


def test_off_by_person(shop: Caller, sandbox: Sandbox) -> None:
    """Who says no gets a mail that reports nothing; of a mail from before, nothing is counted any more, and its links
    work."""
    move_in(shop, 2)
    campaign, letters = send(shop, sandbox, 2)
    move_in(shop, 1, **{"MSG-email-tracking": "No"})
    assert ask(letters[0].followed[0])[0] == 302
    assert [ask(one.pictures[0])[0] for one in letters] == [200, 200]
    assert numbers(shop, campaign) == {"viewed": 1}
    _, letters = send(shop, sandbox, 2)
    assert [len(one.pictures) + len(one.followed) for one in letters] == [0, 3]
    assert letters[0].links[:2] == written(0)


def test_off_by_account(public: Server, shop: Caller, sandbox: Sandbox) -> None:
    """By a policy, which holds for campaigns and sends from then on."""
    move_in(shop, 1)
    chosen = ["--account", shop.account_id, "--data", str(public.data)]
    for value, opens, clicks in (('{"opens": false}', 0, 2), ('{"opens": false, "clicks": false}', 0, 0)):
        done = CliRunner().invoke(tocsin, ["policy", "set", "tracking", value, *chosen])
        assert done.exit_code == 0, done.output
        _, [letter] = send(shop, sandbox)
        assert (len(letter.pictures), len(letter.followed)) == (opens, clicks)
    status, _ = shop.post("/1/send/email.json", {"to": {"Identity": ["u0"]}, "content": CONTENT, "tag_group": "t"})
    assert status == 200
    wait_for_sent(shop, "t")
    assert "/l/" not in str(sandbox.messages("smtp")[-1]["body"])


def test_sends_by_identity_count_in_their_group(shop: Caller, sandbox: Sandbox) -> None:
    """A mail of `/1/send` is followed like a campaign's, unless the request says no."""
    move_in(shop, 1)
    for group, more in (("on", {}), ("off", {"track_clicks": False})):
        body = {"to": {"Identity": ["u0"]}, "content": CONTENT, "tag_group": group, **more}
        assert shop.post("/1/send/email.json", body)[0] == 200
        wait_for_sent(shop, group)
        letter = Letter(sandbox.messages("smtp")[-1]["body"])
        assert len(letter.followed) == (0 if more else 2)
        ask(letter.pictures[0])
        if letter.followed:
            ask(letter.followed[0])
    groups = wait_for(lambda: (found := shop.get("/1/tag_groups.json")[1])["total"]["clicked"] == 1 and found)
    assert {name: (one["viewed"], one["clicked"]) for name, one in groups["tag_groups"].items()} == {
        "on": (1, 1),
        "off": (1, 0),
    }
    assert (groups["total"]["viewed"], groups["total"]["clicked"]) == (2, 1)


def test_without_a_public_address_nothing_is_tracked(server: Server, sending: Caller, sandbox: Sandbox) -> None:
    """And the log says so in one line at the start."""
    move_in(sending, 1)
    content = CONTENT | {"body": BODY.replace("*|UNSUBSCRIBE|*", "https://shop.example/leave")}
    _, [letter] = send(sending, sandbox, content=content)
    assert letter.links[:2] == written(0)
    assert letter.pictures == []
    assert Path(server.data / "log").read_text().count("report no opens and clicks") == 1
