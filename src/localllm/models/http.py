"""The one place that talks HTTP: redirects, tokens, and what goes wrong, over httpx.

A token goes to the endpoint's origin (scheme, host and port) and nowhere else, however redirects lead. Redirects are
followed here for that reason, and so that none leads from https to http.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Self
from urllib.parse import urljoin, urlsplit
from urllib.request import getproxies

from attrs import frozen

from localllm._version import __version__
from localllm.errors import (
    AccessDeniedError,
    ConnectionLostError,
    DownloadStalledError,
    InvalidOptionError,
    LocalLLMError,
    ModelNotFoundError,
    RateLimitedError,
    ServerError,
)
from localllm.models.cancel import Cancellation
from localllm.models.network import Network
from localllm.models.refs import without_secrets
from localllm.models.retry import TryAgain, retry_after_s

if TYPE_CHECKING:
    import httpx

    from localllm.models.body import BodyReader

_REDIRECTS = (301, 302, 303, 307, 308)
_MAX_REDIRECTS = 10
_USABLE = (200, 206, 416)
_READ_BYTES = 64 * 1024


@frozen(kw_only=True)
class Answer:
    """A server's answer whose body is still to come.

    Args:
        status: 200, 206 or 416.
        headers: Its headers; looked up without regard to case.
        url: Where it comes from.
        body: Its body, undecoded.
    """

    status: int
    headers: Mapping[str, str]
    url: str
    body: BodyReader

    def read_into(self, room: memoryview) -> int:
        """Fill the beginning of `room` with what comes next of the body; return its length, 0 at the end only.

        Raises:
            TryAgain: The connection broke, or nothing came for too long.
        """
        try:
            return self.body.into(room)
        except Exception:  # not around the whole: that costs as much as the reading
            with _translated(self.url):
                raise

    def read(self, max_bytes: int) -> bytes:
        """Return the whole body.

        Raises:
            TryAgain: The connection broke.
            ServerError: It is longer than `max_bytes`.
        """
        whole, room = bytearray(), memoryview(bytearray(_READ_BYTES))
        while count := self.read_into(room):
            whole += room[:count]
            if len(whole) > max_bytes:
                raise ServerError(f"{without_secrets(self.url)} answers with more than {max_bytes} bytes")
        return bytes(whole)


class Http:
    """Connections for one pull, which ends all of them; a context manager.

    Args:
        network: How to reach the network.
        cancel: Breaks the connections.

    Raises:
        InvalidOptionError: The proxy cannot be used.
    """

    def __init__(self, network: Network, cancel: Cancellation) -> None:
        self._network = network
        self._cancel = cancel
        self._sockets: list[socket.socket] = []
        self._direct = network.proxy is None and not getproxies()  # which is where httpx finds the environment's, too
        self._client = _client(network)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    @contextmanager
    def get(self, url: str, headers: Mapping[str, str], what: str) -> Iterator[Answer]:
        """Ask for `url`, following redirects, and close the connection's use at the end.

        Args:
            url: Where to.
            headers: Sent to every host on the way.
            what: What it is, for messages.

        Yields:
            The answer, of status 200, 206 or 416.

        Raises:
            TryAgain: It failed in a way that may pass.
            LocalLLMError: It failed in a way that will not.
        """
        from localllm.models.body import BodyReader

        with self._cancel.stopping(self._break_connections):
            response, redirected = self._follow(url, headers, what)
            try:
                if response.status_code not in _USABLE:
                    raise refusal(
                        response.status_code, response.headers, what, token=self._network.token, redirected=redirected
                    )
                body = BodyReader(response, self._network.stall_s, direct=self._direct)
                yield Answer(status=response.status_code, headers=response.headers, url=str(response.url), body=body)
            finally:
                response.close()

    def _follow(self, url: str, headers: Mapping[str, str], what: str) -> tuple[httpx.Response, bool]:
        """Return the first answer that is no redirect, and whether there was one before it."""
        for hops in range(_MAX_REDIRECTS + 1):
            self._cancel.check()
            response = self._send(url, headers)
            if response.status_code not in _REDIRECTS:
                return response, hops > 0
            location = response.headers.get("location", "")
            response.close()
            url = next_url(url, location, what)
        raise ServerError(f"{what}: more than {_MAX_REDIRECTS} redirects, the last one to {without_secrets(url)}")

    def _send(self, url: str, headers: Mapping[str, str]) -> httpx.Response:
        # Bodies are taken as they come: a compressed one could be neither resumed nor measured.
        sent = {"Accept-Encoding": "identity", **headers}
        if self._network.token and origin(url) == origin(self._network.endpoint):
            sent["Authorization"] = f"Bearer {self._network.token}"
        with _translated(url):
            request = self._client.build_request("GET", url, headers=sent, extensions={"trace": self._trace})
            request.extensions.setdefault("timeout", self._client.timeout.as_dict())
            return self._client.send(request, stream=True, follow_redirects=False, auth=None)

    def _trace(self, event: str, info: Mapping[str, object]) -> None:
        """Take note of each connection as httpcore makes it: a cancel must break it even before an answer comes."""
        if not event.endswith((".connect_tcp.complete", ".start_tls.complete")):
            return
        get_extra_info = getattr(info.get("return_value"), "get_extra_info", None)
        found = get_extra_info("socket") if get_extra_info is not None else None
        if isinstance(found, socket.socket):
            self._sockets.append(found)
        if self._cancel.cancelled:
            self._break_connections()

    def _break_connections(self) -> None:
        """End whatever waits for the network, from any thread: both directions are shut, nothing is freed."""
        for connection in self._sockets:
            with suppress(OSError):  # it is closed already
                # Not SSLSocket's own method, which takes away the TLS state that another thread is reading with.
                socket.socket.shutdown(connection, socket.SHUT_RDWR)


def origin(url: str) -> tuple[str, str, int | None]:
    """Return scheme, host and port of `url`: what a token belongs to."""
    parts = urlsplit(url)
    scheme = parts.scheme.lower()
    return scheme, (parts.hostname or "").lower(), parts.port or {"http": 80, "https": 443}.get(scheme)


def refusal(
    status: int, headers: Mapping[str, str], what: str, *, token: str | None, redirected: bool
) -> TryAgain | LocalLLMError:
    """Return what an answer without data means.

    Args:
        status: Its status.
        headers: Its headers.
        what: What was asked for, for messages.
        token: The token that was sent, or None.
        redirected: Whether it comes from where the first host sent us. Such places are lent for minutes only.
    """
    wait_s = retry_after_s(headers.get("retry-after", ""), headers.get("date", ""))
    if status == 429:
        return TryAgain(RateLimitedError(f"{what}: the server limits the rate (429)"), asked_wait_s=wait_s)
    if status in (408, 425) or status >= 500:
        return TryAgain(ServerError(f"{what}: the server fails with status {status}"), asked_wait_s=wait_s)
    code = headers.get("x-error-code", "")
    missing = code in ("RepoNotFound", "RevisionNotFound", "EntryNotFound") or status in (404, 410)
    how = "the token given does not open it" if token else "set HF_TOKEN to a token that opens it"
    if status in (401, 403) and not missing:
        denied = AccessDeniedError(
            f"{what}: access denied (status {status}); if the model is gated, accept its terms on its page, and {how}"
        )
        return TryAgain(denied) if redirected else denied
    if missing:
        hint = f"; if it is private, {how}" if status == 401 or code == "RepoNotFound" else ""
        return ModelNotFoundError(f"{what}: not found (status {status}{f', {code}' if code else ''}){hint}")
    return ServerError(f"{what}: the server answers with status {status}, which means nothing here")


def next_url(url: str, location: str, what: str) -> str:
    """Return where a redirect leads.

    Args:
        url: What was asked for.
        location: Where the answer sends us, perhaps relative to it.
        what: What was asked for, for messages.

    Raises:
        ServerError: Nowhere that can be used, or from https to http.
    """
    try:
        target = urljoin(url, location)
        parts = urlsplit(target)
        good = bool(location) and parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good, target, parts = False, location, urlsplit("")
    if not good or parts.username is not None or parts.password is not None:
        raise ServerError(f"{what}: {without_secrets(url)} redirects to nowhere that can be used")
    if urlsplit(url).scheme == "https" and parts.scheme != "https":
        raise ServerError(
            f"{what}: {without_secrets(url)} redirects to plain http ({parts.hostname}), where anybody could change "
            "the file; refused"
        )
    return target


def _client(network: Network) -> httpx.Client:
    import httpx

    try:
        return httpx.Client(
            timeout=httpx.Timeout(network.stall_s, connect=network.connect_s, pool=None),
            headers={"User-Agent": f"localllm/{__version__}"},
            proxy=network.proxy,
        )
    except ImportError as exc:
        raise InvalidOptionError(
            'the proxy needs a package that is not installed; run: pip install "httpx[socks]"'
        ) from exc
    except (ValueError, httpx.InvalidURL) as exc:
        raise InvalidOptionError(
            "the proxy's address cannot be used; it comes from the option `proxy` or from HTTPS_PROXY, HTTP_PROXY or "
            "ALL_PROXY"
        ) from exc


@contextmanager
def _translated(url: str) -> Iterator[None]:
    """Make httpx's exceptions ours; the only place that knows them."""
    import httpx

    host = urlsplit(url).hostname
    try:
        yield
    except httpx.ConnectTimeout as exc:
        raise TryAgain(ConnectionLostError(f"{host} does not answer")) from exc
    except httpx.TimeoutException as exc:
        raise TryAgain(DownloadStalledError(f"{host} sends nothing any more")) from exc
    except httpx.TransportError as exc:
        cause: BaseException | None = exc
        while cause is not None and not isinstance(cause, ssl.SSLCertVerificationError):
            cause = cause.__cause__ or cause.__context__
        if cause is not None:
            raise ConnectionLostError(
                f"the certificate of {host} is not trusted ({cause.verify_message}); if a company's or a mirror's own "
                "authority has signed it, name the file with that authority's certificate in SSL_CERT_FILE"
            ) from exc
        if isinstance(exc, (httpx.UnsupportedProtocol, httpx.LocalProtocolError)):
            raise ServerError(f"{without_secrets(url)} cannot be asked for: {exc}") from exc
        raise TryAgain(
            ConnectionLostError(f"the connection to {host} failed: {str(exc) or type(exc).__name__}")
        ) from exc
    except (httpx.InvalidURL, httpx.StreamError) as exc:
        raise ServerError(f"{without_secrets(url)} cannot be asked for: {exc}") from exc
