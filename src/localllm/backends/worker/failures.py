"""Errors as values: what one process raises is raised in the other as the same class, from the closed list of ours."""

from __future__ import annotations

from localllm import errors
from localllm.backends.worker.messages import Failure
from localllm.errors import BackendError, ContextOverflowError, LocalLLMError


def _known() -> dict[str, type[LocalLLMError]]:
    named = {name: value for name, value in vars(errors).items() if isinstance(value, type)}
    return {name: value for name, value in named.items() if issubclass(value, LocalLLMError)}


_KINDS = _known()


def to_failure(error: BaseException, kind: type[LocalLLMError] = BackendError) -> Failure:
    """Return `error` as a value; a class that is not in the list becomes its nearest base that is, or `kind`."""
    name = next((base.__name__ for base in type(error).__mro__ if _KINDS.get(base.__name__) is base), None)
    cause = error.__cause__
    overflow = error if isinstance(error, ContextOverflowError) else None
    return Failure(
        kind=name or kind.__name__,
        message=printable(str(error) if name else f"{type(error).__name__}: {error}"),
        prompt_tokens=overflow.prompt_tokens if overflow else 0,
        context_tokens=overflow.context_tokens if overflow else 0,
        cause="" if cause is None else printable(f"{type(cause).__name__}: {cause}"),
    )


def to_error(failure: Failure) -> LocalLLMError:
    """Return the error that `failure` tells of; its cause, which is no object here, as a note."""
    kind = _KINDS.get(failure.kind, BackendError)
    error: LocalLLMError
    if kind is ContextOverflowError:
        counts = (failure.prompt_tokens, failure.context_tokens)
        error = ContextOverflowError(failure.message, prompt_tokens=counts[0], context_tokens=counts[1])
    else:
        error = kind(failure.message)
    if failure.cause:
        error.add_note(f"in the worker it came from {failure.cause}")
    return error


def printable(text: str) -> str:
    """Return `text` without lone surrogates, which no encoding of Unicode can carry."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
