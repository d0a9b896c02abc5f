"""The server in the recorder's loop: real connections, honest ones and others, none of which it waits for."""

from __future__ import annotations

import os
import re
import resource
import select
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import make_failure, make_header

from fork_trace.commands import cli
from fork_trace.errors import ForkTraceError
from fork_trace.serve.endpoint import MOST_CLIENTS, PATIENCE_S, Answer, Endpoint, Request
from fork_trace.serve.exporter import Exporter

GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: text/plain\r\n\r\n"


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Return what a command line says that exits with 2."""
    with pytest.raises(SystemExit) as ended:
        cli.main(argv)
    assert 2 == ended.value.code
    said = capsys.readouterr().err
    assert 1 == said.count("\n") and said.startswith("fork-trace: ")
    return said


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Server:
    """An endpoint with a clock of its own, so that a second takes none."""

    def __init__(self, body: bytes = b"fine\n") -> None:
        self.now_s, self.asked, self.body = 0.0, list[Request](), body
        self.endpoint = Endpoint(f"127.0.0.1:{free_port()}", self.answer, lambda: self.now_s)

    def answer(self, request: Request) -> Answer:
        self.asked.append(request)
        return Answer(200, self.body)

    def connect(self) -> socket.socket:
        client = socket.create_connection(self.endpoint.address)
        client.settimeout(5)
        return client

    def turns(self, seconds: float = 0.0) -> float:
        """Let it do what it can, for so long by its clock; return how long one turn took at most."""
        slowest_s = 0.0
        for _ in range(5):
            begun_s = time.monotonic()
            self.endpoint.turn()
            slowest_s = max(slowest_s, time.monotonic() - begun_s)
            time.sleep(0.002)
        if seconds:
            self.now_s += seconds
            self.endpoint.turn()
        return slowest_s

    def asks(self, request: bytes = GET) -> bytes:
        with self.connect() as client:
            client.sendall(request)
            self.turns()
            return read(client)


def read(client: socket.socket) -> bytes:
    got = b""
    try:
        while more := client.recv(65536):
            got += more
    except ConnectionResetError:
        pass
    return got


def fill() -> list[int]:
    """Take every descriptor that can be had."""
    taken = []
    try:
        while True:
            taken.append(os.dup(0))
    except OSError:
        return taken


def is_dropped(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.endpoint.close()


def test_a_request_is_answered_and_the_connection_closed(server: Server) -> None:
    got = server.asks()

    assert got.startswith(b"HTTP/1.1 200 OK\r\n")
    assert got.endswith(b"\r\nContent-Length: 5\r\nConnection: close\r\n\r\nfine\n")
    assert [Request("/metrics", "text/plain")] == server.asked


def test_a_request_that_comes_in_pieces_is_answered(server: Server) -> None:
    with server.connect() as client:
        for at in range(len(GET)):
            client.sendall(GET[at : at + 1])
            server.endpoint.turn()
        server.turns()

        assert b"200 OK" in read(client)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),  # TLS
        (b"\n\n", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"GET http://other/metrics HTTP/1.1\r\n\r\n", 400),
        (b"GET /metrics HTTP/9.9\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\n\r\n", 400),
        (b"GET /" + b"x" * 20_000, 400),
        (b"A" * 8192, 400),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 4\r\n\r\nabcd", 405),
        (b"HEAD /metrics HTTP/1.1\r\n\r\n", 405),
    ],
)
def test_rubbish_is_answered_at_once_and_asks_nobody(
    server: Server, request_: bytes, status: int
) -> None:
    got = server.asks(request_)

    assert got.startswith(b"HTTP/1.1 %d " % status)
    assert [] == server.asked


@pytest.mark.parametrize("sent", [b"", b"GET /metrics HTTP/1.1\r\n", b"G"])
def test_who_does_not_finish_is_dropped_after_a_second(server: Server, sent: bytes) -> None:
    with server.connect() as client:
        client.sendall(sent)
        assert server.turns(PATIENCE_S - 0.01) < 0.1
        assert not is_dropped(client)
        # Another byte is no reason to wait longer.
        client.sendall(b"x")
        server.turns()
        left_s = server.endpoint.patience_s()
        assert left_s is not None and left_s <= 0.011
        server.turns(0.02)

        assert is_dropped(client)
    assert server.endpoint.patience_s() is None


def test_who_reads_slowly_is_dropped_and_delays_nobody() -> None:
    server = Server(b"x" * (32 << 20))
    with server.connect() as slow, server.connect() as quick:
        slow.sendall(GET)
        assert server.turns() < 0.5
        server.body = b"fine\n"
        quick.sendall(GET)
        server.turns()
        assert read(quick).endswith(b"fine\n")
        server.turns(PATIENCE_S)
        server.turns()

        assert 0 < len(read(slow)) < 32 << 20
    server.endpoint.close()


def test_of_many_only_a_few_are_kept_and_the_last_is_served(server: Server) -> None:
    before = len(os.listdir("/proc/self/fd"))
    clients = []
    for _ in range(200):
        clients.append(server.connect())
        server.endpoint.turn()
    kept = len(os.listdir("/proc/self/fd")) - before - len(clients)
    assert kept <= MOST_CLIENTS

    assert server.asks().endswith(b"fine\n")
    for client in clients:
        client.close()


def test_without_a_descriptor_it_waits_a_second_and_does_not_spin(server: Server) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    with server.connect() as client:
        client.sendall(GET)
        used = max(map(int, os.listdir("/proc/self/fd")))
        resource.setrlimit(resource.RLIMIT_NOFILE, (used, limits[1]))
        # Below the highest one there can be gaps.
        filled = fill()
        try:
            server.turns()
            assert 1.0 == server.endpoint.patience_s()
            assert ([], [], []) == select.select([server.endpoint], [], [], 0)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
            for fd in filled:
                os.close(fd)
        server.turns(PATIENCE_S)
        server.turns()

        assert read(client).endswith(b"fine\n")


def test_it_can_be_waited_for(server: Server) -> None:
    assert ([], [], []) == select.select([server.endpoint], [], [], 0)
    with server.connect() as client:
        assert select.select([server.endpoint], [], [], 5)[0]
        client.sendall(GET)
        server.turns()
    server.turns()
    assert ([], [], []) == select.select([server.endpoint], [], [], 0)


@pytest.mark.parametrize(
    "address",
    [
        *("", "9835", ":9835", "127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536"),
        *("127.0.0.1:99999", "host.example:9835", "::1:9835", "[::1]", "127.0.0.1:-1", "*:9835"),
        *("127.0.0.1:9835 ", "\x1b[2J:1", "127.0.0.1:\u0661", "1.2.3:80", "[127.0.0.1:80"),
    ],
)
def test_an_address_that_is_none_is_one_sentence(
    address: str, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    log = str(tmp_path / "log")
    said = refused(capsys, "record", "--directory", log, "--metrics", address)

    assert "--metrics cannot listen on " in said
    assert "127.0.0.1:9835" in said
    assert "\x1b" not in said


@pytest.mark.parametrize(
    ("address", "why"),
    [("192.0.2.1:9835", "assign"), ("{taken}", "in use")],
)
def test_an_address_that_cannot_be_had_is_one_sentence(
    server: Server, address: str, why: str
) -> None:
    taken = "{}:{}".format(*server.endpoint.address)

    with pytest.raises(ForkTraceError, match=re.escape("cannot listen on ")) as found:
        Endpoint(address.format(taken=taken), server.answer)
    assert why in found.value.message
    assert found.value.hint


# ------------------------------------------------------------------ the exporter


class Session:
    """What is told of, without a kernel."""

    def header(self) -> Any:
        return make_header()

    def unseen(self) -> tuple[int, int | None]:
        return 0, 0

    def wake_by(self, waker: Endpoint) -> None:
        self.waker = waker


def exporter(textfile: str | None = None) -> tuple[Exporter, Callable[[bytes], bytes]]:
    made = Exporter(f"127.0.0.1:{free_port()}", textfile)
    made.begin(Session())

    def ask(path: bytes) -> bytes:
        assert made.endpoint is not None
        with socket.create_connection(made.endpoint.address) as client:
            client.settimeout(5)
            client.sendall(b"GET %s HTTP/1.1\r\n\r\n" % path)
            for _ in range(5):
                made.turn()
                time.sleep(0.002)
            return read(client)

    return made, ask


def test_there_are_metrics_and_what_a_probe_asks_for() -> None:
    made, ask = exporter()
    made.see([make_failure(count=23)])

    assert b'fork_trace_failures_total{cause="pids-cgroup",errno="EAGAIN"} 23.0' in ask(b"/metrics")
    assert ask(b"/metrics?x=1").startswith(b"HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=")
    assert ask(b"/healthz").endswith(b"\r\n\r\nok\n")
    assert ask(b"/").startswith(b"HTTP/1.1 200")
    assert ask(b"/etc/passwd").startswith(b"HTTP/1.1 404")
    made.close()
    made.close()


def test_who_asks_very_often_gets_what_was_written_a_moment_ago() -> None:
    made, ask = exporter()
    first = ask(b"/metrics")
    made.see([make_failure()])
    assert first == ask(b"/metrics")
    time.sleep(0.3)

    assert first != ask(b"/metrics")
    made.close()


def test_without_the_library_it_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)

    for option, value in (("--metrics", "127.0.0.1:9835"), ("--textfile", str(tmp_path / "x"))):
        log = str(tmp_path / option)
        said = refused(capsys, "record", "--directory", log, option, value)
        assert f"{option} needs prometheus_client, which is not installed." in said
        assert "python3-prometheus-client" in said
