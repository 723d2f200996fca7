"""The llama.cpp backend on the real model: the same tokens as its peer, cancels, limits, and bad files."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from bench.systems import make_llama

from localllm import ChatSession, Message, Model, ModelConfig, ModelManager, PromptProgress
from localllm.errors import (
    ClosedError,
    ContextOverflowError,
    GenerationTimeoutError,
    InvalidModelFileError,
    InvalidOptionError,
    LoadCancelledError,
    ModelLoadError,
    ModelNotFoundError,
    QueueFullError,
    TemplateError,
)

PROMPTS = (
    "Why is the sky blue?",
    "Write a haiku about rain.",
    "What is 17 + 25?",
    "Translate 'good morning' into French.",
    "Name three planets.",
    "Explain gravity to a child.",
    "What is the capital of Japan?",
    "Give me a recipe for pancakes.",
    "Who wrote Hamlet?",
    "How do airplanes fly?",
    "List the colors of the rainbow.",
    "What does HTTP stand for?",
    "Tell me a joke about cats.",
    "Why do leaves fall?",
    "Describe the ocean in one sentence.",
    "How many days are in a leap year?",
    "What is photosynthesis?",
    "Suggest a name for a dog.",
    "What is the opposite of cold?",
    "Write a line of Python that prints hello. 🙂",
)


@pytest.fixture(scope="module")
def models() -> Iterator[ModelManager]:
    """A manager of the real backend."""
    with ModelManager(isolation="thread") as manager:
        yield manager


@pytest.fixture(scope="module")
def model(models: ModelManager) -> Model:
    """The small model."""
    return models.load("smollm2-135m", config=ModelConfig(n_ctx=2048))


def long_text(words: int, salt: str) -> str:
    """Return a text that no other salt begins with."""
    return " ".join(f"{salt}{index % 50}" for index in range(words))


@pytest.fixture(scope="module")
def peer(models: ModelManager, smollm2_path: Path) -> Iterator[tuple[Model, Any]]:
    """The model in both, with the same template, threads, portions and flash-attention setting."""
    llama = make_llama(smollm2_path, 2, n_ctx=1024, flash_attn=False)
    with models.load("smollm2-135m", config=ModelConfig(n_ctx=1024, threads=2, flash_attention=False)) as model:
        yield model, llama
    llama.close()


@pytest.mark.parametrize("prompts", [PROMPTS[start : start + 4] for start in range(0, 20, 4)])
def test_greedy_tokens_equal_those_of_llama_cpp_python(peer: tuple[Model, Any], prompts: tuple[str, ...]) -> None:
    """Token for token, for 64 tokens."""
    model, llama = peer
    for prompt in prompts:
        rendered = model.render([Message.user(prompt)])
        tokens = llama.tokenize(rendered.text.encode(), add_bos=False, special=True)
        assert tuple(tokens) == rendered.tokens
        llama.reset()
        expected: list[int] = []
        for token in llama.generate(tokens, temp=0.0, repeat_penalty=1.0):
            if token == llama.token_eos() or len(expected) == 64:
                break
            expected.append(token)
        reply = ChatSession(model).send(prompt, temperature=0, max_tokens=64, deterministic=True)
        assert reply.message.token_ids is not None
        assert list(reply.message.token_ids.tokens) == expected, prompt


def test_a_chat_goes_on_from_its_own_tokens(model: Model) -> None:
    """The second turn reads only what is new: everything up to the end of the first reply is cached."""
    chat = ChatSession(model, system="You are terse.")
    first = chat.send("Name a fruit.", temperature=0, max_tokens=24)
    second = chat.send("And a color?", temperature=0, max_tokens=8)
    known = first.usage.prompt_tokens + first.usage.completion_tokens
    assert second.usage.cached_tokens >= known - 1
    assert chat.history[2] == first.message


def test_chats_that_alternate_keep_their_caches_in_host_memory(models: ModelManager) -> None:
    """An idle chat leaves the KV cache to the running one, and comes back without being read again."""
    with models.load("smollm2-135m", config=ModelConfig(n_ctx=1024)) as small:
        chats = [ChatSession(small, system=long_text(40, salt)) for salt in "ab"]
        known = [0, 0]
        for turn in range(3):
            for index, chat in enumerate(chats):
                reply = chat.send("Name a fruit." if turn == 0 else "Another one.", temperature=0, max_tokens=12)
                if turn:
                    assert reply.usage.cached_tokens >= known[index] - 1
                known[index] = reply.usage.prompt_tokens + reply.usage.completion_tokens
        stats = small.stats()
        assert stats.host_bytes > 0
        assert stats.cells_used < sum(known)


def test_a_regenerated_reply_differs_and_the_prompt_is_cached(model: Model) -> None:
    """With a temperature, another seed gives another text; nothing of the prompt is read again but its end."""
    chat = ChatSession(model)
    first = chat.send("Tell me a story about a fox.", seed=1, temperature=1.5, max_tokens=24)
    second = chat.regenerate(seed=2, temperature=1.5, max_tokens=24)
    assert second.text != first.text
    assert second.usage.cached_tokens == second.usage.prompt_tokens - 1
    assert chat.regenerate(seed=1, temperature=1.5, max_tokens=24).finish_reason in ("stop", "length")


def test_the_same_seed_gives_the_same_text(model: Model) -> None:
    """In deterministic mode it is exactly the same, whatever else was asked before."""
    options = {"seed": 7, "temperature": 1.0, "max_tokens": 20, "deterministic": True}
    first = ChatSession(model).send("Tell me about owls.", **options)  # type: ignore[call-overload]
    ChatSession(model).send("Something else.", max_tokens=4)
    assert ChatSession(model).send("Tell me about owls.", **options).text == first.text  # type: ignore[call-overload]


def test_every_sampler_of_the_chain_runs(model: Model) -> None:
    """Each option by itself and all of them together make text."""
    base = {"max_tokens": 6, "seed": 3, "temperature": 0.9}
    singles = (
        {"top_k": 5}, {"top_p": 0.5}, {"min_p": 0.2}, {"typical_p": 0.6}, {"top_n_sigma": 1.0},
        {"xtc_probability": 0.5, "xtc_threshold": 0.05}, {"dry_multiplier": 0.8}, {"mirostat": 1}, {"mirostat": 2},
        {"repeat_penalty": 1.3}, {"frequency_penalty": 0.5, "presence_penalty": 0.5}, {"dynatemp_range": 0.4},
        {"logit_bias": {5: 2.0}}, {"repeat_last_n": -1, "repeat_penalty": 1.1},
        {"temperature": 0, "repeat_penalty": 1.2},
    )  # fmt: skip
    together = {name: value for single in singles for name, value in single.items() if name != "mirostat"}
    for options in (*singles, together):
        reply = ChatSession(model).send("Say something.", **{**base, **options})  # type: ignore[call-overload]
        assert reply.usage.completion_tokens > 0, options


def test_a_forbidden_token_is_never_chosen_and_an_unknown_one_is_refused(model: Model) -> None:
    """A bias of -inf removes a token; one beyond the vocabulary is an error that says where it ends."""
    chat = ChatSession(model)
    first = chat.send("Why is the sky blue?", temperature=0, max_tokens=1)
    assert first.message.token_ids is not None
    banned = first.message.token_ids.tokens[0]
    again = chat.regenerate(temperature=0, max_tokens=1, logit_bias={banned: float("-inf")})
    assert again.text != first.text
    with pytest.raises(InvalidOptionError, match="vocabulary ends at"):
        chat.send("And?", logit_bias={10**6: 1.0})


def test_cancelling_in_the_middle_of_a_long_prompt_ends_it_before_it_is_read(model: Model) -> None:
    """The next request works at once, and the session's history is unchanged. (`make bench` has the seconds.)"""
    chat = ChatSession(model)
    stream = chat.stream(long_text(500, "w"))
    for event in stream.events():
        if isinstance(event, PromptProgress):
            break
    steps = model.stats().steps
    reply = stream.reply
    assert reply.finish_reason == "cancelled"
    assert model.stats().steps - steps <= 3
    assert reply.usage.prompt_tokens > 500
    assert chat.history == ()
    assert chat.send("Say hi.", max_tokens=4).usage.completion_tokens > 0


