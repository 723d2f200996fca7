"""The environment that a worker is started with."""

from __future__ import annotations

import pytest

from localllm import ModelManager
from localllm.backends.openmp import SPINS
from tests.worker import hostile
from tests.worker.harness import ask, nothing_left


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"GOMP_SPINCOUNT": str(SPINS)}),
        ({"GOMP_SPINCOUNT": "7"}, {"GOMP_SPINCOUNT": "7"}),
        ({"OMP_WAIT_POLICY": "passive"}, {"OMP_WAIT_POLICY": "passive"}),
    ],
    ids=str,
)
def test_threads_spin_little_unless_the_user_decides(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], expected: dict[str, str]
) -> None:
    """Either variable of the application's environment is the user's decision, and reaches the worker as it is."""
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with nothing_left(), ModelManager(hostile.PATH) as models:
        model = models.load("ok")
        found = {name: ask(model, f"environment {name}").text for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    assert {name: value for name, value in found.items() if value} == expected
