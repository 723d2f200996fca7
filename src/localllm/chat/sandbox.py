"""jinja2's immutable sandbox, closed further: everything a template can do is listed, bounded and traced.

The sandbox alone keeps a template away from the process. Here it also gets no attribute, method, function or filter
that is not named in this package, every operation is charged to the render's `Budget` before it happens, and text
keeps its origins (see `localllm.chat.traced`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import cast

import jinja2
from jinja2 import Undefined, nodes, pass_context
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.tests import TESTS
from jinja2.utils import Cycler, Joiner, Namespace

from localllm.chat import operators, rewrite, strings
from localllm.chat.budget import Budget, Operation
from localllm.chat.filters import CONTEXT_FILTERS, PLAIN_FILTERS
from localllm.chat.formatting import text_of
from localllm.chat.members import DICT_NAMES, FORBIDDEN, MISSING, Bound, member
from localllm.chat.traced import origin_of, plain, stamp

Clock = Callable[[], datetime]
"""Tells a template the time."""

_MAX_TIME_FORMAT = 256


class RefusedError(jinja2.TemplateError):
    """The template called `raise_exception`: it refuses the messages."""


class GenerationExtension(Extension):
    """Hugging Face's `{% generation %}`: marks what a model wrote, for training; here it only groups."""

    tags: set[str] = {"generation"}  # noqa: RUF012  # a class attribute of jinja2's

    def parse(self, parser: Parser) -> nodes.Node:
        """Read to `{% endgeneration %}`."""
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=lineno)


