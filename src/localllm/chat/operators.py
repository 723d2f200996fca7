"""What a template's operators do: arithmetic, comparison, slicing and iteration, bounded, with origins kept."""

from __future__ import annotations

import operator
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence

from jinja2 import Undefined

from localllm.chat import strings
from localllm.chat.budget import MAX_INTEGER_BITS, Budget, Operation
from localllm.chat.formatting import percent, text_of
from localllm.errors import TemplateError

_MAX_RANGE = 100_000  # as in jinja2's sandbox


def checked_integer(value: object) -> object:
    """Return `value`; raise TemplateError if it is an integer that is too long."""
    if isinstance(value, int) and value.bit_length() > MAX_INTEGER_BITS:
        raise TemplateError(f"the chat template makes an integer of more than {MAX_INTEGER_BITS} bits")
    return value


def add(budget: Budget, left: object, right: object) -> object:
    """Return `left + right`."""
    if isinstance(left, str) and isinstance(right, str):
        return strings.concatenate(budget, (left, right))
    if isinstance(left, (list, tuple)) and isinstance(right, (list, tuple)):
        budget.spend((len(left) + len(right)) // 8)
    return checked_integer(operator.add(left, right))


def multiply(budget: Budget, left: object, right: object) -> object:
    """Return `left * right`."""
    if isinstance(left, int) and not isinstance(right, (int, float)):
        left, right = right, left
    if isinstance(left, str) and isinstance(right, int):
        return strings.repeat(budget, left, right)
    if isinstance(left, (list, tuple)) and isinstance(right, int):
        budget.spend(len(left) * max(0, right) // 8)
    elif isinstance(left, int) and isinstance(right, int):
        _fits(left.bit_length() + right.bit_length())
    return operator.mul(left, right)


def power(budget: Budget, left: object, right: object) -> object:
    """Return `left ** right`."""
    if isinstance(left, int) and isinstance(right, int):
        _fits(left.bit_length() * abs(right))
    return operator.pow(left, right)


def modulo(budget: Budget, left: object, right: object) -> object:
    """Return `left % right`: the rest of a division, or a formatted text."""
    if isinstance(left, str):
        return percent(budget, left, right)
    return operator.mod(left, right)


def _fits(bits: int) -> None:
    if bits > MAX_INTEGER_BITS:
        raise TemplateError(f"the chat template makes an integer of more than {MAX_INTEGER_BITS} bits")


BINARY: Mapping[str, Callable[[Budget, object, object], object]] = {
    "+": add,
    "*": multiply,
    "**": power,
    "%": modulo,
    "-": lambda budget, left, right: checked_integer(operator.sub(left, right)),
    "/": lambda budget, left, right: operator.truediv(left, right),
    "//": lambda budget, left, right: operator.floordiv(left, right),
}
"""The arithmetic operators."""


def concat(budget: Budget, values: Iterable[object]) -> str:
    """Return what `a ~ b ~ c` puts together."""
    return strings.concatenate(budget, [text_of(budget, value) for value in values])


def _contains(value: object, container: object) -> bool:
    if isinstance(container, Undefined):
        return False
    if not isinstance(container, Container):
        raise TypeError(f"argument of type {type(container).__name__!r} is not iterable")
    return value in container


_COMPARE: Mapping[str, Operation] = {
    "eq": operator.eq,
    "ne": operator.ne,
    "gt": operator.gt,
    "gteq": operator.ge,
    "lt": operator.lt,
    "lteq": operator.le,
    "in": _contains,
    "notin": lambda value, container: not _contains(value, container),
}


def _charge_comparison(budget: Budget, left: object, right: object, within: bool) -> None:
    containers = (list, tuple, Mapping)
    if isinstance(left, containers) and isinstance(right, containers):
        budget.weigh(left, right)  # the only comparison that goes deep
    elif within and isinstance(right, containers):
        size = len(left) if isinstance(left, str) else 0
        budget.spend(len(right) * (1 + size // 256))
    elif isinstance(right, str):
        budget.scan(right)
    else:
        budget.spend()


def compare(budget: Budget, first: object, *rest: object) -> object:
    """Return `first op a op b ...`; `rest` is jinja2's names of operators and the operands, in turn."""
    result: object = True
    left = first
    for name, right in zip(rest[::2], rest[1::2], strict=True):
        _charge_comparison(budget, left, right, name in ("in", "notin"))
        result = _COMPARE[str(name)](left, right)
        if not result:
            return result
        left = right
    return result


def slice_of(
    budget: Budget, value: object, start: int | None = None, stop: int | None = None, step: int | None = None
) -> object:
    """Return `value[start:stop:step]`."""
    if isinstance(value, str):
        budget.make(len(value))
    elif isinstance(value, (list, tuple)):
        budget.spend(1 + len(value) // 8)
    elif not isinstance(value, (range, Undefined)):
        raise TypeError(f"a {type(value).__name__} has no slices")
    part: object = value[slice(start, stop, step)]
    return part


def iterate(budget: Budget, value: Iterable[object]) -> Iterator[object]:
    """Yield the items of `value`, each charged for."""
    for item in value:
        budget.spend()
        yield item


def make_range(budget: Budget, *args: int) -> range:
    """See `range`; at most 100,000 items."""
    numbers = range(*args)
    if len(numbers) > _MAX_RANGE:
        raise TemplateError(f"the chat template makes a range of {len(numbers):,} items; at most {_MAX_RANGE:,}")
    return numbers


def make_dict(budget: Budget, pairs: object = (), /, **more: object) -> dict[object, object]:
    """See `dict`; keys are texts, numbers, booleans or none."""
    if isinstance(pairs, Mapping):
        pairs = list(pairs.items())
    if not isinstance(pairs, Sequence) or isinstance(pairs, str):
        raise TypeError(f"cannot make a dict of a {type(pairs).__name__}")
    made: dict[object, object] = {}
    for key, value in pairs:
        budget.spend()
        if not isinstance(key, (str, int, float, type(None))):
            raise TypeError(f"a {type(key).__name__} is no key")  # hashing a nested tuple may take for ever
        made[key] = value
    made.update(more)
    return made
