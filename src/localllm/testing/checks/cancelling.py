"""Cancelling, at every stage of a request."""

from __future__ import annotations

import threading

from localllm.testing.trial import Asked, Subject, Trial, require


def cancel_in_the_queue(subject: Subject) -> None:
    """A request cancelled while it waits ends as cancelled, without text."""
    with Trial(subject) as trial:
        ahead = [trial.ask() for _ in range(3)]
        queued = [trial.ask() for _ in range(3)]
        for asked in queued:
            asked.cancel()
            _require_cancelled(asked, begun=asked.log.deltas != ())
        for asked in ahead:
            asked.cancel()


def cancel_before_the_first_text(subject: Subject) -> None:
    """A request cancelled right after `generate` ends as cancelled."""
    with Trial(subject) as trial:
        for _ in range(3):
            asked = trial.ask()
            asked.cancel()
            _require_cancelled(asked, begun=asked.log.deltas != ())


def cancel_from_inside_the_sink(subject: Subject) -> None:
    """A sink may cancel its own request; the reply ends as cancelled and keeps the text that there was."""
    with Trial(subject) as trial:
        asked = trial.ask(on_event=trial.after_text(Asked.cancel))
        _require_cancelled(asked)
        require(asked.log.text != "" or asked.log.deltas != (), "the text before the cancel is gone")
        count = asked.end().usage.completion_tokens
        require(count > 0, f"a reply cancelled after its first text counts {count} tokens")


def cancel_from_another_thread(subject: Subject) -> None:
    """Any thread may cancel a running reply, even while a sink is being called, and does not wait for it."""
    with Trial(subject) as trial:
        began, returned = threading.Event(), threading.Event()
        asked = trial.ask(on_event=trial.after_text(lambda _: _hold(began, returned)))

        def cancel() -> None:
            if began.wait(subject.wait_s):
                asked.cancel()
                returned.set()

        thread = threading.Thread(target=cancel, name="conformance-cancel")
        thread.start()
        asked.wait_for_text()
        thread.join(subject.wait_s)
        require(returned.is_set(), "cancel did not return while the request's sink was being called")
        _require_cancelled(asked)


def cancel_twice_or_after_the_end(subject: Subject) -> None:
    """Cancelling again, or an ended request, does nothing; so does cancelling an ended one beside a running one."""
    with Trial(subject) as trial:
        asked = trial.ask(on_event=trial.after_text(Asked.cancel))
        asked.cancel()
        asked.end()
        asked.cancel()
        done = trial.ask(max_tokens=2)
        done.end()
        running = trial.ask(max_tokens=6)
        done.cancel()
        done.cancel()
        tokens = running.end().usage.completion_tokens
        require(tokens == 6, f"cancelling an ended request cut another one after {tokens} tokens")
        require(done.end().finish_reason == "length", "cancelling an ended request changed its end")


def cancel_leaves_others_alone(subject: Subject) -> None:
    """A cancel ends its own request and no other, whether ahead of it, beside it or behind it."""
    with Trial(subject) as trial:
        ahead = trial.ask(max_tokens=8)
        cancelled = [trial.ask(), trial.ask()]
        behind = trial.ask(max_tokens=8)
        cancelled[1].cancel()
        cancelled[0].cancel()
        for asked in (ahead, behind):
            end = asked.end()
            seen = (end.finish_reason, end.usage.completion_tokens)
            require(
                seen == ("length", 8), f"beside a cancelled one, max_tokens=8 ended with {seen[0]!r} after {seen[1]}"
            )


def _require_cancelled(asked: Asked, *, begun: bool = False) -> None:
    """Check that a cancelled request ended so; one that had `begun` to send text by then may have been quicker."""
    reason = asked.end().finish_reason
    require(begun or reason == "cancelled", f"a request was cancelled, and ended with {reason!r}")


def _hold(began: threading.Event, returned: threading.Event) -> None:
    began.set()
    returned.wait(5.0)  # a backend whose cancel waits for the sink is told so, not hung
