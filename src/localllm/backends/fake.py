"""A backend that answers from a script: for testing an application without a model.

Everything but the words is as with a real model: replies come as a stream of pieces, prompts are rendered and counted
in tokens, a second turn finds the first in the cache, `max_tokens`, `stop` and `timeout_s` end replies, and requests
queue, are cancelled and fail. `localllm.testing.check_backend` holds it to the same rules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from threading import Lock
from typing import ClassVar, TypeVar

from attrs import Attribute, field, frozen

from localllm._json import check_text
from localllm.backends.base import GenerateRequest, ModelSpec
from localllm.backends.clock import Clock
from localllm.backends.simple import Finish, Pause, Piece, SimpleBackend, SimpleModel
from localllm.backends.words import split_words
from localllm.errors import BackendError, InvalidOptionError, LocalLLMError, ScriptError
from localllm.types import TextDelta, ToolCall

_MAX_CACHED = 1_000_000  # tokens of the pretended prefix cache: more than tests make, and no leak in a long run


_V = TypeVar("_V")


def _check_text(instance: object, attribute: Attribute[_V], value: _V, /) -> None:
    if value is not None or attribute.default is not None:
        check_text(value, f"a FakeReply's {attribute.name}")


def _check_seconds(instance: object, attribute: Attribute[_V], value: _V, /) -> None:
    if value is None and attribute.default is None:
        return
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < math.inf:
        raise InvalidOptionError(f"{attribute.name} must be a number of seconds from 0; got {value!r:.80}")


def _check_flag(instance: object, attribute: Attribute[_V], value: _V, /) -> None:
    if not isinstance(value, bool):
        raise InvalidOptionError(f"{attribute.name} must be True or False; got {value!r:.80}")


def _check_error(instance: object, attribute: Attribute[_V], value: _V, /) -> None:
    if value is not None and not isinstance(value, Exception):
        raise InvalidOptionError(f"error must be an exception, such as ValueError('x'); got {value!r:.80}")


def _check_calls(instance: object, attribute: Attribute[_V], value: _V, /) -> None:
    if isinstance(value, tuple) and not all(isinstance(call, ToolCall) for call in value):
        raise InvalidOptionError(f"tool_calls must hold ToolCall; got {value!r:.80}")


def _as_calls(calls: Sequence[ToolCall]) -> tuple[ToolCall, ...]:
    given: object = calls
    if not isinstance(given, Sequence):
        raise InvalidOptionError(f"tool_calls must be a sequence of ToolCall; got {given!r:.80}")
    return tuple(calls)


def _as_chunks(chunks: Sequence[str]) -> tuple[str, ...]:
    given: object = chunks
    if isinstance(given, (str, bytes)) or not isinstance(given, Sequence):
        raise InvalidOptionError(f"chunks must be a sequence of str, such as ['Hel', 'lo']; got {given!r:.80}")
    return tuple(check_text(chunk, "a chunk of a FakeReply") for chunk in given)


@frozen
class FakeReply:
    """A scripted reply.

    Args:
        text: The reply; it comes word by word.
        chunks: The reply as the exact pieces it comes in, in place of `text`.
        thought: Reasoning that comes before it, word by word.
        delay_s: Seconds before each piece, the first included, by the backend's clock.
        first_delay_s: Seconds before the first piece, or before the end where there is none; None is `delay_s`.
        tool_calls: Calls that the reply asks for after its text; it ends with "tool_calls".
        truncated: It ends with "length", as if the model had run out of room.
        error: It ends with this. What is no LocalLLMError becomes the cause of a BackendError.
        crash: The backend breaks down: this reply and all others under way on the model end with BackendError; what
            the model had cached is gone; later requests are answered again.
        error_at: The index of the piece, thoughts counted, before which `error` or `crash` happens; None is after all.

    Raises:
        InvalidOptionError: A field of the wrong type or out of range, or two that exclude each other.
        InvalidPromptError: A text with lone surrogates; PromptTypeError if it is no str.
    """

    text: str = field(default="", validator=_check_text)
    chunks: tuple[str, ...] = field(default=(), kw_only=True, converter=_as_chunks)
    thought: str | None = field(default=None, kw_only=True, validator=_check_text)
    delay_s: float = field(default=0.0, kw_only=True, validator=_check_seconds)
    first_delay_s: float | None = field(default=None, kw_only=True, validator=_check_seconds)
    tool_calls: tuple[ToolCall, ...] = field(default=(), kw_only=True, converter=_as_calls, validator=_check_calls)
    truncated: bool = field(default=False, kw_only=True, validator=_check_flag)
    error: Exception | None = field(default=None, kw_only=True, validator=_check_error)
    crash: bool = field(default=False, kw_only=True, validator=_check_flag)
    error_at: int | None = field(default=None, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if self.text and self.chunks:
            raise InvalidOptionError("a FakeReply has text or chunks, not both")
        if "" in self.chunks:
            raise InvalidOptionError(f"chunks holds an empty str at index {self.chunks.index('')}; no model sends one")
        ends = {"tool_calls": self.tool_calls, "truncated": self.truncated, "error": self.error, "crash": self.crash}
        chosen = [name for name, given in ends.items() if given]
        if len(chosen) > 1:
            raise InvalidOptionError(f"a FakeReply ends in one way; choose one of {', '.join(chosen)}")
        self._check_error_at()

    @property
    def pieces(self) -> tuple[TextDelta, ...]:
        """The pieces it comes in, thoughts first."""
        thought = [TextDelta(word, "thought") for word in split_words(self.thought or "")]
        return (*thought, *(TextDelta(chunk) for chunk in self.chunks or split_words(self.text)))

    def _check_error_at(self) -> None:
        if self.error_at is None:
            return
        count = len(self.pieces)
        given: object = self.error_at
        if not isinstance(given, int) or isinstance(given, bool) or not 0 <= given <= count:
            raise InvalidOptionError(f"error_at must be from 0 to the reply's {count} pieces; got {given!r:.80}")
        if self.error is None and not self.crash:
            raise InvalidOptionError("error_at says when error or crash happens, and this FakeReply has neither")


class FakeBackend(SimpleBackend):
    """A backend whose models answer from a script, for tests of applications.

    ::

        backend = FakeBackend(["Hello!", FakeReply(chunks=["Good", "bye"], delay_s=0.1), ValueError("boom")])
        with ModelManager(backend=backend) as models:
            chat = ChatSession(models.load("anything"))
            assert chat.send("Hi").text == "Hello!"
        assert backend.requests[0].messages[-1].content == "Hi"

    Every reply that is asked for, of any of its models, takes the next item, in the order in which they are asked for;
    so does a completion of a user's text, while a preload takes none. When the script runs out, the request ends with
    ScriptError. So it does when a reply's text is not what the request's schema, regex, choice or grammar asks for;
    JSON may be spelled in any way.

    Args:
        script: The replies: a str for its text, a FakeReply for more, an exception for a request that fails. May be
            infinite, such as `itertools.repeat("ok")`, or a generator that looks at `requests[-1]` to decide.
        clock: What delays, time-outs and timings go by; a `localllm.testing.ManualClock` makes them a test's own.

    Raises:
        InvalidOptionError: The script is no iterable of such items. An item that only an iterator brings up ends its
            request with it.
    """

    name = "fake"

    def __init__(self, script: Iterable[str | FakeReply | Exception], *, clock: Clock | None = None) -> None:
        super().__init__()
        given: object = script
        if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable):
            raise InvalidOptionError(f"script must be an iterable of replies, such as ['Hello!']; got {given!r:.80}")
        self._script = iter([_reply(item) for item in given] if isinstance(given, Sequence) else given)
        self._clock = clock
        self._requests: list[GenerateRequest] = []
        self._taking = Lock()
        self._taken = 0

    @property
    def requests(self) -> tuple[GenerateRequest, ...]:
        """The replies asked for so far, oldest first; preloads and requests that no queue had room for are left out."""
        return tuple(self._requests)

    def open(self, spec: ModelSpec) -> SimpleModel:
        """Return a model; any reference will do."""
        return _FakeModel(spec, self._take, self._clock)

    def _take(self, request: GenerateRequest) -> FakeReply:
        """Record `request` and return the script's next reply; what is wrong with it is a reply that fails."""
        with self._taking:
            self._requests.append(request)
            try:
                reply = _reply(next(self._script))
            except StopIteration:
                return FakeReply(error=self._ran_out(request))
            except Exception as exc:  # noqa: BLE001  # the script is a test's own code: its failure goes to the test
                return FakeReply(error=exc)
            self._taken += 1
            return reply

    def _ran_out(self, request: GenerateRequest) -> ScriptError:
        last = request.messages[-1] if request.messages else None
        asked = "nothing" if last is None else f"{last.role}: {last.content!r:.120}"
        held = "1 reply" if self._taken == 1 else f"{self._taken} replies"
        return ScriptError(
            f"the FakeBackend's script held {held}, and one more was asked for ({asked}); add a reply to the script"
        )


