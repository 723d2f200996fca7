"""The engine's thread: submits, cancels and failures from any side, over the toy model."""

from __future__ import annotations

import threading
from array import array
from collections.abc import Sequence
from queue import SimpleQueue

import pytest
from attrs import evolve

from localllm.engine.engine import Engine, EngineLimits
from localllm.engine.model import Work
from localllm.engine.state import StateImport
from localllm.errors import BackendError, ClosedError
from localllm.options import RequestOptions
from localllm.types import BackendEvent, GenerationEnded, PromptProgress, TextDelta

from .toy import ToyContext, ToyModel, ToySampler, solo

LIMITS = EngineLimits(n_ctx=512, n_parallel=4, n_sequences=12, n_batch=64, step_s=0.08, idle_step_s=0.25)
TALKATIVE = next([n, n + 1] for n in range(1, 90) if len(solo([n, n + 1], 40)) == 40)  # a prompt that goes on for long


class Sink:
    """Collects a request's events; `ended` is set at the end, `text` at the first text."""

    def __init__(self) -> None:
        self.events: list[BackendEvent] = []
        self.text = threading.Event()
        self.ended = threading.Event()

    def __call__(self, event: BackendEvent) -> None:
        self.events.append(event)
        if isinstance(event, TextDelta):
            self.text.set()
        if isinstance(event, GenerationEnded):
            self.ended.set()

    def end(self) -> GenerationEnded:
        """Wait for the end."""
        assert self.ended.wait(10)
        last = self.events[-1]
        assert isinstance(last, GenerationEnded)
        return last

    @property
    def tokens(self) -> list[int]:
        """What was generated."""
        return [int(word) for event in self.events if isinstance(event, TextDelta) for word in event.text.split()]


class BlockedModel(ToyModel):
    """Its batches wait until `go` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def open_context(self, n_cells: int, n_sequences: int) -> ToyContext:
        """Return a context that waits."""
        context = super().open_context(n_cells, n_sequences)
        decode = context.decode

        def blocked(works: Sequence[object]) -> list[int]:
            assert self.go.wait(10)
            return decode(works)  # type: ignore[arg-type]

        context.decode = blocked  # type: ignore[method-assign]
        return context


class BrokenSamplerModel(ToyModel):
    """Cannot make samplers for requests that ask for a penalty."""

    def make_sampler(self, options: RequestOptions, prompt: Sequence[int]) -> ToySampler:
        """Fail if asked to."""
        if options.repeat_penalty != 1:
            raise ValueError("no such sampler")
        return ToySampler()


def test_a_request_is_answered_with_progress_text_and_one_end() -> None:
    """Its tokens are the model's, and usage and timings come with the end."""
    engine = Engine(ToyModel(), LIMITS, "toy")
    sink = Sink()
    engine.submit(TALKATIVE, RequestOptions.of({"max_tokens": 20}), sink)
    end = sink.end()
    engine.close()
    assert sink.tokens == solo(TALKATIVE, 20)
    assert end.finish_reason == "length"
    assert end.usage.completion_tokens == 20
    assert end.token_ids is not None
    assert list(end.token_ids.tokens) == solo(TALKATIVE, 20)
    assert any(isinstance(event, PromptProgress) for event in sink.events)


