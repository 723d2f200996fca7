"""The examples and the README's code run as they say, on the real model where that is the point."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from examples import sse_endpoint, tools
from starlette.applications import Starlette

from localllm import AsyncModelManager, BackendError, FakeBackend, FakeReply, ModelManager, ToolCall

ROOT = Path(__file__).parent.parent
CODE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = {  # by its place, such as "batch-0"
    f"{page.stem}-{number}": block
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    for number, block in enumerate(CODE.findall(page.read_text(encoding="utf-8")))
}
README_BLOCKS = [name for name in BLOCKS if name.startswith("README-")]
SCRIPTS = [name for name in BLOCKS if name.startswith(("batch-", "estimate-", "gguf-", "manager-", "worker-"))]


def run(*arguments: str | Path) -> str:
    """Run Python with `arguments` in the project's root; return stdout. A word on stderr, at exit too, is a failure."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=60,
        env=os.environ | {"OMP_WAIT_POLICY": "passive"},  # quick beside other work, too
    )
    assert (done.returncode, done.stderr) == (0, ""), f"{done.stdout}{done.stderr}"
    return done.stdout


def test_every_example_is_run() -> None:
    """A new example needs a test here."""
    known = {
        "quickstart",
        "async_chat",
        "sse_endpoint",
        "test_your_app",
        "test_with_cassette",
        "extract",
        "tools",
        "long_conversation",
        "demo",
        "custom_backend",
        "batch_job",
        "pull_and_chat",
        "survives_a_crash",
        "save_and_restore",
        "watch_models",
    }
    assert {path.stem for path in (ROOT / "examples").glob("*.py")} - {"__init__"} <= known


def test_quickstart_streams_and_counts() -> None:
    """The main job on the real model: two replies, and the second finds the first one in the cache."""
    out = run("examples/quickstart.py")
    figures = re.search(r"first token after [\d.]+ s, (\d+) of (\d+) prompt tokens cached", out)
    assert figures is not None, out
    assert int(figures[1]) > 30


def test_an_answer_survives_a_crash() -> None:
    """It kills its own worker in the middle, and the answer goes on as if nothing had happened."""
    out = run("examples/survives_a_crash.py")
    assert re.search(r"\[process \d+ is dead\]\s+\S", out), out
    assert "restarts: 1; the answer is the same as the undisturbed one" in out


def test_a_text_becomes_data() -> None:
    """Partial values while the model writes, and at the end an object with its fields."""
    out = run("examples/extract.py").splitlines()
    assert out[0] == "{}"
    assert re.fullmatch(r"'.*' is \d+ years old \(.*\)", out[-1]), out


def test_tools_are_called_on_the_real_model() -> None:
    """The model calls the tool that it is told to, with arguments that fit; its result comes back."""
    out = run("examples/tools.py")
    assert re.search(
        r"^\[stock \{'fruit': '(apples|pears)'\}\n -> There are \d+ (apples|pears)\.\]$", out, re.MULTILINE
    ), out
    assert out.rstrip().endswith("1 calls)")


def test_a_session_goes_on_in_another_process() -> None:
    """What was read before comes from the file, and the first token sooner."""
    out = run("examples/save_and_restore.py")
    firsts = [float(figure) for figure in re.findall(r"first token after (\d+\.\d+) s", out)]
    assert re.search(r"saved 4\d\d tokens of state", out), out
    assert re.search(r"4\d\d of 4\d\d tokens from the file", out), out
    assert firsts[1] < firsts[0]


def test_tools_are_approved_and_refused_on_the_fake(capsys: pytest.CaptureFixture[str]) -> None:
    """As the example's rule says; a failure of a tool is told."""

    def buy(count: int, fruit: str = "apples") -> FakeReply:
        return FakeReply(tool_calls=(ToolCall("buy", {"order": {"fruit": fruit, "count": count}}),))

    for reply, told in (
        (buy(2), "bought 2 apples"),
        (buy(4), "error: the call was refused: at most three may be bought at once"),
        (buy(1, "pears"), "error: ValueError: there are only 0"),
    ):
        with ModelManager(FakeBackend([reply, "Very well."])) as models:
            tools.ask(models.load("any"), "Buy some.", "auto")
        out = capsys.readouterr().out
        assert f" -> {told}]" in out
        assert out.endswith("Very well.\n(stop, 1 calls)\n")