class _FakeModel(SimpleModel):
    """Plays replies, and pretends to have a prefix cache."""

    completes: ClassVar[bool] = True

    def __init__(self, spec: ModelSpec, take: Callable[[GenerateRequest], FakeReply], clock: Clock | None) -> None:
        super().__init__(spec, clock=clock)
        self._take = take
        self._cache = _PrefixCache()

    def accept(self, request: GenerateRequest) -> Callable[[], Iterable[Piece]]:
        reply = self._take(request)
        return lambda: self._play(reply, request)

    def pieces(self, request: GenerateRequest) -> Iterable[Piece]:
        return self.accept(request)()

    def cached_tokens(self, prompt: tuple[int, ...]) -> int:
        return self._cache.find(prompt)

    def keep(self, tokens: tuple[int, ...]) -> None:
        self._cache.add(tokens)

    def _play(self, reply: FakeReply, request: GenerateRequest) -> Iterator[Piece]:
        _check_grammar(reply, request)
        pieces = reply.pieces
        replies = request.purpose == "reply"  # else it is a user's text, which has neither thoughts nor calls
        fails_at = len(pieces) if reply.error_at is None else reply.error_at
        # Each piece has its moment, counted from the start, so that a clock moved by 3 s brings three pieces 1 s apart.
        moment_s = self.clock.now()
        for index in range(max(1, len(pieces))):
            delay_s = reply.first_delay_s if index == 0 and reply.first_delay_s is not None else reply.delay_s
            moment_s += delay_s
            if delay_s:
                yield Pause(moment_s)
            if index == fails_at:
                self._fail(reply)
            yield from (piece for piece in pieces[index : index + 1] if replies or piece.segment == "text")
        if fails_at == len(pieces):
            self._fail(reply)
        yield from reply.tool_calls if replies else ()
        yield Finish("length" if reply.truncated else "stop")

    def _fail(self, reply: FakeReply) -> None:
        if reply.error is not None:
            raise reply.error.with_traceback(None)  # one that is raised again and again would collect tracebacks
        if reply.crash:
            self.end_all(_crashed)  # this reply too: what is still played of it goes nowhere
            self._cache = _PrefixCache()


