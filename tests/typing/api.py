"""The public API as a user's type checker sees it: checked by `mypy --strict`, never run.

A line with `type: ignore[code]` must be an error of just that kind: mypy warns of an ignore that is not needed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict, assert_never, assert_type

import localllm
from localllm import (
    AsyncChatSession,
    AsyncChatStream,
    AsyncModel,
    AsyncModelManager,
    AsyncSubscription,
    Backend,
    BackendEvent,
    BatchItem,
    BatchProgress,
    BatchResult,
    Busy,
    ChatSession,
    ChatStream,
    Closed,
    ContextWindow,
    Downloaded,
    Downloading,
    DownloadState,
    Failed,
    FakeBackend,
    FakeReply,
    FinishReason,
    GenerateHandle,
    GenerateRequest,
    GenerationEnded,
    GenerationOptions,
    GenerationTimeoutError,
    Idle,
    JsonValue,
    LoadedModel,
    Loading,
    LoadProgress,
    LocalLLMError,
    ManagerEvent,
    ManagerSnapshot,
    Message,
    MessagesDropped,
    Model,
    ModelConfig,
    ModelInfo,
    ModelManager,
    ModelSpec,
    ModelState,
    ModelStats,
    OverflowPolicy,
    ProgressCallback,
    Prompt,
    PromptProgress,
    PullProgress,
    Ready,
    RenderedPrompt,
    Reply,
    ReplyEnded,
    Segment,
    Sink,
    StreamChunk,
    StreamEvent,
    Subscription,
    TextDelta,
    Timings,
    TokenIds,
    Tool,
    ToolCall,
    ToolCallDelta,
    ToolCallEnded,
    ToolCallStarted,
    ToolDefinition,
    ToolEnded,
    ToolRefusal,
    ToolResult,
    ToolStarted,
    Unloaded,
    Unloading,
    Usage,
    WorkerRestarted,
    tool,
)


def plain(path: Path) -> None:
    """Load, ask, stream."""
    with ModelManager() as models:
        assert_type(models, ModelManager)
        model = models.load(path, config=ModelConfig(n_ctx=4096), on_progress=lambda progress: progress.fraction < 1)
        assert_type(model, Model)
        chat = ChatSession(model, system="Be terse.", temperature=0.2, stop=["\n"])
        assert_type(chat.model, Model)
        assert_type(chat.history, tuple[Message, ...])
        reply = chat.send("Hi", max_tokens=3)
        assert_type(reply, Reply)
        assert_type(reply, Reply[None])
        assert_type(reply.parsed, None)
        assert_type(reply.text, str)
        assert_type(reply.thought, str | None)
        assert_type(reply.finish_reason, FinishReason)
        assert_type(reply.usage, Usage)
        assert_type(reply.usage.cached_tokens, int)
        assert_type(reply.timings, Timings)
        assert_type(reply.timings.first_token_s, float)
        assert_type(reply.message, Message)
        assert_type(reply.message.token_ids, TokenIds | None)
        assert_type(reply.tool_calls, tuple[ToolCall, ...])
        assert_type(reply.dropped, tuple[Message, ...])
        assert_type(chat.regenerate(seed=1), Reply[None])
        assert_type(chat.fork(), ChatSession)
        assert_type(chat.undo(), tuple[Message, ...])
        chat.preload("draft")
        assert_type(chat.complete_prompt("What is the capi", max_tokens=8, stop=("?",), timeout_s=1), str)
        chat.reset()


def streams(chat: ChatSession) -> str:
    """Chunks, events, the reply."""
    stream = chat.stream(Message.user("Hi"), top_k=1)
    assert_type(stream, ChatStream)
    assert_type(iter(stream), Iterator[StreamChunk])
    assert_type(next(stream), StreamChunk)
    for chunk in stream:
        assert_type(chunk.text, str)
        assert_type(chunk.segment, Segment)
        assert_type(chunk.index, int)
    with chat.stream_regenerate() as again:
        assert_type(again, ChatStream)
        assert_type(again.events(), Iterator[StreamEvent])
        for event in again.events():
            match event:
                case PromptProgress():
                    assert_type(event.total_tokens, int)
                case StreamChunk():
                    assert_type(event, StreamChunk)
                case ToolCallStarted():
                    assert_type(event.name, str)
                case ToolCallDelta():
                    assert_type(event.arguments, str)
                case ToolCallEnded():
                    assert_type(event.call, ToolCall)
                case ToolStarted():
                    assert_type(event.call, ToolCall)
                case ToolEnded():
                    assert_type(event.result, ToolResult)
                    assert_type(event.result.error, Exception | None)
                case MessagesDropped():
                    assert_type(event.messages, tuple[Message, ...])
                case ReplyEnded():
                    assert_type(event.reply, Reply[None])
                case _:
                    assert_never(event)
        again.cancel()
    return stream.reply.text


def model(given: Model) -> None:
    """What a handle can do."""
    assert_type(given.info, ModelInfo)
    assert_type(given.info.path, Path | None)
    assert_type(given.tokenize("text"), tuple[int, ...])
    assert_type(given.detokenize([1, 2]), str)
    assert_type(given.render([Message.user("hi")]), RenderedPrompt)
    assert_type(given.render([Message.user("hi")], tools=[ToolDefinition("y")]), RenderedPrompt)
    assert_type(given.stats(), ModelStats)
    with given as same:
        assert_type(same, Model)


def batches(model: Model, rows: Iterator[str], pairs: list[BatchItem]) -> None:
    """Any iterable of prompts; each result has a reply or an error."""

    def show(progress: BatchProgress) -> None:
        assert_type(progress.done, int)
        assert_type(progress.total, int | None)
        assert_type(progress.tokens_per_s, float)

    assert_type(model.generate_many(["a", Message.user("b"), [Message.user("c")]]), Iterator[BatchResult])
    for result in model.generate_many(rows, ordered=True, on_progress=show, temperature=0.2):
        assert_type(result.key, str)
        assert_type(result.index, int)
        assert_type(result.reply, Reply[None] | None)
        assert_type(result.error, LocalLLMError | None)
    model.generate_many(pairs, on_progress=lambda progress: print(progress.failed))
    model.generate_many(7)  # type: ignore[arg-type]
    model.generate_many(rows, temprature=0.2)  # type: ignore[call-arg]
    model.generate_many([{"role": "user"}])  # type: ignore[list-item]
    BatchItem(7, "a")  # type: ignore[arg-type]


async def async_batches(model: AsyncModel, rows: AsyncIterator[str], more: Iterator[BatchItem]) -> None:
    """Plain and async iterables."""
    assert_type(model.generate_many(rows, max_tokens=3), AsyncIterator[BatchResult])
    async for result in model.generate_many(more, ordered=True):
        assert_type(result, BatchResult)
    model.generate_many(rows, max_tokens="3")  # type: ignore[arg-type]


async def twins() -> None:
    """The same, awaited."""
    async with AsyncModelManager("llama.cpp", isolation="thread") as models:
        model = await models.load("smollm2-135m")
        assert_type(model, AsyncModel)
        assert_type(model.info, ModelInfo)
        assert_type(model.sync, Model)
        assert_type(await model.tokenize("text"), tuple[int, ...])
        assert_type(await model.render([Message.user("hi")]), RenderedPrompt)
        assert_type(await model.render([Message.user("hi")], tools=[ToolDefinition("y")]), RenderedPrompt)
        assert_type(await model.stats(), ModelStats)
        chat = AsyncChatSession(model, history=[Message.user("a")], min_p=0.1)
        assert_type(await chat.send("Hi", timeout_s=3), Reply[None])
        stream = chat.stream([Message.user("Hi")])
        assert_type(stream, AsyncChatStream)
        assert_type(aiter(stream), AsyncIterator[StreamChunk])
        assert_type(await anext(stream), StreamChunk)
        async for chunk in stream:
            assert_type(chunk, StreamChunk)
        async with chat.stream_regenerate() as again:
            assert_type(again.events(), AsyncIterator[StreamEvent])
            await again.cancel()
            assert_type(await again.reply(), Reply[None])
        assert_type(await chat.fork(), AsyncChatSession)
        assert_type(await chat.undo(), tuple[Message, ...])
        assert_type(chat.history, tuple[Message, ...])
        await chat.preload()
        assert_type(await chat.complete_prompt("What is", temperature=0.5, seed=1), str)
        await chat.reset()


class Person(TypedDict):
    """What a reply may be."""

    name: str


@dataclass
class Place:
    """What a reply may be, too."""

    city: str


def structured(chat: ChatSession, schema: Mapping[str, JsonValue]) -> None:
    """A schema's type is that of the value."""
    assert_type(chat.send("Hi", schema=Place), Reply[Place])
    assert_type(chat.send("Hi", schema=Place, max_tokens=9).parsed, Place)
    assert_type(chat.send("Hi", schema=Person).parsed, Person)
    assert_type(chat.send("Hi", schema=list[Place]).parsed, list[Place])
    assert_type(chat.send("Hi", schema=Place | None).parsed, Place | None)
    assert_type(chat.send("Hi", schema=Literal["yes", "no"]).parsed, Literal["yes", "no"])
    assert_type(chat.send("Hi", schema=schema), Reply[JsonValue])
    stream = chat.stream("Hi", schema=Place, prefix="{")
    assert_type(stream, ChatStream[Place])
    assert_type(stream.partials(), Iterator[JsonValue])
    assert_type(stream.reply.parsed, Place)
    for event in stream.events():
        if isinstance(event, ReplyEnded):
            assert_type(event.reply, Reply[Place])
    assert_type(chat.continue_reply(), Reply[None])
    assert_type(chat.continue_reply(schema=Place), Reply[Place])
    assert_type(chat.stream_continue(), ChatStream)
    assert_type(chat.stream_continue(schema=Place), ChatStream[Place])
    assert_type(chat.regenerate(schema=Place), Reply[Place])
    assert_type(chat.regenerate(schema=schema), Reply[JsonValue])
    assert_type(chat.stream_regenerate(schema=Place), ChatStream[Place])
    assert_type(chat.alternatives("Hi", 3, seed=1), tuple[Reply, ...])
    assert_type(chat.alternatives("Hi", 3, schema=Place), tuple[Reply[Place], ...])
    chat.choose(chat.alternatives("Hi", 3)[0])
    chat.send("Hi", prefix=7)  # type: ignore[call-overload]
    chat.send("Hi", schema=Place, temprature=1)  # type: ignore[call-overload]


