"""The whole of `check` on a made host: far from every limit, then one thing is taken away."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from conftest import INITIAL_PID, MadeHost

from fork_trace.errors import ForkTraceError
from fork_trace.headroom import check
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
        ("sys/kernel/threads-max", "8", ("near", "threads-max", 7, 8)),
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
    assert ["verify", "mitigate"] == [each["kind"] for each in pool["advice"]]
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
    assert "fine" == found["level"]


def test_a_user_at_its_limit_is_named_with_the_process_that_has_it(made_host: MadeHost) -> None:
    made_host.add(1001, "sh", uid=1000, nproc="7")

    found = examine(made_host)

    assert [("full", "rlimit-nproc", 7, 7)] == bad(found)
    pool = found["limits"][0]
    assert {"pid": 1001, "comm": "sh"} == pool["process"]
    assert 7 == pool["holders_total"]
    assert any("prlimit --pid 1001 --nproc=N:N" in each["commands"] for each in pool["advice"])


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

    assert expected == bad(examine(made_host))


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
    ] == found["zombies"]


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
    with pytest.raises(ForkTraceError, match="cannot read"):
        check.examine(80, 100, str(tmp_path))


def test_thresholds_move_the_verdict(made_host: MadeHost) -> None:
    made_host.cgroup("app", 35, "70")

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
