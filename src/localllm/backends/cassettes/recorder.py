"""What a recording consists of while it is made: the listener of one request, and the file that all of them go to."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import TypeVar, assert_never

from attrs import evolve

from localllm.backends.base import ModelSpec, Sink
from localllm.backends.cassettes.files import write_tapes
from localllm.backends.cassettes.forms import config_form, ref_form
from localllm.backends.cassettes.tape import CutCall, Interaction, Part, RecordedReply, Tape, tape_of
from localllm.backends.worker.failures import to_failure
from localllm.backends.worker.messages import Failure
from localllm.errors import CassetteError, LocalLLMError
from localllm.models.info import ModelInfo
from localllm.types import (
    BackendEvent,
    GenerationEnded,
    PromptProgress,
    TextDelta,
    ToolCallDelta,
    ToolCallEnded,
    ToolCallStarted,
)

_log = logging.getLogger("localllm.backends")

_SMALL_BYTES = 256 << 10  # a file of this size is written in a millisecond, so after each reply
_PAUSES = 20  # times what it takes to write a larger one: that costs a twentieth of the time at most

_K = TypeVar("_K")
_V = TypeVar("_V")


class Listener:
    """The sink of a request that is recorded: passes its events on, and keeps what they say.

    Where the pieces of a text begin and end is not kept: that is a matter of timing, as are progress and tokens.

    Args:
        sink: Where the events go.
        keep: Told the whole reply, before its end is passed on.
        folders: What is left out of error messages: where files are on this machine.
    """

    def __init__(self, sink: Sink, keep: Callable[[RecordedReply], None], folders: Sequence[str]) -> None:
        self._sink = sink
        self._keep = keep
        self._folders = folders
        self._parts: list[Part] = []

    def __call__(self, event: BackendEvent) -> None:
        """Take an event in."""
        match event:
            case TextDelta():
                last = self._parts[-1] if self._parts else None
                if isinstance(last, TextDelta) and last.segment == event.segment:
                    logprobs = last.logprobs + event.logprobs
                    self._parts[-1] = TextDelta(last.text + event.text, event.segment, logprobs=logprobs)
                else:
                    self._parts.append(evolve(event, token_ids=()))
            case ToolCallStarted():
                self._parts.append(CutCall(event.id, event.name, ""))
            case ToolCallDelta():
                if isinstance(call := self._parts[-1], CutCall):
                    self._parts[-1] = evolve(call, arguments=call.arguments + event.arguments)
            case ToolCallEnded():
                self._parts[-1] = event.call
            case GenerationEnded():
                self._keep(self._reply(event))
            case PromptProgress():
                pass
            case _:
                assert_never(event)
        self._sink(event)

    def _reply(self, end: GenerationEnded) -> RecordedReply:
        return RecordedReply(
            parts=tuple(self._parts),
            finish_reason=end.finish_reason,
            usage=evolve(end.usage, cached_tokens=0),
            tool_calls=end.tool_calls,
            error=None if end.error is None else failure_of(end.error, self._folders),
            notes=end.notes,
            taken_chars=end.taken_chars,
        )


class Recorder:
    """All that is recorded in one file. Safe to use from any thread.

    Args:
        path: The file.
        tapes: What it begins with.
    """

    def __init__(self, path: Path, tapes: list[Tape]) -> None:
        self.path = path
        self._tapes = tapes
        self._lock = Lock()  # held while the file is written, too: the last to write knows all
        self._changed = False
        self._next_s = 0.0  # when it is time to write it again

    def tape(self, spec: ModelSpec, info: ModelInfo) -> Tape:
        """Return where to record the model that was loaded."""
        ref, config = ref_form(spec), config_form(spec.config)
        with self._lock:
            found = tape_of(self._tapes, ref, config)
            if found is None:
                found = Tape(ref=ref, config=config, info=_lasting(info, spec))
                self._tapes.append(found)
            self._changed = True
        self.save()
        return found

    def begin(self, tape: Tape) -> int:
        """Return the place of a request that was just made."""
        with self._lock:
            tape.interactions.append(None)
            return len(tape.interactions) - 1

    def end(self, tape: Tape, index: int, interaction: Interaction) -> None:
        """Keep a request that has ended, and save it unless that was done a moment ago."""
        with self._lock:
            tape.interactions[index] = interaction
            self._changed = True
            due = time.monotonic() >= self._next_s
        if due:
            try:
                self.save()
            except CassetteError:  # a sink must not raise; `close` tries again, and says so
                _log.exception("a recording could not be saved")

    def note(self, notes: dict[_K, _V], key: _K, value: _V) -> None:
        """Keep a small answer; saved with the next reply, or at the end."""
        with self._lock:
            self._changed = self._changed or key not in notes
            notes[key] = value

    def save(self) -> None:
        """Write the file if there is anything new.

        Raises:
            CassetteError: It cannot be written.
        """
        with self._lock:
            if not self._changed:
                return
            began_s = time.monotonic()
            size = write_tapes(self.path, self._tapes)
            self._changed = False
            ended_s = time.monotonic()
            self._next_s = ended_s + (_PAUSES * (ended_s - began_s) if size > _SMALL_BYTES else 0.0)


def failure_of(error: LocalLLMError, folders: Sequence[str]) -> Failure:
    """Return an error as a value, without the names of `folders`."""
    failure = to_failure(error)
    message, details = failure.message, failure.details
    for folder in folders:
        message = message.replace(folder, "...")
        details = details.replace(json.dumps(folder)[1:-1], "...")
    return Failure(kind=failure.kind, message=message, details=details)


def folders_of(spec: ModelSpec) -> tuple[str, ...]:
    """Return the folders whose names are left out of what is recorded: the model's, and this user's own."""
    folders = [spec.path.parent] if spec.path is not None else []
    with suppress(RuntimeError):  # a user without one
        folders.append(Path.home())
    # Neither "/" nor "." nor "C:": they would be found in any text.
    return tuple(str(folder) for folder in folders if folder.is_absolute() and len(folder.parts) > 1)


def _lasting(info: ModelInfo, spec: ModelSpec) -> ModelInfo:
    """Return what is true of a model on every machine and each time it is loaded."""
    return ModelInfo(
        name=ref_form(spec) if info.name == spec.ref else info.name,
        architecture=info.architecture,
        parameters=info.parameters,
        quantization=info.quantization,
        context_length=info.context_length,
        vocab_size=info.vocab_size,
        size_bytes=info.size_bytes,
        template_source=info.template_source,
        model_hash="" if spec.path is None else info.model_hash,  # without a file it may be made up anew by each load
        n_ctx=info.n_ctx,
    )
