"""What becomes of the text that a simple model puts out: counted in tokens, cut at its ends, made into deltas."""

from __future__ import annotations

from typing import Literal

from localllm.backends.words import Tokenizer, split_words
from localllm.engine.stop_strings import StopStrings
from localllm.types import Segment, TextDelta


class Answer:
    """Folds one reply's pieces into deltas, its tokens and its finish reason; pure.

    Args:
        tokenizer: Tells pieces as tokens.
        stop: The texts that end the reply.
        limit: Tokens that it may have, at least one.
    """

    def __init__(self, tokenizer: Tokenizer, stop: tuple[str, ...], limit: int) -> None:
        self._tokenizer = tokenizer
        self._stop = stop
        self._limit = limit
        self._segment: Segment = "text"
        self._matcher = StopStrings(stop)
        self.tokens: list[int] = []
        self.text_tokens: list[int] = []
        self.finish: Literal["stop", "length"] | None = None

    @property
    def stopped(self) -> bool:
        """Whether a stop text was met."""
        return self._matcher.met is not None

    def push(self, piece: str, segment: Segment = "text") -> list[TextDelta]:
        """Take a piece and return what of it may be delivered: one delta, unless the segment changes.

        Sets `finish` to "stop" at a stop text, or to "length" with the last token that `limit` allows. Pieces after
        that are ignored.
        """
        if self.finish is not None:
            return []
        deltas = self._turn_to(segment)
        return deltas + self._delta("".join(self._take(piece)))

    def flush(self) -> list[TextDelta]:
        """Return what was held back, now that the reply is over; may meet a stop that was waiting for a longer one."""
        deltas = self._delta(self._matcher.flush())
        if self.stopped:
            self.finish = "stop"
        return deltas

    def _take(self, piece: str) -> list[str]:
        """Count the piece word by word, so that it can be cut at any token, and return the text that is certain."""
        ready: list[str] = []
        for word in split_words(piece if self.finish is None else ""):
            tokens = self._tokenizer.encode(word)
            room = self._limit - len(self.tokens)
            text = word if len(tokens) <= room else self._tokenizer.decode(tokens[:room])
            self.tokens.extend(tokens[:room])
            if self._segment == "text":
                self.text_tokens.extend(tokens[:room])
            ready.append(self._matcher.push(text))
            if self.stopped:
                self.finish = "stop"
                break
            if len(self.tokens) >= self._limit:
                self.finish = "length"
                break
        return ready

    def _turn_to(self, segment: Segment) -> list[TextDelta]:
        if segment == self._segment:
            return []
        deltas = self.flush()
        self._segment = segment
        if not self.stopped:
            self._matcher = StopStrings(self._stop)
        return deltas

    def _delta(self, text: str) -> list[TextDelta]:
        return [TextDelta(text, self._segment)] if text else []
