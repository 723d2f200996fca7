"""What the tests of sessions share: a chat with a scripted model, and a way to have text arrive when a test says so."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Unpack

from localllm import (
    ChatSession,
    FakeBackend,
    FakeReply,
    GenerationOptions,
    Message,
    ModelConfig,
    ModelManager,
    OnToolCall,
    Overflow,
)
from localllm.backends.clock import Clock
from localllm.tools.tool import Tools

Script = str | FakeReply | Exception


@contextmanager
def chatting(
    *script: Script,
    clock: Clock | None = None,
    config: ModelConfig | None = None,
    system: str | None = None,
    history: Iterable[Message] = (),
    tools: Tools = (),
    on_tool_call: OnToolCall | None = None,
    overflow: Overflow = "error",
    **options: Unpack[GenerationOptions],
) -> Iterator[tuple[ChatSession, FakeBackend]]:
    """Yield a session with a model that answers from `script`, and the model's backend."""
    backend = FakeBackend(script, clock=clock)
    with ModelManager(backend) as models:
        model = models.load("fake", config=config)
        session = ChatSession(
            model,
            system=system,
            history=history,
            tools=tools,
            on_tool_call=on_tool_call,
            overflow=overflow,
            **options,
        )
        yield session, backend
    backend.close()


def texts(messages: Iterable[Message]) -> list[str]:
    """Return the contents of `messages`."""
    return [message.content for message in messages]


def in_thread(action: Callable[[], object]) -> Callable[[], BaseException | None]:
    """Start `action` on a thread; the returned function waits for it and tells what it raised."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            action()
        except BaseException as exc:  # noqa: BLE001  # the test looks at it
            raised.append(exc)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()

    def wait() -> BaseException | None:
        thread.join(timeout=15)
        assert not thread.is_alive(), "the thread did not end"
        return raised[0] if raised else None

    return wait
