"""What a call came to, as the model is told it."""

from __future__ import annotations

from localllm.errors import LocalLLMError, ToolError
from localllm.types import Message, ToolCall, ToolResult


def succeeded(call: ToolCall, value: object) -> ToolResult:
    """Return what the model is told of a value: text as it is, anything else as JSON.

    A value that JSON cannot hold is a failure.
    """
    try:
        text = value if isinstance(value, str) else _json(value)
        Message("tool", text)
    except LocalLLMError as exc:
        return failed(call, ToolError(f"the result of {call.name} cannot be told: {exc}"))
    return ToolResult(call, text)


def failed(call: ToolCall, error: BaseException) -> ToolResult:
    """Return what the model is told of a failure: its kind and its text."""
    told = str(error) if isinstance(error, ToolError) else f"{type(error).__name__}: {error}"
    # Not every text can be told: what cannot is not worth a second failure.
    text = f"error: {told}".encode(errors="replace").decode().replace("\0", "\ufffd")
    if not isinstance(error, Exception):  # SystemExit and the like: of a call, it is a failure like others
        wrapped = ToolError(f"the tool {call.name} raised {type(error).__name__}: {error}")
        wrapped.__cause__ = error
        return ToolResult(call, text, wrapped)
    return ToolResult(call, text, error)


def _json(value: object) -> str:
    import msgspec  # only where a result is no text: these two take as long to import as all else
    from cattrs import Converter

    try:
        # cattrs keeps the order of attrs classes' fields; msgspec knows the rest, such as dates.
        return msgspec.json.encode(Converter().unstructure(value), enc_hook=_plain).decode()
    except (TypeError, ValueError, RecursionError, UnicodeEncodeError, OverflowError, msgspec.MsgspecError) as exc:
        raise ToolError(f"it is no JSON: {exc}") from exc


def _plain(value: object) -> object:
    """Return a value that JSON can hold for one that msgspec does not know: pydantic's models have a method for it."""
    dump = getattr(value, "model_dump", None)
    if callable(dump):
        return dump(mode="json")
    raise TypeError(f"objects of type {type(value).__name__} have no form in JSON")
