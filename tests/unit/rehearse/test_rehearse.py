"""Rehearsals: what they promise without root, and, live, that they fail exactly as often as asked."""

from __future__ import annotations

import glob
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from fork_trace.errors import ForkTraceError, NotHereError
from fork_trace.rehearse import child, restore
from fork_trace.rehearse.recipes import memory
from fork_trace.rehearse.recipes.memory import room_below
from fork_trace.rehearse.run import Outcome, run
from fork_trace.rehearse.scenarios import SCENARIOS, find

CHECKOUT = Path(__file__).resolve().parents[3]
SYSCTLS = (
    "vm/overcommit_memory",
    "vm/overcommit_ratio",
    "vm/overcommit_kbytes",
    "vm/max_map_count",
    "fs/nr_open",
    "kernel/pid_max",
    "kernel/threads-max",
    "kernel/unprivileged_userns_clone",  # Debian's
    "fs/file-max",
    *(f"user/{path.name}" for path in sorted(Path("/proc/sys/user").glob("max_*_namespaces"))),
)
NAMES = [scenario.name for scenario in SCENARIOS]
HOST_WIDE = [scenario.name for scenario in SCENARIOS if scenario.host_wide]
# What not every kernel of tests/tools/vm can do -> those that cannot.
NEVER_ON = {
    "pid-namespace-full": {"5.10", "6.1", "6.12"},
    "rlimit-nproc-user-namespace": {"5.10"},
    "vfork-after-unshare-time": {"6.12", "7.2"},
}
COUNT = 23
KERNEL = os.environ.get("FORK_TRACE_VM", "")
# Between the refused ones some go through: until all is taken, or between two execve.
GOING_THROUGH = ("pid-max", "exec-in-progress", "pid-namespace-full", "into-cgroup-full")

live = pytest.mark.live
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="makes real failures: run as root")


def borrowable() -> dict[str, object]:
    """Everything that a rehearsal may change on this host."""
    paths = {name: Path("/proc/sys", name) for name in SYSCTLS}
    state: dict[str, object] = {
        name: path.read_text() for name, path in paths.items() if path.exists()
    }
    state["cgroups"] = glob.glob("/sys/fs/cgroup/**/fork-trace-rehearse-*", recursive=True)
    state["subtree_control"] = [
        Path(path).read_text() for path in glob.glob("/sys/fs/cgroup/cgroup.subtree_control")
    ]
    state["descriptors"] = len(os.listdir("/proc/self/fd"))
    state["signals"] = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    return state


def test_scenario_names_and_comms_are_unique() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert len({scenario.comm for scenario in SCENARIOS}) == len(NAMES)


def test_every_comm_fits_and_says_that_it_is_a_rehearsal() -> None:
    for scenario in SCENARIOS:
        assert scenario.comm.startswith("ft-")
        assert len(scenario.comm) <= 15  # TASK_COMM_LEN without the NUL


def test_every_scenario_tells_its_title_and_how_it_is_made() -> None:
    for scenario in SCENARIOS:
        assert scenario.title
        assert scenario.how.startswith("Refuse ")


def test_an_unknown_scenario_names_the_nearest_one_and_the_list() -> None:
    with pytest.raises(ForkTraceError) as refusal:
        run("pid-cgroup", COUNT)

    assert "'pid-cgroup'" in refusal.value.message
    assert "pids-cgroup?" in refusal.value.hint
    assert "--list" in refusal.value.hint


def test_a_name_like_no_other_gets_the_list_only() -> None:
    with pytest.raises(ForkTraceError) as refusal:
        find("zzzz")

    assert refusal.value.hint.startswith("Run `fork-trace rehearse --list`")


def test_a_count_of_nothing_is_refused() -> None:
    with pytest.raises(ForkTraceError, match="cannot make 0 forks fail"):
        run("rlimit-nproc", 0)


@pytest.mark.parametrize("name", HOST_WIDE)
def test_a_host_wide_rehearsal_without_the_flag_changes_nothing(name: str) -> None:
    before = borrowable()

    with pytest.raises(ForkTraceError) as refusal:
        run(name, COUNT)

    assert "--host-wide" in refusal.value.hint
    assert borrowable() == before


