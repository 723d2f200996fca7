"""Contexts that are made aside: it takes a tenth of a second or more, for which nobody's stream is to wait."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from localllm.engine.model import TokenContext, TokenModel

Aside: TypeAlias = Callable[[Callable[[], None]], Callable[[], None]]
"""Runs a function aside; returns a function that waits for its end."""


class Opening:
    """A context on its way. Used by the engine's thread, but for the making itself.

    Args:
        model: The weights.
        n_cells: Cells of the context.
        n_sequences: Its sequence ids.
        aside: Runs the making.
    """

    def __init__(self, model: TokenModel, n_cells: int, n_sequences: int, aside: Aside) -> None:
        self.n_cells: int = n_cells
        self._model = model
        self._n_sequences = n_sequences
        self._context: TokenContext | None = None
        self._failure: BaseException | None = None
        self._wait = aside(self._open)

    @property
    def ready(self) -> bool:
        """Whether `take` has something to give, or to raise."""
        return self._context is not None or self._failure is not None

    def take(self) -> TokenContext:
        """Return the context, which is the caller's from now on.

        Raises:
            MemoryError: There is no memory for it.
            RuntimeError: It is not ready.
        """
        if self._failure is not None:
            raise self._failure
        if self._context is None:
            raise RuntimeError("the context is not ready")
        context, self._context = self._context, None
        return context

    def abandon(self) -> None:
        """Wait for it, and free it."""
        self._wait()
        if self._context is not None:
            self._context.close()
            self._context = None

    def _open(self) -> None:
        try:
            self._context = self._model.open_context(self.n_cells, self._n_sequences)
        except BaseException as exc:  # noqa: BLE001  # raised by `take`, on the engine's thread
            self._failure = exc
