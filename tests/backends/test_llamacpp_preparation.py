"""What the engine is given for a request: by a family's own template and dialect, over a vocabulary without weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from localllm.backends.base import GenerateRequest
from localllm.backends.llamacpp.bindings import NativeModel
from localllm.backends.llamacpp.preparation import Preparation, Prepared
from localllm.backends.llamacpp.token_model import LlamaVocabulary
from localllm.chat.definitions import ToolDefinition
from localllm.chat.dialects import dialect_of
from localllm.chat.grammar import Grammar
from localllm.chat.renderer import PromptRenderer
from localllm.chat.template import CHATML, ChatTemplate
from localllm.errors import ContextOverflowError, InvalidOptionError
from localllm.options import RequestOptions
from localllm.types import Message

TOOL = ToolDefinition("weather", "Tells the weather.", {"type": "object", "properties": {"city": {"type": "string"}}})


class Family:
    """A family's template over a vocabulary."""

    def __init__(self, native: NativeModel, template: str | None) -> None:
        vocabulary = LlamaVocabulary(native, "hash")
        renderer = PromptRenderer(ChatTemplate(template or "{{ messages[0].content }}"), vocabulary)
        dialect = None if template is None else dialect_of(template)
        self._native = native
        self.preparation = Preparation(renderer, vocabulary, dialect, template or "", 2000)

    def prepare(
        self,
        content: str = "Hello.",
        *,
        grammar: Grammar | None = None,
        tools: tuple[ToolDefinition, ...] = (),
        prefix: str = "",
        **options: object,
    ) -> Prepared:
        """Prepare a request of one message."""
        return self.preparation.prepare(
            GenerateRequest(
                messages=(Message.user(content),),
                options=RequestOptions.of(options),
                grammar=grammar,
                tools=tools,
                prefix=prefix,
            )
        )

    def text(self, prepared: Prepared) -> str:
        """Return the prompt as text."""
        return self._native.detokenize(prepared.tokens).decode()


@pytest.fixture(scope="module")
def qwen(native: NativeModel, llama_assets: Path) -> Family:
    """A family that thinks and knows tools."""
    return Family(native, (llama_assets / "templates" / "Qwen-Qwen3-0.6B.jinja").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def plain(native: NativeModel) -> Family:
    """A family that knows neither."""
    return Family(native, CHATML)


def test_thoughts_are_turned_off_by_the_templates_own_switch(qwen: Family) -> None:
    """Else the prompt is as it was."""
    assert qwen.text(qwen.prepare()).endswith("<|im_start|>assistant\n")
    off = qwen.prepare(thoughts="off")
    assert "</think>" in qwen.text(off)
    assert off.fold is not None
    assert not off.fold.thinking


def test_tools_are_told_by_the_template_or_by_the_system_message(qwen: Family, plain: Family) -> None:
    """And the reply's grammar has them, once they are called for."""
    for family in (qwen, plain):
        prepared = family.prepare(tools=(TOOL,), tool_choice="required")
        assert "Tells the weather." in family.text(prepared)
        assert "weather" in (prepared.grammar or "")
        assert family.text(family.prepare(tools=(TOOL,))).startswith("<|im_start|>system\n")
    assert plain.prepare().grammar is None


def test_a_prefix_is_the_prompts_end_and_is_never_parsed(plain: Family) -> None:
    """The reply begins behind it; what looks like a control token in it is text."""
    without, prepared = plain.prepare(), plain.prepare(prefix="Sure<|im_end|> {")
    assert plain.text(prepared) == plain.text(without) + "Sure<|im_end|> {"
    assert prepared.tokens[: len(without.tokens)] == without.tokens
    assert prepared.prefix == "Sure<|im_end|> {"


def test_only_a_model_that_knows_thoughts_may_think_before_a_schema(qwen: Family, plain: Family) -> None:
    """To another one a thought is a way out of the grammar."""
    grammar = Grammar("json_schema", '{"type": "integer"}')
    assert "think" in (qwen.prepare(grammar=grammar).grammar or "")
    assert "think" not in (plain.prepare(grammar=grammar).grammar or "think")


def test_raw_text_has_no_dialect_and_takes_no_tools(native: NativeModel) -> None:
    """Its grammar is the request's own."""
    raw = Family(native, None)
    prepared = raw.prepare("Once upon", grammar=Grammar("lark", 'start: "a"'))
    assert (raw.text(prepared), prepared.fold, prepared.grammar) == ("Once upon", None, 'start: "a"')
    with pytest.raises(InvalidOptionError, match="chat_template='none'"):
        raw.prepare(tools=(TOOL,))


def test_a_prompt_that_fills_the_window_is_refused_its_prefix_included(plain: Family) -> None:
    """With both counts."""
    plain.prepare("a " * 1900)
    with pytest.raises(ContextOverflowError) as caught:
        plain.prepare("a " * 1900, prefix="b " * 100)
    assert caught.value.prompt_tokens >= caught.value.context_tokens == 2000


@pytest.mark.parametrize(
    "template",
    ["Qwen-Qwen3-0.6B", "google-gemma-2-2b-it", "mistralai-Mistral-Nemo-Instruct-2407", "openai-gpt-oss-120b"],
)
def test_what_conversations_begin_with_is_their_system_message_and_tools(
    native: NativeModel, llama_assets: Path, template: str
) -> None:
    """In families that write them elsewhere, too: all of the system message, nothing of the user's, with any user's."""
    family = Family(native, (llama_assets / "templates" / f"{template}.jinja").read_text(encoding="utf-8"))
    has_role = "gemma" not in template
    head = (Message.system("Obey the rules of the lighthouse."),) if has_role else ()
    tools = (TOOL,) if "Qwen" in template else ()
    openings = set()
    for text in ("Hello, keeper.", "0 or a?"):
        request = GenerateRequest(messages=(*head, Message.user(text)), tools=tools, purpose="reply")
        opening = family.preparation.opening(request)
        prompt = family.preparation.prepare(request).tokens
        assert list(prompt[: len(opening)]) == opening
        assert family.text(Prepared(tokens=opening)) == family.text(Prepared(tokens=prompt)).partition(text)[0]
        openings.add(tuple(opening))
    assert len(openings) == 1
