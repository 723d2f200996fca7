"""Requests on their way to the engine: who waits for whom while grammars are compiled."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from localllm.backends.base import GenerateRequest
from localllm.backends.llamacpp.preparation import Prepared
from localllm.backends.llamacpp.requests import RequestDesk
from localllm.engine.engine import Engine
from localllm.errors import InvalidSchemaError
from localllm.options import RequestOptions
from localllm.types import GenerationEnded, Message
from tests.backends.asking import Asked
from tests.engine.test_engine import LIMITS
from tests.engine.toy import ToyConstraint, ToyModel


class Slow:
    """Compiles nothing but "known" before it may go on; "broken" it refuses."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.begun = threading.Event()

    def has(self, source: str) -> bool:
        """Whether it is the known one."""
        return source == "known"

    def constraint(self, source: str, prefix: str = "") -> ToyConstraint:
        """Wait until it may go on."""
        if source != "known":
            self.begun.set()
            assert self.go.wait(10)
        if source == "broken":
            raise InvalidSchemaError("no such grammar")
        return ToyConstraint(source)

    def spelled(self, word: str) -> ToyConstraint:
        """Nothing here is completed."""
        raise InvalidSchemaError(f"{word!r} is no grammar")


class Desk:
    """A desk over the toy model; a request's text is its grammar."""

    def __init__(self) -> None:
        self.compiler = Slow()
        self.engine = Engine(ToyModel(), LIMITS, "toy")
        self.desk = RequestDesk(self.engine, self._prepare, self.compiler, 16)

    def ask(self, grammar: str) -> Asked:
        """Submit a request."""
        asked = Asked()
        request = GenerateRequest(messages=(Message.user(grammar),), options=RequestOptions(max_tokens=20))
        asked.handle = self.desk.submit(request, asked)
        return asked

    def close(self) -> None:
        """End everything."""
        self.desk.close()
        self.engine.close()

    def _prepare(self, request: GenerateRequest) -> Prepared:
        return Prepared(tokens=[1, 2, 3], grammar=request.messages[0].content)


@pytest.fixture
def desk() -> Iterator[Desk]:
    """A desk."""
    made = Desk()
    yield made
    made.compiler.go.set()
    made.close()


def test_a_grammar_that_takes_long_holds_up_no_other_request(desk: Desk) -> None:
    """Those that came later, to known grammars, are answered first."""
    slow = [desk.ask("slow") for _ in range(3)]
    assert desk.compiler.begun.wait(10)
    assert desk.ask("known").end.finish_reason in ("stop", "length")
    assert not any(isinstance(event, GenerationEnded) for asked in slow for event in asked.events)
    desk.compiler.go.set()
    assert all(asked.end.error is None for asked in slow)


def test_a_grammar_that_is_refused_is_its_own_requests_error(desk: Desk) -> None:
    """It comes as the request's end."""
    desk.compiler.go.set()
    broken, good = desk.ask("broken"), desk.ask("known")
    assert isinstance(broken.end.error, InvalidSchemaError)
    assert good.end.error is None


def test_a_request_cancelled_while_its_grammar_is_compiled_never_runs(desk: Desk) -> None:
    """It ends as cancelled when the compiler is done with it."""
    asked = desk.ask("slow")
    assert desk.compiler.begun.wait(10)
    asked.handle.cancel()
    desk.compiler.go.set()
    assert asked.end.finish_reason == "cancelled"
    assert desk.engine.stats().finished == 0


def test_closing_while_grammars_are_compiled_ends_their_requests_as_cancelled() -> None:
    """Those that wait for the compiler, too."""
    desk = Desk()
    asked = [desk.ask("slow") for _ in range(5)]
    assert desk.compiler.begun.wait(10)
    closer = threading.Thread(target=desk.close)
    closer.start()
    desk.compiler.go.set()
    closer.join(10)
    reasons = [one.end.finish_reason for one in asked]
    assert set(reasons) <= {"cancelled", "stop", "length"}
    assert "cancelled" in reasons
