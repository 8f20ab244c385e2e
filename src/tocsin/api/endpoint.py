"""What all requests have in common: the method is looked up, an exception becomes an answer, the answer is counted."""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import structlog
from prometheus_client import Counter, Histogram
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import ASGIApp, Receive, Scope, Send

from tocsin import metrics
from tocsin.account import Right
from tocsin.api.bodies import HELD
from tocsin.api.context import RIGHT, Context
from tocsin.api.held import Held
from tocsin.api.http import PRIVATE, refuse
from tocsin.api.pacing import Pacer
from tocsin.errors import Problem, forget_frames
from tocsin.store.deadline import begin_deadline

log = structlog.get_logger()

Handler = Callable[[Context, Request], Awaitable[Response]]
OnProblem = Callable[[Request, Problem], Response]

_LAST_PART = re.compile(r"([^{}]*/)\{(\w+)\}")
UNKNOWN = "unknown"  # the route of all paths that nobody has: made-up paths must not make time series
BUG = Problem("An unknown error occurred", code=500, status=500)
NOT_FOUND = Problem("Not Found", code=404, status=404)
NOT_ALLOWED = Problem("Method Not Allowed", code=405, status=405)


class Endpoint(msgspec.Struct, frozen=True):
    """One path, and what each method does there.

    path: a template such as `/track/{kind}`; also the name under which requests are counted.
    on_problem: makes the answer of a Problem that a handler raises; `bug`: the Problem that stands for any other
        exception. A wrong method is answered in JSON everywhere.
    right: what a passcode must be allowed, where the handler authenticates a request.
    paced: everybody's devices may call it at once; others go first.
    """

    path: str
    handlers: dict[str, Handler]
    on_problem: OnProblem = refuse
    bug: Problem = BUG
    right: Right = "all"
    paced: bool = False

    @property
    def methods(self) -> list[str]:
        return sorted(self.handlers)


def get(path: str, handler: Handler, on_problem: OnProblem = refuse, bug: Problem = BUG) -> Endpoint:
    """Return an endpoint to read from. HEAD does what GET does (RFC 9110, 9.1); the server leaves the body out."""
    return Endpoint(path, {"GET": handler, "HEAD": handler}, on_problem, bug, right="read")


def post(path: str, handler: Handler, bug: Problem = BUG, right: Right = "all") -> Endpoint:
    return Endpoint(path, {"POST": handler}, bug=bug, right=right)


def build_router(context: Context, endpoints: Sequence[Endpoint]) -> ASGIApp:
    """Return the ASGI application of the endpoints. A path without parameters is looked up, and so is one whose last
    part is its only one; the others are compared in turn by Starlette's router, which takes 8 µs more."""
    pacer = Pacer()
    applications = {
        endpoint.path: _Application(context, endpoint, pacer if endpoint.paced else None) for endpoint in endpoints
    }
    exact = {path: application for path, application in applications.items() if "{" not in path}
    last: dict[str, tuple[_Application, str]] = {}  # by what comes before the parameter, with its name
    for path, application in applications.items():
        if found := _LAST_PART.fullmatch(path):
            last[found[1]] = application, found[2]

    async def find(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await router(scope, receive, send)
            return
        path = scope["path"]
        if (application := exact.get(path)) is None:
            start = path.rfind("/") + 1
            if start < len(path) and (named := last.get(path[:start])) is not None:
                application, name = named
                scope["path_params"] = {name: path[start:]}
        await (application or router)(scope, receive, send)

    async def miss(scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a path as it stands, then without its last slash and doubled ones: callers put paths together."""
        path = "/" + "/".join(part for part in scope["path"].split("/") if part)
        if path != scope["path"]:
            await find({**scope, "path": path}, receive, send)
        else:
            request = Request(scope, receive)
            await _send(UNKNOWN, refuse(request, NOT_FOUND), scope, receive, send)

    routes = [Route(path, application) for path, application in applications.items() if path not in exact]
    router = Router(routes, redirect_slashes=False, default=miss)
    return find


class _Application:
    """The ASGI application of one endpoint: a class, for Starlette wraps functions in handling of its own."""

    def __init__(self, context: Context, endpoint: Endpoint, pacer: Pacer | None):
        self._context = context
        self._endpoint = endpoint
        self._pacer = pacer
        self._allow = ", ".join([*endpoint.methods, "OPTIONS"])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        if self._pacer is not None:
            await self._pacer.enter()
        held = scope[HELD] = Held()
        try:
            response = await self._respond(Request(scope, receive))
        finally:
            held.close()
        _find_histogram(self._endpoint.path).observe(time.perf_counter() - started)
        await _send(self._endpoint.path, response, scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        endpoint = self._endpoint
        handler = endpoint.handlers.get(request.method)
        if handler is None:
            return self._respond_without(request)
        request.scope[RIGHT] = endpoint.right
        try:
            begin_deadline(self._context.settings.query_seconds)
            return await handler(self._context, request)
        except Problem as problem:
            return endpoint.on_problem(request, forget_frames(problem))
        except Exception:
            log.exception("request failed", path=request.scope["path"])
            return endpoint.on_problem(request, endpoint.bug)

    def _respond_without(self, request: Request) -> Response:
        if request.method == "OPTIONS":
            response = Response(status_code=204, headers=PRIVATE)
        else:
            response = refuse(request, NOT_ALLOWED)
        response.headers["Allow"] = self._allow
        return response


async def _send(route: str, response: Response, scope: Scope, receive: Receive, send: Send) -> None:
    _find_counter(route, response.status_code).inc()
    await response(scope, receive, send)


@functools.lru_cache(maxsize=1024)
def _find_histogram(route: str) -> Histogram:
    return metrics.REQUEST_SECONDS.labels(route=route)


@functools.lru_cache(maxsize=1024)
def _find_counter(route: str, status: int) -> Counter:
    return metrics.REQUESTS.labels(route=route, status=str(status))
