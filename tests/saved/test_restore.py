"""Saved sessions go on: in another process's model, with what was read, or from their history alone."""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from pathlib import Path

import pytest

from localllm import (
    AsyncChatSession,
    AsyncModelManager,
    ChatSession,
    DamagedSessionError,
    FakeBackend,
    InvalidOptionError,
    Message,
    ModelConfig,
    ModelManager,
    SessionFileError,
)

STORY = "The lighthouse keeper counts the ships that pass in the night. " * 40  # some 500 tokens
MODEL = "smollm2-135m"


@pytest.mark.parametrize("isolation", ["thread", "process"])
def test_a_restored_session_reads_nothing_again(tmp_path: Path, isolation: str) -> None:
    """All that was saved comes from the cache, and the reply is that of the session which was never saved."""
    path = tmp_path / "chat.session"
    with ModelManager(isolation="thread") as models:
        chat = ChatSession(models.load(MODEL), system=STORY, temperature=0, seed=1)
        chat.send("What does he count?", max_tokens=8)
        use = chat.save(path)
        expected = chat.send("And when?", max_tokens=8)
    assert use.tokens > 400
    with ModelManager(isolation="process" if isolation == "process" else "thread") as models:
        model = models.load(MODEL)
        again = ChatSession.restore(path, model)
        assert again.restored is not None
        assert again.restored.tokens == use.tokens
        assert again.history == chat.history[:-2]
        reply = again.send("And when?", max_tokens=8)
        assert reply.usage.cached_tokens >= use.tokens - 1
        assert reply.usage.prompt_tokens == expected.usage.prompt_tokens
        assert reply.text == expected.text


def test_a_worker_saves_too_and_a_crash_takes_nothing_from_the_file(tmp_path: Path) -> None:
    """The file is written by the worker; its successor reads it."""
    path = tmp_path / "chat.session"
    with ModelManager() as models:
        model = models.load(MODEL)
        chat = ChatSession(model, system=STORY, temperature=0)
        chat.send("What does he count?", max_tokens=4)
        saved = chat.save(path)
        pid = models.workers()[0].pid
        assert pid is not None
        subprocess.run([sys.executable, "-c", f"import os, signal; os.kill({pid}, signal.SIGKILL)"], check=True)
        again = ChatSession.restore(path, model)
        assert again.restored is not None
        assert again.restored.tokens == saved.tokens > 400
        assert again.send("And when?", max_tokens=4).usage.cached_tokens >= saved.tokens - 1


def test_without_a_state_the_history_is_enough(tmp_path: Path) -> None:
    """`state=False` keeps the file small; the session says that there was none."""
    path = tmp_path / "chat.session"
    with ModelManager(isolation="thread") as models:
        model = models.load(MODEL)
        chat = ChatSession(model, system=STORY, temperature=0)
        chat.send("What does he count?", max_tokens=4)
        assert chat.save(path, state=False).tokens == 0
        assert path.stat().st_size < 20_000
        again = ChatSession.restore(path, model)
        assert again.restored is not None
        assert (again.restored.tokens, again.restored.why) == (0, "the file holds no state")
        assert again.send("And when?", max_tokens=4).text


def test_a_state_that_does_not_fit_is_left_and_said(tmp_path: Path) -> None:
    """Another precision of the KV cache, and no host memory to put it: the history goes on all the same."""
    path = tmp_path / "chat.session"
    with ModelManager(isolation="thread") as models:
        chat = ChatSession(models.load(MODEL), system=STORY[:1200], temperature=0)
        chat.send("What does he count?", max_tokens=4)
        chat.save(path)
    for config, said in (
        (ModelConfig(kv_type="f32"), "was written as"),
        (ModelConfig(cache_ram_bytes=0), "no room"),
        (ModelConfig(cache_ram_bytes=4 << 20), "no room"),
    ):
        with ModelManager(isolation="thread") as models:
            again = ChatSession.restore(path, models.load(MODEL, config=config))
            assert again.restored is not None
            assert said in again.restored.why
            assert again.send("And when?", max_tokens=2).finish_reason


