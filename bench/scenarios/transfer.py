"""A download beside curl's: a large file from a server on loopback, which sends as fast as the system can."""

from __future__ import annotations

import hashlib
import itertools
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from attrs import frozen

from bench.systems.base import System
from bench.table import Figures

SIZE_BYTES = 1 << 30
_BLOCK_BYTES = 1 << 20
_LIMIT_S = 120.0

_SERVER = """
import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *arguments): pass
    def do_GET(self):
        size = os.path.getsize(sys.argv[1])
        self.send_response(200)
        self.send_header("Content-Length", str(size))
        self.end_headers()
        self.wfile.flush()
        with open(sys.argv[1], "rb") as file:
            sent = 0
            while sent < size:
                sent += os.sendfile(self.connection.fileno(), file.fileno(), sent, size - sent)
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_address[1], flush=True)
server.serve_forever()
"""


@frozen
class _Transfer:
    """One download.

    Args:
        rate: In MB/s.
        processor_s: Processor time.
        synced: The rate where the file is brought to the disk, too, in MB/s.
        memory: The most that the process grew by, in MiB; not known of curl.
    """

    rate: float
    processor_s: float
    synced: float = 0.0
    memory: float = 0.0


def download(system: System, round_: int) -> Figures:
    """The rate of a download beside curl's, both with and without bringing the file to the disk; memory in between."""
    curl = shutil.which("curl")
    checked: list[_Transfer] = []
    whole: list[_Transfer] = []
    curls: list[_Transfer] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        digest = _write_file(folder / "source")
        with _serving(folder / "source") as url:
            runs: list[Callable[[], None]] = [
                lambda: whole.append(_own(url, digest, folder)),
                lambda: checked.append(_without_sync(url, digest, folder)),
            ]
            if curl is not None:
                runs.append(lambda: curls.append(_by_curl(curl, url, folder)))
            for turn in itertools.permutations(runs):  # who comes first leaves the next more or less memory at hand
                for run in turn:
                    run()
    figures = {
        "rate": statistics.median(each.rate for each in checked),
        "whole": statistics.median(each.rate for each in whole),
        "cpu": statistics.median(each.processor_s for each in whole),
        "memory": max(each.memory for each in whole),
    }
    if curls:
        figures["curl"] = statistics.median(each.rate for each in curls)
        figures["curl_synced"] = statistics.median(each.synced for each in curls)
        figures["curl_cpu"] = statistics.median(each.processor_s for each in curls)
        figures["ratio"] = figures["rate"] / figures["curl"]
        figures["whole_ratio"] = figures["whole"] / figures["curl_synced"]
    return figures


def _write_file(path: Path) -> str:
    """Write a file, no two blocks of which are alike, and return its checksum."""
    block, digest = os.urandom(_BLOCK_BYTES), hashlib.sha256()
    with path.open("wb") as file:
        for number in range(SIZE_BYTES // _BLOCK_BYTES):
            part = number.to_bytes(8, "little") + block[8:]
            digest.update(part)
            file.write(part)
        os.fsync(file.fileno())
    return digest.hexdigest()


@contextmanager
def _serving(path: Path) -> Iterator[str]:
    """Serve a file from a process of its own."""
    with subprocess.Popen([sys.executable, "-c", _SERVER, str(path)], stdout=subprocess.PIPE, text=True) as process:
        if process.stdout is None:
            raise RuntimeError("the server has no output")
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}/x.gguf"
        finally:
            process.kill()


def _by_curl(curl: str, url: str, folder: Path) -> _Transfer:
    """Download with curl, which checks nothing, then bring the file to the disk."""
    target = folder / "curl"
    start_s, before_s = time.perf_counter(), _processor_s(resource.RUSAGE_CHILDREN)
    subprocess.run([curl, "-q", "-s", "--noproxy", "*", "-o", target, url], check=True, timeout=_LIMIT_S)
    took_s, busy_s = time.perf_counter() - start_s, _processor_s(resource.RUSAGE_CHILDREN) - before_s
    with target.open("rb+") as file:
        os.fsync(file.fileno())
    synced_s = time.perf_counter() - start_s
    if target.stat().st_size != SIZE_BYTES:
        raise RuntimeError(f"curl fetched {target.stat().st_size} bytes of {SIZE_BYTES}")
    target.unlink()
    return _Transfer(rate=SIZE_BYTES / took_s / 1e6, processor_s=busy_s, synced=SIZE_BYTES / synced_s / 1e6)


def _without_sync(url: str, digest: str, folder: Path) -> _Transfer:
    """Download without bringing the file to the disk, as curl does."""
    sync = os.fsync
    os.fsync = lambda fd: None
    try:
        return _own(url, digest, folder)
    finally:
        os.fsync = sync


def _own(url: str, digest: str, folder: Path) -> _Transfer:
    from localllm.models.cancel import Cancellation
    from localllm.models.download import Download
    from localllm.models.http import Http
    from localllm.models.network import Network
    from localllm.models.progress import Meter
    from localllm.models.resume import Wanted

    cancel, network = Cancellation(), Network()
    meter = Meter("x", now=time.monotonic, callback=lambda progress: None, cancel=cancel)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _peak_bytes()
    start_s, before_s = time.perf_counter(), _processor_s(resource.RUSAGE_SELF)
    with Http(network, cancel) as http:
        wanted = Wanted(url=url, name="x", size_bytes=SIZE_BYTES, sha256=digest)
        fetched = Download(wanted, folder / "x.part", http=http, network=network, meter=meter, cancel=cancel)
        fetched.run()
    took_s, busy_s = time.perf_counter() - start_s, _processor_s(resource.RUSAGE_SELF) - before_s
    memory = (_peak_bytes() - before) / 2**20
    fetched.discard()
    return _Transfer(rate=SIZE_BYTES / took_s / 1e6, processor_s=busy_s, memory=memory)


def _processor_s(who: int) -> float:
    """Return the processor time that this process, or those of its children that have ended, took."""
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


def _peak_bytes() -> int:
    """Return the most memory that this process has had resident since the peak began anew."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024
