"""`complete_prompt`: how the user's text could go on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import pytest
from examples.custom_backend import BackwardsBackend

from localllm import (
    AsyncChatSession,
    AsyncModelManager,
    BackendError,
    BackendEvent,
    CassetteError,
    ChatSession,
    ClosedError,
    ContextOverflowError,
    FakeBackend,
    FakeReply,
    GenerateRequest,
    GenerationEnded,
    InvalidOptionError,
    InvalidPromptError,
    Message,
    ModelConfig,
    ModelManager,
    PromptProgress,
    PromptTypeError,
    RecordingBackend,
    ReplayBackend,
    SessionBusyError,
    Sink,
    TextDelta,
    ToolCall,
    UnsupportedError,
)
from localllm.testing import ManualClock
from tests.by_hand import Handle, HandModel, loaded
from tests.chats import chatting, in_thread, texts

U = Message.user

PURPOSES: tuple[tuple[str, Literal["reply", "complete"]], ...] = (
    ("later", "complete"),
    ("one", "reply"),
    ("two", "reply"),
)


def test_the_users_text_goes_on_and_the_history_stays() -> None:
    """The request is the conversation with the unfinished text, deterministic, and ends with the line."""
    script = ("one", "tal of France?\nAnd of")
    with chatting(*script, system="s", temperature=0.7, top_k=3, thoughts="off") as (chat, backend):
        chat.send("a")
        before = chat.history
        assert chat.complete_prompt("What is the capi") == "tal of France?"
        assert chat.history == before
        request = backend.requests[-1]
        assert request.purpose == "complete"
        assert texts(request.messages) == ["s", "a", "one", "What is the capi"]
        options = request.options
        assert (options.temperature, options.max_tokens, options.stop) == (0.0, 16, ("\n",))
        assert (options.top_k, options.thoughts) == (40, "off")  # of the session's only what the prompt depends on


WRONG: tuple[Callable[[ChatSession], object], ...] = (
    lambda chat: chat.complete_prompt("x", max_tokens=0),
    lambda chat: chat.complete_prompt("x", temperature=-1),
    lambda chat: chat.complete_prompt("x", stop=[""]),
    lambda chat: chat.complete_prompt("x", timeout_s=0),
)


def test_options_of_a_suggestion() -> None:
    """Those that a suggestion has are checked as everywhere; texts that end it come before the end of a line."""
    with chatting(*["one two three four"] * 3) as (chat, backend):
        assert chat.complete_prompt("x", max_tokens=2) == "one two"
        assert chat.complete_prompt("x", stop=" three", temperature=0.5, seed=7) == "one two"
        options = backend.requests[-1].options
        assert (options.stop, options.temperature, options.seed) == ((" three", "\n"), 0.5, 7)
        for wrong in WRONG:
            with pytest.raises(InvalidOptionError):
                wrong(chat)


@pytest.mark.parametrize("text", ["", " ", "\n\t"])
def test_nothing_typed_gets_no_suggestion(text: str) -> None:
    """The model is not asked, and what it was asked before ends."""
    hand = HandModel()
    chat = ChatSession(loaded(hand))
    chat.preload("a")
    assert chat.complete_prompt(text) == ""
    assert (len(hand.requests), hand.cancelled) == (1, [0])


@pytest.mark.parametrize(
    ("text", "error"), [("\ud800", InvalidPromptError), ("\0", InvalidPromptError), (7, PromptTypeError)]
)
def test_a_text_that_cannot_be_used_is_refused(text: str, error: type[Exception]) -> None:
    """Like a prompt."""
    with chatting("one") as (chat, _), pytest.raises(error):
        chat.complete_prompt(text)


def test_a_closed_model_and_a_running_reply_refuse() -> None:
    """With the errors that they have for everything."""
    with chatting("one", "two") as (chat, _):
        with chat.stream("a"), pytest.raises(SessionBusyError):
            chat.complete_prompt("b")
        chat.model.close()
        with pytest.raises(ClosedError):
            chat.complete_prompt("b")


def test_no_tool_is_called_for_a_suggestion() -> None:
    """The tools are told to the model, for the prompt's sake; what a script would call is left out."""
    called: list[str] = []

    def look(what: str) -> str:
        """Look something up."""
        called.append(what)
        return what

    reply = FakeReply("so", thought="hm", tool_calls=(ToolCall("look", {"what": "x"}),))
    with chatting(reply, tools=[look]) as (chat, backend):
        assert chat.complete_prompt("and") == "so"
        assert [tool.name for tool in backend.requests[0].tools] == ["look"]
        assert called == []


