"""The real model in a worker: what only native code can show."""

from __future__ import annotations

import sys

import pytest

from localllm import ChatSession, GenerationOptions, Model, ModelConfig, ModelManager, WorkerCrashedError
from tests.worker.harness import kill, nothing_left, worker_pid

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

CONFIG = ModelConfig(n_ctx=512, threads=1)
PROMPT = "Tell me a story about a fox and a café."


def _streamed(model: Model, options: GenerationOptions, kill_at: tuple[int, ...], models: ModelManager) -> str:
    """Return a reply whose worker is killed when so many chunks have come."""
    text = []
    for index, chunk in enumerate(ChatSession(model).stream(PROMPT, **options)):
        text.append(chunk.text)
        if index in kill_at:
            kill(models, "SIGKILL")
    return "".join(text)


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_resumed_greedy_reply_is_what_it_would_have_been(deterministic: bool) -> None:
    """Alone, or `deterministic`: the whole text equals that of a run that nobody disturbed."""
    options = GenerationOptions(temperature=0.0, max_tokens=48, deterministic=deterministic)
    with nothing_left(), ModelManager(on_crash="resume") as models:
        model = models.load("smollm2-135m", config=CONFIG)
        whole = _streamed(model, options, (), models)
        assert _streamed(model, options, (0, 9, 20), models) == whole
        assert models.workers()[0].restarts == 3


def test_a_resumed_deterministic_reply_is_the_same_in_company() -> None:
    """Others stream all the while, are killed with it, and go on beside it."""
    options = GenerationOptions(temperature=0.0, max_tokens=24, deterministic=True)
    with nothing_left(), ModelManager(on_crash="resume") as models:
        model = models.load("smollm2-135m", config=ModelConfig(n_ctx=1024, threads=1, n_parallel=4))
        whole = _streamed(model, options, (), models)
        streams = [
            ChatSession(model).stream("Count.", seed=seed, max_tokens=900, logit_bias={0: -100.0, 2: -100.0, 4: -100.0})
            for seed in (1, 2)
        ]
        company = [iter(stream) for stream in streams]
        for chunks in company:
            next(chunks)
        assert _streamed(model, options, (0, 9), models) == whole
        assert models.workers()[0].restarts == 2
        assert model.stats().running == len(company)


def test_a_resumed_reply_counts_its_tokens_once() -> None:
    """Those before the crash among them."""
    with nothing_left(), ModelManager(on_crash="resume") as models:
        chat = ChatSession(models.load("smollm2-135m", config=CONFIG))
        stream = chat.stream(PROMPT, temperature=0.0, max_tokens=24)
        chunks = iter(stream)
        first = [next(chunks).text for _ in range(8)]
        kill(models, "SIGSEGV")
        assert "".join([*first, *(chunk.text for chunk in chunks)]) == stream.reply.text
        assert stream.reply.usage.completion_tokens == 24
        assert stream.reply.finish_reason == "length"


def test_a_session_goes_on_from_its_history_after_a_crash() -> None:
    """The model is loaded again by the next request, and reads what it knew."""
    with nothing_left(), ModelManager() as models:
        chat = ChatSession(models.load("smollm2-135m", config=CONFIG), temperature=0.0, max_tokens=12)
        chat.send("My name is Ada.")
        pid = kill(models, "SIGABRT")
        before = chat.history
        try:
            chat.send("What is my name?")
        except WorkerCrashedError:  # it was in the backend's hands already
            assert chat.history == before
            chat.send("What is my name?")
        assert len(chat.history) == len(before) + 2
        assert worker_pid(models) != pid
