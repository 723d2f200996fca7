"""An answer's body, read into memory that is there already.

httpx hands a body on in pieces, each of which is copied three times and allocated anew; for gigabytes that takes as
long as the network of a data center. So a long body of known length is read from the connection's own socket, once its
first piece has come the usual way: by then httpx has nothing of it left in between.
"""

from __future__ import annotations

import socket

import httpx

_LEAST_BYTES = 16 * 1024  # a shorter rest comes the usual way, so that the connection can be used again


class BodyReader:
    """Reads the body of one response.

    Args:
        response: Nothing of its body has been read.
        stall_s: Seconds without a byte that are too many.
        direct: No proxy is between; with one, the socket may carry something else.
    """

    def __init__(self, response: httpx.Response, stall_s: float | None, *, direct: bool) -> None:
        self._response = response
        self._stall_s = stall_s
        self._direct = direct
        self._pieces = response.iter_raw()
        self._piece = memoryview(b"")
        self._socket: socket.socket | None = None
        self._left_bytes = 0

    def into(self, room: memoryview) -> int:
        """Fill the beginning of `room` with what comes next; return its length, which is 0 at the end only.

        Raises:
            httpx.TransportError: The connection broke, or nothing came for too long.
        """
        if not self._piece and self._socket is None:
            self._next_piece()
        if self._piece:
            count = min(len(room), len(self._piece))
            room[:count] = self._piece[:count]
            self._piece = self._piece[count:]
            return count
        return 0 if self._socket is None else self._receive(self._socket, room)

    def _next_piece(self) -> None:
        piece = next(self._pieces, b"")
        self._piece = memoryview(piece)
        length = self._response.headers.get("content-length", "")
        connection = self._connection()
        if connection is not None and piece and length.isdecimal():
            self._left_bytes = int(length) - self._response.num_bytes_downloaded
            if self._left_bytes >= _LEAST_BYTES:
                connection.settimeout(self._stall_s)
                self._socket = connection

    def _connection(self) -> socket.socket | None:
        """Return the socket, with TLS around it if there is any, if it carries the body as it is."""
        response = self._response
        if not self._direct or response.http_version != "HTTP/1.1" or "transfer-encoding" in response.headers:
            return None
        get_extra_info = getattr(response.extensions.get("network_stream"), "get_extra_info", None)
        found = get_extra_info("socket") if get_extra_info is not None else None
        return found if isinstance(found, socket.socket) else None

    def _receive(self, connection: socket.socket, room: memoryview) -> int:
        if not self._left_bytes:
            return 0
        try:
            count = connection.recv_into(room[: self._left_bytes])
        except TimeoutError as exc:
            raise httpx.ReadTimeout("nothing came for too long") from exc
        except OSError as exc:
            raise httpx.ReadError(str(exc)) from exc
        if not count:
            whole = int(self._response.headers["content-length"])
            raise httpx.RemoteProtocolError(f"the server closed after {whole - self._left_bytes} bytes of {whole}")
        self._left_bytes -= count
        return count
