"""How replies end: by themselves, by their options, by an error; and what they say they cost."""

from __future__ import annotations

import time
from threading import Event

from attrs import evolve

from localllm.errors import ContextOverflowError, UnsupportedError
from localllm.testing.trial import LONG, Asked, Subject, Trial, require
from localllm.types import Message, TextDelta, ToolCallStarted

_AT_ONCE_S = 0.5  # what `generate` may take; more than a stalled machine needs, less than a model needs for a prompt


def answers_at_length(subject: Subject) -> None:
    """The suite's prompt gets a reply that is long enough to be cut, stopped and cancelled."""
    with Trial(subject) as trial:
        asked = trial.ask(max_tokens=LONG)
        tokens, pieces = asked.end().usage.completion_tokens, len(asked.log.deltas)
        advice = "let the backend under test answer at length, or give check_backend another prompt"
        require(tokens == LONG, f"the reply to {subject.prompt!r:.60} has {tokens} tokens, fewer than {LONG}; {advice}")
        require(pieces > 3, f"the reply came in {pieces} pieces, which leaves no time to cancel it; {advice}")


def ends_exactly_once(subject: Subject) -> None:
    """However a request ends, exactly one end event comes, last; events are in order and never two at once."""
    with Trial(subject) as trial:
        cut, stopped = trial.ask(max_tokens=3), trial.ask(max_tokens=8, stop="e")
        late, cancelled = trial.ask(timeout_s=1e-6), trial.ask()
        cancelled.cancel()
        for asked in (cut, stopped, late, cancelled):
            asked.end()
        trial.ask(max_tokens=1).end()  # gives what may come too late the time to come


