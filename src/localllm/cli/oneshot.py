"""`localllm chat "question"`: one question, one reply, an exit code."""

from __future__ import annotations

import json

from localllm.cli import FAILED, INTERRUPTED, OK
from localllm.cli.loading import ChatSettings, loaded
from localllm.cli.objects import error_object
from localllm.cli.streaming import show
from localllm.cli.terminal import Terminal, on_interrupt
from localllm.errors import LocalLLMError
from localllm.session import ChatSession
from localllm.types import Reply


def join(question: str, piped: str | None) -> str:
    """Return the prompt: what was piped in, then the question, with an empty line between.

    Args:
        question: The words on the command line; may be empty.
        piped: What came from stdin, or None.
    """
    parts = [(piped or "").strip("\r\n"), question]
    return "\n\n".join(part for part in parts if part.strip())


def answer(settings: ChatSettings, prompt: str, terminal: Terminal, *, as_json: bool = False) -> int:
    """Answer `prompt` on stdout.

    Args:
        settings: Model and options.
        prompt: The question.
        terminal: Where the reply goes.
        as_json: Write one JSON object at the end instead of text as it comes.

    Returns:
        The exit code: 0, or 130 if Ctrl-C ended it.

    Raises:
        LocalLLMError: It failed; with `as_json`, that is written as JSON instead and the exit code is 1.
    """
    if as_json:
        return _answer_as_json(settings, prompt, terminal)
    with loaded(settings, terminal) as model:
        session = ChatSession(model, system=settings.system, **settings.options)
        reply = show(lambda: session.stream(prompt), terminal)
    if reply.finish_reason == "length":
        terminal.note("the reply was cut off: --max-tokens or the context window is used up", kind="note")
    return _code(reply)


def _answer_as_json(settings: ChatSettings, prompt: str, terminal: Terminal) -> int:
    try:
        with loaded(settings, terminal) as model:
            session = ChatSession(model, system=settings.system, **settings.options)
            with on_interrupt() as interrupt, session.stream(prompt) as stream:
                interrupt.stops(stream.cancel)
                for _ in stream:  # only the whole reply is wanted
                    pass
            reply = stream.reply
    except LocalLLMError as exc:
        terminal.line(json.dumps(error_object(exc), ensure_ascii=False))
        terminal.note(str(exc), kind="error")
        return FAILED
    terminal.line(json.dumps({"text": reply.text, **reply.to_dict()}, ensure_ascii=False))
    return _code(reply)


def _code(reply: Reply) -> int:
    return INTERRUPTED if reply.finish_reason == "cancelled" else OK
