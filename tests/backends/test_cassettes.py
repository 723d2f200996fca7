"""What was recorded is played as it was."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from localllm import (
    AsyncChatSession,
    AsyncModelManager,
    BackendError,
    CassetteError,
    ChatSession,
    ContextOverflowError,
    FakeBackend,
    FakeReply,
    GenerateRequest,
    GenerationTimeoutError,
    Message,
    ModelConfig,
    ModelManager,
    ModelSpec,
    RecordingBackend,
    ReplayBackend,
    Reply,
    RequestOptions,
    StreamChunk,
    TextDelta,
    ToolCall,
    ToolCallDelta,
    ToolCallEnded,
    ToolCallStarted,
)
from localllm.backends.cassettes.files import read_tapes
from localllm.backends.llamacpp import LlamaCppBackend
from localllm.chat.definitions import ToolDefinition
from localllm.testing import ManualClock, collect
from localllm.types import BackendEvent, TokenLogprob, ToolCallEvent
from tests.backends.cassettes import Caller, CallingBackend, Parrot, ask, record


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A cassette that is not there yet, in a folder that is not there either."""
    return tmp_path / "cassettes" / "talk.json"


def content(reply: Reply) -> Reply:
    """What must be the same in a replay: all but the time it took, and the tokens."""
    return Reply(reply.text, reply.message, reply.finish_reason, reply.usage, tool_calls=reply.tool_calls)


def test_a_conversation_is_played_as_it_was_recorded(path: Path) -> None:
    """Text, thoughts, calls, finish reasons and the count of tokens, turn after turn."""
    call = ToolCall("weather", {"city": "Rome"}, "call_1")

    def talk(backend: RecordingBackend | ReplayBackend) -> list[Reply]:
        with ModelManager(backend) as models:
            chat = ChatSession(models.load("any"), system="Be brief.", tools=[ToolDefinition("weather")])
            replies = [chat.send("Hello\nyou", seed=1), chat.send("And now?", max_tokens=2), chat.send("Weather?")]
            return [content(reply) for reply in replies]

    recorded = talk(
        record(
            path,
            FakeReply("Good morning!\n\nHow are you? 🙂", thought="Polite, then."),
            "one two three",
            FakeReply("Let me see.", tool_calls=[call]),
        )
    )
    played = talk(ReplayBackend(path))
    assert [(one.text, one.message, one.finish_reason, one.tool_calls) for one in played] == [
        (one.text, one.message, one.finish_reason, one.tool_calls) for one in recorded
    ]
    assert [one.usage.completion_tokens for one in played] == [one.usage.completion_tokens for one in recorded]
    assert [one.finish_reason for one in played] == ["stop", "length", "tool_calls"]


def test_a_stream_and_the_async_twin_play_it_too(path: Path) -> None:
    """Word by word, thoughts apart."""
    with ModelManager(record(path, FakeReply("Good morning!", thought="Polite."))) as models:
        ChatSession(models.load("any")).send("Hi")
    with ModelManager(ReplayBackend(path)) as models:
        chunks = list(ChatSession(models.load("any")).stream("Hi"))
    assert chunks == [
        StreamChunk("Polite.", "thought", 0),
        StreamChunk("Good", "text", 1),
        StreamChunk(" morning!", "text", 2),
    ]

    async def talk() -> str:
        async with AsyncModelManager(ReplayBackend(path)) as models:
            return (await AsyncChatSession(await models.load("any")).send("Hi")).text

    assert asyncio.run(talk()) == "Good morning!"


