"""A backend of your own, in a page: this one answers with what it was told, word by word, from the last to the first.

`SimpleModel` asks for the pieces of a reply and does the rest: a thread and a queue, cancelling, time-outs, stop texts,
`max_tokens`, usage, timings, errors. `check_backend` proves that the whole keeps every rule of a backend.

Run it with ``python examples/custom_backend.py``.
"""

from collections.abc import Iterator

from localllm import ChatSession, GenerateRequest, ModelManager, ModelSpec
from localllm.backends.simple import SimpleBackend, SimpleModel
from localllm.testing import check_backend


class BackwardsModel(SimpleModel):
    """Answers the last message, backwards."""

    def pieces(self, request: GenerateRequest) -> Iterator[str]:
        """Yield the reply as it is made. This may take its time: a cancel takes effect between two pieces."""
        separator = ""
        for word in reversed(request.messages[-1].content.split()):
            yield separator + word
            separator = " "


class BackwardsBackend(SimpleBackend):
    """Loads `BackwardsModel`; there is only one, so any reference will do."""

    name = "backwards"

    def open(self, spec: ModelSpec) -> BackwardsModel:
        """Return the model that `spec` describes."""
        return BackwardsModel(spec)


def main() -> None:
    """Check the backend, then chat with it."""
    # The checks need a long reply, to cut, stop and cancel: this backend gives one to a long prompt.
    check_backend(BackwardsBackend, prompt="one two three four five six seven eight nine ten " * 10)
    print("The backend keeps every rule.")

    with ModelManager(BackwardsBackend()) as models:
        chat = ChatSession(models.load("any"))
        for chunk in chat.stream("sky the is blue Why"):
            print(chunk.text, end="", flush=True)
        reply = chat.send("more once Say", max_tokens=2)
        print(f"?\n{reply.text}... ({reply.finish_reason}, {reply.usage.completion_tokens} tokens)")


if __name__ == "__main__":
    main()
