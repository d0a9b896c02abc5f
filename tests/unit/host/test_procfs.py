"""/proc of a process, from a tree of files and from our own."""

from __future__ import annotations

import mmap
import os
import resource
import signal
import sys
import time
import tracemalloc
from pathlib import Path

import pytest

from fork_trace.host import procfs

MAP_NORESERVE = 0x4000  # mmap(2); the module has no name for it before Python 3.13
MAPS = """\
55d0c0000000-55d0c0001000 r--p 00000000 fe:01 1234                       /usr/bin/dash
55d0c0001000-55d0c0003000 r-xp 00001000 fe:01 1234                       /usr/bin/dash
7f0000000000-7f0000001000 rw-p 00000000 00:00 0
7f0000001000-7f0000002000 r-xp 0000a000 fe:01 99                         /opt/with  two spaces/lib.so (deleted)
7f0000003000-7f0000004000 rwxp 00000000 00:00 0
7ffd00000000-7ffd00021000 rw-p 00000000 00:00 0                          [stack]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
"""


def write(root: Path, name: str, text: bytes | str) -> str:
    (root / "42").mkdir(exist_ok=True)
    (root / "42" / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return str(root)


def test_mappings_are_those_that_hold_code(tmp_path: Path) -> None:
    found = procfs.mappings(42, write(tmp_path, "maps", MAPS))

    assert [
        procfs.Mapping(0x55D0C0001000, 0x55D0C0003000, 0x1000, "fe:01", 1234, "/usr/bin/dash"),
        procfs.Mapping(
            0x7F0000001000,
            0x7F0000002000,
            0xA000,
            "fe:01",
            99,
            "/opt/with  two spaces/lib.so (deleted)",
        ),
        # What a compiler made at run time has no file.
        procfs.Mapping(0x7F0000003000, 0x7F0000004000, 0, "00:00", 0, None),
        procfs.Mapping(0xFFFFFFFFFF600000, 0xFFFFFFFFFF601000, 0, "00:00", 0, None),
    ] == found


def test_a_path_of_any_bytes_can_be_opened_again(tmp_path: Path) -> None:
    root = write(tmp_path, "maps", b"1000-2000 r-xp 00000000 fe:01 1 /opt/\xff.so\n")

    assert b"/opt/\xff.so" == os.fsencode(procfs.mappings(42, root)[0].path or "")


def test_cgroups_are_one_for_each_hierarchy(tmp_path: Path) -> None:
    text = "8:pids:/a:b\n3:cpu,cpuacct:/\n1:name=systemd:/init.scope\n0::/user.slice\n"

    assert [
        procfs.CgroupLine(8, "pids", "/a:b"),
        procfs.CgroupLine(3, "cpu,cpuacct", "/"),
        procfs.CgroupLine(1, "name=systemd", "/init.scope"),
        procfs.CgroupLine(0, "", "/user.slice"),
    ] == procfs.cgroups(42, write(tmp_path, "cgroup", text))


def test_a_cgroup_of_any_bytes_is_valid_text(tmp_path: Path) -> None:
    (line,) = procfs.cgroups(42, write(tmp_path, "cgroup", b"0::/\xff\n"))

    assert "/\\xff" == line.path


def test_the_program_is_where_the_link_points(tmp_path: Path) -> None:
    root = write(tmp_path, "maps", "")
    (tmp_path / "42" / "exe").symlink_to("/usr/bin/gone (deleted)")

    assert "/usr/bin/gone (deleted)" == procfs.exe(42, root)


@pytest.mark.parametrize("text", [None, "gibberish\n"])
def test_a_process_that_is_gone_is_unknown_and_no_error(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        write(tmp_path, "maps", text)
        write(tmp_path, "cgroup", text)

    assert procfs.exe(42, str(tmp_path)) is None
    assert [] == procfs.cgroups(42, str(tmp_path))
    assert [] == procfs.mappings(42, str(tmp_path))
    assert procfs.descriptors(42, str(tmp_path)) is None


@pytest.mark.parametrize("count", [0, 1, 23])
def test_open_descriptors_are_counted(tmp_path: Path, count: int) -> None:
    (tmp_path / "42/fd").mkdir(parents=True)
    for number in range(count):
        (tmp_path / "42/fd" / str(number)).symlink_to("/dev/null")

    assert count == procfs.descriptors(42, str(tmp_path))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.16 0.10 0.09 1/613 7319\n", 613),
        ("0.16 0.10 0.09 1613 7319\n", None),
        ("0.16 0.10\n", None),
        ("", None),
        (None, None),
    ],
)
def test_all_threads_of_the_host_are_counted_by_loadavg(
    tmp_path: Path, text: str | None, expected: int | None
) -> None:
    if text is not None:
        (tmp_path / "loadavg").write_text(text)

    assert expected == procfs.threads(str(tmp_path))


