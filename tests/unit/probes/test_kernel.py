"""Facts of a kernel, read from a tree of files that begins as a capable one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fork_trace.probes import kernel
from fork_trace.probes.plan import YES, Fact

ROOT_CAPABILITIES = "000001ffffffffff"
KALLSYMS = """\
0000000000000000 A fixed_percpu_data
ffffffff81000000 T _text
ffffffff81001000 t copy_process.cold
ffffffff81080000 T copy_process
ffffffff81080000 T copy_process_alias
ffffffff81082100 t __pfx_create_io_thread
ffffffff81082110 T create_io_thread
ffffffff81100000 T dup_fd
ffffffff82000000 D nr_threads
ffffffffc0000000 t alloc_pid	[evil]
ffffffffc0000010 t dup_fd	[evil]
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path, "proc/self/status", f"Name:\tx\nCapEff:\t{ROOT_CAPABILITIES}\n")
    write(tmp_path, "proc/kallsyms", KALLSYMS)
    write(tmp_path, "sys/kernel/security/lockdown", "[none] integrity confidentiality\n")
    write(tmp_path, "sys/kernel/btf/vmlinux", "BTF")
    for name in ("trace", "kprobe_events", "events/syscalls/sys_exit_clone/id"):
        write(tmp_path, f"sys/kernel/tracing/{name}", "")
    return tmp_path


