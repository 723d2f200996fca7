"""Whatever the network does, the file is right or absent in the end, never wrong; and each fault has its name."""

from __future__ import annotations

import hashlib
import random
import socket
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from localllm.errors import (
    AccessDeniedError,
    ChecksumError,
    ConnectionLostError,
    DiskFullError,
    DownloadCancelledError,
    DownloadError,
    DownloadStalledError,
    InvalidModelFileError,
    ModelNotFoundError,
    RateLimitedError,
    ServerError,
    WrongLengthError,
    WrongRangeError,
)
from localllm.models.cancel import Cancellation
from localllm.models.progress import PullProgress
from localllm.models.store import ModelStore
from tests.models.fetching import STALL_S, FakeTime, Log, MakeStore, gguf_bytes, tree
from tests.models.hub_server import (
    Chunked,
    Corrupt,
    Cut,
    Fault,
    Hold,
    HubServer,
    IgnoreRange,
    OtherOffset,
    Redirect,
    Stall,
    Status,
    WrongLength,
)

DATA = gguf_bytes(300_000)
NAME = "model-Q4_K_M.gguf"
REF = "hf:org/repo"


@pytest.fixture(autouse=True)
def model(hub: HubServer) -> None:
    """The Hub has one model."""
    hub.add("org/repo", {NAME: DATA})


def is_right(path: Path) -> bool:
    """Whether the file is what the Hub has."""
    return path.read_bytes() == DATA


def visible(store: ModelStore) -> list[str]:
    """The model files that others would see."""
    return [name for name in tree(store.home) if name.startswith("models/") and name.endswith(".gguf")]


def starts(hub: HubServer) -> list[int]:
    """From which byte on data was asked for, each time."""
    return [int(seen.headers.get("range", "bytes=0-")[6:-1]) for seen in hub.data_requests]


def cut_at_random_bytes(hub: HubServer, make_store: MakeStore, rounds: int) -> int:
    """Pull again and again over a connection that breaks at random bytes; return how often it did."""
    dice, breaks = random.Random(20), 0
    store = make_store()
    while breaks < rounds:
        hub.seen.clear()
        hub.faults.extend(Cut(dice.randrange(len(DATA)), reset=dice.random() < 0.5) for _ in range(4))
        assert is_right(store.pull(REF).path)
        breaks += len(hub.data_requests) - 1  # a cut behind the end of what was left is none
        hub.faults.clear()
        store.remove(REF)
    return breaks


def test_a_connection_cut_at_random_bytes_is_taken_up_again(hub: HubServer, make_store: MakeStore) -> None:
    """Twenty times, politely or not: each pull ends with the right file, and goes on where it was cut."""
    assert cut_at_random_bytes(hub, make_store, 20) >= 20


@pytest.mark.soak
def test_a_connection_cut_two_hundred_times_is_taken_up_again(hub: HubServer, make_store: MakeStore) -> None:
    """The same two hundred times."""
    print(f"{cut_at_random_bytes(hub, make_store, 200)} cuts, no wrong file")


def test_a_cut_costs_only_what_was_lost(hub: HubServer, make_store: MakeStore) -> None:
    """The next request asks for the rest, of the same version, after a pause; and it is told."""
    hub.faults.append(Cut(100_000))
    time, log = FakeTime(), Log()
    model = make_store(time=time).pull(REF, on_progress=log)
    assert is_right(model.path)
    assert starts(hub) == [0, 100_000]
    assert hub.data_requests[1].headers["if-range"] == f'"{hashlib.sha256(DATA).hexdigest()}"'
    assert time.waits == [0.5]
    assert log.phases == ["resolving", "downloading", "retrying", "downloading", "done"]
    retry = next(event for event in log.events if event.phase == "retrying")
    assert "100000 bytes" in retry.detail
    assert retry.done_bytes == 100_000


FOREVER = 9
FINAL: Sequence[tuple[Fault, type[Exception], str]] = (
    (Cut(5), ConnectionLostError, r"failed: .*\(tried 3 times\)"),
    (Status(429), RateLimitedError, "limits the rate"),
    (Status(503), ServerError, "status 503"),
    (Status(418), ServerError, "status 418"),
    (Status(404), ModelNotFoundError, "not found"),
    (Status(403), AccessDeniedError, "access denied"),
    (Status(416), WrongRangeError, "416"),
    (Status(206), WrongRangeError, "a part of .* when asked for all"),
    (WrongLength(7), WrongLengthError, "should have 300"),
    (WrongLength(-7), WrongLengthError, "should have 300"),
    (Chunked(5000), WrongLengthError, "the server sent 5000"),
    (Corrupt(1234), ChecksumError, "SHA-256"),
    (Redirect("ftp://elsewhere/x"), ServerError, "nowhere that can be used"),
    (Redirect("http://user:pass@127.0.0.1/x"), ServerError, "nowhere that can be used"),
)