def test_bytes_that_went_bad_never_reach_the_model(tmp_path: Path) -> None:
    """500 files with one byte changed: each is refused, and the model answers on."""
    path = tmp_path / "chat.session"
    chance = random.Random(5)
    with ModelManager() as models:
        model = models.load(MODEL)
        chat = ChatSession(model, system=STORY[:400], temperature=0)
        chat.send("Hi.", max_tokens=4)
        assert chat.save(path).tokens
        whole = path.read_bytes()
        for _ in range(500):
            at = chance.randrange(len(whole))
            path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << chance.randrange(8))]) + whole[at + 1 :])
            with pytest.raises(DamagedSessionError):
                ChatSession.restore(path, model)
        path.write_bytes(whole)
        assert ChatSession.restore(path, model).send("And?", max_tokens=4).usage.cached_tokens


def test_another_model_uses_the_history_only(tmp_path: Path) -> None:
    """What the fake saved, the real model goes on from; options and turns are kept."""
    path = tmp_path / "chat.session"
    with ModelManager(FakeBackend(["Hello!", "Bye."])) as fakes:
        chat = ChatSession(fakes.load("any"), system="Be kind.", temperature=0.25, max_tokens=3)
        chat.send("Hi")
        assert chat.save(path).why
    with ModelManager(isolation="thread") as models:
        again = ChatSession.restore(path, models.load(MODEL))
        assert [message.content for message in again.history] == ["Be kind.", "Hi", "Hello!"]
        assert again.send("More").usage.completion_tokens <= 3
        assert next(message.content for message in again.undo()) == "More"
        assert [message.content for message in again.undo()] == ["Hi", "Hello!"]


def test_async_sessions_save_and_restore(tmp_path: Path) -> None:
    """The same file, awaited."""
    path = tmp_path / "chat.session"

    async def chat() -> tuple[Message, ...]:
        async with AsyncModelManager(FakeBackend(["Hello!", "Bye."])) as models:
            model = await models.load("any")
            first = AsyncChatSession(model)
            await first.send("Hi")
            await first.save(path)
            again = await AsyncChatSession.restore(path, model)
            await again.send("Ok")
            return again.history

    assert [message.content for message in asyncio.run(chat())] == ["Hi", "Hello!", "Ok", "Bye."]


def test_what_cannot_be_done_is_said(tmp_path: Path) -> None:
    """No such folder, no such file, something that is no path, no model."""
    with ModelManager(FakeBackend(["Hello!"])) as models:
        model = models.load("any")
        chat = ChatSession(model)
        saved = tmp_path / "chat"
        chat.save(saved)
        with pytest.raises(SessionFileError, match="nowhere"):
            chat.save(tmp_path / "nowhere" / "chat")
        with pytest.raises(SessionFileError, match="absent"):
            ChatSession.restore(tmp_path / "absent", model)
        with pytest.raises(InvalidOptionError):
            chat.save(5)  # type: ignore[arg-type]  # what users may pass
        with pytest.raises(InvalidOptionError):
            ChatSession.restore(saved, "model")  # type: ignore[arg-type]  # what users may pass


def test_what_no_file_holds_must_be_given_again(tmp_path: Path) -> None:
    """Tools, unless told to go on without them, and a function for overflow."""
    path = tmp_path / "chat"

    def add(a: int, b: int) -> int:
        """Add two numbers."""
        return a + b

    with ModelManager(FakeBackend(["Hello!", "Bye."])) as models:
        model = models.load("any")
        ChatSession(model, tools=[add]).save(path)
        with pytest.raises(InvalidOptionError, match="the tools add"):
            ChatSession.restore(path, model)
        assert ChatSession.restore(path, model, tools=()).send("Hi").text == "Hello!"
        assert ChatSession.restore(path, model, tools=[add], temperature=0.5).send("Hi").text == "Bye."
        ChatSession(model, overflow=lambda window: window.messages[-1:]).save(path)
        with pytest.raises(InvalidOptionError, match="a function for overflow"):
            ChatSession.restore(path, model)
        assert ChatSession.restore(path, model, overflow="error").history == ()


def test_what_an_overflow_left_out_stays_out(tmp_path: Path) -> None:
    """The history is whole, and the next prompt is as short as it was."""
    path = tmp_path / "chat"
    with ModelManager(isolation="thread") as models:
        model = models.load(MODEL, config=ModelConfig(n_ctx=256))
        chat = ChatSession(model, overflow="drop_oldest", temperature=0, max_tokens=4)
        replies = [chat.send(f"{number}: " + "a word and another " * 10) for number in range(8)]
        assert any(reply.dropped for reply in replies)
        chat.save(path)
        again = ChatSession.restore(path, model)
        assert again.history == chat.history
        assert again.send("Go on.").usage.prompt_tokens == chat.send("Go on.").usage.prompt_tokens
