"""What arming asks of the kernel: little enough to start during an incident, and nothing else than before."""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fork_trace.collect.arm import arm, prepare
from fork_trace.collect.session import Session
from fork_trace.errors import ForkTraceError
from fork_trace.model import steps
from fork_trace.model.sizes import STACK_BYTES
from fork_trace.probes import kernel
from fork_trace.probes.backend import SAMPLES_PER_SECOND, Filter
from fork_trace.probes.libbpf.bindings import Library
from fork_trace.probes.libbpf.btf import (
    FUNCTION_IDS,
    SYMBOL_ITERATOR,
    function_params,
    listed_symbols,
    sysctl_addresses,
)
from fork_trace.probes.libbpf.counting import Counting
from fork_trace.probes.plan import VARIABLES
from fork_trace.probes.request import Request
from fork_trace.probes.settings import SHARES

from .conftest import known

pytestmark = pytest.mark.live

BTF_KIND_FUNC = 12
FUNCTIONS = [watch.function for step in steps.STEPS for watch in step.watches]
ABSENT = ["", "aaaa", "no_such_function_at_all", "copy_process_", "zzzz"]
# The verifier took 143,310 for one of them before a level of a hierarchy had a function of its own;
# it takes 71,800 for raw_sys_exit, which judges every call that is told, on Linux 6.18.
MOST_VERIFIED = 80_000
# bpf/kernel_symbols.bpf.c: the entries of `prefixes`, and how long they are without the zero.
MOST_PREFIXES, PREFIX = 256, 7
# kernel/bpf/bpf_iter.c, bpf_seq_read: a buffer of 8 pages; a struct found has 72 bytes.
RECORDS_IN_BUFFER = 8 * 4096 // 72


class ProgInfo(ctypes.Structure):
    """struct bpf_prog_info as far as verified_insns, which Linux 5.16 added."""

    _fields_ = [("_before", ctypes.c_uint8 * 216), ("verified_insns", ctypes.c_uint32)]


def test_functions_are_found_where_libbpf_finds_them() -> None:
    library = Library()
    FUNCTION_IDS.clear()
    function_params(library, [*FUNCTIONS, *ABSENT])
    btf = library.lib.btf__load_vmlinux_btf()
    numbers = {
        name: library.lib.btf__find_by_name_kind(btf, name.encode(), BTF_KIND_FUNC)
        for name in [*FUNCTIONS, *ABSENT]
    }
    library.lib.btf__free(btf)

    assert {name: at for name, at in numbers.items() if at > 0} == FUNCTION_IDS
    assert "copy_process" in FUNCTION_IDS


def test_no_program_takes_the_verifier_long() -> None:
    backend: Any = arm(prepare(Request()), Filter(), SAMPLES_PER_SECOND, STACK_BYTES).backend
    try:
        verified = {}
        for name, handle in backend._programs._handles.items():
            info = ProgInfo()
            size = ctypes.c_uint32(ctypes.sizeof(info))
            fd = backend._lib.bpf_program__fd(handle)
            assert 0 == backend._lib.bpf_obj_get_info_by_fd(
                fd, ctypes.byref(info), ctypes.byref(size)
            )
            if size.value < ctypes.sizeof(info) or not info.verified_insns:
                pytest.skip("this kernel does not tell: Linux 5.16 does")
            verified[name] = info.verified_insns
    finally:
        backend.close()

    assert verified
    assert {} == {name: count for name, count in verified.items() if count > MOST_VERIFIED}


def test_the_symbols_that_the_kernel_lists_are_those_of_its_text() -> None:
    library = Library()
    if not function_params(library, [SYMBOL_ITERATOR])[0][SYMBOL_ITERATOR]:
        pytest.skip("this kernel has no iterator over its symbols: Linux 6.0 has")
    names = ["copy_process", *FUNCTIONS, *VARIABLES, *kernel.RANGED]
    listed = listed_symbols(library, names)
    told, addresses, ranges = kernel.symbols(names, listed=listed)
    range_ = ranges.get("copy_process")

    assert (told, addresses, ranges) == kernel.symbols(names)
    assert told.value
    assert range_ is not None and range_[0] == addresses["copy_process"] < range_[1]


