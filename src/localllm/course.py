"""The course of a session's turn: ask, run calls, ask again, shorten the conversation where it is too long."""

from __future__ import annotations

from attrs import define, evolve, field, frozen

from localllm._json import JsonValue
from localllm.backends.base import GenerateRequest, Purpose
from localllm.chat.grammar import Grammar
from localllm.chat.history import History
from localllm.chat.overflow import Shortened, summarized, summary_tokens
from localllm.errors import ContextOverflowError, OutputValidationError, TruncatedOutputError
from localllm.options import RequestOptions
from localllm.output.forms import OutputForm
from localllm.output.partial_json import PartialJson
from localllm.stages import Ask, RunCalls, Shorten, Stage
from localllm.tools.tool import Toolbox
from localllm.types import FinishReason, GenerationEnded, Message

_MOST_TRIES = 3
"""Times that a turn's conversation is shortened at most (a guess): each time the backend may still refuse it."""


@frozen(kw_only=True)
class Wish:
    """What a turn is asked for, beside its prompt.

    Args:
        options: As validated.
        form: What the reply is to be, if not text.
        grammar: What its text must look like.
        prefix: What the reply begins with.
        purpose: "complete" for a guess at how the prompt goes on, in place of a reply.
    """

    options: RequestOptions
    form: OutputForm[object] | None = None
    grammar: Grammar | None = None
    prefix: str = ""
    purpose: Purpose = "reply"


@define(eq=False)
class ChatCourse:
    """Decides on the stages of a session's turn.

    Args:
        history: The conversation, the turn's prompt included.
        wish: What is asked for.
        box: What the model may call.
        shortens: Whether a conversation that is too long is shortened.
        n_ctx: Tokens of the context window; 0 if the backend does not tell.
    """

    history: History
    """With the window that the turn has found by now."""
    _wish: Wish
    _box: Toolbox = field(factory=Toolbox)
    _shortens: bool = False
    _n_ctx: int = 0
    _tokens: int | None = field(default=None, init=False)  # of all that was read and made, after the last reply
    _made: tuple[Message, ...] = field(default=(), init=False)
    _rounds: int = field(default=0, init=False)
    _calls: int = field(default=0, init=False)
    _tries: int = field(default=0, init=False)
    _summarizing: bool = field(default=False, init=False)
    _partial: PartialJson = field(factory=PartialJson, init=False)

    @property
    def reserve(self) -> int:
        """Tokens that a reply should have room for, before older turns stay."""
        quarter = self._n_ctx // 4
        return min(self._wish.options.max_tokens or quarter, quarter)

    @property
    def makes_values(self) -> bool:
        """Whether there is a schema."""
        return self._wish.form is not None

    def kept(self, made: tuple[Message, ...]) -> History:
        """Return the history with all that the turn has made."""
        history = self.history.answered(*made)
        if self._tokens is None or made[-1].finish_reason not in ("stop", "length", "tool_calls"):
            return history
        return evolve(history, counted=(self._tokens, len(history.messages)))

    def first(self) -> Stage:
        """Ask, or first shorten what is likely too long."""
        self._partial.push(self._wish.prefix)
        return self._ask()

    def after_reply(self, ended: GenerationEnded, message: Message, text: str) -> Stage | None:
        """Run the calls, or be done; go on after a summary; shorten what the backend refused."""
        if isinstance(ended.error, ContextOverflowError) and self._shortens and self._tries < _MOST_TRIES:
            return self._shorten(ended.error)
        if self._summarizing:
            return self._after_summary(ended, text)
        if ended.error is None:
            self._tokens = ended.usage.prompt_tokens + ended.usage.completion_tokens
        options = self._wish.options
        if ended.finish_reason != "tool_calls" or not options.run_tools or self._rounds >= options.max_tool_rounds:
            return None
        if not self._box.runs(message.tool_calls):
            return None
        self._rounds += 1
        self._made += (message,)
        first, self._calls = self._calls, self._calls + len(message.tool_calls)
        return RunCalls(message.tool_calls, first)

    def after_calls(self, results: tuple[Message, ...]) -> Stage:
        """Ask again, with the results."""
        self._made += results
        self._partial = PartialJson()
        return self._ask()

    def after_shortening(self, shortened: Shortened) -> Stage:
        """Ask, first for a summary if there is to be one."""
        if shortened.window is not None:
            self.history = evolve(self.history, window=shortened.window, counted=None)
        if not shortened.summarize:
            return Ask(self._request())
        self._summarizing = True
        given = self._wish.options
        plain = RequestOptions(
            max_tokens=summary_tokens(self._n_ctx),
            temperature=0.0,
            timeout_s=given.timeout_s,
            deterministic=given.deterministic,
            thoughts="off",
        )
        return Ask(GenerateRequest(messages=shortened.summarize, options=plain), silent=True)

    def partial(self, piece: str) -> JsonValue:
        """Return the JSON that the text so far is, if a schema asks for any."""
        return None if self._wish.form is None else self._partial.push(piece)

    def conclude(self, message: Message, reason: FinishReason) -> object:
        """Return the value that the schema makes of a whole reply; None without a schema, and for calls.

        Raises:
            TruncatedOutputError: The reply was cut off.
            OutputValidationError: The reply is not what the schema asks for.
        """
        form = self._wish.form
        if form is None or reason not in ("stop", "length"):
            return None
        try:
            return form.parse(message.content)
        except OutputValidationError as exc:
            if reason == "stop":
                raise
            raise TruncatedOutputError(
                f"the reply was cut off after {len(message.content)} characters, before it was what its schema asks "
                "for; raise max_tokens, or shorten the conversation where the context window is full",
                partial=form.partial(message.content),
            ) from exc

    def _after_summary(self, ended: GenerationEnded, text: str) -> Stage | None:
        self._summarizing = False
        if ended.finish_reason not in ("stop", "length"):
            return None
        window = self.history.window
        if window is not None and text.strip():
            self.history = evolve(self.history, window=summarized(self.history, window, text))
        return Ask(self._request())

    def _ask(self) -> Stage:
        return self._shorten(None) if self._may_be_too_long() else Ask(self._request())

    def _may_be_too_long(self) -> bool:
        """Whether to count first: the backend would refuse what is too long, but not what leaves no room to reply."""
        if not self._shortens or not self._n_ctx or not self.history.cuts:
            return False
        return self.history.size(self._made) + self.reserve > self._n_ctx

    def _shorten(self, refused: ContextOverflowError | None) -> Stage:
        self._tries += refused is not None
        return Shorten(self.history, self._made, refused, self.reserve)

    def _prompt(self) -> tuple[Message, ...]:
        messages = self.history.messages + self._made
        return messages if self.history.window is None else self.history.window.of(messages)

    def _request(self) -> GenerateRequest:
        options = self._wish.options
        if self._rounds:  # a choice that asks for calls has been followed, and would be without end
            choice = "none" if self._rounds >= options.max_tool_rounds or options.tool_choice == "none" else "auto"
            options = evolve(options, tool_choice=choice)
        return GenerateRequest(
            messages=self._prompt(),
            options=options,
            grammar=self._wish.grammar,
            tools=self._box.definitions,
            prefix="" if self._rounds else self._wish.prefix,
            purpose=self._wish.purpose,
        )
