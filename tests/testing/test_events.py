"""EventLog and collect: what a request did, told to a test."""

from __future__ import annotations

import pytest

from localllm.backends.base import GenerateRequest, ModelSpec
from localllm.backends.fake import FakeBackend, FakeReply
from localllm.testing import EventLog, ManualClock, collect
from localllm.types import GenerationEnded, Message, PromptProgress, TextDelta

REQUEST = GenerateRequest(messages=(Message.user("Hi"),))


def test_collect_gives_all_of_a_reply() -> None:
    model = FakeBackend([FakeReply("Yes.", thought="Hm.")]).load(ModelSpec(ref="any"))
    reply = collect(model, REQUEST)
    assert (reply.text, reply.end.finish_reason) == ("Yes.", "stop")
    assert [type(event) for event in reply.events] == [PromptProgress, TextDelta, TextDelta, GenerationEnded]


def test_collect_gives_up_and_cancels_what_takes_too_long() -> None:
    clock = ManualClock()
    model = FakeBackend([FakeReply("late", delay_s=60)], clock=clock).load(ModelSpec(ref="any"))
    with pytest.raises(TimeoutError, match="no end within"):
        collect(model, REQUEST, timeout_s=0.05)
    model.close()
    assert model.stats().finished == 1


def test_a_log_waits_for_text_and_gives_up() -> None:
    log = EventLog()
    with pytest.raises(TimeoutError, match="neither text nor an end"):
        log.wait_for_text(0.01)
    log(TextDelta("a"))
    log.wait_for_text()
    assert (log.text, log.end) == ("a", None)


def test_a_log_notes_what_breaks_the_rules() -> None:
    log = EventLog(lambda event: log(TextDelta("inside")) if event == TextDelta("outside") else None)
    log(TextDelta(""))
    log(PromptProgress(1, 2, 3))
    log("nonsense")  # type: ignore[arg-type]  # wrong on purpose
    log(TextDelta("outside"))
    log(GenerationEnded("stop"))
    log(TextDelta("after"))
    said = " / ".join(log.problems)
    for problem in ("empty", "add up", "no event", "while another event", "after the end"):
        assert problem in said
    assert log.end == GenerationEnded("stop")
