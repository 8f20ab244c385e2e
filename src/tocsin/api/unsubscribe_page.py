"""The page behind a mail's unsubscribe link, and the request that mail programs send there (RFC 8058).

It stands on its own: an operator may show the world `/u/` and nothing else of this server.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from urllib.parse import parse_qsl

from litestar import Response

from tocsin.api.http import HttpRequest, on_problem
from tocsin.errors import Problem

FORM_BYTES = 4096
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
<button type="submit">Unsubscribe</button>
</form>
"""
_BOUNDARY = re.compile(r'\bboundary\s*=\s*(?:"([^"]{1,70})"|([^\s;"]{1,70}))', re.IGNORECASE)
_PART = re.compile(rb'content-disposition:[^\r\n]*;[ \t]*name="?List-Unsubscribe"?[ \t]*(?:;|\r|\n|$)', re.IGNORECASE)


def show_question(sender: str) -> Response[bytes]:
    """Asks first: what scans mails fetches every link in them. sender: the account's name."""
    text = f"You will get no more e-mail from {html.escape(sender)}."
    return _show(200, "Unsubscribe from e-mail?", text, FORM)


def show_done(sender: str) -> Response[bytes]:
    return _show(200, "You are unsubscribed", f"You will get no more e-mail from {html.escape(sender)}.")


def show_problem(request: HttpRequest, problem: Problem) -> Response[bytes]:
    """A page for people, the one shape of every error for programs."""
    plain = on_problem(request, problem)
    if "text/html" not in request.headers.get("accept", ""):
        return plain
    headline = "This link does not work" if problem.status == 404 else "That did not work"
    return _show(problem.status, headline, html.escape(problem.error))


def is_one_click(content_type: str, body: bytes) -> bool:
    """Whether a form says `List-Unsubscribe=One-Click`, in either of the two types RFC 8058 allows."""
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


def _show(status: int, headline: str, text: str, form: str = "") -> Response[bytes]:
    page = PAGE.format(headline=headline, text=text, form=form, style=STYLE)
    return Response(page.encode("utf-8", "replace"), status_code=status, media_type="text/html", headers=HEADERS)