@contextmanager
def suggesting(chat: ChatSession, clock: ManualClock, text: str) -> Iterator[list[str]]:
    """Ask for a suggestion on a thread, and let one piece of it come; within the block it is being made."""
    made: list[str] = []
    wait = in_thread(lambda: made.append(chat.complete_prompt(text)))
    clock.wait_until_blocked()
    clock.advance(1)
    clock.wait_until_blocked()
    yield made
    assert wait() is None


OTHERS: dict[str, Callable[[ChatSession], object]] = {
    "send": lambda chat: chat.send("What is the capital?"),
    "stream": lambda chat: chat.stream("Who?").cancel(),
    "preload": lambda chat: chat.preload("Wha"),
    "complete_prompt": lambda chat: chat.complete_prompt("What"),
    "nothing typed": lambda chat: chat.complete_prompt(""),
    "undo": lambda chat: chat.undo(),
    "reset": lambda chat: chat.reset(),
}


@pytest.mark.parametrize("other", OTHERS)
def test_what_comes_next_ends_a_suggestion(other: str) -> None:
    """It neither waits for the suggestion nor raises; the suggestion is what there was of it by then."""
    clock = ManualClock()
    with (
        chatting(FakeReply("t is the", delay_s=1), "fine", clock=clock) as (chat, _),
        suggesting(chat, clock, "Wha") as made,
    ):
        OTHERS[other](chat)
    assert made == ["t"]


class Suggests(HandModel):
    """Suggests the same at once; all else is by hand."""

    def generate(self, request: GenerateRequest, sink: Sink) -> Handle:
        handle = super().generate(request, sink)
        if request.purpose == "complete":
            sink(TextDelta("so on"))
            sink(GenerationEnded("stop"))
        return handle


def test_a_preload_goes_on_if_a_suggestion_has_use_for_it() -> None:
    """Else it is in its way; and what is sent in the end still ends it if that has none."""
    hand = Suggests()
    chat = ChatSession(loaded(hand))
    chat.preload("Wh")
    assert chat.complete_prompt("What") == "so on"
    assert hand.cancelled == []
    chat.stream("No.").cancel()
    assert hand.cancelled == [0, 2]
    chat.preload("Wh")
    assert chat.complete_prompt("Nobody") == "so on"
    assert hand.cancelled == [0, 2, 3]


def test_a_failure_is_raised() -> None:
    """A suggestion was asked for, so its error is told, the history stays, and the session goes on."""
    with chatting(BackendError("no luck"), "fine") as (chat, _):
        with pytest.raises(BackendError, match="no luck"):
            chat.complete_prompt("a")
        assert chat.send("b").text == "fine"


def test_time_that_is_up_gives_what_there_is() -> None:
    """A suggestion that comes late is of no use, and no failure."""
    clock = ManualClock()
    with chatting(FakeReply("one two three", delay_s=1), clock=clock) as (chat, _):
        made: list[str] = []
        wait = in_thread(lambda: made.append(chat.complete_prompt("x", timeout_s=2.5)))
        clock.wait_until_blocked()
        clock.advance(3)
        assert wait() is None
        assert made == ["one two"]


