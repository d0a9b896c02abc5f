"""A log read line by line: each distinct message with its count, whatever the lines hold, in bounded memory."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from fork_trace import escape
from fork_trace.diagnosis import log, lookup
from fork_trace.output import explanation

JOURNAL = """\
Nov 28 03:00:01 web1 bash[812]: fork: retry: Resource temporarily unavailable
Nov 28 03:00:02 web1 bash[813]: fork: retry: Resource temporarily unavailable
Nov 28 03:00:02 web1 systemd[1]: Started Session 12 of User root.
Nov 28 03:00:03 web1 java[99]: java.lang.OutOfMemoryError: unable to create native thread
2026-11-28T03:00:04.123456+00:00 web1 bash[814]: fork: retry: Resource temporarily unavailable
Nov 28 03:00:05 web1 kernel: cgroup: fork rejected by pids controller in /user.slice/user-0.slice
Nov 28 03:00:06 web1 sshd[44]: error: fork: Cannot allocate memory
Nov 28 03:00:07 web1 nginx[5]: recv() failed (11: Resource temporarily unavailable)
Nov 28 03:00:08 web1 kernel: Out of memory: Killed process 99 (java) total-vm:100kB
"""


def read(*lines: str) -> log.Log:
    found = log.Log()
    for line in lines:
        found.add(line)
    return found


def test_each_distinct_message_is_there_with_its_count_the_most_frequent_first() -> None:
    found = read(*JOURNAL.splitlines())

    assert (9, 7, 0) == (found.lines, found.matched, found.overflowed)
    assert [
        (3, "bash[812]: fork: retry: Resource temporarily unavailable", "process"),
        (1, "java[99]: java.lang.OutOfMemoryError: unable to create native thread", "thread"),
        (
            1,
            "kernel: cgroup: fork rejected by pids controller in /user.slice/user-0.slice",
            "process",
        ),
        (1, "sshd[44]: error: fork: Cannot allocate memory", "process"),
        (1, "kernel: Out of memory: Killed process 99 (java) total-vm:100kB", "late"),
    ] == [(each.times, each.text, each.answer.kinds[0]) for each in found.messages()]


@pytest.mark.parametrize(
    "line",
    [
        "bash[1]: fork: retry: Resource temporarily unavailable",
        "Nov 28 03:00:01 web1 bash[1]: fork: retry: Resource temporarily unavailable",
        "Nov  8 03:00:01.123456 web1 bash[1]: fork: retry: Resource temporarily unavailable",
        "2026-11-28T03:00:01+0000 web1 bash[1]: fork: retry: Resource temporarily unavailable",
        "2026-11-28 03:00:01 web1 bash[1]: fork: retry: Resource temporarily unavailable",
        "<3>bash[1]: fork: retry: Resource temporarily unavailable",
        "[   12.345678] bash[1]: fork: retry: Resource temporarily unavailable",
    ],
)
def test_the_same_message_is_the_same_in_every_form_of_a_log(line: str) -> None:
    found = read("bash[2]: fork: retry: Resource temporarily unavailable", line)

    assert [2] == [each.times for each in found.messages()]


@pytest.mark.parametrize(
    "line",
    [
        "systemd[1]: Started Process Core Dump (PID 812/UID 0).",
        "sshd[1]: Accepted publickey for root from 10.0.0.1 port 22",
        "nginx: recv() failed (11: Resource temporarily unavailable) while reading",
        "kernel: usb 1-1: new high-speed USB device",
        "app: worker process 12 started",
        "app: thread 7 failed to parse request",
        "app: child process 12 exited with status 1",
        "postgres[1]: LOG:  process 12 still waiting for ShareLock",
        "sudo: root : TTY=pts/0 ; COMMAND=/usr/bin/unshare --fork",
        "mkdir /x: No space left on device",
        "bash: /no/such: No such file or directory",
        "could not get lock - open (11: Resource temporarily unavailable)",
        "docker: Error response from daemon: no such container",
        "CI: git clone https://example.org/fork.git",
        "fork-trace: watching",
        "",
    ],
)
def test_a_line_about_something_else_is_passed_by(line: str) -> None:
    assert [] == read(line).messages()


def test_pipes_for_a_child_are_told_as_no_fork() -> None:
    (message,) = read("node[1]: Error: spawn EMFILE").messages()

    assert "not-a-fork" == message.answer.kinds[0]


def test_what_is_kept_is_bounded_however_long_and_odd_the_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Following each allocation makes it slow: the same with a tenth.
    monkeypatch.setattr(log, "_MOST_MESSAGES", 100)
    found = log.Log()
    tracemalloc.start()
    for number in range(300):
        name = "".join(chr(ord("g") + int(digit)) for digit in str(number))
        found.add(f"{name}: fork: Cannot allocate memory {'y' * 500}")
        found.add(f"{name}: thread of no account")
    kept = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()

    assert 100 == len(found.messages())
    assert 200 == found.overflowed
    assert 300 == found.matched
    assert kept < 1 << 20


def test_a_line_is_looked_at_up_to_its_bound() -> None:
    assert [] == read("x" * lookup.MOST_LETTERS + " fork: Cannot allocate memory").messages()


def test_hostile_text_is_harmless_on_a_terminal_and_in_json() -> None:
    found = read("bash\x1b[2J[1]: fork: Cannot allocate memory \u202e\udcff")
    shown = explanation.log(found)

    assert all(line.isprintable() for line in shown.splitlines())
    assert "\\x1b[2J" in shown and "\\xff" in shown
    assert escape.json_line(log.as_json(found)).isascii()


def test_the_text_names_the_causes_and_what_decides() -> None:
    shown = explanation.log(read(*JOURNAL.splitlines()))

    assert shown.startswith("7 of 9 lines tell of a refused fork or thread:\n")
    assert "\n3 x bash[812]: fork: retry: Resource temporarily unavailable\n" in shown
    assert "    process, EAGAIN (bash): pids-cgroup, rlimit-nproc, pid-max, threads-max\n" in shown
    assert "\nTo decide here and now:\n  sudo fork-trace capture --duration 60\n" in shown
    assert max(map(len, shown.splitlines())) < 80


def test_an_empty_log_is_said_to_be_empty() -> None:
    assert "No message of a refused fork or thread in 0 lines.\n" == explanation.log(log.Log())
    assert "No message of a refused fork or thread in 1 line.\n" == explanation.log(read("x"))


def test_json_has_the_messages_with_their_causes() -> None:
    told = json.loads(escape.json_line(log.as_json(read(*JOURNAL.splitlines()))))

    assert ["lines", "matched", "overflowed", "messages", "decide"] == list(told)
    assert {
        "text": "bash[812]: fork: retry: Resource temporarily unavailable",
        "count": 3,
        "application": "bash",
        "errno": "EAGAIN",
        "kinds": ["process"],
        "causes": ["pids-cgroup", "rlimit-nproc", "pid-max", "threads-max"],
    } == told["messages"][0]
