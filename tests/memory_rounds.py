"""Run rounds of start-and-cancel, of load-and-close and of unload-and-return, and print what memory they left behind.

`python tests/memory_rounds.py CANCELS LOADS`; a process of its own, so that nothing else's memory is counted.
"""

from __future__ import annotations

import gc
import json
import random
import sys
import threading
from collections.abc import Callable

from localllm import ChatSession, Model, ModelConfig, ModelManager

CONFIG = ModelConfig(n_ctx=512, cache_ram_bytes=1 << 20)  # a cache that fills up is no leak: it is kept small
WARM_UP = 60  # rounds after which allocators and caches have reached their size: seen to be enough; fewer for few


def pss_bytes() -> int:
    """Return this process's proportional set size without mapped files; Linux only.

    The mapped weights are shared: their share falls and rises with other processes that map the same file.
    """
    gc.collect()
    with open("/proc/self/smaps_rollup") as file:
        for line in file:
            if line.startswith("Pss_Anon:"):
                return int(line.split()[1]) * 1024
    raise RuntimeError("the kernel tells no Pss_Anon")


def start_and_cancel(model: Model, count: int, chance: random.Random) -> None:
    """Start requests and cancel each at a random moment: queued, while the prompt is read, or in the reply."""
    for index in range(count):
        prompt = " ".join(f"w{chance.randrange(90)}" for _ in range(chance.choice((3, 30, 90))))
        stream = ChatSession(model).stream(prompt, max_tokens=8, seed=index)
        moment = chance.random()
        if moment < 0.4:
            threading.Event().wait(moment / 20)
        elif moment < 0.8:
            for _ in zip(range(chance.randrange(1, 6)), stream, strict=False):
                pass
        stream.cancel()
        if moment > 0.9:
            _ = stream.reply


def grown(action: Callable[[], object], times: int) -> int:
    """Do something `times` times, after a few for the heap to settle; return the bytes that it has grown by."""
    before = 0
    for rounds in (4, times):
        before = pss_bytes()
        for _ in range(rounds):
            action()
    return pss_bytes() - before


def main() -> None:
    """Print the growth in bytes of each kind of rounds."""
    cancels, loads = int(sys.argv[1]), int(sys.argv[2])
    chance = random.Random(1)
    growth = {}
    with ModelManager(isolation="thread") as models:
        model = models.load("smollm2-135m", config=CONFIG)
        start_and_cancel(model, min(WARM_UP, cancels), chance)
        before = pss_bytes()
        start_and_cancel(model, cancels, chance)
        assert ChatSession(model).send("Say hi.", max_tokens=4).text
        growth["cancels"] = pss_bytes() - before
        model.close()
        growth["loads"] = grown(lambda: models.load("smollm2-135m", config=CONFIG).close(), loads)
        model = models.load("smollm2-135m", config=CONFIG)

        def leave_and_return() -> None:
            models.unload(model)
            assert model.tokenize("back")

        growth["unloads"] = grown(leave_and_return, loads)
    print(json.dumps(growth))


if __name__ == "__main__":
    main()
