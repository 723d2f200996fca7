"""Chats with models whose memory is not a plain KV cache equal those of `llama_cpp.Llama`, token for token."""

from __future__ import annotations

import logging
import threading
import time

import pytest
from attrs import evolve

from localllm import ChatSession, Message, Model, ModelManager, Reply
from tests.kinds.conftest import Tiny
from tests.kinds.peer import CHATS, CONFIG, MAX_TOKENS, Turn

INTERLUDE = "Something else altogether, and long enough to be worth its cells."
OTHER_WAYS = ("Go on.", "Stop it, please.", "What did you say before that?")


def ask(chat: ChatSession, prompt: str, *, deterministic: bool = False) -> Reply:
    """Send a prompt, greedily."""
    return chat.send(prompt, temperature=0, max_tokens=MAX_TOKENS, deterministic=deterministic)


def tokens_of(reply: Reply) -> tuple[int, ...]:
    """Return what the model generated."""
    return () if reply.message.token_ids is None else reply.message.token_ids.tokens


def check(reply: Reply, turn: Turn) -> None:
    """A reply is the peer's, up to a choice that was none because two tokens were as good."""
    assert reply.usage.prompt_tokens == len(turn.prompt)
    assert tokens_of(reply)[: turn.clear] == turn.reply[: turn.clear]
    if turn.all_clear:
        assert tokens_of(reply) == turn.reply
        assert reply.finish_reason == ("stop" if turn.ended else "length")


def test_a_reply_depends_on_all_of_its_prompt(tiny: Tiny) -> None:
    """No two of the peer's replies are the same, so that a state mixed up with another would show."""
    turns = [turn for turns in tiny.expected.values() for turn in turns]
    assert len({turn.reply for turn in turns}) == len(turns) == 2 * len(CHATS)
    assert sum(len(set(turn.reply)) > 8 for turn in turns) >= 12
    assert any(turn.ended for turn in turns)
    assert all(turn.all_clear for turn in turns)


@pytest.mark.parametrize("deterministic", [False, True])
def test_ten_chats_one_after_the_other(tiny: Tiny, model: Model, deterministic: bool) -> None:
    """Both turns are the peer's; a second turn starts from all that the first one computed."""
    for chat, turns in tiny.expected.items():
        session = ChatSession(model, system=chat.system)
        check(ask(session, chat.prompts[0], deterministic=deterministic), turns[0])
        second = ask(session, chat.prompts[1], deterministic=deterministic)
        check(second, turns[1])
        if not deterministic:
            assert second.usage.cached_tokens >= turns[0].computed


def test_ten_chats_that_take_turns(tiny: Tiny, model: Model) -> None:
    """All first turns, then all second ones in another order: each chat comes back from host memory as it was."""
    sessions = {chat: ChatSession(model, system=chat.system) for chat in CHATS}
    for chat, session in sessions.items():
        check(ask(session, chat.prompts[0]), tiny.expected[chat][0])
    for chat in (CHATS[index] for index in (7, 2, 9, 0, 1, 8, 3, 6, 5, 4)):
        second = ask(sessions[chat], chat.prompts[1])
        check(second, tiny.expected[chat][1])
        assert second.usage.cached_tokens >= tiny.expected[chat][0].computed


@pytest.mark.parametrize("cache_ram_bytes", [0, CONFIG.cache_ram_bytes])
def test_ten_chats_at_once(tiny: Tiny, cache_ram_bytes: int) -> None:
    """Sequences of other lengths share the batches, and the cells are too few for all of them."""
    with ModelManager(isolation="thread") as models:
        model = models.load(tiny.path, config=evolve(CONFIG, n_parallel=4, cache_ram_bytes=cache_ram_bytes))
        sessions = [ChatSession(model, system=chat.system) for chat in CHATS]
        for turn in range(2):
            streams = [
                session.stream(chat.prompts[turn], temperature=0, max_tokens=MAX_TOKENS)
                for chat, session in zip(CHATS, sessions, strict=True)
            ]
            for chat, stream in zip(CHATS, streams, strict=True):
                check(stream.reply, tiny.expected[chat][turn])