def test_the_symbol_above_is_listed_wherever_the_kernel_s_buffer_ends() -> None:
    library = Library()
    if not function_params(library, [SYMBOL_ITERATOR])[0][SYMBOL_ITERATOR]:
        pytest.skip("this kernel has no iterator over its symbols: Linux 6.0 has")
    lines = (line.split() for line in Path("/proc/kallsyms").read_text().splitlines())
    told = [(int(line[0], 16), line[2]) for line in lines if len(line) == 3]
    addresses = sorted({address for address, _ in told})
    above = dict(zip(addresses, addresses[1:]))
    # As many beginnings as the program has room for, from all over the kernel.
    wanted = {name[:PREFIX] for _, name in told[:: len(told) // MOST_PREFIXES + 1]}

    listed = listed_symbols(library, wanted)
    assert listed is not None
    assert len(listed) > 10 * RECORDS_IN_BUFFER
    following: dict[int, int] = {}
    for (address, _), (higher, _) in zip(listed, listed[1:]):
        if higher > address:
            following[address] = higher
    # At 0 lie offsets of each processor, of which several end where the next page begins.
    listed_wanted = [at for at, name in listed if at and name.decode()[:PREFIX] in wanted]
    assert {} == {at: above[at] for at in listed_wanted if following.get(at) != above.get(at)}


def test_sysctls_are_found_where_the_symbols_say_that_they_are() -> None:
    found = sysctl_addresses(Library())
    _, addresses, _ = kernel.symbols(tuple(found))
    # Since Linux commit 7863dcc72d0f ("pid: allow pid_max to be set per pid namespace"), no variable.
    found.pop("pid_max", None)

    assert {"sysctl_overcommit_memory", "sysctl_overcommit_kbytes", "sysctl_nr_open"} <= set(found)
    if "sysctl_nr_open" not in addresses:
        pytest.skip("this kernel's symbols have no variables")
    assert found == {name: addresses[name] for name in found}


# Forks as a user at RLIMIT_NPROC, so often, or until its stdin is closed; prints how many failed.
REFUSED = """
import os, resource, select, sys
resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
with open("/proc/self/comm", "w") as file:
    file.write("ft-refused")
os.setgid(61003)
os.setuid(61003)
print("ready", flush=True)
failed, most = 0, int(sys.argv[1])
while failed != most and not (most < 0 and select.select([0], [], [], 0)[0]):
    try:
        os.fork() or os._exit(0)
    except BlockingIOError:
        failed += 1
print(failed)
"""


def refused(times: int) -> int:
    """Let so many forks fail; return how many did."""
    done = subprocess.run(
        [sys.executable, "-c", REFUSED, str(times)], capture_output=True, text=True, check=True
    )
    return int(done.stdout.split()[1])


@pytest.fixture(params=["fexit", "tracepoint"])
def counting(request: pytest.FixtureRequest) -> Iterator[Counting]:
    """What counts before anything else is loaded, by each attach mode that has it."""
    try:
        begun = Counting(Library(), request.param)
    except (OSError, ForkTraceError) as error:
        pytest.skip(f"this kernel refuses {request.param} programs: {error}")
    yield begun
    begun.close()


def watching(counting: Counting) -> Session:
    """All that is loaded after it, in which it goes on."""
    return Session(Request(attach=counting.attach), keeps_privileges=True, counting=counting)


def test_what_fails_before_all_is_loaded_is_counted_and_no_cause_is_told_for_it(
    counting: Counting,
) -> None:
    early = refused(23)
    session = watching(counting)
    try:
        late = refused(7)
        records = session.stop()
        summary = session.totals("signal")
        counters = session._backend._counters  # type: ignore[attr-defined]
        shares = counters._array(counters._shares_fd, SHARES)
    finally:
        session.close()
    mine = [total for total in summary.totals if total["comm"] == "ft-refused"]
    causes = {(total["cause"], total["errno"], total["count"]) for total in mine}

    assert (23, 7) == (early, late)
    assert {("unknown", "EAGAIN", 23), ("rlimit-nproc", "EAGAIN", 7)} == causes
    assert (summary.failures, summary.early) == (sum(each["count"] for each in summary.totals), 23)
    assert summary.failures == sum(record.count for record in records)
    assert (0, 0) == (summary.lost, summary.missed or 0)
    # Both keys are of one user in one cgroup: all, these two together, and each of them have two.
    assert 2 == shares[0] and 3 == shares[1:].count(2)


def test_in_the_midst_of_a_storm_each_failure_is_counted_once_whoever_counts_it(
    counting: Counting,
) -> None:
    storm = subprocess.Popen(
        [sys.executable, "-c", REFUSED, "-1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert storm.stdin and storm.stdout
    assert "ready" == storm.stdout.readline().strip()
    session = watching(counting)
    try:
        for _ in range(10):
            session.poll(0.1)
        failed = int(storm.communicate()[0])
        session.stop()
        summary = session.totals("signal")
    finally:
        session.close()
    mine = [total for total in summary.totals if total["comm"] == "ft-refused"]

    assert failed == sum(total["count"] for total in mine)
    assert {"unknown", "rlimit-nproc"} == {total["cause"] for total in mine}
    assert 0 < summary.early < failed
    assert 0 == (summary.missed or 0)


def test_on_a_terminal_it_says_when_it_begins_to_count(counting: Counting) -> None:
    counting.close()
    leader, follower = os.openpty()
    command = [sys.executable, "-m", "fork_trace", "live", "--duration", "0.5"]
    if counting.attach != known()["attach"]:
        command += ["--attach", counting.attach]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=follower, check=False)
    os.close(follower)
    said = b""
    try:
        while block := os.read(leader, 4096):
            said += block
    except OSError as error:
        assert error.errno == errno.EIO  # the other end is closed
    os.close(leader)

    assert done.returncode == 0
    first, second = said.decode().splitlines()[:2]
    assert "Counting fork failures; loading what explains them." == first
    assert second.startswith("Watching for fork failures: ")
