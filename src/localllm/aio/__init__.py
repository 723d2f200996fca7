"""The async twins for asyncio: same names, same options, awaited. No call blocks the event loop.

They hold no logic beyond awaiting and iterating: what a session does is in `localllm.conversation`, what a stream does
in `localllm.turn`, and a model is the plain `localllm.model.Model`, asked on a thread.
"""

from localllm.aio.manager import AsyncModelManager
from localllm.aio.model import AsyncModel
from localllm.aio.session import AsyncChatSession
from localllm.aio.stream import AsyncChatStream

__all__ = ["AsyncChatSession", "AsyncChatStream", "AsyncModel", "AsyncModelManager"]
