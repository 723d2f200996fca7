"""Grammars, forced tokens and thoughts in the engine, over the toy model."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from localllm.engine.engine import Engine
from localllm.engine.model import Work
from localllm.engine.request import ReplyForm
from localllm.errors import BackendError
from localllm.options import RequestOptions
from localllm.types import TextDelta, ToolCallEvent

from .test_engine import LIMITS, TALKATIVE, Sink
from .toy import CLOSE, ToyConstraint, ToyContext, ToyFold, ToyModel, opens, solo


class CountingModel(ToyModel):
    """Notes the portions in which its contexts compute."""

    def __init__(self) -> None:
        super().__init__()
        self.portions: list[int] = []

    def open_context(self, n_cells: int, n_sequences: int) -> ToyContext:
        """Return a context that notes them."""
        context = super().open_context(n_cells, n_sequences)
        decode = context.decode

        def noted(works: Sequence[Work]) -> list[int]:
            self.portions += [len(work.tokens) for work in works]
            return decode(works)

        context.decode = noted  # type: ignore[method-assign]
        return context


def _ask(engine: Engine, grammar: str, options: dict[str, object], said: Sequence[int] = ()) -> Sink:
    sink = Sink()
    form = ReplyForm(constraint=ToyConstraint(grammar), fold=ToyFold())
    engine.submit(TALKATIVE, RequestOptions.of({"max_tokens": 60, **options}), sink, given=said, form=form)
    return sink


def _long_run(grammar: str) -> int:
    """Return how long the run is that begins a reply to this grammar."""
    return len(ToyConstraint(grammar).forced())


SEED = next(str(n) for n in range(1000) if _long_run(str(n)) > 8 and len(solo(TALKATIVE, 60, str(n))) > 30)


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_forced_run_is_computed_in_one_decode(deterministic: bool) -> None:
    """It costs one step, counts as generated, and the reply is what it would have been token by token."""
    model = CountingModel()
    engine = Engine(model, LIMITS, "toy")
    sink = _ask(engine, SEED, {"deterministic": deterministic})
    end = sink.end()
    engine.close()
    expected = solo(TALKATIVE, 60, SEED)
    assert sink.tokens == expected
    assert end.usage.completion_tokens == len(expected)
    assert end.token_ids is not None
    assert list(end.token_ids.tokens) == expected
    assert _long_run(SEED) in model.portions
    assert len(model.portions) < len(expected)


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("said", [1, 5, 20])
def test_a_reply_that_goes_on_is_computed_in_the_portions_of_the_first_time(said: int, deterministic: bool) -> None:
    """Forced runs are found again, also one in whose middle the reply was broken off."""
    portions = []
    for given in ((), solo(TALKATIVE, 60, SEED)[:said]):
        model = CountingModel()
        engine = Engine(model, LIMITS, "toy")
        sink = _ask(engine, SEED, {"deterministic": deterministic}, given)
        sink.end()
        engine.close()
        assert [*given, *sink.tokens] == solo(TALKATIVE, 60, SEED)
        portions.append(model.portions)
    assert portions[0] == portions[1]


def test_max_tokens_ends_a_reply_in_the_middle_of_a_run() -> None:
    """Forced tokens count."""
    engine = Engine(ToyModel(), LIMITS, "toy")
    sink = _ask(engine, SEED, {"max_tokens": 4})
    end = sink.end()
    engine.close()
    assert sink.tokens == solo(TALKATIVE, 60, SEED)[:4]
    assert (end.finish_reason, end.usage.completion_tokens) == ("length", 4)


def test_a_stop_string_ends_a_reply_in_the_middle_of_a_run() -> None:
    """What is forced after it is not part of the reply."""
    expected = solo(TALKATIVE, 60, SEED)
    engine = Engine(ToyModel(), LIMITS, "toy")
    sink = _ask(engine, SEED, {"stop": f" {expected[3]} "})
    end = sink.end()
    engine.close()
    assert end.finish_reason == "stop"
    assert end.usage.completion_tokens == 4
    assert sink.tokens == expected[:3]


def test_with_log_probabilities_nothing_is_forced_unseen_and_the_text_is_the_same() -> None:
    """Each token has its own, of the distribution before the grammar."""
    model = CountingModel()
    engine = Engine(model, LIMITS, "toy")
    sink = _ask(engine, SEED, {"top_logprobs": 2})
    sink.end()
    engine.close()
    assert sink.tokens == solo(TALKATIVE, 60, SEED)
    logprobs = [one for event in sink.events if isinstance(event, TextDelta) for one in event.logprobs]
    assert [one.token for one in logprobs] == sink.tokens
    assert all(len(one.top) == 2 and one.top[0][2] == 0.0 for one in logprobs)
    assert all(one.text == f"{one.token} " for one in logprobs)
    assert any(one.logprob < 0 for one in logprobs), "a forced token is not the likeliest"
    assert set(model.portions[1:]) == {1}


@pytest.mark.parametrize("most", [0, 2, 5])
def test_a_thought_that_becomes_too_long_is_closed(most: int) -> None:
    """By the tokens that close it, which are part of the reply and of the thought."""
    prompt = next([n, n + 1] for n in range(1, 90) if any(opens(token) for token in solo([n, n + 1], 20)[:9]))
    engine = Engine(ToyModel(), LIMITS, "toy")
    sink = Sink()
    options = RequestOptions.of({"max_tokens": 40, "max_thought_tokens": most})
    engine.submit(prompt, options, sink, form=ReplyForm(fold=ToyFold()))
    end = sink.end()
    engine.close()
    assert sink.tokens == solo(prompt, 40, most_thought=most)
    assert CLOSE in sink.tokens
    thought, thinking = 0, False
    for token in sink.tokens:
        thought += thinking
        thinking = opens(token) or (thinking and token != CLOSE)
    assert end.usage.thought_tokens == thought


def test_a_grammar_that_does_not_let_a_thought_be_closed_ends_its_request_with_an_error() -> None:
    """The error names the limit."""

    class Strict(ToyConstraint):
        def allows(self, tokens: Sequence[int]) -> bool:
            return False

    class AlwaysThinking(ToyFold):
        def push(self, text: str) -> list[TextDelta | ToolCallEvent]:
            self.thinking = True
            return [TextDelta(text, "thought")]

    engine = Engine(ToyModel(), LIMITS, "toy")
    sink = Sink()
    form = ReplyForm(constraint=Strict(SEED), fold=AlwaysThinking())
    engine.submit(TALKATIVE, RequestOptions.of({"max_thought_tokens": 3}), sink, form=form)
    error = sink.end().error
    engine.close()
    assert isinstance(error, BackendError)
    assert "max_thought_tokens=3" in str(error)


@pytest.mark.parametrize("method", ["prepare", "accept", "forced"])
def test_a_grammar_that_fails_ends_its_own_request_only(method: str) -> None:
    """Wherever it fails; the other request's text is whole."""

    def fail(*_: object) -> None:
        raise BackendError("too many ways to go on")

    engine = Engine(ToyModel(), LIMITS, "toy")
    broken = ToyConstraint(SEED)
    setattr(broken, method, fail)
    bad, good = Sink(), _ask(engine, SEED, {})
    engine.submit(TALKATIVE, RequestOptions(), bad, form=ReplyForm(constraint=broken))
    assert "too many ways" in str(bad.end().error)
    good.end()
    engine.close()
    assert good.tokens == solo(TALKATIVE, 60, SEED)


