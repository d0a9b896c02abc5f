"""`fork-trace explain` as a command: a log on standard input, and the limits of the host it runs on."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from click.testing import CliRunner, Result

from fork_trace.commands import cli
from fork_trace.headroom import here

TIMEOUT_S = 60
FULL = here.Limit("pids-cgroup", "full", "pids.max", 60, 60, "tasks", "/sys/fs/cgroup/a\x1b[2J")
REFUSED = "bash: fork: retry: Resource temporarily unavailable"


def run(*words: str, text: bytes = b"") -> Result:
    result = CliRunner().invoke(cli.cli, ["explain", *words], input=text)

    assert 0 == result.exit_code, result.output
    return result


def told(*words: str, text: bytes = b"") -> Any:
    return json.loads(run(*words, "--json", text=text).stdout)


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(here, "read", lambda: here.Reading((FULL,)))


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(here, "read", lambda: here.Reading((), "this host has 9 processes"))


def never() -> here.Reading:
    raise AssertionError("the host was read")


@pytest.mark.usefixtures("full")
def test_a_cause_whose_limit_is_full_here_is_marked() -> None:
    said = run(REFUSED).stdout

    assert "pids-cgroup (EAGAIN)\n    -> FULL on this host: pids.max 60 of 60 tasks," in said
    assert "\x1b" not in said and "\\x1b[2J" in said
    assert "FULL" not in run("spawn EMFILE").stdout


@pytest.mark.usefixtures("full")
def test_the_whole_story_of_a_cause_has_the_mark_too() -> None:
    assert "-> FULL on this host" in run("pids-cgroup").stdout
    assert "-> FULL on this host" not in run("pid-max").stdout


@pytest.mark.usefixtures("full")
def test_a_log_has_the_mark_once() -> None:
    said = run("-", text=f"{REFUSED}\nsudo: unable to fork: EAGAIN\n".encode()).stdout

    assert 1 == said.count("FULL on this host")


@pytest.mark.usefixtures("unread")
def test_a_host_that_was_not_read_is_said_so_and_null() -> None:
    assert "limits of this host were not read: this host has 9 processes." in run(REFUSED).stdout
    assert told(REFUSED, "--check")["check"] is None


def test_json_is_an_answer_without_this_host_unless_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(here, "read", never)
    assert told(REFUSED)["check"] is None
    assert told("-", text=REFUSED.encode())["check"] is None
    assert "on this host" not in run("--no-check", REFUSED).stdout

    monkeypatch.setattr(here, "read", lambda: here.Reading((FULL,)))
    assert [FULL._asdict()] == told(REFUSED, "--check")["check"]


def test_the_host_is_read_as_it_is() -> None:
    # Not made up: whatever this host has, it is in the form that the book gives.
    for each in told(REFUSED, "--check")["check"] or []:
        assert list(here.Limit._fields) == list(each)
        assert each["level"] in ("full", "near")


@pytest.mark.parametrize(
    "text",
    [b"\xff\xfe\x00 fork: Cannot allocate memory\n", b"\x1b]0;x\x07 sh: fork: ENOMEM\r\n"],
)
def test_a_log_may_hold_anything(text: bytes) -> None:
    said = run("-", "--no-check", text=text).stdout

    assert "1 of 1 line tell" in said
    assert all(line.isprintable() for line in said.splitlines())


def test_a_line_without_an_end_fills_no_memory() -> None:
    text = b"x" * 300_000 + b" fork: Cannot allocate memory\n" + REFUSED.encode()

    assert (2, 1) == (told("-", text=text)["lines"], told("-", text=text)["matched"])


def test_a_log_in_a_pipe() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fork_trace", "explain", "-", "--json"],
        input=f"{REFUSED}\n" * 3,
        capture_output=True,
        text=True,
        check=True,
        timeout=TIMEOUT_S,
    )

    assert [(3, ["process"])] == [
        (each["count"], each["kinds"]) for each in json.loads(done.stdout)["messages"]
    ]


def test_a_dash_among_words_is_a_word() -> None:
    assert "text" == told("-", "fork: Cannot allocate memory")["asked"]
