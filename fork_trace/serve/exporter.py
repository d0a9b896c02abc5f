"""What a recorder saw so far, over HTTP and in a textfile, as the recorder's loop comes by."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from fork_trace.model.records import Failure, Header, Incident
from fork_trace.output import exposition
from fork_trace.serve.endpoint import Answer, Endpoint, Request
from fork_trace.serve.metrics import Metrics, Timing, Watch
from fork_trace.serve.textfile import Textfile

_WRITE_S = 5.0  # a textfile that has changed
_REFRESH_S = 60.0  # one that has not: its time tells that somebody is there
_FRESH_S = 0.25  # for so long one text serves everybody who asks
_OPENMETRICS = "application/openmetrics-text"


class Watched(Protocol):
    """What is told of: `collect.session.Session`."""

    def header(self) -> Header:
        """Say what is watched."""

    def unseen(self) -> tuple[int, int | None]:
        """Return samples lost and calls missed."""

    def wake_by(self, waker: Endpoint) -> None:
        """Wait for this as well."""


class Exporter:
    """Counts what is recorded, and tells it to whoever asks."""

    def __init__(
        self,
        address: str | None,
        textfile: str | None,
        new_owner: int | None = None,
        report: Callable[[str], None] = lambda _: None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Listen, and make files, while it may be done; ForkTraceError if it cannot be."""
        exposition.demand("--textfile" if address is None else "--metrics")
        self._monotonic, self._report = monotonic, report
        self._metrics = Metrics()
        self._session: Watched | None = None
        self._last: Watch | None = None  # of a session that has ended
        self._timing: Callable[[], Timing] | None = None
        self._texts: dict[str, tuple[float, bytes, str]] = {}  # by Accept; when it was written
        self._written = b""
        self._written_at_s = self._due_s = float("-inf")
        self._failed: str | None = None
        self._textfile = None if textfile is None else Textfile(textfile, new_owner)
        self.endpoint = None if address is None else Endpoint(address, self._answer, monotonic)

    def begin(self, session: Watched) -> None:
        """Begin to answer, and to be answered for while the session waits."""
        self._session = session
        if self.endpoint is not None:
            session.wake_by(self.endpoint)
        self.turn()

    def see(self, failures: Sequence[Failure], incidents: Sequence[Incident] = ()) -> None:
        """Count what is recorded."""
        self._metrics.add(failures, self._monotonic())
        self._metrics.add_incidents(incidents)

    def time(self, timing: Callable[[], Timing]) -> None:
        """Tell how long forks take as well, by what this returns."""
        self._timing = timing

    def see_slow(self, forks: Sequence[tuple[str, float]]) -> None:
        """Count forks that took long: why, and how many seconds."""
        self._metrics.add_slow(forks)

    def turn(self) -> None:
        """Do what can be done without waiting."""
        if self.endpoint is not None:
            self.endpoint.turn()
        now_s = self._monotonic()
        if self._textfile is not None and now_s >= self._due_s:
            self._due_s = now_s + _WRITE_S
            self._write(self._text("")[0])

    def stop(self) -> None:
        """Look at the session for the last time."""
        self._last = self._look()._replace(is_over=True)

    def end(self) -> None:
        """Write once more, that nobody watches, and listen no longer."""
        self._texts.clear()
        if self._textfile is not None:
            self._write(self._text("")[0])
        self.close()

    def close(self) -> None:
        """Listen no longer; safe to call twice."""
        if self.endpoint is not None:
            self.endpoint.close()
        if self._textfile is not None:
            self._textfile.close()
        self.endpoint = self._textfile = None

    def _write(self, text: bytes) -> None:
        now_s = self._monotonic()
        if self._textfile is None or (
            text == self._written and now_s - self._written_at_s < _REFRESH_S
        ):
            return
        failed = self._textfile.write(text)
        if failed is None:
            self._written, self._written_at_s = text, now_s
        if failed != self._failed:
            path = self._textfile.path
            self._report(
                f"cannot write {path} for now: {failed}" if failed else f"writing {path} again"
            )
            self._failed = failed

    def _answer(self, request: Request) -> Answer:
        if request.path == "/metrics":
            return Answer(200, *self._text(request.accept))
        if request.path == "/healthz":
            return Answer(200, b"ok\n")
        if request.path == "/":
            return Answer(200, b"fork-trace record: see /metrics\n")
        return Answer(404, b"There are /metrics and /healthz.\n")

    def _look(self) -> Watch:
        if self._last is not None:
            return self._last
        assert self._session is not None  # nobody is answered before `begin`
        return Watch(self._session.header(), *self._session.unseen())

    def _text(self, accept: str) -> tuple[bytes, str]:
        accept = _OPENMETRICS if _OPENMETRICS in accept else ""
        now_s = self._monotonic()
        found = self._texts.get(accept)
        if found is None or now_s - found[0] >= _FRESH_S:
            timing = self._timing() if self._timing else None
            families = self._metrics.families(self._look(), now_s, timing)
            found = self._texts[accept] = (now_s, *exposition.write(families, accept))
        return found[1:]
