"""Log-in by an identity provider: who it sends back is let in, and a spoilt answer is refused with a sentence."""

from __future__ import annotations

import asyncio
import contextlib
import html
import socket
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import jwt
import pytest
from conftest import ROOMY, Server, free_ports, wait_for
from support.browser import PASSWORD, Browser
from support.identity_provider import CLIENT, SECRET, Claims, IdentityProvider, Key

from tocsin.account import create_account
from tocsin.api.identity_provider import AGAIN_SECONDS, AT_ONCE, AWAY_SECONDS
from tocsin.api.identity_provider import IdentityProvider as Client
from tocsin.authenticator.members import add_member, list_members
from tocsin.authenticator.tickets import make_ticket
from tocsin.errors import Misconfigured, Problem
from tocsin.settings import Settings, read_settings
from tocsin.store.ledger import open_ledger

ANA = "anak@elsewhere.example"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def follow(address: str) -> str:
    """Where the provider sends a browser."""
    try:
        urllib.request.build_opener(_NoRedirect()).open(address)
    except urllib.error.HTTPError as answer:
        return str(answer.headers["Location"])
    raise AssertionError("it does not lead on")


class Visit:
    """Somebody at a browser who logs in by the provider."""

    def __init__(self, port: int):
        self.browser = Browser(port)

    def begin(self, place: str = "") -> str:
        """Begins, and answers what the provider sends back to."""
        status, _, headers = self.browser.call("GET", f"/dashboard/oidc?next={place}")
        assert status == 303
        cookie = headers["set-cookie"].lower()
        assert {"httponly", "samesite=lax", "path=/dashboard/oidc"} <= {one.strip() for one in cookie.split(";")}
        self.browser.headers["Cookie"] = headers["set-cookie"].split(";")[0]
        return follow(headers["location"]).partition("/dashboard/")[2]

    def come_back(self, address: str) -> tuple[int, str, str]:
        """The status, the sentence of a refusal, and where it leads."""
        status, page, headers = self.browser.call("GET", f"/dashboard/{address}")
        if status == 303:
            cookies = [one for name, one in headers.items() if name == "set-cookie"]
            self.browser.headers["Cookie"] = cookies[-1].split(";")[0]
            return status, "", headers["location"]
        assert 'role="alert"' in page.decode()
        return status, html.unescape(page.decode().partition('role="alert"')[2].partition(">")[2].partition("<")[0]), ""


@pytest.fixture(scope="module")
def provider() -> Iterator[IdentityProvider]:
    made = IdentityProvider()
    yield made
    made.close()


