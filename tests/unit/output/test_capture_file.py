"""A capture file that cannot take what is written to it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGTERM

import pytest
from conftest import make_failure, make_header, make_summary

from fork_trace.commands.child import Child
from fork_trace.commands.stop_signals import StopSignals
from fork_trace.model.records import Record, to_json
from fork_trace.output import capture_file
from fork_trace.output.capture_file import CaptureFile


def test_a_slow_reader_loses_no_record_and_hears_no_complaint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reader, output = piped(tmp_path)
    written: list[Record] = [
        make_header(),
        *(make_failure(pid=pid) for pid in range(1, 1000)),
        make_summary(),
    ]
    for record in written:
        output.write(record)
    text = read_all(reader, output)
    output.close()

    assert [to_json(record) for record in written] == text.splitlines()
    assert (None, 0, "") == (output.failed, output.dropped, capsys.readouterr().err)


def test_records_that_find_no_room_are_counted_and_the_summary_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(capture_file, "_MOST_WAITING_BYTES", 50_000)
    reader, output = piped(tmp_path)
    written: list[Record] = [make_header(), *(make_failure(pid=pid) for pid in range(1, 1000))]
    for record in (*written, make_summary()):
        output.write(record)
    text = read_all(reader, output)
    output.close()

    assert to_json(make_header()) == text.splitlines()[0]
    assert to_json(make_summary()) == text.splitlines()[-1]
    assert 0 < len(text.splitlines()) - 2 == 999 - output.dropped < 999
    assert f"is incomplete: {output.dropped} records were dropped" in capsys.readouterr().err
    assert output.failed


def piped(directory: Path) -> tuple[int, CaptureFile]:
    """A capture into a pipe that is full at 64 KiB."""
    os.mkfifo(directory / "pipe")
    reader = os.open(directory / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    return reader, CaptureFile(str(directory / "pipe"), False)


def read_all(reader: int, output: CaptureFile) -> str:
    text = b""
    while True:
        try:
            text += os.read(reader, 65536)
        except BlockingIOError:
            break
        output.flush()
    os.close(reader)
    return text.decode()


def test_a_second_signal_ends_the_waiting_for_a_file_and_for_a_command(tmp_path: Path) -> None:
    before = {number: signal.getsignal(number) for number in (SIGINT, SIGTERM, SIGHUP)}
    try:
        ending = StopSignals()
        for count in (1, 2):
            os.kill(os.getpid(), SIGINT)
            assert (count, SIGINT) == (ending.count, ending.signal)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    command = Child(["sh", "-c", "trap '' INT; exec sleep 60"], False)
    time.sleep(0.2)
    began_s = time.monotonic()
    command.end(ending)
    _, output = piped(tmp_path)
    output.write(make_header())
    output.failed = "No space left on device"
    output.close(lambda: ending.count > 1)

    assert time.monotonic() - began_s < 2
    os.kill(command._pid, signal.SIGKILL)
    os.waitpid(command._pid, 0)