async def async_structured(chat: AsyncChatSession) -> None:
    """The same, awaited."""
    assert_type(await chat.send("Hi", schema=Place), Reply[Place])
    stream = chat.stream("Hi", schema=list[Place])
    assert_type(stream, AsyncChatStream[list[Place]])
    assert_type(stream.partials(), AsyncIterator[JsonValue])
    assert_type((await stream.reply()).parsed, list[Place])
    assert_type(await chat.continue_reply(schema=Place), Reply[Place])
    assert_type(await chat.alternatives("Hi", 3), tuple[Reply, ...])
    assert_type(await chat.alternatives("Hi", 3, schema=Place), tuple[Reply[Place], ...])
    assert_type(chat.stream_continue(), AsyncChatStream)
    assert_type(chat.stream_continue(schema=Place), AsyncChatStream[Place])
    assert_type(await chat.regenerate(schema=Place), Reply[Place])
    assert_type(chat.stream_regenerate(schema=Place), AsyncChatStream[Place])


def weather(city: str, day: int = 0) -> Place:
    """Be a tool."""
    return Place(city)


async def later(city: str) -> str:
    """Be a tool that is awaited."""
    return city


def approve(call: ToolCall) -> ToolCall | ToolRefusal | None:
    """Decide about a call."""
    return None if call.name == "weather" else ToolRefusal("no")


