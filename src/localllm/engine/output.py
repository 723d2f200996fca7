"""What becomes of a request's tokens: text, thoughts and calls, stop strings, events, figures."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from attrs import evolve

from localllm.engine.detokenizer import Detokenizer
from localllm.engine.fold import Fold
from localllm.engine.stop_strings import StopStrings
from localllm.errors import LocalLLMError
from localllm.types import (
    BackendEvent,
    FinishReason,
    GenerationEnded,
    PromptProgress,
    TextDelta,
    Timings,
    TokenIds,
    TokenLogprob,
    ToolCallEvent,
    Usage,
)

_log = logging.getLogger("localllm.engine")


class Output:
    """Turns one request's tokens into events, the last of which it sends exactly once.

    Text of tokens that an earlier run of the request delivered is not delivered again. Stop strings are looked for in
    the text, not in thoughts and calls; text that may become one is held back while these go on.

    Args:
        sink: Where events go.
        stop: Texts that end the reply.
        submitted_s: When the request was made, by the engine's clock.
        model_hash: The model that the tokens belong to.
        fold: Tells thoughts and calls from the text; None takes all for text.
        delivered_chars: Characters of text that an earlier run delivered; None for all that its tokens give. One token
            may give several events, and a crash may come between two of them.
    """

    def __init__(
        self,
        sink: Callable[[BackendEvent], None],
        stop: tuple[str, ...],
        submitted_s: float,
        model_hash: str,
        fold: Fold | None = None,
        delivered_chars: int | None = None,
    ) -> None:
        self._sink = sink
        self._model_hash = model_hash
        self._text = Detokenizer()
        self._fold = fold
        self._delivered_chars = delivered_chars
        self._repeated_chars = 0
        self._stops = StopStrings(stop)
        self._submitted_s = submitted_s
        self._admitted_s: float | None = None
        self._first_s: float | None = None
        self._fresh: list[int] = []  # tokens since the last event that told of some
        self._logprobs: list[TokenLogprob] = []  # of these, where they are wanted
        self.thought_tokens: int = 0
        self.ended: bool = False
        self.broken_sink: bool = False

    @property
    def stopped(self) -> bool:
        """Whether a stop string was met."""
        return self._stops.met is not None

    @property
    def thinking(self) -> bool:
        """Whether the reply is within a thought."""
        return self._fold is not None and self._fold.thinking

    @property
    def close_thought(self) -> str:
        """The text that closes the thought."""
        return "" if self._fold is None else self._fold.close_thought

    @property
    def within_character(self) -> bool:
        """Whether the last token ended in the middle of a character."""
        return self._text.within_character

    def admitted(self, now_s: float) -> None:
        """The request began to be computed; only the first call counts."""
        if self._admitted_s is None:
            self._admitted_s = now_s

    def progress(self, processed: int, cached: int, total: int) -> None:
        """Tell how much of the prompt is read."""
        self._push(PromptProgress(processed, cached, total))

    def token(
        self, token: int, piece: bytes, now_s: float, *, repeated: bool = False, logprob: TokenLogprob | None = None
    ) -> None:
        """Take a generated token and its bytes, and deliver what text is certain.

        Args:
            token: The token.
            piece: Its bytes.
            now_s: When, by the engine's clock.
            repeated: Whether an earlier run of the request has delivered what it gives.
            logprob: Its log-probability, if that is wanted.
        """
        if self._first_s is None:
            self._first_s = now_s
        self.thought_tokens += self.thinking
        events = self._read(self._text.push(piece))
        if repeated:
            self._deliver_missed(events)
            return
        self._fresh.append(token)
        if logprob is not None:
            self._logprobs.append(logprob)
        for event in events:
            self._deliver(event)

    def marker(self, piece: bytes) -> None:
        """Take the text of a control token that ends the reply and is not part of it."""
        for event in self._read(self._text.push(piece)):
            self._deliver(event)

    def end(
        self,
        finish: FinishReason,
        now_s: float,
        usage: Usage,
        tokens: tuple[int, ...],
        error: LocalLLMError | None = None,
    ) -> None:
        """Deliver what was held back, then the end; a second call does nothing.

        Text held back for a stop string is delivered unless the stop was met, also after a cancel: it was generated.
        """
        if self.ended:
            return
        self.ended = True
        for event in self._rest():
            self._deliver(event)
        if self.stopped and finish == "length":
            finish = "stop"  # a stop that an earlier, longer one was waited for
        calls = () if self._fold is None else self._fold.calls
        if calls and finish == "stop":
            finish = "tool_calls"
        whole = bool(tokens) and not self.stopped
        self._push(
            GenerationEnded(
                finish,
                usage=usage,
                timings=self._timings(now_s, usage.completion_tokens),
                token_ids=TokenIds(self._model_hash, tokens) if whole else None,
                tool_calls=calls,
                error=error,
                notes=() if self._fold is None else self._fold.notes,
                taken_chars=0 if self._fold is None else self._fold.taken_chars,
            )
        )

    def _timings(self, now_s: float, generated: int) -> Timings:
        admitted_s = now_s if self._admitted_s is None else self._admitted_s
        first_s = now_s if self._first_s is None else self._first_s
        decode_s = now_s - first_s
        return Timings(
            queue_s=admitted_s - self._submitted_s,
            prefill_s=first_s - admitted_s,
            first_token_s=0.0 if self._first_s is None else first_s - self._submitted_s,
            decode_s=decode_s,
            tokens_per_s=(generated - 1) / decode_s if generated > 1 and decode_s > 0 else 0.0,
        )

    def _read(self, text: str) -> list[TextDelta | ToolCallEvent]:
        """Return what `text` gives, up to a stop."""
        if self._fold is None:
            ready = self._stops.push(text)
            return [TextDelta(ready)] if ready else []
        return self._until_stop(self._fold.push(text) if text else ())

    def _until_stop(self, events: Sequence[TextDelta | ToolCallEvent]) -> list[TextDelta | ToolCallEvent]:
        """Return the events before a stop string, text that may become one held back."""
        ready: list[TextDelta | ToolCallEvent] = []
        for event in events:
            if self.stopped:
                break
            if isinstance(event, TextDelta) and event.segment == "text":
                text = self._stops.push(event.text)
                if text:
                    ready.append(TextDelta(text))
            else:
                ready.append(event)
        return ready

    def _rest(self) -> list[TextDelta | ToolCallEvent]:
        """Return what was held back, by anything that holds back."""
        try:
            rest = self._read(self._text.flush())
            if self._fold is not None:
                rest += self._until_stop(self._fold.flush())
        except Exception:  # noqa: BLE001  # a fold is others' code; the request ends all the same
            _log.exception("the end of a reply could not be read")
            rest = []
        held = self._stops.flush()
        return [*rest, TextDelta(held)] if held else rest

    def _deliver(self, event: TextDelta | ToolCallEvent) -> None:
        """Send an event, with the tokens that were generated since the last one."""
        if isinstance(event, TextDelta):
            event = TextDelta(event.text, event.segment, tuple(self._fresh), tuple(self._logprobs))
            self._logprobs.clear()
        elif self._fresh:
            event = evolve(event, token_ids=tuple(self._fresh))
        self._fresh.clear()
        self._push(event)

    def _deliver_missed(self, events: Sequence[TextDelta | ToolCallEvent]) -> None:
        """Send what an earlier run did not deliver of the text that its tokens give."""
        for event in events:
            if isinstance(event, TextDelta):
                self._repeated_chars += len(event.text)
                delivered = self._repeated_chars if self._delivered_chars is None else self._delivered_chars
                missed = event.text[max(len(event.text) - max(self._repeated_chars - delivered, 0), 0) :]
                if missed:
                    self._push(TextDelta(missed, event.segment))

    def _push(self, event: BackendEvent) -> None:
        try:
            self._sink(event)
        except Exception:  # noqa: BLE001  # a sink is somebody else's code; its failure must not end the others' requests
            self.broken_sink = True
            _log.exception("the sink of a request raised; the request is cancelled")