def generate_returns_at_once(subject: Subject) -> None:
    """`generate` neither computes nor waits, however long the prompt, and sends no event before it returns."""
    with Trial(subject) as trial:
        n_ctx = trial.model.info.n_ctx or 1024
        began_s = time.monotonic()
        asked = trial.ask("word " * min(2000, n_ctx // 2), max_tokens=1)
        took_s = time.monotonic() - began_s
        asked.cancel()
        require(took_s < _AT_ONCE_S, f"generate took {took_s:.2f} s for a long prompt")
        asked.end()


def max_tokens_is_exact(subject: Subject) -> None:
    """`max_tokens` ends the reply with "length" and exactly so many tokens."""
    with Trial(subject) as trial:
        for count in (1, 2, 7):
            end = trial.ask(max_tokens=count).end()
            seen = (end.finish_reason, end.usage.completion_tokens)
            require(seen == ("length", count), f"max_tokens={count} ended with {seen[0]!r} after {seen[1]} tokens")


def stop_texts_never_leak(subject: Subject) -> None:
    """A stop text ends the reply with "stop" right before it; what only began like one is delivered."""
    with Trial(subject) as trial:
        first = trial.ask(max_tokens=LONG, deterministic=True)
        whole, repeated = first.said(), trial.ask(max_tokens=LONG, deterministic=True).said()
        middle = len(whole) // 2
        seam = _seam(first, middle)
        for stop in (whole[middle : middle + 3], whole[seam - 1 : seam + 2], whole[middle]):
            asked = trial.ask(stop=("never \u2603", stop), max_tokens=LONG, deterministic=True)
            text, reason = asked.said(), asked.end().finish_reason
            require(stop not in text, f"the stop text {stop!r} is in the reply {text!r}")
            if whole == repeated:  # else the model gives another text each time, and there is nothing to compare with
                expected = whole[: whole.find(stop)]
                require(text == expected, f"stopped at {stop!r}, the reply is {text!r} and not {expected!r}")
                require(reason == "stop", f"the stop text {stop!r} was met, and the reply ended with {reason!r}")
        text = trial.ask(stop=f"{whole[-3:]}\u2603", max_tokens=LONG, deterministic=True).said()
        require(
            whole != repeated or text == whole, f"with a stop that never comes the reply is {text!r}, not {whole!r}"
        )


def timeout_ends_the_reply(subject: Subject) -> None:
    """`timeout_s` ends a reply with "timeout", in the queue and in the middle, and counts from `generate`."""
    with Trial(subject) as trial:
        running, queued = trial.ask(), trial.ask(timeout_s=1e-6)
        reason = queued.end().finish_reason
        require(reason == "timeout", f"timeout_s passed before the request began, and it ended with {reason!r}")
        running.cancel()
        pause = Event()  # holds the first text back until the time is over, for a backend that would be done by then
        slow = trial.ask(timeout_s=0.1, on_event=trial.after_text(lambda asked: _wait(pause, 0.2)))
        reason = slow.end().finish_reason
        require(reason == "timeout", f"timeout_s passed in the middle of the reply, and it ended with {reason!r}")
        reason = trial.ask(timeout_s=3600, max_tokens=2).end().finish_reason
        require(reason == "length", f"timeout_s=3600 was not over, and the reply ended with {reason!r}")


def usage_counts_the_prompt(subject: Subject) -> None:
    """`prompt_tokens` counts what `render` shows, in the first turn and in the second."""
    with Trial(subject) as trial:
        asked = trial.ask(max_tokens=4)
        end = asked.end()
        said = Message("assistant", asked.log.text, token_ids=end.token_ids)
        second = (*asked.request.messages, said, Message.user("Go on."))
        for request in (asked.request, evolve(asked.request, messages=second)):
            rendered = len(trial.model.render(request.messages).tokens)
            counted = trial.send(request).end().usage.prompt_tokens
            require(counted == rendered, f"a prompt of {rendered} tokens by render was counted as {counted}")


def preload_generates_nothing(subject: Subject) -> None:
    """A preload brings no text and no tokens, ends with "length", and leaves the next reply as it is."""
    with Trial(subject) as trial:
        asked = trial.ask(purpose="preload")
        end = asked.end()
        require(end.finish_reason == "length", f"a preload ended with {end.finish_reason!r}")
        require(not asked.log.deltas, f"a preload brought text: {asked.log.text!r:.80}")
        require(end.usage.completion_tokens == 0, f"a preload counts generated tokens: {end.usage}")
        end = trial.ask(max_tokens=2).end()
        require(end.usage.completion_tokens == 2, f"after a preload, max_tokens=2 gave {end.usage}")


def completion_reads_an_open_turn(subject: Subject) -> None:
    """A completion goes on with the prompt before its turn's end, in text alone, or ends with UnsupportedError."""
    with Trial(subject) as trial:
        asked = trial.ask(purpose="complete", max_tokens=4)
        end = asked.end()
        if isinstance(end.error, UnsupportedError):
            require(not asked.log.deltas, f"a completion brought text before UnsupportedError: {asked.log.text!r:.80}")
        else:
            reason = end.finish_reason
            require(reason in ("stop", "length"), f"a completion ended with {reason!r}, {end.error!r:.120}")
            said = [event for event in asked.log.events if isinstance(event, TextDelta)]
            others = [event for event in asked.log.events if isinstance(event, ToolCallStarted)]
            thoughts = [delta for delta in said if delta.segment != "text"]
            require(not others and not thoughts, f"a completion is text alone, and {others or thoughts!r:.120} came")
            rendered = trial.model.render(asked.request.messages)
            closed = not rendered.text.endswith(subject.prompt)  # else there are no turns, only text
            read = end.usage.prompt_tokens
            require(
                not closed or read < len(rendered.tokens),
                f"a completion read {read} tokens, and the prompt of a reply has {len(rendered.tokens)}, with the end "
                "of the user's turn",
            )
        end = trial.ask(max_tokens=2).end()
        require(end.usage.completion_tokens == 2, f"after a completion, max_tokens=2 gave {end.usage}")


def overflow_ends_that_request_only(subject: Subject) -> None:
    """A prompt longer than the context window is a ContextOverflowError with both counts; other requests go on."""
    window = min(subject.config.n_ctx or 512, 512)
    with Trial(subject, config=evolve(subject.config, n_ctx=window)) as trial:
        n_ctx = trial.model.info.n_ctx
        if not 0 < n_ctx <= window:  # a backend that has no such limit, or cannot set it
            return
        other = trial.ask(max_tokens=8)
        error = trial.ask("word " * (n_ctx + 1), max_tokens=1).end().error
        if not isinstance(error, ContextOverflowError):
            require(False, f"a prompt of over {n_ctx} tokens in a window of {n_ctx} gave {error!r:.120}")
            return
        counts = (error.prompt_tokens, error.context_tokens)
        require(counts[0] > n_ctx == counts[1], f"prompt_tokens and context_tokens are {counts}, the window is {n_ctx}")
        require(all(str(count) in str(error) for count in counts), f"the message lacks a count: {error}")
        require(other.end().error is None, f"another request failed with it: {other.end().error!r:.120}")
        require(trial.ask(max_tokens=2).end().error is None, "the next request failed too")


def options_stay_with_their_request(subject: Subject) -> None:
    """The options of one request change nothing in another, before, beside or after it."""
    with Trial(subject) as trial:
        short, long = trial.ask(max_tokens=2), trial.ask(max_tokens=12)
        stopped, plain = trial.ask(max_tokens=12, stop=("e", "a", " ")), trial.ask(max_tokens=5)
        hot = trial.ask(max_tokens=3, temperature=1.5, seed=7)
        for asked, count in ((short, 2), (long, 12), (plain, 5), (hot, 3)):
            tokens = asked.end().usage.completion_tokens
            require(tokens == count, f"max_tokens={count} gave {tokens} tokens beside requests with other options")
        require("e" not in stopped.said(), f"stop='e' gave {stopped.said()!r} beside requests without it")


def errors_end_one_request(subject: Subject) -> None:
    """A reply that fails midway ends with its error, after the text that there was, and the model lives on."""
    if subject.failing is None:
        return
    with Trial(evolve(subject, factory=subject.failing)) as trial:
        for _ in range(2):
            asked = trial.ask()
            end = asked.end()
            require(end.finish_reason == "error", f"a reply that fails midway ended with {end.finish_reason!r}")
            require(asked.log.text != "", "a reply that fails midway must come with the text before it")


def _wait(event: Event, seconds: float) -> None:
    event.wait(seconds)


def _seam(asked: Asked, near: int) -> int:
    """Return where two pieces of a text meet, as near to `near` as there is."""
    seams, position = [], 0
    for event in asked.log.events:
        if isinstance(event, TextDelta):
            position += len(event.text)
            seams.append(position)
    return min(seams[:-1] or [near], key=lambda seam: abs(seam - near))
