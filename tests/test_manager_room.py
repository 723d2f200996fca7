"""What makes room for a model under `memory_budget_bytes`, and what is told when there is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from localllm import (
    GenerateRequest,
    InsufficientMemoryError,
    InvalidOptionError,
    Message,
    Model,
    ModelConfig,
    ModelManager,
    RequestOptions,
)
from localllm.testing import ManualClock
from tests.chats import in_thread
from tests.residency.gates import Gate, Loads, Log, no_thread_left


def request(text: str = "hi", timeout_s: float | None = None) -> GenerateRequest:
    """Return a request."""
    return GenerateRequest(messages=(Message.user(text),), options=RequestOptions(timeout_s=timeout_s))


class Sized(Loads):
    """Files whose size is what they take."""

    uses_files = True


def files(folder: Path, **sizes: int) -> dict[str, Path]:
    """Write files of so many bytes."""
    made = {}
    for name, count in sizes.items():
        made[name] = folder / f"{name}.gguf"
        made[name].write_bytes(b"G" * count)
    return made


def test_the_least_recently_used_makes_room(tmp_path: Path) -> None:
    """As few as need be go, they come back at the next use, and then others go."""
    paths = files(tmp_path, a=40, b=40, c=40)
    backend = Sized()
    clock = ManualClock()
    with ModelManager(backend, memory_budget_bytes=100, clock=clock) as models:
        loaded: dict[str, Model] = {}

        def there() -> set[str]:
            return {Path(each.ref).stem for each in models.snapshot().models if each.state == "ready"}

        for name in ("a", "b"):
            clock.advance(1)
            loaded[name] = models.load(paths[name])
        assert there() == {"a", "b"}
        clock.advance(1)
        loaded["a"].tokenize("x")
        clock.advance(1)
        loaded["c"] = models.load(paths["c"])
        assert there() == {"a", "c"}
        clock.advance(1)
        loaded["b"].tokenize("x")
        assert there() == {"b", "c"}
        assert [each.memory_bytes for each in models.snapshot().models] == [40, 40, 40]


def test_what_is_in_use_does_not_make_room(tmp_path: Path) -> None:
    """Busy and pinned models stay, and the newcomer is refused with the figures; nothing is unloaded in vain."""
    paths = files(tmp_path, a=40, b=40, c=10, d=80, e=200)
    backend = Sized()
    with ModelManager(backend, memory_budget_bytes=100) as models:
        busy, pinned, idle = models.load(paths["a"]), models.load(paths["b"], pin=True), models.load(paths["c"])
        busy.submit(request(), Log())
        with pytest.raises(InsufficientMemoryError) as caught:
            models.load(paths["d"])
        for figure in ("80 bytes", "100 bytes", "a.gguf (40 bytes, busy)", "b.gguf (40 bytes, pinned)"):
            assert figure in str(caught.value)
        with pytest.raises(InsufficientMemoryError, match="needs 200 bytes, and memory_budget_bytes is 100 bytes; "):
            models.load(paths["e"])
        assert [made.closed for made in backend.made] == [0, 0, 0]
        assert len(models.snapshot().models) == 3
        assert pinned.tokenize("x")
        assert idle.tokenize("x")


def test_a_request_whose_model_finds_no_room_says_so(tmp_path: Path) -> None:
    """It ends with the error of the load, and the next one may find room."""
    paths = files(tmp_path, a=60, b=60)
    backend = Sized()
    with ModelManager(backend, memory_budget_bytes=100) as models:
        first, second = models.load(paths["a"]), models.load(paths["b"])
        log, failing = Log(), Log()
        handle = second.submit(request(), log)
        first.submit(request(), failing)
        assert isinstance(failing.end().error, InsufficientMemoryError)
        handle.cancel()
        assert first.tokenize("x")
        assert [made.closed for made in backend.made] == [1, 1, 0]


def test_two_loads_do_not_count_on_the_same_room(tmp_path: Path) -> None:
    """One of them comes in; the other one is told who has the room."""
    paths = files(tmp_path, a=60, b=60)
    gate = Gate()
    backend = Sized(gate)
    with ModelManager(backend, memory_budget_bytes=100) as models:
        loaded: list[Model] = []
        wait = in_thread(lambda: loaded.append(models.load(paths["a"])))
        gate.wait()
        with pytest.raises(InsufficientMemoryError, match=r"a.gguf \(60 bytes, loading\)"):
            models.load(paths["b"])
        gate.open()
        assert wait() is None


def test_a_budget_counts_what_llama_cpp_will_take(smollm2_path: Path) -> None:
    """The estimate, not the size of the file, which is less."""
    config = ModelConfig(n_ctx=512)
    with ModelManager(isolation="thread", memory_budget_bytes=120 << 20) as models:
        assert smollm2_path.stat().st_size < 120 << 20 < models.estimate(smollm2_path, config).peak_bytes
        with pytest.raises(InsufficientMemoryError, match=r"needs \d+ MiB, and memory_budget_bytes is 120 MiB"):
            models.load(smollm2_path, config=config)


@pytest.mark.parametrize("wrong", [0, -1, 1.5, "1", True])
def test_a_budget_is_a_number_of_bytes(wrong: int) -> None:
    """Anything else is refused at once."""
    with pytest.raises(InvalidOptionError, match="memory_budget_bytes must be a number of bytes"):
        ModelManager(Loads(), memory_budget_bytes=wrong)


def test_models_come_and_go_under_many_threads(tmp_path: Path) -> None:
    """With room for two of four, and handles opened and closed all the time: every question is answered."""
    paths = files(tmp_path, a=40, b=40, c=40, d=40)
    backend = Sized()
    failures: list[InsufficientMemoryError] = []

    def work(name: str) -> Callable[[], None]:
        def ask() -> None:
            for _ in range(30):
                try:
                    with models.load(paths[name]) as model:
                        assert model.tokenize("hi") == (104, 105)
                except InsufficientMemoryError as exc:  # two others were in use at that moment
                    failures.append(exc)

        return ask

    with no_thread_left(), ModelManager(backend, memory_budget_bytes=100) as models:
        waits = [in_thread(work(name)) for name in "aabbccdd"]
        assert [wait() for wait in waits] == [None] * 8
        assert models.snapshot().models == ()
    assert all(made.closed == 1 for made in backend.made)
    assert len(failures) < 240
