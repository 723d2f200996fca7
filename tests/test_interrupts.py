"""Ctrl-C, signal handlers, finalizers and the end of the interpreter: whatever comes in the middle of a reply."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from localllm import ChatSession, ChatStream, FakeReply, GenerateRequest, GenerationEnded, StreamChunk
from localllm.pump import ThreadPump
from localllm.testing import ManualClock
from tests.by_hand import HandModel, loaded
from tests.chats import chatting, in_thread, texts


def _is_waiting(thread: int) -> bool:
    """Tell whether a thread waits for the backend."""
    frame = sys._current_frames().get(thread)
    return frame is not None and frame.f_code is ThreadPump.run.__code__


@contextmanager
def _interrupted(clock: ManualClock) -> Iterator[threading.Event]:
    """Let one piece come, and once the block has set the event interrupt the main thread, which waits for the next."""
    delivered = threading.Event()
    main = threading.get_ident()

    def interrupt() -> None:
        clock.wait_until_blocked()
        clock.advance(1)
        clock.wait_until_blocked()
        assert delivered.wait(15)
        # A thread that is still sending its request has no handle to cancel it with yet.
        while not _is_waiting(main):
            threading.Event().wait(0.001)
        signal.raise_signal(signal.SIGINT)  # reaches the main thread, whoever raises it

    wait = in_thread(interrupt)
    yield delivered
    assert wait() is None


def _iterate(stream: ChatStream, delivered: threading.Event) -> None:
    for _ in stream:
        delivered.set()


def _read_events(stream: ChatStream, delivered: threading.Event) -> None:
    for event in stream.events():
        if isinstance(event, StreamChunk):
            delivered.set()


def _take_one_by_one(stream: ChatStream, delivered: threading.Event) -> None:
    while True:
        next(stream)
        delivered.set()


def _read_reply(stream: ChatStream, delivered: threading.Event) -> None:
    delivered.set()
    stream.reply  # noqa: B018


@pytest.mark.parametrize("read", [_iterate, _read_events, _take_one_by_one, _read_reply])
def test_ctrl_c_during_a_wait_cancels(read: Callable[[ChatStream, threading.Event], None]) -> None:
    """KeyboardInterrupt comes through, what was delivered is kept, the session is free though the stream lives on."""
    clock = ManualClock()
    with chatting(FakeReply(chunks=["a", "b"], delay_s=1), "next", clock=clock) as (chat, _):
        stream = chat.stream("hi")
        with pytest.raises(KeyboardInterrupt), _interrupted(clock) as delivered:
            read(stream, delivered)
        assert texts(chat.history) == ["hi", "a"]
        assert chat.history[-1].finish_reason == "cancelled"
        assert chat.send("again").text == "next"
        assert stream.reply.text == "a"


def test_ctrl_c_during_a_send_cancels() -> None:
    """KeyboardInterrupt comes through, what had been received is kept, the session is free at once."""
    clock = ManualClock()
    with chatting(FakeReply(chunks=["a", "b"], delay_s=1), "next", clock=clock) as (chat, _):
        with pytest.raises(KeyboardInterrupt), _interrupted(clock) as delivered:
            delivered.set()
            chat.send("hi")
        assert texts(chat.history) == ["hi", "a"]
        assert chat.send("again").text == "next"


@pytest.mark.parametrize("ask", [ChatSession.send, ChatSession.stream])
def test_ctrl_c_while_a_request_is_sent_frees_the_session(ask: Callable[[ChatSession, str], object]) -> None:
    """Whatever was interrupted: the session is free, also for the handler of that very exception."""

    def interrupt_once(request: GenerateRequest) -> None:
        hand.on_generate = None
        raise KeyboardInterrupt

    hand = HandModel(interrupt_once)
    chat = ChatSession(loaded(hand))
    try:
        ask(chat, "hi")
    except KeyboardInterrupt:
        chat.stream("again").cancel()
    assert [request.messages[-1].content for request in hand.requests] == ["again"]
    assert chat.history == ()


def test_ctrl_c_while_a_cancelled_reply_winds_down() -> None:
    """Who waits for the figures of a cancelled reply can leave, too."""
    hand = HandModel(obeys=False)
    chat = ChatSession(loaded(hand))
    stream = chat.stream("hi")
    hand.say("a")
    next(stream)
    stream.cancel()
    timer = threading.Timer(0.05, signal.raise_signal, [signal.SIGINT])
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        stream.reply  # noqa: B018
    timer.join()
    hand.end(GenerationEnded("cancelled"))
    assert stream.reply.text == "a"


def test_a_signal_handler_may_cancel() -> None:
    """In the thread that is in the middle of the very same stream: the loop ends, nothing is raised."""
    clock = ManualClock()
    with chatting(FakeReply(chunks=["a", "b"], delay_s=1), clock=clock) as (chat, _):
        stream = chat.stream("hi")
        before = signal.signal(signal.SIGINT, lambda *_: stream.cancel())
        try:
            seen = []
            with _interrupted(clock) as delivered:
                for chunk in stream:
                    seen.append(chunk.text)
                    delivered.set()
            assert seen == ["a"]
        finally:
            signal.signal(signal.SIGINT, before)
        assert stream.reply.finish_reason == "cancelled"
        assert texts(chat.history) == ["hi", "a"]


class _Bomb:
    """Garbage in a cycle: drops a stream when the collector finds it, which may be anywhere."""

    def __init__(self, stream: ChatStream) -> None:
        self.stream = stream
        self.cycle = self


def test_a_finalizer_may_run_while_its_own_mailbox_is_filled() -> None:
    """A backend's thread collects the stream in the middle of `put`, whose cancel puts the end: no deadlock."""
    hand = HandModel()
    chat = ChatSession(loaded(hand))
    _Bomb(chat.stream("hi"))

    def push() -> None:
        hand.say("a")
        gc.collect()
        hand.say("b")

    assert in_thread(push)() is None
    assert hand.cancelled == [0]
    assert chat.history == ()


