"""A Hub on loopback: the routes that downloads use, a storage behind a redirect to another host, and faults on order.

    with hub_server() as hub:
        hub.add("org/repo", {"model-Q4_K_M.gguf": data})
        hub.faults.append(Cut(1000))
        ModelStore(home, endpoint=hub.url).pull("hf:org/repo")
        assert hub.data_requests[-1].headers["range"] == "bytes=1000-"

The Hub answers at 127.0.0.1 and redirects to `localhost`, which is another host as far as tokens are concerned.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import socket
import ssl
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TypeAlias
from urllib.parse import unquote, urlsplit

from attrs import define, field, frozen

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_RANGE = re.compile(r"bytes=([0-9]+)-")


@frozen
class Cut:
    """Break the connection after so many bytes of the body."""

    after_bytes: int
    reset: bool = False


@frozen
class Stall:
    """Send nothing more after so many bytes of the body, until the server ends."""

    after_bytes: int


@frozen
class Hold:
    """Send nothing more after so many bytes of the body, until `go` is set; set `reached` then."""

    after_bytes: int
    reached: threading.Event = field(factory=threading.Event)
    go: threading.Event = field(factory=threading.Event)


@frozen
class Status:
    """Answer with this status, without data."""

    status: int
    headers: Mapping[str, str] = field(factory=dict)


@frozen
class WrongLength:
    """Announce, and send, so many bytes more (or fewer) than the file has."""

    more: int


@frozen
class IgnoreRange:
    """Send everything, whatever was asked for."""


@frozen
class OtherOffset:
    """Answer 206, from so many bytes before what was asked for."""

    before: int


@frozen
class Corrupt:
    """Send as many bytes, of which one is another."""

    at: int


@frozen
class Redirect:
    """Redirect to this address."""

    to: str


@frozen
class Chunked:
    """Send it without saying how long it is, and end after so many bytes."""

    end_bytes: int | None = None


Fault: TypeAlias = (
    Cut | Stall | Hold | Status | WrongLength | IgnoreRange | OtherOffset | Corrupt | Redirect | Chunked | None
)
"""What goes wrong with one request for data; None for nothing."""


@frozen
class Seen:
    """A request as it came."""

    path: str
    headers: Mapping[str, str]


@define
class Repo:
    """A repository: its files at one commit, and what is told of them."""

    files: dict[str, bytes]
    commit: str = COMMIT
    listed: dict[str, str] = field(factory=dict)
    """Names under which the API lists files, by their real ones: what a hostile Hub would say."""
    token: str = ""
    """What opens it; empty for a public one."""


@define(eq=False)
class HubServer:
    """A running server. Change its fields at any time.

    Args:
        url: Its address as the Hub.
    """

    url: str
    repos: dict[str, Repo] = field(factory=dict)
    files: dict[str, bytes] = field(factory=dict)
    """Other files by path, such as "/models/x.gguf"."""
    faults: deque[Fault] = field(factory=deque)
    """One for each request for data, in their order; none when it is empty."""
    api_faults: deque[Status | None] = field(factory=deque)
    seen: list[Seen] = field(factory=list)
    etag: str = "sha256"
    """What the storage identifies files with: "sha256", "" for nothing, "date" for a date, or a text."""
    redirects: bool = True
    """Whether data comes from another host."""
    ended: threading.Event = field(factory=threading.Event)
    lock: threading.Lock = field(factory=threading.Lock)

    def add(self, repo: str, files: Mapping[str, bytes]) -> Repo:
        """Put a repository there."""
        self.repos[repo] = Repo(dict(files))
        return self.repos[repo]

    def next_fault(self) -> Fault:
        """Take the next fault."""
        with self.lock:
            return self.faults.popleft() if self.faults else None

    @property
    def data_requests(self) -> list[Seen]:
        """The requests for data: those that were not answered with a redirect or by the API."""
        return [seen for seen in self.seen if seen.path.startswith(("/storage/", "/models/"))]

    @property
    def api_requests(self) -> list[Seen]:
        """The requests for a repository's description."""
        return [seen for seen in self.seen if seen.path.startswith("/api/")]

    @property
    def storage(self) -> str:
        """The storage's address: the same server under another name."""
        return self.url.replace("127.0.0.1", "localhost")


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubServer

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""

    def do_GET(self) -> None:
        """Answer one request."""
        hub = self.hub
        headers = {name.lower(): value for name, value in self.headers.items()}
        path = self.path
        if path.startswith("http://"):  # asked as a proxy
            headers["x-was-proxied"] = "yes"
            path = urlsplit(path).path
        with hub.lock:
            hub.seen.append(Seen(path, headers))
        route = unquote(urlsplit(path).path)
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(.+)", route)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", route)
        if api is not None:
            self.describe(hub.repos.get(api[1]), api[2])
        elif file is not None:
            self.point_to(hub.repos.get(file[1]), file[1], file[3])
        elif route.startswith("/storage/"):
            org, repo, name = route.removeprefix("/storage/").split("/", 2)
            self.send_data(hub.repos[f"{org}/{repo}"].files[name])
        elif route in hub.files:
            self.send_data(hub.files[route])
        else:
            self.empty(404)

    def describe(self, repo: Repo | None, revision: str) -> None:
        """Answer as the API."""
        with self.hub.lock:
            fault = self.hub.api_faults.popleft() if self.hub.api_faults else None
        if fault is not None:
            self.empty(fault.status, fault.headers)
            return
        if not self.allowed(repo):
            return
        assert repo is not None
        if revision not in ("main", repo.commit, "v1", "refs/pr/1"):
            self.empty(404, {"X-Error-Code": "RevisionNotFound"})
            return
        siblings: list[dict[str, object]] = [{"rfilename": "README.md", "size": 10, "blobId": "0" * 40}]
        for name, data in repo.files.items():
            lfs = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 135}
            siblings.append({"rfilename": repo.listed.get(name, name), "size": len(data), "lfs": lfs})
        body = json.dumps({"id": "org/repo", "sha": repo.commit, "siblings": siblings}).encode()
        self.send_response(200)
        if "gzip" in self.headers.get("Accept-Encoding", ""):  # as the Hub does
            body = gzip.compress(body)
            self.send_header("Content-Encoding", "gzip")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def point_to(self, repo: Repo | None, repo_name: str, name: str) -> None:
        """Answer as the Hub does when asked for a file."""
        if not self.allowed(repo):
            return
        assert repo is not None
        if name not in repo.files:
            self.empty(404, {"X-Error-Code": "EntryNotFound"})
            return
        data = repo.files[name]
        headers = {
            "X-Repo-Commit": repo.commit,
            "X-Linked-Size": str(len(data)),
            "X-Linked-ETag": f'"{hashlib.sha256(data).hexdigest()}"',
        }
        if not self.hub.redirects:
            self.send_data(data)
            return
        self.empty(302, headers | {"Location": f"{self.hub.storage}/storage/{repo_name}/{name}?X-Signature=s3cret"})

    def allowed(self, repo: Repo | None) -> bool:
        """Say whether the repository is there for who asks; else answer as the Hub does."""
        given = self.headers.get("Authorization", "")
        if repo is None:
            self.empty(401 if not given else 404, {"X-Error-Code": "RepoNotFound"})
        elif repo.token and given != f"Bearer {repo.token}":
            self.empty(403 if given else 401, {"X-Error-Code": "GatedRepo"})
        else:
            return True
        return False

    def empty(self, status: int, headers: Mapping[str, str] | None = None) -> None:
        """Answer without a body."""
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send_data(self, data: bytes) -> None:
        """Answer as a storage: ranges, validators, and whatever is to go wrong."""
        fault = self.hub.next_fault()
        etag, modified = self.validators(data)
        match fault:
            case Status(status, headers):
                self.empty(status, headers)
                return
            case Redirect(to):
                self.empty(302, {"Location": to})
                return
            case Chunked(end):
                self.send_chunked(data[:end])
                return
            case Corrupt(at):
                data = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
            case WrongLength(more):
                data = data + bytes(more) if more > 0 else data[:more]
            case _:
                pass
        start = self.wanted_start(etag, modified) if not isinstance(fault, IgnoreRange) else 0
        if isinstance(fault, OtherOffset) and start:
            start -= fault.before
        if start >= len(data) > 0:
            self.empty(416, {"Content-Range": f"bytes */{len(data)}"})
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        for name, value in (("ETag", etag), ("Last-Modified", modified)):
            if value:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        self.send_body(data[start:], fault)

    def validators(self, data: bytes) -> tuple[str, str]:
        """Return ETag and Last-Modified; empty for none."""
        match self.hub.etag:
            case "sha256":
                return f'"{hashlib.sha256(data).hexdigest()}"', ""
            case "date":
                return "", formatdate(1_700_000_000, usegmt=True)
            case "":
                return "", ""
            case text:
                return f'"{text}"', ""

    def wanted_start(self, etag: str, modified: str) -> int:
        """Return from which byte on the data is wanted."""
        match = _RANGE.fullmatch(self.headers.get("Range", ""))
        condition = self.headers.get("If-Range", "")
        return int(match[1]) if match is not None and condition in ("", etag, modified) else 0

    def send_body(self, body: bytes, fault: Fault) -> None:
        """Send it, or some of it."""
        with suppress(ConnectionError):
            match fault:
                case Cut(after, reset):
                    self.wfile.write(body[:after])
                    self.drop(reset=reset)
                case Stall(after):
                    self.wfile.write(body[:after])
                    self.hub.ended.wait(30)
                    self.drop()
                case Hold(after, reached, go):
                    self.wfile.write(body[:after])
                    self.wfile.flush()
                    reached.set()
                    go.wait(30)
                    self.wfile.write(body[after:])
                case _:
                    self.wfile.write(body)

    def send_chunked(self, body: bytes) -> None:
        """Send it without a length."""
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for start in range(0, len(body), 5000):
            piece = body[start : start + 5000]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
        self.wfile.write(b"0\r\n\r\n")

    def drop(self, *, reset: bool = False) -> None:
        """Break the connection, politely or not."""
        self.close_connection = True
        if reset:
            linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.connection.close()
        else:
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

    def finish(self) -> None:
        """End the connection; the other end may have gone first."""
        with suppress(OSError, ValueError):
            super().finish()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        """Stay silent: clients that leave are what is tested."""


@contextmanager
def hub_server(tls: ssl.SSLContext | None = None) -> Iterator[HubServer]:
    """Run a server until the end of the block; over https with the certificate of `tls`, if that is given."""

    class Handler(_Handler):
        """Knows which server it belongs to."""

    server = _Server(("127.0.0.1", 0), Handler)
    if tls is not None:  # the handshake is for the thread that answers: one that fails must not hold up others
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    hub = HubServer(url=f"{'http' if tls is None else 'https'}://127.0.0.1:{server.server_address[1]}")
    Handler.hub = hub
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.ended.set()
        server.shutdown()
        server.server_close()
        thread.join()
