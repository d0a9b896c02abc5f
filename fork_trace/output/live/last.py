"""Whether this is the last program of its terminal, which would close with it and take the answer along.

`exec fork-trace check` in the last shell that one has puts the tool in the shell's place.
"""

from __future__ import annotations

import os

from fork_trace import files
from fork_trace.output.live.terminal import wait_for_key

# What runs a program and ends with it. sudo makes a session of its own in between (use_pty of sudoers(5)).
_WRAPPERS = frozenset({"sudo", "sudo-rs", "doas", "su", "runuser", "pkexec", "run0"})
_MOST_WRAPPERS = 8
_PATIENCE_S = 3600.0  # for scripts that give it a terminal, and nobody to press a key


def linger() -> None:
    """Wait for a key, if the terminal closes as this program ends."""
    if not is_last():
        return
    wait_for_key("Press any key to leave: this terminal has no shell any more.", _PATIENCE_S)


def is_last(root: str = "/proc") -> bool:
    """Say whether no shell waits for this program: it, or what wraps it, leads the session of its terminal."""
    if not (os.isatty(0) and os.isatty(1)):
        return False
    try:
        top, above = os.getpid(), os.getppid()
        for _ in range(_MOST_WRAPPERS):
            if above <= 1 or files.text(root, str(above), "comm").strip() not in _WRAPPERS:
                break
            top, above = above, _parent(root, above)
        # In a container nobody is above the first process: whoever started it has a terminal of their own.
        return above > 0 and os.getsid(top) == top
    except (OSError, ValueError):
        return False


def _parent(root: str, pid: int) -> int:
    _, _, rest = files.text(root, str(pid), "status").partition("\nPPid:\t")
    return int(rest.split("\n", 1)[0])
