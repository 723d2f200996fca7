"""Backends that are wrong in one way each, to see that the conformance suite notices."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence

from attrs import evolve

from localllm.backends.base import (
    Backend,
    GenerateHandle,
    GenerateRequest,
    LoadedModel,
    LoadProgress,
    ModelSpec,
    ProgressCallback,
    Sink,
)
from localllm.backends.fake import FakeBackend
from localllm.chat.definitions import ToolDefinition
from localllm.chat.rendered import RenderedPrompt
from localllm.engine.stats import ModelStats
from localllm.errors import InvalidOptionError
from localllm.models.info import ModelInfo
from localllm.types import BackendEvent, GenerationEnded, Message, TextDelta, Timings, Usage

LONG_TEXT = " ".join(f"word {count} 🙂" for count in range(100))


class Wrapped(LoadedModel):
    """A model that hands everything on to a fake one; a mutant overrides what it does wrong."""

    def __init__(self, inner: LoadedModel) -> None:
        self.inner = inner

    @property
    def info(self) -> ModelInfo:
        return self.inner.info

    def generate(self, request: GenerateRequest, sink: Sink) -> GenerateHandle:
        return self.inner.generate(request, sink)

    def tokenize(self, text: str) -> tuple[int, ...]:
        return self.inner.tokenize(text)

    def detokenize(self, tokens: Sequence[int]) -> str:
        return self.inner.detokenize(tokens)

    def render(self, messages: Sequence[Message], *, tools: Sequence[ToolDefinition] = ()) -> RenderedPrompt:
        return self.inner.render(messages, tools=tools)

    def stats(self) -> ModelStats:
        return self.inner.stats()

    def close(self) -> None:
        self.inner.close()


class MutantBackend(Backend):
    """Loads `wrong` around a fake model."""

    name = "fake"

    def __init__(self, wrong: Callable[[LoadedModel], LoadedModel]) -> None:
        self._wrong = wrong
        self._inner = FakeBackend(itertools.repeat(LONG_TEXT))

    def load(self, spec: ModelSpec, on_progress: ProgressCallback | None = None) -> LoadedModel:
        return self._wrong(self._inner.load(spec, on_progress))

    def close(self) -> None:
        self._inner.close()


class _EventMutant(Wrapped):
    """Changes events on their way."""

    def generate(self, request: GenerateRequest, sink: Sink) -> GenerateHandle:
        return self.inner.generate(request, lambda event: self.change(event, sink))

    def change(self, event: BackendEvent, sink: Sink) -> None:
        raise NotImplementedError


class EndsTwice(_EventMutant):
    def change(self, event: BackendEvent, sink: Sink) -> None:
        sink(event)
        if isinstance(event, GenerationEnded):
            sink(event)


class SpeaksAfterItsEnd(_EventMutant):
    def change(self, event: BackendEvent, sink: Sink) -> None:
        sink(event)
        if isinstance(event, GenerationEnded):
            sink(TextDelta("one more thing"))


class NeverEnds(_EventMutant):
    def change(self, event: BackendEvent, sink: Sink) -> None:
        if not isinstance(event, GenerationEnded):
            sink(event)


class SpeaksTwiceAtOnce(_EventMutant):
    def change(self, event: BackendEvent, sink: Sink) -> None:
        other = threading.Thread(target=sink, args=(TextDelta("me too"),))
        if isinstance(event, TextDelta):
            other.start()
        sink(event)
        if isinstance(event, TextDelta):
            other.join()


class MiscountsThePrompt(_EventMutant):
    def change(self, event: BackendEvent, sink: Sink) -> None:
        if isinstance(event, GenerationEnded):
            event = evolve(event, usage=evolve(event.usage, prompt_tokens=event.usage.prompt_tokens + 1))
        sink(event)


class ForgetsItsUsage(_EventMutant):
    def change(self, event: BackendEvent, sink: Sink) -> None:
        sink(evolve(event, usage=Usage()) if isinstance(event, GenerationEnded) else event)


class InventsItsTimings(_EventMutant):
    def change(self, event: BackendEvent, sink: Sink) -> None:
        sink(evolve(event, timings=Timings(queue_s=1000.0)) if isinstance(event, GenerationEnded) else event)


class _NoCancel:
    def cancel(self) -> None:
        pass


class IgnoresCancel(Wrapped):
    def generate(self, request: GenerateRequest, sink: Sink) -> GenerateHandle:
        self.inner.generate(request, sink)
        return _NoCancel()


class CancelsEverything(Wrapped):
    def __init__(self, inner: LoadedModel) -> None:
        super().__init__(inner)
        self._handles: list[GenerateHandle] = []

    def generate(self, request: GenerateRequest, sink: Sink) -> GenerateHandle:
        self._handles.append(self.inner.generate(request, sink))
        return self

    def cancel(self) -> None:
        for handle in self._handles:
            handle.cancel()


class WaitsForTheReply(Wrapped):
    def generate(self, request: GenerateRequest, sink: Sink) -> GenerateHandle:
        ended, events = threading.Event(), list[BackendEvent]()

        def keep(event: BackendEvent) -> None:
            events.append(event)
            if isinstance(event, GenerationEnded):
                ended.set()

        handle = self.inner.generate(request, keep)
        ended.wait(10)
        for event in events:
            sink(event)
        return handle


class _OptionMutant(Wrapped):
    """Changes requests on their way."""

    def generate(self, request: GenerateRequest, sink: Sink) -> GenerateHandle:
        return self.inner.generate(self.change(request), sink)

    def change(self, request: GenerateRequest) -> GenerateRequest:
        raise NotImplementedError


class LeaksStops(_OptionMutant):
    def change(self, request: GenerateRequest) -> GenerateRequest:
        return evolve(request, options=evolve(request.options, stop=()))


class LeaksHalfAStop(_OptionMutant):
    """Stops at the stop text's last character: all of it but that has been shown by then."""

    def change(self, request: GenerateRequest) -> GenerateRequest:
        stops = tuple(stop[-1:] for stop in request.options.stop)
        return evolve(request, options=evolve(request.options, stop=stops))


