"""Long system prompts on disk: stored once they are read, brought by the next start; over the toy model."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from attrs import evolve

from localllm.backends.base import GenerateRequest
from localllm.backends.llamacpp.preparation import Prepared
from localllm.backends.llamacpp.prompts import PromptCache, prompt_folder
from localllm.backends.llamacpp.requests import RequestDesk
from localllm.backends.llamacpp.states import StateFiles
from localllm.chat.definitions import ToolDefinition
from localllm.engine.engine import Engine
from localllm.errors import TemplateError
from localllm.options import ModelConfig, RequestOptions
from localllm.saved.prompt_folder import PromptFolder
from localllm.types import Message
from tests.backends.asking import Asked
from tests.backends.test_llamacpp_requests import Slow
from tests.engine.test_engine import LIMITS
from tests.engine.toy import ToyModel, solo

LONG = 150
USER = {"hi": [91, 92, 93], "ho": [94, 92]}


def system(number: int, length: int = LONG) -> list[int]:
    """Return the tokens of a system message."""
    return [1 + (number + place * (number + 1)) % 89 for place in range(length)]


class App:
    """One start of an application: an engine with what is stored in a folder, and a desk before it."""

    def __init__(self, root: Path, limit_bytes: int = 100_000, largest: int = 100_000, form: str = "toy") -> None:
        self.engine = Engine(ToyModel(), evolve(LIMITS, cache_ram_bytes=100_000), "toy")
        self.states = StateFiles(self.engine, "toy", form)
        self.openings = 0
        folder = PromptFolder(root / "prompts", limit_bytes, form, "toy")
        self.prompts = PromptCache(self.states, folder, self._opening, largest, least_tokens=64)
        self.desk = RequestDesk(self.engine, self._prepare, Slow(), 32, self.prompts)

    def ask(self, number: int | None, user: str = "hi", **options: object) -> Asked:
        """Begin to ask, with the system message of this number; negative ones are short, one of 999 is refused."""
        head = () if number is None else (Message.system(str(number)),)
        asked = Asked()
        request = GenerateRequest(
            messages=(*head, Message.user(user)), options=RequestOptions.of({"max_tokens": 10}, options)
        )
        asked.handle = self.desk.submit(request, asked)
        return asked

    def close(self) -> None:
        """End everything, as a model does."""
        self.desk.close()
        self.prompts.close()
        self.engine.close()

    def _opening(self, request: GenerateRequest) -> Sequence[int]:
        self.openings += 1
        if request.messages[0].content == "999":
            raise TemplateError("no")
        return tokens_of(request.messages)[: -len(USER[request.messages[-1].content])]

    def _prepare(self, request: GenerateRequest) -> Prepared:
        return Prepared(tokens=tokens_of(request.messages))


def tokens_of(messages: Sequence[Message]) -> list[int]:
    """Return the prompt of a conversation."""
    *head, last = messages
    numbers = [int(message.content) for message in head]
    return [token for n in numbers for token in system(n, LONG if n >= 0 else 40)] + USER[last.content]


@contextmanager
def started(root: Path, limit_bytes: int = 100_000, largest: int = 100_000, form: str = "toy") -> Iterator[App]:
    """An application, closed at the block's end: what is to be stored is stored then."""
    app = App(root, limit_bytes, largest, form)
    try:
        yield app
    finally:
        app.close()


def check(asked: Asked, number: int, user: str = "hi", *, cached: int | None = None) -> None:
    """The reply is the model's, and so many tokens came from a cache."""
    prompt = [*system(number), *USER[user]]
    assert list(asked.tokens) == solo(prompt, 10)
    assert cached is None or asked.end.usage.cached_tokens == cached


def files(root: Path) -> list[Path]:
    """Return all that is stored."""
    return sorted(root.rglob("*.prompt"))


def test_the_next_start_reads_nothing_of_the_system_message_again(tmp_path: Path) -> None:
    """Whatever the user says; in that start nothing is brought twice or stored again."""
    with started(tmp_path) as app:
        check(app.ask(7), 7, cached=0)
        check(app.ask(7, "ho"), 7, "ho", cached=LONG)
    (path,) = files(tmp_path)
    before = path.stat()
    with started(tmp_path) as app:
        check(app.ask(7, "ho"), 7, "ho", cached=LONG)
        check(app.ask(7), 7, cached=LONG)
        check(app.ask(8), 8, cached=0)
        assert app.engine.stats().disk_hits == 1
        assert app.openings <= 3
    assert (path.stat().st_ino, path.stat().st_size) == (before.st_ino, before.st_size)
    assert path.stat().st_mtime_ns >= before.st_mtime_ns
    assert len(files(tmp_path)) == 2


