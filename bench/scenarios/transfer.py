"""A download beside curl's: a large file from a server on loopback, which sends as fast as the system can."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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


def download(system: System, round_: int) -> Figures:
    """The rate of a download, hash and fsync included, and curl's, which go first in turns; memory in between."""
    curl = shutil.which("curl")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        digest = _write_file(folder / "source")
        with _serving(folder / "source") as url:
            figures = {} if round_ % 2 else _own(url, digest, folder)
            if curl is not None:
                figures["curl"] = _by_curl(curl, url, folder)
            if round_ % 2:
                figures |= _own(url, digest, folder)
    if curl is not None:
        figures["ratio"] = figures["rate"] / figures["curl"]
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


def _by_curl(curl: str, url: str, folder: Path) -> float:
    target = folder / "curl"
    start_s = time.perf_counter()
    subprocess.run([curl, "-s", "--noproxy", "*", "-o", target, url], check=True, timeout=_LIMIT_S)
    rate = SIZE_BYTES / (time.perf_counter() - start_s) / 1e6
    target.unlink()
    return rate


def _own(url: str, digest: str, folder: Path) -> dict[str, float]:
    from localllm.models.cancel import Cancellation
    from localllm.models.download import Download
    from localllm.models.http import Http
    from localllm.models.network import Network
    from localllm.models.progress import Meter, PullProgress
    from localllm.models.resume import Wanted

    seen = [_resident_bytes()]

    def note(progress: PullProgress) -> None:
        seen.append(_resident_bytes())

    cancel, network = Cancellation(), Network()
    meter = Meter("x", now=time.monotonic, callback=note, cancel=cancel)
    start_s = time.perf_counter()
    with Http(network, cancel) as http:
        wanted = Wanted(url=url, name="x", size_bytes=SIZE_BYTES, sha256=digest)
        fetched = Download(wanted, folder / "x.part", http=http, network=network, meter=meter, cancel=cancel)
        fetched.run()
    rate = SIZE_BYTES / (time.perf_counter() - start_s) / 1e6
    fetched.discard()
    return {"rate": rate, "memory": (max(seen) - seen[0]) / 2**20}


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
