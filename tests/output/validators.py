"""The second validator: the package jsonschema, which knows nothing of ours."""

from __future__ import annotations

import datetime
from collections.abc import Mapping

import jsonschema


def _formats() -> jsonschema.FormatChecker:
    """jsonschema's own format checks, and those for which it would want further packages."""
    checker = jsonschema.FormatChecker()

    def date_time(value: object) -> bool:
        return not isinstance(value, str) or datetime.datetime.fromisoformat(value).tzinfo is not None

    def time(value: object) -> bool:
        return not isinstance(value, str) or datetime.time.fromisoformat(value).tzinfo is not None

    checker.checks("date-time", ValueError)(date_time)
    checker.checks("time", ValueError)(time)
    return checker


_FORMATS = _formats()


def complaint(value: object, schema: Mapping[str, object]) -> str | None:
    """What jsonschema has against `value`; None if nothing."""
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema, format_checker=_FORMATS)
    found = next(iter(validator.iter_errors(value)), None)
    return None if found is None else f"{found.json_path}: {found.message}"
