"""`localllm pull`: fetch models, with a bar for each; and the offer to fetch one that a chat lacks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from attrs import frozen

from localllm.cli import FAILED, OK
from localllm.cli.bars import bars
from localllm.cli.objects import error_object, model_object
from localllm.cli.terminal import Terminal, on_interrupt, printable
from localllm.errors import DownloadCancelledError, InvalidOptionError, LocalLLMError, ModelNotFoundError
from localllm.models.cancel import Cancellation
from localllm.models.progress import PullCallback
from localllm.models.store import ModelStore
from localllm.models.stored import StoredModel

_AT_ONCE = 4


@frozen
class _Outcome:
    """What came of one pull."""

    ref: str
    model: StoredModel | None = None
    error: LocalLLMError | None = None


def pull(
    store: ModelStore, refs: Sequence[str], terminal: Terminal, *, sha256: str | None = None, as_json: bool = False
) -> int:
    """Fetch models, a few at once, and write the path of each to stdout.

    Args:
        store: Where to.
        refs: Which.
        terminal: Whose stderr shows the progress, if it is a terminal.
        sha256: The checksum that the caller expects, of a single model in one file.
        as_json: Write one JSON array of all of them instead.

    Returns:
        The exit code: 0 if all are there, 1 if not.

    Raises:
        KeyboardInterrupt: Ctrl-C was pressed; what had come is kept.
        InvalidOptionError: A checksum for several models.
    """
    if sha256 is not None and len(refs) > 1:
        raise InvalidOptionError("--sha256 is of one model; pull the others without it")
    cancel = Cancellation()
    with on_interrupt() as interrupt, bars(terminal) as bar, ThreadPoolExecutor(_AT_ONCE) as threads:
        interrupt.stops(cancel.cancel)
        futures = [threads.submit(_pull_one, store, ref, sha256, bar(ref), cancel) for ref in refs]
        outcomes = [future.result() for future in futures]
    if interrupt:
        raise KeyboardInterrupt
    return _report(outcomes, terminal, as_json=as_json)


def offer(store: ModelStore, ref: str, terminal: Terminal, *, yes: bool = False) -> None:
    """Ask a person whether to fetch `ref` if it is not here, and do so.

    Args:
        store: Where to.
        ref: The model.
        terminal: Where to ask.
        yes: Do not ask.

    Raises:
        ModelNotFoundError: It is not here, and nobody types who could be asked.
        LocalLLMError: It cannot be fetched.
        KeyboardInterrupt: Ctrl-C was pressed.
    """
    if not store.fetchable(ref):
        return
    try:
        store.find(ref)
    except ModelNotFoundError as exc:
        if not yes and not terminal.interactive:
            raise ModelNotFoundError(
                f"{ref} is not on this machine, and here nobody can be asked whether to fetch it; "
                f"say --yes, or fetch it first: `localllm pull {ref}`"
            ) from exc
    else:
        return
    if not yes and not _wants(f"{ref} is not on this machine. Fetch it into {store.home}?", terminal):
        return
    cancel = Cancellation()
    with on_interrupt() as interrupt, bars(terminal) as bar:
        interrupt.stops(cancel.cancel)
        try:
            store.pull(ref, on_progress=bar(ref), cancel=cancel)
        except DownloadCancelledError as exc:
            raise KeyboardInterrupt from exc


def _wants(question: str, terminal: Terminal) -> bool:
    terminal.stderr.write(f"{printable(question)} [Y/n] ")
    terminal.stderr.flush()
    answer = terminal.stdin.readline() if terminal.stdin is not None else ""
    return answer.endswith("\n") and answer.strip().lower() in ("", "y", "yes")


def _pull_one(
    store: ModelStore, ref: str, sha256: str | None, on_progress: PullCallback, cancel: Cancellation
) -> _Outcome:
    try:
        return _Outcome(ref, model=store.pull(ref, sha256=sha256, on_progress=on_progress, cancel=cancel))
    except LocalLLMError as exc:
        return _Outcome(ref, error=exc)


def _report(outcomes: Sequence[_Outcome], terminal: Terminal, *, as_json: bool) -> int:
    if len(outcomes) == 1 and isinstance(outcomes[0].error, InvalidOptionError):
        raise outcomes[0].error  # the command was used wrongly, which is another exit code
    objects: list[dict[str, object]] = []
    for outcome in outcomes:
        if outcome.model is not None:
            objects.append({"asked": outcome.ref, **model_object(outcome.model)})
            if not as_json:
                terminal.line(str(outcome.model.path))
        if outcome.error is not None:
            objects.append({"asked": outcome.ref, **error_object(outcome.error)})
            terminal.note(str(outcome.error), kind="error")
    if as_json:
        terminal.line(json.dumps(objects, ensure_ascii=False))
    return FAILED if any(outcome.error is not None for outcome in outcomes) else OK
