"""Structured output as a user's type checker sees it: checked by `mypy --strict` and pyright, never run."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypedDict, assert_type

import attrs
import pydantic

from localllm import OutputForm, PartialJson, output_form
from localllm._json import JsonValue


@dataclass
class A:
    x: int


@attrs.frozen
class B:
    x: int


class Movie(TypedDict):
    title: str


class Point(NamedTuple):
    x: float


class Person(pydantic.BaseModel):
    name: str


class Color(enum.Enum):
    RED = "red"


def forms(given: Mapping[str, object]) -> None:
    """The type of what is parsed is the type that was asked for."""
    assert_type(output_form(A), OutputForm[A])
    assert_type(output_form(B), OutputForm[B])
    assert_type(output_form(Movie), OutputForm[Movie])
    assert_type(output_form(Point), OutputForm[Point])
    assert_type(output_form(Person), OutputForm[Person])
    assert_type(output_form(Color), OutputForm[Color])
    assert_type(output_form(int), OutputForm[int])
    assert_type(output_form(A | B), OutputForm[A | B])
    assert_type(output_form(A | None), OutputForm[A | None])
    assert_type(output_form(Literal["red", "blue"]), OutputForm[Literal["red", "blue"]])
    assert_type(output_form(list[A]), OutputForm[list[A]])
    assert_type(output_form(dict[str, list[B]]), OutputForm[dict[str, list[B]]])
    assert_type(output_form({"type": "object"}), OutputForm[JsonValue])
    assert_type(output_form(given), OutputForm[JsonValue])


def parsing() -> None:
    """What comes out is typed; what is partial is plain JSON."""
    form = output_form(A | B)
    assert_type(form.parse("{}"), A | B)
    assert_type(form.convert({}), A | B)
    assert_type(form.partial("{"), JsonValue)
    assert_type(form.schema, Mapping[str, JsonValue])
    assert_type(PartialJson().push("{"), JsonValue)


def mistakes() -> None:
    """What is no type is a type error."""
    output_form(3)  # type: ignore[call-overload]
