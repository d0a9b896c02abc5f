"""What is said on stderr while a capture or a table runs."""

from __future__ import annotations

import pytest
from conftest import make_header

from fork_trace import watch

ONE = {"step": "copy_process", "function": "copy_process", "later": False}
WAITING = {"step": "mm_init", "function": "mm_init", "later": True}


@pytest.mark.parametrize(
    ("rung", "attached", "how"),
    [
        ("fexit", (ONE,) * 23, "23 kernel functions, by fexit"),
        ("fexit", (ONE, ONE, WAITING, WAITING), "2 kernel functions, by fexit"),
        # An older capture does not tell which of them wait.
        ("fexit", ({"step": "dup_fd", "function": "dup_fd"},) * 7, "7 kernel functions, by fexit"),
        ("tracepoint", (ONE,), "by the system calls' exits; their causes are inferred"),
    ],
)
def test_the_first_line_says_what_is_watched_from_the_start_and_how_it_ends(
    rung: str, attached: tuple[dict[str, object], ...], how: str
) -> None:
    line = watch.start_line(make_header(rung=rung, attached=attached), "Ctrl-C ends it.")

    assert f"Watching failed forks: {how}. Ctrl-C ends it." == line