@pytest.mark.parametrize(("fault", "error", "said"), FINAL, ids=[f"{fault}"[:30] for fault, *_ in FINAL])
def test_a_fault_that_stays_has_its_name_and_leaves_no_file(
    hub: HubServer, make_store: MakeStore, fault: Fault, error: type[Exception], said: str
) -> None:
    """After the retries, where retrying could help; nothing is visible under the model's name; and then it works."""
    hub.faults.extend([fault] * FOREVER)
    store = make_store(retries=2)
    with pytest.raises(error, match=said) as caught:
        store.pull(REF)
    assert isinstance(caught.value, DownloadError | ModelNotFoundError)
    assert visible(store) == []
    hub.faults.clear()
    assert is_right(store.pull(REF).path)


def test_a_stall_is_told_from_a_cut(hub: HubServer, make_store: MakeStore) -> None:
    """The server falls silent: we try again, and give up with an error of its own, which is a TimeoutError."""
    hub.faults.extend([Stall(100_000), Stall(1000)])
    store = make_store(retries=1, stall_s=STALL_S)
    with pytest.raises(DownloadStalledError, match="sends nothing any more") as caught:
        store.pull(REF)
    assert isinstance(caught.value, TimeoutError)
    assert starts(hub) == [0, 100_000]
    assert visible(store) == []
    assert is_right(store.pull(REF).path)


def test_an_ignored_range_begins_anew(hub: HubServer, make_store: MakeStore) -> None:
    """A server that sends everything does not have it appended."""
    hub.faults.extend([Cut(100_000), IgnoreRange()])
    assert is_right(make_store().pull(REF).path)
    assert starts(hub) == [0, 100_000]


def test_another_offset_is_not_appended(hub: HubServer, make_store: MakeStore) -> None:
    """206 from another byte: everything is asked for again."""
    hub.faults.extend([Cut(100_000), OtherOffset(10)])
    assert is_right(make_store().pull(REF).path)
    assert starts(hub) == [0, 100_000, 0]


def test_another_offset_at_each_try_is_an_error(hub: HubServer, make_store: MakeStore) -> None:
    """Rather than an endless loop."""
    hub.faults.extend([Cut(100_000), OtherOffset(10)] * 5)
    store = make_store(retries=3)
    with pytest.raises(WrongRangeError, match="from byte 100000, the server sends 'bytes 99990-"):
        store.pull(REF)
    assert visible(store) == []


def test_416_for_a_rest_begins_anew(hub: HubServer, make_store: MakeStore) -> None:
    """The part is of no use to a server that has no such bytes."""
    hub.faults.extend([Cut(100_000), Status(416, {"Content-Range": f"bytes */{len(DATA)}"})])
    assert is_right(make_store().pull(REF).path)
    assert starts(hub) == [0, 100_000, 0]


@pytest.mark.parametrize("etag", ["sha256", "date", "", "one"])
def test_a_file_that_changes_between_two_tries_is_fetched_anew(
    hub: HubServer, make_store: MakeStore, etag: str
) -> None:
    """Its checksum on the Hub tells, whatever the storage says of versions; nothing of the old one is kept."""
    hub.etag = etag
    hub.faults.extend([Cut(100_000)] * 2)
    store = make_store(retries=0)
    with pytest.raises(ConnectionLostError):
        store.pull(REF)
    new = gguf_bytes(300_000, seed=1)
    hub.repos["org/repo"].files[NAME] = new
    hub.faults.clear()
    assert store.pull(REF).path.read_bytes() == new
    assert starts(hub)[-1] == 0


@pytest.mark.parametrize(("etag", "ranges"), [("sha256", [0, 100_000]), ("date", [0, 100_000]), ("", [0, 0])])
def test_without_a_checksum_only_the_same_version_is_gone_on_with(
    hub: HubServer, make_store: MakeStore, etag: str, ranges: list[int]
) -> None:
    """An address of any server: If-Range takes the ETag or the date; without either, it begins anew."""
    hub.etag = etag
    hub.files["/models/x.gguf"] = DATA
    hub.faults.append(Cut(100_000))
    assert is_right(make_store().pull(f"{hub.url}/models/x.gguf").path)
    assert starts(hub) == ranges


def test_a_changed_etag_without_a_checksum_begins_anew(hub: HubServer, make_store: MakeStore) -> None:
    """If-Range makes the server send all of the new version, and the part of the old one goes."""
    hub.files["/models/x.gguf"] = DATA
    hub.faults.append(Cut(100_000))
    store = make_store(retries=0)
    with pytest.raises(ConnectionLostError):
        store.pull(f"{hub.url}/models/x.gguf")
    new = gguf_bytes(300_000, seed=1)
    hub.files["/models/x.gguf"] = new
    assert store.pull(f"{hub.url}/models/x.gguf").path.read_bytes() == new
    assert starts(hub) == [0, 100_000]