async def approve_later(call: ToolCall) -> str | None:
    """Decide about a call, in time."""
    return None


def tools(model: Model, twin: AsyncModel) -> None:
    """Functions, Tools and definitions; a hook."""

    @tool(name="other", description="Another one.")
    def other(text: str) -> None: ...

    assert_type(other, Tool)
    assert_type(tool(weather), Tool)
    chat = ChatSession(
        model,
        tools=[weather, other, Tool(ToolDefinition("x"), weather), ToolDefinition("y")],
        on_tool_call=approve,
        run_tools=True,
        max_tool_rounds=3,
        tool_timeout_s=1.5,
        tool_choice="weather",
    )
    assert_type(chat.send("Hi").tool_results, tuple[ToolResult, ...])
    AsyncChatSession(twin, tools=[weather, later], on_tool_call=approve_later)
    AsyncChatSession(twin, on_tool_call=approve)
    ChatSession(model, on_tool_call=approve_later)  # type: ignore[arg-type]
    ChatSession(model, tools=["weather"])  # type: ignore[list-item]


def overflow(model: Model) -> None:
    """Policies by name, or a function."""

    def newest(window: ContextWindow) -> Sequence[Message]:
        assert_type(window.count(window.messages), int)
        return window.messages[window.newest :]

    policy: OverflowPolicy = newest
    ChatSession(model, overflow="drop_oldest")
    ChatSession(model, overflow="summarize")
    ChatSession(model, overflow=policy)
    ChatSession(model, overflow=lambda window: window.messages[-1:])
    ChatSession(model, overflow=lambda window: 7)  # type: ignore[arg-type, return-value]


