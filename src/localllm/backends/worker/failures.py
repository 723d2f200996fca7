"""Errors as values: what one process raises is raised in the other as the same class, from the closed list of ours."""

from __future__ import annotations

from localllm.backends.worker.details import details_of, kind_of, kinds, made
from localllm.backends.worker.messages import Failure
from localllm.errors import BackendError, LocalLLMError


def to_failure(error: BaseException, kind: type[LocalLLMError] = BackendError) -> Failure:
    """Return `error` as a value; a class that is not in the list becomes its nearest base that is, or `kind`."""
    ours = next((base for base in type(error).__mro__ if kinds().get(base.__name__) is base), None)
    known = kind if ours is None else kinds()[ours.__name__]
    cause = error.__cause__
    return Failure(
        kind=known.__name__,
        message=printable(f"{type(error).__name__}: {error}" if ours is None else str(error)),
        details=details_of(error, known),
        cause="" if cause is None else printable(f"{type(cause).__name__}: {cause}"),
        notes=tuple(printable(note) for note in getattr(error, "__notes__", ()) if isinstance(note, str)),
    )


def to_error(failure: Failure) -> LocalLLMError:
    """Return the error that `failure` tells of; its cause, which is no object here, as a note."""
    error = made(kind_of(failure.kind), failure.message, failure.details)
    for note in failure.notes:
        error.add_note(note)
    if failure.cause:
        error.add_note(f"in the worker it came from {failure.cause}")
    return error


def printable(text: str) -> str:
    """Return `text` without lone surrogates, which no encoding of Unicode can carry."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