def test_a_damaged_part_is_found_and_fetched_anew(hub: HubServer, make_store: MakeStore) -> None:
    """A part on the disk that is not what came is no worse than a lost connection."""
    hub.faults.append(Cut(100_000))
    store = make_store(retries=0)
    with pytest.raises(ConnectionLostError):
        store.pull(REF)
    (part,) = store.home.glob("partial/*.part")
    part.write_bytes(bytes(100_000))
    assert is_right(make_store().pull(REF).path)
    assert starts(hub) == [0, 100_000, 0]


def test_a_whole_part_needs_no_request(hub: HubServer, make_store: MakeStore) -> None:
    """Killed between the last byte and the file's name: only the checksum is made."""
    hub.faults.append(Cut(len(DATA) - 1))
    store = make_store(retries=0)
    with pytest.raises(ConnectionLostError):
        store.pull(REF)
    (part,) = store.home.glob("partial/*.part")
    part.write_bytes(DATA)
    assert is_right(store.pull(REF).path)
    assert len(hub.data_requests) == 1


def test_retry_after_is_obeyed(hub: HubServer, make_store: MakeStore) -> None:
    """A longer wait than ours, not a shorter one."""
    hub.faults.extend([Status(429, {"Retry-After": "17"}), Status(503, {"Retry-After": "0"})])
    time = FakeTime()
    assert is_right(make_store(time=time).pull(REF).path)
    assert time.waits == [17.0, 1.0]


def test_a_wait_that_is_too_long_is_an_error_at_once(hub: HubServer, make_store: MakeStore) -> None:
    """Nobody sits through an hour."""
    hub.faults.append(Status(429, {"Retry-After": "3600"}))
    time = FakeTime()
    with pytest.raises(RateLimitedError, match="asks to wait 3600 s"):
        make_store(time=time).pull(REF)
    assert time.waits == []


def test_the_hub_s_answer_is_tried_again_too(hub: HubServer, make_store: MakeStore) -> None:
    """Not only the data."""
    hub.api_faults.extend([Status(500), Status(429, {"Retry-After": "3"})])
    time = FakeTime()
    assert is_right(make_store(time=time).pull(REF).path)
    assert time.waits == [0.5, 3.0]


def test_progress_makes_failures_count_anew(hub: HubServer, make_store: MakeStore) -> None:
    """A long download over a bad line ends, though it breaks more often than the retries allow in a row."""
    data = gguf_bytes(12_000_000)
    hub.repos["org/repo"].files[NAME] = data
    hub.faults.extend([Cut(1_500_000)] * 7)
    assert make_store(retries=1).pull(REF).path.read_bytes() == data


def test_a_web_page_is_no_model(hub: HubServer, make_store: MakeStore) -> None:
    """What a login page would be: right bytes, and not visible as a model."""
    hub.files["/models/x.gguf"] = b"<!DOCTYPE html><title>Log in</title>" * 100
    store = make_store()
    with pytest.raises(InvalidModelFileError, match=r"is no model: .*a web page"):
        store.pull(f"{hub.url}/models/x.gguf")
    assert visible(store) == []
    assert list(store.home.glob("partial/*.part")) == []


def test_without_a_length_a_chunked_answer_is_taken(hub: HubServer, make_store: MakeStore) -> None:
    """Its end is marked."""
    hub.files["/models/x.gguf"] = DATA
    hub.faults.append(Chunked())
    log = Log()
    assert is_right(make_store().pull(f"{hub.url}/models/x.gguf", on_progress=log).path)
    assert log.events[-2].total_bytes is None


def test_room_is_looked_for_first(hub: HubServer, make_store: MakeStore) -> None:
    """Nothing is asked for that would not fit; the error has the figures."""
    store = make_store(free=len(DATA))
    with pytest.raises(DiskFullError, match=rf"needs {len(DATA)} bytes more .* has room for {len(DATA)}; free some"):
        store.pull(REF)
    assert hub.data_requests == []


def test_room_is_looked_for_when_the_size_is_told_late(hub: HubServer, make_store: MakeStore) -> None:
    """Another server tells it with the data."""
    hub.files["/models/x.gguf"] = DATA
    store = make_store(free=20_000_000)
    hub.files["/models/x.gguf"] = gguf_bytes(5_000_000)
    with pytest.raises(DiskFullError, match="needs 5000"):
        store.pull(f"{hub.url}/models/x.gguf")
    assert tree(store.home) == {}


