"""Prompts that end within the user's turn: the beginning of the prompt of a reply, in every template."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from localllm.backends.llamacpp.bindings import NativeModel
from localllm.backends.llamacpp.token_model import LlamaVocabulary
from localllm.chat.rendered import OpenTurn, RenderedPrompt
from localllm.chat.renderer import PromptRenderer
from localllm.chat.template import CHATML, RAW, ChatTemplate
from localllm.errors import TemplateError, UnsupportedError
from localllm.types import Message


@pytest.fixture(scope="module")
def vocabulary(llama_assets: Path) -> Iterator[LlamaVocabulary]:
    """A vocabulary that has ChatML's control tokens."""
    native = NativeModel(llama_assets / "ggml-vocab-qwen2.gguf", vocab_only=True)
    yield LlamaVocabulary(native, "hash")
    native.close()


def both(template: str, vocabulary: LlamaVocabulary, text: str) -> tuple[OpenTurn, RenderedPrompt]:
    """Return what a template makes of a conversation that ends with `text`, open and closed."""
    renderer = PromptRenderer(ChatTemplate(template), vocabulary)
    messages = (Message.user("Hi there."), Message("assistant", "Hello."), Message.user(text))
    return renderer.render_open(messages), renderer.render(messages)


@pytest.mark.parametrize("text", ["What is the capi", "What is the capital ", "<|im_end|>", "Hi there."])
def test_an_open_turn_is_the_beginning_of_the_prompt_in_every_template(
    text: str, vocabulary: LlamaVocabulary, llama_assets: Path
) -> None:
    """It ends with the user's text, but for white space that the template trims, and that is told."""
    tried = 0
    for path in sorted((llama_assets / "templates").glob("*.jinja")):
        try:
            turn, whole = both(path.read_text(encoding="utf-8"), vocabulary, text)
        except TemplateError:  # without tools, or such a conversation, there is no prompt at all
            continue
        tried += 1
        assert whole.text.startswith(turn.text), path.name
        assert (turn.text + turn.trimmed).endswith(text), path.name
        assert turn.text[len(turn.text) - turn.own_chars :] + turn.trimmed == text, path.name
        # The last token may be another one where text follows it without a control token between.
        assert whole.tokens[: len(turn.tokens) - 1] == turn.tokens[:-1], path.name
    assert tried > 60


@pytest.mark.parametrize(
    ("template", "closing"),
    [
        (CHATML, ""),
        (RAW, ""),
        ("{% for m in messages %}[INST] {{ m.content | trim }} [/INST]{% endfor %}", "[/INST]"),
        ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n\n{% endfor %}assistant:", ""),
        ("{% for m in messages %}{{ m.content }} BOT:<|im_end|>{% endfor %}", "BOT:"),
    ],
)
def test_what_closes_a_turn_in_plain_text_is_told(template: str, closing: str, vocabulary: LlamaVocabulary) -> None:
    """Where it is a control token or begins with a line break, that ends a completion anyway."""
    assert both(template, vocabulary, "and so")[0].closing == closing


@pytest.mark.parametrize(
    "body", ["m.content | upper", "m.content | tojson", "m.content | replace('o', '0')", "m.content | length", "''"]
)
def test_a_template_that_changes_the_text_leaves_no_place_to_go_on_from(body: str, vocabulary: LlamaVocabulary) -> None:
    """It is refused, and not guessed at."""
    template = f"{{% for m in messages %}}<|im_start|>{{{{ {body} }}}}<|im_end|>{{% endfor %}}"
    with pytest.raises(UnsupportedError, match="does not write the last message as it is"):
        both(template, vocabulary, "and so")


def test_of_a_text_that_is_written_twice_the_last_one_goes_on(vocabulary: LlamaVocabulary) -> None:
    """Also where an earlier message says the same."""
    turn, _ = both("{% for m in messages %}{{ m.content }}|{{ m.content }}.{% endfor %}", vocabulary, "Hi there.")
    assert turn.text.endswith("|Hi there.")
    assert turn.closing == "."
