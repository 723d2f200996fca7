"""What to say of what was not recorded: what was asked, how it differs from what is there, and how to record it."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from localllm.backends.base import ModelSpec
from localllm.backends.cassettes.forms import Form, config_form, key_of, ref_form, text_of
from localllm.backends.cassettes.tape import Interaction, Tape
from localllm.errors import CassetteError

_MOST_COMPARED = 200  # requests; finding the nearest takes a moment, and no test has so many
_MOST_LINES = 30
_WIDTH = 120


def no_cassette(path: Path, advice: str) -> CassetteError:
    """Return the error for a file that is not there."""
    return CassetteError(f"there is no cassette {path}; {advice}")


def no_model(path: Path, spec: ModelSpec, tapes: Sequence[Tape], advice: str) -> CassetteError:
    """Return the error for a model of which nothing was recorded."""
    known = ", ".join(_named(tape.ref, tape.config) for tape in tapes) or "no model"
    asked = _named(ref_form(spec), config_form(spec.config))
    return CassetteError(f"the cassette {path} was recorded with {known}, and {asked} was asked for; {advice}")


def no_note(path: Path, what: str, advice: str) -> CassetteError:
    """Return the error for a question about tokens or a prompt that was not recorded."""
    return CassetteError(f"{what} was not recorded in the cassette {path}; {advice}")


def no_request(path: Path, asked: Form, recorded: Sequence[Interaction], advice: str) -> CassetteError:
    """Return the error for a request to which there is no reply, or none any more."""
    key = key_of(asked)
    times = sum(one.key == key for one in recorded)
    if times:
        count = "once" if times == 1 else f"{times} times"
        return CassetteError(
            f"the request was recorded {count} in the cassette {path}, and now it is asked once more "
            f"(ReplayBackend(..., repeat=True) would play its last reply again); {advice}\n{_shown(asked)}"
        )
    if not recorded:
        return CassetteError(f"the cassette {path} holds no request; {advice}\nasked:\n{_shown(asked)}")
    return CassetteError(
        f"the request was not recorded in the cassette {path}; {advice}\n"
        f"the nearest of {len(recorded)} recorded (-) and what is asked (+):\n{_difference(asked, recorded)}"
    )


def _named(ref: str, config: Form) -> str:
    return f"{ref!r}" + (f" ({', '.join(f'{name}={value!r:.40}' for name, value in config.items())})" if config else "")


def _difference(asked: Form, recorded: Sequence[Interaction]) -> str:
    lines = _lines(asked)
    nearest: list[str] = []
    best = -1.0
    matcher = difflib.SequenceMatcher(b=lines)
    for one in recorded[:_MOST_COMPARED]:
        candidate = _lines(one.asked)
        matcher.set_seq1(candidate)
        if matcher.real_quick_ratio() > best and (ratio := matcher.ratio()) > best:
            best, nearest = ratio, candidate
    changes = [line for line in difflib.unified_diff(nearest, lines, n=1, lineterm="") if not _is_header(line)]
    return _cut(changes)


def _is_header(line: str) -> bool:
    return line.startswith(("--- ", "+++ ", "@@"))


def _lines(form: Form) -> list[str]:
    """Return a form's lines, long ones in pieces, so that what has changed in one is not beyond the edge."""
    lines = text_of(form).splitlines()
    return [line[start : start + _WIDTH] for line in lines for start in range(0, len(line), _WIDTH)]


def _shown(asked: Form) -> str:
    return _cut([f"  {line}" for line in _lines(asked)])


def _cut(lines: Sequence[str]) -> str:
    more = [f"... and {len(lines) - _MOST_LINES} lines more"] if len(lines) > _MOST_LINES else []
    return "\n".join([*lines[:_MOST_LINES], *more])
