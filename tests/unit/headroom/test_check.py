"""The whole of `check` on a made host: far from every limit, then one thing is taken away."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from conftest import INITIAL_PID, INITIAL_USER, MadeHost

from fork_trace.errors import ForkTraceError
from fork_trace.headroom import check, processes, scan
from fork_trace.output.check import check as written


def examine(host: MadeHost, near: float = 80, full: float = 100) -> dict[str, Any]:
    found = check.examine(near, full, str(host.root))
    json.dumps(found)
    return found


def bad(found: dict[str, Any]) -> list[tuple[str, str, Any, Any]]:
    return [
        (each["level"], each["cause"], each["used"], each["limit"])
        for each in found["limits"]
        if each["level"] in ("full", "near")
    ]


def test_a_host_far_from_every_limit_is_fine(made_host: MadeHost) -> None:
    found = examine(made_host)

    assert ("fine", []) == (found["level"], bad(found))
    assert 0 == found["counts"]["unknown"]
    assert (7, 2) == (found["tasks"], found["processes"])
    assert {
        *("threads-max", "pid-max", "pids-cgroup", "rlimit-nproc", "overcommit-heuristic"),
        *("file-max", "fd-table-limit", "thread-stack"),
    } == {each["cause"] for each in found["limits"]}


def test_every_limit_has_the_same_keys(made_host: MadeHost) -> None:
    (keys,) = {tuple(each) for each in examine(made_host)["limits"]}

    assert ("cause", "level", "percent", "name", "used", "limit", "unit", "where") == keys[:8]


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("sys/kernel/threads-max", "7", ("full", "threads-max", 7, 7)),
        ("sys/kernel/threads-max", "8", None),  # so small a limit is always near
        ("sys/kernel/threads-max", "56", ("near", "threads-max", 7, 56)),
        ("sys/kernel/threads-max", "57", None),
        ("sys/kernel/pid_max", "301", None),
        ("sys/fs/nr_open", "64", None),
        ("sys/fs/file-max", "1000", ("full", "file-max", 1000, 1000)),
        ("sys/vm/max_map_count", "1", ("full", "thread-stack", 1, 1)),
        ("meminfo", "MemTotal: 100 kB\nSwapTotal: 0 kB\n", None),
    ],
)
def test_a_host_wide_limit_that_is_lowered_is_named(
    made_host: MadeHost, name: str, text: str, expected: tuple[Any, ...] | None
) -> None:
    made_host.write(name, text + "\n")

    found = bad(examine(made_host))

    assert (expected in found) if expected else found == []


def test_a_full_cgroup_is_named_with_its_directory_and_what_to_do(made_host: MadeHost) -> None:
    made_host.cgroup("app", 70, "70", hits=23)

    found = examine(made_host)

    (pool,) = [each for each in found["limits"] if each["level"] == "full"]
    assert ("pids-cgroup", 70, 70, 23) == tuple(
        pool[name] for name in ("cause", "used", "limit", "hits")
    )
    assert str(made_host.cgroups / "app") == pool["where"]
    assert [{"comm": "java", "pid": 1000, "tasks": 6, "processes": 1, "zombies": 0}] == [
        each for each in pool["holders"] if each["comm"] == "java"
    ]
    assert ["verify", "mitigate", "careful"] == [each["kind"] for each in pool["advice"]]
    assert not any("when the fork failed" in each["text"] for each in pool["advice"])


def test_an_ancestor_that_is_full_is_named_and_not_the_leaf(made_host: MadeHost) -> None:
    made_host.cgroup("app", 70, "70")
    made_host.cgroup("app/leaf", 70, "max")

    found = examine(made_host)

    assert [str(made_host.cgroups / "app")] == [
        each["where"] for each in found["limits"] if each["level"] == "full"
    ]


def test_a_cgroup_without_a_limit_is_none(made_host: MadeHost) -> None:
    made_host.cgroup("app", 70, "max")

    assert "pids-cgroup" not in {each["cause"] for each in examine(made_host)["limits"]}


@pytest.mark.parametrize("is_hybrid", [False, True], ids=["v1", "hybrid"])
def test_with_a_v1_hierarchy_of_pids_that_one_is_asked(
    made_host: MadeHost, is_hybrid: bool
) -> None:
    v1 = made_host.root / "pids"
    (v1 / "job").mkdir(parents=True)
    for name, text in (("current", "9"), ("max", "9"), ("events", "max 1")):
        (v1 / "job" / f"pids.{name}").write_text(text + "\n")
    v2 = f"25 24 0:23 / {made_host.cgroups} rw - cgroup2 cgroup2 rw\n" if is_hybrid else ""
    made_host.mount(v2 + f"39 31 0:36 / {v1} rw - cgroup cgroup rw,pids\n")

    found = examine(made_host)

    assert [("full", "pids-cgroup", 9, 9)] == bad(found)
    assert 1 == sum(each["cause"] == "pids-cgroup" for each in found["limits"])


def test_without_a_mounted_hierarchy_pids_cgroups_are_not_known(made_host: MadeHost) -> None:
    made_host.mount("")

    found = examine(made_host)

    assert {"pids-cgroup": None} == {
        each["cause"]: each["used"] for each in found["limits"] if each["level"] == "unknown"
    }
    assert "unknown" == found["level"]


def test_a_user_at_its_limit_is_named_with_the_process_that_has_it(made_host: MadeHost) -> None:
    made_host.add(1001, "sh", uid=1000, nproc="7")

    found = examine(made_host)

    assert [("full", "rlimit-nproc", 7, 7)] == bad(found)
    pool = found["limits"][0]
    assert {"pid": 1001, "comm": "sh"} == pool["process"]
    assert 7 == pool["holders_total"]
    assert any("prlimit --pid 1001 --nproc=32:32" in each["commands"] for each in pool["advice"])


@pytest.mark.parametrize(("names", "used"), [(b"\0UCOUNT_RLIMIT_NPROC\0", 6), (b"\0x\0", 10)])
def test_user_namespaces_count_apart_where_the_kernel_does_so(
    made_host: MadeHost, names: bytes, used: int
) -> None:
    made_host.add(1001, "inside", uid=1000, threads=4, namespaces=(INITIAL_PID, 42))
    btf = made_host.root / "sys/kernel/btf/vmlinux"
    btf.parent.mkdir(parents=True)
    btf.write_bytes(names)

    found = examine(made_host)

    assert [used] == [each["used"] for each in found["limits"] if each["where"] == "uid 1000"]


def test_every_pid_below_the_limit_taken_is_named(made_host: MadeHost) -> None:
    made_host.write("sys/kernel/pid_max", "301\n")
    made_host.add(300, "sleeper")

    found = examine(made_host)

    assert [("full", "pid-max", 1, 1)] == bad(found)
    assert 301 == found["limits"][0]["setting"]
    assert any("(it was 301)" in each["text"] for each in found["limits"][0]["advice"])


def test_a_descriptor_above_nr_open_is_named(made_host: MadeHost) -> None:
    made_host.write("sys/fs/nr_open", "1024\n")
    made_host.add(1001, "server", slots=2048, descriptors=(0, 1500))

    assert [("full", "fd-table-limit", 1500, 1024)] == bad(examine(made_host))


def test_a_large_table_that_may_not_be_read_is_not_fine(made_host: MadeHost) -> None:
    made_host.write("sys/fs/nr_open", "1024\n")
    place = made_host.add(1001, "server", slots=2048)
    for each in (place / "fd").iterdir():
        each.unlink()
    (place / "fd").rmdir()

    found = examine(made_host)

    assert [("unknown", None)] == [
        (each["level"], each["used"])
        for each in found["limits"]
        if each["cause"] == "fd-table-limit" and each["process"]["pid"] == 1001
    ]


BIG_MAPPING = "10000000-50000000 rw-p 00000000 00:00 0\n"  # 1 GiB: 1,048,576 KiB
ACCOUNTED = BIG_MAPPING + "Size: 1048576 kB\nVmFlags: rd wr mr mw me ac\n"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [("ac", [("full", "overcommit-heuristic", 1_048_576, 1_000_000)]), ("nr", []), ("ac dc", [])],
)
def test_in_mode_0_a_mapping_above_ram_and_swap_is_named_if_fork_asks_for_it(
    made_host: MadeHost, flags: str, expected: list[Any]
) -> None:
    place = made_host.add(1001, "db", kib=(1_100_000, 1_050_000), maps=BIG_MAPPING)
    (place / "smaps").write_text(ACCOUNTED.replace(" ac\n", f" {flags}\n"))

    found = examine(made_host)
    assert expected == bad(found)
    # Whether it ever forks is not known; that it has not so far is.
    assert all(
        "has waited for no child" in each["note"] for each in found["limits"][: len(expected)]
    )

    stat = (place / "stat").read_text()
    (place / "stat").write_text(stat.replace(" 0 0 0 0 0 0 0 0 0", " 0 0 0 0 0 0 7 7 0", 1))
    assert "no child" not in str([each["note"] for each in examine(made_host)["limits"]])


def test_in_mode_2_who_asks_for_more_than_is_left_is_named(made_host: MadeHost) -> None:
    made_host.write("sys/vm/overcommit_memory", "2\n")
    place = made_host.add(1001, "db", uid=1000, kib=(320_000, 390_000))
    (place / "smaps").write_text(
        "10000000-28000000 rw-p 00000000 00:00 0\nVmFlags: rd wr mr mw me ac\n"  # 393,216 KiB
    )

    found = examine(made_host)

    # 500,000 less 8192 for root less 1/32 of the process; 100,000 are committed.
    assert [("full", "overcommit-never", 493_216, 481_808)] == bad(found)
    assert {"pid": 1001, "comm": "db"} == found["limits"][0]["process"]


def test_what_may_not_be_read_is_estimated_and_said_so(made_host: MadeHost) -> None:
    made_host.write("sys/vm/overcommit_memory", "2\n")
    made_host.add(1001, "db", uid=1000, kib=(320_000, 390_000))

    (pool,) = [each for each in examine(made_host)["limits"] if each["level"] == "full"]

    assert "estimated" in pool["note"]


def test_in_mode_1_memory_refuses_nothing(made_host: MadeHost) -> None:
    made_host.write("sys/vm/overcommit_memory", "1\n")

    (pool,) = [each for each in examine(made_host)["limits"] if each["cause"] == "overcommit-never"]

    assert ("fine", None) == (pool["level"], pool["percent"])


def test_zombies_are_told_with_the_parent_that_must_reap_them(made_host: MadeHost) -> None:
    for pid in (1001, 1002, 1003):
        made_host.add(pid, "sh", uid=1000, state="Z", parent=1000)
    made_host.add(1004, "sh", state="Z", parent=0)

    found = examine(made_host)

    assert [
        {"pid": 1000, "comm": "java", "zombies": 3},
        {"pid": None, "comm": None, "zombies": 1},
    ] == [{name: each[name] for name in ("pid", "comm", "zombies")} for each in found["zombies"]]


def test_in_a_container_the_host_s_numbers_are_not_known(made_host: MadeHost) -> None:
    link = made_host.proc / "self/ns/pid"
    link.unlink()
    link.symlink_to("pid:[42]")

    found = examine(made_host)

    assert {"the whole host": None, "this pid namespace 42": 6} == {
        each["where"]: each["used"] for each in found["limits"] if each["cause"] == "pid-max"
    }
    assert "unknown" == next(
        each["level"] for each in found["limits"] if each["where"] == "uid 1000"
    )


@pytest.mark.parametrize(
    "name",
    [
        *("sys/kernel/threads-max", "sys/kernel/pid_max", "sys/fs/nr_open", "sys/fs/file-nr"),
        *("sys/vm/overcommit_memory", "sys/vm/max_map_count", "loadavg", "meminfo"),
    ],
)
def test_a_number_that_is_not_told_is_not_fine(made_host: MadeHost, name: str) -> None:
    (made_host.proc / name).unlink()

    found = examine(made_host)

    unknown = [each for each in found["limits"] if each["level"] == "unknown"]
    assert unknown
    assert all(each["why"] for each in unknown)
    assert written(found, is_all=True)


def test_a_proc_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ForkTraceError, match="is not mounted"):
        check.examine(80, 100, str(tmp_path))


def test_thresholds_move_the_verdict(made_host: MadeHost) -> None:
    made_host.cgroup("app", 350, "700")

    assert "fine" == examine(made_host)["level"]
    assert "near" == examine(made_host, near=50)["level"]
    assert "full" == examine(made_host, near=20, full=50)["level"]


def test_no_process_is_made(made_host: MadeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise AssertionError("a process was made")

    for name in ("fork", "posix_spawn", "system"):
        monkeypatch.setattr(os, name, refuse)

    assert "fine" == examine(made_host)["level"]


def test_the_text_has_the_verdict_the_table_and_what_to_do(made_host: MadeHost) -> None:
    made_host.cgroup("app", 70, "70", hits=23)
    made_host.add(1001, "sh", uid=1000, nproc="10", threads=2)
    made_host.add(1002, "sh", uid=1000, state="Z", parent=1001)
    made_host.add(1003, "x\x1b[31m", uid=70_000, state="Z", parent=1)

    lines = written(examine(made_host), is_all=False).splitlines()

    text = "\n".join(lines)
    assert lines[0].startswith("full: pids-cgroup, 70 of 70 tasks,")
    assert "1 full, 1 near, 0 unknown" in " ".join(text.split())
    assert ["LEVEL", "USE", "CAUSE", "USED/LIMIT", "WHERE"] in [line.split() for line in lines]
    assert "pids.events max: 23" in text
    assert "sh[1001] 2 tasks (1 process) and 1 zombie" in " ".join(text.split())
    assert "lowest limit: sh[1001]" in text
    assert "zombies: 2" in text
    assert text.count("-> Verify") == 2
    assert all(len(line) < 80 for line in lines if str(made_host.root) not in line)
    assert "\x1b" not in text


def test_all_limits_are_shown_on_request(made_host: MadeHost) -> None:
    found = examine(made_host)

    short, long = written(found, is_all=False), written(found, is_all=True)

    assert "12 ok" in short
    assert "not limited: rlimit-nproc, uid 0: root is exempt" in short
    assert "thread-stack" not in short
    assert all(each["cause"] in long for each in found["limits"])


def test_what_was_refused_before_is_told_when_all_is_fine_now(made_host: MadeHost) -> None:
    made_host.cgroup("app", 7, "700", hits=181)
    made_host.cgroup("free", 7, "max", hits=3)
    (made_host.cgroups / "free" / "memory.events").write_text("oom 2\noom_kill 2\n")

    found = examine(made_host)

    assert "fine" == found["level"]
    assert [
        ("pids.events max", 181, str(made_host.cgroups / "app")),
        ("pids.events max", 3, str(made_host.cgroups / "free")),
        ("memory.events oom_kill", 2, str(made_host.cgroups / "free")),
    ] == [(each["name"], each["count"], each["where"]) for each in found["refusals"]]
    assert {"pids.events max": 184, "memory.events oom_kill": 2} == found["refusals_total"]
    text = " ".join(written(found, is_all=False).split())
    assert text.startswith("ok now, but 184 forks refused so far; ")
    assert f"181 forks refused so far: {made_host.cgroups}/app (pids.events max)" in text
    assert "2 processes killed by the OOM killer so far" in text


def test_kills_that_no_cgroup_tells_of_are_the_host_s(made_host: MadeHost) -> None:
    made_host.write("vmstat", "nr_free_pages 1\noom_kill 5\n")

    found = examine(made_host)

    assert 5 == found["oom_kills"]
    assert "5 processes killed by the OOM killer since the boot" in written(found, is_all=False)


def test_of_very_many_cgroups_with_refusals_a_hundred_are_named(made_host: MadeHost) -> None:
    for number in range(130):
        made_host.cgroup(f"job{number}", 1, "max", hits=number + 1)

    found = examine(made_host)

    assert (100, 130) == (len(found["refusals"]), found["refusals"][0]["count"])
    assert sum(range(131)) == found["refusals_total"]["pids.events max"]
    assert len(written(found, is_all=False).splitlines()) < 24


def test_a_shell_whose_pid_namespace_is_dead_is_full(made_host: MadeHost) -> None:
    made_host.add(1001, "bash", children=42)

    found = examine(made_host)

    (pool,) = [each for each in found["limits"] if each["level"] == "full"]
    assert ("full", "pid-namespace-dead", 100.0, None) == (
        found["level"],
        pool["cause"],
        pool["percent"],
        pool["used"],
    )
    assert {"pid": 1001, "comm": "bash"} == pool["process"]
    assert pool["refuses"]
    text = written(found, is_all=False)
    assert text.startswith("full: pid-namespace-dead, its init has exited, bash[1001];")
    assert "readlink /proc/1001/ns/pid /proc/1001/ns/pid_for_children" in " ".join(text.split())


@pytest.mark.parametrize(
    ("state", "threads", "expected"), [("S", 1, "fine"), ("Z", 1, "full"), ("Z", 2, "fine")]
)
def test_a_namespace_whose_init_lives_is_not_dead(
    made_host: MadeHost, state: str, threads: int, expected: str
) -> None:
    made_host.add(1001, "unshare", children=42)
    inner = (42, INITIAL_USER)
    made_host.add(1002, "bash", state=state, threads=threads, pids="\t1", namespaces=inner)

    assert expected == examine(made_host)["level"]


def test_a_namespace_that_has_no_init_yet_is_not_dead(made_host: MadeHost) -> None:
    place = made_host.add(1001, "unshare")
    # As the kernel has it until the first child is made (kernel/pid_namespace.c).
    (place / "ns" / "pid_for_children").unlink()

    assert "fine" == examine(made_host)["level"]


def test_where_processes_are_hidden_no_namespace_is_called_dead(made_host: MadeHost) -> None:
    made_host.add(1001, "bash", children=42)
    (made_host.proc / "1000" / "status").unlink()
    (made_host.proc / "1000" / "status").mkdir()  # as unreadable as one of another user's

    found = examine(made_host)

    assert "full" not in {each["level"] for each in found["limits"]}
    assert [
        (each["level"], bool(each["why"]))
        for each in found["limits"]
        if each["cause"] == "pid-namespace-dead"
    ] == [("unknown", True)]


def test_descriptors_near_their_soft_limit_are_named(made_host: MadeHost) -> None:
    made_host.add(
        1001, "node", slots=256, descriptors=tuple(range(230)), limits={"open files": "256"}
    )
    # A table of as many slots, of which few are taken.
    made_host.add(1002, "sh", slots=256, limits={"open files": "256"})

    found = examine(made_host)

    assert [("near", "rlimit-nofile", 230, 256)] == bad(found)
    assert {"pid": 1001, "comm": "node"} == found["limits"][0]["process"]


@pytest.mark.parametrize(
    ("name", "setting", "size"),
    [("address space", "RLIMIT_AS", 995_000), ("data size", "RLIMIT_DATA", 995_000)],
)
def test_no_room_for_one_more_stack_is_full(
    made_host: MadeHost, name: str, setting: str, size: int
) -> None:
    made_host.add(
        *(1001, "java"),
        kib=(size, size),
        limits={name: str(1_000_000 * 1024), "stack size": str(8192 * 1024)},
    )

    found = examine(made_host)

    (pool,) = [each for each in found["limits"] if each["level"] == "full"]
    assert ("thread-stack", setting, size + 8192, 1_000_000, "KiB") == tuple(
        pool[key] for key in ("cause", "name", "used", "limit", "unit")
    )
    assert any(setting == "RLIMIT_AS" or "--data" in str(each) for each in pool["advice"])


@pytest.mark.parametrize(
    ("limit", "expected"), [("3", []), ("2", [("full", "namespace-limit", 2, 2)])]
)
def test_namespaces_are_compared_with_what_one_user_may_have(
    made_host: MadeHost, limit: str, expected: list[Any]
) -> None:
    made_host.write("sys/user/max_user_namespaces", limit)
    made_host.add(1001, "a", uid=1000, namespaces=(INITIAL_PID, 42))
    made_host.add(1002, "b", uid=1000, namespaces=(INITIAL_PID, 43))

    assert expected == bad(examine(made_host))


def test_what_was_switched_off_is_no_shortage(made_host: MadeHost) -> None:
    made_host.write("sys/user/max_user_namespaces", "0")

    found = examine(made_host)

    assert "fine" == found["level"]
    text = " ".join(written(found, is_all=False).split())
    assert "switched off: namespace-limit, the whole host: user.max_user_namespaces is 0" in text


def test_types_that_are_not_read_anyway_are_looked_into_where_it_matters(
    made_host: MadeHost,
) -> None:
    made_host.write("sys/user/max_net_namespaces", "2")
    for pid, inode in ((1001, 5), (1002, 6), (1003, 7)):
        (made_host.add(pid, "c") / "ns" / "net").symlink_to(f"net:[{inode}]")

    assert [("full", "namespace-limit", 2, 2)] == bad(examine(made_host))

    made_host.write("sys/user/max_net_namespaces", "1000")
    assert "namespace-limit" not in {each["cause"] for each in examine(made_host)["limits"]}


def test_a_limit_that_is_systemd_s_default_is_told_as_such(made_host: MadeHost) -> None:
    (made_host.root / "run/systemd/system").mkdir(parents=True)
    made_host.cgroup("app.service", 140, "150")  # 15 % of threads-max
    made_host.cgroup("own.service", 140, "151")
    made_host.cgroup("app.slice", 140, "150")

    found = examine(made_host)

    assert {"app.service": "DefaultTasksMax", "own.service": None, "app.slice": None} == {
        os.path.basename(each["where"]): each["default"]
        for each in found["limits"]
        if each["level"] == "near"
    }
    assert "probably by DefaultTasksMax=" in written(found, is_all=False)


def test_the_most_so_far_is_shown_where_the_kernel_keeps_it(made_host: MadeHost) -> None:
    made_host.cgroup("app", 65, "70")
    (made_host.cgroups / "app" / "pids.peak").write_text("70\n")

    found = examine(made_host)

    assert 70 == found["limits"][0]["peak"]
    assert "at most so far: 70 (pids.peak)" in written(found, is_all=False)


def test_the_check_itself_is_ranked_nowhere(made_host: MadeHost) -> None:
    for each in sorted((made_host.proc / "self").rglob("*")):
        if not each.is_dir() or each.is_symlink():
            each.unlink()
    link = made_host.proc / "self"
    (link / "ns").rmdir()
    link.rmdir()
    place = made_host.add(
        *(1001, "fork-trace"), uid=1000, nproc="7", children=42, kib=(9_000_000, 9_000_000)
    )
    (place / "mountinfo").write_text(f"25 24 0:23 / {made_host.cgroups} rw - cgroup2 cgroup2 rw\n")
    link.symlink_to("1001")

    found = examine(made_host)

    # It is a task as others are.
    assert [("full", "rlimit-nproc", 7, 7)] == bad(found)
    assert 1001 not in [each["process"]["pid"] for each in found["limits"] if each["process"]]
    assert [1000] == [each["pid"] for each in found["limits"][0]["holders"]]
    assert 7 == found["limits"][0]["holders_total"]


def zombies(host: MadeHost, starts_s: list[int]) -> dict[str, Any]:
    host.write("uptime", "10000.00 1.00\n")
    ticks = os.sysconf("SC_CLK_TCK")
    for number, start in enumerate(starts_s):
        host.add(2000 + number, "sh", state="Z", parent=1000, start=start * ticks)
    (found,) = examine(host)["zombies"]
    return dict(found)


def test_zombies_that_become_more_and_more_are_told(made_host: MadeHost) -> None:
    found = zombies(made_host, [6400 + 360 * number for number in range(10)])  # one in six minutes

    assert (10, 3600.0, 360.0) == (found["zombies"], found["oldest_s"], found["newest_s"])
    assert 10.0 == found["per_hour"]
    text = " ".join(written(examine(made_host), is_all=False).split())
    assert "10 of java[1000] (growing: about 10 an hour)" in text


@pytest.mark.parametrize(
    "starts_s",
    [[9999] * 10, [100] * 10, [6400, 9999], [1000 + number for number in range(10)]],
    ids=["a burst just now", "long ago", "two", "a burst of before"],
)
def test_zombies_that_do_not_grow_are_not_said_to(made_host: MadeHost, starts_s: list[int]) -> None:
    assert zombies(made_host, starts_s)["per_hour"] is None


def test_a_limit_that_everybody_may_read_and_is_not_there_is_unknown(made_host: MadeHost) -> None:
    (made_host.proc / "sys/kernel/threads-max").unlink()

    found = examine(made_host)

    assert "unknown" == found["level"]
    assert written(found, is_all=False).startswith("unknown: ")


def test_what_is_worse_than_unknown_comes_first(made_host: MadeHost) -> None:
    (made_host.proc / "sys/kernel/threads-max").unlink()
    made_host.cgroup("app", 70, "70")

    assert "full" == examine(made_host)["level"]


@pytest.mark.parametrize(
    ("cache", "swap", "expected"),
    [
        (0, 0, [("full", "memory-cgroup", 100 * 1024 - 100 + 256, 100 * 1024)]),
        (8 << 20, 0, []),  # the kernel drops that first
        (0, 1024, []),  # and swaps
    ],
    ids=["full", "cache", "swap"],
)
def test_a_memory_cgroup_with_nothing_to_drop_at_its_limit_is_full(
    made_host: MadeHost, cache: int, swap: int, expected: list[Any]
) -> None:
    made_host.meminfo(MemTotal=1_000_000, SwapTotal=swap, SwapFree=swap, MemAvailable=900_000)
    place = made_host.cgroups / "app"
    (place / "memory.events").write_text("oom_kill 0\n")
    (place / "memory.max").write_text(f"{100 << 20}\n")
    (place / "memory.current").write_text(f"{(100 << 20) - (100 << 10)}\n")
    (place / "memory.stat").write_text(f"inactive_file {cache}\n")

    assert expected == bad(examine(made_host))


def test_a_memory_cgroup_is_never_near(made_host: MadeHost) -> None:
    place = made_host.cgroups / "app"
    (place / "memory.events").write_text("oom_kill 0\n")
    (place / "memory.max").write_text(f"{100 << 20}\n")
    (place / "memory.current").write_text(f"{98 << 20}\n")

    assert "fine" == examine(made_host)["level"]


def test_a_namespace_that_was_made_while_proc_was_read_is_not_dead(
    made_host: MadeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_host.add(1001, "unshare", children=42)
    take = scan.take

    def then_its_init_is_made(*arguments: Any) -> scan.Survey:
        seen = take(*arguments)
        made_host.add(1002, "bash", pids="\t1", namespaces=(42, INITIAL_USER))
        return seen

    monkeypatch.setattr(scan, "take", then_its_init_is_made)

    assert "fine" == examine(made_host)["level"]


def test_where_there_is_no_time_to_look_for_its_init_a_namespace_is_not_known(
    made_host: MadeHost,
) -> None:
    made_host.add(1001, "bash", children=42)
    clock = iter([0.0, *[9.0] * 10])

    (found,) = processes.dead_namespaces(
        scan.take(str(made_host.proc)), str(made_host.proc), lambda: next(clock)
    )

    assert ("unknown", True) == (found.level(80, 100), bool(found.why))
