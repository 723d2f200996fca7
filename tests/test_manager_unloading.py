"""Models that leave the memory and come back: when, at whose cost, and what their handles and sessions see of it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from localllm import (
    ChatSession,
    ClosedError,
    FakeBackend,
    FakeReply,
    GenerateRequest,
    GenerationTimeoutError,
    InvalidOptionError,
    Message,
    ModelBusyError,
    ModelConfig,
    ModelLoadError,
    ModelManager,
    ModelNotFoundError,
    ModelSpec,
    QueueFullError,
    RequestOptions,
)
from localllm.backends.simple import SimpleModel
from localllm.testing import ManualClock
from tests.chats import in_thread
from tests.residency.gates import Gate, Loads, Log, no_thread_left, until


def request(text: str = "hi", timeout_s: float | None = None) -> GenerateRequest:
    """Return a request."""
    return GenerateRequest(messages=(Message.user(text),), options=RequestOptions(timeout_s=timeout_s))


def state(models: ModelManager) -> list[str]:
    """Return where the models are."""
    return [model.state for model in models.snapshot().models]


class SlowToLoad(FakeBackend):
    """A fake each of whose loads waits at a gate."""

    def __init__(self, gate: Gate, script: Sequence[str | FakeReply], clock: ManualClock) -> None:
        super().__init__(script, clock=clock)
        self._gate = gate

    def open(self, spec: ModelSpec) -> SimpleModel:
        self._gate.pass_through()
        return super().open(spec)


# unload, and back


def test_an_unloaded_model_comes_back_at_its_next_use() -> None:
    """Its handle stays valid, its session goes on, its figures grow on, and what is known of it stays known."""
    with ModelManager(FakeBackend(["one", "two", "three"])) as models:
        model = models.load("a")
        chat = ChatSession(model)
        assert chat.send("first").text == "one"
        models.unload(model)
        assert state(models) == ["unloaded"]
        assert (model.info.name, model.stats().finished) == ("a", 1)
        assert chat.send("second").text == "two"
        assert state(models) == ["ready"]
        assert [message.content for message in chat.history] == ["first", "one", "second", "two"]
        assert model.stats().finished == 2
        models.unload("a")
        assert model.detokenize(model.tokenize("hello")) == "hello"
        assert state(models) == ["ready"]


def test_the_caller_does_not_wait_for_a_model_to_come_back() -> None:
    """`submit` returns at once; what was asked meanwhile is asked in its order, and events come once it is there."""
    gate = Gate()
    backend = Loads(gate)
    with ModelManager(backend) as models:
        gate.open()
        model = models.load("a")
        gate.wait()
        models.unload(model)
        for number in range(5):
            model.submit(request(str(number)), Log())
        gate.wait()
        for number in range(5, 10):
            model.submit(request(str(number)), Log())
        assert (len(backend.made), state(models)) == (1, ["loading"])
        assert models.snapshot().models[0].requests == 10
        gate.open()
        until(lambda: len(backend.made) == 2 and len(backend.made[1].requests) == 10, "all were asked")
        asked = [each.messages[0].content for each in backend.made[1].requests]
        assert asked == [str(number) for number in range(10)]
        assert len(backend.made[0].requests) == 0


def test_a_request_may_be_cancelled_while_the_model_comes_back() -> None:
    """It ends at once, and never reaches the model; the others do."""
    gate = Gate()
    backend = Loads(gate)
    with ModelManager(backend) as models:
        gate.open()
        model = models.load("a")
        gate.wait()
        models.unload(model)
        logs = [Log() for _ in range(3)]
        handles = [model.submit(request(str(number)), log) for number, log in enumerate(logs)]
        gate.wait()
        handles[1].cancel()
        handles[1].cancel()
        assert logs[1].end().finish_reason == "cancelled"
        stream = ChatSession(model).stream("never asked")
        stream.cancel()
        assert stream.reply.finish_reason == "cancelled"
        gate.open()
        until(lambda: len(backend.made) == 2 and len(backend.made[1].requests) == 2, "the others are asked")
        assert [each.messages[0].content for each in backend.made[1].requests] == ["0", "2"]


def test_a_model_that_fails_to_come_back_fails_what_waits_for_it() -> None:
    """Each request with an error of its own, and each question; the next use tries again."""
    gate = Gate()
    gate.open(9)
    backend = Loads(gate, None, KeyError("gone"), KeyError("still gone"))
    with ModelManager(backend) as models:
        model = models.load("a")
        models.unload(model)
        logs = [Log(), Log()]
        for log in logs:
            model.submit(request(), log)
        errors = [log.end().error for log in logs if log.end().finish_reason == "error"]
        assert len({id(error) for error in errors}) == len(errors)
        assert all(isinstance(error, ModelLoadError) for error in errors)
        assert errors
        until(lambda: isinstance(models.snapshot().models[0].error, ModelLoadError), "the failure is told")
        if backend.errors:  # both were asked in time for one load: the second failure is still to come
            with pytest.raises(ModelLoadError, match="gone"):
                model.tokenize("x")
        assert state(models) == ["failed"]
        assert model.tokenize("x") == (120,)
        assert state(models) == ["ready"]
        assert models.snapshot().models[0].error is None


def test_what_is_asked_while_a_model_leaves_brings_it_back() -> None:
    """Once it is out: never is there a second one in memory."""
    closing = Gate()
    backend = Loads(closing=closing)
    with ModelManager(backend) as models:
        model = models.load("a")
        wait = in_thread(lambda: models.unload(model))
        closing.wait()
        log = Log()
        model.submit(request(), log)
        assert (len(backend.made), state(models)) == (1, ["unloading"])
        closing.open()
        assert wait() is None
        until(lambda: len(backend.made) == 2 and backend.made[1].requests, "it is back")
        closing.open()


def test_a_request_has_its_time_while_the_model_comes_back() -> None:
    """The wait counts: it ends in time without the model, or goes on with what is left."""
    clock, gate = ManualClock(), Gate()
    backend = Loads(gate)
    with ModelManager(backend, clock=clock) as models:
        gate.open()
        model = models.load("a")
        gate.wait()
        models.unload(model)
        short, long = Log(), Log()
        model.submit(request("short", timeout_s=2), short)
        model.submit(request("long", timeout_s=10), long)
        gate.wait()
        clock.wait_until_blocked()
        clock.advance(3)
        assert short.end().finish_reason == "timeout"
        gate.open()
        until(lambda: len(backend.made) == 2 and backend.made[1].requests, "the other one is asked")
        assert [each.options.timeout_s for each in backend.made[1].requests] == [7]


def test_the_wait_for_a_model_is_time_in_the_queue() -> None:
    """As the reply's timings tell it, by the manager's clock."""
    clock, gate = ManualClock(), Gate()

    with ModelManager(SlowToLoad(gate, ["hello"], clock), clock=clock) as models:
        gate.open()
        model = models.load("a")
        gate.wait()
        models.unload(model)
        stream = ChatSession(model).stream("hi")
        gate.wait()
        clock.advance(5)
        gate.open()
        timings = stream.reply.timings
        assert (timings.queue_s, timings.first_token_s) == (5, 5)


def test_a_session_that_times_out_while_the_model_comes_back_can_go_on() -> None:
    """As after any other time-out."""
    clock, gate = ManualClock(), Gate()
    backend = Loads(gate)
    with ModelManager(backend, clock=clock) as models:
        gate.open()
        chat = ChatSession(models.load("a"))
        gate.wait()
        models.unload("a")
        stream = chat.stream("hi", timeout_s=1)
        gate.wait()
        clock.wait_until_blocked()
        clock.advance(1)
        with pytest.raises(GenerationTimeoutError):
            list(stream)
        assert chat.history == ()
        gate.open()


def test_the_models_own_limits_hold_for_what_has_waited() -> None:
    """More requests than its queue takes are refused once it is there."""
    gate = Gate()
    clock = ManualClock()
    with ModelManager(SlowToLoad(gate, [FakeReply("x", delay_s=1)] * 3, clock)) as models:
        gate.open()
        model = models.load("a", config=ModelConfig(max_queue=1))
        gate.wait()
        models.unload(model)
        logs = [Log() for _ in range(3)]
        for log in logs:
            model.submit(request(), log)
        gate.open()
        assert isinstance(logs[2].end().error, QueueFullError)


def test_closing_a_handle_while_its_model_comes_back_ends_it() -> None:
    """What waits ends as cancelled, the load ends, and what it brings is closed."""
    gate = Gate()
    backend = Loads(gate)
    with no_thread_left(), ModelManager(backend) as models:
        gate.open()
        model = models.load("a")
        gate.wait()
        models.unload(model)
        log = Log()
        model.submit(request(), log)
        gate.wait()
        asking = in_thread(lambda: model.tokenize("x"))
        closing = in_thread(model.close)
        assert log.end().finish_reason == "cancelled"
        gate.open()
        assert closing() is None
        assert isinstance(asking(), ClosedError)
        with pytest.raises(ClosedError):
            model.submit(request(), Log())
    assert all(made.closed for made in backend.made)


def test_a_busy_model_is_not_unloaded_unless_by_force() -> None:
    """By force its requests end as cancelled; the handle stays valid."""
    backend = Loads()
    with ModelManager(backend) as models:
        model = models.load("a")
        log = Log()
        model.submit(request(), log)
        with pytest.raises(ModelBusyError, match=r"'a' has something to do.*force=True"):
            models.unload(model)
        assert log.events == []
        models.unload(model, force=True)
        assert log.end().finish_reason == "cancelled"
        assert state(models) == ["unloaded"]
        assert model.tokenize("x")
        models.unload("a")
        models.unload("a")


def test_what_is_not_there_cannot_be_unloaded() -> None:
    """The message says what there is."""
    with ModelManager(Loads()) as models:
        with pytest.raises(ModelNotFoundError, match="has not loaded 'a'; it has loaded: none"):
            models.unload("a")
        model = models.load("b")
        with pytest.raises(ModelNotFoundError, match="it has loaded: 'b'"):
            models.unload("a")
        with pytest.raises(InvalidOptionError, match="model must be a Model, or a reference"):
            models.unload(7)  # type: ignore[arg-type]
        model.close()
        with pytest.raises(ClosedError):
            models.unload(model)


# keep_alive_s


def test_an_idle_model_is_unloaded_after_a_while() -> None:
    """So many seconds after its last use, of whatever kind; not while it has something to do."""
    clock = ManualClock()
    backend = Loads()
    with no_thread_left(), ModelManager(backend, keep_alive_s=10, clock=clock) as models:
        model = models.load("a")
        clock.wait_until_blocked()
        clock.advance(9)
        model.tokenize("x")
        clock.wait_until_blocked()
        clock.advance(9)
        clock.wait_until_blocked()
        assert state(models) == ["ready"]
        log = Log()
        handle = model.submit(request(), log)
        clock.advance(100)
        assert state(models) == ["busy"]
        handle.cancel()
        log.end()
        clock.wait_until_blocked()
        clock.advance(9)
        clock.wait_until_blocked()
        assert state(models) == ["ready"]
        clock.advance(1)
        until(lambda: state(models) == ["unloaded"], "it is unloaded")
        assert backend.made[0].closed == 1
        assert model.tokenize("x")
        clock.wait_until_blocked()
        clock.advance(10)
        until(lambda: [made.closed for made in backend.made] == [1, 1], "and again")


def test_a_pinned_model_stays() -> None:
    """Until all of its handles have let go; who unloads it on purpose may."""
    clock = ManualClock()
    backend = Loads()
    with no_thread_left(), ModelManager(backend, keep_alive_s=10, clock=clock) as models:
        model, other = models.load("a", pin=True), models.load("a")
        assert (model.pinned, other.pinned, models.snapshot().models[0].pinned) == (True, False, True)
        other.pin()
        model.unpin()
        clock.advance(100)
        assert state(models) == ["ready"]
        other.close()
        until(lambda: state(models) == ["unloaded"], "it is unloaded")
        model.pin()
        assert model.tokenize("x")
        models.unload(model)
        assert state(models) == ["unloaded"]


def test_without_keep_alive_and_subscribers_there_is_no_thread() -> None:
    """Nothing of the manager's own runs while a model only waits."""
    with no_thread_left():
        models = ModelManager(Loads())
        model = models.load("a")
        with no_thread_left():
            model.tokenize("x")
        models.close()


@pytest.mark.parametrize("wrong", [-1, float("nan"), float("inf"), "10", True])
def test_a_keep_alive_is_a_number_of_seconds(wrong: float) -> None:
    """Anything else is refused at once."""
    with pytest.raises(InvalidOptionError, match="keep_alive_s must be a number of seconds"):
        ModelManager(Loads(), keep_alive_s=wrong)
