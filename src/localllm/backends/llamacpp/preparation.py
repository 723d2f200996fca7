"""What the engine is given for a request: the prompt's tokens, the reply's grammar, and who reads its text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import evolve, frozen

from localllm.backends.base import GenerateRequest
from localllm.chat.dialects import Dialect
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
    """

    tokens: Sequence[int]
    prefix: str = ""
    grammar: str | None = None
    fold: Fold | None = None
    markers: frozenset[int] = frozenset()


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
        marks = () if dialect is None else dialect.markers
        self._markers = frozenset(special[mark] for mark in marks if mark in special)
        self._writer = None if dialect is None else _without_strange_thoughts(dialect, template, special)

    def prepare(self, request: GenerateRequest) -> Prepared:
        """Prepare a request.

        Raises:
            ContextOverflowError: The prompt fills the context window.
            InvalidOptionError: A tool choice without the tool, or tools for a model that is used without a template.
            TemplateError: The template refuses or fails.
        """
        prompt = self._render(request)
        tokens = [*prompt.tokens, *(self._renderer.encode_plain(request.prefix) if request.prefix else ())]
        if len(tokens) >= self._n_ctx:
            raise ContextOverflowError(
                f"the prompt has {len(tokens)} tokens and the context window holds {self._n_ctx}, the reply included; "
                "shorten the conversation, or load the model with a larger ModelConfig(n_ctx=...)",
                prompt_tokens=len(tokens),
                context_tokens=self._n_ctx,
            )
        if request.purpose == "preload":
            return Prepared(tokens=tokens)
        if self._dialect is None:
            grammar = None if request.grammar is None else to_llguidance(request.grammar)
            return Prepared(tokens=tokens, prefix=request.prefix, grammar=grammar)
        return self._in_dialect(self._dialect, request, prompt.text, tokens)

    def _in_dialect(self, dialect: Dialect, request: GenerateRequest, text: str, tokens: Sequence[int]) -> Prepared:
        options = request.options
        in_thought = dialect.starts_in_thought(text)
        fold = dialect.parser(
            request.tools,
            tool_choice=options.tool_choice,
            in_thought=in_thought,
            drop_thoughts=options.thoughts == "drop",
            taken_ids=[call.id for message in request.messages for call in message.tool_calls],
            exact=request.grammar is not None,
        )
        if request.prefix:
            fold.push(request.prefix)  # the caller has it, so that nobody is told of it
        grammar = (self._writer or dialect).grammar(
            request.grammar,
            request.tools,
            tool_choice=options.tool_choice,
            parallel=options.parallel_tool_calls,
            in_thought=in_thought,
            special=self._vocabulary.special_tokens,
        )
        return Prepared(tokens=tokens, prefix=request.prefix, grammar=grammar, fold=fold, markers=self._markers)

    def _render(self, request: GenerateRequest) -> RenderedPrompt:
        dialect, messages = self._dialect, request.messages
        reply = request.purpose == "reply"
        if dialect is None:
            if request.tools:
                raise InvalidOptionError(
                    "tools need a chat template, and this model was loaded with chat_template='none'"
                )
            return self._renderer.render(messages, add_generation_prompt=reply)
        instructions = dialect.instructions(request.tools, request.options.tool_choice)
        return self._renderer.render(
            _instructed(messages, instructions) if instructions else messages,
            add_generation_prompt=reply,
            tools=dialect.template_tools(request.tools),
            variables=dialect.thought_switch if request.options.thoughts == "off" else None,
        )


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