def mistakes(model: Model, twin: AsyncModel, chat: ChatSession) -> None:
    """What a type checker finds before the program runs."""
    chat.send("Hi", temprature=0.2)  # type: ignore[call-overload]
    chat.send("Hi", temperature="hot")  # type: ignore[call-overload]
    chat.stream("Hi", max_tokens=1.5)  # type: ignore[call-overload]
    chat.regenerate(mirostat=3)  # type: ignore[call-overload]
    chat.send(7)  # type: ignore[call-overload]
    chat.send({"role": "user", "content": "Hi"})  # type: ignore[call-overload]
    ChatSession(model, tempreture=1)  # type: ignore[call-arg]
    ChatSession(model, overflow="drop")  # type: ignore[arg-type]
    ChatSession(twin)  # type: ignore[arg-type]
    AsyncChatSession(model)  # type: ignore[arg-type]
    ModelManager(isolation="fiber")  # type: ignore[arg-type]
    ModelConfig(n_context=1)  # type: ignore[call-arg]
    Message("robot", "Hi")  # type: ignore[arg-type]
    chat.history = ()  # type: ignore[misc]
    chat.send("Hi").text = ""  # type: ignore[misc]
    options: GenerationOptions = {"temperture": 1}  # type: ignore[typeddict-unknown-key]
    chat.send("Hi", **options)
    localllm.ChatSesion  # type: ignore[attr-defined]  # noqa: B018


class Shouting(ChatSession):
    """A session of a user's own."""

    def send_loudly(self, text: str) -> Reply:
        """Ask in capitals."""
        return self.send(text.upper())


def subclass(model: Model) -> None:
    """Forks are of the same class."""
    assert_type(Shouting(model).fork(), Shouting)


def prompts(chat: ChatSession, options: GenerationOptions) -> None:
    """One way in for text and messages; options may be passed on."""
    many: Sequence[Message] = (Message.system("s"), Message.user("Hi"))
    each: list[Prompt] = ["Hi", Message.user("Hi"), [Message.user("Hi")], many]
    for prompt in each:
        chat.send(prompt, **options)


def failures(chat: ChatSession) -> None:
    """An exception has what there was of the reply."""
    try:
        chat.send("Hi")
    except GenerationTimeoutError as exc:
        assert_type(exc.reply, Reply[None] | None)
        late: TimeoutError = exc
        assert_type(str(late), str)


