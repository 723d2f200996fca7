"""How late an asyncio loop's timers are while it reads a model's streams, beside an equal load in another process."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import Literal, TypeAlias

from localllm import AsyncChatSession, AsyncModelManager, ModelConfig

Isolation: TypeAlias = Literal["process", "thread"]

_SECONDS = 4.0
_PROMPT = "Write a very long story about a lighthouse."
_FOREIGN = """
import sys, threading
from localllm import ChatSession, ModelConfig, ModelManager
path, threads, streams, prompt = sys.argv[1:]
begun = threading.Barrier(int(streams) + 1)
def read():
    for index, chunk in enumerate(ChatSession(model).stream(prompt, logit_bias={2: -100.0}, max_tokens=1000)):
        if index == 0:
            begun.wait()
with ModelManager(isolation="thread") as models:
    model = models.load(path, config=ModelConfig(threads=int(threads)))
    for _ in range(int(streams)):
        threading.Thread(target=read, daemon=True).start()
    begun.wait()
    print("running", flush=True)
    threading.Event().wait()
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


async def _beside_own(path: Path, threads: int, isolation: Isolation, streams: int) -> float:
    async with AsyncModelManager(isolation=isolation) as models:
        model = await models.load(path, config=ModelConfig(threads=threads))
        readers = [_Reader(AsyncChatSession(model)) for _ in range(streams)]
        tasks = [asyncio.create_task(reader.read()) for reader in readers]
        for reader in readers:
            await reader.begun.wait()
        lag_s = await _p99_lag_s()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        return lag_s


class _Reader:
    """Reads one stream until it is cancelled."""

    def __init__(self, chat: AsyncChatSession) -> None:
        self._chat = chat
        self.begun = asyncio.Event()

    async def read(self) -> None:
        """Read a long answer."""
        async with self._chat.stream(_PROMPT, logit_bias={2: -100.0}, max_tokens=1000) as stream:
            async for _ in stream:
                self.begun.set()


def _beside_foreign(path: Path, threads: int, streams: int) -> float:
    command = [sys.executable, "-c", _FOREIGN, str(path), str(threads), str(streams), _PROMPT]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        if process.stdout is None:
            raise RuntimeError("the other process has no output")
        try:
            if not process.stdout.readline():
                raise RuntimeError("the other process has ended")
            return asyncio.run(_p99_lag_s())
        finally:
            process.kill()


def extra_lag_ms(path: Path, threads: int, *, isolation: Isolation = "thread", streams: int = 1) -> float:
    """Return the p99 lag beside a model of this process, less that beside one of another's, in milliseconds.

    Args:
        path: The model.
        threads: Threads that compute.
        isolation: Where this process has its model run.
        streams: How many are read at once.
    """
    own_s = asyncio.run(_beside_own(path, threads, isolation, streams))
    return (own_s - _beside_foreign(path, threads, streams)) * 1000
