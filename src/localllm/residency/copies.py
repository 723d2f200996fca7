"""Errors that several callers raise, each with its own traceback and its own partial reply."""

from __future__ import annotations

import copy

from localllm.errors import LocalLLMError


def own_copy(error: LocalLLMError) -> LocalLLMError:
    """Return a copy of an error for one caller, with the same cause and the same history.

    Args:
        error: What happened to all of them.
    """
    try:
        own = copy.copy(error)
    except Exception:  # noqa: BLE001  # a class of the user's own that cannot be copied: then they share it
        return error
    own.__cause__, own.__suppress_context__ = error.__cause__, error.__suppress_context__
    return own.with_traceback(error.__traceback__)