def test_the_real_model_is_recorded_and_played(path: Path, smollm2_path: Path) -> None:
    """The same text, prompt and tokens without it; and nothing in the file is of this machine or this run."""
    texts: list[str] = []
    files: list[bytes] = []

    def talk(backend: RecordingBackend | ReplayBackend, ref: Path) -> None:
        with ModelManager(backend) as models:
            model = models.load(ref, config=ModelConfig(n_ctx=512, threads=1))
            chat = ChatSession(model, system="You are terse.", temperature=0, max_tokens=12)
            texts.append(chat.send("Name a color.").text + chat.send("Another one?").text)
            prompt = model.render(chat.history)
            texts[-1] += prompt.text + model.detokenize(prompt.tokens) + str(model.tokenize("Hello"))

    for _ in range(2):
        talk(RecordingBackend(LlamaCppBackend(), path), smollm2_path)
        files.append(path.read_bytes())
    talk(ReplayBackend(path), Path("elsewhere") / smollm2_path.name)
    assert len(set(texts)) == 1
    assert files[0] == files[1]
    assert str(smollm2_path.parent).encode() not in files[0]
    assert str(Path.home()).encode() not in files[0]


def test_schemas_tools_and_dropped_messages_are_played(path: Path) -> None:
    """What a session makes of replies is made again: values, runs of tools, and what a full window leaves out."""
    ran: list[str] = []

    def weather(city: str) -> str:
        """Tell the weather of a city."""
        ran.append(city)
        return "rain"

    def talk(backend: RecordingBackend | ReplayBackend) -> list[object]:
        with ModelManager(backend) as models:
            model = models.load("any", config=ModelConfig(n_ctx=80))
            age = ChatSession(model).send("How old is Tom?", schema=dict[str, int]).parsed
            told = ChatSession(model, tools=[weather]).send("Weather in Rome?")
            long = ChatSession(model, overflow="drop_oldest")
            replies = [long.send(f"{count} " + "more " * 12) for count in range(4)]
            return [age, told.text, told.tool_results, [reply.dropped for reply in replies]]

    asks = FakeReply(tool_calls=[ToolCall("weather", {"city": "Rome"}, "call_1")])
    recorded = talk(record(path, '{"Tom": 7}', asks, "It rains.", *["some words"] * 4))
    assert talk(ReplayBackend(path)) == recorded
    assert recorded[:2] == [{"Tom": 7}, "It rains."]
    assert ran == ["Rome", "Rome"]
    assert recorded[3] != [(), (), (), ()]


def test_errors_are_played_as_what_they_were(path: Path) -> None:
    """The class, the text, the counts, and the text that came before."""
    overflow = ContextOverflowError("too long", prompt_tokens=9, context_tokens=4)
    broken = FakeReply("So far", error=ValueError("boom"), error_at=1)

    def talk(backend: RecordingBackend | ReplayBackend) -> list[str]:
        with ModelManager(backend) as models:
            chat = ChatSession(models.load("any"))
            with pytest.raises(ContextOverflowError, match="too long") as failure:
                chat.send("Hi")
            assert (failure.value.prompt_tokens, failure.value.context_tokens) == (9, 4)
            with pytest.raises(BackendError, match="boom") as other:
                chat.send("Ho")
            assert other.value.reply is not None
            return [str(failure.value), str(other.value), other.value.reply.text]

    assert talk(record(path, overflow, broken)) == talk(ReplayBackend(path))


def test_a_time_out_is_played_without_waiting(path: Path) -> None:
    """With the text that there was."""
    clock = ManualClock(auto_advance=True)
    inner = FakeBackend([FakeReply("Too late, really.", delay_s=20)], clock=clock)
    for backend in (RecordingBackend(inner, path), ReplayBackend(path)):
        with ModelManager(backend) as models, pytest.raises(GenerationTimeoutError) as failure:
            ChatSession(models.load("any"), timeout_s=50).send("Hi")
        assert failure.value.reply is not None
        assert failure.value.reply.text == "Too late,"


