"""What is sent at once and what by the thread: all of it, in order, and never with a wait for the pipe."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator

import pytest
from attrs import field, frozen

from localllm.backends.worker.codec import parent_codec
from localllm.backends.worker.frames import FrameReader
from localllm.backends.worker.messages import Answer, Beat, Events, Logged, TextIs, ToParent
from localllm.backends.worker.outbox import Outbox
from localllm.backends.worker.pipes import AT_ONCE_BYTES, has_room, read_some
from localllm.backends.worker.sender import Sender
from localllm.errors import BackendError
from localllm.types import GenerationEnded, TextDelta

LIMIT_S = 10.0
unix = pytest.mark.skipif(sys.platform == "win32", reason="there a thread sends everything")


@frozen
class Line:
    """A sender and the other end of its pipe."""

    read_fd: int
    write_fd: int
    outbox: Outbox = field(factory=Outbox)
    refused: list[str] = field(factory=list)
    _frames: FrameReader = field(factory=FrameReader)

    @property
    def sender(self) -> Sender:
        """A sender into the pipe; each call makes one."""
        return Sender(self.outbox, self.write_fd, self.refused.append)

    def read(self) -> list[ToParent]:
        """Return what is in the pipe, or comes next."""
        return [parent_codec().decode(payload) for payload in self._frames.feed(read_some(self.read_fd))]

    def fill(self) -> int:
        """Leave no room in the pipe; return how many bytes that took."""
        os.set_blocking(self.write_fd, False)
        count = 0
        try:
            while True:
                count += os.write(self.write_fd, bytes(1024))
        except BlockingIOError:
            os.set_blocking(self.write_fd, True)
            return count


@pytest.fixture
def line() -> Iterator[Line]:
    """A pipe of its own."""
    line = Line(*os.pipe())
    yield line
    os.close(line.read_fd)
    os.close(line.write_fd)


def drain(fd: int, count: int) -> None:
    """Read so many bytes."""
    while count:
        count -= len(os.read(fd, count))


def texts(messages: list[ToParent], request: int) -> list[str]:
    """Return the texts of a request's events."""
    items = [item for message in messages if isinstance(message, Events) for item in message.items]
    return [item.event.text for item in items if item.id == request and isinstance(item.event, TextDelta)]


@unix
def test_a_step_is_sent_at_once_and_in_one_frame(line: Line) -> None:
    """By the thread that made it: there is no other."""
    sender = line.sender
    for request in range(8):
        line.outbox.put_event(request, TextDelta("x"))
    sender.send()
    (events,) = line.read()
    assert isinstance(events, Events)
    assert [item.id for item in events.items] == list(range(8))


def test_a_step_without_events_sends_nothing(line: Line) -> None:
    """As when a prompt is read."""
    line.sender.send()
    assert not line.outbox.take()


@unix
def test_a_full_pipe_is_left_to_the_thread(line: Line) -> None:
    """The step returns at once, and so do those after it; the order stays."""
    sender, count = line.sender, line.fill()
    for number in range(100):
        line.outbox.put_event(1, TextDelta(f"{number} "))
        sender.send()
    thread = threading.Thread(target=sender.run)
    thread.start()
    drain(line.read_fd, count)
    found = list[ToParent]()
    while "99 " not in "".join(texts(found, 1)):
        found += line.read()
    assert "".join(texts(found, 1)) == "".join(f"{number} " for number in range(100))
    line.outbox.close()
    thread.join(LIMIT_S)
    assert not thread.is_alive()


@unix
def test_what_is_longer_than_a_pipe_takes_at_once_is_left_to_the_thread(line: Line) -> None:
    """Nothing is cut, and what comes after it comes after it, though the pipe has room."""
    sender, long = line.sender, "x" * (AT_ONCE_BYTES + 1)
    line.outbox.put_event(1, TextDelta(long))
    sender.send()
    line.outbox.put_event(1, TextDelta("after"))
    sender.send()
    line.outbox.close()
    assert sender.run()
    found = line.read()
    assert texts(found, 1) == [long, "after"]


def test_all_of_several_threads_arrives_in_each_ones_order(line: Line) -> None:
    """Steps of one thread, events of another that does not send, messages of a third; a reader at its own pace."""
    sender, rounds = line.sender, 2000

    def steps() -> None:
        for number in range(rounds):
            line.outbox.put_event(1, TextDelta(f"{number} "))
            sender.send()

    def events() -> None:
        for number in range(rounds):
            line.outbox.put_event(2, TextDelta(f"{number} "))

    def messages() -> None:
        for number in range(rounds):
            line.outbox.put(Answer(number, TextIs("")))

    writer = threading.Thread(target=sender.run)
    threads = [threading.Thread(target=work) for work in (steps, events, messages)]
    for thread in (writer, *threads):
        thread.start()

    def close() -> None:
        for thread in threads:
            thread.join()
        line.outbox.put(Beat(marks=7))
        line.outbox.close()

    closer = threading.Thread(target=close)
    closer.start()
    found = list[ToParent]()
    while not (found and found[-1] == Beat(marks=7)):
        found += line.read()
    closer.join(LIMIT_S)
    writer.join(LIMIT_S)
    assert not writer.is_alive()
    for request in (1, 2):
        assert "".join(texts(found, request)) == "".join(f"{number} " for number in range(rounds))
    assert [message.id for message in found if isinstance(message, Answer)] == list(range(rounds))


@unix
def test_a_pipe_that_nobody_reads_ends_the_thread() -> None:
    """Also when it was a step that found out; the step itself goes on."""
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    line = Line(read_fd, write_fd)
    sender = line.sender
    line.outbox.put_event(1, TextDelta("x"))
    sender.send()
    assert not sender.run()
    os.close(write_fd)


class _Huge(BackendError):
    """Takes more memory than there is as soon as it is put into words."""

    def __str__(self) -> str:
        raise MemoryError


@pytest.mark.parametrize("way", ["send", "run"])
def test_want_of_memory_is_not_passed_over(line: Line, way: str) -> None:
    """Messages are lost then, which whoever calls must know."""
    sender = line.sender
    line.outbox.put_event(1, GenerationEnded("error", error=_Huge("x")))
    line.outbox.close()
    with pytest.raises(MemoryError):
        getattr(sender, way)()


def test_what_cannot_be_sent_is_refused(line: Line) -> None:
    """A message that belongs to no request, so that nobody can be told otherwise."""
    sender = line.sender
    line.outbox.put(Logged(logger="\udc80", level=10, text=""))
    line.outbox.close()
    sender.run()
    assert line.refused


@unix
def test_a_pipe_tells_of_its_room(line: Line) -> None:
    """And one that is closed has none."""
    assert has_room(line.write_fd)
    line.fill()
    assert not has_room(line.write_fd)
    assert not has_room(100_000)