def test_a_changed_sysctl_needs_the_flag_even_in_a_confined_scenario() -> None:
    with pytest.raises(ForkTraceError, match="vm.overcommit_memory"):
        restore.Borrowed(host_wide=False).sysctl("vm/overcommit_memory")


def test_without_root_the_cgroup_rehearsals_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    with pytest.raises(ForkTraceError, match="only root"):
        run("pids-cgroup", COUNT)


def test_only_the_expected_failures_are_as_planned() -> None:
    scenario = find("pid-max")

    def planned(failures: dict[str, int]) -> bool:
        counter = Counter(failures)
        return Outcome(scenario, 3, counter, 0, [], 1, "", count=3).is_as_planned

    assert planned({"EAGAIN": 3})
    assert not planned({"EAGAIN": 2})
    assert not planned({"EAGAIN": 2, "ENOMEM": 1})


def test_of_forks_that_shall_take_long_as_many_must() -> None:
    scenario = find("slow-page-tables")

    def planned(slow: int, failures: int = 0) -> bool:
        counter = Counter({"EAGAIN": failures} if failures else {})
        return Outcome(scenario, 9, counter, 9, [], 1, "", count=3, slow=slow).is_as_planned

    assert planned(3)
    assert not planned(2)
    assert not planned(3, failures=1)


def test_a_hybrid_host_offers_the_v1_hierarchy_before_v2() -> None:
    mountinfo = (
        "41 31 0:38 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw\n"
        "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
        "39 31 0:36 / /sys/fs/cgroup/pids\\040here rw - cgroup cgroup rw,pids\n"
    )

    places = restore.places(mountinfo, "pids")

    assert [(1, "/sys/fs/cgroup/pids here"), (2, "/sys/fs/cgroup/unified")] == places


def test_each_controller_has_places_of_its_own() -> None:
    mountinfo = (
        "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
        "39 31 0:36 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n"
    )

    assert [(1, "/sys/fs/cgroup/memory")] == restore.places(mountinfo, "memory")


def test_a_host_without_cgroups_offers_no_place() -> None:
    assert [] == restore.places("22 27 0:21 / /proc rw - proc proc rw\n", "pids")


def test_an_ignored_signal_does_not_end_a_rehearsal() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    held = signal.pthread_sigmask(signal.SIG_BLOCK, child.HELD)
    try:
        act = child.Stage("ft-test", 1, restore.Borrowed(False))
        os.kill(os.getpid(), signal.SIGHUP)
        ended_by = act.ended_by()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
        signal.signal(signal.SIGHUP, before)

    assert ended_by == ""


@live
@needs_root
@pytest.mark.parametrize("name", NAMES)
def test_exactly_as_many_forks_fail_as_asked_and_all_is_given_back(name: str) -> None:
    before = borrowable()

    try:
        outcome = run(name, COUNT, host_wide=True)
    except NotHereError as error:
        assert borrowable() == before
        if KERNEL in NEVER_ON.get(name, set()):
            return
        assert not KERNEL or name not in NEVER_ON
        pytest.skip(error.message)

    assert KERNEL not in NEVER_ON.get(name, set())
    assert outcome.failures == {outcome.scenario.errno: COUNT}
    assert outcome.attempts == COUNT + outcome.successes
    assert name in GOING_THROUGH or outcome.successes == 0
    assert borrowable() == before
    assert rehearsing() == []


def rehearsing() -> list[int]:
    """Return the pids of this session's processes that rehearse."""
    pids = []
    for path in Path("/proc").glob("[0-9]*/comm"):
        pid = int(path.parent.name)
        try:
            if path.read_text().startswith("ft-") and os.getsid(pid) == os.getsid(0):
                pids.append(pid)
        except (FileNotFoundError, ProcessLookupError):
            continue
    return pids


@live
@needs_root
def test_a_big_process_is_refused_while_its_twin_posix_spawn_and_popen_pass() -> None:
    notes = " ".join(run("fork-big", COUNT, host_wide=True).notes)

    assert "23 of 23 forks were refused" in notes
    assert "23 of 23 forks went through" in notes
    assert "posix_spawn: 5 of 5 went through" in notes