def test_a_long_conversation_is_shortened_for_a_suggestion_as_for_a_reply() -> None:
    """By dropping only: a summary would cost a reply. Without a policy it is too long, as it would be for `send`."""
    turns = [message for number in range(20) for message in (U(f"question {number}"), Message("assistant", "fine"))]
    config = ModelConfig(n_ctx=128)
    for policy in ("drop_oldest", "summarize"):
        with chatting("on", history=turns, config=config, overflow=policy) as (chat, backend):
            assert chat.complete_prompt("and so") == "on"
            assert [request.purpose for request in backend.requests] == ["complete"]
            assert len(backend.requests[0].messages) < len(turns)
            assert len(chat.history) == len(turns)
    with chatting("on", history=turns, config=config) as (chat, _), pytest.raises(ContextOverflowError):
        chat.complete_prompt("and so")


def test_a_model_that_cannot_says_so() -> None:
    """A backend of one's own that knows replies only ends a suggestion with UnsupportedError, and answers on."""
    with ModelManager(BackwardsBackend()) as models:
        chat = ChatSession(models.load("any"))
        with pytest.raises(UnsupportedError, match="complete_prompt"):
            chat.complete_prompt("abc")
        assert chat.send("a b").text == "b a"


def test_a_suggestion_is_recorded_and_played(tmp_path: Path) -> None:
    """It is told from a reply to the same text."""
    cassette = tmp_path / "typing.json"
    for backend in (RecordingBackend(FakeBackend(["tal of France?", "Paris."]), cassette), ReplayBackend(cassette)):
        with backend, ModelManager(backend) as models:
            chat = ChatSession(models.load("any"), max_tokens=16, temperature=0.0, stop="\n")
            assert chat.complete_prompt("What is the capi") == "tal of France?"
            assert chat.send("What is the capi").text == "Paris."
    damaged = cassette.read_text().replace('"complete"', '"guess"')
    cassette.write_text(damaged)
    with (
        ReplayBackend(cassette) as replay,
        ModelManager(replay) as models,
        pytest.raises(CassetteError, match="purpose"),
    ):
        models.load("any")


def test_half_a_character_is_no_suggestion() -> None:
    """What the last token left of one is taken off."""
    with chatting(FakeReply(chunks=["caf", "\ufffd"])) as (chat, _):
        assert chat.complete_prompt("the ") == "caf"


def test_suggestions_in_async() -> None:
    """The same, awaited: sent text goes first, the task before it gets what there was; a cancelled task ends it."""

    async def main() -> None:
        clock = ManualClock()
        script: list[str | FakeReply] = [
            "tal",
            FakeReply("never", delay_s=1),
            "fine",
            FakeReply("never", delay_s=1),
            "well",
        ]
        async with AsyncModelManager(FakeBackend(script, clock=clock)) as models:
            chat = AsyncChatSession(await models.load("fake"))
            assert await chat.complete_prompt("capi") == "tal"
            waiting = asyncio.create_task(chat.complete_prompt("capita"))
            await asyncio.sleep(0)
            assert (await chat.send("capital")).text == "fine"
            assert await waiting == ""
            cancelled = asyncio.create_task(chat.complete_prompt("x"))
            await asyncio.sleep(0)
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            assert (await chat.send("y")).text == "well"
            assert texts(chat.history) == ["capital", "fine", "y", "well"]

    asyncio.run(main())


def test_replies_of_others_go_first() -> None:
    """A suggestion neither takes a place from a reply nor stands before one in the queue."""
    clock = ManualClock()
    with ModelManager(FakeBackend([FakeReply("slow", delay_s=1)] * 4, clock=clock)) as models:
        model = models.load("fake", config=ModelConfig(n_parallel=1))
        begun: list[str] = []

        def ask(text: str, purpose: Literal["reply", "complete"]) -> None:
            def sink(event: BackendEvent) -> None:
                if isinstance(event, PromptProgress):
                    begun.append(text)

            model.submit(GenerateRequest(messages=(U(text),), purpose=purpose), sink)

        ask("suggestion", "complete")
        clock.wait_until_blocked()
        for text, purpose in PURPOSES:
            ask(text, purpose)
        for _ in range(2):  # "one" has begun beside the suggestion, then comes "two"
            clock.wait_until_blocked()
            clock.advance(1)
        clock.wait_until_blocked()
        assert begun == ["suggestion", "one", "two", "later"]
