"""The filters that a chat template may use: jinja2's, as far as chat templates use them, bounded and with origins.

Filters that make lists return lists, not generators: a generator's work happens where nobody counts it. HTML has no
place in a prompt, so `safe` changes nothing and the filters for links and attributes do not exist.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import SupportsIndex

from jinja2 import Environment, Undefined
from jinja2.filters import FILTERS, make_attrgetter
from jinja2.runtime import Context
from markupsafe import escape

from localllm.chat import strings
from localllm.chat.budget import Budget, Operation
from localllm.chat.formatting import percent, text_of, to_json
from localllm.chat.operators import checked_integer, iterate
from localllm.chat.traced import join, origin_of, plain, stamp

_MAX_INDENT = 1000
_MAX_DIGITS = 300  # a float has no more before or after its point


def _iterable(value: object) -> Iterable[object]:
    if not isinstance(value, Iterable):
        raise TypeError(f"{type(value).__name__!r} object is not iterable")
    return value


def make_list(budget: Budget, value: object) -> list[object]:
    """Return the items of `value`; those of a text are its characters."""
    return list(iterate(budget, _iterable(value)))


def first(budget: Budget, value: object) -> object:
    """Return the first item."""
    return next(iter(_iterable(value)), Undefined("No first item, sequence was empty."))


def last(budget: Budget, value: object) -> object:
    """Return the last item."""
    items = value if isinstance(value, (str, list, tuple, range)) else make_list(budget, value)
    return items[-1] if items else Undefined("No last item, sequence was empty.")


def length(budget: Budget, value: object) -> int:
    """Return the count of items."""
    if not isinstance(value, (str, list, tuple, range, Mapping, Undefined)):
        raise TypeError(f"object of type {type(value).__name__!r} has no len()")
    return len(value)


def reverse(budget: Budget, value: object) -> object:
    """Return the items, or the characters of a text, backwards."""
    if isinstance(value, str):
        budget.make(len(value))
        return value[::-1]
    return make_list(budget, value)[::-1]


def items(budget: Budget, value: object) -> list[tuple[object, object]]:
    """Return the pairs of a mapping."""
    if isinstance(value, Undefined):
        return []
    if not isinstance(value, Mapping):
        raise TypeError("Can only get item pairs from a mapping.")
    budget.spend(len(value))
    return list(value.items())


def dictsort(
    budget: Budget, value: Mapping[object, object], case_sensitive: bool = False, by: str = "key", reverse: bool = False
) -> object:
    """Return the pairs of a mapping, sorted."""
    charge_sort(budget, value, len(value))
    return FILTERS["dictsort"](value, case_sensitive, by, reverse)


def charge_sort(budget: Budget, value: object, count: int) -> None:
    """Charge for sorting `value`, which has `count` items."""
    weight = budget.weigh(value)
    budget.spend((weight.nodes + weight.chars // 256) * count.bit_length())


def indent(budget: Budget, value: object, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    """Return a text with its lines after the first moved to the right; `first` and `blank` move those lines too."""
    text = text_of(budget, value)
    margin = width if isinstance(width, str) else " " * min(width, _MAX_INDENT + 1)
    if len(margin) > _MAX_INDENT:
        raise ValueError(f"indent by more than {_MAX_INDENT} characters")
    lines = strings.splitlines(budget, join((text, "\n")))
    budget.make(len(text) + len(lines) * (len(margin) + 1))
    moved = [
        join((margin, line)) if (line or blank) and (first or number) else line for number, line in enumerate(lines)
    ]
    return join(moved, "\n")


def escape_html(budget: Budget, value: object) -> str:
    """Return a text with HTML's five characters escaped."""
    text = text_of(budget, value)
    budget.make(5 * len(text))
    return stamp(str(escape(plain(text))), origin_of(text))


def format_percent(budget: Budget, value: object, *args: object, **kwargs: object) -> str:
    """Return `value % args`."""
    return percent(budget, text_of(budget, value), kwargs or args)


def to_int(budget: Budget, value: object, default: object = 0, base: SupportsIndex = 10) -> object:
    """Return an integer, or `default` if `value` is none."""
    try:
        if isinstance(value, str):
            budget.scan(value)
            return checked_integer(int(plain(value), base))
        return int(value) if isinstance(value, (int, float)) else default
    except (ValueError, OverflowError):
        number = to_float(budget, value, None)
        return int(number) if isinstance(number, float) and math.isfinite(number) else default


