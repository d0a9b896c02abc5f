"""A small HTTP server within somebody else's loop: it answers GET, one request a connection, and waits for nobody.

No thread: what is ready is done in a turn, and whoever was not done in a second is dropped.
"""

from __future__ import annotations

import errno
import ipaddress
import re
import select
import socket
import time
from collections.abc import Callable
from typing import NamedTuple

from fork_trace.errors import ForkTraceError

PATIENCE_S = 1.0  # to send a request; and then to read the answer
MOST_CLIENTS = 8
_MOST_ACCEPTED = 16  # in a turn: the loop has more to do
_MOST_BYTES = 8192  # of a request
_ADDRESS = re.compile(r"(?:\[([^\]]*)\]|([^:]*)):([0-9]{1,5})")
_REQUEST = re.compile(rb"([A-Z]{1,16}) (/[!-~]{0,1024}) HTTP/1\.[01]")
_ACCEPT = re.compile(rb"\r?\naccept[ \t]*:[ \t]*([ -~]*)", re.IGNORECASE)
_REASONS = {200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed"}
_PLAIN = "text/plain; charset=utf-8"


class Request(NamedTuple):
    """What a client asked for."""

    path: str
    accept: str


class Answer(NamedTuple):
    """What a client is told."""

    status: int
    body: bytes
    content_type: str = _PLAIN


class _Client:
    def __init__(self, connection: socket.socket, now_s: float) -> None:
        self.connection = connection
        self.deadline_s = now_s + PATIENCE_S
        self.received = b""
        self.left = memoryview(b"")  # of the answer
        self.is_answered = False


class Endpoint:
    """Listens from construction to `close`."""

    def __init__(
        self,
        address: str,
        answer: Callable[[Request], Answer],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._answer, self._monotonic = answer, monotonic
        self._listener = _listening(address)
        self._clients: dict[int, _Client] = {}  # by descriptor, oldest first
        self._ready = select.epoll()
        self._ready.register(self._listener, select.EPOLLIN)
        self._deaf_until_s: float | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        host, port = self._listener.getsockname()[:2]
        return str(host), int(port)

    def fileno(self) -> int:
        """Return a descriptor that can be read when there is something to do."""
        return self._ready.fileno()

    def patience_s(self) -> float | None:
        """Say in how many seconds there is something to do, whatever comes; None: nothing."""
        now_s = self._monotonic()
        ends = [client.deadline_s for client in self._clients.values()]
        if self._deaf_until_s is not None:
            ends.append(self._deaf_until_s)
        return max(0.0, min(ends) - now_s) if ends else None

    def turn(self) -> None:
        """Do what can be done without waiting."""
        for fd, _ in self._ready.poll(0, MOST_CLIENTS + 1):
            if fd == self._listener.fileno():
                self._accept()
            elif fd in self._clients:
                self._go_on(self._clients[fd])
        now_s = self._monotonic()
        if self._deaf_until_s is not None and now_s >= self._deaf_until_s:
            self._deaf_until_s = None
            self._ready.register(self._listener, select.EPOLLIN)
        for client in [each for each in self._clients.values() if now_s >= each.deadline_s]:
            self._drop(client)

    def close(self) -> None:
        """Drop everybody."""
        for client in list(self._clients.values()):
            self._drop(client)
        self._ready.close()
        self._listener.close()

    def _accept(self) -> None:
        for _ in range(_MOST_ACCEPTED):
            try:
                connection, _address = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return  # nobody is left
            except OSError:
                # There is no descriptor or memory for him. He stays there to be accepted, so that asking
                # again at once would be all that is done.
                self._ready.unregister(self._listener)
                self._deaf_until_s = self._monotonic() + PATIENCE_S
                return
            connection.setblocking(False)
            if len(self._clients) >= MOST_CLIENTS:
                # Whoever has been there longest had most of his second.
                self._drop(next(iter(self._clients.values())))
            client = _Client(connection, self._monotonic())
            self._clients[connection.fileno()] = client
            self._ready.register(connection, select.EPOLLIN)
            # A scraper's request is there already, most often.
            self._go_on(client)

    def _go_on(self, client: _Client) -> None:
        try:
            if not client.is_answered:
                self._receive(client)
            if client.is_answered:
                sent = client.connection.send(client.left)
                client.left = client.left[sent:]
                if not client.left:
                    self._drop(client)
        except BlockingIOError:
            return
        except OSError:
            self._drop(client)

    def _receive(self, client: _Client) -> None:
        received = client.connection.recv(_MOST_BYTES)
        if not received:
            raise ConnectionError
        client.received += received
        head, end, _ = client.received.replace(b"\r\n", b"\n").partition(b"\n\n")
        if end:
            answer = self._answer_to(head)
        elif len(client.received) >= _MOST_BYTES or not client.received[:1].isalpha():
            answer = Answer(400, b"This is no request.\n")
        else:
            return
        client.is_answered = True
        client.left = memoryview(_written(answer))
        client.deadline_s = self._monotonic() + PATIENCE_S
        self._ready.modify(client.connection, select.EPOLLOUT)

    def _answer_to(self, head: bytes) -> Answer:
        found = _REQUEST.fullmatch(head.partition(b"\n")[0])
        if not found:
            return Answer(400, b"This is no request.\n")
        if found[1] != b"GET":
            return Answer(405, b"There is only GET.\n")
        accept = _ACCEPT.search(head)
        path = found[2].partition(b"?")[0].decode()
        return self._answer(Request(path, accept[1].decode() if accept else ""))

    def _drop(self, client: _Client) -> None:
        del self._clients[client.connection.fileno()]
        client.connection.close()  # which takes it out of what is waited for


def _written(answer: Answer) -> bytes:
    lines = (
        f"HTTP/1.1 {answer.status} {_REASONS[answer.status]}",
        f"Content-Type: {answer.content_type}",
        f"Content-Length: {len(answer.body)}",
        *(("Allow: GET",) if answer.status == 405 else ()),
        "Connection: close",
    )
    return "\r\n".join((*lines, "", "")).encode() + answer.body


def _listening(address: str) -> socket.socket:
    host, port = _parsed(address)
    version = ipaddress.ip_address(host).version
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    try:
        listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            # What an earlier recorder answered may linger.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setblocking(False)
            listener.bind((host, port))
            listener.listen(2 * MOST_CLIENTS)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise ForkTraceError(
            f"cannot listen on {address}: {error.strerror}.", _hint(error)
        ) from None
    return listener


def _hint(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "Another program has that port; give another one, or see `ss -ltnp`."
    if error.errno in (errno.EACCES, errno.EPERM):
        return "Give a port above 1023."
    if error.errno == errno.EAFNOSUPPORT:
        return "A service may be kept from it: see RestrictAddressFamilies= in `fork-trace docs fleet`."
    return "Give an address of this host."


def _parsed(address: str) -> tuple[str, int]:
    found = _ADDRESS.fullmatch(address)
    host = (found[1] if found[1] is not None else found[2]) if found else ""
    port = int(found[3]) if found else 0
    try:
        host = "127.0.0.1" if host == "localhost" else str(ipaddress.ip_address(host))
    except ValueError:
        port = 0
    if not 0 < port < 65536:
        raise ForkTraceError(
            f"--metrics cannot listen on {address!r}.",
            "Give ADDRESS:PORT, in numbers and with a port from 1 to 65535, such as 127.0.0.1:9835 or "
            "[::1]:9835.",
        )
    return host, port