def test_cancel_from_another_thread_ends_a_silent_download(hub: HubServer, make_store: MakeStore) -> None:
    """Though it is waiting for the network; what had come is kept and gone on with."""
    hold = Hold(100_000)
    hub.faults.append(hold)
    store, cancel, raised = make_store(stall_s=30), Cancellation(), []

    def pull() -> None:
        with pytest.raises(DownloadCancelledError, match="kept for the next try") as caught:
            store.pull(REF, cancel=cancel)
        raised.append(caught.value)

    thread = threading.Thread(target=pull)
    thread.start()
    assert hold.reached.wait(10)
    cancel.cancel()
    thread.join(10)
    assert raised
    assert visible(store) == []
    hold.go.set()
    assert is_right(store.pull(REF).path)
    with pytest.raises(DownloadCancelledError):
        store.pull(REF, cancel=cancel)


def test_cancel_ends_the_wait_for_a_first_answer(make_store: MakeStore) -> None:
    """A server that takes the connection and says nothing does not hold a cancelled pull."""
    cancel, raised = Cancellation(), []

    def pull(url: str) -> None:
        with pytest.raises(DownloadCancelledError) as caught:
            make_store(stall_s=30).pull(url, cancel=cancel)
        raised.append(caught.value)

    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/x.gguf"
        thread = threading.Thread(target=pull, args=(url,))
        thread.start()
        connection, _ = server.accept()
        with connection:
            cancel.cancel()
            thread.join(10)
    assert raised


def test_of_three_at_once_one_is_cancelled(hub: HubServer, make_store: MakeStore) -> None:
    """The other two go on and end right, each with its own progress."""
    holds, logs = [Hold(1000) for _ in range(3)], [Log() for _ in range(3)]
    contents = [gguf_bytes(200_000, seed=seed) for seed in range(3)]
    for number, content in enumerate(contents):
        hub.add(f"org/repo{number}", {NAME: content})
    store, cancel, results = make_store(), Cancellation(), dict[int, object]()
    threads = []

    def pull(number: int) -> None:
        try:
            given = cancel if number == 1 else None
            results[number] = store.pull(f"hf:org/repo{number}", on_progress=logs[number], cancel=given).path
        except DownloadError as exc:
            results[number] = exc

    for number, hold in enumerate(holds):
        hub.faults.append(hold)
        thread = threading.Thread(target=pull, args=(number,))
        thread.start()
        threads.append(thread)
        assert hold.reached.wait(10)
    cancel.cancel()
    threads[1].join(10)
    assert isinstance(results[1], DownloadCancelledError)
    for hold in holds:
        hold.go.set()
    for thread in threads:
        thread.join(10)
    for number in (0, 2):
        path = results[number]
        assert isinstance(path, Path)
        assert path.read_bytes() == contents[number]
        assert {event.ref for event in logs[number].events} == {f"hf:org/repo{number}"}
        assert logs[number].events[-1].phase == "done"


def test_two_threads_that_want_the_same_file_share_one_download(hub: HubServer, make_store: MakeStore) -> None:
    """The second waits, sees the first one's progress, and asks for no data."""
    hold, logs, paths = Hold(100_000), [Log(), Log()], []
    hub.faults.append(hold)
    waiting = threading.Event()

    def pull(log: Log) -> None:
        def report(progress: PullProgress) -> None:
            log(progress)
            if progress.phase == "waiting":
                waiting.set()

        paths.append(make_store().pull(REF, on_progress=report).path)

    first, second = (threading.Thread(target=pull, args=(log,)) for log in logs)
    first.start()
    assert hold.reached.wait(10)
    second.start()
    assert waiting.wait(10)
    hold.go.set()
    first.join(10)
    second.join(10)
    assert len(paths) == 2
    assert paths[0] == paths[1]
    assert is_right(paths[0])
    assert len(hub.data_requests) == 1
    assert "waiting" in logs[1].phases


def test_progress_can_cancel(hub: HubServer, make_store: MakeStore) -> None:
    """By returning False, and by raising, which is raised again as it was."""
    with pytest.raises(DownloadCancelledError):
        make_store().pull(REF, on_progress=lambda progress: progress.phase != "downloading")

    def fail(progress: PullProgress) -> None:
        raise OSError("the window was closed")

    with pytest.raises(OSError, match="the window was closed"):
        make_store().pull(REF, on_progress=fail)
    assert is_right(make_store().pull(REF).path)


def test_fetching_again_asks_for_no_data(hub: HubServer, make_store: MakeStore) -> None:
    """What is here is not fetched; the Hub is asked what the revision means now."""
    first = make_store().pull(REF)
    assert make_store().pull(REF) == first
    assert (len(hub.data_requests), len(hub.api_requests)) == (1, 2)