def fakes() -> None:
    """A backend for tests, and what it was asked."""
    backend = FakeBackend(["Hi", FakeReply(chunks=["a", "b"], delay_s=1.0), ValueError("boom")])
    assert_type(backend.requests, tuple[GenerateRequest, ...])
    assert_type(backend.requests[0].purpose, Literal["reply", "preload", "complete"])
    ModelManager(backend=backend)
    FakeBackend([7])  # type: ignore[list-item]


class OwnModel(LoadedModel):
    """A model of a user's own."""

    @property
    def info(self) -> ModelInfo:
        """Its facts."""
        return ModelInfo(name="own")

    def generate(self, request: GenerateRequest, sink: Sink) -> GenerateHandle:
        """Answer with the question."""
        event: BackendEvent = TextDelta(request.messages[-1].content)
        sink(event)
        sink(GenerationEnded("stop"))
        return OwnHandle()

    def tokenize(self, text: str) -> tuple[int, ...]:
        """Return the bytes of it."""
        return tuple(text.encode())

    def detokenize(self, tokens: Sequence[int]) -> str:
        """Return the text of these bytes."""
        return bytes(tokens).decode()

    def render(self, messages: Sequence[Message], *, tools: Sequence[ToolDefinition] = ()) -> RenderedPrompt:
        """Return the last message."""
        return RenderedPrompt(messages[-1].content, ())

    def stats(self) -> ModelStats:
        """Return nothing of interest."""
        return ModelStats()

    def close(self) -> None:
        """Do nothing."""


class OwnHandle:
    """A handle needs no base class."""

    def cancel(self) -> None:
        """Do nothing: the reply is there already."""


class OwnBackend(Backend):
    """A backend of a user's own."""

    name = "own"

    def load(self, spec: ModelSpec, on_progress: ProgressCallback | None = None) -> LoadedModel:
        """Tell that it is done, and be done."""
        if on_progress is not None:
            on_progress(LoadProgress("loading", 1.0))
        return OwnModel()

    def close(self) -> None:
        """Do nothing."""


def managing(models: ModelManager, model: Model) -> None:
    """What is in memory, and who watches it."""
    ModelManager(memory_budget_bytes=8 << 30, keep_alive_s=300)
    ModelManager(keep_alive_s="300")  # type: ignore[arg-type]
    assert_type(models.load("x", pin=True), Model)
    assert_type(model.pinned, bool)
    model.pin()
    model.unpin()
    models.unload(model)
    models.unload("x", force=True)
    models.unload(7)  # type: ignore[arg-type]
    assert_type(models.snapshot(), ManagerSnapshot)
    assert_type(models.snapshot().models, tuple[ModelState, ...])

    def show(event: ManagerEvent) -> None:
        match event:
            case ManagerSnapshot():
                assert_type(event.downloads, tuple[DownloadState, ...])
            case Downloading():
                assert_type(event.progress, PullProgress)
            case Loading():
                assert_type(event.progress, LoadProgress)
            case Ready():
                assert_type(event.info, ModelInfo)
            case Failed():
                assert_type(event.error, LocalLLMError)
            case Unloading():
                assert_type(event.reason, Literal["idle", "room", "asked", "closed"])
            case Downloaded() | Busy() | Idle() | Unloaded() | WorkerRestarted() | Closed():
                assert_type(event.ref, str)
            case _:
                assert_never(event)

    assert_type(models.subscribe(show), Subscription)
    with models.watch() as watch:
        for event in watch:
            show(event)
    models.subscribe(7)  # type: ignore[arg-type]


async def watching(models: AsyncModelManager, model: AsyncModel) -> None:
    """The same, awaited."""
    await models.unload(model, force=True)
    assert_type(await models.snapshot(), ManagerSnapshot)
    async with models.watch() as watch:
        async for event in watch:
            assert_type(event, ManagerEvent)
    assert_type(models.subscribe(print), AsyncSubscription)
    await model.pin()


def own() -> None:
    """It goes where the built-in ones go; an abstract one does not."""
    ModelManager(OwnBackend())
    ModelManager(Backend())  # type: ignore[abstract]
