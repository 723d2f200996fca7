"""The worker's side of the protocol, without a process: pipes of this one, and a thread that serves them."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Iterator

import pytest

from localllm import __version__
from localllm.backends.base import GenerateRequest, ModelSpec
from localllm.backends.worker.child import Child
from localllm.backends.worker.codec import child_codec, parent_codec
from localllm.backends.worker.frames import FrameReader, framed
from localllm.backends.worker.messages import (
    EXIT_PROTOCOL,
    LOADING,
    PROTOCOL,
    STARTING,
    Accepted,
    Answer,
    Ask,
    Beat,
    Cancel,
    Close,
    Closed,
    Detokenize,
    EventOf,
    Events,
    Failed,
    Generate,
    Load,
    LoadedIn,
    Logged,
    Progress,
    Render,
    Start,
    Started,
    Stats,
    TextIs,
    ToChild,
    Tokenize,
    TokensAre,
    ToParent,
)
from localllm.backends.worker.sender import encoded
from localllm.chat.rendered import RenderedPrompt
from localllm.types import BackendEvent, GenerationEnded, Message, TextDelta
from tests.worker import hostile
from tests.worker.harness import LIMIT_S, until


class Parent:
    """Talks to a child that is served by a thread of this process."""

    def __init__(self) -> None:
        child_in, self._out = os.pipe()
        self._in, child_out = os.pipe()
        self.left: list[int] = []
        self._frames = FrameReader()
        self._pending: list[ToParent] = []
        self._fds = [child_in, child_out, self._in]
        child = Child(child_in, child_out, leave=self.left.append)
        self.thread = threading.Thread(target=child.run, daemon=True)
        self.thread.start()

    def send(self, *messages: ToChild) -> None:
        self.write(b"".join(framed(child_codec().encode(message)) for message in messages))

    def write(self, data: bytes) -> None:
        os.write(self._out, data)

    def receive(self) -> ToParent:
        """Return the next message that is no heartbeat and no log record."""
        while True:
            while not self._pending:
                self._pending += [
                    parent_codec().decode(payload) for payload in self._frames.feed(os.read(self._in, 65536))
                ]
            message = self._pending.pop(0)
            if not isinstance(message, (Beat, Logged)):
                return message

    def hang_up(self) -> None:
        os.close(self._out)
        self._out = -1

    def start(self, ref: str = "ok", backend: str = hostile.PATH) -> None:
        """Start and load."""
        self.send(start(backend))
        assert isinstance(self.receive(), Started)
        self.send(Load(ModelSpec(ref=ref)))
        while isinstance(message := self.receive(), Progress):
            pass
        assert isinstance(message, LoadedIn)

    def events(self) -> Iterator[BackendEvent]:
        """Yield the events of all requests until one ends."""
        while True:
            message = self.receive()
            assert isinstance(message, Events)
            for item in message.items:
                yield item.event
                if isinstance(item.event, GenerationEnded):
                    return

    def close(self) -> None:
        """Hang up, if that was not done, and wait until nothing of the child is left."""
        if self._out >= 0:
            self.hang_up()
        self.thread.join(LIMIT_S)
        until(lambda: not any(thread.name.startswith("worker-") for thread in threading.enumerate()), "threads end")
        for fd in self._fds:
            os.close(fd)


def start(backend: str = hostile.PATH, *, protocol: int = PROTOCOL, version: str = __version__) -> Start:
    return Start(protocol=protocol, version=version, backend=backend, sys_path=tuple(sys.path), beat_s=0.05)


def ask(text: str) -> GenerateRequest:
    return GenerateRequest(messages=(Message.user(text),))


@pytest.fixture
def parent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Parent]:
    """A parent whose child may change what belongs to its process: it is put back."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    one = Parent()
    yield one
    one.close()
    root.handlers[:] = handlers
    root.setLevel(level)


def test_a_whole_life(parent: Parent) -> None:
    """Start, load, questions, a request, a close; each is answered as the protocol says."""
    parent.start()
    assert "PYTHONPATH" not in os.environ
    parent.send(Ask(7, Tokenize("hello there")))
    answer = parent.receive()
    assert isinstance(answer, Answer)
    assert isinstance(answer.finding, TokensAre)
    parent.send(Ask(8, Detokenize(answer.finding.tokens)))
    assert parent.receive() == Answer(8, TextIs("hello there"))
    parent.send(Ask(9, Render((Message.user("hi"),))), Ask(10, Stats()), Ask(11, Detokenize((2**40,))))
    assert isinstance(getattr(getattr(parent.receive(), "finding", None), "prompt", None), RenderedPrompt)
    assert isinstance(parent.receive(), Answer)
    failed = parent.receive()
    assert isinstance(failed, Failed)
    assert (failed.id, failed.failure.kind) == (11, "InvalidOptionError")
    parent.send(Generate(12, ask("say 3")))
    assert parent.receive() == Accepted(12)
    events = list(parent.events())
    assert "".join(event.text for event in events if isinstance(event, TextDelta)) == hostile.expected(3)
    parent.send(Close())
    closed = parent.receive()
    assert isinstance(closed, Closed)
    assert closed.stats is not None
    assert closed.stats.finished == 1
    parent.thread.join(LIMIT_S)
    assert parent.left == []


