"""The batch's core under any schedule: whatever the prompts, the window and the order in which replies end."""

from __future__ import annotations

from random import Random
from typing import Literal, cast

from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st

from localllm import (
    BackendError,
    BatchItem,
    BatchProgress,
    BatchResult,
    GenerateRequest,
    GenerationEnded,
    InvalidPromptError,
    LocalLLMError,
    Prompt,
    QueueFullError,
    RequestOptions,
    Sink,
    TextDelta,
    Usage,
)
from localllm.batch import LAST_RETRY_S, Batch
from localllm.pump import PENDING
from tests.batches import asked

Kind = Literal["good", "empty", "no text", "fails", "cannot be sent"]


@define
class Asked:
    """A prompt, and how often the model's queue is full when it comes."""

    kind: Kind
    refusals: int = 0


@define(eq=False)
class Request:
    """A request under way."""

    text: str
    sink: Sink
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


@define(eq=False)
class Driver:
    """A consumer, an input and a backend in one thread; `random` chooses who goes next."""

    prompts: list[Asked]
    window: int
    ordered: bool
    random: Random
    clock_s: float = 0.0
    pulled: int = 0
    sent: int = 0
    running: list[Request] = field(factory=list)
    results: list[BatchResult] = field(factory=list)
    progress: list[BatchProgress] = field(factory=list)
    batch: Batch = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.batch = Batch(
            self.submit,
            RequestOptions(),
            window=self.window,
            wake=lambda: None,
            ordered=self.ordered,
            on_progress=self.progress.append,
            now=lambda: self.clock_s,
        )

    def submit(self, request: GenerateRequest, sink: Sink) -> Request:
        self.sent += 1
        if self.prompts[int(asked(request))].kind == "cannot be sent":
            raise BackendError("unplugged")
        self.running.append(Request(asked(request), sink))
        return self.running[-1]

    def step(self) -> bool:
        """Do something; False at the end."""
        if self.batch.hungry and self.random.random() < 0.6:
            self.pull()
            return True
        if self.running and self.random.random() < 0.5:
            self.end(self.running.pop(self.random.randrange(len(self.running))))
            return True
        result = self.batch.next_result()
        if isinstance(result, BatchResult):
            self.results.append(result)
        elif result is PENDING and not self.batch.hungry and not self.running:
            wait_s = self.batch.retry_in_s()
            assert wait_s is not None, "nothing is under way, and nobody would ever step again"
            assert 0 <= wait_s <= LAST_RETRY_S
            self.clock_s += wait_s
        return result is not None

    def pull(self) -> None:
        if self.pulled == len(self.prompts):
            self.batch.exhaust()
            return
        index, self.pulled = self.pulled, self.pulled + 1
        match self.prompts[index].kind:
            case "empty":
                self.batch.add("")
            case "no text":
                self.batch.add(cast("Prompt", index))
            case _:
                self.batch.add(BatchItem(f"key {index}", str(index)))

    def end(self, request: Request) -> None:
        prompt = self.prompts[int(request.text)]
        error: LocalLLMError | None = None
        if prompt.refusals > 0:
            prompt.refusals -= 1
            error = QueueFullError("full")
        elif prompt.kind == "fails":
            error = BackendError("boom")
        request.sink(TextDelta(request.text))
        usage = Usage(completion_tokens=1)
        request.sink(GenerationEnded("stop" if error is None else "error", usage, error=error))

    def check(self) -> None:
        """What holds after every step."""
        assert len(self.running) <= self.window
        assert self.pulled - len(self.results) <= self.window * (3 if self.ordered else 1)


kinds = st.sampled_from(["good", "good", "good", "empty", "no text", "fails", "cannot be sent"])
prompts = st.builds(Asked, kinds, st.sampled_from([0, 0, 0, 1, 3]))
drivers = st.builds(
    Driver,
    st.lists(prompts, max_size=30),
    st.integers(1, 5),
    st.booleans(),
    st.randoms(use_true_random=False),
)


@given(drivers)
def test_every_item_has_exactly_one_result(driver: Driver) -> None:
    """The right one, in order if that was asked for; refused prompts are answered in the end."""
    while driver.step():
        driver.check()
    results = driver.results
    assert sorted(result.index for result in results) == list(range(len(driver.prompts)))
    if driver.ordered:
        assert [result.index for result in results] == list(range(len(driver.prompts)))
    for result in results:
        kind = driver.prompts[result.index].kind
        assert (result.reply is None) == (result.error is not None) == (kind != "good")
        if kind in ("empty", "no text"):
            assert result.key == str(result.index)
            assert isinstance(result.error, InvalidPromptError)
        else:
            assert result.key == f"key {result.index}"
            reply = result.reply if result.error is None else result.error.reply
            assert kind == "cannot be sent" or (reply is not None and reply.text == str(result.index))
    assert [progress.done for progress in driver.progress] == list(range(1, len(results) + 1))
    if results:
        ended = sum(driver.prompts[result.index].kind in ("good", "fails") for result in results)
        failed = sum(result.error is not None for result in results)
        assert (driver.progress[-1].failed, driver.progress[-1].tokens) == (failed, ended)
    assert not driver.running


@given(drivers, st.integers(0, 60), st.booleans())
def test_closing_cancels_all_that_is_under_way(driver: Driver, steps: int, dropped: bool) -> None:
    """At any moment; then there are no more results, and nothing more is sent."""
    for _ in range(steps):
        driver.step()
    sent = driver.sent
    if dropped:
        driver.batch.drop()
    else:
        driver.batch.close()
    assert all(request.cancelled for request in driver.running)
    assert not driver.batch.hungry
    driver.clock_s += LAST_RETRY_S
    for request in driver.running:
        request.sink(GenerationEnded("cancelled"))
    assert driver.batch.next_result() is None
    assert driver.sent == sent