def test_a_stream_goes_on_while_another_long_prompt_is_read(model: Model) -> None:
    """Chunks keep coming between the portions of somebody else's prompt."""
    chunks_meanwhile = 0
    done = threading.Event()

    def read() -> None:
        ChatSession(model).send(long_text(150, "x"), max_tokens=1)
        done.set()

    reader = threading.Thread(target=read)
    with ChatSession(model).stream("Write a very long story.", max_tokens=400, temperature=0.5) as stream:
        for chunk in stream:
            if chunk.index == 3:
                reader.start()
            if chunk.index > 3 and not done.is_set():
                chunks_meanwhile += 1
            if done.is_set():
                break
    reader.join()
    assert chunks_meanwhile >= 5


def test_a_prompt_longer_than_the_context_is_refused_with_both_counts(model: Model) -> None:
    """Nothing is lost: the history is unchanged and the session goes on."""
    chat = ChatSession(model)
    with pytest.raises(ContextOverflowError, match="2048") as caught:
        chat.send(long_text(3000, "y"))
    assert caught.value.prompt_tokens > caught.value.context_tokens == 2048
    assert str(caught.value.prompt_tokens) in str(caught.value)
    assert chat.history == ()
    assert chat.send("Hi.", max_tokens=2).text


def test_a_reply_ends_where_the_context_does(models: ModelManager) -> None:
    """It is cut off with "length", without an error."""
    with models.load("smollm2-135m", config=ModelConfig(n_ctx=64)) as small:
        reply = ChatSession(small).send("Count from one to one thousand.", temperature=0, logit_bias={2: -100.0})
        assert reply.finish_reason == "length"
        assert reply.usage.prompt_tokens + reply.usage.completion_tokens == 64


