"""How late an asyncio loop's timers are while a model answers, beside an equal load in another process."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path

from localllm import AsyncChatSession, AsyncModelManager, ModelConfig

_SECONDS = 4.0
_PROMPT = "Write a very long story about a lighthouse."
_FOREIGN = """
import sys
from localllm import ChatSession, ModelConfig, ModelManager
with ModelManager(isolation="thread") as models:
    model = models.load(sys.argv[1], config=ModelConfig(n_ctx=2048, threads=int(sys.argv[2])))
    chat = ChatSession(model)
    for index, chunk in enumerate(chat.stream(sys.argv[3], logit_bias={2: -100.0}, max_tokens=1500)):
        if index == 0:
            print("running", flush=True)
"""


async def _p99_lag_s() -> float:
    """Return the 99th percentile of how late a timer of 1 ms is."""
    lags = []
    end_s = time.perf_counter() + _SECONDS
    while time.perf_counter() < end_s:
        due_s = time.perf_counter() + 0.001
        await asyncio.sleep(0.001)
        lags.append(time.perf_counter() - due_s)
    return sorted(lags)[int(len(lags) * 0.99)]


async def _beside_own(path: Path, threads: int) -> float:
    async with AsyncModelManager(isolation="thread") as models:
        model = await models.load(path, config=ModelConfig(n_ctx=2048, threads=threads))
        stream = AsyncChatSession(model).stream(_PROMPT, logit_bias={2: -100.0}, max_tokens=1500)
        first = asyncio.Event()

        async def read() -> None:
            async for _ in stream:
                first.set()

        reader = asyncio.create_task(read())
        await first.wait()
        lag_s = await _p99_lag_s()
        await stream.cancel()
        await reader
        return lag_s


def _beside_foreign(path: Path, threads: int) -> float:
    command = [sys.executable, "-c", _FOREIGN, str(path), str(threads), _PROMPT]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        if process.stdout is None:
            raise RuntimeError("the other process has no output")
        process.stdout.readline()
        lag_s = asyncio.run(_p99_lag_s())
        process.kill()
    return lag_s


def extra_lag_ms(path: Path, threads: int) -> float:
    """Return the p99 lag beside a model in this process, less that beside one in another, in milliseconds."""
    return (asyncio.run(_beside_own(path, threads)) - _beside_foreign(path, threads)) * 1000