def test_a_long_conversation_goes_on() -> None:
    """Something was left out, and everything is in the history."""
    out = run("examples/long_conversation.py")
    assert "messages left out" in out
    assert out.endswith("25 messages in the history\n")


def test_models_are_watched() -> None:
    """Each state in its turn: a model that was left alone is unloaded, and comes back for its chat."""
    out = run("examples/watch_models.py")
    states = re.findall(r"^\* smollm2-135m: (\w+)$", out, re.MULTILINE)
    assert states[:7] == ["ready", "busy", "idle", "unloading", "unloaded", "ready", "busy"], out
    assert states[7:] in ([], ["idle"]), out  # whether it is told before the subscription ends is a matter of luck
    assert "* at first: 0 models, 0 downloads" in out
    assert len(re.findall(r"^< .+", out, re.MULTILINE)) == 2


def test_two_async_chats_both_end() -> None:
    """Both replies of one model, at the same time on one event loop."""
    out = run("examples/async_chat.py")
    assert re.search(r"^Ada: .+\n  \[\d+ chunks, \d+ tokens/s\]$", out, re.MULTILINE | re.DOTALL), out
    assert "Bob: " in out


def test_the_demo_shows_its_figures() -> None:
    """First token, tokens/s and cached tokens of two turns; the second one's prompt is mostly cached."""
    out = run("examples/demo.py", "Name a color.", "Another one?")
    figures = re.findall(r"\[first token (\d+) ms, ([\d.]+) tokens/s, \d+ tokens; prompt of (\d+) .*?, (\d+) of", out)
    assert len(figures) == 2, out
    (*_, first_cached), (*_, prompt, cached) = figures
    assert int(first_cached) == 0
    assert int(cached) > int(prompt) / 2


def test_a_job_goes_on_where_it_was(tmp_path: Path) -> None:
    """A line for each key, and the second run asks for nothing but the line that was lost."""
    answers = tmp_path / "answers.jsonl"
    assert "6 done, 0 failed" in run("examples/batch_job.py", answers)
    lines = answers.read_text().splitlines(keepends=True)
    assert {json.loads(line)["key"] for line in lines} == {"rain", "wind", "snow", "fog", "hail", "dew"}
    answers.write_text("".join(lines[1:]))
    out = run("examples/batch_job.py", answers)
    assert "1 done, 0 failed" in out
    assert "5 were there before" in out
    assert len(answers.read_text().splitlines()) == 6


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_code_in_docs_runs(name: str, tmp_path: Path) -> None:
    """Each block is whole, and does what its page says, on the real model. Other pages have tests of their own."""
    block = tmp_path / "block.py"
    block.write_text(BLOCKS[name])
    assert run(block).strip()


def test_your_app_tests_pass() -> None:
    """The example is a test file: pytest runs it."""
    assert "passed" in run("-m", "pytest", "-q", "-p", "no:cacheprovider", "examples/test_your_app.py")


def sse(text: str) -> list[tuple[str, dict[str, object]]]:
    """The events of a server-sent stream, as name and data."""
    return [
        (name, json.loads(data))
        for name, data in re.findall(r"event: (\w+)\ndata: (.*)\n\n", text)
    ]  # fmt: skip


def app_with(backend: FakeBackend) -> Starlette:
    """The example's application over a fake."""
    return sse_endpoint.create_app(lambda: AsyncModelManager(backend), "any")


def get(app: Starlette, question: str) -> httpx.Response:
    """Start the application, ask it once, and stop it."""

    async def main() -> httpx.Response:
        async with app.router.lifespan_context(app):
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://app") as client:
                return await client.get("/chat", params={"q": question})

    return asyncio.run(asyncio.wait_for(main(), 15))


