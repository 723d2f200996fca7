"""How much a template may compute: a model's template is untrusted input, and rendering must end.

jinja2's sandbox keeps a template away from the process; it does not keep it from running for ever or from filling
the memory. So every operation that a template can make asks here first. Two things bound a render: the sum of its
steps, charged in proportion to the work, and the size of any text, checked before the text is made. No single
operation is then longer than some milliseconds, and between any two of them the clock is looked at.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TypeAlias

from attrs import define, field, frozen
from jinja2.utils import Namespace

from localllm.chat.traced import OWN, blend, origin_of
from localllm.errors import TemplateError

MAX_INTEGER_BITS = 4096
"""Longest integer; below the 4,300 digits from which Python refuses to print one."""

Operation: TypeAlias = Callable[..., object]  # type: ignore[explicit-any]
"""Something that a template can do. Its arguments are whatever the template gives, so they have no type."""

_CHARS_PER_STEP = 256  # a step is about a microsecond of Python; a character about a nanosecond of C
_STEPS_PER_CLOCK = 512


@frozen
class TemplateLimits:
    """Bounds of a template and of one render; the second kind grows with the text of the messages.

    Args:
        source_chars: Characters of the template itself.
        steps: Operations of one render; each character of the messages adds `growth` to it.
        chars: Characters of any one text; each character of the messages adds `growth` to it.
        growth: See above. JSON escapes, and templates that say things twice, need some.
        cpu_s: Seconds that the rendering thread may compute; waiting for a busy machine does not count.
    """

    source_chars: int = 131_072
    steps: int = 1_000_000
    chars: int = 1_048_576
    growth: int = 8
    cpu_s: float = 2.0


@frozen
class Weight:
    """The size of a value, shared parts counted as often as they are reached.

    Args:
        nodes: Values in it.
        chars: Characters of all its texts.
        depth: Nesting of its containers.
        origin: The origin of the content in it (see `localllm.chat.traced`).
    """

    nodes: int
    chars: int
    depth: int
    origin: str


@define(eq=False)
class Budget:
    """What one render may still do.

    Args:
        limits: The bounds.
        input_chars: Characters of the messages, tools and documents.
        clock: Seconds that this thread has computed.
    """

    limits: TemplateLimits
    input_chars: int = 0
    clock: Callable[[], float] = time.thread_time
    _granted: int = field(init=False)
    _steps: int = field(init=False)
    _until_clock: int = field(init=False, default=_STEPS_PER_CLOCK)
    _chars: int = field(init=False)
    _total_chars: int = field(init=False)
    _deadline: float = field(init=False)

    def __attrs_post_init__(self) -> None:
        extra = self.limits.growth * self.input_chars
        self._granted = self._steps = self.limits.steps + extra
        self._chars = self.limits.chars + extra
        # Bounds the memory: 64 texts of the greatest length. Templates that append to one text over and over are
        # quadratic and legitimate, so this is far above what is put out.
        self._total_chars = 64 * self._chars
        self._deadline = self.clock() + self.limits.cpu_s

    def spend(self, steps: int = 1) -> None:
        """Take `steps` from what is left.

        Raises:
            TemplateError: Nothing is left, or the time is over.
        """
        self._steps -= steps
        if self._steps < 0:
            raise TemplateError(
                f"the chat template computes too much: more than {self._granted:,} steps; "
                "it loops, or is made to exhaust the machine"
            )
        self._until_clock -= steps
        if self._until_clock < 0:
            self._until_clock = _STEPS_PER_CLOCK
            if self.clock() > self._deadline:
                raise TemplateError(f"the chat template computes for longer than {self.limits.cpu_s:g} s")

    def scan(self, text: str, times: int = 1) -> None:
        """Charge for looking at all of `text`, `times` times."""
        self.spend(1 + len(text) * times // _CHARS_PER_STEP)

    def fits(self, chars: int) -> None:
        """Raise TemplateError if no text may have so many characters."""
        if chars > self._chars:
            raise TemplateError(
                f"the chat template makes a text of {chars:,} characters; "
                f"the limit for these messages is {self._chars:,}"
            )

    def make(self, chars: int) -> None:
        """Charge for a text of `chars` characters, before it is made.

        Raises:
            TemplateError: It is too long, or too much text has been made already.
        """
        self.fits(chars)
        self._total_chars -= chars
        if self._total_chars < 0:
            raise TemplateError(f"the chat template makes too much text: more than 64 x {self._chars:,} characters")
        self.spend(1 + chars // _CHARS_PER_STEP)

    def weigh(self, *values: object) -> Weight:
        """Return the size of `values` and charge for walking through them.

        A container may hold another one twice, and that one a third twice: thirty lines of template make a value
        that no comparison, hash or conversion to text would ever finish. Walking it here first runs out of steps.
        """
        nodes = chars = depth = 0
        origins = {OWN}
        stack = [(value, 0) for value in values]
        while stack:
            value, level = stack.pop()
            nodes += 1
            depth = max(depth, level)
            if isinstance(value, str):
                self.scan(value)
                chars += len(value)
                origins.add(origin_of(value))
                continue
            self.spend()
            if isinstance(value, Mapping):
                self.spend(2 * len(value))
                stack.extend((item, level + 1) for pair in value.items() for item in pair)
            elif isinstance(value, (list, tuple)):
                self.spend(len(value))
                stack.extend((item, level + 1) for item in value)
            elif isinstance(value, Namespace):
                stack.append((value._Namespace__attrs, level + 1))  # it has no public way to list them
        return Weight(nodes, chars, depth, blend(origins))