@pytest.fixture(scope="module")
def home(provider: IdentityProvider, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that knows the provider, and no passwords. Ana is a marketer of its account."""
    folder, port = tmp_path_factory.mktemp("sso"), free_ports(1)
    with contextlib.closing(open_ledger(f"sqlite:///{folder / 'ledger.db'}")) as ledger:
        account, _ = create_account(ledger, "Acme", "UTC", 1000.0)
        ledger.write_now(lambda one: add_member(one, ANA, "-", account.id, "marketer", time.time()))
    given = {
        "TOCSIN_OIDC_ISSUER": provider.issuer,
        "TOCSIN_OIDC_CLIENT_ID": CLIENT,
        "TOCSIN_OIDC_CLIENT_SECRET": SECRET,
        "TOCSIN_OIDC_NETWORKS": "127.0.0.0/8",
        "TOCSIN_OIDC_VIEWERS": f"example.com:{account.id}",
        "TOCSIN_PASSWORD_LOG_IN": "false",
        "TOCSIN_PUBLIC_URL": f"http://127.0.0.1:{port}",
    }
    server = Server(folder, ROOMY | given, port)
    yield server
    assert server.stop() == 0
    with contextlib.closing(open_ledger(server.ledger_url)) as ledger:
        known = {(ANA, "marketer"), ("gil@example.com", "viewer"), ("joe@elsewhere.example", "viewer")}
        assert {(one.email, one.role) for one in ledger.read_now(list_members)} <= known


@pytest.fixture
def visit(provider: IdentityProvider, home: Server) -> Iterator[Visit]:
    provider.email, provider.verified, provider.refusal = ANA, True, ""
    before, key = provider.write, provider.key
    yield Visit(home.port)
    provider.write, provider.key, provider.keys = before, key, [key]


def test_the_provider_lets_people_in(provider: IdentityProvider, visit: Visit) -> None:
    """A member by their address, and somebody of the domain as a viewer; nobody by a password."""
    status, page = visit.browser.look("/dashboard/new")
    assert (status, "/dashboard/oidc?next=/dashboard/new" in page, 'name="password"' in page) == (401, True, False)
    refused = visit.browser.send("/dashboard/login", {"email": ANA, "password": PASSWORD})
    assert (refused[0], "Nobody logs in with a password here" in refused[1]) == (403, True)
    provider.email = ANA.upper()  # as they wrote it there
    assert visit.come_back(visit.begin("/dashboard/new")) == (303, "", "/dashboard/new")
    assert visit.browser.look("/dashboard/new")[0] == 200
    other = Visit(visit.browser.port)
    provider.email = "gil@example.com"
    assert other.come_back(other.begin("https://evil.example/")) == (303, "", "/dashboard/")
    assert (other.browser.look("/dashboard/")[0], other.browser.look("/dashboard/new")[0]) == (200, 403)
    assert other.come_back(other.begin())[0] == 303  # again is no second one


def test_links_ask_for_no_password(provider: IdentityProvider, home: Server, visit: Visit) -> None:
    """Who is invited joins by the link alone, and logs in by the provider; nobody chooses another password."""
    joe, now = "joe@elsewhere.example", time.time()
    with contextlib.closing(open_ledger(home.ledger_url)) as ledger:
        [account] = {one.account_id for one in ledger.read_now(list_members)}
        join = ledger.write_now(lambda one: make_ticket(one, "join", joe, now, account))
        reset = ledger.write_now(lambda one: make_ticket(one, "reset", ANA, now))
    status, page = visit.browser.look(f"/dashboard/ticket?ticket={join}")
    assert (status, joe in page, 'name="password"' in page) == (200, True, False)
    assert visit.browser.send("/dashboard/ticket", {"ticket": str(join)})[0] == 303
    provider.email = joe
    assert visit.come_back(visit.begin())[0] == 303
    assert visit.browser.look(f"/dashboard/ticket?ticket={reset}")[0] == 404
    given = {"ticket": str(reset), "password": PASSWORD}
    assert visit.browser.send("/dashboard/ticket", given)[0] == 404


def unsigned(claims: Claims) -> str:
    return jwt.encode(claims, "", algorithm="none", headers={"kid": "one"})


SPOILT: list[tuple[str, Callable[[Claims], str], str]] = [
    ("another key under its name", Key("one").sign, "signature of the identity provider's token is wrong"),
    ("an unknown key", Key("two").sign, "signed by a key that it does not publish"),
    ("none", unsigned, "not signed in a way that is taken here"),
    (
        "with the client's secret",
        lambda claims: jwt.encode(claims, SECRET * 4, algorithm="HS256", headers={"kid": "one"}),
        "not signed in a way that is taken here",
    ),
    ("no token", lambda _: "a.b", "token cannot be taken"),
]
CHANGED: list[tuple[str, Claims, str]] = [
    ("nonce", {"nonce": "another"}, "answer to another log-in"),
    ("no nonce", {"nonce": ""}, "answer to another log-in"),
    ("audience", {"aud": "somebody"}, "for somebody else"),
    ("party", {"aud": [CLIENT, "more"], "azp": "more"}, "for somebody else"),
    ("issuer", {"iss": "https://evil.example"}, "of another issuer"),
    ("expired", {"iat": 1_000_000, "exp": 1_000_300}, "has ended"),
    ("not yet", {"nbf": 9_000_000_000}, "token cannot be taken"),
    ("no end", {"exp": None}, "token cannot be taken"),
    ("no mail", {"email": None}, "does not say your e-mail address"),
    ("unverified", {"email_verified": False}, "has not checked that your e-mail address is yours"),
    ("unsaid", {"email_verified": None}, "has not checked that your e-mail address is yours"),
    ("no address", {"email": "ana"}, "is not an e-mail address"),
    ("a letter that looks like another", {"email": "ana\N{KELVIN SIGN}@elsewhere.example"}, "is not an e-mail address"),
    ("a stranger", {"email": "eve@evil.example"}, "Nobody here has the address eve@evil.example"),
    ("a longer domain", {"email": "eve@notexample.com"}, "Nobody here has the address eve@notexample.com"),
]


@pytest.mark.parametrize(("write", "says"), [row[1:] for row in SPOILT], ids=[row[0] for row in SPOILT])
def test_spoilt_signatures(provider: IdentityProvider, visit: Visit, write: Callable[[Claims], str], says: str) -> None:
    provider.write = write
    refuse(visit, says)


@pytest.mark.parametrize(("changed", "says"), [row[1:] for row in CHANGED], ids=[row[0] for row in CHANGED])
def test_spoilt_claims(provider: IdentityProvider, visit: Visit, changed: Claims, says: str) -> None:
    provider.write = lambda claims: provider.key.sign(
        {name: value for name, value in (claims | changed).items() if value is not None}
    )
    refuse(visit, says)


def refuse(visit: Visit, says: str) -> None:
    """What the provider sends back is refused with a sentence, and opens nothing."""
    status, sentence, _ = visit.come_back(visit.begin())
    assert (status in (401, 403), says in sentence) == (True, True), sentence
    assert visit.browser.look("/dashboard/")[0] == 401


def test_only_what_was_begun_here_once(provider: IdentityProvider, visit: Visit) -> None:
    """Another state, no cookie, a forged one, another browser's, another issuer's, and the same address twice."""
    says, back = "was not begun in this browser", visit.begin()
    cookie = visit.browser.headers["Cookie"]
    other = Visit(visit.browser.port)
    assert says in other.come_back(back)[1]
    other.begin()
    assert says in other.come_back(back)[1]
    forged = jwt.encode({"state": "s", "nonce": "n", "verifier": "v", "next": "/dashboard/"}, "guess" * 8)
    other.browser.headers["Cookie"] = f"tocsin_oidc={forged}"
    assert says in other.come_back("oidc/callback?code=c&state=s")[1]
    assert visit.come_back(back)[0] == 303
    visit.browser.headers["Cookie"] = cookie  # somebody who has copied both
    assert says in visit.come_back(back)[1]
    again = visit.begin()
    changed = again.replace(urlsplit(provider.issuer).netloc.replace(":", "%3A"), "evil.example")
    assert changed != again
    assert says in visit.come_back(changed)[1]
    provider.refusal = "access_denied"
    assert "did not log you in: access_denied" in visit.come_back(visit.begin())[1]
    provider.refusal = ""
    spent = visit.begin().replace("code=", "code=x")
    assert "answers 400 invalid_grant" in visit.come_back(spent)[1]


def test_one_address_asks_for_few_tokens_at_once(
    provider: IdentityProvider, visit: Visit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever makes up codes does so against our place at the provider: who is too early is told to come again."""
    many, go, redeem = 2 * AT_ONCE, threading.Event(), provider.redeem
    provider.asked.clear()

    def hold(form: dict[str, str], authorization: str) -> tuple[int, dict[str, Any]]:
        assert go.wait(60)
        return redeem(form, authorization)

    monkeypatch.setattr(provider, "redeem", hold)
    visits = [Visit(visit.browser.port) for _ in range(many)]
    backs = [one.begin().replace("code=", "code=x") for one in visits]
    with ThreadPoolExecutor(many) as threads:
        answers = [
            threads.submit(one.browser.look, f"/dashboard/{back}") for one, back in zip(visits, backs, strict=True)
        ]
        asked = wait_for(
            lambda: sum(one.done() for one in answers) + (found := provider.asked.count("/token")) == many and found
        )
        go.set()
    assert asked == AT_ONCE
    assert Counter(one.result()[0] for one in answers) == {502: AT_ONCE, 429: AT_ONCE}
    monkeypatch.undo()
    assert visit.come_back(visit.begin())[0] == 303


def client(provider: IdentityProvider | None, networks: str = "127.0.0.0/8", issuer: str = "") -> Client:
    return Client(
        Settings(
            oidc_issuer=issuer or (provider.issuer if provider else ""),
            oidc_client_id=CLIENT,
            oidc_client_secret=SECRET,
            oidc_networks=networks,
            public_url="http://127.0.0.1:1",
        )
    )


async def test_keys_are_kept_and_follow(provider: IdentityProvider, visit: Visit) -> None:
    """One look at the provider serves many log-ins; a new key is found after a minute, and an old one forgotten."""
    asking, now = client(provider), time.time()
    provider.asked.clear()

    async def log_in(at: float) -> str:
        address = await asking.make_address("s", "n" * 9, "v" * 43, at)
        code = follow(address).partition("code=")[2].partition("&")[0]
        return await asking.redeem(code, "v" * 43, "n" * 9, at)

    assert [await log_in(now), await log_in(now + 1)] == [ANA, ANA]
    looked = ["/.well-known/openid-configuration", "/keys"]
    assert [one for one in provider.asked if one in looked] == looked
    provider.key = Key("two")
    provider.keys = [provider.key]
    with pytest.raises(Problem, match="does not publish"):
        await log_in(now + 2)
    assert await log_in(now + 1 + AGAIN_SECONDS) == ANA
    provider.key = visit_key = Key("three")
    provider.keys = [visit_key, Key("four")]
    assert await log_in(now + 3 + 2 * AGAIN_SECONDS) == ANA


async def test_where_it_may_be(provider: IdentityProvider) -> None:
    """Private addresses only by a setting; and it has to be who it says."""
    provider.asked.clear()
    with pytest.raises(Problem, match="cannot be reached"):
        await client(provider, networks="").make_address("s", "n", "v", 1.0)
    assert provider.asked == []
    with pytest.raises(Problem, match="another issuer"):
        await client(provider, issuer=f"{provider.issuer}/").make_address("s", "n", "v", 1.0)


@pytest.mark.parametrize("name", ["authorization_endpoint", "token_endpoint", "jwks_uri"])
async def test_nothing_goes_in_the_clear(
    provider: IdentityProvider, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Whoever reads along would have the client's secret, and whoever answers in its place would be anybody."""
    described = provider.describe()
    described["/.well-known/openid-configuration"][name] = "http://id.example.com/there"
    monkeypatch.setattr(provider, "describe", lambda: described)
    with pytest.raises(Problem, match="is not at an https address"):
        await client(provider).make_address("s", "n", "v", 1.0)


async def test_a_provider_that_is_away_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who wants to log in meanwhile is told with the first of them, instead of standing in a line that only grows."""
    monkeypatch.setattr("tocsin.api.identity_provider.TIMEOUT_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        asking = client(None, issuer=f"http://127.0.0.1:{silent.getsockname()[1]}")

        async def begin(now: float) -> int:
            try:
                await asking.make_address("s", "n", "v", now)
            except Problem as problem:
                return problem.status
            return 0

        assert await asyncio.gather(*(begin(100.0 + each) for each in (1, 0, 2, 3, 4))) == [502] * 5
        assert await begin(101.0 + AWAY_SECONDS) == 502
        silent.setblocking(False)
        asked = 0
        with contextlib.suppress(BlockingIOError):
            while True:
                silent.accept()[0].close()
                asked += 1
    assert asked == 2


GOOD = {
    "TOCSIN_OIDC_ISSUER": "https://id.example.com",
    "TOCSIN_OIDC_CLIENT_ID": "tocsin",
    "TOCSIN_PUBLIC_URL": "https://tocsin.example.com",
}


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"TOCSIN_PASSWORD_LOG_IN": "false"}, "nobody could log in"),
        (GOOD | {"TOCSIN_OIDC_ISSUER": "http://id.example.com"}, "has to be an https URL"),
        (GOOD | {"TOCSIN_OIDC_CLIENT_ID": ""}, "needs TOCSIN_OIDC_CLIENT_ID"),
        (GOOD | {"TOCSIN_PUBLIC_URL": ""}, "TOCSIN_PUBLIC_URL"),
        (GOOD | {"TOCSIN_OIDC_VIEWERS": "example.com"}, "a domain in small letters and an account"),
    ],
)
def test_settings_that_cannot_work_stop_the_server(given: dict[str, str], says: str, tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=says):
        read_settings(given, tmp_path)
    with pytest.raises(Misconfigured, match="TOCSIN_OIDC_NETWORKS has to be networks"):
        Client(Settings(oidc_networks="here"))
    assert read_settings(GOOD | {"TOCSIN_PASSWORD_LOG_IN": "false"}, tmp_path).password_log_in is False