def test_a_fold_that_fails_ends_its_own_request_only() -> None:
    """With an error that has the cause."""

    class Broken(ToyFold):
        def push(self, text: str) -> list[TextDelta | ToolCallEvent]:
            raise ValueError("a mistake in a fold")

    engine = Engine(ToyModel(), LIMITS, "toy")
    bad, good = Sink(), _ask(engine, SEED, {})
    engine.submit(TALKATIVE, RequestOptions(), bad, form=ReplyForm(fold=Broken()))
    error = bad.end().error
    good.end()
    engine.close()
    assert isinstance(error, BackendError)
    assert isinstance(error.__cause__, ValueError)
    assert good.tokens == solo(TALKATIVE, 60, SEED)


def test_a_reply_that_is_whole_before_it_begins_ends_at_once() -> None:
    """As where the caller's prefix is all that the grammar allows."""

    class Whole(ToyConstraint):
        @property
        def stopped(self) -> bool:
            return True

    engine = Engine(ToyModel(), LIMITS, "toy")
    sink = Sink()
    engine.submit(TALKATIVE, RequestOptions(), sink, form=ReplyForm(constraint=Whole(SEED)))
    end = sink.end()
    engine.close()
    assert (end.finish_reason, end.usage.completion_tokens) == ("stop", 0)