def test_requests_that_come_together_wait_for_one_reading(tmp_path: Path) -> None:
    """All of them begin from it."""
    with started(tmp_path) as app:
        check(app.ask(7), 7)
    with started(tmp_path) as app:
        for asked in [app.ask(7) for _ in range(8)]:
            check(asked, 7)
            assert asked.end.usage.cached_tokens >= LONG


def test_nothing_of_a_conversation_is_stored(tmp_path: Path) -> None:
    """Neither a prompt without a system message, nor a short one, nor what a deterministic request reads; nor is a
    template that refuses a failure of the request."""
    with started(tmp_path) as app:
        for asked in (app.ask(None), app.ask(-1), app.ask(7, deterministic=True), app.ask(999)):
            assert asked.end.error is None
    assert files(tmp_path) == []
    with started(tmp_path) as app:
        check(app.ask(7), 7)
    (path,) = files(tmp_path)
    folder = PromptFolder(tmp_path / "prompts", 1, "toy", "toy")
    content = folder.read(path.name)
    assert content is not None
    assert list(content[0]) == system(7)


def test_another_build_reads_for_itself(tmp_path: Path) -> None:
    """And stores its own beside it."""
    for form in ("toy", "toy 2"):
        with started(tmp_path, form=form) as app:
            check(app.ask(7), 7, cached=0)
    assert len(files(tmp_path)) == 2


def test_a_damaged_file_is_read_past_and_made_anew(tmp_path: Path) -> None:
    """The reply is that of a first start."""
    with started(tmp_path) as app:
        check(app.ask(7), 7)
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    for at in (len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with started(tmp_path) as app:
            check(app.ask(7), 7, cached=0)
            assert app.engine.stats().disk_hits == 0
        assert path.read_bytes() == whole


def test_a_folder_that_cannot_be_written_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Replies come all the same."""
    (tmp_path / "prompts").touch()
    with caplog.at_level(logging.WARNING, "localllm"), started(tmp_path) as app:
        for number in range(4):
            check(app.ask(number), number, cached=0)
    (record,) = caplog.records
    assert record.name == "localllm.prompts"
    assert "no system prompt is stored any more" in record.getMessage()


def test_a_prompt_that_is_too_large_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """And neither stored nor, if another start has stored it, brought."""
    with caplog.at_level(logging.WARNING, "localllm"), started(tmp_path, largest=100) as app:
        for user in ("hi", "ho", "hi"):
            check(app.ask(7, user), 7, user)
    (record,) = caplog.records
    assert "a system prompt of 150 tokens is not stored" in record.getMessage()
    with started(tmp_path) as app:
        check(app.ask(7), 7)
    with started(tmp_path, largest=100) as app:
        check(app.ask(7), 7, cached=0)


def test_the_folder_stays_within_its_bound(tmp_path: Path) -> None:
    """The prompts used last stay."""
    with started(tmp_path, limit_bytes=5000) as app:
        for number in range(6):
            check(app.ask(number), number, cached=0)
    assert 1 <= len(files(tmp_path)) < 6
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 5000
    with started(tmp_path, limit_bytes=5000) as app:
        check(app.ask(5), 5, cached=LONG)


def test_a_context_that_breaks_meanwhile_costs_nobody_a_reply(tmp_path: Path) -> None:
    """What was to be stored is stored by the next request."""
    with started(tmp_path) as app:
        model = app.engine._model
        assert isinstance(model, ToyModel)
        check(app.ask(7), 7)
        for context in model.contexts:
            context.fail_next = True
        check(app.ask(8), 8)
        check(app.ask(8, "ho"), 8, "ho")
    assert len(files(tmp_path)) == 2


def test_what_cannot_come_back_is_not_stored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A model whose state cannot be cut, and one without host memory: it is said, and there is no folder."""
    config = ModelConfig(prompt_cache_dir=tmp_path)
    assert prompt_folder(ModelConfig(), "toy", "toy", can_cut=True) is None
    assert prompt_folder(config, "toy", "toy", can_cut=True) is not None
    assert caplog.records == []
    assert prompt_folder(config, "toy", "toy", can_cut=False) is None
    assert prompt_folder(evolve(config, cache_ram_bytes=0), "toy", "toy", can_cut=True) is None
    assert [record.levelname for record in caplog.records] == ["WARNING", "WARNING"]


def test_tools_belong_to_the_opening(tmp_path: Path) -> None:
    """Conversations with other tools are looked at anew, those with the same ones are not."""
    with started(tmp_path) as app:
        for name in ("add", "add", "divide"):
            asked = Asked()
            tools = (ToolDefinition(name, "A tool."),)
            messages = (Message.system("7"), Message.user("hi"))
            app.desk.submit(GenerateRequest(messages=messages, tools=tools), asked)
            assert asked.end.error is None
    assert app.openings == 2
