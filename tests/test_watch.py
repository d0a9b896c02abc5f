"""What is said on stderr while a capture or a table runs."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from signal import SIGHUP, SIGINT, SIGTERM

import pytest
from conftest import make_failure, make_header, make_summary

from fork_trace import watch
from fork_trace.records import to_json

ONE = {"step": "copy_process", "function": "copy_process", "later": False}
OLD = {"step": "dup_fd", "function": "dup_fd"}  # an older capture does not tell which of them wait
WAITING = {"step": "mm_init", "function": "mm_init", "later": True}


@pytest.mark.parametrize(
    ("rung", "attached", "how"),
    [
        ("fexit", (OLD, ONE), "2 kernel functions, by fexit"),
        ("fexit", (ONE, WAITING, WAITING), "their end alone, until one fails, by fexit"),
        # By two programs on a kernel that preempts.
        ("fexit", (ONE, ONE, OLD), "2 kernel functions, by fexit"),
        ("tracepoint", (ONE,), "by the system calls' exits; their causes are inferred"),
    ],
)
def test_the_first_line_says_what_is_watched_from_the_start_and_how_it_ends(
    rung: str, attached: tuple[dict[str, object], ...], how: str
) -> None:
    line = watch.start_line(make_header(rung=rung, attached=attached), "Ctrl-C ends it.")

    assert f"Watching failed forks: {how}. Ctrl-C ends it." == line


def test_a_slow_reader_loses_no_record_and_hears_no_complaint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reader, output = piped(tmp_path)
    written = [make_header(), *(make_failure(pid=pid) for pid in range(1, 1000)), make_summary()]
    for record in written:
        output.write(record)
    text = read_all(reader, output)
    output.close()

    assert [to_json(record) for record in written] == text.splitlines()
    assert (None, 0, "") == (output.failed, output.dropped, capsys.readouterr().err)


def test_records_that_find_no_room_are_counted_and_the_summary_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(watch, "_MOST_WAITING_BYTES", 50_000)
    reader, output = piped(tmp_path)
    for record in (
        *(make_header(), *(make_failure(pid=pid) for pid in range(1, 1000))),
        make_summary(),
    ):
        output.write(record)
    text = read_all(reader, output)
    output.close()

    assert to_json(make_header()) == text.splitlines()[0]
    assert to_json(make_summary()) == text.splitlines()[-1]
    assert 0 < len(text.splitlines()) - 2 == 999 - output.dropped < 999
    assert f"is not whole: {output.dropped} records did not fit" in capsys.readouterr().err
    assert output.failed


def piped(directory: Path) -> tuple[int, watch.Output]:
    """A capture into a pipe that is full at 64 KiB."""
    os.mkfifo(directory / "pipe")
    reader = os.open(directory / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    return reader, watch.Output(str(directory / "pipe"), False)


def read_all(reader: int, output: watch.Output) -> str:
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
        ending = watch.Ending()
        for count in (1, 2):
            os.kill(os.getpid(), SIGINT)
            assert (count, SIGINT) == (ending.count, ending.signal)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    command = watch.Command(["sh", "-c", "trap '' INT; exec sleep 60"], False)
    time.sleep(0.2)
    began_s = time.monotonic()
    command.end(ending)
    _, output = piped(tmp_path)
    output.write(make_header())
    output.failed = "No space left on device"
    output.close(ending)

    assert time.monotonic() - began_s < 2
    os.kill(command._pid, signal.SIGKILL)
    os.waitpid(command._pid, 0)
