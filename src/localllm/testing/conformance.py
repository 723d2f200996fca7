"""The conformance suite: the rules of `localllm.backends.base`, each as a check that any backend must pass."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path

from attrs import frozen

from localllm.backends.base import Backend
from localllm.errors import ConformanceError
from localllm.options import ModelConfig
from localllm.testing.checks import cancelling, lifecycle, replies, text
from localllm.testing.trial import PROMPT, Subject

_CHECKS: tuple[Callable[[Subject], None], ...] = (
    replies.answers_at_length,  # first: without it, the others say nothing
    replies.ends_exactly_once,
    replies.generate_returns_at_once,
    replies.max_tokens_is_exact,
    replies.stop_texts_never_leak,
    replies.timeout_ends_the_reply,
    replies.usage_counts_the_prompt,
    replies.preload_generates_nothing,
    replies.completion_reads_an_open_turn,
    replies.overflow_ends_that_request_only,
    replies.options_stay_with_their_request,
    replies.errors_end_one_request,
    cancelling.cancel_in_the_queue,
    cancelling.cancel_before_the_first_text,
    cancelling.cancel_from_inside_the_sink,
    cancelling.cancel_from_another_thread,
    cancelling.cancel_twice_or_after_the_end,
    cancelling.cancel_leaves_others_alone,
    text.tokens_round_trip,
    text.unknown_tokens_are_refused,
    text.render_shows_the_prompt,
    text.content_makes_no_control_tokens,
    lifecycle.load_tells_its_progress,
    lifecycle.info_says_what_is_loaded,
    lifecycle.many_callers_at_once,
    lifecycle.many_requests_leak_nothing,
    lifecycle.close_ends_what_is_under_way,
    lifecycle.close_twice_does_nothing,
    lifecycle.use_after_close_is_refused,
    lifecycle.closing_the_backend_closes_its_models,
    lifecycle.close_races_with_generate,
)


@frozen
class Check:
    """One rule of the port.

    Args:
        name: Its name, such as "stop_texts_never_leak".
        rule: What must hold, in a sentence.
    """

    name: str
    rule: str
    _check: Callable[[Subject], None]

    def run(
        self,
        factory: Callable[[], Backend],
        ref: str | Path = "test",
        *,
        config: ModelConfig | None = None,
        requests: int = 1000,
        prompt: str = PROMPT,
        failing: Callable[[], Backend] | None = None,
        wait_s: float = 60.0,
    ) -> None:
        """Hold a backend to this rule; see `check_backend` for the arguments.

        Raises:
            ConformanceError: The rule is broken; the message says how.
        """
        subject = Subject(
            factory=factory,
            ref=ref,
            config=config or ModelConfig(),
            requests=requests,
            prompt=prompt,
            failing=failing,
            wait_s=wait_s,
        )
        try:
            self._check(subject)
        except ConformanceError as exc:
            raise ConformanceError(f"{self.name}: {exc.message}\nThe rule: {self.rule}") from exc.__cause__
        except Exception as exc:
            raise ConformanceError(f"{self.name}: the backend raised {exc!r}\nThe rule: {self.rule}") from exc


def backend_checks() -> tuple[Check, ...]:
    """Return all checks, to parametrize a test with::

    @pytest.mark.parametrize("check", backend_checks(), ids=lambda check: check.name)
    def test_conformance(check: Check) -> None:
        check.run(MyBackend)
    """
    return tuple(Check(check.__name__, inspect.cleandoc(check.__doc__ or ""), check) for check in _CHECKS)


def check_backend(
    factory: Callable[[], Backend],
    *,
    ref: str | Path = "test",
    config: ModelConfig | None = None,
    requests: int = 1000,
    prompt: str = PROMPT,
    failing: Callable[[], Backend] | None = None,
    wait_s: float = 60.0,
) -> None:
    """Hold a backend to every rule of `localllm.backends.base`; returns if it keeps them all.

    Args:
        factory: Makes the backend; called for each check anew.
        ref: The model to load; its path for a backend of files.
        config: How to load it.
        requests: Requests that one check makes, to see whether they leave something behind.
        prompt: What to ask. The reply must have at least 16 tokens, come in pieces, and still be running when a cancel
            gets to it: give a backend that repeats what it is told a long one, and let a scripted reply be long, and
            slow where the backend is in another process.
        failing: Makes a backend whose every reply fails after some text; without one, that check is left out.
        wait_s: Real seconds to wait for any one event before it counts as lost.

    Raises:
        ConformanceError: A rule is broken; the message names the check, what was seen, and the rule.
    """
    for check in backend_checks():
        check.run(factory, ref, config=config, requests=requests, prompt=prompt, failing=failing, wait_s=wait_s)
