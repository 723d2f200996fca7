"""What becomes of a request's tokens: text, stop strings, events, figures."""

from __future__ import annotations

import logging
from collections.abc import Callable

from localllm.engine.detokenizer import Detokenizer
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
    Usage,
)

_log = logging.getLogger("localllm.engine")


class Output:
    """Turns one request's tokens into events, the last of which it sends exactly once.

    Text of tokens that an earlier run of the request delivered is not delivered again.

    Args:
        sink: Where events go.
        stop: Texts that end the reply.
        submitted_s: When the request was made, by the engine's clock.
        model_hash: The model that the tokens belong to.
    """

    def __init__(
        self, sink: Callable[[BackendEvent], None], stop: tuple[str, ...], submitted_s: float, model_hash: str
    ) -> None:
        self._sink = sink
        self._model_hash = model_hash
        self._text = Detokenizer()
        self._stops = StopStrings(stop)
        self._submitted_s = submitted_s
        self._admitted_s: float | None = None
        self._first_s: float | None = None
        self._fresh: list[int] = []  # tokens since the last delta
        self.ended: bool = False
        self.broken_sink: bool = False

    @property
    def stopped(self) -> bool:
        """Whether a stop string was met."""
        return self._stops.met is not None

    def admitted(self, now_s: float) -> None:
        """The request began to be computed; only the first call counts."""
        if self._admitted_s is None:
            self._admitted_s = now_s

    def progress(self, processed: int, cached: int, total: int) -> None:
        """Tell how much of the prompt is read."""
        self._push(PromptProgress(processed, cached, total))

    def token(self, token: int, piece: bytes, now_s: float, *, repeated: bool = False) -> None:
        """Take a generated token and its bytes, and deliver what text is certain.

        Args:
            token: The token.
            piece: Its bytes.
            now_s: When, by the engine's clock.
            repeated: Whether an earlier run of the request has delivered what it gives.
        """
        if self._first_s is None:
            self._first_s = now_s
        text = self._stops.push(self._text.push(piece))
        if not repeated:
            self._fresh.append(token)
            self._deliver(text)

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
        self._deliver(self._stops.push(self._text.flush()) + self._stops.flush())
        if self.stopped and finish == "length":
            finish = "stop"  # a stop that an earlier, longer one was waited for
        whole = bool(tokens) and not self.stopped
        self._push(
            GenerationEnded(
                finish,
                usage=usage,
                timings=self._timings(now_s, usage.completion_tokens),
                token_ids=TokenIds(self._model_hash, tokens) if whole else None,
                error=error,
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

    def _deliver(self, text: str) -> None:
        if text:
            self._push(TextDelta(text, token_ids=tuple(self._fresh)))
            self._fresh.clear()

    def _push(self, event: BackendEvent) -> None:
        try:
            self._sink(event)
        except Exception:  # noqa: BLE001  # a sink is somebody else's code; its failure must not end the others' requests
            self.broken_sink = True
            _log.exception("the sink of a request raised; the request is cancelled")