def test_many_threads_submit_at_once_and_each_gets_its_own_text() -> None:
    """No cross-talk between 200 requests of 8 threads, deterministic ones among them."""
    engine = Engine(ToyModel(), LIMITS, "toy")
    sinks: list[tuple[list[int], Sink]] = []

    def work(base: int) -> None:
        for index in range(25):
            prompt, sink = [base + 1, index + 1, 3], Sink()
            sinks.append((prompt, sink))
            options = RequestOptions.of({"max_tokens": 12, "deterministic": index % 5 == 0})
            engine.submit(prompt, options, sink)

    threads = [threading.Thread(target=work, args=(base,)) for base in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for prompt, sink in sinks:
        sink.end()
        assert sink.tokens == solo(prompt, 12)
    stats = engine.stats()
    engine.close()
    assert stats.finished == 200
    assert stats.running == stats.waiting == 0


def test_a_cancelled_request_ends_while_its_sibling_goes_on() -> None:
    """Cancelling while the batch is computed ends it after that batch."""
    model = BlockedModel()
    engine = Engine(model, LIMITS, "toy")
    first, second = Sink(), Sink()
    handle = engine.submit(TALKATIVE, RequestOptions.of({"max_tokens": 40}), first)
    engine.submit(TALKATIVE, RequestOptions.of({"max_tokens": 40}), second)
    handle.cancel()
    handle.cancel()
    model.go.set()
    assert first.end().finish_reason == "cancelled"
    assert second.end().finish_reason == "length"
    engine.close()
    assert second.tokens == solo(TALKATIVE, 40)


def test_close_ends_running_and_queued_requests_as_cancelled() -> None:
    """Every one of them gets its end, and a later submit is refused."""
    model = BlockedModel()
    engine = Engine(model, LIMITS, "toy")
    sinks = [Sink() for _ in range(9)]
    for index, sink in enumerate(sinks):
        engine.submit(TALKATIVE, RequestOptions.of({"deterministic": index == 8}), sink)
    closer = threading.Thread(target=engine.close)
    closer.start()
    model.go.set()
    closer.join(10)
    assert {sink.end().finish_reason for sink in sinks} == {"cancelled"}
    with pytest.raises(ClosedError):
        engine.submit(TALKATIVE, RequestOptions(), Sink())
    engine.close()
    assert all(context.closed for context in model.contexts)


def test_a_request_whose_time_is_up_ends_as_timeout() -> None:
    """The deadline counts from the submit, by the engine's clock."""
    now = [0.0]
    model = BlockedModel()
    engine = Engine(model, LIMITS, "toy", now=lambda: now[0])
    sink = Sink()
    engine.submit(TALKATIVE, RequestOptions.of({"timeout_s": 5}), sink)
    now[0] = 6.0
    model.go.set()
    assert sink.end().finish_reason == "timeout"
    engine.close()


def test_a_sampler_that_fails_ends_its_own_request_only() -> None:
    """The other request's text is whole."""
    engine = Engine(BrokenSamplerModel(), LIMITS, "toy")
    bad, good = Sink(), Sink()
    engine.submit(TALKATIVE, RequestOptions.of({"repeat_penalty": 1.5}), bad)
    engine.submit(TALKATIVE, RequestOptions.of({"max_tokens": 30}), good)
    error = bad.end().error
    assert isinstance(error, BackendError)
    assert "no such sampler" in str(error)
    assert isinstance(error.__cause__, ValueError)
    good.end()
    engine.close()
    assert good.tokens == solo(TALKATIVE, 30)


def test_a_broken_context_is_rebuilt_and_requests_go_on_from_their_tokens() -> None:
    """No text is lost or repeated."""
    model = BlockedModel()
    engine = Engine(model, LIMITS, "toy")
    sink = Sink()
    engine.submit(TALKATIVE, RequestOptions.of({"max_tokens": 40}), sink)
    model.contexts[0].fail_next = True
    model.go.set()
    assert sink.end().finish_reason == "length"
    engine.close()
    assert sink.tokens == solo(TALKATIVE, 40)
    assert len(model.contexts) == 2


def test_a_context_that_breaks_at_once_again_ends_its_requests_with_the_cause() -> None:
    """The engine lives on and serves the next request."""

    class TwiceBroken(BlockedModel):
        def open_context(self, n_cells: int, n_sequences: int) -> ToyContext:
            context = super().open_context(n_cells, n_sequences)
            context.fail_next = len(self.contexts) <= 2
            return context

    model = TwiceBroken()
    model.go.set()
    engine = Engine(model, LIMITS, "toy")
    bad, good = Sink(), Sink()
    engine.submit(TALKATIVE, RequestOptions.of({"max_tokens": 4}), bad)
    error = bad.end().error
    assert isinstance(error, BackendError)
    assert "told to fail" in str(error)
    engine.submit(TALKATIVE, RequestOptions.of({"max_tokens": 4}), good)
    assert good.end().finish_reason == "length"
    engine.close()


def test_a_sink_that_raises_ends_its_own_request_only(caplog: pytest.LogCaptureFixture) -> None:
    """It breaks the port's rules; the others are served and the failure is logged."""
    model = BlockedModel()
    engine = Engine(model, LIMITS, "toy")
    good = Sink()

    def bad(event: BackendEvent) -> None:
        raise RuntimeError("a mistake in a sink")

    engine.submit(TALKATIVE, RequestOptions.of({"max_tokens": 30}), bad)
    engine.submit(TALKATIVE, RequestOptions.of({"max_tokens": 30}), good)
    model.go.set()
    good.end()
    engine.close()
    assert good.tokens == solo(TALKATIVE, 30)
    assert "a mistake in a sink" in caplog.text


def test_stop_strings_end_the_reply_and_its_tokens_are_not_kept() -> None:
    """The text before the stop is delivered; tokens that include the stop would not match it."""
    expected = solo(TALKATIVE, 40)
    stop = f"{expected[5]} "
    engine = Engine(ToyModel(), LIMITS, "toy")
    sink = Sink()
    engine.submit(TALKATIVE, RequestOptions.of({"stop": stop}), sink)
    end = sink.end()
    engine.close()
    assert end.finish_reason == "stop"
    assert end.token_ids is None
    text = "".join(event.text for event in sink.events if isinstance(event, TextDelta))
    whole = "".join(f"{token} " for token in expected)
    assert text == whole[: whole.index(stop)]


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("said", [0, 1, 7, 20])
def test_a_request_goes_on_from_what_an_earlier_run_has_said(said: int, deterministic: bool) -> None:
    """Its text is not delivered again, its tokens are counted and told as one reply."""
    whole = solo(TALKATIVE, 20)
    engine = Engine(ToyModel(), LIMITS, "toy")
    sink = Sink()
    options = RequestOptions.of({"max_tokens": 20, "deterministic": deterministic})
    engine.submit(TALKATIVE, options, sink, given=whole[:said])
    end = sink.end()
    engine.close()
    assert sink.tokens == whole[said:]
    told = [token for event in sink.events if isinstance(event, TextDelta) for token in event.token_ids]
    assert told == whole[said:]
    assert end.usage.completion_tokens == 20
    assert end.token_ids is not None
    assert list(end.token_ids.tokens) == whole


def test_a_request_goes_on_from_tokens_that_would_not_be_sampled_now() -> None:
    """What was said stays said, and what follows fits it."""
    said = [5, 6, 7]
    engine = Engine(ToyModel(), LIMITS, "toy")
    sink = Sink()
    engine.submit(TALKATIVE, RequestOptions.of({"max_tokens": 9}), sink, given=said)
    sink.end()
    engine.close()
    assert sink.tokens == solo([*TALKATIVE, *said], 6)


def test_a_context_grows_while_a_reply_streams() -> None:
    """It ends with the model's tokens, and with more cells than the engine began with."""
    limits = evolve(LIMITS, first_cells=16)
    engine = Engine(ToyModel(), limits, "toy")
    sink = Sink()
    engine.submit(TALKATIVE, RequestOptions.of({"max_tokens": 40}), sink)
    sink.end()
    total = engine.stats().cells_total
    engine.close()
    assert sink.tokens == solo(TALKATIVE, 40)
    assert 16 < total <= 512


class SmallModel(ToyModel):
    """Has memory for so many cells and no more."""

    def open_context(self, n_cells: int, n_sequences: int) -> ToyContext:
        """Refuse large contexts."""
        if n_cells > 32:
            raise MemoryError(f"no memory for {n_cells} cells")
        return super().open_context(n_cells, n_sequences)


def test_where_there_is_no_memory_to_grow_small_requests_are_served_and_a_large_one_ends_with_an_error() -> None:
    """The large one's error says how many tokens there is memory for."""
    engine = Engine(SmallModel(), evolve(LIMITS, first_cells=32), "toy")
    large, small = Sink(), [Sink() for _ in range(6)]
    engine.submit([3] * 100, RequestOptions.of({"max_tokens": 5}), large)
    for sink in small:
        engine.submit(TALKATIVE, RequestOptions.of({"max_tokens": 20}), sink)
    error = large.end().error
    assert isinstance(error, BackendError)
    assert "no memory for a context of more than 32 tokens" in str(error)
    for sink in small:
        sink.end()
        assert sink.tokens == solo(TALKATIVE, 20)
    engine.close()


def test_a_restored_chat_that_there_is_no_room_for_ends_with_an_error() -> None:
    """It alone is in the queue, so that nothing but its own end can go on."""
    engine = Engine(SmallModel(can_cut=False), evolve(LIMITS, first_cells=32, cache_ram_bytes=10_000), "toy")
    large, restored = Sink(), Sink()
    engine.submit([3] * 100, RequestOptions.of({"max_tokens": 5}), large)
    assert large.end().error is not None
    adopted = SimpleQueue[int]()
    engine.post(StateImport(array("i", [3] * 60), [(0, 60, bytes([0, *[3] * 60]))], adopted.put))
    assert adopted.get(timeout=10) == 1
    engine.submit([3] * 60 + [4], RequestOptions.of({"max_tokens": 5}), restored)
    assert "no memory for a context of more than 32 tokens" in str(restored.end().error)
    engine.close()


def test_an_engine_closed_while_its_context_grows_frees_both() -> None:
    """Nothing is left open, whenever the larger one arrives."""
    go = threading.Event()

    class SlowModel(ToyModel):
        def open_context(self, n_cells: int, n_sequences: int) -> ToyContext:
            if self.contexts:
                assert go.wait(10)
            return super().open_context(n_cells, n_sequences)

    model = SlowModel()
    engine = Engine(model, evolve(LIMITS, first_cells=16), "toy")
    sink = Sink()
    engine.submit([3] * 100, RequestOptions(), sink)
    closer = threading.Thread(target=engine.close)
    closer.start()
    go.set()
    closer.join(10)
    assert sink.end().finish_reason == "cancelled"
    assert all(context.closed for context in model.contexts)


def test_a_growth_that_runs_out_of_memory_half_way_frees_the_larger_context() -> None:
    """The small one goes on, and a request that fits into it is answered."""

    class TightModel(ToyModel):
        def open_context(self, n_cells: int, n_sequences: int) -> ToyContext:
            context = super().open_context(n_cells, n_sequences)
            if n_cells > 32:
                context.load = no_memory  # type: ignore[method-assign]
            return context

    def no_memory(seq_id: int, data: bytes, start: int, stop: int) -> None:
        raise MemoryError("none left")

    model = TightModel()
    engine = Engine(model, evolve(LIMITS, first_cells=32, cache_ram_bytes=0), "toy")
    large, small = Sink(), Sink()
    engine.submit(TALKATIVE, RequestOptions.of({"max_tokens": 100}), large)
    large.end()
    engine.submit(TALKATIVE, RequestOptions.of({"max_tokens": 5}), small)
    small.end()
    assert small.tokens == solo(TALKATIVE, 5)
    assert [context.closed for context in model.contexts if context.n_cells > 32].count(False) == 0
    engine.close()


def test_steps_are_told_before_the_model_computes_again() -> None:
    """So what a step brought never waits for the next one; the ends at the engine's own end are told, too."""
    pushed, untold = list[BackendEvent](), list[int]()
    told = [0]

    class Watched(ToyModel):
        def open_context(self, n_cells: int, n_sequences: int) -> ToyContext:
            context = super().open_context(n_cells, n_sequences)
            decode = context.decode

            def watched(works: Sequence[Work]) -> list[int]:
                untold.append(len(pushed) - told[0])
                return decode(works)

            context.decode = watched  # type: ignore[method-assign]
            return context

    class Counted(Sink):
        def __call__(self, event: BackendEvent) -> None:
            pushed.append(event)
            super().__call__(event)

    def tell() -> None:
        assert threading.current_thread().name == "localllm-engine"
        told[0] = len(pushed)

    engine = Engine(Watched(), LIMITS, "toy")
    engine.on_step = tell
    sinks = [Counted() for _ in range(3)]
    for sink, deterministic in zip(sinks, (False, False, True), strict=True):
        engine.submit(TALKATIVE, RequestOptions(max_tokens=20, deterministic=deterministic), sink)
    for sink in sinks:
        sink.end()
    endless = Counted()
    engine.submit(TALKATIVE, RequestOptions(max_tokens=400), endless)
    assert endless.text.wait(10)
    engine.close()
    assert len(untold) > 20
    assert set(untold) == {0}
    assert told[0] == len(pushed)
