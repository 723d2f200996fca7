"""A dialect: how one model's replies are read, and how they are held to a form."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache

from attrs import evolve, field, frozen

from localllm._json import JsonValue
from localllm.chat.definitions import ToolDefinition
from localllm.chat.dialects.channels import ChannelParser
from localllm.chat.dialects.composition import compose
from localllm.chat.dialects.marks import atoms_of
from localllm.chat.dialects.parser import ReplyParser
from localllm.chat.dialects.switches import thought_switch_of, variables_of
from localllm.chat.dialects.syntax import DialectSyntax
from localllm.chat.dialects.table import GENERIC, TABLE
from localllm.chat.dialects.writing import write_calls
from localllm.chat.grammar import Grammar
from localllm.messages import ToolCall


@frozen
class Dialect:
    """How a model with a certain chat template writes thoughts and calls.

    Args:
        syntax: The row of the table.
        takes_tools: Whether the template tells the model of tools by itself.
        thought_switch: Variables for the template that turn thinking off; empty if it has none.
    """

    syntax: DialectSyntax
    takes_tools: bool = False
    thought_switch: Mapping[str, JsonValue] = field(factory=dict, hash=False)

    @property
    def name(self) -> str:
        """The family's name."""
        return self.syntax.name

    @property
    def markers(self) -> tuple[str, ...]:
        """Texts of control tokens that must be spelled out in the text given to a parser."""
        return atoms_of(self.syntax)

    def parser(
        self,
        tools: Sequence[ToolDefinition],
        *,
        tool_choice: str = "auto",
        in_thought: bool = False,
        drop_thoughts: bool = False,
        taken_ids: Collection[str] = (),
        exact: bool = False,
    ) -> ReplyParser:
        """Return what takes one reply apart.

        Args:
            tools: What may be called.
            tool_choice: "none" has marks of calls be text, as if there were no tools.
            in_thought: Whether the prompt ends within a thought, see `starts_in_thought`.
            drop_thoughts: Whether thoughts are left out of the events.
            taken_ids: Ids of the history's calls; new calls get others.
            exact: Whether white space after a thought belongs to the text, but for what the family writes there: so
                for text that is held to a grammar.
        """
        made = ChannelParser if self.syntax.channels else ReplyParser
        return made(
            self.syntax,
            () if tool_choice == "none" else tools,
            in_thought=in_thought,
            drop_thoughts=drop_thoughts,
            taken_ids=taken_ids,
            exact=exact,
        )

    def starts_in_thought(self, prompt_text: str) -> bool:
        """Whether a prompt ends with the beginning of a thought."""
        thought = self.syntax.thought
        return thought is not None and prompt_text.rstrip().endswith(thought.open.rstrip())

    def grammar(
        self,
        grammar: Grammar | None,
        tools: Sequence[ToolDefinition],
        *,
        tool_choice: str = "auto",
        parallel: bool = True,
        in_thought: bool = False,
        special: Mapping[str, int] | None = None,
    ) -> str | None:
        """Return what llguidance holds a whole reply to, in its dialect of Lark; None if the reply is free.

        Args:
            grammar: What the text must look like.
            tools: What may be called. Arguments of strict tools fit their schemas, those of others are any object.
            tool_choice: "auto" (text, or calls once a call's mark is there), "none", "required", or a tool's name.
            parallel: Whether there may be several calls.
            in_thought: Whether the prompt ends within a thought.
            special: The control tokens of the vocabulary, by text: marks of theirs are matched as tokens.

        Raises:
            InvalidOptionError: `tool_choice` names no tool.
        """
        return compose(
            self.syntax,
            grammar,
            tools,
            tool_choice=tool_choice,
            parallel=parallel,
            in_thought=in_thought,
            special=special or {},
        )

    def template_tools(self, tools: Sequence[ToolDefinition]) -> list[JsonValue] | None:
        """Return the tools as the template takes them; None if it takes none: see `instructions`."""
        return [tool.to_dict() for tool in tools] if tools and self.takes_tools else None

    def instructions(self, tools: Sequence[ToolDefinition], tool_choice: str = "auto") -> str:
        """Return what the system message says of tools, for a template that knows none; empty if it says nothing.

        Args:
            tools: What may be called.
            tool_choice: As in `grammar`.
        """
        if not tools or tool_choice == "none" or self.takes_tools:
            return ""
        offered = "\n".join(json.dumps(tool.to_dict(), ensure_ascii=False) for tool in tools)
        example = write_calls(self.syntax, [ToolCall("tool_name", {"argument": "value"}, "call00000")])
        return _INSTRUCTIONS.format(tools=offered, example=example, must=_must(tool_choice))

    def write_calls(self, calls: Sequence[ToolCall]) -> str:
        """Return calls as the family writes them."""
        return write_calls(self.syntax, calls)


_INSTRUCTIONS = """\
You may call tools. Here they are, as JSON, one a line:
<tools>
{tools}
</tools>
To call a tool, write this, with the tool's name and arguments that fit its parameters:
{example}
{must}"""


def _must(tool_choice: str) -> str:
    match tool_choice:
        case "auto":
            return "Call a tool only if it helps; else answer in plain text."
        case "required":
            return "Answer with at least one call of a tool, and with nothing else."
        case name:
            return f"Answer with a call of the tool {name}, and with nothing else."


@lru_cache(maxsize=32)
def dialect_of(template_source: str | None) -> Dialect:
    """Return the dialect of the model that has this chat template.

    Args:
        template_source: The template's Jinja source; None for a model without one.
    """
    source = template_source or ""
    syntax = next((row for signs, row in TABLE if all(sign in source for sign in signs)), GENERIC)
    variables = variables_of(source)
    return Dialect(
        _with_gap(syntax, source),
        takes_tools="tools" in variables,
        thought_switch=thought_switch_of(source, variables),
    )


def _with_gap(syntax: DialectSyntax, source: str) -> DialectSyntax:
    """Return the row with what this very template writes behind a thought: models of one family differ in that."""
    thought = syntax.thought
    if thought is None or not thought.gap or thought.gap.strip():
        return syntax
    for gap in ("\n\n", "\n"):
        if any(f"{thought.close}{shown}" in source for shown in (gap, gap.replace("\n", "\\n"))):
            return evolve(syntax, thought=evolve(thought, gap=gap))
    return syntax
