"""python-liquid with limits: templates come from callers, and the CPU time and memory they take are ours.

Limits of the source are `lexer.py`'s, of the work `metering.py`'s. Here are those of loops, and the tags.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, TextIO

from liquid import Environment, RenderContext, TokenStream
from liquid.ast import Node
from liquid.builtin.expressions import LoopExpression
from liquid.builtin.output import Output, OutputNode
from liquid.builtin.tags.echo_tag import EchoTag
from liquid.builtin.tags.for_tag import ForTag
from liquid.builtin.tags.inline_comment_tag import InlineCommentTag
from liquid.builtin.tags.liquid_tag import LiquidTag
from liquid.builtin.tags.tablerow_tag import TablerowTag
from liquid.exceptions import LiquidSyntaxError, LoopIterationLimitError
from liquid.template import BoundTemplate
from liquid.token import TOKEN_EXPRESSION, TOKEN_TAG, Token

from tocsin.content.filters import FILTERS
from tocsin.content.lexer import lex, split_lines
from tocsin.content.metering import MeteredContext, meter
from tocsin.content.profile_values import show_value

OUTPUT_BYTES = 2 * 1024 * 1024
ROUNDS = 1000  # of a loop, and of loops in one another


class BoundedLoop(LoopExpression):
    """What a loop goes through. python-liquid slices before it counts: `(1..400000000) limit:1 offset:399999999` stood
    still for eight seconds, and `reversed` made a list of it all."""

    __slots__ = ()

    def evaluate(self, context: RenderContext) -> tuple[Iterator[object], int]:
        """Return the elements and their number. Raise LoopIterationLimitError for a range or object of more than
        ROUNDS, whatever `limit` says, and for more elements than that."""
        value = self.iterable.evaluate(context)
        if isinstance(value, range | Mapping) and _is_long(value):
            raise LoopIterationLimitError(f"a loop goes through more than {ROUNDS} elements", token=self.token)
        elements = _list(value)
        key = f"{self.identifier}-{self.iterable}"
        continues = getattr(self.offset, "value", None) == "continue"
        start = context.stopindex(key) if continues else self._read(self.offset, context) or 0
        limit = self._read(self.limit, context)
        stop = min((limit is not None and limit + start) or len(elements), len(elements))
        start = min(max(start, 0), len(elements))
        stop = max(stop, start)
        context.stopindex(key=key, index=stop)
        if stop - start > ROUNDS:
            raise LoopIterationLimitError(f"a loop has more than {ROUNDS} rounds", token=self.token)
        chosen = elements[start:stop]
        return iter(chosen[::-1] if self.reversed else chosen), len(chosen)

    def _read(self, expression: Any, context: RenderContext) -> int | None:
        return None if expression is None else self._to_int(expression.evaluate(context), token=expression.token)


def _is_long(value: range | Mapping[Any, Any]) -> bool:
    if isinstance(value, range):  # its len() may be too large for an integer of C
        return value.stop - value.start > ROUNDS
    return len(value) > ROUNDS


def _list(value: Any) -> Sequence[Any]:
    if isinstance(value, Mapping):
        return list(islice(value.items(), ROUNDS))
    if isinstance(value, str):
        return [value] if value else ()
    return value if isinstance(value, Sequence) else ()


def _bound_loop(node: Node) -> Node:
    loop: LoopExpression = node.expression  # type: ignore[attr-defined]  # of a `for` or `tablerow`
    node.expression = BoundedLoop(  # type: ignore[attr-defined]
        loop.token,
        loop.identifier,
        loop.iterable,
        limit=loop.limit,
        offset=loop.offset,
        reversed_=loop.reversed,
        cols=loop.cols,
    )
    return node


class _ShownValue(OutputNode):
    """{{ … }}, with values as `show_value` shows them."""

    def render_to_output(self, context: RenderContext, buffer: TextIO) -> int:
        return buffer.write(show_value(self.expression.evaluate(context), html=context.autoescape))


class _Output(Output):
    node_class = _ShownValue


class _Echo(EchoTag):
    node_class = _ShownValue  # type: ignore[assignment]  # it needs nothing of an EchoNode


class _For(ForTag):
    def parse(self, stream: TokenStream) -> Node:
        return _bound_loop(super().parse(stream))


class _Tablerow(TablerowTag):
    def parse(self, stream: TokenStream) -> Node:  # type: ignore[override]
        return _bound_loop(super().parse(stream))


class _Liquid(LiquidTag):
    """{% liquid %}; python-liquid's takes quadratic time to split its lines."""

    def __init__(self, environment: Environment):
        super().__init__(environment)
        self._tokenize: Any = lambda _, token: split_lines(token)


class _InlineComment(InlineCommentTag):
    """{% # … %}; python-liquid's takes quadratic time over empty lines."""

    def parse(self, stream: TokenStream) -> Any:
        token = stream.expect(TOKEN_TAG)
        if stream.peek.kind == TOKEN_EXPRESSION:
            next(stream)
            lines = map(str.strip, stream.current.value.split("\n")[1:])
            if any(line and not line.startswith("#") for line in lines):
                raise LiquidSyntaxError("each line of a comment begins with #", token=stream.current)
        return self.node_class(token, text=stream.current.value)


class _Template(BoundTemplate):
    context_class = MeteredContext


class _LimitedEnvironment(Environment):
    loop_iteration_limit = ROUNDS
    output_stream_limit = OUTPUT_BYTES
    context_depth_limit = 20
    block_nesting_limit = 20
    template_class = _Template

    def tokenizer(self) -> Callable[[str], Iterator[Token]]:
        return lex

    def setup_tags_and_filters(self, *, extra: bool = False) -> None:
        super().setup_tags_and_filters(extra=extra)
        for tag in (_Output, _Echo, _For, _Tablerow, _Liquid, _InlineComment):
            self.add_tag(tag)
        for name in ("include", "render"):  # there are no files to take from
            del self.tags[name]
        self.filters.update(FILTERS)


_PLAIN = _LimitedEnvironment(autoescape=False)
_HTML = _LimitedEnvironment(autoescape=True)


def parse(source: str, *, html: bool) -> BoundTemplate:
    """Return a parsed template. html: values are escaped. Raise LiquidError for one that is wrong or beyond the
    limits."""
    template = (_HTML if html else _PLAIN).from_string(source)
    meter(template)
    return template
