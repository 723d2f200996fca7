"""The methods of text that a template may call: bounded, and with the origin of every character kept.

Each function here is a method of `str` with the render's budget in front. A method that is not here does not exist
for a template.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import SupportsIndex

from localllm.chat.budget import Budget, Operation
from localllm.chat.formatting import format_fields
from localllm.chat.traced import blend, join, origin_of, origins_of, plain, stamp, traced

_SEARCH_CHARS_PER_STEP = 1000  # a naive search compares about so many characters in a microsecond


def cut(text: str, start: int, stop: int) -> str:
    """Return `text[start:stop]` with its origins."""
    return text[start:stop]  # TracedText keeps them itself; a plain str has none


def repeat(budget: Budget, text: str, count: int) -> str:
    """Return `text * count`."""
    budget.make(len(text) * max(0, count))
    return traced(plain(text) * count, origins_of(text) * count)


def concatenate(budget: Budget, parts: Sequence[str]) -> str:
    """Return the parts, one after the other."""
    budget.make(sum(map(len, parts)))
    return join(parts)


def _search(budget: Budget, text: str, needle: object) -> None:
    """Charge for a search that may compare `needle` at every place of `text`."""
    if isinstance(needle, str):
        budget.spend(1 + len(text) * len(needle) // _SEARCH_CHARS_PER_STEP)


def _strip(budget: Budget, text: str, chars: str | None, left: bool, right: bool) -> str:
    _search(budget, text, chars)
    budget.scan(text)
    start = len(text) - len(plain(text).lstrip(chars)) if left else 0
    stop = len(plain(text).rstrip(chars)) if right else len(text)
    return cut(text, start, max(start, stop))


def strip(budget: Budget, text: str, chars: str | None = None) -> str:
    """See `str.strip`."""
    return _strip(budget, text, chars, True, True)


def lstrip(budget: Budget, text: str, chars: str | None = None) -> str:
    """See `str.lstrip`."""
    return _strip(budget, text, chars, True, False)


def rstrip(budget: Budget, text: str, chars: str | None = None) -> str:
    """See `str.rstrip`."""
    return _strip(budget, text, chars, False, True)


def removeprefix(budget: Budget, text: str, prefix: str) -> str:
    """See `str.removeprefix`."""
    budget.scan(text)
    return cut(text, len(prefix), len(text)) if text.startswith(prefix) else text


def removesuffix(budget: Budget, text: str, suffix: str) -> str:
    """See `str.removesuffix`."""
    budget.scan(text)
    return cut(text, 0, len(text) - len(suffix)) if suffix and text.endswith(suffix) else text


def _pieces(budget: Budget, text: str, parts: Sequence[str]) -> list[str]:
    """Return `parts`, which occur in `text` in this order with only separators between them, as cuts of it."""
    budget.spend(len(parts))
    cuts, position = [], 0
    for part in parts:
        position = text.index(part, position)
        cuts.append(cut(text, position, position + len(part)))
        position += len(part)
    return cuts


def _separated(budget: Budget, text: str, parts: Sequence[str], separator: str) -> list[str]:
    budget.spend(len(parts))
    cuts, position = [], 0
    for part in parts:
        cuts.append(cut(text, position, position + len(part)))
        position += len(part) + len(separator)
    return cuts


def split(budget: Budget, text: str, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
    """See `str.split`."""
    budget.scan(text)
    parts = plain(text).split(sep, maxsplit)
    return _pieces(budget, text, parts) if sep is None else _separated(budget, text, parts, sep)


def rsplit(budget: Budget, text: str, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
    """See `str.rsplit`."""
    _search(budget, text, sep)
    budget.scan(text)
    parts = plain(text).rsplit(sep, maxsplit)
    return _pieces(budget, text, parts) if sep is None else _separated(budget, text, parts, sep)


def splitlines(budget: Budget, text: str, keepends: bool = False) -> list[str]:
    """See `str.splitlines`."""
    budget.scan(text)
    lines = plain(text).splitlines(True)
    budget.spend(len(lines))
    cuts, position = [], 0
    for line in lines:
        kept = line if keepends else line.splitlines()[0]
        cuts.append(cut(text, position, position + len(kept)))
        position += len(line)
    return cuts


def partition(budget: Budget, text: str, sep: str) -> tuple[str, str, str]:
    """See `str.partition`."""
    budget.scan(text)
    head, found, _ = plain(text).partition(sep)
    end = len(head) + len(found)
    return cut(text, 0, len(head)), cut(text, len(head), end), cut(text, end, len(text))


def rpartition(budget: Budget, text: str, sep: str) -> tuple[str, str, str]:
    """See `str.rpartition`."""
    _search(budget, text, sep)
    budget.scan(text)
    head, found, _ = plain(text).rpartition(sep)
    end = len(head) + len(found)
    return cut(text, 0, len(head)), cut(text, len(head), end), cut(text, end, len(text))


def replace(budget: Budget, text: str, old: str, new: str, count: SupportsIndex = -1) -> str:
    """See `str.replace`."""
    budget.scan(text)
    limit = count.__index__()
    found = len(text) + 1 if old == "" else plain(text).count(old)
    times = found if limit < 0 else min(found, limit)
    if not times:
        return text
    budget.make(len(text) + times * (len(new) - len(old)))
    if old == "":
        return stamp(plain(text).replace(old, new, times), blend((origin_of(text), origin_of(new))))
    return join(_separated(budget, text, plain(text).split(old, times), old), new)


def join_with(budget: Budget, separator: str, items: Iterable[object]) -> str:
    """See `str.join`."""
    parts: list[str] = []
    for item in items:
        if not isinstance(item, str):
            raise TypeError(f"join needs texts; item {len(parts)} is a {type(item).__name__}")
        budget.spend()
        parts.append(item)
    budget.make(sum(map(len, parts)) + len(separator) * max(0, len(parts) - 1))
    return join(parts, separator)


def _change_case(method: Callable[[str], str]) -> Callable[[Budget, str], str]:
    def change(budget: Budget, text: str) -> str:
        budget.make(3 * len(text))  # no character becomes more than three
        changed = method(plain(text))
        if len(changed) == len(text):
            return traced(changed, origins_of(text))
        return stamp(changed, origin_of(text))

    return change


def _pad(method: Callable[[str, SupportsIndex, str], str]) -> Operation:
    def pad(budget: Budget, text: str, width: SupportsIndex, fillchar: str = " ") -> str:
        budget.make(max(len(text), width.__index__()))
        return stamp(method(plain(text), width, fillchar), blend((origin_of(text), origin_of(fillchar))))

    return pad


def zfill(budget: Budget, text: str, width: SupportsIndex) -> str:
    """See `str.zfill`."""
    budget.make(max(len(text), width.__index__()))
    return stamp(plain(text).zfill(width), origin_of(text))


def _question(method: Operation) -> Operation:
    """Make a method that returns no text; a search from the right may compare everything with everything."""

    def ask(budget: Budget, text: str, *args: object) -> object:
        budget.scan(text)
        for needle in args:
            if isinstance(needle, (tuple, list)):
                budget.weigh(needle)
            _search(budget, text, needle)
        return method(plain(text), *args)

    return ask


def apply_format(budget: Budget, text: str, *args: object, **kwargs: object) -> str:
    """See `str.format`; fields have no attributes, items or nested fields."""
    return format_fields(budget, text, args, kwargs)


STRING_METHODS: Mapping[str, Operation] = {
    "strip": strip,
    "lstrip": lstrip,
    "rstrip": rstrip,
    "removeprefix": removeprefix,
    "removesuffix": removesuffix,
    "split": split,
    "rsplit": rsplit,
    "splitlines": splitlines,
    "partition": partition,
    "rpartition": rpartition,
    "replace": replace,
    "join": join_with,
    "format": apply_format,
    "zfill": zfill,
    "ljust": _pad(str.ljust),
    "rjust": _pad(str.rjust),
    "center": _pad(str.center),
    **{
        method.__name__: _change_case(method)
        for method in (str.upper, str.lower, str.title, str.capitalize, str.swapcase, str.casefold)
    },
    **{
        method.__name__: _question(method)
        for method in (
            *(str.startswith, str.endswith, str.find, str.rfind, str.index, str.rindex, str.count),
            *(str.isalpha, str.isdigit, str.isalnum, str.isspace, str.isupper, str.islower, str.istitle),
            *(str.isdecimal, str.isnumeric, str.isascii, str.isprintable, str.isidentifier),
        )
    },
}
"""What a template may call on a text."""