def test_the_endpoint_streams_events() -> None:
    """A chunk event for each piece, line breaks and all, then one with the figures."""
    answer = get(app_with(FakeBackend([FakeReply(chunks=["Rome\n", "\ndata: x"])])), "Where?")
    assert answer.headers["content-type"].startswith("text/event-stream")
    *chunks, (last, data) = sse(answer.text)
    assert "".join(str(chunk["text"]) for _, chunk in chunks) == "Rome\n\ndata: x"
    assert (last, data["finish_reason"]) == ("done", "stop")


def test_the_endpoint_tells_errors_as_events() -> None:
    """The response has begun, so a failure can only be told inside it."""
    events = sse(get(app_with(FakeBackend([BackendError("unplugged")])), "Where?").text)
    assert events == [("error", {"type": "BackendError", "message": "unplugged"})]


def test_the_endpoint_refuses_an_empty_question() -> None:
    """Before the model is asked."""
    assert get(app_with(FakeBackend([])), " ").status_code == 400


def test_the_endpoint_answers_on_the_real_model() -> None:
    """The application as it is run: the real manager, the real model."""
    events = sse(get(sse_endpoint.create_app(), "What is the capital of France? One word.").text)
    *chunks, (last, figures) = events
    assert (last, {name for name, _ in chunks}) == ("done", {"chunk"})
    assert figures["tokens"]


Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Scope]]


async def leave_after_a_chunk(app: Starlette, ask: str) -> list[str]:
    """Be a client that disconnects as soon as the first chunk is there; return what it received."""
    received: list[str] = []
    left = asyncio.Event()

    async def receive() -> Scope:
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Scope) -> None:
        if message["type"] == "http.response.body":
            received.append(message["body"].decode())
            left.set()

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "path": "/chat",
        "query_string": f"q={ask}".encode(),
        "headers": [],
        "app": app,
    }
    await app(scope, receive, send)
    return received


def test_a_client_that_leaves_ends_its_reply() -> None:
    """The model is free for the next one, though the script had a thousand chunks to go."""

    async def main() -> None:
        backend = FakeBackend([FakeReply(chunks=["on "] * 1000, delay_s=0.005), "Free."])
        app = app_with(backend)
        async with app.router.lifespan_context(app):
            received = await leave_after_a_chunk(app, "Go")
            assert 0 < len(received) < 900
            model = app.state.model
            events = [event async for event in sse_endpoint.reply_events(model, "Next?")]
            assert "Free." in "".join(events)

    asyncio.run(asyncio.wait_for(main(), 15))


@pytest.mark.parametrize("name", README_BLOCKS)
def test_readme_code_runs(name: str, tmp_path: Path) -> None:
    """Each block is whole: pasted into a file it runs, on the real model where it loads one."""
    block = tmp_path / "block.py"
    block.write_text(BLOCKS[name])
    if "def test_" in BLOCKS[name]:
        assert "passed" in run("-m", "pytest", "-q", "-c", ROOT / "pyproject.toml", "-p", "no:cacheprovider", block)
    else:
        assert run(block).strip()


def test_every_page_is_linked() -> None:
    """From README or another page: what nobody finds, nobody reads."""
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    texts = {page: page.read_text(encoding="utf-8") for page in pages}
    lost = [
        page.name
        for page in pages[1:]
        if not any(f"{page.name})" in text for other, text in texts.items() if other != page)
    ]
    assert lost == []


def test_the_code_in_readme_and_docs_is_typed(tmp_path: Path) -> None:
    """A reader who pastes it into a strictly checked project sees no error."""
    for name, block in BLOCKS.items():
        (tmp_path / f"{name.replace('-', '_')}.py").write_text(block)
    assert len(README_BLOCKS) == 4
    out = run("-m", "mypy", "--config-file", ROOT / "pyproject.toml", *sorted(tmp_path.glob("*.py")))
    assert "Success" in out
