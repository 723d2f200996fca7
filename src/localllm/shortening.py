"""A stage that shortens a conversation: on a thread of its own, for rendering takes time and may cross to a worker."""

from __future__ import annotations

from threading import Thread

from localllm.chat.overflow import Overflow, Shortened, Shortening
from localllm.model import Model
from localllm.stages import Shorten, StageSink


class ShorteningRun:
    """A conversation that is being shortened; follows the rules of a backend's request.

    Args:
        stage: The conversation.
        model: Renders it.
        policy: What to do.
        sink: Where its one event goes.
    """

    def __init__(self, stage: Shorten, model: Model, policy: Overflow, sink: StageSink) -> None:
        refused = stage.overflow
        self._shortening = Shortening(
            history=stage.history,
            made=stage.made,
            refused=refused,
            reserve=stage.reserve,
            n_ctx=(refused.context_tokens if refused is not None else 0) or model.info.n_ctx,
            policy=policy,
            count=lambda messages: len(model.render(messages).tokens),
        )
        self._sink = sink
        Thread(target=self._run, name="localllm-shorten", daemon=True).start()

    def cancel(self) -> None:
        """End the stage now; what is being rendered is of no interest any more."""
        self._sink(Shortened())

    def _run(self) -> None:
        try:
            shortened = self._shortening.result()
        except Exception as exc:  # noqa: BLE001  # of a policy of the user's own, too: it ends the turn
            shortened = Shortened(error=exc)
        self._sink(shortened)
