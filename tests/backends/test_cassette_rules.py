"""The conformance suite, recorded around a fake model and then played without it: both keep every rule."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from localllm import FakeBackend, FakeReply, RecordingBackend, ReplayBackend
from localllm.backends.cassettes.files import read_tapes
from localllm.testing import Check, backend_checks
from tests.backends.mutants import LONG_TEXT

_WELL = FakeReply(LONG_TEXT, thought="Let me think.")
_BROKEN = FakeReply(LONG_TEXT, error=ValueError("midway"), error_at=5)


@pytest.mark.parametrize("check", backend_checks(), ids=lambda check: check.name)
def test_a_recording_and_its_replay_keep_the_rule(check: Check, tmp_path: Path) -> None:
    """What the suite asks of the replay is what it asked of the recording, so that nothing is missed."""
    path = tmp_path / "suite.json"

    def recording(reply: FakeReply) -> RecordingBackend:
        return RecordingBackend(FakeBackend(itertools.repeat(reply)), path)

    check.run(lambda: recording(_WELL), failing=lambda: recording(_BROKEN), requests=300)
    assert read_tapes(path)
    check.run(lambda: ReplayBackend(path), failing=lambda: ReplayBackend(path), requests=300)
