"""Several processes on one store, and processes that are killed: the file is right or absent, never wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.models.fetching import MakeStore, gguf_bytes, tree
from tests.models.hub_server import Hold, HubServer

DATA = gguf_bytes(4_000_000)
ROOT = Path(__file__).parents[2]


@contextmanager
def pulling(
    make_store: MakeStore, ref: str = "hf:org/repo", *, max_file_bytes: int = 0
) -> Iterator[subprocess.Popen[str]]:
    """Run a process that pulls; kill it at the end if it still runs."""
    arguments = [str(make_store.home), make_store.hub.url, ref, str(max_file_bytes)]
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.models.pulling", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "COVERAGE_PROCESS_START": ""},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def lines(process: subprocess.Popen[str]) -> list[str]:
    """All that it says until it ends."""
    return process.communicate(timeout=15)[0].splitlines()


@pytest.fixture(autouse=True)
def model(hub: HubServer) -> None:
    """The Hub has one model."""
    hub.add("org/repo", {"m.gguf": DATA})


@pytest.mark.parametrize("known", [True, False], ids=["with a checksum", "without"])
def test_killed_and_started_again_it_goes_on(hub: HubServer, make_store: MakeStore, known: bool) -> None:
    """kill -9 in the middle: no file under its name; the next process asks for the rest only, and it is right."""
    hold = Hold(3_000_000)
    hub.faults.append(hold)
    hub.files["/models/x.gguf"] = DATA
    ref = "hf:org/repo" if known else f"{hub.url}/models/x.gguf"
    with pulling(make_store, ref) as process:
        assert hold.reached.wait(15)
        part = None
        while part is None or part.stat().st_size < 1_000_000:  # what the server sent arrives without our doing
            part = next(make_store.home.glob("partial/*.part"), None)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
    hold.go.set()
    assert not any(name.startswith("models/") for name in tree(make_store.home))
    kept = part.stat().st_size
    store = make_store()
    assert store.pull(ref).path.read_bytes() == DATA
    assert hub.data_requests[-1].headers["range"] == f"bytes={kept}-"
    assert tree(store.home / "partial") == {}


def test_two_processes_share_one_download(hub: HubServer, make_store: MakeStore) -> None:
    """The second waits for the first, and both have the same file, sent once."""
    hold = Hold(1_000_000)
    hub.faults.append(hold)
    with pulling(make_store) as first:
        assert hold.reached.wait(15)
        with pulling(make_store) as second:
            assert second.stdout is not None
            said = []
            while "waiting" not in said:
                said.append(second.stdout.readline().strip())
            hold.go.set()
            assert lines(first)[-1] == lines(second)[-1]
    assert len(hub.data_requests) == 1
    assert make_store().find("hf:org/repo").path.read_bytes() == DATA


def test_when_the_first_is_killed_the_second_goes_on(hub: HubServer, make_store: MakeStore) -> None:
    """The system frees its lock; what it fetched is not fetched again."""
    hold = Hold(2_000_000)
    hub.faults.append(hold)
    with pulling(make_store) as first:
        assert hold.reached.wait(15)
        with pulling(make_store) as second:
            assert second.stdout is not None
            while second.stdout.readline().strip() != "waiting":
                pass
            first.kill()
            first.wait(10)
            path = Path(lines(second)[-1])
    hold.go.set()
    assert path.read_bytes() == DATA
    assert len(hub.data_requests) == 2
    assert hub.data_requests[1].headers["range"] > "bytes=0"


def test_a_full_disk_has_its_name_and_leaves_what_came(hub: HubServer, make_store: MakeStore) -> None:
    """The system takes no more (a limit on a file's size stands for the disk's end); later it goes on."""
    with pulling(make_store, max_file_bytes=1_000_000) as process:
        said = lines(process)[-1]
    assert said.startswith("DiskFullError: no room for m.gguf")
    assert "what had come is kept" in said
    assert [name for name in tree(make_store.home) if name.startswith("models/")] == []
    assert make_store().pull("hf:org/repo").path.read_bytes() == DATA
    assert hub.data_requests[-1].headers["range"] == "bytes=1000000-"


def test_many_processes_note_their_models_at_once(hub: HubServer, make_store: MakeStore) -> None:
    """None of them overwrites what another has noted."""
    names = [f"m{number}-Q4_0.gguf" for number in range(4)]
    hub.add("org/many", {name: gguf_bytes(seed=number) for number, name in enumerate(names)})
    processes = []
    for name in names:
        context = pulling(make_store, f"hf:org/many/{name}")
        processes.append((context, context.__enter__()))
    for context, process in processes:
        assert lines(process)[-1].endswith(".gguf")
        context.__exit__(None, None, None)
    assert {model.path.name for model in make_store().list() if model.origin == "store"} == set(names)
