"""Downloads of a manager: noted for those who watch, and ended with it."""

from __future__ import annotations

import itertools
import os
from contextlib import ExitStack

from localllm.backends.base import LoadProgress, ProgressCallback
from localllm.errors import DownloadCancelledError, LoadCancelledError, LocalLLMError, ModelNotFoundError
from localllm.models.cancel import Cancellation
from localllm.models.progress import PullCallback, PullProgress
from localllm.models.store import ModelStore
from localllm.models.stored import StoredModel
from localllm.residency.board import Board
from localllm.residency.events import Downloaded, Downloading, Failed


class Fetching:
    """Fetches models. Safe to use from any thread.

    Args:
        board: Where things are noted.
        numbers: Numbers for downloads.
    """

    def __init__(self, board: Board, numbers: itertools.count[int]) -> None:
        self._board = board
        self._numbers = numbers
        self._all = Cancellation()

    def cancel(self) -> None:
        """End all downloads under way, and those to come."""
        self._all.cancel()

    def pull(
        self,
        store: ModelStore,
        ref: str | os.PathLike[str],
        *,
        sha256: str | None = None,
        on_progress: PullCallback | None = None,
        cancel: Cancellation | None = None,
    ) -> StoredModel:
        """Fetch a model into `store`; see `ModelStore.pull`."""
        name, number = os.fspath(ref), next(self._numbers)
        begun = False

        def tell(progress: PullProgress) -> object:
            nonlocal begun
            begun = True
            self._board.post(Downloading(id=number, ref=name, progress=progress))
            return None if on_progress is None else on_progress(progress)

        try:
            own = Cancellation()
            with ExitStack() as either:
                either.enter_context(self._all.stopping(own.cancel))
                if cancel is not None:
                    either.enter_context(cancel.stopping(own.cancel))
                model = store.pull(ref, sha256=sha256, on_progress=tell, cancel=own)
        except BaseException as exc:
            if begun:
                self._board.post(Failed(id=number, ref=name, error=_told(exc)))
            raise
        if begun:  # else it was here
            self._board.post(Downloaded(id=number, ref=name))
        return model

    def find(
        self, store: ModelStore, ref: str | os.PathLike[str], on_progress: ProgressCallback | None, *, fetch: bool
    ) -> StoredModel:
        """Return the model on this machine that `ref` leads to, fetched first if it may be and is not here.

        Args:
            store: Where to look.
            ref: The model.
            on_progress: Told how far the download is, as the beginning of a load.
            fetch: Whether it may be.

        Raises:
            LoadCancelledError: `on_progress` returned False.
            LocalLLMError: As `ModelStore.find` and `ModelStore.pull`; and what `on_progress` raised.
        """
        try:
            return store.find(ref)
        except ModelNotFoundError:
            if not fetch or not store.fetchable(ref):
                raise

        def tell(progress: PullProgress) -> object:
            return None if on_progress is None else on_progress(_as_load(progress))

        try:
            return self.pull(store, ref, on_progress=tell)
        except DownloadCancelledError:
            raise LoadCancelledError(f"fetching {os.fspath(ref)!r} was cancelled by on_progress") from None


def _as_load(progress: PullProgress) -> LoadProgress:
    total = progress.total_bytes
    return LoadProgress(progress.phase, min(1.0, progress.done_bytes / total) if total else 0.0)


def _told(exc: BaseException) -> LocalLLMError:
    if isinstance(exc, LocalLLMError):
        return exc
    return DownloadCancelledError(f"its caller gave it up: {type(exc).__name__}: {exc}")
