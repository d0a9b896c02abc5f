"""`fork-trace record`: its options and help, and its signals."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from fork_trace.commands import options
from fork_trace.errors import ForkTraceError

if TYPE_CHECKING:
    from fork_trace.collect.session import Session
    from fork_trace.collect.slow import SlowWatch
    from fork_trace.latency.recording import Recording
    from fork_trace.record.notify import Notifier
    from fork_trace.record.recorder import Recorder
    from fork_trace.record.segments import Segments
    from fork_trace.serve import NoExporter
    from fork_trace.serve.exporter import Exporter

_SIZE = re.compile(r"(\d+(?:\.\d+)?)([KMGT]?)i?B?", re.IGNORECASE)
_POWERS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_LEAST_SIZE = 1 << 20
_TRIM_S = 60.0  # what arming and storms took and freed goes back


def _size(_context: click.Context, parameter: click.Parameter, value: str) -> int:
    """Read a number of bytes; or, where a share is meant, a negative percentage."""
    if parameter.name == "keep_free" and re.fullmatch(r"\d{1,2}%", value):
        return -int(value[:-1])
    found = _SIZE.fullmatch(value.strip())
    size = int(float(found[1]) * (1 << _POWERS[found[2].upper()])) if found else -1
    least = _LEAST_SIZE if parameter.name == "max_size" else 0
    if not least <= size < 1 << 60:
        raise click.BadParameter(
            "give a size such as 256M or 2G, of at least 1M"
            if least
            else "give a size such as 512M, or a percentage such as 5%"
        )
    return size


def _span(_context: click.Context, _parameter: click.Parameter, value: str) -> float:
    from fork_trace.record.times import span_s

    span = span_s(value)
    if span is None or not 60 <= span < 1e10:
        raise click.BadParameter("give a time such as 30d or 12h, of at least a minute")
    return span


@click.command("record")
@click.option(
    "--directory",
    default="/var/log/fork-trace",
    show_default=True,
    metavar="DIR",
    shell_complete=options.paths("dir"),
    help="Record into files in DIR, which is the recorder's alone.",
)
@click.option(
    "--max-size",
    default="256M",
    show_default=True,
    metavar="SIZE",
    callback=_size,
    help="Remove the oldest files when all take more than this.",
)
@click.option(
    "--max-age",
    default="30d",
    show_default=True,
    metavar="TIME",
    callback=_span,
    help="Remove files that are older than this.",
)
@click.option(
    "--keep-free",
    default="5%",
    show_default=True,
    metavar="SIZE",
    callback=_size,
    help="Leave this much of the file system to others.",
)
@click.option(
    "--metrics",
    metavar="ADDRESS:PORT",
    help="Serve metrics to Prometheus there, at /metrics: 127.0.0.1:9835, say. No TLS, no password.",
)
@click.option(
    "--textfile",
    metavar="FILE",
    shell_complete=options.paths("file"),
    help="Keep the same metrics in FILE (mode 0644) for the textfile collector of the node exporter.",
)
@click.option(
    "--no-journal",
    is_flag=True,
    help="Leave the systemd journal alone; else each cause and place is told there, once a minute.",
)
@click.option(
    "--latency",
    is_flag=True,
    help="Record forks that take long, too, as fork-trace latency does; each fork pays for it.",
)
@options.over
@options.filters
@options.stack_bytes
@options.coverage
@options.keep_privileges
@options.probes
def command(**given: Any) -> None:
    """Record failures for as long as the host runs

    Writes captures that `report` reads, without FILE those of this host. SIGHUP
    begins a new file; SIGTERM and Ctrl-C end it. Needs no terminal and no
    service manager, and tells systemd if it is one of its services.

    \b
    sudo fork-trace record
    sudo fork-trace report --since 03:00 --until 04:00
    sudo fork-trace record --metrics 127.0.0.1:9835
    """
    from fork_trace.commands.startup import open_session, start_line
    from fork_trace.probes.privileges import UNUSED_ID
    from fork_trace.record.journal import Journal
    from fork_trace.record.notify import Notifier
    from fork_trace.record.recorder import Recorder
    from fork_trace.record.segments import Bounds, Segments

    bounds = Bounds(given["max_size"], given["max_age"], given["keep_free"])
    changes_user = os.geteuid() == 0 and not given["keep_privileges"]
    new_owner = UNUSED_ID if changes_user else None
    segments = Segments(given["directory"], bounds, new_owner)
    exporter = _exporter(given["metrics"], given["textfile"], new_owner)
    notifier = Notifier()
    session = open_session({**given, "is_lean": True})
    signals = _Signals()
    watch: SlowWatch | None = None
    try:
        watch = _slow_watch(given)
        session.give_up_privileges()
        session.heed(lambda: signals.ends)
        journal = None if given["no_journal"] else Journal()
        recorder = Recorder(session, segments, _tell, seen=exporter.see, journal=journal)
        header = session.header()
        print(
            start_line(header, f"Recording in {given['directory']}; Ctrl-C stops it."),
            file=sys.stderr,
            flush=True,
        )
        slow = _recording(watch, given["over"], segments, exporter)
        _run(recorder, exporter, session, notifier, signals, slow)
    finally:
        session.close()
        if watch:
            watch.close()
        exporter.close()
        segments.close()
    if segments.failed:
        raise ForkTraceError(
            f"the last records could not be written: {segments.failed}",
            f"Free some space where {given['directory']} is.",
        )


def _exporter(
    address: str | None, textfile: str | None, new_owner: int | None
) -> Exporter | NoExporter:
    if address is None and textfile is None:
        from fork_trace.serve import NoExporter

        return NoExporter()
    from fork_trace.serve.exporter import Exporter

    return Exporter(address, textfile, new_owner, _tell)


def _slow_watch(given: dict[str, Any]) -> SlowWatch | None:
    if not given["latency"]:
        return None
    from fork_trace.collect.slow import SlowWatch

    kept = (given["stack_bytes"], given["keep_privileges"])
    watch = SlowWatch(given["attach"], round(given["over"] * 1e6), *kept, is_lean=True)
    watch.attach_now()  # the session gives up privileges for both
    return watch


def _recording(
    watch: SlowWatch | None,
    over_ms: float,
    segments: Segments,
    exporter: Exporter | NoExporter,
) -> Recording | None:
    if watch is None:
        return None
    from fork_trace.latency.recording import Recording

    exporter.time(watch.timing)
    return Recording(watch, over_ms, segments.write, exporter.see_slow)


def _run(
    recorder: Recorder,
    exporter: Exporter | NoExporter,
    session: Session,
    notifier: Notifier,
    signals: _Signals,
    slow: Recording | None,
) -> None:
    from fork_trace.probes import reserve

    recorder.begin()
    exporter.begin(session)
    armed = f"armed: {session.header().attach}"
    notifier.tell("READY=1", f"STATUS={armed}")
    trim_at_s = 0.0
    while not signals.ends:
        if time.monotonic() >= trim_at_s:
            trim_at_s = time.monotonic() + _TRIM_S
            reserve.trim()
        recorder.step(signals.take_renewal())
        if slow:
            slow.turn()
        exporter.turn()
        notifier.alive(f"{armed}, {recorder.status()}")
    notifier.tell("STOPPING=1")
    exporter.stop()
    if slow:
        slow.end()
    recorder.end()
    exporter.end()


def _tell(sentence: str) -> None:
    print(f"fork-trace: {sentence}.", file=sys.stderr, flush=True)


class _Signals:
    """Those that end it, and SIGHUP, which begins a new file."""

    def __init__(self) -> None:
        self.ends = 0
        self._renews = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._end)
        signal.signal(signal.SIGHUP, self._renew)

    def _end(self, _number: int, _frame: FrameType | None) -> None:
        self.ends += 1

    def _renew(self, _number: int, _frame: FrameType | None) -> None:
        self._renews = True

    def take_renewal(self) -> bool:
        """Say whether a new file was asked for since the last call."""
        renews, self._renews = self._renews, False
        return renews
