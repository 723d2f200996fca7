"""The managers' side of the store: find, fetch, size up and load through one object, sync and async."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest

from localllm import (
    AsyncModelManager,
    ChatSession,
    ClosedError,
    DownloadCancelledError,
    Downloading,
    Failed,
    InvalidOptionError,
    LoadCancelledError,
    LoadProgress,
    ManagerSnapshot,
    ModelManager,
    ModelNotFoundError,
    PullProgress,
)
from tests.models.fetching import MakeStore, gguf_bytes
from tests.models.hub_server import HubServer


def test_a_model_that_is_elsewhere_is_fetched_loaded_and_answers(
    hub: HubServer, make_store: MakeStore, smollm2_path: Path
) -> None:
    """One call does it, and tells both parts of the way; the second load needs no network."""
    hub.add("org/repo", {"model-Q4_1.gguf": smollm2_path.read_bytes()})
    told: list[LoadProgress] = []
    with ModelManager(isolation="thread", store=make_store()) as models:
        model = models.load("hf:org/repo", on_progress=told.append)
        assert ChatSession(model).send("Say hi.", max_tokens=4).text
        asked = len(hub.seen)
        models.load("hf:org/repo").close()
        assert len(hub.seen) == asked
        assert [stored.ref for stored in models.list()][:1] == [model_ref(models)]
    phases = [progress.phase for progress in told]
    assert "downloading" in phases
    assert phases[-1] == "loading"
    assert all(0 <= progress.fraction <= 1 for progress in told)


def model_ref(models: ModelManager) -> str:
    """Return the reference of what was fetched."""
    return models.store.find("hf:org/repo").ref


def test_a_load_that_is_refused_while_it_fetches_is_cancelled(hub: HubServer, make_store: MakeStore) -> None:
    """The progress function's False ends the download, as it ends a load."""
    hub.add("org/repo", {"m-Q4_K_M.gguf": gguf_bytes(40_000)})
    with ModelManager(isolation="thread", store=make_store()) as models, pytest.raises(LoadCancelledError):
        models.load("hf:org/repo", on_progress=lambda progress: False)


def test_what_is_nowhere_is_not_found(hub: HubServer, make_store: MakeStore) -> None:
    """Neither here nor there."""
    with ModelManager(isolation="thread", store=make_store()) as models:
        with pytest.raises(ModelNotFoundError):
            models.load("hf:org/none")
        with pytest.raises(ModelNotFoundError):
            models.load("no-such-model")


def test_the_store_is_asked_through_the_manager(hub: HubServer, make_store: MakeStore, smollm2_path: Path) -> None:
    """Pull, list, inspect, estimate, verify and remove."""
    hub.add("org/repo", {"model-Q4_1.gguf": smollm2_path.read_bytes()})
    told: list[PullProgress] = []
    with ModelManager(store=make_store()) as models:
        stored = models.pull("hf:org/repo", on_progress=told.append)
        assert told[-1].phase == "done"
        assert stored in models.list()
        assert models.inspect("hf:org/repo").architecture == "llama"
        found = models.estimate("hf:org/repo")
        assert found.n_ctx == 8192
        assert found.kv_bytes > found.kv_bytes_per_1000_tokens * 8
        assert models.verify("hf:org/repo").ok
        models.remove("hf:org/repo")
        assert stored not in models.list()


def test_a_download_is_told_to_those_who_watch(hub: HubServer, make_store: MakeStore) -> None:
    """From its beginning to its end, and why it ended; what is here already is no download."""
    hub.add("org/repo", {"m-Q4_K_M.gguf": gguf_bytes(40_000)})
    with ModelManager(store=make_store()) as models:
        watch = models.watch()
        with pytest.raises(DownloadCancelledError):
            models.pull("hf:org/repo", on_progress=lambda progress: False)
        models.pull("hf:org/repo")
        models.pull("smollm2-135m")
        assert models.snapshot().downloads == ()
    events = [event for event in watch if not isinstance(event, ManagerSnapshot)]
    names = [type(event).__name__ for event in events if not isinstance(event, Downloading)]
    assert names == ["Failed", "Downloaded"]
    first, *_ = sorted({event.id for event in events})
    assert {type(event) for event in events if event.id == first} == {Downloading, Failed}
    assert [event.progress.phase for event in events if isinstance(event, Downloading)][-1] == "done"
    assert all(event.ref == "hf:org/repo" for event in events)


def test_closing_the_manager_ends_its_downloads(hub: HubServer, make_store: MakeStore) -> None:
    """At once; what has come is kept for the next try."""
    hub.add("org/repo", {"m-Q4_K_M.gguf": gguf_bytes(40_000)})
    with ModelManager(store=make_store()) as models:

        def close(progress: PullProgress) -> None:
            if progress.phase == "downloading":
                models.close()

        with pytest.raises(DownloadCancelledError):
            models.pull("hf:org/repo", on_progress=close)
    with ModelManager(isolation="thread", store=make_store()) as others:

        def close_too(progress: LoadProgress) -> None:
            others.close()

        with pytest.raises(ClosedError, match="this ModelManager is closed"):
            others.load("hf:org/repo", on_progress=close_too)


def test_the_async_manager_has_the_same(hub: HubServer, make_store: MakeStore, smollm2_path: Path) -> None:
    """Awaited."""
    hub.add("org/repo", {"model-Q4_1.gguf": smollm2_path.read_bytes()})

    async def use() -> None:
        async with AsyncModelManager(store=make_store()) as models:
            stored = await models.pull("hf:org/repo")
            assert stored in await models.list()
            assert (await models.inspect("hf:org/repo")).architecture == "llama"
            assert (await models.estimate("hf:org/repo")).n_ctx == 8192
            assert (await models.verify("hf:org/repo")).ok
            await models.remove("hf:org/repo")
            assert stored not in await models.list()

    asyncio.run(use())


def test_cancelling_a_task_cancels_its_download(hub: HubServer, make_store: MakeStore, smollm2_path: Path) -> None:
    """What has come is kept for the next try, and nothing is visible."""
    hub.add("org/repo", {"model-Q4_1.gguf": smollm2_path.read_bytes()})

    async def use() -> None:
        async with AsyncModelManager(store=make_store()) as models:
            begun, go = asyncio.Event(), threading.Event()
            loop = asyncio.get_running_loop()

            def tell(progress: PullProgress) -> None:
                if progress.phase == "downloading":
                    loop.call_soon_threadsafe(begun.set)
                    assert go.wait(10)

            pull = asyncio.create_task(models.pull("hf:org/repo", on_progress=tell))
            await begun.wait()
            pull.cancel()
            loop.call_soon(go.set)  # after the task was told
            with pytest.raises(asyncio.CancelledError):
                await pull
            with pytest.raises(ModelNotFoundError):
                await models.inspect("hf:org/repo")

    asyncio.run(use())


def test_a_store_must_be_one() -> None:
    """A path is not enough."""
    with pytest.raises(InvalidOptionError, match="store must be a ModelStore"):
        ModelManager(store="/tmp")  # type: ignore[arg-type]
