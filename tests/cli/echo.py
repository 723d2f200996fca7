"""A backend for tests of the command line, loaded by its import path: its replies do what the message says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from localllm.backends.base import GenerateRequest, ModelSpec, ProgressCallback
from localllm.backends.simple import Pause, Piece, SimpleBackend, SimpleModel
from localllm.errors import BackendError, ModelLoadError, ModelNotFoundError
from localllm.types import TextDelta

PATH = "tests.cli.echo:EchoBackend"


class Echo(SimpleModel):
    """Answers "2 Hello (system)": the count of messages, the last one, and the system message if there is one."""

    def pieces(self, request: GenerateRequest) -> Iterator[Piece]:
        """Do what the last message says."""
        messages = request.messages
        asked = messages[-1].content
        match asked:
            case _ if asked == "forever" or asked.startswith("announced "):
                if asked != "forever":
                    with open(asked.removeprefix("announced "), "w") as pipe:  # somebody waits at its other end
                        pipe.write("begun")
                while True:
                    yield "on "
                    yield Pause(self.clock.now() + 0.005)
            case "fail":
                yield "half a "
                raise BackendError("the device was unplugged")
            case "escape":
                yield "\x1b]0;owned\x07done"
            case "think":
                yield TextDelta("hmm", "thought")
                yield "so"
            case "lines":
                yield from (f"line {number}\n" for number in range(100_000))
            case _:
                system = f" ({messages[0].content})" if messages[0].role == "system" else ""
                yield f"{len(messages)} {asked}{system}"


class EchoBackend(SimpleBackend):
    """Loads any name but "missing" and "broken"; "stuck" loads until it is told not to."""

    name: ClassVar[str] = "echo"

    def load(self, spec: ModelSpec, on_progress: ProgressCallback | None = None) -> SimpleModel:
        """Load `spec`, reporting progress for as long as its name says."""
        while spec.ref == "stuck":
            super().load(spec, on_progress).close()
        return super().load(spec, on_progress)

    def open(self, spec: ModelSpec) -> Echo:
        """Return an echo, or fail as the name says."""
        if spec.ref == "missing":
            raise ModelNotFoundError("no model 'missing'; give the path of a GGUF file")
        if spec.ref == "broken":
            raise ModelLoadError("the file is damaged; get it again")
        return Echo(spec)
