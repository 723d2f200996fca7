"""From messages to the exact prompt: text and tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from localllm._json import JsonValue
from localllm.chat.rendered import OpenTurn, RenderedPrompt
from localllm.chat.splices import SpliceFinder
from localllm.chat.template import ChatTemplate
from localllm.chat.tokenizer import PromptTokenizer
from localllm.chat.traced import origins_of, plain
from localllm.chat.vocabulary import Vocabulary
from localllm.errors import UnsupportedError
from localllm.types import Message


class PromptRenderer:
    """Renders conversations for one model. Safe from any thread.

    Two promises are kept here. Control tokens are not content: text of messages, tools and documents becomes plain
    text in every template, whatever the template does to it. And history is faithful to tokens: what this model
    generated is put back as the tokens that it generated, wherever the template writes that text unchanged, so that
    a longer conversation begins with the tokens that are in the cache already. Where the template writes thoughts or
    calls otherwise than the model did, that goes as far as the text is the same.

    Args:
        template: The chat template.
        vocabulary: The model's tokenizer.
    """

    def __init__(self, template: ChatTemplate, vocabulary: Vocabulary) -> None:
        self._template = template
        self._vocabulary = vocabulary
        self._tokenizer = PromptTokenizer(vocabulary)
        self._splices = SpliceFinder(vocabulary)

    def render(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[JsonValue] | None = None,
        documents: Sequence[JsonValue] | None = None,
        variables: Mapping[str, JsonValue] | None = None,
    ) -> RenderedPrompt:
        """Return the prompt for `messages`.

        Args:
            messages: The conversation.
            add_generation_prompt: End with the beginning of a reply.
            tools: Tool descriptions as JSON.
            documents: Documents as JSON.
            variables: More variables for the template.

        Returns:
            The text as the template writes it, and its tokens. Where generated tokens are put back, the text of
            those tokens differs from the template's at most in white space around the message.

        Raises:
            TemplateError: The template refuses the messages, fails, or computes too much.
        """
        origins = self._splices.origins(messages)
        text = self._template.render(
            messages,
            add_generation_prompt=add_generation_prompt,
            bos_token=self._vocabulary.bos_text,
            eos_token=self._vocabulary.eos_text,
            tools=tools,
            documents=documents,
            variables=variables,
            origins=origins,
        )
        return RenderedPrompt(plain(text), self._encode(text, messages, origins))

    def render_open(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[JsonValue] | None = None,
        variables: Mapping[str, JsonValue] | None = None,
    ) -> OpenTurn:
        """Return the prompt for `messages` up to the end of the last one's text, its turn left open.

        It is the beginning of the prompt that `render` returns for the same messages.

        Args:
            messages: The conversation; the last message is unfinished.
            tools: Tool descriptions as JSON.
            variables: More variables for the template.

        Raises:
            UnsupportedError: The template changes the last message, so that its end is not to be found.
            TemplateError: The template refuses the messages, fails, or computes too much.
        """
        origins = self._splices.origins(messages, last=True)
        text = self._template.render(
            messages,
            bos_token=self._vocabulary.bos_text,
            eos_token=self._vocabulary.eos_text,
            tools=tools,
            variables=variables,
            origins=origins,
        )
        content = messages[-1].content
        end = origins_of(text).rfind(origins[-1]) + 1
        written = _written(content, text, end, origins[-1])
        if not written:
            raise UnsupportedError(
                "the chat template does not write the last message as it is, so that there is no place in the prompt "
                "where it goes on; load the model with another ModelConfig(chat_template=...)"
            )
        return OpenTurn(
            plain(text)[:end],
            self._encode(text[:end], messages, origins),
            len(written),
            "" if content.endswith(written) else content[len(content.rstrip()) :],
            self._closing(plain(text)[end:]),
        )

    def encode_plain(self, text: str) -> list[int]:
        """Return the tokens of `text` as content: never a control token, none added."""
        return self._tokenizer.encode_plain(text)

    def _encode(self, text: str, messages: Sequence[Message], origins: Sequence[str]) -> tuple[int, ...]:
        tokens = self._tokenizer.encode(text, list(self._splices.find(text, messages, origins)))
        bos = self._vocabulary.bos_id
        if self._vocabulary.adds_bos and bos is not None and tokens[:1] != [bos]:
            tokens.insert(0, bos)
        return tuple(tokens)

    def _closing(self, rest: str) -> str:
        """Return what a model would write to close a turn after which the template writes `rest`, if that is text."""
        line = rest.partition("\n")[0]
        places = [line.find(special) for special in self._vocabulary.special_tokens]
        return line[: min((place for place in places if place >= 0), default=None)].strip()


def _written(content: str, text: str, end: int, origin: str) -> str:
    """Return the message's text as it stands in the prompt before `end`; empty if it does not.

    White space around it may be missing: many templates trim it.
    """
    origins = origins_of(text)
    for written in dict.fromkeys((content, content.rstrip(), content.lstrip(), content.strip())):
        start = end - len(written)
        if start >= 0 and plain(text)[start:end] == written and origins.count(origin, start, end) == len(written):
            return written
    return ""