class _PrefixCache:
    """The prefixes that were computed: a tree of tokens, kept as one flat table of (node, token) to node."""

    def __init__(self) -> None:
        self._children: dict[tuple[int, int], int] = {}

    def find(self, tokens: tuple[int, ...]) -> int:
        """Return how many of the first `tokens` are known."""
        node = 0
        for count, token in enumerate(tokens):
            child = self._children.get((node, token))
            if child is None:
                return count
            node = child
        return len(tokens)

    def add(self, tokens: tuple[int, ...]) -> None:
        """Learn `tokens`; once there are too many, all that was learned before is forgotten."""
        if len(self._children) > _MAX_CACHED:
            self._children.clear()
        node = 0
        for token in tokens:
            node = self._children.setdefault((node, token), len(self._children) + 1)


def _check_grammar(reply: FakeReply, request: GenerateRequest) -> None:
    """Raise ScriptError if the reply's text is not what the request's grammar asks for; no model could have made it.

    A reply that is cut off or fails may end anywhere, and one that calls tools may have no text.
    """
    text = reply.text or "".join(reply.chunks)
    if request.grammar is None or (reply.tool_calls and not text):
        return
    from localllm.output.scripts import departure  # llguidance is for those who ask for a grammar

    whole = not (reply.truncated or reply.error or reply.crash)
    found = departure(request.grammar, request.prefix + text, whole=whole)
    if found is not None:
        raise ScriptError(
            f"the FakeBackend's script departs from the {request.grammar.kind} that was asked for {found}; "
            f"the reply was {text!r:.120}"
        )


def _reply(item: object) -> FakeReply:
    """Return a script's item as a reply."""
    match item:
        case FakeReply():
            return item
        case str():
            return FakeReply(check_text(item, "a reply of a FakeBackend's script"))
        case Exception():
            return FakeReply(error=item)
        case _:
            raise InvalidOptionError(
                f"a script holds str, FakeReply or exceptions , not classes of them,; got {item!r:.80}"
            )


def _crashed() -> LocalLLMError:
    return BackendError("the backend crashed (FakeReply(crash=True)); requests from now on are answered again")