def write(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def symbols(root: Path, *names: str) -> tuple[Fact, dict[str, int], tuple[int, int] | None]:
    return listed_or_not(names, str(root))


def listed_or_not(*arguments: Any) -> tuple[Fact, dict[str, int], tuple[int, int] | None]:
    """With the range of copy_process alone."""
    fact, addresses, ranges = kernel.symbols(*arguments)
    return fact, addresses, ranges.get("copy_process")


def test_root_on_an_open_kernel_may_load(root: Path) -> None:
    assert YES == kernel.may_load(str(root))


@pytest.mark.parametrize(
    ("capabilities", "may"),
    [
        (1 << 21, True),  # CAP_SYS_ADMIN
        (1 << 38 | 1 << 39, True),  # CAP_PERFMON and CAP_BPF
        (1 << 38, False),
        (1 << 39, False),
        (0, False),
        ((1 << 41) - 1 & ~(1 << 21 | 1 << 39), False),
    ],
)
def test_loading_needs_the_right_capabilities(root: Path, capabilities: int, may: bool) -> None:
    write(root, "proc/self/status", f"Name:\tx\nCapEff:\t{capabilities:016x}\n")

    assert may == kernel.may_load(str(root)).value


@pytest.mark.parametrize(
    ("text", "state", "may"),
    [
        ("[none] integrity confidentiality\n", "none", True),
        ("none [integrity] confidentiality\n", "integrity", True),
        ("none integrity [confidentiality]\n", "confidentiality", False),
    ],
)
def test_a_locked_down_kernel_lets_even_root_load_only_up_to_integrity(
    root: Path, text: str, state: str, may: bool
) -> None:
    write(root, "sys/kernel/security/lockdown", text)

    assert (state, may) == (kernel.lockdown(str(root)), kernel.unlocked(str(root)).value)


def test_a_kernel_without_lockdown_is_not_locked_down(root: Path) -> None:
    (root / "sys/kernel/security/lockdown").unlink()

    assert kernel.lockdown(str(root)) is None
    assert YES == kernel.may_load(str(root))


@pytest.mark.parametrize("status", [None, "", "Name:\tx\n"])
def test_capabilities_that_cannot_be_read_are_unknown_and_not_missing(
    root: Path, status: str | None
) -> None:
    (root / "proc/self/status").unlink()
    if status is not None:
        write(root, "proc/self/status", status)

    assert kernel.may_load(str(root)).value is None
    assert kernel.may_load(str(root)).why


def test_btf_is_a_file(root: Path) -> None:
    assert YES == kernel.btf(str(root))

    (root / "sys/kernel/btf/vmlinux").unlink()

    assert kernel.btf(str(root)).value is False


@pytest.mark.parametrize(
    ("fact", "file"),
    [
        (kernel.kprobes, "kprobe_events"),
        (kernel.tracepoints, "events/syscalls/sys_exit_clone"),
    ],
)
def test_tracefs_tells_what_there_is_and_without_it_nothing_is_known(
    root: Path, fact: Callable[[str], Fact], file: str
) -> None:
    tracing = root / "sys/kernel/tracing"
    assert YES == fact(str(root))

    tracing.rename(root / "sys/kernel/moved")
    assert fact(str(root)).value is None

    (root / "sys/kernel/debug").mkdir()
    (root / "sys/kernel/moved").rename(root / "sys/kernel/debug/tracing")
    assert YES == fact(str(root))

    (root / "sys/kernel/debug/tracing" / file).rename(root / "gone")
    assert fact(str(root)).value is False


def test_kprobes_that_are_switched_off_are_of_no_use(root: Path) -> None:
    switch = root / "sys/kernel/debug/kprobes/enabled"
    switch.parent.mkdir(parents=True)
    switch.write_text("1\n")
    assert YES == kernel.kprobes(str(root))

    switch.write_text("0\n")
    assert "disabled" in kernel.kprobes(str(root)).why


@pytest.mark.parametrize(
    ("paranoia", "effective", "expected"),
    [("2", 0, True), ("3", 0, False), ("4", 1 << 38 | 1 << 39, False), ("3", 1 << 21, True)],
)
def test_where_perf_events_take_root_others_have_no_kprobes(
    root: Path, paranoia: str, effective: int, expected: bool
) -> None:
    (root / "proc/sys/kernel").mkdir(parents=True, exist_ok=True)
    (root / "proc/self").mkdir(parents=True, exist_ok=True)
    (root / "proc/sys/kernel/perf_event_paranoid").write_text(f"{paranoia}\n")
    (root / "proc/self/status").write_text(f"CapEff:\t{effective:016x}\n")

    fact = kernel.kprobes(str(root))

    assert expected == fact.value
    assert expected or f"perf_event_paranoid is {paranoia}" in fact.why


def test_without_tracefs_the_event_sources_tell_of_kprobes(root: Path) -> None:
    (root / "sys/kernel/tracing").rename(root / "gone")
    sources = root / "sys/bus/event_source/devices"
    sources.mkdir(parents=True)
    assert kernel.kprobes(str(root)).value is None

    (sources / "uprobe").mkdir()
    assert kernel.kprobes(str(root)).value is False

    (sources / "kprobe").mkdir()
    assert YES == kernel.kprobes(str(root))


def test_symbols_of_the_kernel_are_found_and_those_of_modules_are_not(root: Path) -> None:
    fact, found, _ = symbols(root, "dup_fd", "nr_threads", "alloc_pid", "create_io")

    assert YES == fact
    assert {
        "copy_process": 0xFFFFFFFF81080000,
        "dup_fd": 0xFFFFFFFF81100000,
        "nr_threads": 0xFFFFFFFF82000000,
    } == found


def test_many_symbols_are_found_by_one_pass(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    passes: list[str] = []
    chunks = kernel._chunks

    def noted(path: str) -> Iterator[bytes]:
        passes.append(path)
        return chunks(path)

    monkeypatch.setattr(kernel, "_chunks", noted)
    names = [f"variable_{number}" for number in range(97)]
    lines = [f"ffffffff83{n:06x} d {name}\n" for n, name in enumerate(names)]
    head, modules = KALLSYMS.split("ffffffffc0000000", 1)
    write(root, "proc/kallsyms", head + "".join(lines) + "ffffffffc0000000" + modules)

    _, found, range_ = symbols(root, *names)

    assert names == [name for name in names if name in found]
    assert (0xFFFFFFFF81080000, 0xFFFFFFFF81082100) == range_
    assert 1 == len(passes)


def test_a_name_within_another_is_not_found(root: Path) -> None:
    _, found, _ = symbols(root, "threads", "nr_thread", "process", "copy_process.cold")

    assert {"copy_process", "copy_process.cold"} == set(found)


def test_a_name_that_two_symbols_share_is_not_used(root: Path) -> None:
    write(root, "proc/kallsyms", KALLSYMS.replace("T dup_fd", "t nr_threads"))

    fact, found, _ = symbols(root, "dup_fd", "nr_threads")

    assert (YES, {"copy_process"}) == (fact, set(found))


def test_a_range_that_two_copies_of_copy_process_share_is_not_used(root: Path) -> None:
    write(root, "proc/kallsyms", KALLSYMS.replace("T dup_fd", "t copy_process"))

    _, found, range_ = symbols(root, "nr_threads")

    assert ({"nr_threads"}, None) == (set(found), range_)


def test_copy_process_ends_where_the_next_function_begins(root: Path) -> None:
    assert (0xFFFFFFFF81080000, 0xFFFFFFFF81082100) == symbols(root)[2]


def test_listed_symbols_need_no_text(tmp_path: Path) -> None:
    listed = [
        (0x10, b"mm_init"),
        (0x20, b"copy_process"),
        (0x20, b"copy_processed"),
        (0x80, b"copy_process.cold"),
        (0x90, b"mm_init"),
        (0xA0, b"nr_threads"),
    ]
    fact, found, range_ = listed_or_not(["mm_init", "nr_threads", "dup_fd"], str(tmp_path), listed)

    assert YES == fact
    assert {"copy_process": 0x20, "nr_threads": 0xA0} == found
    assert (0x20, 0x80) == range_


def test_listed_symbols_without_addresses_tell_so(tmp_path: Path) -> None:
    fact, found, range_ = listed_or_not(["dup_fd"], str(tmp_path), [(0, b"dup_fd")])

    assert fact.value is False
    assert ({}, None) == (found, range_)


@pytest.mark.parametrize("chunk_bytes", range(1, 200, 7))
def test_symbols_are_found_wherever_a_chunk_ends(
    root: Path, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = symbols(root, "dup_fd", "nr_threads", "missing")

    monkeypatch.setattr(kernel, "_CHUNK_BYTES", chunk_bytes)

    assert expected == symbols(root, "dup_fd", "nr_threads", "missing")


def test_addresses_that_are_hidden_are_no_addresses(root: Path) -> None:
    lines = [line.split(maxsplit=1)[1] for line in KALLSYMS.splitlines()]
    write(root, "proc/kallsyms", "".join(f"{0:016x} {line}\n" for line in lines))

    fact, found, range_ = symbols(root, "dup_fd")

    assert (False, {}, None) == (fact.value, found, range_)
    assert "kptr_restrict" in fact.why


def test_without_kallsyms_nothing_is_found(root: Path) -> None:
    (root / "proc/kallsyms").unlink()

    fact, found, range_ = symbols(root, "dup_fd")

    assert (False, {}, None) == (fact.value, found, range_)
    assert "No such file" in fact.why


def test_a_kernel_whose_copy_process_has_no_symbol_has_no_range(root: Path) -> None:
    write(root, "proc/kallsyms", KALLSYMS.replace(" copy_process\n", " copy_process.isra.0\n"))

    fact, found, range_ = symbols(root, "dup_fd")

    assert (YES, {"dup_fd"}, None) == (fact, set(found), range_)


def test_a_copy_process_that_nothing_follows_has_no_range(root: Path) -> None:
    write(root, "proc/kallsyms", "ffffffff81080000 T copy_process\n")

    assert symbols(root)[2] is None


def test_limits_that_cannot_be_read_are_unknown(root: Path) -> None:
    write(root, "proc/sys/kernel/pid_max", "32768\n")
    write(root, "proc/sys/fs/nr_open", "many\n")
    write(root, "proc/sys/vm/overcommit_memory", "0\n")

    limits = kernel.limits(str(root))

    assert (32768, None, 0, None) == (
        limits["kernel.pid_max"],
        limits["fs.nr_open"],
        limits["vm.overcommit_memory"],
        limits["kernel.threads-max"],
    )


@pytest.mark.parametrize(
    ("pools", "page_bytes", "pages"),
    [
        ({}, 4096, 0),
        ({"hugepages-2048kB": "3\n"}, 4096, 1536),
        ({"hugepages-2048kB": "3\n", "hugepages-1048576kB": "1\n"}, 4096, 263_680),
        ({"hugepages-2048kB": "3\n"}, 65536, 96),
        ({"hugepages-2048kB": "3\n", "other": "9\n"}, 4096, 1536),
        ({"hugepages-2048kB": "3\n", "hugepages-1048576kB": "?"}, 4096, None),
    ],
)
def test_hugetlb_pools_are_counted_in_base_pages(
    root: Path, pools: dict[str, str], page_bytes: int, pages: int | None
) -> None:
    (root / "sys/kernel/mm/hugepages").mkdir(parents=True)
    for pool, count in pools.items():
        write(root, f"sys/kernel/mm/hugepages/{pool}/nr_hugepages", count)

    assert pages == kernel.hugetlb_pages(str(root), page_bytes)


def test_a_kernel_without_hugetlb_has_no_such_pages(root: Path) -> None:
    assert 0 == kernel.hugetlb_pages(str(root))


def test_a_pool_without_its_count_makes_the_sum_unknown(root: Path) -> None:
    (root / "sys/kernel/mm/hugepages/hugepages-2048kB").mkdir(parents=True)

    assert kernel.hugetlb_pages(str(root)) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="kallsyms shows addresses to root; run as root")
def test_the_running_kernel_shows_its_copy_process() -> None:
    fact, found, range_ = listed_or_not(["dup_fd"])
    if not fact.value:
        pytest.skip(f"{fact.why}; set kernel.kptr_restrict to 1 to run it")
    assert range_

    size = range_[1] - range_[0]

    assert 0x400 < size < 0x10000
    assert {"copy_process", "dup_fd"} <= set(found)


@pytest.mark.parametrize(
    ("version", "addresses", "expected"),
    [
        ("#1 SMP PREEMPT_DYNAMIC Debian 7.2", {"tracepoint_srcu": 1, "nr_threads": 2}, True),
        ("#1 SMP PREEMPT_DYNAMIC Debian 6.18", {"nr_threads": 2}, False),
        (
            "#1 SMP PREEMPT_DYNAMIC Debian 6.1",
            {"tracepoint_srcu": 1, "srcu_free_old_probes": 3, "nr_threads": 2},
            False,
        ),
        ("#1 SMP Debian 7.2", {"tracepoint_srcu": 1, "nr_threads": 2}, False),
        ("#1 SMP PREEMPT_DYNAMIC Debian 7.2", {"copy_process": 1}, None),
    ],
)
def test_a_kernel_that_preempts_tracepoints_is_told_by_what_guards_them(
    version: str, addresses: dict[str, int], expected: bool | None, root: Path
) -> None:
    preempts = kernel.preempts(str(root), version)

    assert expected == kernel.preempts_tracepoints(addresses, preempts).value


@pytest.mark.parametrize(
    ("version", "modes", "expected"),
    [
        ("#1 SMP Debian 5.10.234-1", None, False),
        ("#1 SMP PREEMPT_RT Debian 6.1.170-3", None, True),
        ("#1 SMP PREEMPT Debian 6.1", None, True),
        ("#1 SMP PREEMPT_DYNAMIC Debian 6.1", None, None),
        ("#1 SMP PREEMPT_DYNAMIC Debian 6.1", "none (voluntary) full ", False),
        ("#1 SMP PREEMPT_DYNAMIC Debian 6.1", "(none) voluntary full ", False),
        ("#1 SMP PREEMPT_DYNAMIC Debian 6.1", "none voluntary (full) ", True),
        ("#1 SMP PREEMPT_DYNAMIC Debian 6.18", "none voluntary full (lazy) ", True),
        ("#1 SMP PREEMPT_DYNAMIC Debian 7.2", "full (lazy) ", True),
        ("#1 SMP PREEMPT_DYNAMIC Debian 7.2", "what else", None),
    ],
)
def test_a_kernel_says_whether_it_preempts_its_own_code(
    version: str, modes: str | None, expected: bool | None, root: Path
) -> None:
    if modes is not None:
        place = root / "sys/kernel/debug/sched/preempt"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(modes)

    assert expected is kernel.preempts(str(root), version).value


def test_names_of_btf_are_whole_names(root: Path) -> None:
    place = root / "sys/kernel/btf/vmlinux"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(b"\x9f\xeb\0alpha\0beta_gamma\0")

    assert {"alpha": True, "beta": False, "gamma": False} == kernel.btf_has(
        ("alpha", "beta", "gamma"), str(root)
    )
    place.unlink()
    assert kernel.btf_has(("alpha",), str(root)) is None
