"""`History`: a value, so that whatever is done to one can be undone by keeping the old one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from localllm import Message
from localllm.chat.history import History

roles = st.sampled_from(("user", "assistant", "tool"))
messages = st.builds(Message, roles, st.text("ab", min_size=1, max_size=2))
prompts = st.lists(messages, max_size=3).map(lambda before: (*before, Message.user("asked")))
histories = st.builds(History.of, st.none() | st.just("system"), st.lists(messages, max_size=6))


@given(histories, prompts)
def test_undo_takes_back_exactly_what_a_turn_added(history: History, prompt: tuple[Message, ...]) -> None:
    """Asked, answered and undone, the history is what it was, and the turn is what came out."""
    reply = Message("assistant", "reply")
    after = history.asked(prompt).answered(reply)
    assert after.messages == (*history.messages, *prompt, reply)
    assert after.undone() == (history, (*prompt, reply))


@given(histories, prompts)
def test_regenerating_starts_from_what_was_asked(history: History, prompt: tuple[Message, ...]) -> None:
    """Without its reply, a turn is the prompt that it was."""
    asked = history.asked(prompt)
    assert asked.answered(Message("assistant", "reply")).unanswered() == asked


@given(histories)
def test_every_message_is_in_one_turn_or_before_all(history: History) -> None:
    """Undoing until nothing is left gives back all messages in order but a system message and a greeting."""
    removed: tuple[Message, ...] = ()
    rest, turn = history.undone()
    while turn:
        removed = turn + removed
        assert turn[0].role == "user"
        rest, turn = rest.undone()
    assert rest.messages + removed == history.messages
    assert all(message.role != "user" for message in rest.messages)


@given(histories)
def test_clearing_keeps_a_system_message(history: History) -> None:
    """And nothing else, no turn to undo among it."""
    cleared = history.cleared()
    assert cleared.messages == tuple(message for message in history.messages if message.role == "system")
    assert cleared.undone() == (cleared, ())
