"""A request on its way through the engine."""

from __future__ import annotations

from collections import deque

from attrs import define, field, frozen

from localllm.engine.constraint import Constraint
from localllm.engine.fold import Fold
from localllm.engine.model import Sampler
from localllm.engine.output import Output
from localllm.engine.sequence import Sequence
from localllm.engine.stored import Stored
from localllm.options import RequestOptions


@frozen(eq=False, kw_only=True)
class ReplyForm:
    """What a reply is held to, and how its text is read; all of it belongs to one request.

    Args:
        constraint: Holds it to a grammar; None lets it go free.
        fold: Tells its thoughts and calls from its text; None takes all for text.
        markers: Control tokens that are spelled out in the text that the fold reads; others are left out.
    """

    constraint: Constraint | None = None
    fold: Fold | None = None
    markers: frozenset[int] = frozenset()


@define(eq=False)
class Request:
    """A request on its way through the engine.

    Args:
        sequence: Its tokens.
        options: Its options.
        output: Where its text goes.
        deadline_s: When it times out, by the engine's clock, or None.
        given: Tokens that an earlier run of this request generated: taken one by one instead of what is sampled.
        constraint: Holds it to a grammar, or None.
        markers: Control tokens that are spelled out in its text.
        stored: What is kept of its prompt outside the engine, or None.
        begun: Whether it has said anything, or could have.
        cancelled: Set by any thread to have it end.
        sampler: Its sampler, once it has one.
        failures: Times that the context broke while it was being computed, with nothing generated in between.
    """

    sequence: Sequence
    options: RequestOptions
    output: Output
    deadline_s: float | None
    given: deque[int] = field(factory=deque)
    constraint: Constraint | None = None
    markers: frozenset[int] = frozenset()
    stored: Stored | None = None
    begun: bool = False
    cancelled: bool = False
    sampler: Sampler | None = None
    failures: int = 0