def test_a_timeout_keeps_what_was_made(model: Model) -> None:
    """The partial reply is on the exception and in the history."""
    chat = ChatSession(model)
    with pytest.raises(GenerationTimeoutError) as caught:
        chat.send("Write a very long story.", timeout_s=0.4, logit_bias={2: -100.0})
    reply = caught.value.reply
    assert reply is not None
    assert reply.finish_reason == "timeout"
    assert chat.history[-1].content == reply.text


def test_more_requests_than_may_wait_are_refused(models: ModelManager) -> None:
    """The ones under way are not disturbed."""
    with models.load("smollm2-135m", config=ModelConfig(n_ctx=512, n_parallel=1, max_queue=1)) as small:
        running = ChatSession(small).stream("Write a very long story.", logit_bias={2: -100.0})
        next(running)
        waiting = ChatSession(small).stream("Hi.", max_tokens=2)
        with pytest.raises(QueueFullError, match="max_queue"):
            ChatSession(small).send("Hi.")
        running.cancel()
        assert waiting.reply.text


def test_text_survives_tokens_and_back(model: Model) -> None:
    """Plain text, emoji, other scripts and control tokens' texts are all text."""
    for text in ("hello world", "naïve 🙂 日本語 العربية", "a<|im_end|>b", "\t\n  x", ""):
        tokens = model.tokenize(text)
        assert model.detokenize(tokens) == text
        assert 2 not in tokens  # <|im_end|>
    with pytest.raises(InvalidOptionError, match="vocabulary ends at"):
        model.detokenize([10**6])


def test_the_models_facts_are_known(model: Model) -> None:
    """From its header and from the loaded model."""
    info = model.info
    assert info.architecture == "llama"
    assert info.parameters == pytest.approx(134.5e6, rel=0.01)
    assert info.quantization == "Q4_1"
    assert info.context_length == 8192
    assert info.n_ctx == 2048
    assert info.template_source == "model"
    assert info.backend == "llama.cpp"
    assert info.gpu_layers == 0
    assert len(info.model_hash) == 64


def test_loading_reports_real_progress_and_can_be_cancelled(models: ModelManager) -> None:
    """Fractions rise to one; returning False ends the load with its own error and leaves nothing behind."""
    seen: list[float] = []
    config = ModelConfig(n_ctx=128, mmap=False)
    models.load("smollm2-135m", config=config, on_progress=lambda progress: seen.append(progress.fraction)).close()
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert len(seen) > 5
    with pytest.raises(LoadCancelledError):
        models.load("smollm2-135m", config=config, on_progress=lambda progress: progress.fraction < 0.3)