def test_chats_that_begin_alike_and_arrive_together(tiny: Tiny, model: Model) -> None:
    """One long system message, read once or often: the replies are the same."""
    system = CHATS[9].system
    sessions = [ChatSession(model, system=system) for _ in OTHER_WAYS]
    prompts = [model.render([Message.system(system or ""), Message.user(prompt)]).tokens for prompt in OTHER_WAYS]
    expected = [tiny.peer.answer(prompt) for prompt in prompts]
    streams = [
        session.stream(prompt, temperature=0, max_tokens=MAX_TOKENS)
        for session, prompt in zip(sessions, OTHER_WAYS, strict=True)
    ]
    for stream, turn in zip(streams, expected, strict=True):
        check(stream.reply, turn)


def test_forks_of_a_chat(tiny: Tiny, model: Model) -> None:
    """Forks go their own ways from the same point, though each goes on behind it, and none reads what was before."""
    for chat, turns in tiny.expected.items():
        session = ChatSession(model, system=chat.system)
        check(ask(session, chat.prompts[0]), turns[0])
        forks = [session.fork() for _ in OTHER_WAYS]
        check(ask(session, chat.prompts[1]), turns[1])
        for fork, prompt in zip(forks, OTHER_WAYS, strict=True):
            reply = ask(fork, prompt)
            check(reply, tiny.peer.goes_on(turns[0], prompt))
            assert reply.usage.cached_tokens >= turns[0].computed


def test_forks_that_come_back_from_host_memory(tiny: Tiny, model: Model) -> None:
    """A fork goes on from the middle of a sequence that was moved out meanwhile."""
    for chat, turns in tiny.expected.items():
        session = ChatSession(model, system=chat.system)
        check(ask(session, chat.prompts[0]), turns[0])
        fork = session.fork()
        check(ask(session, chat.prompts[1]), turns[1])
        ask(ChatSession(model), INTERLUDE)
        check(ask(fork, OTHER_WAYS[0]), tiny.peer.goes_on(turns[0], OTHER_WAYS[0]))


def test_a_turn_that_is_answered_again(tiny: Tiny, model: Model) -> None:
    """The same prompt, the same reply, though the sequence has gone on behind it."""
    for chat, turns in tiny.expected.items():
        session = ChatSession(model, system=chat.system)
        check(ask(session, chat.prompts[0]), turns[0])
        check(ask(session, chat.prompts[1]), turns[1])
        again = session.regenerate(temperature=0, max_tokens=MAX_TOKENS)
        check(again, turns[1])
        assert again.usage.cached_tokens >= turns[0].computed
        session.undo()
        check(ask(session, OTHER_WAYS[0]), tiny.peer.goes_on(turns[0], OTHER_WAYS[0]))


def test_a_draft_that_was_read_ahead(tiny: Tiny, model: Model) -> None:
    """Reading a draft of the next prompt changes no reply, whether the prompt goes on from it or not."""
    chat = CHATS[5]
    turns = tiny.expected[chat]
    for draft in ("Tha", "Never mind"):
        session = ChatSession(model, system=chat.system)
        check(ask(session, chat.prompts[0]), turns[0])
        finished = model.stats().finished
        deadline = time.monotonic() + 10
        session.preload(draft)
        while model.stats().finished == finished and time.monotonic() < deadline:
            threading.Event().wait(0.001)
        second = ask(session, chat.prompts[1])
        check(second, turns[1])
        assert second.usage.cached_tokens >= turns[0].computed


def test_a_context_is_not_lost_to_deterministic_requests(
    tiny: Tiny, model: Model, caplog: pytest.LogCaptureFixture
) -> None:
    """The engine asks no context for what its memory can't do."""
    with caplog.at_level(logging.WARNING, logger="localllm.engine"):
        for prompt in OTHER_WAYS:
            ask(ChatSession(model, system=CHATS[9].system), prompt, deterministic=True)
    assert [record.getMessage() for record in caplog.records if record.name == "localllm.engine"] == []
