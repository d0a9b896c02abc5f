"""What is said on stderr while a capture or a table runs."""

from __future__ import annotations

import pytest
from conftest import make_header

from fork_trace import watch

ONE = {"step": "copy_process", "function": "copy_process", "later": False}
OLD = {"step": "dup_fd", "function": "dup_fd"}  # an older capture does not tell which of them wait
WAITING = {"step": "mm_init", "function": "mm_init", "later": True}


@pytest.mark.parametrize(
    ("rung", "attached", "how"),
    [
        ("fexit", (OLD, ONE), "2 kernel functions, by fexit"),
        ("fexit", (ONE, WAITING, WAITING), "1 kernel functions, by fexit"),
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
