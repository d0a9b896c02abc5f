"""The unit of the recorder, as systemd itself reads it, and what the recorder tells the service manager."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from fork_trace import documents
from fork_trace.probes.privileges import CAPABILITIES
from fork_trace.record.notify import Notifier

ROOT = Path(__file__).resolve().parents[3]
UNIT = ROOT / "fork_trace" / "deploy" / "systemd" / "fork-trace.service"
MOST_EXPOSURE = 3.0
needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a program that exists here."""
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/usr/bin/fork-trace", "/bin/true"))
    return copy


def analyzed(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, check=False, timeout=60
    )


@needs_systemd
def test_systemd_has_nothing_to_say_against_it(unit: Path) -> None:
    done = analyzed("verify", "--man=no", str(unit))

    # It ends with 0 even for a key that it does not know, but it says so.
    assert (0, "") == (done.returncode, done.stderr)
    unit.write_text(unit.read_text().replace("WatchdogSec=", "WatchdogSecs="))
    assert "WatchdogSecs" in analyzed("verify", "--man=no", str(unit)).stderr


@needs_systemd
def test_little_is_exposed(unit: Path) -> None:
    done = analyzed("security", "--offline=true", "--no-pager", str(unit))

    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert found, done.stderr
    assert float(found[1]) <= MOST_EXPOSURE


def test_it_has_the_capabilities_that_the_book_gives_reasons_for() -> None:
    lines = dict(
        line.split("=", 1) for line in UNIT.read_text().splitlines() if line.startswith(("A", "C"))
    )

    assert {each.name for each in CAPABILITIES} == set(lines["AmbientCapabilities"].split())
    assert lines["AmbientCapabilities"] == lines["CapabilityBoundingSet"]


def test_it_hides_no_process_of_others_and_starts_no_shell() -> None:
    keys = {line.partition("=")[0] for line in UNIT.read_text().splitlines() if "=" in line}

    assert not keys & {"ProtectProc", "ProcSubset", "PrivateUsers", "PrivatePIDs"}
    assert "ExecStart=/usr/bin/fork-trace record\n" in UNIT.read_text()
    assert not {key for key in keys if key.startswith("Exec")} - {"ExecStart"}


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(str(tmp_path / "notify"))
    listener.setblocking(False)
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    return listener


def test_the_manager_hears_what_it_waits_for(
    manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "120000000")
    notifier = Notifier()
    notifier.tell("READY=1", "STATUS=armed: fexit")
    notifier.alive("0 failures")
    notifier.alive("not before it is due")

    assert b"READY=1\nSTATUS=armed: fexit" == manager.recv(4096)
    assert b"WATCHDOG=1\nSTATUS=0 failures" == manager.recv(4096)
    with pytest.raises(BlockingIOError):
        manager.recv(4096)


@pytest.mark.parametrize("path", ["", "relative", "/no/such/socket", "@nobody-listens"])
def test_a_manager_that_is_not_there_is_not_waited_for(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    notifier = Notifier()

    notifier.tell("READY=1")
    notifier.alive("alone")


def test_a_manager_that_does_not_read_is_not_waited_for(manager: socket.socket) -> None:
    notifier = Notifier()

    for _ in range(10_000):
        notifier.tell("STATUS=" + "x" * 1000)
    assert manager.recv(4096)


@needs_systemd
def test_systemd_takes_what_the_book_says_of_its_metrics(unit: Path) -> None:
    (settings,) = re.findall(r"^```\n(\[Service\]\n.*?)^```", documents.text("fleet"), re.M | re.S)
    place = unit.with_suffix(".service.d")
    place.mkdir()
    override = place / "override.conf"
    override.write_text(settings.replace("/usr/bin/fork-trace", "/bin/true"))
    assert "--metrics 127.0.0.1:9835" in settings
    done = analyzed("verify", "--man=no", str(unit))

    assert (0, "") == (done.returncode, done.stderr)
    override.write_text(override.read_text().replace("PrivateNetwork=", "PrivateNetworks="))
    assert "PrivateNetworks" in analyzed("verify", "--man=no", str(unit)).stderr
