"""What the engine is given for a request: the prompt's tokens, the reply's grammar, and who reads its text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import takewhile

from attrs import evolve, frozen

from localllm._json import JsonValue
from localllm.backends.base import GenerateRequest
from localllm.backends.llamacpp.completing import WithoutWord, last_word
from localllm.chat.dialects import Dialect
from localllm.chat.dialects.prefixed import PrefixedParser
from localllm.chat.rendered import RenderedPrompt
from localllm.chat.renderer import PromptRenderer
from localllm.chat.vocabulary import Vocabulary
from localllm.engine.fold import Fold
from localllm.errors import ContextOverflowError, InvalidOptionError
from localllm.output.grammars import to_llguidance
from localllm.types import Message


@frozen(eq=False, kw_only=True)
class Prepared:
    """A request, as far as it can be prepared without a grammar's compiler.

    Args:
        tokens: The prompt's tokens, the reply's prefix among them.
        prefix: What the reply begins with already.
        grammar: What holds the reply, as llguidance reads it; None if it is free.
        fold: Tells its thoughts and calls from its text; None takes all for text.
        markers: Control tokens that the fold is to see.
        word: What a completion's text begins with, though the user has it, as `completing` says; None for all else.
        stop: Texts that end it, besides the request's own.
    """

    tokens: Sequence[int]
    prefix: str = ""
    grammar: str | None = None
    fold: Fold | None = None
    markers: frozenset[int] = frozenset()
    word: str | None = None
    stop: tuple[str, ...] = ()


class Preparation:
    """Prepares the requests to one model. Safe from any thread.

    Args:
        renderer: Turns messages into tokens.
        vocabulary: The model's tokenizer.
        dialect: How the model writes thoughts and calls; None for raw text, which has none.
        template: The chat template's source.
        n_ctx: Tokens of the context window.
    """

    def __init__(
        self,
        renderer: PromptRenderer,
        vocabulary: Vocabulary,
        dialect: Dialect | None,
        template: str,
        n_ctx: int,
    ) -> None:
        self._renderer = renderer
        self._vocabulary = vocabulary
        self._dialect = dialect
        self._n_ctx = n_ctx
        special = vocabulary.special_tokens
        self._special = frozenset(special.values())
        marks = () if dialect is None else dialect.markers
        self._markers = frozenset(special[mark] for mark in marks if mark in special)
        self._writer = None if dialect is None else _without_strange_thoughts(dialect, template, special)

    def prepare(self, request: GenerateRequest) -> Prepared:
        """Prepare a request.

        Raises:
            ContextOverflowError: The prompt fills the context window.
            InvalidOptionError: A tool choice without the tool, or tools for a model that is used without a template.
            TemplateError: The template refuses or fails.
            UnsupportedError: The template leaves a completion no place to go on from.
        """
        if request.purpose == "complete":
            return self._to_complete(request)
        prompt = self.render(request)
        tokens = [*prompt.tokens, *(self._renderer.encode_plain(request.prefix) if request.prefix else ())]
        self._check_room(len(tokens))
        if request.purpose == "preload":
            return Prepared(tokens=tokens)
        if self._dialect is None:
            grammar = None if request.grammar is None else to_llguidance(request.grammar)
            return Prepared(tokens=tokens, prefix=request.prefix, grammar=grammar)
        return self._in_dialect(self._dialect, request, prompt.text, tokens)

    def render(self, request: GenerateRequest) -> RenderedPrompt:
        """Return a request's prompt, as text too, up to where the reply begins.

        Raises:
            InvalidOptionError: Tools for a model that is used without a template.
            TemplateError: The template refuses or fails.
        """
        source, reply = self._source(request), request.purpose == "reply"
        return self._renderer.render(
            source.messages, add_generation_prompt=reply, tools=source.tools, variables=source.variables
        )

    def opening(self, request: GenerateRequest) -> list[int]:
        """Return the tokens with which all conversations begin that have a request's system message and tools.

        Found by rendering two short ones and comparing them, so that it holds for every template.

        Raises:
            TemplateError: The template refuses or fails.
        """
        head = request.messages[: request.messages[0].role == "system"]
        asked = [evolve(request, messages=(*head, Message.user(text)), purpose="reply") for text in ("0", "a")]
        one, other = (self.render(each).tokens for each in asked)
        return [token for token, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))]

    def _in_dialect(self, dialect: Dialect, request: GenerateRequest, text: str, tokens: Sequence[int]) -> Prepared:
        options = request.options
        in_thought = dialect.starts_in_thought(text)
        parser = dialect.parser(
            request.tools,
            tool_choice=options.tool_choice,
            in_thought=in_thought,
            drop_thoughts=options.thoughts == "drop",
            taken_ids=[call.id for message in request.messages for call in message.tool_calls],
            exact=request.grammar is not None,
        )
        fold: Fold = PrefixedParser(parser, request.prefix) if request.prefix else parser
        grammar = (self._writer or dialect).grammar(
            request.grammar,
            request.tools,
            tool_choice=options.tool_choice,
            parallel=options.parallel_tool_calls,
            in_thought=in_thought,
            special=self._vocabulary.special_tokens,
        )
        return Prepared(tokens=tokens, prefix=request.prefix, grammar=grammar, fold=fold, markers=self._markers)

    def _to_complete(self, request: GenerateRequest) -> Prepared:
        source = self._source(request)
        turn = self._renderer.render_open(source.messages, tools=source.tools, variables=source.variables)
        self._check_room(len(turn.tokens))
        count, word = last_word(turn.tokens, turn.own_chars, self._vocabulary.decode, self._special)
        word += turn.trimmed
        return Prepared(
            tokens=turn.tokens[: len(turn.tokens) - count],
            fold=WithoutWord(word),
            word=word,
            stop=(turn.closing,) if turn.closing else (),
        )

    def _check_room(self, count: int) -> None:
        """Raise ContextOverflowError if so many tokens leave no room for a reply."""
        if count >= self._n_ctx:
            raise ContextOverflowError(
                f"the prompt has {count} tokens and the context window holds {self._n_ctx}, the reply included; "
                "shorten the conversation, or load the model with a larger ModelConfig(n_ctx=...)",
                prompt_tokens=count,
                context_tokens=self._n_ctx,
            )

    def _source(self, request: GenerateRequest) -> _Source:
        dialect, messages = self._dialect, request.messages
        if dialect is None:
            if request.tools:
                raise InvalidOptionError(
                    "tools need a chat template, and this model was loaded with chat_template='none'"
                )
            return _Source(messages)
        instructions = dialect.instructions(request.tools, request.options.tool_choice)
        return _Source(
            _instructed(messages, instructions) if instructions else messages,
            dialect.template_tools(request.tools),
            dialect.thought_switch if request.options.thoughts == "off" else None,
        )


@frozen
class _Source:
    """What a prompt is rendered from."""

    messages: Sequence[Message]
    tools: Sequence[JsonValue] | None = None
    variables: Mapping[str, JsonValue] | None = None


def _instructed(messages: Sequence[Message], instructions: str) -> list[Message]:
    """Return the conversation with instructions in its system message."""
    if messages[0].role == "system":
        first = messages[0]
        return [evolve(first, content=f"{first.content}\n\n{instructions}".strip()), *messages[1:]]
    return [Message.system(instructions), *messages]


def _without_strange_thoughts(dialect: Dialect, template: str, special: Mapping[str, int]) -> Dialect:
    """Return a dialect whose grammars let a reply begin with a thought only if the model has ever heard of thoughts.

    One that has not would begin one all the same, where a grammar leaves it no other way into prose.
    """
    thought = dialect.syntax.thought
    mark = "" if thought is None else thought.open.strip()
    if mark in template or mark in special:
        return dialect
    return evolve(dialect, syntax=evolve(dialect.syntax, thought=None))