def test_a_reply_that_was_cancelled_waits_for_being_cancelled_again(path: Path) -> None:
    """It ends as it did; if nobody cancels it, it fails after a while, for there is no more of it."""
    clock = ManualClock()
    with ModelManager(
        RecordingBackend(FakeBackend([FakeReply("Once upon a time", delay_s=1)], clock=clock), path)
    ) as models:
        with ChatSession(models.load("any")).stream("Hi") as stream:
            clock.wait_until_blocked()
            clock.advance(2)
            assert [next(stream).text, next(stream).text] == ["Once", " upon"]
            stream.cancel()
        assert stream.reply.finish_reason == "cancelled"
    with ModelManager(ReplayBackend(path)) as models, ChatSession(models.load("any")).stream("Hi") as stream:
        assert [next(stream).text, next(stream).text] == ["Once", " upon"]
        stream.cancel()
        assert (stream.reply.text, stream.reply.finish_reason) == ("Once upon", "cancelled")
    patient = ReplayBackend(path, clock=ManualClock(auto_advance=True))
    with ModelManager(patient) as models, pytest.raises(CassetteError, match="cancelled after 9 characters"):
        ChatSession(models.load("any")).send("Hi")


def test_a_reply_that_is_cut_off_now_counts_the_tokens_that_were_played(path: Path) -> None:
    """Not those of the whole recorded one."""
    with ModelManager(record(path, "one two three four")) as models:
        ChatSession(models.load("any")).send("Hi")
    with ModelManager(ReplayBackend(path)) as models, ChatSession(models.load("any")).stream("Hi") as stream:
        next(stream)
        stream.cancel()
        assert 0 < stream.reply.usage.completion_tokens <= 4


def test_preloads_are_neither_recorded_nor_missed(path: Path) -> None:
    """Whether one is done before the reply comes is a matter of time."""
    for backend in (record(path, "yes"), ReplayBackend(path)):
        with ModelManager(backend) as models:
            chat = ChatSession(models.load("any"))
            chat.preload("Hi th")
            chat.preload("Hi the")
            assert chat.send("Hi there").text == "yes"
        assert len(backend.requests) == 1
    (tape,) = read_tapes(path)
    assert len(tape.recorded) == 1


def test_log_probabilities_are_played_with_their_tokens(path: Path) -> None:
    """As many, in the same order, rounded to four digits."""
    request = GenerateRequest(messages=(Message.user("Hi"),), options=RequestOptions(top_logprobs=1))
    ask(RecordingBackend(Parrot(), path), request)
    deltas = [event for event in ask(ReplayBackend(path), request).events if isinstance(event, TextDelta)]
    assert [delta.text for delta in deltas] == ["I", " say", " so."]
    assert [one for delta in deltas for one in delta.logprobs] == [
        TokenLogprob(index, text, -0.3333, ((index, text, -0.3333),)) for index, text in enumerate(Parrot.said)
    ]


def test_calls_are_played_as_they_are_made(path: Path) -> None:
    """A start, the arguments, an end; of a call that was cut off, what there was."""
    request = GenerateRequest(messages=(Message.user("Hi"),))
    ask(RecordingBackend(CallingBackend(["Well."]), path), request)
    played = ask(ReplayBackend(path), request)
    assert [event for event in played.events if isinstance(event, ToolCallEvent)] == [
        ToolCallStarted(0, "call_1", "weather"),
        ToolCallDelta(0, '{"city": "Rome"}'),
        ToolCallEnded(0, Caller.call),
        ToolCallStarted(1, "call_2", "time"),
        ToolCallDelta(1, '{"zo'),
    ]
    assert (played.text, played.end.finish_reason, played.end.tool_calls) == ("Well.", "length", (Caller.call,))


def test_a_sink_that_raises_ends_its_own_request_only(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is somebody else's code."""
    request = GenerateRequest(messages=(Message.user("Hi"),))
    with record(path, "one two three", "four five") as recording:
        model = recording.load(ModelSpec(ref="any"))
        for _ in range(2):
            collect(model, request)

    def fail(event: BackendEvent) -> None:
        raise RuntimeError("a broken sink")

    with ReplayBackend(path) as replay:
        played = replay.load(ModelSpec(ref="any"))
        played.generate(request, fail)
        assert collect(played, request).text == "four five"
    assert "a broken sink" in caplog.text