class _Run(threading.local):
    """The budget of the render that this thread is in."""

    budget: Budget | None = None


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """The environment in which chat templates are compiled and rendered; safe from any thread.

    Args:
        clock: What `strftime_now` tells.
    """

    intercepted_binops: frozenset[str] = frozenset(operators.BINARY)

    def __init__(self, clock: Clock = datetime.now) -> None:
        # Not optimized: jinja2 would compute constant expressions when it compiles, before there is a budget.
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,
            cache_size=0,
            finalize=self._put_out,
            extensions=["jinja2.ext.loopcontrols", GenerationExtension],
        )
        self._run = _Run()
        self._clock = clock
        self.filters.clear()
        self.filters.update(
            {
                **{name: self._charged(function) for name, function in PLAIN_FILTERS.items()},
                **{name: self._charged_in_context(function) for name, function in CONTEXT_FILTERS.items()},
                rewrite.CONCAT: self._charged(operators.concat),
                rewrite.COMPARE: self._charged(operators.compare),
                rewrite.SLICE: self._charged(operators.slice_of),
                rewrite.ITERATE: self._charged(operators.iterate),
                rewrite.MAKE_DICT: self._charged(operators.make_dict),
            }
        )
        self.tests.clear()
        self.tests.update(self._tests())
        self.globals.clear()
        self.globals.update(
            {
                "range": Bound(self._charged(operators.make_range)),
                "dict": Bound(self._charged(operators.make_dict)),
                "namespace": Bound(lambda *args, **more: Namespace(operators.make_dict(self.budget, *args, **more))),
                "cycler": Bound(Cycler),
                "joiner": Bound(Joiner),
                "raise_exception": Bound(self._raise_exception),
                "strftime_now": Bound(self._strftime_now),
            }
        )

    @property
    def budget(self) -> Budget:
        """What this thread's render may still do."""
        budget = self._run.budget
        if budget is None:
            raise RuntimeError("a template's code runs outside of a render")
        return budget

    def render(self, template: jinja2.Template, variables: Mapping[str, object], budget: Budget) -> str:
        """Return the text that `template` makes of `variables`, with its origins.

        Raises:
            Exception: Whatever the template raises, and TemplateError when it exceeds `budget`.
        """
        outer, self._run.budget = self._run.budget, budget
        try:
            context = template.new_context(dict(variables))
            return self.concat(template.root_render_func(context))
        finally:
            self._run.budget = outer

    def concat(self, parts: Iterable[str]) -> str:
        """Return what jinja2 has gathered: the whole text, or that of a macro or block."""
        budget = self.budget
        gathered, size = [], 0
        for part in parts:
            budget.spend()
            size += len(part)
            budget.fits(size)
            gathered.append(part)
        return strings.concatenate(budget, gathered)

    @pass_context
    def _put_out(self, context: Context, value: object) -> str:
        self.budget.spend()
        return text_of(self.budget, value)

    def _charged(self, function: Operation) -> Operation:
        def charged(*args: object, **kwargs: object) -> object:
            budget = self.budget
            budget.spend()
            return function(budget, *args, **kwargs)

        return charged

    def _charged_in_context(self, function: Operation) -> Operation:
        @pass_context
        def charged(context: Context, *args: object, **kwargs: object) -> object:
            budget = self.budget
            budget.spend()
            return function(budget, context, *args, **kwargs)

        return charged

    def _tests(self) -> dict[str, Operation]:
        """Return jinja2's tests; those that compare, compute or convert to text are our own."""

        known = cast("Mapping[str, Operation]", TESTS)  # a table of plain functions

        def comparison(name: str) -> Operation:
            return self._charged(lambda budget, left, right: operators.compare(budget, left, name, right))

        def numeric(name: str) -> Operation:
            def test(value: object, *args: object) -> object:
                if not all(isinstance(number, (int, float)) for number in (value, *args)):
                    raise TypeError(f"{name} of a {type(value).__name__}")  # '%999999999d' is odd, said jinja2
                return known[name](value, *args)

            return test

        names = {
            "eq": ("eq", "==", "equalto"),
            "ne": ("ne", "!="),
            "gt": ("gt", ">", "greaterthan"),
            "gteq": ("ge", ">="),
            "lt": ("lt", "<", "lessthan"),
            "lteq": ("le", "<="),
            "in": ("in",),
        }
        return {
            **known,
            **{alias: comparison(name) for name, aliases in names.items() for alias in aliases},
            **{name: numeric(name) for name in ("odd", "even", "divisibleby")},
            "lower": lambda value: isinstance(value, str) and value.islower(),
            "upper": lambda value: isinstance(value, str) and value.isupper(),
        }

    def _raise_exception(self, message: object = "") -> None:
        raise RefusedError(plain(text_of(self.budget, message)))

    def _strftime_now(self, pattern: str) -> str:
        if len(pattern) > _MAX_TIME_FORMAT:
            raise ValueError(f"a time format of {len(pattern)} characters; at most {_MAX_TIME_FORMAT}")
        return stamp(self._clock().strftime(plain(pattern)), origin_of(pattern))

    def call_binop(self, context: Context, operator: str, left: object, right: object) -> object:
        """Compute `left operator right`."""
        budget = self.budget
        budget.spend()
        return operators.BINARY[operator](budget, left, right)

    def call(self, context: Context, obj: object, /, *args: object, **kwargs: object) -> object:
        """Call `obj`, if it is one of the things that a template may call."""
        self.budget.spend()
        if isinstance(obj, Macro):
            return super().call(context, obj, *args, **kwargs)
        for name in ("_loop_vars", "_block_vars"):  # jinja2's own, for functions that take the context
            kwargs.pop(name, None)
        if isinstance(obj, LoopContext):
            return self._recurse(obj, *args)
        if isinstance(obj, (Bound, Joiner, Undefined)):
            return obj(*args, **kwargs)
        raise TypeError(f"{type(obj).__name__!r} object is not callable")

    def _recurse(self, loop: LoopContext, *iterables: object) -> str:
        (iterable,) = iterables
        if not isinstance(iterable, Iterable):
            raise TypeError(f"{type(iterable).__name__!r} object is not iterable")
        return loop(operators.iterate(self.budget, iterable))

    def getattr(self, obj: object, attribute: str) -> object:
        """Return `obj.attribute`: an attribute if the class has it, else an item; as in jinja2."""
        budget = self.budget
        budget.spend()
        if type(obj) is dict and attribute not in DICT_NAMES:  # `message.role`: most of what templates do
            found = obj.get(attribute, MISSING)
            return self.undefined(obj=obj, name=attribute) if found is MISSING else found
        if type(obj) is not Namespace and isinstance(obj, Undefined):
            return super().getattr(obj, attribute)  # raises, or is a chain of undefined values
        found = member(budget, obj, attribute)
        if found is FORBIDDEN:
            return self.unsafe_undefined(obj, attribute)
        if found is MISSING and type(obj) is dict:
            found = obj.get(attribute, MISSING)
        return self.undefined(obj=obj, name=attribute) if found is MISSING else found

    def getitem(self, obj: object, argument: object) -> object:
        """Return `obj[argument]`: an item if there is one, else an attribute; as in jinja2."""
        self.budget.spend()
        if not isinstance(argument, (str, int, float, type(None), Undefined)):
            return self.undefined(obj=obj, name=f"a {type(argument).__name__}")  # the hash of a tuple may not end
        if isinstance(obj, Undefined):
            return super().getitem(obj, argument)  # raises
        found: object = MISSING
        if isinstance(obj, dict):
            found = obj.get(argument, MISSING)
        elif isinstance(obj, (str, list, tuple, range)) and isinstance(argument, int):
            found = obj[argument] if -len(obj) <= argument < len(obj) else MISSING
        if found is MISSING and isinstance(argument, str):
            found = member(self.budget, obj, argument)
        if found is FORBIDDEN:
            return self.unsafe_undefined(obj, str(argument))
        return self.undefined(obj=obj, name=str(argument)) if found is MISSING else found