class ExceedsMaxTokens(_OptionMutant):
    def change(self, request: GenerateRequest) -> GenerateRequest:
        most = request.options.max_tokens
        return evolve(request, options=evolve(request.options, max_tokens=None if most is None else most + 1))


class IgnoresTimeouts(_OptionMutant):
    def change(self, request: GenerateRequest) -> GenerateRequest:
        return evolve(request, options=evolve(request.options, timeout_s=None))


class AnswersPreloads(_OptionMutant):
    def change(self, request: GenerateRequest) -> GenerateRequest:
        return evolve(request, purpose="reply")


class MixesOptionsUp(_OptionMutant):
    """Uses the options of the request before."""

    def __init__(self, inner: LoadedModel) -> None:
        super().__init__(inner)
        self._last: GenerateRequest | None = None

    def change(self, request: GenerateRequest) -> GenerateRequest:
        last, self._last = self._last, request
        return request if last is None else evolve(request, options=last.options)


class DropsSpaces(Wrapped):
    def detokenize(self, tokens: Sequence[int]) -> str:
        return super().detokenize(tokens).lstrip()


class AcceptsAnyToken(Wrapped):
    def detokenize(self, tokens: Sequence[int]) -> str:
        try:
            return super().detokenize(tokens)
        except InvalidOptionError:
            return ""


class RendersOtherTokens(Wrapped):
    def render(self, messages: Sequence[Message], *, tools: Sequence[ToolDefinition] = ()) -> RenderedPrompt:
        return evolve(super().render(messages, tools=tools), tokens=self.tokenize("something else"))


class ParsesControlTokens(Wrapped):
    def render(self, messages: Sequence[Message], *, tools: Sequence[ToolDefinition] = ()) -> RenderedPrompt:
        rendered = super().render(messages, tools=tools)
        (begin, *_), (end, *_) = self.tokenize("<|im_start|>"), self.tokenize("<|im_end|>")
        control_begin = rendered.tokens[0]
        control_end = rendered.tokens[-5] if len(rendered.tokens) > 5 else end
        swap = {begin: control_begin, end: control_end, self.tokenize(" <|im_start|>")[0]: control_begin}
        return evolve(rendered, tokens=tuple(swap.get(token, token) for token in rendered.tokens))


class WorksAfterClose(Wrapped):
    def close(self) -> None:
        pass


class LeaksThreads(Wrapped):
    """Starts a thread for each request, which stays until the test ends it."""

    stay = threading.Event()

    def generate(self, request: GenerateRequest, sink: Sink) -> GenerateHandle:
        threading.Thread(target=self.stay.wait, args=(60,), daemon=True).start()
        return super().generate(request, sink)


class ClosesOnce(Wrapped):
    _closed = False

    def close(self) -> None:
        if self._closed:
            raise RuntimeError("closed already")
        self._closed = True
        super().close()


class MislabelsItself(Wrapped):
    @property
    def info(self) -> ModelInfo:
        return evolve(self.inner.info, backend="another")


class RunsBackwards(MutantBackend):
    """Tells a progress that falls."""

    def load(self, spec: ModelSpec, on_progress: ProgressCallback | None = None) -> LoadedModel:
        if on_progress is not None:
            on_progress(LoadProgress("loading", 0.5))
            on_progress(LoadProgress("loading", 0.1))
        return super().load(spec, on_progress)


class CannotBeCancelledLoading(MutantBackend):
    def load(self, spec: ModelSpec, on_progress: ProgressCallback | None = None) -> LoadedModel:
        if on_progress is not None:
            on_progress(LoadProgress("loading", 0.0))
        return super().load(spec)


class ForgetsItsModels(MutantBackend):
    def close(self) -> None:
        pass
