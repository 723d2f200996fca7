"""Many threads chat with one model at once, with cancels, forks and async users among them; prints what came of it.

`python -m tests.crowd_rounds THREADS CHATS WARM_UP SEED`; a process of its own, so that nothing else's memory is
counted. WARM_UP is chats of each thread before memory is looked at: allocators, stacks and caches reach their size.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import threading
from collections import Counter

from localllm import AsyncChatSession, AsyncModel, ChatSession, Model, ModelConfig, ModelManager
from tests.memory_rounds import pss_bytes

SYSTEM = "Be brief."
PROMPTS = [f"What is number {number}?" for number in range(10)]
TOKENS = 4
CONFIG = ModelConfig(n_ctx=2048, cache_ram_bytes=1 << 20, max_queue=10_000)


class Crowd:
    """The threads' work over one model.

    Args:
        model: Answers.
    """

    def __init__(self, model: Model) -> None:
        self.model = model
        self.async_model = AsyncModel(model)
        self.done: Counter[str] = Counter()
        self.mistakes: list[str] = []
        self.solo = {prompt: self._deterministic(prompt) for prompt in PROMPTS}

    def _deterministic(self, prompt: str) -> str:
        chat = ChatSession(self.model, system=SYSTEM)
        return chat.send(prompt, temperature=0, max_tokens=TOKENS, deterministic=True).text

    def check(self, kind: str, prompt: str, text: str) -> None:
        """Note a text that isn't the one that the prompt gets alone."""
        self.done[kind] += 1
        if text != self.solo[prompt]:
            self.mistakes.append(f"{kind}: {prompt!r} was answered {text!r}, alone {self.solo[prompt]!r}")

    def alone_in_company(self, chance: random.Random) -> None:
        """A deterministic chat."""
        prompt = chance.choice(PROMPTS)
        self.check("deterministic", prompt, self._deterministic(prompt))

    def cancelled(self, chance: random.Random) -> None:
        """A chat whose reply is broken off, and which goes on."""
        chat = ChatSession(self.model, system=SYSTEM, seed=chance.randrange(1000))
        stream = chat.stream(chance.choice(PROMPTS), max_tokens=40)
        for _ in zip(range(chance.randrange(4)), stream, strict=False):
            pass
        stream.cancel()
        assert stream.reply.finish_reason in ("cancelled", "stop", "length")
        assert chat.send("Go on.", max_tokens=4).usage.completion_tokens
        self.done["cancelled"] += 1

    def forked(self, chance: random.Random) -> None:
        """Two forks of one chat get what each would get alone; their common part is not read twice."""
        prompt, chat = chance.choice(PROMPTS), ChatSession(self.model, system=SYSTEM)
        chat.send("Say hello.", temperature=0, max_tokens=4)
        fork = chat.fork()
        first = chat.send(prompt, temperature=0, max_tokens=TOKENS, deterministic=True)
        second = fork.send(prompt, temperature=0, max_tokens=TOKENS, deterministic=True)
        if first.text != second.text:
            self.mistakes.append(f"forks: {first.text!r} and {second.text!r}")
        self.done["forked"] += 1

    def awaited(self, chance: random.Random) -> None:
        """A few chats at once on an event loop, one of them cancelled."""

        async def chats() -> None:
            prompts = chance.sample(PROMPTS, 2)
            sessions = [AsyncChatSession(self.async_model, system=SYSTEM) for _ in prompts]
            loser = asyncio.ensure_future(AsyncChatSession(self.async_model).send("Count to 100.", max_tokens=60))
            replies = await asyncio.gather(
                *(
                    session.send(prompt, temperature=0, max_tokens=TOKENS, deterministic=True)
                    for session, prompt in zip(sessions, prompts, strict=True)
                )
            )
            loser.cancel()
            await asyncio.gather(loser, return_exceptions=True)
            for prompt, reply in zip(prompts, replies, strict=True):
                self.check("awaited", prompt, reply.text)

        asyncio.run(chats())

    def work(self, seed: int, chats: int) -> None:
        """What one thread does."""
        chance = random.Random(seed)
        kinds = (self.alone_in_company, self.alone_in_company, self.cancelled, self.forked, self.awaited)
        for _ in range(chats):
            try:
                chance.choice(kinds)(chance)
            except Exception as exc:  # noqa: BLE001  # whatever it is, it is told and the others go on
                self.mistakes.append(f"{type(exc).__name__}: {exc}")

    def run(self, threads: int, chats: int, seed: int) -> None:
        """Have many threads chat."""
        workers = [threading.Thread(target=self.work, args=(seed + index, chats)) for index in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()


def main() -> None:
    """Print what was done, what went wrong, and by how many bytes the memory grew."""
    threads, chats, warm_up, seed = (int(argument) for argument in sys.argv[1:])
    with ModelManager(isolation="thread") as models:
        crowd = Crowd(models.load("smollm2-135m", config=CONFIG))
        crowd.run(threads, warm_up, seed + 100_000)
        before = pss_bytes()
        crowd.run(threads, chats, seed)
        crowd.alone_in_company(random.Random(seed))  # the last cancels have taken effect before its answer
        stats = crowd.model.stats()
        figures = {
            "done": dict(crowd.done),
            "mistakes": crowd.mistakes,
            "growth": pss_bytes() - before,
            "left": stats.running + stats.waiting,
            "requests": stats.finished,
        }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
