"""A kernel whose structures are not as expected: no number, and the reason; never a wrong one.

The running kernel cannot be changed, so the expectation is: the object is built with structures under
names that no kernel has.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import building
import pytest
import schema

from fork_trace.rehearse.scenarios import find

from .conftest import host_by, known

CHECKOUT = Path(__file__).resolve().parents[2]
COUNT = 5

pytestmark = pytest.mark.live

# Loads that object instead of the installed one, rehearses, prints the records.
WATCH = """
import sys
from pathlib import Path
from fork_trace.model import records
from fork_trace.probes.libbpf import backend
from fork_trace.probes.request import Request
from fork_trace.collect.session import Session
from fork_trace.rehearse.run import run
installed = backend.program
backend.program = lambda name: Path(sys.argv[1]) if name == "fork_trace.bpf.o" else installed(name)
session = Session(Request(attach=sys.argv[2]))
for name in sys.argv[4:]:
    run(name, int(sys.argv[3]))
for failure in session.stop():
    print(records.to_json(failure))
session.close()
"""

# Structure -> the rehearsal whose numbers stand in it.
MOVED = dict(
    zip(building.STRUCTURES, ("pids-cgroup", "pid-namespace-dead", "overcommit-heuristic"))
)


@pytest.fixture(scope="module")
def moved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The object for a kernel without these structures; scripts/test has built it natively."""
    share = os.environ.get("FORK_TRACE_VM_SHARE")
    place = Path(share) if share else tmp_path_factory.mktemp("moved")
    return building.moved(place)


@pytest.mark.parametrize("attach", ["fexit", "tracepoint"])
def test_a_structure_that_moved_gives_no_number_and_the_reason(attach: str, moved: Path) -> None:
    if attach == "fexit":
        host_by(attach)
    else:
        known("--attach", attach)
    argv = [sys.executable, "-c", WATCH, str(moved), attach, str(COUNT), *MOVED.values()]
    done = subprocess.run(
        argv, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(CHECKOUT)}
    )
    assert done.returncode == 0, done.stderr
    records = schema.read(done.stdout)
    for structure, name in MOVED.items():
        scenario = find(name)
        ours = [record for record in records if record["comm"] == scenario.comm]

        assert sum(record["count"] for record in ours) == COUNT
        for record in ours:
            if attach == "fexit":  # seen refusing, whatever cannot be read
                assert record["cause"] == scenario.cause
            assert scenario.cause in (record["cause"], *record["alternatives"])
            names = [each["name"] for each in record["evidence"]]
            assert not [name for name in names if name in FROM[structure]]
            # Where all numbers are missing, the reason stands in their place.
            if record["cause"] == scenario.cause and structure != "mm_struct":
                assert [f"struct {structure}"] == names


# What is read from each, by the name that the evidence would have.
FROM = {
    "pids_cgroup": ["pids.max"],
    "pid_namespace": ["pid namespace", "kernel.pid_max"],
    "mm_struct": ["address space of the parent", "accountable memory of the parent"],
}