def test_a_request_is_cancelled_once_and_forgotten(parent: Parent) -> None:
    """A cancel of one that has ended, or never was, does nothing."""
    parent.start()
    parent.send(Cancel(99), Generate(1, ask("say 1\nwait 60")))
    assert parent.receive() == Accepted(1)
    events = parent.events()
    while not isinstance(next(events), TextDelta):
        pass
    parent.send(Cancel(1))
    assert [event.finish_reason for event in events if isinstance(event, GenerationEnded)] == ["cancelled"]
    parent.send(Cancel(1), Ask(2, Stats()))
    assert isinstance(parent.receive(), Answer)


@pytest.mark.parametrize(
    ("message", "kind", "says"),
    [
        (start(protocol=PROTOCOL + 1), "WorkerStartError", "let both find the same installation"),
        (start(version="0.0.0"), "WorkerStartError", "the application is 0.0.0"),
        (start("tests.worker.no_such:Class"), "BackendUnavailableError", "does not import"),
    ],
)
def test_a_start_that_fails_says_why_and_ends(parent: Parent, message: Start, kind: str, says: str) -> None:
    """Another version, or no backend."""
    parent.send(message)
    failed = parent.receive()
    assert isinstance(failed, Failed)
    assert (failed.id, failed.failure.kind) == (STARTING, kind)
    assert says in failed.failure.message
    parent.thread.join(LIMIT_S)
    assert not parent.thread.is_alive()


def test_a_second_load_is_refused(parent: Parent) -> None:
    """One worker, one model."""
    parent.start()
    parent.send(Load(ModelSpec(ref="another")))
    failed = parent.receive()
    assert isinstance(failed, Failed)
    assert (failed.id, failed.failure.kind) == (LOADING, "ModelLoadError")


def test_what_comes_before_a_load_fails(parent: Parent) -> None:
    """There is no model to ask."""
    parent.send(start())
    assert isinstance(parent.receive(), Started)
    parent.send(Ask(5, Stats()), Generate(6, ask("say 1")))
    found = [parent.receive() for _ in range(3)]
    assert {type(message) for message in found} == {Failed, Accepted, Events}
    parent.send(Close())
    assert parent.receive() == Closed(None)


def test_the_parents_end_ends_the_child(parent: Parent) -> None:
    """At once, whatever it does."""
    parent.start()
    parent.send(Generate(1, ask("wait 60")))
    parent.hang_up()
    until(lambda: parent.left, "it leaves")
    assert parent.left[0] == 0


@pytest.mark.parametrize("data", [b"\0\0\0\x05hello", b"\xff\xff\xff\xff"])
def test_garbage_ends_the_child(parent: Parent, data: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    """With an exit code of its own, and a word on stderr."""
    parent.write(data)
    until(lambda: parent.left, "it leaves")
    assert parent.left[0] == EXIT_PROTOCOL
    assert "localllm worker: malformed message" in capfd.readouterr().err


def test_a_message_out_of_order_ends_the_child(parent: Parent, capfd: pytest.CaptureFixture[str]) -> None:
    """The first one is Start, and comes once."""
    parent.start()
    parent.send(start())
    until(lambda: parent.left, "it leaves")
    assert parent.left[0] == EXIT_PROTOCOL
    assert "Start came at the wrong time" in capfd.readouterr().err


def test_what_cannot_be_passed_on_ends_its_request_only() -> None:
    """One event that no encoding can carry becomes an error; the others beside it are sent as they are."""
    bad = EventOf(2, GenerationEnded("stop", usage="nonsense\udc80"))  # type: ignore[arg-type]
    good = [EventOf(number, TextDelta("x")) for number in (1, 3)]
    frames = encoded(parent_codec(), Events((good[0], bad, good[1])))
    payloads = FrameReader().feed(b"".join(frames))
    items = [item for payload in payloads for item in getattr(parent_codec().decode(payload), "items", ())]
    assert [item.id for item in items] == [1, 2, 3]
    assert items[1].event.finish_reason == "error"
    answer = encoded(parent_codec(), Answer(4, TextIs("\udc80")))
    failed = parent_codec().decode(FrameReader().feed(answer[0])[0])
    assert isinstance(failed, Failed)
    assert failed.id == 4