def test_finalizers_in_many_threads_never_deadlock() -> None:
    """Streams in cycles, collected by whichever thread allocates next, backends' threads among them."""
    with chatting(*["one two three"] * 160) as (chat, _):

        def churn() -> None:
            for _ in range(40):
                stream = chat.fork().stream("hi")
                next(stream)
                _Bomb(stream)

        before = gc.get_threshold()
        gc.set_threshold(5, 2, 2)
        try:
            waits = [in_thread(churn) for _ in range(4)]
            assert [wait() for wait in waits] == [None] * 4
        finally:
            gc.set_threshold(*before)


def _run(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=15,
        check=False,
    )


def test_the_interpreter_ends_in_silence_with_a_stream_left_open() -> None:
    """A forgotten stream, its manager never closed: nothing is printed, nothing hangs."""
    done = _run(
        """
        from localllm import ChatSession, FakeBackend, FakeReply, ModelManager
        chat = ChatSession(ModelManager(FakeBackend(["x", FakeReply("never", delay_s=1e6)])).load("m"))
        events = chat.fork().stream("hi").events()
        next(events)
        stream = chat.stream("hi")
        print("end")
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


def test_ctrl_c_reaches_a_program_that_waits() -> None:
    """A real SIGINT in a process of its own: KeyboardInterrupt, and the partial reply is there."""
    done = _run(
        """
        import os, signal, threading
        from localllm import ChatSession, FakeBackend, FakeReply, ModelManager
        import sys
        from localllm.pump import ThreadPump
        from localllm.testing import ManualClock

        clock = ManualClock()
        main = threading.get_ident()
        def interrupt():
            clock.wait_until_blocked()
            while sys._current_frames()[main].f_code is not ThreadPump.run.__code__:
                pass
            os.kill(os.getpid(), signal.SIGINT)

        replies = [FakeReply(chunks=["Hel", "lo"], delay_s=1, first_delay_s=0)]
        chat = ChatSession(ModelManager(FakeBackend(replies, clock=clock)).load("m"))
        threading.Thread(target=interrupt).start()
        try:
            chat.send("hi")
        except KeyboardInterrupt:
            print(chat.history[-1].content)
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "Hel\n", "")


def test_what_arrives_after_a_cancel_is_ignored() -> None:
    """A backend that is slow to obey changes neither reply nor history."""
    hand = HandModel(obeys=False)
    chat = ChatSession(loaded(hand))
    stream = chat.stream("hi")
    hand.say("a", "b")
    assert next(stream).text == "a"
    stream.cancel()
    hand.say("c")
    hand.end(GenerationEnded("stop"))
    assert (stream.reply.text, stream.reply.finish_reason) == ("a", "cancelled")
    assert texts(chat.history) == ["hi", "a"]
