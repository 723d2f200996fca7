"""A gigabyte over loopback, beside curl: figures, printed by `make soak`."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from localllm.models.cancel import Cancellation
from localllm.models.download import Download
from localllm.models.http import Http
from localllm.models.network import Network
from localllm.models.progress import Meter, PullProgress
from localllm.models.resume import Wanted

GIB = 1024**3

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


@pytest.fixture
def gigabyte(tmp_path: Path) -> Path:
    """A file of a gigabyte."""
    path = tmp_path / "gigabyte"
    block = os.urandom(1024 * 1024)
    with path.open("wb") as file:
        for number in range(GIB // len(block)):
            file.write(number.to_bytes(8, "little") + block[8:])
    return path


@pytest.fixture
def url(gigabyte: Path) -> Iterator[str]:
    """Where a process of its own serves it, as fast as the system can."""
    command = [sys.executable, "-c", _SERVER, str(gigabyte)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}/x.gguf"
        process.kill()


def resident_bytes() -> int:
    """The memory that this process has now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def remember_memory(found: list[int], progress: PullProgress) -> None:
    """Note what memory this process has."""
    found.append(resident_bytes())


@pytest.mark.soak
def test_a_gigabyte_beside_curl(url: str, gigabyte: Path, tmp_path: Path) -> None:
    """With the hash on, fsync included; the best of three each. Memory stays flat."""
    curl = shutil.which("curl")
    if curl is None:
        pytest.fail("curl is needed to compare with")
    with gigabyte.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    theirs, ours, grown = [], [], []
    for _ in range(3):
        start = time.monotonic()
        subprocess.run([curl, "-s", "-o", tmp_path / "curl", url], check=True, timeout=60)
        theirs.append(time.monotonic() - start)
        (tmp_path / "curl").unlink()
        cancel, most = Cancellation(), [resident_bytes()]
        meter = Meter("x", now=time.monotonic, callback=partial(remember_memory, most), cancel=cancel)
        before, start = resident_bytes(), time.monotonic()
        with Http(Network(), cancel) as http:
            wanted = Wanted(url=url, name="x", size_bytes=GIB, sha256=digest)
            part = tmp_path / "x.part"
            download = Download(wanted, part, http=http, network=Network(), meter=meter, cancel=cancel)
            assert download.run() == digest
        ours.append(time.monotonic() - start)
        grown.append(max(most) - before)
        download.discard()
    rates = f"{GIB / min(ours) / 1e6:.0f} MB/s, curl {GIB / min(theirs) / 1e6:.0f} MB/s"
    print(f"{rates}, ratio {min(theirs) / min(ours):.2f}; memory grew by {max(grown) / 2**20:.0f} MiB")
    assert max(grown) < 64 * 1024**2