def to_float(budget: Budget, value: object, default: object = 0.0) -> object:
    """Return a number with a point, or `default` if `value` is none."""
    try:
        return float(value) if isinstance(value, (str, int, float)) else default
    except (ValueError, OverflowError):
        return default


def absolute(budget: Budget, value: float) -> float:
    """Return a number without its sign."""
    return abs(value)


def round_number(budget: Budget, value: float, precision: int = 0, method: str = "common") -> float:
    """Return a number rounded to `precision` digits: "common", "ceil" or "floor"."""
    if abs(precision) > _MAX_DIGITS:
        raise ValueError(f"round to {precision} digits; at most {_MAX_DIGITS}")
    if method == "common":
        return round(value, precision)
    shift = 10.0**precision
    return (math.ceil(value * shift) if method == "ceil" else math.floor(value * shift)) / shift


def _of_text(name: str) -> Operation:
    """Make the filter that is a method of text."""
    method = strings.STRING_METHODS[name]
    return lambda budget, value, *args: method(budget, text_of(budget, value), *args)


def _replace(budget: Budget, value: object, old: object, new: object, count: int | None = None) -> str:
    text, needle, other = (text_of(budget, part) for part in (value, old, new))
    return strings.replace(budget, text, needle, other, -1 if count is None else count)


def default(budget: Budget, value: object, default_value: object = "", boolean: bool = False) -> object:
    """Return `default_value` if `value` is undefined, or is false and `boolean` is set."""
    return default_value if isinstance(value, Undefined) or (boolean and not value) else value


PLAIN_FILTERS: Mapping[str, Operation] = {
    "default": default,
    "d": default,
    "list": make_list,
    "first": first,
    "last": last,
    "length": length,
    "count": length,
    "reverse": reverse,
    "items": items,
    "dictsort": dictsort,
    "indent": indent,
    "escape": escape_html,
    "e": escape_html,
    "safe": text_of,
    "string": text_of,
    "format": format_percent,
    "tojson": to_json,
    "int": to_int,
    "float": to_float,
    "abs": absolute,
    "round": round_number,
    "replace": _replace,
    "trim": _of_text("strip"),
    **{name: _of_text(name) for name in ("upper", "lower", "title", "capitalize", "center")},
}
"""Filters that need the budget and their arguments only."""


def join_items(
    budget: Budget, context: Context, value: object, d: object = "", attribute: str | int | None = None
) -> str:
    """Return the items as texts, with `d` between them."""
    found: Iterable[object] = iterate(budget, _iterable(value))
    if attribute is not None:
        found = map(make_attrgetter(context.environment, attribute), found)
    return strings.join_with(budget, text_of(budget, d), (text_of(budget, item) for item in found))


def sum_items(
    budget: Budget, context: Context, value: object, attribute: str | int | None = None, start: float = 0
) -> float:
    """Return the sum of numbers."""
    found: Iterable[object] = iterate(budget, _iterable(value))
    if attribute is not None:
        found = map(make_attrgetter(context.environment, attribute), found)
    total = start
    for number in found:
        if not isinstance(number, (int, float)) or not isinstance(total, (int, float)):
            raise TypeError(f"sum of a {type(number).__name__}")
        total += number
    checked_integer(total)
    return total


def _lazy(name: str) -> Operation:
    """Make the filter that jinja2 has as a generator."""
    original: Operation = FILTERS[name]

    def apply(budget: Budget, context: Context, value: object, *args: object, **kwargs: object) -> list[object]:
        found = make_list(budget, value) if value else []  # none is as good as no items, to jinja2
        return make_list(budget, original(context, found, *args, **kwargs))

    return apply


def _comparing(name: str, listed: bool) -> Operation:
    """Make the filter that jinja2 has and that compares the items with each other."""
    original: Operation = FILTERS[name]

    def apply(budget: Budget, context: Context, value: object, *args: object, **kwargs: object) -> object:
        found = make_list(budget, value)
        charge_sort(budget, found, len(found))
        result = original(context.environment, found, *args, **kwargs)
        return make_list(budget, result) if listed else result

    return apply


def _attr(budget: Budget, context: Context, value: object, name: str) -> object:
    environment: Environment = context.environment
    return environment.getattr(value, plain(name))


CONTEXT_FILTERS: Mapping[str, Operation] = {
    "join": join_items,
    "sum": sum_items,
    "attr": _attr,
    **{name: _lazy(name) for name in ("map", "select", "reject", "selectattr", "rejectattr")},
    **{name: _comparing(name, True) for name in ("sort", "unique")},
    **{name: _comparing(name, False) for name in ("min", "max")},
}
"""Filters that look up attributes, other filters or tests."""
