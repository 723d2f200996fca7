"""Loading, many requests from many threads, and closing."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from itertools import pairwise

from localllm.backends.base import LoadProgress
from localllm.errors import ClosedError, LoadCancelledError
from localllm.testing.trial import Asked, Subject, Trial, in_threads, require
from localllm.types import Message

_AT_ONCE = 8


def load_tells_its_progress(subject: Subject) -> None:
    """`on_progress` gets fractions from 0 to 1 that never fall within a phase; returning False cancels the load."""
    backend = subject.factory()
    spec = subject.spec(backend)
    try:
        told: list[LoadProgress] = []
        backend.load(spec, told.append).close()
        for before, after in pairwise(told):
            falls = before.phase == after.phase and after.fraction < before.fraction
            require(not falls, f"the progress fell from {before} to {after}")
        require(all(0 <= progress.fraction <= 1 for progress in told), f"progress outside of 0 to 1: {told!r:.200}")
        if told:
            _require_raises(
                LoadCancelledError, "load, cancelled by its progress function,", lambda: backend.load(spec, _refuse)
            )
            backend.load(spec).close()  # a cancelled load leaves the backend usable
    finally:
        backend.close()


def info_says_what_is_loaded(subject: Subject) -> None:
    """`info` names the model and its backend, and is the same before and after `close`."""
    with Trial(subject) as trial:
        info = trial.model.info
        require(info.name != "", "info.name is empty")
        require(info.backend == trial.backend.name, f"info.backend is {info.backend!r}, not {trial.backend.name!r}")
        window = subject.config.n_ctx
        require(window is None or 0 <= info.n_ctx <= window, f"info.n_ctx is {info.n_ctx}, and {window} was asked for")
        trial.close()
        require(trial.model.info == info, "info changed with close")


def many_callers_at_once(subject: Subject) -> None:
    """Requests, tokens, prompts and figures may be asked for from several threads at once."""
    with Trial(subject) as trial:
        asked: list[Asked] = []

        def call(count: int) -> None:
            mine = [trial.ask(f"{subject.prompt} ({count})", max_tokens=2 + count) for _ in range(2)]
            asked.extend(mine)
            trial.model.detokenize(trial.model.tokenize(subject.prompt))
            trial.model.render([Message.user(subject.prompt)])
            trial.model.stats()
            for one in mine:
                tokens = one.end().usage.completion_tokens
                require(tokens == 2 + count, f"max_tokens={2 + count} gave {tokens} tokens")

        in_threads(2 * subject.wait_s, "a thread with two requests", *[partial(call, count) for count in range(4)])
        require(len(asked) == 8, f"of 8 requests from 4 threads {len(asked)} were made in time")


def many_requests_leak_nothing(subject: Subject) -> None:
    """After many short requests no more threads are there than after a few, and after `close` none."""
    before = set(threading.enumerate())
    with Trial(subject) as trial:
        after_few = 0
        for done in range(0, subject.requests, _AT_ONCE):
            asked = [trial.ask("Hi", max_tokens=1) for _ in range(min(_AT_ONCE, subject.requests - done))]
            for one in asked:
                reason = one.end().finish_reason
                require(reason in ("length", "stop"), f"one of {subject.requests} short requests ended with {reason!r}")
            count = threading.active_count()
            after_few = after_few or count
            grown = count - after_few
            require(grown <= _AT_ONCE, f"{done + len(asked)} requests left {grown} threads behind")
        stats = trial.model.stats()
        left = (stats.running, stats.waiting)
        require(left == (0, 0), f"stats count {left[0]} running and {left[1]} waiting requests when all have ended")
        require(
            stats.finished >= subject.requests, f"stats count {stats.finished} of {subject.requests} requests as ended"
        )
    for thread in set(threading.enumerate()) - before:
        thread.join(2.0)
        require(not thread.is_alive(), f"close left the thread {thread.name!r} running")


def close_ends_what_is_under_way(subject: Subject) -> None:
    """`close` ends running and waiting requests as cancelled; when it returns they have ended."""
    with Trial(subject) as trial:
        begun, closing, pause = threading.Event(), threading.Event(), threading.Event()

        def hold(asked: Asked) -> None:
            """Keep a reply from going on until `close` was called, for a backend that would be done by then."""
            begun.set()
            closing.wait(subject.wait_s)
            pause.wait(0.1)

        def close() -> None:
            closing.set()
            trial.model.close()

        asked = [trial.ask(on_event=trial.after_text(hold)) for _ in range(4)]
        require(begun.wait(subject.wait_s), f"of 4 requests none made text within {subject.wait_s} s")
        trial.closing()
        in_threads(subject.wait_s, "close of the model", close)
        for one in asked:
            reason = None if one.log.end is None else one.log.end.finish_reason
            require(reason == "cancelled", f"under way when the model was closed, a request ended with {reason!r}")


def close_twice_does_nothing(subject: Subject) -> None:
    """`close` of a model and of a backend may be called again, also from several threads at once."""
    with Trial(subject) as trial:
        trial.ask(max_tokens=4)
        trial.close_model(times=3)
        trial.close()
        trial.close()


def use_after_close_is_refused(subject: Subject) -> None:
    """After `close` every method raises ClosedError, and only `stats` and `info` still answer."""
    with Trial(subject) as trial:
        ended = trial.ask(max_tokens=2)
        tokens = trial.model.tokenize("Hi")
        ended.end()
        model = trial.model
        model.close()
        ended.cancel()
        _require_raises(ClosedError, "generate after close", partial(trial.ask, max_tokens=1))
        _require_raises(ClosedError, "tokenize after close", lambda: model.tokenize("Hi"))
        _require_raises(ClosedError, "detokenize after close", lambda: model.detokenize(tokens))
        _require_raises(ClosedError, "render after close", lambda: model.render([Message.user("Hi")]))
        finished = model.stats().finished
        require(finished >= 1, f"after close, stats count {finished} ended requests, and there was one")
        trial.backend.close()
        spec = subject.spec(trial.backend)
        _require_raises(ClosedError, "load after the backend's close", lambda: trial.backend.load(spec))


def closing_the_backend_closes_its_models(subject: Subject) -> None:
    """`Backend.close` closes every model of it, and what runs on them ends as cancelled."""
    with Trial(subject) as trial:
        other = trial.backend.load(subject.spec(trial.backend))
        asked = trial.ask()
        asked.wait_for_text()
        trial.closing()
        trial.backend.close()
        require(asked.log.end is not None, "a request is still running after the backend's close")
        for model in (trial.model, other):
            _require_raises(ClosedError, "tokenize after the backend's close", partial(model.tokenize, "Hi"))


def close_races_with_generate(subject: Subject) -> None:
    """A request made while the model is being closed raises ClosedError or ends: none is lost."""
    with Trial(subject) as trial:
        begun = threading.Event()

        def ask_until_closed() -> None:
            for _ in range(10_000):
                try:
                    trial.ask("Hi", max_tokens=1)
                except ClosedError:
                    return
                finally:
                    begun.set()

        def close() -> None:
            begun.wait(subject.wait_s)
            trial.close()

        in_threads(2 * subject.wait_s, "generate, while the model was being closed,", ask_until_closed, close)


def _refuse(progress: LoadProgress) -> bool:
    return False


def _require_raises(kind: type[Exception], what: str, action: Callable[[], object]) -> None:
    try:
        result = action()
    except kind:
        return
    except Exception as exc:  # noqa: BLE001  # told apart from what was expected, in the message
        require(False, f"{what} raised {exc!r:.120} and not {kind.__name__}")
    else:
        require(False, f"{what} returned {result!r:.80} and did not raise {kind.__name__}")
