"""Holds a rehearsal at its refusal until somebody has acted on the advice, and then asks once more.

`advised.py SCENARIO`: prints "refused ERRNO", waits for a line on standard input, asks again, and prints
"through", or the errno. What the rehearsal changed it gives back, as rehearsals do.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from contextlib import suppress

from fork_trace.errors import ForkTraceError
from fork_trace.rehearse import run
from fork_trace.rehearse.child import Stage
from fork_trace.rehearse.restore import Borrowed
from fork_trace.rehearse.scenarios import find

COUNT = 3


class Held(Stage):
    """A stage that waits between the refusals and one more attempt."""

    def ask_until_refused(
        self,
        ask: Callable[[], int],
        keep: Callable[[int], None] | None = None,
        patience: int = 100,
    ) -> None:
        """Be refused, wait for a line, and ask again."""
        super().ask_until_refused(ask, keep, patience)
        os.write(1, f"refused {' '.join(self.failures)}\n".encode())
        if not os.read(0, 100):
            return
        os.write(1, f"{_outcome(ask, keep)}\n".encode())


def _outcome(ask: Callable[[], int], keep: Callable[[int], None] | None) -> str:
    try:
        pid = ask()
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error.errno))
    if pid == 0:
        os._exit(0)
    if keep:
        keep(pid)
    else:
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)
    return "through"


def main() -> None:
    """Play the scenario."""
    scenario = find(sys.argv[1])
    borrowed = Borrowed(True)
    try:
        if scenario.host_wide:
            borrowed.demand_host_wide(scenario.name)
        act = scenario.prepare(borrowed)
        run._in_child(scenario, act, Held(scenario.comm, COUNT, borrowed))
    except (ForkTraceError, OSError) as error:
        os.write(1, f"cannot: {error}\n".encode())
    finally:
        borrowed.give_back()


if __name__ == "__main__":
    main()
