"""What rendering a template costs, counted while it is rendered, so that every template and every profile ends soon.

Work is counted in units of about a tenth of a microsecond, and has an end: `WORK` for a text, `MESSAGE_WORK` for all
texts of a message. Counting work and not time, a template says the same on every machine. Each tag that is rendered
costs what its expressions are made of (`meter`), each variable that is read and each filter what the value is made of
(`weigh`). So it does not matter how work is multiplied: by loops, by `{% case 1 %}{% when 1, 1 %}` in one another, or
by filters in a row.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import Any, TextIO

from liquid import RenderContext
from liquid.ast import BlockNode, Node
from liquid.builtin.content import ContentNode
from liquid.builtin.expressions import (
    BooleanExpression,
    FilteredExpression,
    LoopExpression,
    Path,
    StringLiteral,
)
from liquid.builtin.expressions.logical import ContainsExpression, LogicalAndExpression, LogicalOrExpression
from liquid.builtin.expressions.primitive import (
    Blank,
    Empty,
    FalseLiteral,
    FloatLiteral,
    IntegerLiteral,
    Nil,
    RangeLiteral,
    TrueLiteral,
)
from liquid.builtin.tags.case_tag import CaseNode
from liquid.exceptions import LiquidSyntaxError, LocalNamespaceLimitError, ResourceLimitError
from liquid.expression import Expression
from liquid.template import BoundTemplate
from liquid.token import Token
from liquid.undefined import UNDEFINED, Undefined

WORK = 250_000  # of one text for one profile; twenty rows of a table with ten values each cost about 10,000
MESSAGE_WORK = 2 * WORK  # of all texts of one message together, and of trying out all those of a content
VARIABLE_BYTES = 100_000  # of what a template assigns and captures, as sys.getsizeof counts them
FILTERS = 10  # in a row
STEPS = 20  # of a path, `a.b.c`
DEPTH = 100  # of an expression: `and` and `or` are one in another
# Filters whose work is Python's, letter by letter.
SLOW_FILTERS = frozenset(
    ("escape_once", "escapejs", "newline_to_br", "squish", "strip_html", "strip_newlines", "url_decode", "url_encode")
)
_CONTAINERS = (list, tuple, Mapping)
_LITERALS = {IntegerLiteral, FloatLiteral, TrueLiteral, FalseLiteral, Nil, Empty, Blank}
_CONDITIONS = {BooleanExpression, LogicalAndExpression, LogicalOrExpression}
_NODE, _EXPRESSION, _ELEMENT, _FILTER, _DATE = 30, 8, 4, 25, 500
_SCOPE, _UNDEFINED = 3, 40


class WorkLimitError(ResourceLimitError):
    """A template makes more work than one message may."""


def weigh(value: Any, limit: int = WORK) -> int:
    """Return the work of going through a value once; above `limit` somewhere above it."""
    if isinstance(value, str):
        return 1 + (len(value) >> 2)
    if not isinstance(value, _CONTAINERS):
        return 1
    work = 0
    rest: list[Any] = [value]
    while rest and work <= limit:
        one = rest.pop()
        if isinstance(one, str):
            work += 1 + (len(one) >> 2)
        elif isinstance(one, (list, tuple)):
            work += 1 + _ELEMENT * len(one)
            rest.extend(one)
        elif isinstance(one, dict):
            work += 1 + 2 * _ELEMENT * len(one)
            rest.extend(one)
            rest.extend(one.values())
        else:  # another mapping, such as the whole profile, is not gone through
            work += 1 + (_ELEMENT * len(one) if isinstance(one, Mapping) else 0)
    return work


def weigh_search(text: Any, sought: Any) -> int:
    """Return the work of looking for one value in another. Python compares up to a thousand letters at each place."""
    letters = len(sought) if isinstance(sought, str) else 0
    return weigh(text) * (1 + (min(letters, 1000) >> 5)) + weigh(sought)


class WorkBudget:
    """The work that texts may make together. left: without what the text of `_context` has made since it began."""

    __slots__ = ("_context", "_granted", "left")

    def __init__(self, left: int) -> None:
        self.left = left
        self._granted = 0
        self._context: MeteredContext | None = None

    def grant(self, context: MeteredContext) -> int:
        """Return the work that one more text may make; the one before it has ended."""
        if self._context is not None:
            self.left -= self._granted - max(self._context.left, 0)
        self._context, self._granted = context, max(min(WORK, self.left), 0)
        return self._granted


_BUDGET: ContextVar[WorkBudget | None] = ContextVar("budget", default=None)


@contextmanager
def share_work() -> Iterator[None]:
    """Let the texts that are filled meanwhile make MESSAGE_WORK together, and WORK each."""
    token = _BUDGET.set(WorkBudget(MESSAGE_WORK))
    try:
        yield
    finally:
        _BUDGET.reset(token)


class MeteredContext(RenderContext):
    """A render context that counts work. left: what may still be done."""

    __slots__ = ("left", "variable_bytes")

    def __init__(self, template: BoundTemplate, **options: Any):
        super().__init__(template, **options)
        budget = _BUDGET.get()
        self.left = WORK if budget is None else budget.grant(self)
        self.variable_bytes = 0

    def spend(self, work: int) -> None:
        """Count work. Raise WorkLimitError when there has been too much."""
        self.left -= work
        if self.left < 0:
            sentence = f"more work than one message may ({WORK} units for a text, {MESSAGE_WORK} for all)"
            raise WorkLimitError(f"the template makes {sentence}", token=None)

    def get(self, path: list[object], *, token: Token | None, default: object = UNDEFINED) -> object:
        """Return the value of a variable. It is looked for in each loop's scope, and its reader may go through it."""
        value = super().get(path, token=token, default=default)
        self.spend(_SCOPE * self.scope.size() + (_UNDEFINED if type(value) is Undefined else weigh(value, self.left)))
        return value

    def assign(self, key: str, val: Any) -> None:
        """Keep a variable. python-liquid measures all of them each time."""
        before = sys.getsizeof(self.locals[key], 1) if key in self.locals else 0
        self.locals[key] = val
        self.variable_bytes += sys.getsizeof(val, 1) - before
        if self.variable_bytes > VARIABLE_BYTES:
            raise LocalNamespaceLimitError(f"variables hold more than {VARIABLE_BYTES} bytes", token=None)

    def filter(self, name: str, token: Token | None) -> Callable[..., object]:
        """Return a filter that counts what it is given and what it makes."""
        return partial(self._apply, name, super().filter(name, token))

    def _apply(
        self, name: str, function: Callable[..., object], value: object, *args: object, **options: object
    ) -> object:
        work, letters = weigh(value, self.left), 0
        for one in (*args, *options.values()):
            letters += len(one) if isinstance(one, str) else 0
            self.spend(weigh(one, self.left))
        if name in SLOW_FILTERS:
            work *= 8
        elif name == "date":
            work = _DATE + 40 * work
        else:
            work *= 1 + (min(letters, 1000) >> 5)
        self.spend(_FILTER + work)
        made = function(value, *args, **options)
        self.spend(weigh(made, self.left))
        return made


