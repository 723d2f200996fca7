"""The attributes and methods that a template may have of each kind of value; there are no others."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from jinja2.runtime import LoopContext, Macro
from jinja2.utils import Cycler, Namespace

from localllm.chat.budget import Budget, Operation
from localllm.chat.strings import STRING_METHODS
from localllm.chat.traced import TracedText


class Bound:
    """A function that a template may call, with its first arguments."""

    __slots__ = ("_args", "_function")

    def __init__(self, function: Operation, *args: object) -> None:
        self._function = function
        self._args = args

    def __call__(self, *args: object, **kwargs: object) -> object:
        return self._function(*self._args, *args, **kwargs)


class _Missing:
    """The type of `MISSING`."""


MISSING = _Missing()
"""Stands for an attribute that a value does not have."""

FORBIDDEN = _Missing()
"""Stands for an attribute that a value has, and that templates may not have."""


def _get(budget: Budget, value: dict[object, object], key: object, default: object = None) -> object:
    if not isinstance(key, (str, int, float, type(None))):
        raise TypeError(f"a {type(key).__name__} is no key")
    return value.get(key, default)


def _listed(method: Callable[[dict[object, object]], object]) -> Operation:
    def call(budget: Budget, value: dict[object, object]) -> object:
        budget.spend(len(value))
        return method(value)

    return call


def _search(method: Operation) -> Operation:
    def call(budget: Budget, value: object, wanted: object, *bounds: int) -> object:
        budget.weigh(value, wanted)  # compares, and names in its error, what may be nested without end
        return method(value, wanted, *bounds)

    return call


def _changed(budget: Budget, loop: LoopContext, *values: object) -> object:
    budget.weigh(values)
    return loop.changed(*values)


def _reset(budget: Budget, cycler: Cycler) -> None:
    cycler.reset()


_METHODS: Mapping[type, Mapping[str, Operation]] = {
    str: STRING_METHODS,
    dict: {
        "get": _get,
        "items": _listed(lambda value: list(value.items())),
        "keys": _listed(list),
        "values": _listed(lambda value: list(value.values())),
        "copy": _listed(dict),
    },
    list: {"index": _search(list.index), "count": _search(list.count)},
    tuple: {"index": _search(tuple.index), "count": _search(tuple.count)},
    LoopContext: {"cycle": lambda budget, loop, *values: loop.cycle(*values), "changed": _changed},
    Cycler: {"next": lambda budget, cycler: cycler.next(), "reset": _reset},
}
_ATTRIBUTES: Mapping[type, frozenset[str]] = {
    LoopContext: frozenset(
        {"index", "index0", "revindex", "revindex0", "first", "last", "length", "depth", "depth0"}
        | {"previtem", "nextitem"}
    ),
    Macro: frozenset({"name", "arguments", "catch_kwargs", "catch_varargs", "caller"}),
    Cycler: frozenset({"current"}),
}
_KINDS = (str, dict, list, tuple)
_KIND_OF: Mapping[type, type] = {  # what nearly every value is; asking a namespace for its class is slow
    TracedText: str,
    **{kind: kind for kind in (*_KINDS, Namespace, LoopContext, Macro, Cycler)},
}
DICT_NAMES = frozenset(dir(dict))
"""The attributes of a dict; every other name is that of an item."""


def member(budget: Budget, value: object, name: str) -> object:
    """Return `value.name`, MISSING or FORBIDDEN."""
    kind = _KIND_OF.get(type(value)) or next((kind for kind in _KINDS if isinstance(value, kind)), type(value))
    method = _METHODS.get(kind, {}).get(name)
    if method is not None:
        return Bound(method, budget, value)
    if kind is Namespace:
        return FORBIDDEN if name.startswith("_") else getattr(value, name, MISSING)
    if name in _ATTRIBUTES.get(kind, ()):
        found: object = getattr(value, name)
        return found
    return FORBIDDEN if hasattr(kind, name) else MISSING
