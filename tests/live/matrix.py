"""What is run where: each lane is one pytest, natively or in one virtual machine.

Oldest and newest kernel by default, the two between in --all. The newest must show all that can depend
on the kernel (`is_strict`: nothing may be skipped). What is the tool's own, screens, formats and the
unwinding of programs, is seen natively. `tests/test_matrix.py` holds that every live file is in here.
"""

from __future__ import annotations

from typing import NamedTuple

DEFAULT, ALL, NAMED = "default", "all", "named"


class Lane(NamedTuple):
    """One run; `budget_s` is its wall-clock time on an idle core, a little above what was measured.

    `kernel` None: natively. `when`: in the default run, in --all too, or by --lane only. `watchers`:
    those of tests/tools/accuracy/watching.py under which the rehearsals are made; empty: all but bcc.
    """

    name: str
    kernel: str | None
    budget_s: int
    files: tuple[str, ...]
    when: str = DEFAULT
    cgroup: str = "v2"
    is_strict: bool = False
    watchers: tuple[str, ...] = ()
    deselect: tuple[str, ...] = ()


# Merged by others: run as soon as they are there.
EXPECTED = ("test_flood.py", "test_hostile.py", "test_strangers.py")
