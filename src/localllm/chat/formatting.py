"""`'%s' % value`, `'{}'.format(value)` and the conversion of values to text, bounded and with origins kept.

A width is at most four digits here: `'%999999999d' % 1` would otherwise fill the memory in one operation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from string import Formatter

from jinja2 import Undefined

from localllm.chat.budget import Budget
from localllm.chat.traced import OWN, join, origin_of, plain, stamp

# Possessive quantifiers: without them a long run of zeros after a "%" takes quadratic time.
_CONVERSION = re.compile(
    r"%(?:\((?P<key>[^()]*+)\))?(?P<flags>[#0\- +]*+)(?P<width>\d{0,4}+)(?P<precision>(?:\.\d{0,4}+)?)[hlL]?"
    r"(?P<type>[a-zA-Z%])"
)
_LONG_NUMBER = re.compile(r"\d{5}")
_SCALARS = (int, float, type(None))
_MAX_INDENT = 32
_MAX_SEPARATOR = 16


def text_of(budget: Budget, value: object) -> str:
    """Return what `{{ value }}` puts out."""
    if isinstance(value, str):
        return value
    if isinstance(value, (*_SCALARS, Undefined)):
        return str(value)
    if isinstance(value, (list, tuple, Mapping)):
        weight = budget.weigh(value)
        budget.fits(weight.chars + 4 * weight.nodes)
        text = str(value)
        budget.make(len(text))
        return stamp(text, weight.origin)
    return f"<{type(value).__name__}>"


def percent(budget: Budget, pattern: str, values: object) -> str:
    """Return `pattern % values`."""
    budget.scan(pattern)
    positional = values if isinstance(values, tuple) else (values,)
    pieces, position, used = [], 0, 0
    while (found := pattern.find("%", position)) >= 0:
        match = _CONVERSION.match(plain(pattern), found)
        if match is None:
            raise ValueError(f"unsupported format {plain(pattern)[found : found + 20]!r}")
        pieces.append(pattern[position:found])
        position = match.end()
        if match["type"] == "%":
            pieces.append(pattern[found : found + 1])
            continue
        if match["key"] is not None:
            if not isinstance(values, Mapping):
                raise TypeError("format requires a mapping")
            value: object = values[match["key"]]
        elif used < len(positional):
            value, used = positional[used], used + 1
        else:
            raise TypeError("not enough arguments for format string")
        pieces.append(_converted(budget, match, value))
    if used < len(positional) and not isinstance(values, Mapping):
        raise TypeError("not all arguments converted during string formatting")
    pieces.append(pattern[position:])
    budget.make(sum(map(len, pieces)))
    return join(pieces)


def _converted(budget: Budget, match: re.Match[str], value: object) -> str:
    """Return one value as one conversion of `percent` spells it."""
    kind = match["type"]
    if kind in "sra" and not isinstance(value, (str, *_SCALARS)):
        value, kind = text_of(budget, value), "s"
    if kind == "s" and isinstance(value, str) and not (match["width"] or match["precision"]):
        return value
    if not isinstance(value, (str, *_SCALARS)):
        raise TypeError(f"%{kind} of a {type(value).__name__}")
    origin = origin_of(value) if isinstance(value, str) else OWN
    budget.make(10 * len(value) if isinstance(value, str) else 10_000)
    conversion = "%" + match["flags"] + match["width"] + match["precision"] + kind
    return stamp(conversion % (value,), origin)


def format_fields(budget: Budget, pattern: str, args: Sequence[object], kwargs: Mapping[str, object]) -> str:
    """Return `pattern.format(*args, **kwargs)`."""
    budget.scan(pattern)
    origin = origin_of(pattern)
    pieces: list[str] = []
    automatic = 0
    for literal, name, spec, conversion in Formatter().parse(plain(pattern)):
        pieces.append(stamp(literal, origin))
        if name is None:
            continue
        if name == "":
            name, automatic = str(automatic), automatic + 1
        if not re.fullmatch(r"\w*", name) or "{" in (spec or "") or _LONG_NUMBER.search(spec or ""):
            raise ValueError(f"unsupported format field {name!r:.40}")
        value = args[int(name)] if name.isdecimal() else kwargs[name]
        pieces.append(_field(budget, value, spec or "", conversion))
    budget.make(sum(map(len, pieces)))
    return join(pieces)


def _field(budget: Budget, value: object, spec: str, conversion: str | None) -> str:
    """Return one value as one field of `format_fields` spells it."""
    if not isinstance(value, (str, *_SCALARS)):
        value = text_of(budget, value)
    if isinstance(value, str) and not spec and conversion in (None, "s"):
        return value
    origin = origin_of(value) if isinstance(value, str) else OWN
    budget.make(10 * len(value) if isinstance(value, str) else 10_000)
    if isinstance(value, str):
        value = plain(value)
    match conversion:
        case "r":
            value = repr(value)
        case "a":
            value = ascii(value)
        case _:  # "s", which format() would refuse for none
            value = value if conversion is None else str(value)
    return stamp(format(value, spec), origin)


def to_json(
    budget: Budget,
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: Sequence[str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Return `value` as JSON, with Hugging Face's defaults: characters beyond ASCII and HTML's are not escaped."""
    if isinstance(indent, str):
        indent = plain(indent)
    width = len(indent) if isinstance(indent, str) else indent or 0
    if width > _MAX_INDENT:
        raise ValueError(f"tojson indents by {width} characters; at most {_MAX_INDENT}")
    pair: tuple[str, str] | None = None
    if separators is not None:
        item, key = separators
        pair = plain(item), plain(key)
        if len(item) + len(key) > _MAX_SEPARATOR:
            raise ValueError(f"tojson's separators are longer than {_MAX_SEPARATOR} characters")
    weight = budget.weigh(value)
    budget.fits(weight.chars + weight.nodes * (weight.depth * width + 4))
    text = json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=pair, sort_keys=sort_keys)
    budget.make(len(text))
    return stamp(text, weight.origin)
