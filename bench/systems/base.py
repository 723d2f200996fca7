"""What a scenario sees of a system: conversations go in, answers with the moment of every piece come out."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from attrs import evolve, frozen

NEVER_END = {0: -100.0, 2: -100.0, 4: -100.0}
"""Added to the logits of the tokens that end a turn of SmolLM2, where a stream must not end by itself."""


Schema = Mapping[str, object]
"""A JSON Schema."""


@frozen(kw_only=True)
class Setup:
    """What all systems are set to alike; the rest is each one's default.

    Args:
        path: The model.
        threads: Threads that compute.
        n_ctx: Tokens of the context: for one chat at most, and for all together where a system cannot grow or move.
        n_parallel: Chats that are answered at once.
        repack: Whether weights may be repacked for the processor; xllamacpp has no such option.
    """

    path: Path
    threads: int
    n_ctx: int
    n_parallel: int
    repack: bool = True


@frozen
class Turn:
    """A message of a conversation.

    Args:
        role: "system", "user" or "assistant".
        text: What it says.
        origin: The system's own form of it, if it wants that back with the next turn.
    """

    role: str
    text: str
    origin: object = None


@frozen(kw_only=True)
class Answer:
    """A streamed answer as its reader saw it. Moments are in seconds of `time.perf_counter`.

    Args:
        start_s: When it was asked for.
        times_s: When each piece of text came.
        end_s: When it ended.
        tokens: Tokens generated.
        prompt_tokens: Tokens of the prompt, where the system tells it.
        cached_tokens: Those of them that were not computed again, where the system tells it.
        turn: The answer, to go on with.
    """

    start_s: float
    times_s: tuple[float, ...]
    end_s: float
    tokens: int
    turn: Turn
    prompt_tokens: int = 0
    cached_tokens: int = 0

    @property
    def first_s(self) -> float:
        """Seconds to the first piece."""
        return self.times_s[0] - self.start_s

    @property
    def rate(self) -> float:
        """Tokens after the first, by second."""
        return (self.tokens - 1) / (self.end_s - self.times_s[0])


OnPiece = Callable[[int], bool]
"""Told how many pieces have come; False ends the stream."""


def go_on(_count: int) -> bool:
    """Let a stream run to its end."""
    return True


class Recorder:
    """Notes when the pieces of one stream come, and asks after each whether it is to go on."""

    def __init__(self, on_piece: OnPiece) -> None:
        self._on_piece = on_piece
        self.start_s = time.perf_counter()
        self.times_s: list[float] = []
        self.pieces: list[str] = []

    def add(self, piece: str) -> bool:
        """Note a piece; False if the stream is to end."""
        self.times_s.append(time.perf_counter())
        self.pieces.append(piece)
        return self._on_piece(len(self.times_s))

    def answer(self, tokens: int | None = None, origin: object = None) -> Answer:
        """Return the answer, whose end is now; each piece is a token unless `tokens` says otherwise."""
        return Answer(
            start_s=self.start_s,
            times_s=tuple(self.times_s),
            end_s=time.perf_counter(),
            tokens=len(self.times_s) if tokens is None else tokens,
            turn=Turn("assistant", "".join(self.pieces), origin),
        )


class System(ABC):
    """A way to run the model. Calls may come from several threads at once."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup

    @abstractmethod
    def answer(
        self, turns: Sequence[Turn], max_tokens: int, *, on_piece: OnPiece = go_on, endless: bool = False
    ) -> Answer:
        """Answer a conversation greedily.

        Args:
            turns: The conversation so far.
            max_tokens: Tokens to generate at most.
            on_piece: Asked after each piece, on any thread.
            endless: The answer may not end before `max_tokens` or `on_piece` end it.
        """

    def answer_json(self, turns: Sequence[Turn], max_tokens: int, schema: Schema) -> Answer:
        """Answer greedily with text that fits a JSON Schema, or with the beginning of such a text."""
        raise NotImplementedError(f"{type(self).__name__} is not asked for JSON")

    def answer_all(
        self, conversations: Sequence[Sequence[Turn]], max_tokens: int, schemas: Sequence[Schema] = ()
    ) -> list[Answer]:
        """Answer several conversations that are asked at once; their answers start when the first was asked.

        Args:
            conversations: The conversations.
            max_tokens: Tokens to generate at most, for each.
            schemas: One for each, where their answers are to be JSON.
        """
        answers: dict[int, Answer] = {}
        errors: list[BaseException] = []
        start_s = time.perf_counter()

        def ask(index: int) -> None:
            try:
                if schemas:
                    answers[index] = self.answer_json(conversations[index], max_tokens, schemas[index])
                else:
                    answers[index] = self.answer(conversations[index], max_tokens)
            except BaseException as exc:  # noqa: BLE001  # raised below, by the thread that asked
                errors.append(exc)

        threads = [threading.Thread(target=ask, args=(index,)) for index in range(len(conversations))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return [evolve(answers[index], start_s=start_s) for index in range(len(conversations))]

    @abstractmethod
    def about(self) -> list[str]:
        """Return what a reader of its figures must know, in sentences."""

    @abstractmethod
    def close(self) -> None:
        """Free everything."""
