"""What is said on stderr while a capture or a table runs."""

from __future__ import annotations

import pytest
from conftest import make_header

from fork_trace.commands.capture_run import CaptureRequest
from fork_trace.commands.startup import start_line

ONE = {"step": "copy_process", "function": "copy_process", "later": False}
OLD = {"step": "dup_fd", "function": "dup_fd"}  # an older capture does not tell which of them wait
WAITING = {"step": "mm_init", "function": "mm_init", "later": True}


@pytest.mark.parametrize(
    ("attach", "attached", "how"),
    [
        ("fexit", (OLD, ONE), "2 kernel functions, using fexit"),
        ("fexit", (ONE, WAITING, WAITING), "copy_process only until a fork fails, using fexit"),
        # By two programs on a kernel that preempts.
        ("fexit", (ONE, ONE, OLD), "2 kernel functions, using fexit"),
        ("tracepoint", (ONE,), "using syscall tracepoints; causes are inferred"),
    ],
)
def test_the_first_line_says_what_is_watched_from_the_start_and_how_it_ends(
    attach: str, attached: tuple[dict[str, object], ...], how: str
) -> None:
    line = start_line(make_header(attach=attach, attached=attached), "Press Ctrl-C to stop.")

    assert f"Watching for fork failures: {how}. Press Ctrl-C to stop." == line


@pytest.mark.parametrize(
    ("request_", "sentence"),
    [
        (CaptureRequest(()), "Press Ctrl-C to stop."),
        (CaptureRequest((), 2.5), "Stops after 2.5 s, or on Ctrl-C."),
        (CaptureRequest((), None, ["true"]), "Stops when the command ends, or on Ctrl-C."),
        (
            CaptureRequest((), 60, ["true"]),
            "Stops after 60 s or when the command ends, or on Ctrl-C.",
        ),
    ],
)
def test_the_first_line_names_all_that_ends_a_capture(
    request_: CaptureRequest, sentence: str
) -> None:
    assert sentence == request_.how_to_end()