@pytest.mark.parametrize(
    ("text", "field", "expected"),
    [
        ("2048\t0\t9223372036854775807\n", 0, 2048),
        ("2048\t0\t9223372036854775807\n", 2, 9223372036854775807),
        ("0\n", 0, 0),
        ("-1\n", 0, -1),
        ("2048\n", 1, None),
        ("many\n", 0, None),
        ("", 0, None),
        (None, 0, None),
    ],
)
def test_a_number_of_a_sysctl_is_read_and_an_unreadable_one_is_unknown(
    tmp_path: Path, text: str | None, field: int, expected: int | None
) -> None:
    (tmp_path / "sys/fs").mkdir(parents=True)
    if text is not None:
        (tmp_path / "sys/fs/file-nr").write_text(text)

    assert expected == procfs.number("sys/fs/file-nr", str(tmp_path), field)


RAM_AND_SWAP = """\
MemTotal:        8000000 kB
MemFree:         7000000 kB
SwapCached:            1 kB
SwapTotal:       2000000 kB
SwapFree:        2000000 kB
HugePages_Total:       3
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (RAM_AND_SWAP, 10_000_000 * 1024),
        ("MemTotal: 17 kB\nSwapTotal: 0 kB\n", 17 * 1024),
        ("MemTotal: many kB\n", None),
        ("MemTotal:\n", None),
        ("", None),
        (None, None),
    ],
)
def test_ram_and_swap_are_what_meminfo_says_together(
    tmp_path: Path, text: str | None, expected: int | None
) -> None:
    if text is not None:
        (tmp_path / "meminfo").write_text(text)

    assert expected == procfs.ram_and_swap(str(tmp_path))


# A mapping as in smaps (proc(5)): its line in maps, and some of what follows it.
SMAPS = """\
{line}
Size:                  4 kB
Rss:                   4 kB
THPeligible:           0
VmFlags: {flags}
"""
SMALL = ("7f0000000000-7f0000001000 rw-p 00000000 00:00 0", "rd wr mr mw me ac sd")
LARGE = "7f1000000000-7f1000003000 rw-p 00000000 00:00 0"  # 3 pages
ABOVE = 0x2000


def write_mappings(root: Path, *found: tuple[str, str]) -> str:
    write(root, "maps", "".join(f"{line}\n" for line, _ in found))
    text = "".join(SMAPS.format(line=line, flags=flags) for line, flags in found)
    return write(root, "smaps", text)


@pytest.mark.parametrize(
    ("line", "flags", "expected"),
    [
        (LARGE, "rd wr mr mw me ac", True),
        (LARGE, "ac", True),
        (LARGE + "                          [heap]", "rd wr mr mw me ac sd", True),
        (LARGE + "                  /opt/a: b c", "rd wr mr mw me ac", True),
        (LARGE, "rd wr mr mw me nr sd", False),  # MAP_NORESERVE
        (LARGE, "rd wr mr mw me acx", False),
        (LARGE.replace("rw-p", "rw-s"), "rd wr sh mr mw me ms ac", False),
        (LARGE.replace("rw-p", "r--p"), "rd mr mw me ac", False),
        (LARGE.replace("rw-p", "-w-p"), "wr mr mw me ac", True),
        (LARGE.replace("3000 ", "2000 "), "rd wr mr mw me ac", False),  # just as large
    ],
)
def test_a_mapping_is_huge_if_it_is_private_writable_accountable_and_larger(
    tmp_path: Path, line: str, flags: str, expected: bool
) -> None:
    root = write_mappings(tmp_path, SMALL, (line, flags), SMALL)

    assert expected is procfs.has_accountable_mapping(42, ABOVE, root)


def test_mappings_are_not_added_up(tmp_path: Path) -> None:
    root = write_mappings(tmp_path, *[SMALL] * 23)

    assert procfs.has_accountable_mapping(42, ABOVE, root) is False


def test_the_flags_of_one_mapping_are_not_those_of_another(tmp_path: Path) -> None:
    root = write_mappings(tmp_path, (LARGE, "rd wr mr mw me nr"), SMALL)

    assert procfs.has_accountable_mapping(42, ABOVE, root) is False


def test_page_tables_are_walked_only_for_a_mapping_that_is_large(tmp_path: Path) -> None:
    """Without one, smaps is not even opened: here there is none."""
    small = write(tmp_path, "maps", f"{SMALL[0]}\n")
    assert procfs.has_accountable_mapping(42, ABOVE, small) is False

    large = write(tmp_path, "maps", f"{LARGE}\n")
    assert procfs.has_accountable_mapping(42, ABOVE, large) is None


@pytest.mark.parametrize("text", [None, "gibberish\n", "7f-x rw-p 0 0 0\n"])
def test_the_mappings_of_a_process_that_is_gone_are_unknown(
    tmp_path: Path, text: str | None
) -> None:
    if text is not None:
        write(tmp_path, "maps", text)

    assert procfs.has_accountable_mapping(42, ABOVE, str(tmp_path)) is None


def test_a_large_mapping_of_our_own_is_seen_and_one_without_reserve_is_not() -> None:
    size = 1 << 40  # larger than whatever else this process has; never touched
    try:
        with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | MAP_NORESERVE):
            is_huge = procfs.has_accountable_mapping(os.getpid(), size - 1)
    except OSError:
        pytest.skip("this machine does not reserve so much address space")
    assert is_huge is False

    with mmap.mmap(-1, 1 << 26, flags=mmap.MAP_PRIVATE):
        assert procfs.has_accountable_mapping(os.getpid(), (1 << 26) - 1) is True
    assert procfs.has_accountable_mapping(os.getpid(), 1 << 40) is False


def test_our_own_host_has_ram_as_much_as_sysconf_says() -> None:
    ram = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

    assert (procfs.ram_and_swap() or 0) >= ram


def test_our_own_host_has_threads_files_and_descriptors() -> None:
    open_files, file_max = procfs.number("sys/fs/file-nr"), procfs.number("sys/fs/file-max")

    assert (procfs.threads() or 0) >= 1
    assert 0 < (open_files or 0) <= (file_max or 0)
    assert (procfs.descriptors(os.getpid()) or 0) >= 1


def test_our_own_process_is_seen() -> None:
    assert os.path.realpath(sys.executable) == procfs.exe(os.getpid())
    assert any("/libc" in (mapping.path or "") for mapping in procfs.mappings(os.getpid()))


@pytest.mark.parametrize(
    ("word", "expected"), [("100", 100), ("0", 0), ("unlimited", (1 << 64) - 1), ("many", None)]
)
def test_the_soft_limits_are_read(tmp_path: Path, word: str, expected: int | None) -> None:
    text = (
        "Limit                     Soft Limit           Hard Limit           Units     \n"
        f"Max data size             {word:20} unlimited            bytes     \n"
        f"Max stack size            8388608              unlimited            bytes     \n"
        f"Max processes             {word:20} 7                    processes \n"
        f"Max open files            {word:20} 7                    files     \n"
        f"Max address space         {word:20} unlimited            bytes     \n"
    )
    root = write(tmp_path, "limits", text)

    every = procfs.SoftLimits(expected, expected, expected, expected, 8388608)
    assert every == procfs.soft_limits(42, root)
    assert procfs.SoftLimits(*[None] * 5) == procfs.soft_limits(43, root)


def test_our_own_soft_limits_are_those_that_we_have() -> None:
    names = ("NPROC", "NOFILE", "AS", "DATA", "STACK")
    soft = [resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))[0] for name in names]

    assert [each % (1 << 64) for each in soft] == list(
        vars(procfs.soft_limits(os.getpid())).values()
    )


@pytest.mark.parametrize("name", ["sh", "a) S 1 (", "x\ny"])
def test_a_name_cannot_forge_its_stat(tmp_path: Path, name: str) -> None:
    root = write(
        tmp_path, "stat", f"42 ({name}) S 1 1 1 0 -1 4194368 9 0 0 0 1 1 7 0 20 0 1 0 99 1"
    )

    assert procfs.Stat(True, 99, True) == procfs.stat(42, root)


def test_a_fork_without_exec_is_seen() -> None:
    before = procfs.stat(os.getpid())
    pid = os.fork()
    if pid == 0:
        while True:
            time.sleep(1)
    try:
        child = procfs.stat(pid)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    assert before is not None and child is not None
    assert child.is_forked
    assert child.start_ticks >= before.start_ticks
    # Each of the two is rounded on its own.
    assert child.start_ticks <= (procfs.uptime_ticks() or 0) + 1
    assert procfs.stat(1 << 22) is None


ROLLUP = "400000-7fff rw-p 0 00:00 0 [rollup]\nRss: 900 kB\nAnonymous: {} kB\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ROLLUP.format(800) + "Private_Clean: 0 kB\nPrivate_Dirty: 100 kB\n", 700),
        # 200 of the private ones are of files: 300 are its own at most, as its share of the rest.
        (ROLLUP.format(800) + "Private_Dirty: 500 kB\nPss_Anon: 450 kB\n", 350),
        (ROLLUP.format(100) + "Private_Dirty: 500 kB\n", 0),
        ("400000-7fff rw-p 0 00:00 0 [rollup]\n", None),
    ],
)
def test_what_is_still_shared_is_what_is_anonymous_and_not_its_own(
    tmp_path: Path, text: str, expected: int | None
) -> None:
    assert expected == procfs.still_shared_kib(42, write(tmp_path, "smaps_rollup", text))
    assert procfs.still_shared_kib(43, str(tmp_path)) is None


def test_a_counter_of_the_host_is_found_by_its_whole_name(tmp_path: Path) -> None:
    (tmp_path / "vmstat").write_text("oom_kill_x 9\noom_kill 23\n")

    assert 23 == procfs.vmstat("oom_kill", str(tmp_path))
    assert procfs.vmstat("oom", str(tmp_path)) is None


def test_the_kernel_s_own_vsyscall_page_is_no_mapping_of_a_process(tmp_path: Path) -> None:
    text = "1000-2000 r-xp 0 00:00 0 /bin/sh\n3000-4000 rw-p 0 00:00 0\n"
    root = write(tmp_path, "maps", text + "ffff0000-ffff1000 --xp 0 00:00 0 [vsyscall]\n")

    assert 2 == procfs.mapping_count(42, root)
    assert 0x1000 == procfs.largest_writable(42, root)
    assert procfs.mapping_count(43, root) is None
    assert procfs.largest_writable(43, root) is None


def test_a_fork_asks_for_what_is_accountable_and_copied(tmp_path: Path) -> None:
    lines = [
        *("1000-3000 rw-p 0 00:00 0", "Size: 8 kB", "VmFlags: rd wr ac"),
        *("3000-4000 r--p 0 00:00 0", "VmFlags: rd ac"),  # it was written once
        *("5000-9000 rw-p 0 00:00 0", "VmFlags: rd wr ac dc"),
        *("a000-f000 rw-s 0 00:00 0", "VmFlags: rd wr sh"),
    ]
    root = write(tmp_path, "smaps", "\n".join(lines) + "\n")

    assert (0x3000, 0x2000) == procfs.accountable(42, root)
    assert procfs.accountable(43, root) is None


def test_the_highest_descriptor_is_found(tmp_path: Path) -> None:
    (tmp_path / "42/fd").mkdir(parents=True)
    assert -1 == procfs.highest_descriptor(42, str(tmp_path))

    for number in (0, 7, 1000):
        (tmp_path / "42/fd" / str(number)).write_text("")

    assert 1000 == procfs.highest_descriptor(42, str(tmp_path))
    assert procfs.highest_descriptor(43, str(tmp_path)) is None


def test_meminfo_is_read_in_kib_and_counts_without_a_unit_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:  100 kB\nHugePages_Total:  5\nSwapTotal: 7 kB\n")

    assert {"MemTotal": 100, "SwapTotal": 7} == procfs.meminfo_kib(str(tmp_path))
    assert 107 * 1024 == procfs.ram_and_swap(str(tmp_path))
    assert {} == procfs.meminfo_kib(str(tmp_path / "gone"))


def test_of_a_process_that_maps_more_than_any_honest_one_not_all_is_read(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    line = "%x-%x r-xp 00000000 fe:00 99 /srv/" + "d" * 4000 + "\n"
    whole = "".join(line % (number << 12, number + 1 << 12) for number in range(1, 6000))
    (tmp_path / "7/maps").write_text(whole)
    tracemalloc.start()
    found = procfs.mappings(7, str(tmp_path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert (1 << 12, "/srv/" + "d" * 4000) == (found[0].start, found[0].path)
    assert 4000 < len(found) < 4200
    assert peak < 4 << 20
    assert procfs.has_accountable_mapping(7, 1 << 30, str(tmp_path)) is False


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("nr_free_pages 7\noom_kill 3\nhtlb 1\n", 3),
        ("nr_free_pages 7\noom_killer 3\n", None),
        ("oom_kill\n", None),
        ("oom_kill x\n", None),
    ],
)
def test_what_the_oom_killer_has_killed_is_counted_or_unknown(
    tmp_path: Path, text: str, number: int | None
) -> None:
    (tmp_path / "vmstat").write_text(text)

    assert number == procfs.vmstat("oom_kill", str(tmp_path))
    assert procfs.vmstat("oom_kill", str(tmp_path / "nowhere")) is None


def test_a_thread_belongs_to_its_process(tmp_path: Path) -> None:
    (tmp_path / "43").mkdir()
    (tmp_path / "43" / "status").write_text("Name:\tx\nTgid:\t42\nPid:\t43\n")

    assert 42 == procfs.process_of(43, str(tmp_path))
    assert procfs.process_of(44, str(tmp_path)) is None


def test_a_container_says_which_host_it_is_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORK_TRACE_HOST", "node-7")
    assert "node-7" == procfs.host_name()
    monkeypatch.setenv("FORK_TRACE_HOST", "")
    assert os.uname().nodename == procfs.host_name()


def test_anonymous_memory_is_in_the_status_of_whoever_has_some(tmp_path: Path) -> None:
    for pid, text in ((1, "RssAnon:\t    12 kB\n"), (2, "State:\tZ (zombie)\n")):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "status").write_text(text)

    assert [12 << 10, 0, None] == [procfs.anonymous(pid, str(tmp_path)) for pid in (1, 2, 3)]


def test_the_mode_of_huge_pages_stands_in_brackets(tmp_path: Path) -> None:
    assert procfs.huge_pages(str(tmp_path)) is None
    place = tmp_path / "kernel/mm/transparent_hugepage"
    place.mkdir(parents=True)
    (place / "enabled").write_text("always [madvise] never\n")
    assert "madvise" == procfs.huge_pages(str(tmp_path))