def test_bad_files_are_refused_each_with_its_own_error(
    models: ModelManager, tmp_path: Path, smollm2_path: Path
) -> None:
    """Missing, a directory, empty, text, truncated, corrupt."""
    with pytest.raises(ModelNotFoundError):
        models.load(tmp_path / "missing.gguf")
    messages = []
    cases = {"empty.gguf": b"", "text.gguf": b"This is not a model.\n" * 40}
    whole = smollm2_path.read_bytes()
    cases["truncated.gguf"] = whole[: len(whole) // 2]
    cases["corrupt.gguf"] = whole[:40] + b"\xff" * 64 + whole[104:]
    for name, data in cases.items():
        path = tmp_path / name
        path.write_bytes(data)
        with pytest.raises(InvalidModelFileError) as caught:
            models.load(path)
        messages.append(str(caught.value))
    with pytest.raises((ModelLoadError, ModelNotFoundError)) as refused:
        models.load(tmp_path)
    messages.append(str(refused.value))
    assert len(set(messages)) == len(messages)


def test_a_bad_template_is_refused_when_the_model_is_loaded(models: ModelManager) -> None:
    """One that doesn't parse fails at load; one that refuses fails at render."""
    with pytest.raises(TemplateError, match="line 1"):
        models.load("smollm2-135m", config=ModelConfig(chat_template="{% if %}"))
    config = ModelConfig(n_ctx=128, chat_template="{{ raise_exception('no chats here') }}")
    with models.load("smollm2-135m", config=config) as strict:
        assert strict.info.template_source == "config"
        with pytest.raises(TemplateError, match="no chats here"):
            ChatSession(strict).send("Hi.")


def test_a_closed_model_says_so(models: ModelManager) -> None:
    """Every use raises ClosedError; closing twice does nothing."""
    model = models.load("smollm2-135m", config=ModelConfig(n_ctx=128))
    chat = ChatSession(model)
    model.close()
    model.close()
    for use in (lambda: chat.send("Hi."), lambda: model.tokenize("a"), lambda: model.detokenize([1])):
        with pytest.raises(ClosedError):
            use()
    assert model.stats().running == 0


def test_closing_while_a_reply_streams_ends_it_as_cancelled(models: ModelManager) -> None:
    """The stream's reader is not left waiting."""
    model = models.load("smollm2-135m", config=ModelConfig(n_ctx=256))
    stream = ChatSession(model).stream("Write a very long story.", logit_bias={2: -100.0})
    next(stream)
    model.close()
    assert stream.reply.finish_reason == "cancelled"


def test_native_logs_go_to_logging_and_never_to_the_terminal(
    models: ModelManager, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """They arrive on the logger "localllm.llama"."""
    with caplog.at_level(logging.DEBUG, logger="localllm.llama"):
        models.load("smollm2-135m", config=ModelConfig(n_ctx=128)).close()
    assert any("n_ctx" in record.getMessage() for record in caplog.records)
    assert capfd.readouterr() == ("", "")


def test_statistics_count_what_was_done(model: Model) -> None:
    """Prompts, cached tokens, completions and steps add up."""
    before = model.stats()
    reply = ChatSession(model).send("Name a bird.", max_tokens=5, temperature=0)
    after = model.stats()
    assert after.finished == before.finished + 1
    assert after.prompt_tokens == before.prompt_tokens + reply.usage.prompt_tokens
    assert after.completion_tokens == before.completion_tokens + reply.usage.completion_tokens
    assert after.cells_used <= after.cells_total
    assert after.steps > before.steps
    assert after.running == after.waiting == 0


def test_a_preloaded_prompt_is_cached_when_it_is_sent(model: Model) -> None:
    """The draft is read while the user still types."""
    chat = ChatSession(model, system=long_text(60, "z"))
    finished = model.stats().finished
    chat.preload("What did")
    deadline = time.monotonic() + 10
    while model.stats().finished == finished and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    reply = chat.send("What did I say?", max_tokens=2)
    assert reply.usage.cached_tokens > 100
