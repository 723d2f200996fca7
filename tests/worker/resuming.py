"""A backend that can go on from a resume point, and shows what it was given: loaded by import path into workers."""

from __future__ import annotations

import random
from collections.abc import Iterator

from attrs import evolve

from localllm.backends.base import GenerateRequest, ModelSpec, Sink
from localllm.backends.simple import Pause, Piece, SimpleBackend, SimpleModel
from localllm.backends.simple_request import SimpleRequest
from localllm.types import BackendEvent, TextDelta

PATH = "tests.worker.resuming:ResumingBackend"


class ResumingBackend(SimpleBackend):
    """Says numbers, each with a random word that no second run would say again; the number is the token."""

    name = "resuming"

    def open(self, spec: ModelSpec) -> SimpleModel:
        return _Resuming(spec)


class _Resuming(SimpleModel):
    can_resume = True

    def generate(self, request: GenerateRequest, sink: Sink) -> SimpleRequest:
        def with_tokens(event: BackendEvent) -> None:
            if isinstance(event, TextDelta):
                event = evolve(event, token_ids=(int(event.text.partition(":")[0]),))
            sink(event)

        return super().generate(request, with_tokens)

    def pieces(self, request: GenerateRequest) -> Iterator[Piece]:
        count = int(request.messages[-1].content)
        point = request.resume
        first = 0
        if point is not None:
            first = len(point.token_ids)
            if point.token_ids != tuple(range(first)) or point.delivered_chars != 12 * first:
                raise ValueError(f"this is no point to go on from: {point}")
        for number in range(first, count):
            if number % 8 == 0:
                yield Pause(self.clock.now() + 0.004)
            yield f"{number:06d}:{random.randrange(10**4):04d} "