class MeteredNode(Node):
    """A tag or text that costs `work` each time it is rendered."""

    __slots__ = ("node", "work")

    def __init__(self, node: Node, work: int):
        super().__init__(node.token)
        self.blank = node.blank
        self.node = node
        self.work = work

    def render(self, context: RenderContext, buffer: TextIO) -> int:
        context.spend(self.work)  # type: ignore[attr-defined]  # a MeteredContext
        return self.node.render_to_output(context, buffer)

    render_to_output = render


class MeteredContains(ContainsExpression):
    """`contains`, which costs a search."""

    __slots__ = ()

    def evaluate(self, context: RenderContext) -> object:
        left, right = self.left.evaluate(context), self.right.evaluate(context)
        context.spend(weigh_search(left, right))  # type: ignore[attr-defined]
        return super().evaluate(context)


def meter(template: BoundTemplate) -> None:
    """Make the nodes of a parsed template count their work. Raise LiquidSyntaxError, with the place, for a filter that
    does not exist, for ranges outside of loops, and for expressions beyond the limits."""
    template.nodes = _meter_all(template.nodes, MeteredContext(template))


def _meter_all(nodes: Iterable[Node], context: RenderContext) -> list[Node]:
    return [MeteredNode(node, _measure_node(node, context)) for node in nodes]


def _measure_node(node: Node, context: RenderContext) -> int:
    """Return the work of a node without the blocks in it, which count for themselves."""
    if isinstance(node, ContentNode):
        return _NODE + (len(node.text) >> 6)
    own = sum(_measure(one, context) for one in node.expressions())
    work = _NODE + own
    for child in node.children(context):
        if isinstance(child, BlockNode):
            child.nodes = _meter_all(child.nodes, context)
        else:  # {% elsif %} and {% when %}; each `when` looks at the value of its `case` again
            work += _measure_node(child, context) + (own if isinstance(node, CaseNode) else 0)
    return work


def _measure(expression: Any, context: RenderContext, depth: int = 0) -> int:
    """Return the work of an expression, with its searches made to count theirs."""
    kind = type(expression)
    if kind is StringLiteral:
        return _EXPRESSION + (len(expression.value) >> 3)
    if kind in _LITERALS:
        return _EXPRESSION
    if kind is RangeLiteral:
        raise LiquidSyntaxError("a range is only for loops", token=expression.token)
    if depth > DEPTH:
        raise LiquidSyntaxError(f"more than {DEPTH} conditions in one", token=expression.token)
    work = _EXPRESSION
    if kind is Path:
        work += 2 * len(expression.path)
        if len(expression.path) > STEPS:
            raise LiquidSyntaxError(f"more than {STEPS} steps in a path", token=expression.token)
    elif kind is FilteredExpression:
        _check_filters(expression.filters or [], context)
    elif kind in _CONDITIONS:
        _meter_searches(expression)
    children = list(expression.children())
    if isinstance(expression, LoopExpression) and type(expression.iterable) is RangeLiteral:
        children[:1] = expression.iterable.children()
    return work + sum([_measure(one, context, depth + 1) for one in children])


def _check_filters(filters: list[Any], context: RenderContext) -> None:
    for one in filters:
        if one.name not in context.env.filters:
            raise LiquidSyntaxError(f"unknown filter '{one.name}'", token=one.token)
    if len(filters) > FILTERS:
        raise LiquidSyntaxError(f"more than {FILTERS} filters in a row", token=filters[FILTERS].token)


def _meter_searches(expression: Expression) -> None:
    for name in ("expression", "left", "right"):
        child = getattr(expression, name, None)
        if type(child) is ContainsExpression:
            setattr(expression, name, MeteredContains(child.token, child.left, child.right))
