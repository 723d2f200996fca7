"""A request waits for what is kept of its prompt elsewhere, if that saves reading, and for nothing else."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator

import pytest
from attrs import evolve

from localllm.engine.engine import Engine
from localllm.engine.model import DecodeError
from localllm.engine.state import Cells, StateImport
from localllm.options import RequestOptions
from localllm.types import GenerationEnded

from .test_engine import LIMITS, Sink
from .toy import ToyContext, ToyModel, solo

PROMPT = [1 + n % 90 for n in range(100)]
OPTIONS = RequestOptions(max_tokens=10)
BAD = 255


class Kept:
    """Something stored that is brought when the test says so."""

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens
        self.asked: list[Callable[[bool], None]] = []

    def fetch(self, done: Callable[[bool], None]) -> None:
        """Remember who asks."""
        self.asked.append(done)


@pytest.fixture
def engine() -> Iterator[Engine]:
    """An engine with host memory."""
    made = Engine(ToyModel(), evolve(LIMITS, cache_ram_bytes=10_000), "toy")
    yield made
    made.close()


def ask(engine: Engine, kept: Kept, prompt: list[int], **options: object) -> tuple[Sink, Callable[[], None]]:
    """Submit a request, and wait until the engine has taken it; return its sink and what cancels it."""
    sink, after = Sink(), Sink()
    handle = engine.submit(prompt, RequestOptions.of({"max_tokens": 10}, options), sink, stored=kept)
    engine.submit([3], RequestOptions(max_tokens=1), after)
    after.end()
    return sink, handle.cancel


def bring(engine: Engine, prompt: list[int], kept: Kept) -> None:
    """Put the stored part of a prompt into host memory, as blocks of the toy's size."""
    blocks: list[Cells] = [
        (start, min(start + 8, kept.tokens), bytes([start, *prompt[start : min(start + 8, kept.tokens)]]))
        for start in range(0, kept.tokens, 8)
    ]
    engine.post(
        StateImport(array("i", prompt[: kept.tokens]), blocks, lambda count: kept.asked[0](count == len(blocks)))
    )


def test_a_request_begins_with_what_was_brought(engine: Engine) -> None:
    """Its text is the model's, nothing brought is computed again, and the hit is counted."""
    kept = Kept(90)
    sink, _ = ask(engine, kept, PROMPT)
    assert len(kept.asked) == 1
    assert sink.events == []
    bring(engine, PROMPT, kept)
    assert sink.end().usage.cached_tokens == 90
    assert sink.tokens == solo(PROMPT, 10)
    assert engine.stats().disk_hits == 1


def test_what_did_not_come_is_read(engine: Engine) -> None:
    """And is no hit."""
    kept = Kept(90)
    sink, _ = ask(engine, kept, PROMPT)
    kept.asked[0](False)
    assert sink.end().usage.cached_tokens == 0
    assert sink.tokens == solo(PROMPT, 10)
    assert engine.stats().disk_hits == 0


def test_nothing_is_brought_that_is_in_memory_or_saves_little(engine: Engine) -> None:
    """Nor for a deterministic request."""
    for prompt, kept, options in (
        (PROMPT, Kept(20), {}),
        (PROMPT, Kept(90), {}),
        ([*PROMPT[:90], 7, 8], Kept(90), {}),
        (PROMPT[::-1], Kept(90), {"deterministic": True}),
    ):
        sink, _ = ask(engine, kept, prompt, **options)
        assert sink.end().error is None
        assert kept.asked == []


@pytest.mark.parametrize("way", ["cancel", "time out", "close"])
def test_a_request_that_waits_can_end(engine: Engine, way: str) -> None:
    """At once; what comes later changes nothing."""
    kept = Kept(90)
    sink, cancel = ask(engine, kept, PROMPT, timeout_s=1e-6 if way == "time out" else None)
    if way == "cancel":
        cancel()
    elif way == "close":
        engine.close()
    else:
        other = Sink()
        engine.submit([5], OPTIONS, other)
        other.end()
    assert sink.end().finish_reason == ("timeout" if way == "time out" else "cancelled")
    for done in kept.asked:
        done(True)
    if way != "close":
        other = Sink()
        engine.submit(PROMPT, OPTIONS, other)
        assert other.end().usage.cached_tokens == 0
        assert sum(isinstance(event, GenerationEnded) for event in sink.events) == 1
        assert engine.stats().disk_hits == 0


class Picky(ToyContext):
    """Refuses cells that are marked as bad."""

    def load(self, seq_id: int, data: bytes, start: int, stop: int) -> None:
        """Put tokens back, if they are good."""
        if data[1] == BAD:
            raise DecodeError("no such cells")
        super().load(seq_id, data, start, stop)


class PickyModel(ToyModel):
    """Its contexts refuse bad cells."""

    def open_context(self, n_cells: int, n_sequences: int) -> ToyContext:
        """Return a new context."""
        return Picky(n_cells, n_sequences)


def test_cells_that_cannot_be_put_back_are_computed_after_all() -> None:
    """The context that they broke is made anew, and the next one never sees them."""
    engine = Engine(PickyModel(), evolve(LIMITS, cache_ram_bytes=10_000), "toy")
    kept = Kept(88)
    sink, _ = ask(engine, kept, PROMPT)
    bad: list[Cells] = [(start, start + 8, bytes([start, *[BAD] * 8])) for start in range(0, 88, 8)]
    engine.post(StateImport(array("i", PROMPT[:88]), bad, lambda count: kept.asked[0](count == len(bad))))
    assert sink.end().error is None
    assert sink.tokens == solo(PROMPT, 10)
    engine.close()
