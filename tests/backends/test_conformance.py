"""Every backend keeps every rule of the port, and a backend that breaks one is found out by the check for it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator

import pytest
from attrs import field, frozen

from localllm.backends.base import Backend, GenerateRequest, LoadedModel, ModelSpec
from localllm.backends.fake import FakeBackend, FakeReply
from localllm.backends.llamacpp import LlamaCppBackend
from localllm.backends.lookup import in_workers
from localllm.backends.simple import Piece, SimpleBackend, SimpleModel
from localllm.errors import ConformanceError
from localllm.models.store import ModelStore
from localllm.options import ModelConfig, Timeouts
from localllm.testing import Check, backend_checks, check_backend
from tests.backends import mutants
from tests.backends.mutants import LONG_TEXT, MutantBackend


class _Reverser(SimpleModel):
    """Says what it was told, backwards, again and again."""

    def pieces(self, request: GenerateRequest) -> Iterable[Piece]:
        words = request.messages[-1].content.split() or ["nothing"]
        for word in itertools.islice(itertools.cycle(words), 400):
            yield " " + word[::-1]


class ReverseBackend(SimpleBackend):
    """A backend as a user writes one."""

    name = "reverse"

    def open(self, spec: ModelSpec) -> SimpleModel:
        return _Reverser(spec)


class _Breaker(SimpleModel):
    def pieces(self, request: GenerateRequest) -> Iterator[Piece]:
        yield "So far "
        raise RuntimeError("the model broke")


class BreakingBackend(SimpleBackend):
    name = "breaking"

    def open(self, spec: ModelSpec) -> SimpleModel:
        return _Breaker(spec)


@frozen(kw_only=True)
class Contender:
    """A backend and how to check it: one line in `CONTENDERS` adds one."""

    factory: Callable[[], Backend]
    failing: Callable[[], Backend] | None = None
    ref: str = "test"
    config: ModelConfig = field(factory=ModelConfig)
    requests: int = 1000


def _in_workers(name: str) -> Callable[[], Backend]:
    return lambda: in_workers(name, on_crash="raise", timeouts=Timeouts())()


def _fake(reply: str | FakeReply) -> Callable[[], Backend]:
    return lambda: FakeBackend(itertools.repeat(reply))


_THOUGHTFUL = FakeReply(LONG_TEXT, thought="Let me think. " * 3)
_BROKEN = FakeReply(LONG_TEXT, error=ValueError("midway"), error_at=5)
_CRASHING = FakeReply(LONG_TEXT, crash=True, error_at=5)

SMOLLM2 = str(ModelStore().resolve("smollm2-135m"))

CONTENDERS = {
    "fake": Contender(factory=_fake(LONG_TEXT), failing=_fake(_BROKEN)),
    "fake-parallel": Contender(factory=_fake(_THOUGHTFUL), failing=_fake(_CRASHING), config=ModelConfig(n_parallel=4)),
    "custom": Contender(factory=ReverseBackend, failing=BreakingBackend),
    "worker-fake": Contender(
        factory=_in_workers("tests.worker.scripted:SlowFake"),
        failing=_in_workers("tests.worker.scripted:BrokenFake"),
    ),
    "worker-fake-parallel": Contender(
        factory=_in_workers("tests.worker.scripted:SlowFake"),
        failing=_in_workers("tests.worker.scripted:CrashingFake"),
        config=ModelConfig(n_parallel=4),
        requests=100,
    ),
    "worker-llama.cpp": Contender(
        factory=_in_workers("llama.cpp"),
        ref=SMOLLM2,
        config=ModelConfig(n_ctx=1024),
        requests=30,
    ),
    "llama.cpp": Contender(
        factory=LlamaCppBackend,
        ref=SMOLLM2,
        config=ModelConfig(n_ctx=1024),
        requests=30,
    ),
}


@pytest.mark.parametrize("check", backend_checks(), ids=lambda check: check.name)
@pytest.mark.parametrize("name", CONTENDERS)
def test_a_backend_keeps_the_rule(name: str, check: Check) -> None:
    """Each rule of `localllm.backends.base` holds for each backend."""
    one = CONTENDERS[name]
    check.run(one.factory, one.ref, config=one.config, requests=one.requests, failing=one.failing)


def test_check_backend_runs_every_check() -> None:
    """`check_backend` passes for a backend that keeps all rules, and fails for one that breaks the last."""
    check_backend(_fake(LONG_TEXT), requests=20)
    with pytest.raises(ConformanceError, match="use_after_close_is_refused"):
        check_backend(lambda: MutantBackend(_TokenizesAfterClose), requests=20)


class _TokenizesAfterClose(mutants.Wrapped):
    def tokenize(self, text: str) -> tuple[int, ...]:
        return ()[:] if self.inner.stats().finished else super().tokenize(text)


_MUTANTS: tuple[tuple[str, Callable[[LoadedModel], LoadedModel]], ...] = (
    ("ends_exactly_once", mutants.EndsTwice),
    ("ends_exactly_once", mutants.SpeaksAfterItsEnd),
    ("ends_exactly_once", mutants.NeverEnds),
    ("ends_exactly_once", mutants.SpeaksTwiceAtOnce),
    ("ends_exactly_once", mutants.ForgetsItsUsage),
    ("ends_exactly_once", mutants.InventsItsTimings),
    ("usage_counts_the_prompt", mutants.MiscountsThePrompt),
    ("generate_returns_at_once", mutants.WaitsForTheReply),
    ("max_tokens_is_exact", mutants.ExceedsMaxTokens),
    ("stop_texts_never_leak", mutants.LeaksStops),
    ("stop_texts_never_leak", mutants.LeaksHalfAStop),
    ("timeout_ends_the_reply", mutants.IgnoresTimeouts),
    ("preload_generates_nothing", mutants.AnswersPreloads),
    ("completion_reads_an_open_turn", mutants.AnswersPreloads),
    ("options_stay_with_their_request", mutants.MixesOptionsUp),
    ("cancel_in_the_queue", mutants.IgnoresCancel),
    ("cancel_before_the_first_text", mutants.IgnoresCancel),
    ("cancel_from_inside_the_sink", mutants.IgnoresCancel),
    ("cancel_from_another_thread", mutants.IgnoresCancel),
    ("cancel_leaves_others_alone", mutants.CancelsEverything),
    ("tokens_round_trip", mutants.DropsSpaces),
    ("unknown_tokens_are_refused", mutants.AcceptsAnyToken),
    ("render_shows_the_prompt", mutants.RendersOtherTokens),
    ("content_makes_no_control_tokens", mutants.ParsesControlTokens),
    ("info_says_what_is_loaded", mutants.MislabelsItself),
    ("many_requests_leak_nothing", mutants.LeaksThreads),
    ("close_ends_what_is_under_way", mutants.WorksAfterClose),
    ("close_twice_does_nothing", mutants.ClosesOnce),
    ("use_after_close_is_refused", mutants.WorksAfterClose),
)


@pytest.fixture(autouse=True)
def _no_threads_left() -> Iterator[None]:
    yield
    mutants.LeaksThreads.stay.set()


@pytest.mark.parametrize(("name", "wrong"), _MUTANTS, ids=lambda value: getattr(value, "__name__", value))
def test_a_wrong_model_is_found_out_by_the_check_for_it(name: str, wrong: Callable[[LoadedModel], LoadedModel]) -> None:
    """The named check fails for a model that breaks its rule, and its message begins with its name."""
    mutants.LeaksThreads.stay.clear()
    check = next(check for check in backend_checks() if check.name == name)
    with pytest.raises(ConformanceError, match=f"^{name}: ") as failure:
        check.run(lambda: MutantBackend(wrong), requests=40, wait_s=1.0)
    assert check.rule in failure.value.message


@pytest.mark.parametrize(
    ("name", "factory"),
    [
        ("load_tells_its_progress", lambda: mutants.RunsBackwards(mutants.Wrapped)),
        ("load_tells_its_progress", lambda: mutants.CannotBeCancelledLoading(mutants.Wrapped)),
        ("closing_the_backend_closes_its_models", lambda: mutants.ForgetsItsModels(mutants.Wrapped)),
        ("answers_at_length", _fake("Short.")),
        ("errors_end_one_request", None),
    ],
)
def test_a_wrong_backend_is_found_out_by_the_check_for_it(name: str, factory: Callable[[], Backend] | None) -> None:
    """The named check fails for a backend that breaks its rule."""
    check = next(check for check in backend_checks() if check.name == name)
    well = _fake(LONG_TEXT)
    with pytest.raises(ConformanceError, match=f"^{name}: "):
        check.run(factory or well, failing=well, requests=40, wait_s=1.0)


def test_every_check_has_a_name_and_a_rule_of_its_own() -> None:
    """Names and rules are what a user sees of a failure, so none is empty or there twice."""
    checks = backend_checks()
    assert len({check.name for check in checks}) == len({check.rule for check in checks}) == len(checks)
    assert all(check.name and check.rule.endswith(".") for check in checks)


@pytest.mark.soak
def test_llama_cpp_answers_a_thousand_requests_and_leaks_nothing() -> None:
    """The same check as with 30 requests in `make test`."""
    one = CONTENDERS["llama.cpp"]
    check = next(check for check in backend_checks() if check.name == "many_requests_leak_nothing")
    check.run(one.factory, one.ref, config=one.config, requests=1000)