@live
@needs_root
def test_the_commit_limit_in_kbytes_comes_back_as_it_was() -> None:
    ratio = Path("/proc/sys/vm/overcommit_ratio")
    kbytes = Path("/proc/sys/vm/overcommit_kbytes")
    original = ratio.read_text(), kbytes.read_text()
    try:
        kbytes.write_text("7654321")
        run("overcommit-never", COUNT, host_wide=True)

        assert ("0\n", "7654321\n") == (ratio.read_text(), kbytes.read_text())
    finally:
        if original[1] == "0\n":
            ratio.write_text(original[0])
        else:
            kbytes.write_text(original[1])


@live
@needs_root
def test_the_heuristic_is_rehearsed_from_another_mode_only_host_wide() -> None:
    mode = Path("/proc/sys/vm/overcommit_memory")
    original = mode.read_text()
    try:
        mode.write_text("1")
        with pytest.raises(ForkTraceError, match="vm.overcommit_memory"):
            run("overcommit-heuristic", COUNT)
        outcome = run("overcommit-heuristic", COUNT, host_wide=True)

        assert outcome.failures == {"ENOMEM": COUNT}
        assert mode.read_text() == "1\n"
    finally:
        mode.write_text(original)


@live
@needs_root
def test_a_cgroup_tree_that_nobody_mounted_is_mounted_privately(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(restore, "places", lambda mountinfo, controller: [])
    before = borrowable()

    outcome = run("pids-cgroup-ancestor", COUNT)

    assert outcome.failures == {"EAGAIN": COUNT}
    assert "private cgroup" in outcome.notes[0]
    assert borrowable() == before


def long_rehearsal(name: str) -> subprocess.Popen[bytes]:
    """Start a rehearsal that will not end by itself, and return once its forks are failing."""
    text = f"from fork_trace.rehearse.run import run; run({name!r}, 10**9, host_wide=True)"
    before = borrowable()
    process = subprocess.Popen(
        [sys.executable, "-c", text],
        cwd=CHECKOUT,
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    comm = find(name).comm
    deadline = time.monotonic() + 60
    # Reads only: this process could not fork now.
    while borrowable() == before or comm not in child_comms(process.pid):
        if time.monotonic() > deadline:
            process.terminate()  # or the host would keep what it changed
            process.wait(10)
        assert process.poll() is None
        time.sleep(0.01)
    return process


def child_comms(pid: int) -> list[str]:
    """Return the comms of a process's children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [Path(f"/proc/{child}/comm").read_text().strip() for child in children]


def await_state(before: dict[str, object]) -> None:
    deadline = time.monotonic() + 10
    while borrowable() != before and time.monotonic() < deadline:
        time.sleep(0.01)

    assert borrowable() == before


# One for each thing that is borrowed, and for each way to hold it: with another user id
# (rlimit-and-pids), a cgroup and sysctls together (two-causes).
CHANGING = [
    *("pids-cgroup", "pids-cgroup-ancestor", "rlimit-and-pids"),
    *(
        name
        for name in HOST_WIDE
        if name not in ("thread-stack-commit", "user-namespace-sysctl", "pidfd-file-max")
    ),
]
# These fork as a user for whom nothing can be given back.
CHANGING_AS_ANOTHER_USER = ["pidfd-file-max", "into-cgroup-denied"]


@live
@needs_root
@pytest.mark.parametrize("name", CHANGING + CHANGING_AS_ANOTHER_USER)
def test_sigterm_to_the_parent_gives_everything_back(name: str) -> None:
    before = borrowable()
    process = long_rehearsal(name)

    process.terminate()

    assert process.wait(10) == -signal.SIGTERM
    assert borrowable() == before


@live
@needs_root
@pytest.mark.parametrize("name", CHANGING)
def test_ctrl_c_to_the_whole_group_gives_everything_back(name: str) -> None:
    before = borrowable()
    process = long_rehearsal(name)

    os.killpg(process.pid, signal.SIGINT)

    assert process.wait(10) in (1, -signal.SIGINT)  # Python's KeyboardInterrupt
    assert borrowable() == before


@live
@needs_root
@pytest.mark.parametrize("name", CHANGING + CHANGING_AS_ANOTHER_USER)
def test_a_killed_parent_leaves_the_giving_back_to_the_child(name: str) -> None:
    before = borrowable()
    process = long_rehearsal(name)

    process.kill()
    process.wait(10)

    await_state(before)


@live
@needs_root
@pytest.mark.parametrize("name", CHANGING)
def test_a_killed_child_leaves_the_giving_back_to_the_parent(name: str) -> None:
    before = borrowable()
    process = long_rehearsal(name)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    os.kill(int(children.read_text().split()[0]), signal.SIGKILL)

    assert process.wait(10) == 1  # a ForkTraceError
    assert borrowable() == before


@live
@needs_root
@pytest.mark.parametrize("end", ["SIGTERM to the parent", "parent killed", "child killed"])
def test_a_rehearsal_in_32_pid_namespaces_leaves_no_process(end: str) -> None:
    text = "from fork_trace.rehearse.run import run; run('pid-namespace-depth', 10**9)"
    process = subprocess.Popen(
        [sys.executable, "-c", text], cwd=CHECKOUT, stderr=subprocess.DEVNULL
    )
    await_count(33)
    if end == "child killed":
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        os.kill(int(children.read_text().split()[0]), signal.SIGKILL)
    else:
        process.send_signal(signal.SIGKILL if end == "parent killed" else signal.SIGTERM)

    expected = {"SIGTERM to the parent": -signal.SIGTERM, "parent killed": -signal.SIGKILL}
    assert process.wait(10) == expected.get(end, 1)
    await_count(0)


def await_count(processes: int) -> None:
    deadline = time.monotonic() + 60
    while len(rehearsing()) != processes:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@live
@needs_root
def test_the_rehearsals_that_need_no_root_do_without_it() -> None:
    names = [each.name for each in SCENARIOS if not each.needs_root]
    text = (
        "import os, sys\n"
        "from fork_trace.rehearse.run import run  # before nobody may no longer read it\n"
        "from fork_trace.errors import NotHereError\n"
        "os.setgid(65534), os.setuid(65534)\n"
        "for name in sys.argv[1:]:\n"
        "    try:\n"
        "        print(name, run(name, 23).is_as_planned)\n"
        "    except NotHereError:\n"
        "        print(name, True)\n"
    )

    done = subprocess.run(
        [sys.executable, "-c", text, *names],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout.splitlines() == [f"{name} True" for name in names], done.stderr


def test_a_count_that_cannot_be_read_is_waited_for_and_is_no_refused_fork(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_PATIENCE_S", 0.01)
    file = tmp_path / "memory.current"
    begin = time.monotonic()
    memory._await(str(file), 23)

    assert time.monotonic() - begin >= 0.01
    file.write_text("24\n")
    assert memory._charged(str(file), 23) == 24


MEMORY = (("memory.max", "memory.current"), ("memory.high", "memory.current"))


def level(directory: Path, most: str, used: int, high: str = "max", cache: int = 0) -> None:
    directory.mkdir(exist_ok=True)
    (directory / "memory.max").write_text(most + "\n")
    (directory / "memory.high").write_text(high + "\n")
    (directory / "memory.current").write_text(f"{used}\n")
    (directory / "memory.stat").write_text(f"anon 1\ninactive_file {cache}\nactive_file 7\n")


def test_room_is_what_the_tightest_of_all_cgroups_leaves(tmp_path: Path) -> None:
    assert None is room_below(str(tmp_path), "/a/b", MEMORY)
    level(tmp_path / "a", "1000", 400)
    assert 600 == room_below(str(tmp_path), "/a/b", MEMORY)
    level(tmp_path / "a" / "b", "max", 300)
    assert 600 == room_below(str(tmp_path), "/a/b", MEMORY)
    level(tmp_path / "a" / "b", "500", 300, cache=50)
    assert 250 == room_below(str(tmp_path), "/a/b", MEMORY)
    level(tmp_path / "a" / "b", "500", 300, high="200")
    assert 0 == room_below(str(tmp_path), "/a/b", MEMORY)
    assert 600 == room_below(str(tmp_path), "/a/elsewhere", MEMORY)


def test_in_a_container_the_cgroup_at_the_top_is_its_own(tmp_path: Path) -> None:
    level(tmp_path, "1000", 900)

    assert 100 == room_below(str(tmp_path), "/kubepods/pod7/x", MEMORY)
