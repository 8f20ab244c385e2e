"""`/u/…`: the page behind a mail's unsubscribe link, and the request that mail programs send there (RFC 8058).

Nobody logs in: the signed id is the permission. The page stands on its own, for an operator may show the world `/u/`
and nothing else of this server.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Sequence
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import Response

from tocsin.account import Account
from tocsin.api.context import Context
from tocsin.api.endpoint import Endpoint
from tocsin.api.http import refuse
from tocsin.errors import Problem

FORM_BYTES = 4096
HEADLINES = {404: "This link does not work", 410: "This link is too old"}
STYLE = (
    ":root{color-scheme:light dark;--ground:#f7f5f1;--card:#fff;--ink:#211d18;--line:#e7e2d9;--bell:#96640f;--on:#fff}"
    "@media(prefers-color-scheme:dark){:root{--ground:#161412;--card:#1f1c19;--ink:#efeae2;--line:#332e29;"
    "--bell:#e2a94a;--on:#161412}}"
    "body{margin:0;padding:1rem;background:var(--ground);color:var(--ink);font:1.06rem/1.5 system-ui,sans-serif}"
    "main{max-width:34rem;margin:10vh auto 0;padding:1.5rem 1.8rem 1.8rem;background:var(--card);"
    "border:1px solid var(--line);border-radius:14px}"
    "h1{margin:0;font-size:1.5rem;line-height:1.25}p{margin:.8rem 0 0}"
    "button{margin-top:1.4rem;padding:.7rem 1.4rem;border:0;border-radius:9px;background:var(--bell);color:var(--on);"
    "font:inherit;font-weight:600;cursor:pointer}"
    ":focus-visible{outline:3px solid var(--ink);outline-offset:3px}"
)
_DIGEST = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
POLICY = (
    f"default-src 'none'; style-src 'sha256-{_DIGEST}'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "X-Robots-Tag": "noindex",
}
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{headline}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{headline}</h1>
<p>{text}</p>
{form}</main>
</body>
</html>
"""
FORM = """<form method="post">
<input type="hidden" name="List-Unsubscribe" value="One-Click">
<button type="submit">Unsubscribe</button>{more}
</form>
"""
EVERYTHING = """
<button type="submit" name="everything" value="yes">Unsubscribe from all e-mail</button>"""
_BOUNDARY = re.compile(r'\bboundary\s*=\s*(?:"([^"]{1,70})"|([^\s;"]{1,70}))', re.IGNORECASE)
_PART = re.compile(rb'content-disposition:[^\r\n]*;[ \t]*name="?List-Unsubscribe"?[ \t]*(?:;|\r|\n|$)', re.IGNORECASE)


async def ask(context: Context, request: Request) -> Response:
    """Show the question and change nothing: what scans mails fetches every link in them."""
    sent = await context.feedback.find_link(request.path_params["push_id"], context.clock())
    groups = await context.feedback.list_groups(sent)
    form = FORM.format(more=EVERYTHING if groups else "")
    return _show(200, "Unsubscribe from e-mail?", _promise(sent.account, groups), form)


async def unsubscribe(context: Context, request: Request) -> Response:
    """Take the consent to e-mail of whoever got this mail. Raises Problem 400 for another body than RFC 8058's form."""
    push_id = request.path_params["push_id"]
    body = await context.read_body(request, limit=FORM_BYTES)
    sent = await context.feedback.find_link(push_id, context.clock())
    if not is_one_click(request.headers.get("content-type", ""), body):
        raise Problem("The body must be the form List-Unsubscribe=One-Click (RFC 8058)")
    everything = ("everything", "yes") in parse_qsl(body.decode("utf-8", "replace"), separator="&")
    groups = () if everything else await context.feedback.list_groups(sent)
    await context.feedback.unsubscribe(push_id, context.clock(), everything=everything)
    return _show(200, "You are unsubscribed", _promise(sent.account, groups))


def refuse_visitor(request: Request, problem: Problem) -> Response:
    """Return a page for people, the one shape of every error for programs."""
    if "text/html" not in request.headers.get("accept", ""):
        return refuse(request, problem)
    headline = HEADLINES.get(problem.status, "That did not work")
    return _show(problem.status, headline, html.escape(problem.error))


def is_one_click(content_type: str, body: bytes) -> bool:
    """Return whether a form says `List-Unsubscribe=One-Click`, in either of the two types RFC 8058 allows."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/x-www-form-urlencoded":
        return ("List-Unsubscribe", "One-Click") in parse_qsl(body.decode("utf-8", "replace"), separator="&")
    boundary = _BOUNDARY.search(content_type)
    if kind != "multipart/form-data" or boundary is None:
        return False
    for part in body.split(b"--" + (boundary[1] or boundary[2]).encode("utf-8", "replace"))[1:]:
        head, _, value = part.partition(b"\r\n\r\n")
        if _PART.search(head) and value.removesuffix(b"\r\n") == b"One-Click":
            return True
    return False


def _promise(sender: Account, groups: Sequence[str] = ()) -> str:
    about = f" about {html.escape(', '.join(groups))}" if groups else ""
    return f"You will get no more e-mail{about} from {html.escape(sender.name)}."


def _show(status: int, headline: str, text: str, form: str = "") -> Response:
    page = PAGE.format(headline=headline, text=text, form=form, style=STYLE)
    return Response(page.encode("utf-8", "replace"), status_code=status, media_type="text/html", headers=HEADERS)


ENDPOINTS = [Endpoint("/u/{push_id}", {"GET": ask, "HEAD": ask, "POST": unsubscribe}, on_problem=refuse_visitor)]
