"""Types of every kind that a reply can be."""

from __future__ import annotations

import datetime
import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from typing import Annotated, Generic, Literal, NamedTuple, NewType, NotRequired, TypedDict, TypeVar

import annotated_types
import attrs
import msgspec
import pydantic
from typing_extensions import Doc


class Color(enum.Enum):
    """The color of a thing."""

    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


@attrs.frozen
class Item:
    """A line of an order.

    More about it.
    """

    name: str = attrs.field(validator=attrs.validators.min_len(2), metadata={"description": "What it is."})
    count: Annotated[int, annotated_types.Ge(1), annotated_types.Le(9)] = 1
    _note: str = ""
    total: int = attrs.field(init=False, default=0)


@dataclass
class Order:
    items: list[Item]
    color: Color
    day: datetime.date
    remark: str | None = None
    tags: set[str] = dataclass_field(default_factory=set, metadata={"description": "Words to find it by."})

    def __post_init__(self) -> None:
        if len(self.items) > 2:
            raise ValueError("more than two items")


class Movie(TypedDict):
    title: Annotated[str, "As on the poster."]
    year: NotRequired[int]


class Point(NamedTuple):
    x: float
    y: float = 0.0


@attrs.frozen
class Node:
    value: int
    children: list[Node] = attrs.field(factory=list)


@attrs.frozen
class Circle:
    radius: Annotated[float, annotated_types.Gt(0)]


@attrs.frozen
class Square:
    side: float


@attrs.frozen
class Left:
    right: Right | None = None


@attrs.frozen
class Right:
    left: Left | None = None


T = TypeVar("T")


@attrs.frozen
class Box(Generic[T]):
    content: T
    spare: list[T] = attrs.field(factory=list)


class Person(pydantic.BaseModel):
    """Somebody."""

    name: str = pydantic.Field(min_length=2, description="In full.")
    age: Annotated[int, pydantic.Field(ge=0, le=150)]
    child: Person | None = None

    @pydantic.field_validator("name")
    @classmethod
    def _not_bad(cls, name: str) -> str:
        if name == "bad":
            raise ValueError("is bad")
        return name.title()


@dataclass
class Team:
    members: list[Person]
    leader: Person | None = None


UserId = NewType("UserId", int)
Code = Annotated[str, msgspec.Meta(pattern="^[a-z]+$", max_length=3, description="A code.")]
Rating = Annotated[int, annotated_types.Interval(ge=1, le=5), Doc("Stars.")]
Pair = Annotated[list[int] | None, annotated_types.Len(2, 2)]
Table = Mapping[str, Sequence[Literal["x", 1, None]]]
