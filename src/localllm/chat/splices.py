"""Finds the text in a rendered prompt that the model generated itself: it keeps the tokens it was generated as."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from localllm.chat.lru import Lru
from localllm.chat.tokenizer import Splice
from localllm.chat.traced import CONTENT, OWN, TracedText, plain
from localllm.chat.vocabulary import Vocabulary
from localllm.messages import Message

_FIRST_ORIGIN = ord(CONTENT) + 1
_CACHE_TOKENS = 500_000
_ENTRY_TOKENS = 16  # what an entry costs beyond its tokens; a guess
_HEAD_CHARS = 16  # of a message, by which its place in the generated text is found
_MAX_MARKS = 512  # characters that a model may write before its message's first one: marks of thoughts and calls


class SpliceFinder:
    """Finds what a model generated. Safe from any thread.

    Args:
        vocabulary: The model's tokenizer.
    """

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._decoded: Lru[tuple[int, ...], str] = Lru(_CACHE_TOKENS)
        self._cuts: Lru[tuple[tuple[int, ...], int], tuple[int, int]] = Lru(_CACHE_TOKENS)

    def origins(self, messages: Sequence[Message], *, last: bool = False) -> list[str]:
        """Give each message that this model generated an origin of its own, and the `last`; all others that of content.

        Args:
            messages: The messages.
            last: Whether the last one has an origin of its own, too.
        """
        special = len(messages) - 1 if last else -1
        return [
            chr(_FIRST_ORIGIN + number) if number == special or self._generated(message) else CONTENT
            for number, message in enumerate(messages)
        ]

    def find(self, text: str, messages: Sequence[Message], origins: Sequence[str]) -> Iterator[Splice]:
        """Yield, in order, the stretches of a rendered prompt that are just what the model generated for a message.

        A message's text counts if it is there as a whole. Thoughts and calls are put together by the template, and
        may be written otherwise than the model wrote them; of a message that has some, the stretch up to the first
        difference counts as well, so that a cache is of use as far as it can be.

        Args:
            text: The prompt.
            messages: What it was rendered from.
            origins: What `origins` gave for them.
        """
        if not isinstance(text, TracedText):
            return
        end = 0
        for message, origin in zip(messages, origins, strict=True):
            start = text.origins.find(origin) if origin != CONTENT else -1
            if start < end:
                continue
            tokens = self._generated(message)
            generated = self._decode(tokens)
            place = _place(text, origin, start, text.origins.rfind(origin) + 1, generated)
            splice = None if place is None else Splice(*place, tokens)
            if splice is None and (message.thought is not None or message.tool_calls):
                splice = self._beginning(text, origin, start, generated, tokens)
            if splice is not None and splice.start >= end:
                end = splice.stop
                yield splice

    def _generated(self, message: Message) -> tuple[int, ...]:
        """Return the tokens that this model generated for `message`, if it did."""
        ids = message.token_ids
        return ids.tokens if ids is not None and ids.model_hash == self._vocabulary.model_hash else ()

    def _decode(self, tokens: tuple[int, ...]) -> str:
        text = self._decoded.get(tokens)
        if text is None:
            text = self._vocabulary.decode(tokens)
            self._decoded.put(tokens, text, len(tokens) + _ENTRY_TOKENS)
        return text

    def _beginning(
        self, text: TracedText, origin: str, start: int, generated: str, tokens: tuple[int, ...]
    ) -> Splice | None:
        """Return the longest stretch that begins as the generated text does, if it reaches into the message."""
        blank = len(generated) - len(generated.lstrip())  # a template may have taken it off
        for skipped in dict.fromkeys((0, blank)):
            begin = _begin(text, start, generated[skipped:])
            if begin is None:
                continue
            own = re.compile(f"[{re.escape(OWN + origin)}]*").match(text.origins, begin)
            same = _common(generated[skipped:], plain(text)[begin : own.end() if own else begin])
            count, chars = self._cut(tokens, generated, skipped + same)
            if begin + chars - skipped > start:
                return Splice(begin, begin + chars - skipped, tokens[:count])
        return None

    def _cut(self, tokens: tuple[int, ...], generated: str, bound: int) -> tuple[int, int]:
        """Return how many of the tokens stay within the first `bound` characters, and how many those spell."""
        known = self._cuts.get((tokens, bound))
        if known is not None:
            return known
        low, high = 0, len(tokens)
        while low < high:
            middle = (low + high + 1) // 2
            # A token may end within a character, which reads as U+FFFD until the next one.
            fits = len(self._vocabulary.decode(tokens[:middle]).rstrip("\ufffd")) <= bound
            low, high = (middle, high) if fits else (low, middle - 1)
        text = self._vocabulary.decode(tokens[:low]) if low else ""
        while len(text) > bound or not generated.startswith(text):
            low -= 1
            text = self._vocabulary.decode(tokens[:low]) if low else ""
        self._cuts.put((tokens, bound), (low, len(text)), len(tokens) + _ENTRY_TOKENS)
        return low, len(text)


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


def _begin(text: TracedText, start: int, generated: str) -> int | None:
    """Return where in `text` the generated text begins: at or before the message's first character, at `start`."""
    stop = start + _HEAD_CHARS
    head = plain(text)[start : start + _common(text.origins[start] * _HEAD_CHARS, text.origins[start:stop])]
    before = generated.find(head, 0, _MAX_MARKS)
    while before >= 0:
        begin = start - before
        if begin < 0:
            return None
        if text.startswith(generated[:before], begin) and text.origins.count(OWN, begin, start) == before:
            return begin
        before = generated.find(head, before + 1, _MAX_MARKS)
    return None


def _common(one: str, other: str) -> int:
    """Return how many characters both begin with."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if one.startswith(other[low:middle], low) else (low, middle - 1)
    return low
