"""From messages to the exact prompt: text and tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from localllm._json import JsonValue
from localllm.chat.lru import Lru
from localllm.chat.rendered import RenderedPrompt
from localllm.chat.template import ChatTemplate
from localllm.chat.tokenizer import PromptTokenizer, Splice
from localllm.chat.traced import CONTENT, OWN, TracedText, plain
from localllm.chat.vocabulary import Vocabulary
from localllm.types import Message

_FIRST_ORIGIN = ord(CONTENT) + 1
_CACHE_TOKENS = 500_000


class PromptRenderer:
    """Renders conversations for one model. Safe from any thread.

    Two promises are kept here. Control tokens are not content: text of messages, tools and documents becomes plain
    text in every template, whatever the template does to it. And history is faithful to tokens: what this model
    generated is put back as the tokens that it generated, wherever the template writes that text unchanged, so that
    a longer conversation begins with the tokens that are in the cache already.

    Args:
        template: The chat template.
        vocabulary: The model's tokenizer.
    """

    def __init__(self, template: ChatTemplate, vocabulary: Vocabulary) -> None:
        self._template = template
        self._vocabulary = vocabulary
        self._tokenizer = PromptTokenizer(vocabulary)
        self._decoded: Lru[tuple[int, ...], str] = Lru(_CACHE_TOKENS)

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
        origins = self._origins(messages)
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
        tokens = self._tokenizer.encode(text, list(self._splices(text, messages, origins)))
        bos = self._vocabulary.bos_id
        if self._vocabulary.adds_bos and bos is not None and tokens[:1] != [bos]:
            tokens.insert(0, bos)
        return RenderedPrompt(plain(text), tuple(tokens))

    def encode_plain(self, text: str) -> list[int]:
        """Return the tokens of `text` as content: never a control token, none added."""
        return self._tokenizer.encode_plain(text)

    def _origins(self, messages: Sequence[Message]) -> list[str]:
        """Give each message that this model generated an origin of its own."""
        return [
            chr(_FIRST_ORIGIN + number) if self._generated(message) else CONTENT
            for number, message in enumerate(messages)
        ]

    def _generated(self, message: Message) -> tuple[int, ...]:
        """Return the tokens that this model generated for `message`, if it did."""
        ids = message.token_ids
        return ids.tokens if ids is not None and ids.model_hash == self._vocabulary.model_hash else ()

    def _splices(self, text: str, messages: Sequence[Message], origins: Sequence[str]) -> Iterator[Splice]:
        """Yield, in order, the stretches of the text that are just what the model generated for a message."""
        if not isinstance(text, TracedText):
            return
        end = 0
        for message, origin in zip(messages, origins, strict=True):
            if origin == CONTENT:
                continue
            tokens = self._generated(message)
            start, stop = text.origins.find(origin), text.origins.rfind(origin) + 1
            place = _place(text, origin, start, stop, self._decode(tokens)) if start >= end else None
            if place is not None and place[0] >= end:
                end = place[1]
                yield Splice(*place, tokens)

    def _decode(self, tokens: tuple[int, ...]) -> str:
        text = self._decoded.get(tokens)
        if text is None:
            text = self._vocabulary.decode(tokens)
            self._decoded.put(tokens, text, len(tokens) + 16)
        return text


def _place(text: TracedText, origin: str, start: int, stop: int, generated: str) -> tuple[int, int] | None:
    """Return where in `text` the generated text stands.

    It may begin before the message's content and end after it: a model writes its thoughts and calls with marks
    that the message has no more and that the template writes again. It must hold all of the message (`start` to
    `stop`) and nothing of any other. White space around it is the template's to take off.
    """
    for wanted in dict.fromkeys((generated, generated.rstrip(), generated.lstrip(), generated.strip())):
        found = text.find(wanted, max(0, stop - len(wanted)), start + len(wanted)) if wanted else -1
        if found >= 0:
            end = found + len(wanted)
            around = text.origins[found:start] + text.origins[stop:end]
            inside = text.origins.count(OWN, start, stop) + text.origins.count(origin, start, stop)
            if around.count(OWN) == len(around) and inside == stop - start:
                return found, end
    return None
