"""Texts that name a fork and tell of no refusal; and those beside them that do. Each kind is in `printed.tsv`."""

from __future__ import annotations

import pytest

from fork_trace.diagnosis import log, lookup, successes
from fork_trace.output import explanation


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("Fork CoW for RDB: current 0 MB, peak 0 MB, average 0 MB", successes.SUCCEEDED),
        ("forked new backend, pid=4711 socket=9", successes.SUCCEEDED),
        ("[pid 123] fork() = 124", successes.SUCCEEDED),
        ("AH00052: child pid 28 exit signal Segmentation fault (11)", successes.ENDED),
        ("child process exited with code 1", successes.ENDED),
        ("forks = 50", successes.SETTING),
        ("git clone https://example.org/fork.git", successes.REPOSITORY),
        ("Failed to fork repository: HTTP 403", successes.REPOSITORY),
        ("web1 fork-trace[12]: Watching for refused forks", successes.OWN),
    ],
)
def test_what_went_well_is_said_to_be_no_refusal_and_why(text: str, why: str) -> None:
    answer = lookup.look_up([text])
    shown = explanation.explanation(answer)

    assert (("not-a-fork",), None, ()) == (answer.kinds, answer.errno, answer.causes)
    assert (why,) == answer.notes
    assert () == answer.decides
    assert "No fork was refused here." in shown
    assert "To decide" not in shown


@pytest.mark.parametrize(
    "text",
    [
        "Started 3 workers; fork: Resource temporarily unavailable",
        "WARNING: unable to fork worker 4 (started 3)",
        "nothing was forked",
        "fork: Success",
        "github actions runner: fork failed",
        "exception while forking the worker (pid 12)",
    ],
)
def test_a_refusal_is_one_however_much_went_well_before_it(text: str) -> None:
    assert "process" == lookup.look_up([text]).kinds[0]


def test_of_a_log_nothing_that_went_well_is_told() -> None:
    found = log.Log()
    for line in (
        "1:C 01 Jan 2026 10:00:00.123 * Fork CoW for RDB: current 2 MB, peak 2 MB, average 1 MB",
        "app[1]: Starting thread pool with 12 threads",
        "app[1]: forked child [12]",
        "web1 fork-trace[9]: Watching for refused forks. Press Ctrl-C to stop.",
    ):
        found.add(line)

    assert [] == found.messages()


def test_a_part_of_messages_with_several_errnos_tells_none() -> None:
    assert None is lookup.look_up(["bash: fork"]).errno
    assert "EAGAIN" == lookup.look_up(["unable to create native thread"]).errno
