"""What a failure means, from its key and its numbers."""

from __future__ import annotations

import errno
from collections.abc import Collection
from typing import Any

import pytest

from fork_trace.diagnosis import evidence, verdict
from fork_trace.diagnosis.cause import REFUSES
from fork_trace.diagnosis.causes import BY_SLUG, CAUSES
from fork_trace.diagnosis.readings import HostReadings, KernelReadings, ProcReadings
from fork_trace.diagnosis.verdict import INFERRED, OBSERVED, Verdict, diagnose
from fork_trace.model import events, records, steps

# The contract: what a record's `cause` can be.
SLUGS = [
    "pids-cgroup",
    "rlimit-nproc",
    "threads-max",
    "pid-max",
    "pid-namespace-dead",
    "pid-taken",
    "set-tid-refused",
    "overcommit-never",
    "overcommit-heuristic",
    "mapping-limit",
    "memory-cgroup",
    "kernel-memory",
    "fd-table-limit",
    "rlimit-nofile",
    "file-max",
    "namespace-limit",
    "namespace-depth",
    "mount-limit",
    "user-namespace-denied",
    "namespace-denied",
    "unshared-namespace",
    "cgroup-refused",
    "deadline-policy",
    "exec-in-progress",
    "invalid-flags",
    "perf-events",
    "sched-ext",
    "security-module",
    "signal-pending",
    "seccomp",
    "thread-stack",
    "unknown",
    "copy-on-write",
    "huge-page-copy",
    "memory-cgroup-oom",
    "host-oom",
]
# Of forks that went through, or of none: no step refuses for it.
LATE = ["copy-on-write", "huge-page-copy", "memory-cgroup-oom", "host-oom"]

HOST = HostReadings(page_bytes=4096, hugetlb_pages=0)

# A host of 1,000,000 pages of RAM and 500,000 of swap, in mode 2 with the defaults.
MODE_2 = {
    "overcommit_memory": 2,
    "overcommit_ratio": 50,
    "overcommit_kbytes": 0,
    "pages_asked": 2560,
    "pages_committed": 990_000,
    "pages_ram": 1_000_000,
    "pages_swap": 500_000,
    "admin_reserve_kbytes": 8192,
    "user_reserve_kbytes": 131_072,
    "cap_sys_admin": 0,
    "mm_total_pages": 320_000,
}


def key(
    step: str,
    error: int,
    detail: str = "",
    is_observed: bool = True,
    is_memcg: bool = False,
    fits: Collection[str] = (),
) -> events.Key:
    number = steps.BY_NAME[step].number if step in steps.BY_NAME else 200
    return events.Key(
        *("sh", 1, 0, error, number, detail, "clone", False, is_observed),
        is_memcg=is_memcg,
        fits=frozenset(fits),
    )


def of_any_step(verdict: Verdict) -> Verdict:
    """What it says but for the steps that it can have been: see test_narrowing."""
    return verdict._replace(possible_steps=())


NAMESPACES = [
    *("copy_namespaces", "copy_mnt_ns", "copy_utsname", "copy_ipcs", "copy_pid_ns"),
    *("copy_cgroup_ns", "copy_net_ns", "copy_time_ns"),
]
NET_ERRNOS = (
    *(errno.ENOBUFS, errno.ENFILE, errno.ENODEV, errno.EAFNOSUPPORT, errno.EEXIST),
    *(errno.EINVAL, errno.ENOENT),
)
# A step that was seen refusing, its errno, the detail beside it, and what that means.
SEEN = [
    ("seccomp", errno.EPERM, "", "seccomp"),
    ("seccomp", errno.ENOSYS, "", "seccomp"),
    ("seccomp", errno.EAGAIN, "", "seccomp"),
    ("clone_args", errno.EINVAL, "", "invalid-flags"),
    ("clone_args", errno.E2BIG, "", "invalid-flags"),
    ("clone_args", errno.EFAULT, "", "invalid-flags"),
    ("kernel_clone", errno.EINVAL, "", "invalid-flags"),
    ("clone_flags", errno.EINVAL, "", "invalid-flags"),
    ("task_exec_state_copy", errno.ENOMEM, "", "kernel-memory"),
    ("copy_creds", errno.ENOMEM, "", "kernel-memory"),
    ("copy_creds", errno.EAGAIN, "", "kernel-memory"),
    ("copy_creds", errno.EPERM, "", "security-module"),
    ("create_user_ns", errno.ENOSPC, "ns-limit", "namespace-limit"),
    ("create_user_ns", errno.ENOSPC, "ns-depth", "namespace-depth"),
    ("create_user_ns", errno.EPERM, "", "user-namespace-denied"),
    ("create_user_ns", errno.ENOMEM, "", "kernel-memory"),
    ("set_cred_ucounts", errno.EAGAIN, "", "kernel-memory"),
    ("rlimit_nproc", errno.EAGAIN, "", "rlimit-nproc"),
    ("execve", errno.EAGAIN, "", "rlimit-nproc"),
    ("threads_max", errno.EAGAIN, "", "threads-max"),
    ("__io_uring_fork", errno.ENOMEM, "", "kernel-memory"),
    ("__mpol_dup", errno.ENOMEM, "", "kernel-memory"),
    ("sched_fork", errno.EAGAIN, "", "deadline-policy"),
    ("sched_fork", errno.EPERM, "", "sched-ext"),
    ("sched_fork", errno.ENOMEM, "", "kernel-memory"),
    ("perf_event_init_task", errno.EACCES, "", "perf-events"),
    ("perf_event_init_task", errno.ENOMEM, "", "kernel-memory"),
    ("audit_alloc", errno.ENOMEM, "", "kernel-memory"),
    ("security_task_alloc", errno.EACCES, "", "security-module"),
    ("security_task_alloc", errno.ENOMEM, "", "kernel-memory"),
    ("copy_semundo", errno.ENOMEM, "", "kernel-memory"),
    ("dup_fd", errno.EMFILE, "", "fd-table-limit"),
    ("dup_fd", errno.ENOMEM, "", "kernel-memory"),
    ("copy_fs_struct", errno.ENOMEM, "", "kernel-memory"),
    ("mm_init", errno.ENOMEM, "", "kernel-memory"),
    ("dup_mmap", errno.ENOMEM, "", "kernel-memory"),
    ("__vm_enough_memory", errno.ENOMEM, "overcommit-guess", "overcommit-heuristic"),
    ("__vm_enough_memory", errno.ENOMEM, "overcommit-never", "overcommit-never"),
    ("vm_area_dup", errno.ENOMEM, "", "kernel-memory"),
    ("anon_vma_fork", errno.ENOMEM, "", "kernel-memory"),
    ("copy_page_range", errno.ENOMEM, "", "kernel-memory"),
    *((step, errno.EPERM, "", "namespace-denied") for step in NAMESPACES),
    ("copy_namespaces", errno.EINVAL, "", "invalid-flags"),
    ("copy_pid_ns", errno.EINVAL, "", "unshared-namespace"),
    *((step, errno.EINTR, "", "signal-pending") for step in NAMESPACES),
    *((step, errno.ENOSPC, "ns-limit", "namespace-limit") for step in NAMESPACES),
    *((step, errno.ENOSPC, "ns-room", "kernel-memory") for step in NAMESPACES),
    ("create_user_ns", errno.ENOSPC, "ns-room", "kernel-memory"),
    # A device without a name, a socket without a file: each subsystem says it in its own way.
    *(("copy_net_ns", number, "", "kernel-memory") for number in NET_ERRNOS),
    *((step, errno.ENOMEM, "", "kernel-memory") for step in NAMESPACES),
    ("copy_mnt_ns", errno.ENOSPC, "mounts", "mount-limit"),
    ("copy_pid_ns", errno.ENOSPC, "ns-depth", "namespace-depth"),
    ("__copy_io", errno.ENOMEM, "", "kernel-memory"),
    ("copy_thread", errno.EPERM, "", "invalid-flags"),
    ("shstk_alloc_thread_stack", errno.ENOMEM, "", "mapping-limit"),
    ("alloc_pid", errno.EAGAIN, "pidns-alive", "pid-max"),
    ("alloc_pid", errno.EEXIST, "pidns-alive", "pid-taken"),
    ("alloc_pid", errno.EINVAL, "pidns-alive", "set-tid-refused"),
    ("alloc_pid", errno.EPERM, "pidns-alive", "set-tid-refused"),
    ("alloc_pid", errno.ENOMEM, "pidns-dead", "pid-namespace-dead"),
    ("alloc_pid", errno.ENOMEM, "pidns-alive", "kernel-memory"),
    ("pidfd_prepare", errno.EMFILE, "", "rlimit-nofile"),
    ("pidfd_prepare", errno.ENFILE, "", "file-max"),
    ("pidfd_prepare", errno.ENOMEM, "", "kernel-memory"),
    ("cgroup_can_fork", errno.EAGAIN, "", "pids-cgroup"),
    ("cgroup_can_fork", errno.ENOMEM, "", "kernel-memory"),
    ("cgroup_can_fork", errno.EBUSY, "", "cgroup-refused"),
    ("cgroup_can_fork", errno.EOPNOTSUPP, "", "cgroup-refused"),
    ("sched_cgroup_fork", errno.EPERM, "", "sched-ext"),
    ("futex_hash_allocate_default", errno.ENOMEM, "", "kernel-memory"),
    ("mmap", errno.ENOMEM, "stack-mappings", "thread-stack"),
    ("mmap", errno.EAGAIN, "stack-locked", "thread-stack"),
    ("mprotect", errno.ENOMEM, "stack-commit", "thread-stack"),
    ("mprotect", errno.EACCES, "", "thread-stack"),
]
# What was seen refusing, with an errno that nobody knows of it, or a rule that refuses nothing.
UNKNOWN = [
    ("copy_utsname", errno.EINVAL, ""),
    ("pidfd_prepare", errno.EFAULT, ""),
    ("dup_fd", errno.EIO, ""),
    ("audit_alloc", errno.EPERM, ""),
    ("__vm_enough_memory", errno.ENOMEM, "overcommit-always"),
    ("alloc_pid", errno.EIO, "pidns-alive"),
]
# Steps that tell of themselves, although no program hangs on a function of theirs.
TOLD = ["seccomp", "kernel_clone", "mmap", "mprotect"]


@pytest.mark.parametrize(("step", "error", "detail", "cause"), SEEN)
def test_a_step_that_was_seen_has_one_cause_by_its_errno(
    step: str, error: int, detail: str, cause: str
) -> None:
    expected = Verdict(cause, OBSERVED, step)

    assert expected == diagnose(key(step, error, detail))


@pytest.mark.parametrize("step", ["create_user_ns", *NAMESPACES])
def test_a_count_of_namespaces_that_is_not_seen_full_is_only_inferred(step: str) -> None:
    near = diagnose(key(step, errno.ENOSPC, "ns-near"))
    unread = diagnose(key(step, errno.ENOSPC))

    assert Verdict("namespace-limit", INFERRED, step, ("kernel-memory",)) == near
    assert Verdict("kernel-memory", INFERRED, step, ("namespace-limit",)) == unread


def test_every_row_of_the_table_of_steps_is_tried() -> None:
    tried = {(step, error) for step, error, _, _ in SEEN}
    rows = [(s, e) for s, by_errno in verdict.BY_STEP.items() for e in by_errno if e]

    assert [] == [row for row in rows if row not in tried]
    assert set(verdict.BY_STEP) <= {step for step, _ in tried}


@pytest.mark.parametrize(("step", "error", "detail"), UNKNOWN)
def test_a_step_with_an_errno_that_nobody_knows_of_it_is_unknown_and_stays_named(
    step: str, error: int, detail: str
) -> None:
    verdict = Verdict("unknown", INFERRED, step)

    assert verdict == diagnose(key(step, error, detail))


@pytest.mark.parametrize("step", [step.name for step in steps.STEPS if step.name in TOLD])
def test_what_ended_outside_of_copy_process_tells_of_itself(step: str) -> None:
    error = errno.EINVAL if step == "kernel_clone" else errno.ENOSYS
    verdict = diagnose(key(step, error, is_observed=False))

    assert INFERRED == verdict.certainty
    assert ("unknown" != verdict.cause, step) == (True, verdict.step)


@pytest.mark.parametrize("step", ["dup_fd", "rlimit_nproc", "clone_args", "alloc_pid"])
def test_a_watched_step_that_nobody_saw_is_unknown(step: str) -> None:
    verdict = Verdict("unknown", INFERRED, step)

    assert verdict == diagnose(key(step, errno.EAGAIN, is_observed=False))


def test_a_step_of_a_newer_kernel_side_is_unknown_and_keeps_its_number() -> None:
    verdict = Verdict("unknown", INFERRED, "unknown:200")

    assert verdict == diagnose(key("a newer one", errno.EAGAIN))


@pytest.mark.parametrize("step", ["anon_vma_fork", "dup_fd", "copy_creds", "alloc_pid"])
def test_memory_that_a_cgroup_refused_is_the_cgroup_s(step: str) -> None:
    verdict = diagnose(key(step, errno.ENOMEM, is_memcg=True))

    assert Verdict("memory-cgroup", OBSERVED, step) == verdict


def test_a_memory_cgroup_is_observed_even_if_no_step_was() -> None:
    verdict = diagnose(key("copy_process", errno.ENOMEM, is_observed=False, is_memcg=True))

    assert Verdict("memory-cgroup", OBSERVED, "copy_process") == of_any_step(verdict)


def test_a_memory_cgroup_that_is_only_full_is_inferred_and_the_kernel_s_memory_stays_possible() -> (
    None
):
    verdict = diagnose(key("mm_init", errno.ENOMEM, fits=["memcg"]))

    assert Verdict("memory-cgroup", INFERRED, "mm_init", ("kernel-memory",)) == (verdict)


@pytest.mark.parametrize(("step", "cause"), [("dup_fd", "fd-table-limit")])
def test_a_full_memory_cgroup_does_not_matter_to_another_errno(step: str, cause: str) -> None:
    verdict = diagnose(key(step, errno.EMFILE, fits=["memcg"]))

    assert Verdict(cause, OBSERVED, step) == verdict


# What the state at the return says: errno, what fits, cause, step, and what fits as well.
STATE = [
    (errno.EAGAIN, ["nproc"], "rlimit-nproc", "rlimit_nproc", ()),
    (errno.EAGAIN, ["threads"], "threads-max", "threads_max", ()),
    (errno.EAGAIN, ["deadline"], "deadline-policy", "sched_fork", ()),
    (errno.EAGAIN, ["in-exec"], "exec-in-progress", "copy_fs", ()),
    (errno.EAGAIN, ["pid-max"], "pid-max", "alloc_pid", ()),
    (errno.EAGAIN, ["pids-cgroup"], "pids-cgroup", "cgroup_can_fork", ()),
    (errno.EAGAIN, ["pids-unknown"], "pids-cgroup", "cgroup_can_fork", ()),
    (errno.EAGAIN, ["pidns-unknown"], "pid-max", "alloc_pid", ()),
    (errno.EAGAIN, ["nproc-unknown"], "rlimit-nproc", "rlimit_nproc", ()),
    (errno.EAGAIN, ["threads-near"], "threads-max", "threads_max", ()),
    (errno.EAGAIN, ["threads-unknown"], "threads-max", "threads_max", ()),
    (errno.ENOMEM, ["pidns-unknown"], "pid-namespace-dead", "alloc_pid", ("kernel-memory",)),
    (errno.EAGAIN, ["asked-cgroup"], "pids-cgroup", "cgroup_can_fork", ()),
    (errno.EAGAIN, ["shares-fs"], "exec-in-progress", "copy_fs", ()),
    (errno.EAGAIN, ["asked-newuser"], "kernel-memory", "set_cred_ucounts", ()),
    (errno.EAGAIN, [], "unknown", "copy_process", ()),
    # Of several at once the one that the kernel meets first.
    (errno.EAGAIN, ["nproc", "threads"], "rlimit-nproc", "rlimit_nproc", ("threads-max",)),
    (errno.EAGAIN, ["threads", "pids-cgroup"], "threads-max", "threads_max", ("pids-cgroup",)),
    (
        errno.EAGAIN,
        ["pids-cgroup", "pid-max", "deadline"],
        "deadline-policy",
        "sched_fork",
        ("pid-max", "pids-cgroup"),
    ),
    # What was only asked for counts where nothing else fits.
    (errno.EAGAIN, ["pids-cgroup", "shares-fs"], "pids-cgroup", "cgroup_can_fork", ()),
    (
        errno.EAGAIN,
        ["shares-fs", "asked-newuser"],
        "exec-in-progress",
        "copy_fs",
        ("kernel-memory",),
    ),
    # A number that could not be read keeps its cause possible.
    (
        errno.EAGAIN,
        ["pids-cgroup", "threads-unknown"],
        "pids-cgroup",
        "cgroup_can_fork",
        ("threads-max",),
    ),
    (errno.ENOMEM, ["pidns-dead"], "pid-namespace-dead", "alloc_pid", ()),
    (errno.ENOMEM, ["memcg"], "memory-cgroup", "copy_process", ("kernel-memory",)),
    (errno.ENOMEM, ["copies-mm"], "kernel-memory", "copy_process", ()),
    # A memory cgroup that has a limit, and room.
    (errno.ENOMEM, ["memcg-limited"], "kernel-memory", "copy_process", ("memory-cgroup",)),
    (
        errno.ENOMEM,
        ["memcg", "memcg-limited"],
        "memory-cgroup",
        "copy_process",
        ("kernel-memory",),
    ),
    (errno.ENOMEM, ["pidns-dead", "memcg-limited"], "pid-namespace-dead", "alloc_pid", ()),
    (errno.ENOMEM, [], "kernel-memory", "copy_process", ()),
    (errno.ENOMEM, ["pidns-dead", "memcg"], "pid-namespace-dead", "alloc_pid", ("memory-cgroup",)),
    (errno.EINVAL, ["flags"], "invalid-flags", "clone_flags", ()),
    (errno.EINVAL, ["unshared"], "unshared-namespace", "clone_flags", ()),
    (errno.EINVAL, ["unshared", "flags"], "invalid-flags", "clone_flags", ("unshared-namespace",)),
    (errno.EINVAL, [], "invalid-flags", "clone_flags", ()),
    (errno.EINVAL, ["asked-cgroup"], "cgroup-refused", "cgroup_can_fork", ("invalid-flags",)),
    (errno.EINVAL, ["asked-tid"], "set-tid-refused", "alloc_pid", ("invalid-flags",)),
    (errno.EINVAL, ["asked-tid", "flags"], "invalid-flags", "clone_flags", ()),
    (errno.EPERM, ["userns-sysctl"], "user-namespace-denied", "clone_flags", ()),
    (errno.EPERM, ["ns-denied"], "namespace-denied", "copy_namespaces", ()),
    (
        errno.EPERM,
        ["asked-newuser"],
        "user-namespace-denied",
        "create_user_ns",
        ("security-module",),
    ),
    (errno.EPERM, ["asked-tid"], "set-tid-refused", "alloc_pid", ("security-module",)),
    (errno.EPERM, ["asked-tls"], "invalid-flags", "copy_thread", ("security-module",)),
    (errno.EPERM, [], "security-module", "security_task_alloc", ()),
    (errno.EACCES, ["asked-cgroup"], "cgroup-refused", "cgroup_can_fork", ("security-module",)),
    (errno.EACCES, [], "security-module", "security_task_alloc", ()),
    (errno.EMFILE, ["fd-table"], "fd-table-limit", "dup_fd", ()),
    (errno.EMFILE, ["fd-table", "asked-pidfd"], "fd-table-limit", "dup_fd", ()),
    (errno.EMFILE, ["asked-pidfd"], "rlimit-nofile", "pidfd_prepare", ()),
    (errno.ENFILE, ["asked-pidfd"], "file-max", "pidfd_prepare", ()),
    (errno.ENFILE, [], "unknown", "copy_process", ()),
    *((each, ["new-net"], "kernel-memory", "copy_net_ns", ()) for each in NET_ERRNOS[:5]),
    (errno.ENOENT, ["new-net"], "kernel-memory", "copy_net_ns", ()),
    (errno.EINVAL, ["new-net"], "kernel-memory", "copy_net_ns", ("invalid-flags",)),
    (errno.EINVAL, ["new-net", "flags"], "invalid-flags", "clone_flags", ()),
    (errno.ENFILE, ["asked-pidfd", "new-net"], "file-max", "pidfd_prepare", ("kernel-memory",)),
    (errno.ENOSPC, ["ns-depth"], "namespace-depth", "copy_namespaces", ()),
    (errno.ENOSPC, ["ns-limit"], "namespace-limit", "copy_namespaces", ()),
    # Not all of the counts could be read; all of them could, and had room.
    (errno.ENOSPC, ["asked-newuser"], "kernel-memory", "create_user_ns", ("namespace-limit",)),
    (errno.ENOSPC, ["asked-namespace"], "kernel-memory", "copy_namespaces", ("namespace-limit",)),
    (errno.ENOSPC, ["asked-newuser", "ns-room"], "kernel-memory", "create_user_ns", ()),
    (
        errno.ENOSPC,
        ["asked-newuser", "ns-near"],
        *("namespace-limit", "create_user_ns", ("kernel-memory",)),
    ),
    (errno.ENOSPC, ["asked-namespace", "ns-room"], "kernel-memory", "copy_namespaces", ()),
    (errno.ENOSPC, ["asked-cgroup"], "cgroup-refused", "cgroup_can_fork", ()),
    (errno.ENOSPC, [], "unknown", "copy_process", ()),
    (errno.EPERM, ["flags"], "invalid-flags", "clone_flags", ()),
    (errno.EFAULT, ["flags"], "invalid-flags", "clone_args", ()),
    (errno.E2BIG, ["flags"], "invalid-flags", "clone_args", ()),
    (errno.EEXIST, ["asked-tid"], "pid-taken", "alloc_pid", ()),
    (errno.EEXIST, [], "unknown", "copy_process", ()),
    (errno.EFAULT, [], "invalid-flags", "clone_args", ("kernel-memory",)),
    (errno.EFAULT, ["asked-pidfd"], "invalid-flags", "copy_process", ("kernel-memory",)),
    (errno.EFAULT, ["asked-pidfd", "pointer-bad"], "invalid-flags", "copy_process", ()),
    (
        errno.EFAULT,
        ["asked-pidfd", "pointer-mapped"],
        *("kernel-memory", "copy_process", ("invalid-flags",)),
    ),
    (
        errno.EFAULT,
        ["asked-pidfd", "pointer-mapped", "memcg-limited"],
        *("kernel-memory", "copy_process", ("invalid-flags", "memory-cgroup")),
    ),
    (
        errno.EFAULT,
        ["asked-pidfd", "memcg"],
        *("memory-cgroup", "copy_process", ("kernel-memory",)),
    ),
    (errno.E2BIG, [], "invalid-flags", "clone_args", ()),
    (errno.EINTR, [], "signal-pending", "signal_late", ()),
    *(
        (each, ["asked-cgroup"], "cgroup-refused", "cgroup_can_fork", ())
        for each in (errno.EBADF, errno.ENOENT, errno.ENODEV, errno.EBUSY, errno.EOPNOTSUPP)
    ),
    (errno.EBUSY, [], "unknown", "copy_process", ()),
    (errno.EIO, ["nproc", "threads"], "unknown", "copy_process", ()),
]


# Words that are told as the detail.
DETAILED = set(events.DETAILS) - set(events.FITS)


@pytest.mark.parametrize(("error", "fits", "cause", "step", "alternatives"), STATE)
def test_what_no_step_explains_is_inferred_from_the_state(
    error: int, fits: list[str], cause: str, step: str, alternatives: tuple[str, ...]
) -> None:
    (detail,) = [each for each in fits if each in DETAILED] or [""]
    verdict = diagnose(key("copy_process", error, detail, is_observed=False, fits=fits))

    assert Verdict(cause, INFERRED, step, alternatives) == of_any_step(verdict)


def test_every_row_of_the_table_of_states_is_tried() -> None:
    tried = {(error, fit) for error, fits, *_ in STATE for fit in (fits or [""])}
    overcommit = {(errno.ENOMEM, "overcommit"), (errno.ENOMEM, "overcommit-unknown")}  # below
    rows = {(e, fit.word) for e, rows in verdict.BY_STATE.items() for fit, _ in rows}

    assert set() == rows - tried - overcommit


AFTER = [
    ProcReadings(),
    ProcReadings(overcommit_memory=0, has_huge_mapping=False),
    ProcReadings(overcommit_memory=2, has_huge_mapping=True),
    ProcReadings(threads_are_far=True),
]


@pytest.mark.parametrize("error", sorted(verdict.BY_STATE))
@pytest.mark.parametrize("fits", [(), events.FITS], ids=["nothing fits", "all fits"])
@pytest.mark.parametrize("known", AFTER, ids=["nothing told", "not huge", "huge", "far"])
def test_no_cause_is_named_twice_and_none_beside_it_is_unknown(
    error: int, fits: Collection[str], known: ProcReadings
) -> None:
    verdict = diagnose(key("copy_process", error, "overcommit-guess", False, fits=fits), (), known)

    named = [verdict.cause, *verdict.alternatives]
    assert len(named) == len(set(named))
    assert "unknown" not in verdict.alternatives


def test_candidates_stand_in_the_kernel_s_order() -> None:
    """Those that fit only by what was asked, and the memory of a cgroup, stand after the others."""
    for rows in verdict.BY_STATE.values():
        order = [steps.BY_NAME[fit.step].number for fit, _ in rows if fit.strength == REFUSES]
        order = [number for number in order if number]

        assert sorted(order) == order


def test_every_word_of_the_tables_is_one_of_the_wire() -> None:
    fits = [fit for rows in verdict.BY_STATE.values() for fit, _ in rows]

    assert {fit.word for fit in fits} <= {*events.FITS, *events.DETAILS}
    assert {fit.step for fit in fits} | set(verdict.BY_STEP) <= set(steps.BY_NAME)
    assert {detail for _, _, detail in verdict.BY_DETAIL} <= set(events.DETAILS)


@pytest.mark.parametrize(
    ("watched", "cause", "step", "alternatives"),
    [
        ((), "rlimit-nproc", "rlimit_nproc", ("pid-max", "pids-cgroup")),
        (("rlimit_nproc",), "pid-max", "alloc_pid", ("pids-cgroup",)),
        (("rlimit_nproc", "alloc_pid"), "pids-cgroup", "cgroup_can_fork", ()),
        # All of them are reached and none was heard: one of those programs did not see its function.
        (
            ("rlimit_nproc", "alloc_pid", "cgroup_can_fork"),
            *("rlimit-nproc", "rlimit_nproc", ("pid-max", "pids-cgroup")),
        ),
    ],
)
def test_a_step_that_is_watched_and_was_silent_has_let_the_call_pass(
    watched: tuple[str, ...], cause: str, step: str, alternatives: tuple[str, ...]
) -> None:
    verdict = diagnose(
        key("copy_process", errno.EAGAIN, "", False, fits=["nproc", "pid-max", "pids-cgroup"]),
        watched,
    )

    assert Verdict(cause, INFERRED, step, alternatives) == verdict


def test_a_limit_that_is_reached_stands_before_what_was_only_asked_for_though_its_step_was_silent() -> (
    None
):
    failed = key("copy_process", errno.EAGAIN, "", False, fits=["nproc", "shares-fs"])

    silent = diagnose(failed, ["rlimit_nproc"])

    assert Verdict("rlimit-nproc", INFERRED, "rlimit_nproc", ("exec-in-progress",)) == silent


@pytest.mark.parametrize(
    ("fits", "watched", "expected"),
    [
        ((), (), ("kernel-memory", OBSERVED, "dup_mmap")),
        (("overcommit",), (), ("overcommit-never", INFERRED, "__vm_enough_memory")),
        # Its program ran: the estimate of what the rule would say is no match for that.
        (("overcommit",), ("__vm_enough_memory",), ("kernel-memory", OBSERVED, "dup_mmap")),
        # Not inside it: what refuses later has not been asked.
        (("pidns-dead",), (), ("kernel-memory", OBSERVED, "dup_mmap")),
        (("memcg",), (), ("memory-cgroup", INFERRED, "dup_mmap")),
    ],
)
def test_an_outer_step_speaks_for_one_inside_it_that_was_missed(
    fits: tuple[str, ...], watched: tuple[str, ...], expected: tuple[str, str, str]
) -> None:
    failed = key("dup_mmap", errno.ENOMEM, "overcommit-never", fits=fits)

    named = diagnose(failed, watched)

    assert expected == (named.cause, named.certainty, named.step)


@pytest.mark.parametrize("error", sorted(verdict.BY_STATE))
def test_that_copy_process_itself_is_watched_lets_nothing_pass(error: int) -> None:
    """Its program is the one that reports: it is silent about none."""
    failed = key("copy_process", error, NEVER, False, fits=events.FITS)

    assert diagnose(failed) == diagnose(failed, ["copy_process"])


def test_threads_that_could_not_be_counted_do_not_matter_where_proc_says_they_are_few() -> None:
    fits = ["pids-cgroup", "threads-unknown"]
    failed = key("copy_process", errno.EAGAIN, "", False, fits=fits)

    near = diagnose(failed)
    far = diagnose(failed, (), ProcReadings(threads_are_far=True))

    assert ("pids-cgroup", ("threads-max",)) == (near.cause, near.alternatives)
    assert ("pids-cgroup", ()) == (far.cause, far.alternatives)


def test_a_namespace_of_which_nothing_could_be_read_can_be_dead_or_short_of_memory() -> None:
    verdict = diagnose(key("alloc_pid", errno.ENOMEM))

    assert ("pid-namespace-dead", INFERRED) == (verdict.cause, verdict.certainty)
    assert ("kernel-memory",) == verdict.alternatives


def test_threads_that_are_few_by_proc_are_not_blamed_even_if_nothing_else_fits() -> None:
    failed = key("copy_process", errno.EAGAIN, "", False, fits=["threads-unknown"])

    verdict = diagnose(failed, (), ProcReadings(threads_are_far=True))

    assert Verdict("unknown", INFERRED, alternatives=("threads-max",)) == verdict


def test_a_watched_step_says_nothing_about_a_namespace_that_died_after_it() -> None:
    verdict = diagnose(
        key("copy_process", errno.ENOMEM, "", False, fits=["pidns-dead"]), ["alloc_pid"]
    )

    assert Verdict("pid-namespace-dead", INFERRED, "pid_namespace_late") == verdict


def test_what_is_watched_does_not_change_what_was_seen() -> None:
    verdict = diagnose(key("dup_fd", errno.EMFILE), ["dup_fd", "copy_process"])

    assert Verdict("fd-table-limit", OBSERVED, "dup_fd") == verdict


VM = "__vm_enough_memory"
HEURISTIC, NEVER, GUESS = "overcommit-heuristic", "overcommit-never", "overcommit-guess"


def after(mode: int | None = None, is_huge: bool | None = None) -> ProcReadings:
    return ProcReadings(overcommit_memory=mode, has_huge_mapping=is_huge)


@pytest.mark.parametrize(
    ("mode", "is_huge", "cause", "alternatives"),
    [
        (0, None, HEURISTIC, (NEVER,)),
        (0, True, HEURISTIC, (NEVER,)),
        (1, None, "unknown", ()),
        (1, True, "unknown", ()),
        (1, False, "unknown", ()),
        (2, None, NEVER, (HEURISTIC,)),
        (2, True, NEVER, (HEURISTIC,)),
        (2, False, NEVER, ()),  # the heuristic rule asks for a mapping that nobody has
        (None, None, NEVER, (HEURISTIC,)),
        (None, True, NEVER, (HEURISTIC,)),
        (None, False, NEVER, ()),
    ],
)
@pytest.mark.parametrize("detail", ["", "unknown:77"])
def test_a_mode_read_afterwards_only_infers(
    mode: int | None, is_huge: bool | None, cause: str, alternatives: tuple[str, ...], detail: str
) -> None:
    verdict = diagnose(key(VM, errno.ENOMEM, detail), (), after(mode, is_huge))

    assert Verdict(cause, INFERRED, VM, alternatives) == verdict


def test_a_mode_read_in_the_kernel_goes_before_the_one_read_afterwards() -> None:
    verdict = diagnose(key(VM, errno.ENOMEM, NEVER), (), after(0, True))

    assert Verdict(NEVER, OBSERVED, VM) == verdict


def test_what_was_seen_refusing_needs_no_look_at_the_mappings() -> None:
    verdict = diagnose(key(VM, errno.ENOMEM, "overcommit-guess"), (), after(0, False))

    assert Verdict(HEURISTIC, OBSERVED, VM) == verdict


KERNEL_MEMORY = Verdict("kernel-memory", INFERRED)


UNREAD = ["overcommit-unknown", "copies-mm"]


@pytest.mark.parametrize(
    ("fits", "detail", "mode", "is_huge", "expected"),
    [
        (["overcommit"], NEVER, None, None, (NEVER, VM, ())),
        (["overcommit"], NEVER, None, False, (NEVER, VM, ())),
        (["overcommit", "memcg"], NEVER, None, None, (NEVER, VM, ("memory-cgroup",))),
        (["overcommit", "pidns-dead"], NEVER, None, None, (NEVER, VM, ("pid-namespace-dead",))),
        # All mappings together pass RAM and swap; the rule asks for one at a time.
        (["overcommit"], GUESS, None, True, (HEURISTIC, VM, ())),
        (["overcommit", "memcg"], GUESS, None, True, (HEURISTIC, VM, ("memory-cgroup",))),
        # The kernel side has looked: nobody need look whether the caller has it still.
        (["overcommit", "one-mapping"], GUESS, None, None, (HEURISTIC, VM, ())),
        (["overcommit", "one-mapping"], GUESS, None, False, (HEURISTIC, VM, ())),
        (["overcommit", "small-mappings"], GUESS, None, None, None),
        (["overcommit", "small-mappings"], GUESS, None, True, None),
        ([*UNREAD, "one-mapping"], "", 0, None, (HEURISTIC, VM, (NEVER, "kernel-memory"))),
        ([*UNREAD, "small-mappings"], "", 0, None, None),
        ([*UNREAD, "small-mappings"], "", 2, None, (NEVER, VM, ("kernel-memory",))),
        (["overcommit"], GUESS, None, None, (HEURISTIC, VM, ("kernel-memory",))),
        (
            ["overcommit", "memcg-limited"],
            *(GUESS, None, None),
            (HEURISTIC, VM, ("kernel-memory", "memory-cgroup")),
        ),
        (
            ["overcommit", "memcg"],
            GUESS,
            None,
            None,
            ("memory-cgroup", "copy_process", ("kernel-memory",)),
        ),
        (["overcommit"], GUESS, None, False, None),
        (
            ["overcommit", "memcg-limited"],
            *(GUESS, None, False),
            ("kernel-memory", "copy_process", ("memory-cgroup",)),
        ),
        # Its numbers could not be read: possible, if the call copies memory at all.
        (UNREAD, NEVER, None, None, (NEVER, VM, ("kernel-memory",))),
        (UNREAD, "", 0, True, (HEURISTIC, VM, (NEVER, "kernel-memory"))),
        (UNREAD, "", 0, None, (HEURISTIC, VM, (NEVER, "kernel-memory"))),
        (UNREAD, "", 2, None, (NEVER, VM, (HEURISTIC, "kernel-memory"))),
        (UNREAD, "", 2, False, (NEVER, VM, ("kernel-memory",))),
        (UNREAD, "", None, None, (NEVER, VM, (HEURISTIC, "kernel-memory"))),
        (UNREAD, "", None, False, (NEVER, VM, ("kernel-memory",))),
        (UNREAD, GUESS, None, False, None),
        (["overcommit-unknown"], NEVER, None, None, None),
        (
            [*UNREAD, "memcg"],
            NEVER,
            None,
            None,
            ("memory-cgroup", "copy_process", ("kernel-memory", NEVER)),
        ),
        (
            [*UNREAD, "memcg"],
            GUESS,
            None,
            True,
            ("memory-cgroup", "copy_process", ("kernel-memory", HEURISTIC)),
        ),
        # Mode 1 refuses nothing.
        (UNREAD, "overcommit-always", 0, True, None),
        (UNREAD, "", 1, True, None),
    ],
)
def test_memory_that_nobody_was_seen_to_refuse_is_judged_by_the_overcommit_rule(
    fits: list[str],
    detail: str,
    mode: int | None,
    is_huge: bool | None,
    expected: tuple[str, str, tuple[str, ...]] | None,
) -> None:
    failed = key("copy_process", errno.ENOMEM, detail, False, fits=fits)

    verdict = diagnose(failed, (), after(mode, is_huge))

    cause, step, alternatives = expected or ("kernel-memory", "copy_process", ())
    assert Verdict(cause, INFERRED, step, alternatives) == of_any_step(verdict)


ANY_OF_BOTH = ("create_user_ns", "copy_namespaces")


@pytest.mark.parametrize(
    ("fits", "watched", "step", "possible"),
    [
        (["asked-namespace"], [], "copy_namespaces", ()),
        (["asked-newuser"], [], "create_user_ns", ()),
        (["asked-newuser", "asked-namespace"], [], "copy_process", ANY_OF_BOTH),
        # It was silent.
        (["asked-newuser", "asked-namespace"], ["create_user_ns"], "copy_namespaces", ()),
    ],
)
@pytest.mark.parametrize(
    ("cause", "detail"), [("kernel-memory", "ns-room"), ("namespace-limit", "")]
)
def test_a_user_namespace_that_is_asked_for_as_well_can_be_what_was_refused(
    fits: list[str],
    watched: list[str],
    step: str,
    possible: tuple[str, ...],
    cause: str,
    detail: str,
) -> None:
    fits = [*fits, "ns-limit"] if not detail else fits
    failed = key("copy_process", errno.ENOSPC, detail, False, fits=fits)

    told = diagnose(failed, watched)

    assert (cause, step, possible) == (told.cause, told.step, told.possible_steps)


def test_a_watched_overcommit_rule_is_not_inferred() -> None:
    fits = ["overcommit", "overcommit-unknown", "copies-mm"]
    failed = key("copy_process", errno.ENOMEM, NEVER, False, fits=fits)

    verdict = diagnose(failed, [VM], after(2, True))

    assert KERNEL_MEMORY == of_any_step(verdict)


def told() -> set[str]:
    """Every cause that the tables can name."""
    verdicts = [diagnose(key(step, error, detail)) for step, error, detail, _ in SEEN]
    verdicts += [
        diagnose(key("copy_process", error, NEVER, False, fits=fits)) for error, fits, *_ in STATE
    ]
    verdicts.append(diagnose(key("copy_process", errno.ENOMEM, is_memcg=True)))
    return {cause for verdict in verdicts for cause in (verdict.cause, *verdict.alternatives)}


def test_every_cause_can_be_told_and_no_other_is() -> None:
    assert sorted([*told(), *LATE]) == sorted(SLUGS)


WITH_NUMBERS = {cause.slug for cause in CAUSES if cause.evidence}


def test_only_what_can_be_told_has_numbers() -> None:
    assert WITH_NUMBERS <= told()


# 50 % of RAM is 500,000, with the swap 1,000,000 pages. The admin reserve of 8 MiB is 2,048 pages;
# the user reserve is 32,768, but never more than 1/32 of the caller's 320,000, 10,000.
ALLOWED = [
    ({}, HOST, 1_000_000 - 2_048 - 10_000),
    ({"cap_sys_admin": 1}, HOST, 1_000_000 - 10_000),
    ({"mm_total_pages": 3_200_000}, HOST, 1_000_000 - 2_048 - 32_768),
    ({"mm_total_pages": 31}, HOST, 1_000_000 - 2_048),
    ({"overcommit_ratio": 33}, HOST, 330_000 + 500_000 - 2_048 - 10_000),
    ({"overcommit_ratio": 0}, HOST, 500_000 - 2_048 - 10_000),
    ({"pages_ram": 999_999}, HOST, 499_999 + 500_000 - 2_048 - 10_000),
    ({"overcommit_kbytes": 1_000_003}, HOST, 250_000 + 500_000 - 2_048 - 10_000),
    (
        {},
        HostReadings(page_bytes=4096, hugetlb_pages=100_001),
        449_999 + 500_000 - 2_048 - 10_000,
    ),
    (
        {"overcommit_kbytes": 400_000},
        HostReadings(page_bytes=4096, hugetlb_pages=100_001),  # not asked for in this mode
        100_000 + 500_000 - 2_048 - 10_000,
    ),
    (
        {"overcommit_kbytes": 640_000},
        HostReadings(page_bytes=65_536, hugetlb_pages=0),  # arm64: 64 KiB pages
        10_000 + 500_000 - 128 - 2_048,
    ),
    ({"overcommit_ratio": 0, "pages_swap": 0}, HOST, -2_048 - 10_000),  # the limit can be negative
]


@pytest.mark.parametrize(("changes", "host", "allowed"), ALLOWED)
def test_the_commit_limit_is_what_the_kernel_computes(
    changes: dict[str, int], host: HostReadings, allowed: int
) -> None:
    assert allowed == evidence.commit_allowed_pages({**MODE_2, **changes}, host)


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in MODE_2
        if name not in ("overcommit_memory", "pages_asked", "pages_committed")
    ],
)
def test_a_missing_number_makes_the_limit_unknown_and_never_another_one(name: str) -> None:
    numbers = {**MODE_2}
    del numbers[name]

    assert evidence.commit_allowed_pages(numbers, HOST) is None
    charge = told_of("overcommit-never", numbers)[0]
    assert (4 * (990_000 + 2_560), None) == (charge.value, charge.limit)


def test_unknown_hugetlb_pages_make_the_limit_unknown() -> None:
    assert evidence.commit_allowed_pages(MODE_2, HostReadings(4096, None)) is None


def test_a_limit_in_kbytes_needs_neither_ratio_nor_ram_nor_hugetlb() -> None:
    numbers = {**MODE_2, "overcommit_kbytes": 400_000}
    del numbers["overcommit_ratio"], numbers["pages_ram"]

    assert 587_952 == evidence.commit_allowed_pages(numbers, HostReadings(4096, None))


NUMBERS: dict[str, dict[str, int]] = {
    "rlimit-nproc": {"nproc": 23, "nproc_limit": 24, "nproc_level": 0},
    "threads-max": {"nr_threads": 101, "max_threads": 100},
    "fd-table-limit": {"fd_slots": 128, "nr_open": 64},
    "pid-max": {"pidns_pids": 300, "pid_max": 301, "pidns_level": 1, "pidns_inum": 5},
    "pid-namespace-dead": {"pidns_pids": 1, "pidns_level": 1, "pidns_inum": 5},
    "pids-cgroup": {"pids_current": 7, "pids_limit": 7, "pids_cgroup": 99},
    "memory-cgroup": {"memcg_pages": 1000, "memcg_max": 1024, "memcg_cgroup": 99},
    "overcommit-never": MODE_2,
    "overcommit-heuristic": {"pages_asked": 10, "pages_ram": 4, "pages_swap": 5},
    "rlimit-nofile": {"nofile_limit": 1024},
    "file-max": {},
    "namespace-limit": {"ns_count": 8, "ns_max": 9, "ns_level": 2, "ns_uid": 1001},
    "namespace-depth": {"ns_level": 33},
    "invalid-flags": {"flag_rules": 2},
    "deadline-policy": {"policy": 6},
    "thread-stack": {"stack_bytes": 8_392_704, "map_count": 65_530, "max_map_count": 65_530},
    "mapping-limit": {"stack_bytes": 8_392_704, "map_count": 65_530, "max_map_count": 65_530},
}
FILLED = HostReadings(
    *(4096, 0),
    overcommit_memory=2,
    threads=98,
    threads_max=99,
    descriptors=1024,
    files=501,
    files_max=501,
)


def told_of(
    cause: str, numbers: dict[str, int], host: HostReadings = FILLED, **seen: Any
) -> tuple[records.Evidence, ...]:
    values = {"uid": 1000, "cgroup_name": lambda level: f"/cgroup/{level.number}", **seen}
    return evidence.gather(BY_SLUG[cause], KernelReadings(numbers=numbers, **values), host)


def lines(found: tuple[records.Evidence, ...]) -> list[tuple[Any, ...]]:
    return [(each.name, each.value, each.limit, each.where) for each in found]


@pytest.mark.parametrize(
    ("cause", "seen", "expected"),
    [
        ("rlimit-nproc", {}, ("RLIMIT_NPROC", 23, 24, "uid 1000, the whole host")),
        ("threads-max", {}, ("kernel.threads-max", 101, 100, "the whole host")),
        ("fd-table-limit", {}, ("fs.nr_open", 128, 64, "the forking process's table")),
        (
            "pid-max",
            {},
            ("kernel.pid_max", 300, 301, "pid namespace 5 (level 1), the fullest of its levels"),
        ),
        ("pid-namespace-dead", {}, ("pid namespace", 1, None, "pid namespace 5 (level 1)")),
        ("pids-cgroup", {}, ("pids.max", 7, 7, "/cgroup/99")),
        ("memory-cgroup", {}, ("memory.max", 4000, 4096, "/cgroup/99")),
        ("overcommit-never", {}, ("commit charge", 3_970_240, 3_951_808, "the whole host")),
        (
            "overcommit-heuristic",
            {},
            ("one mapping of the parent", 40, 36, "RAM and swap of the host"),
        ),
        (
            "namespace-limit",
            {"step": "copy_net_ns"},
            ("user.max_net_namespaces", 8, 9, "uid 1001, user namespace level 2"),
        ),
        (
            "namespace-depth",
            {"step": "create_user_ns"},
            ("nested user namespaces", 33, 32, "the caller's namespace"),
        ),
        ("invalid-flags", {}, ("flags", None, None, "CLONE_NEWUSER with CLONE_FS")),
        ("deadline-policy", {}, ("scheduling policy", 6, None, "the calling thread")),
        (
            "thread-stack",
            {"detail": "stack-mappings"},
            ("vm.max_map_count", 65_530, 65_530, "the calling process"),
        ),
        (
            "mapping-limit",
            {"detail": "stack-mappings"},
            ("vm.max_map_count", 65_530, 65_530, "the calling process"),
        ),
    ],
)
def test_the_first_evidence_is_the_number_against_its_limit_and_where(
    cause: str, seen: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    found = told_of(cause, NUMBERS[cause], **seen)

    assert expected == lines(found)[0]
    assert "kernel" == found[0].read


@pytest.mark.parametrize(
    ("cause", "expected"),
    [
        ("rlimit-nofile", ("RLIMIT_NOFILE", 1024, 1024, "the process")),
        ("file-max", ("fs.file-max", 501, 501, "the whole host")),
    ],
)
def test_what_only_proc_tells_says_so(cause: str, expected: tuple[Any, ...]) -> None:
    found = told_of(cause, NUMBERS[cause])

    assert [expected] == lines(found)
    assert "proc" == found[0].read


def test_every_cause_with_numbers_is_tried() -> None:
    # Of a user namespace it is a reason, not a number.
    assert set(NUMBERS) == WITH_NUMBERS - {"user-namespace-denied"}


@pytest.mark.parametrize("cause", sorted(NUMBERS))
@pytest.mark.parametrize("detail", ["", *(d for d in events.DETAILS if d.startswith("stack-"))])
def test_a_number_that_was_not_read_is_unknown_in_the_evidence_and_not_zero(
    cause: str, detail: str
) -> None:
    for name in NUMBERS[cause]:
        numbers = {**NUMBERS[cause], "a_number_of_a_newer_kernel_side": 1}
        del numbers[name]

        found = told_of(cause, numbers, HostReadings(4096, 0), detail=detail)

        assert all(0 != number for item in found for number in (item.value, item.limit))


@pytest.mark.parametrize("cause", sorted(set(NUMBERS) - {"namespace-depth"}))
@pytest.mark.parametrize("detail", ["", "stack-mappings", "stack-data", "stack-commit"])
def test_a_refusal_of_which_nothing_was_read_has_no_evidence(cause: str, detail: str) -> None:
    assert () == told_of(cause, {}, HostReadings(4096, None), detail=detail)


@pytest.mark.parametrize(
    "cause",
    sorted(
        {cause for causes in verdict.BY_STEP.values() for cause in causes.values()} - set(NUMBERS)
        | {"unknown"}
    ),
)
def test_a_cause_without_numbers_of_its_own_has_no_evidence(cause: str) -> None:
    assert () == told_of(cause, MODE_2)


@pytest.mark.parametrize(
    ("numbers", "expected", "read"),
    [
        ({}, (98, 99), "proc"),
        ({"nr_threads": 101}, (101, 99), "proc"),
        ({"max_threads": 100}, (98, 100), "proc"),
        ({"nr_threads": 101, "max_threads": 100}, (101, 100), "kernel"),
    ],
)
def test_threads_that_the_kernel_side_could_not_read_are_those_of_proc(
    numbers: dict[str, int], expected: tuple[int, int], read: str
) -> None:
    (found,) = told_of("threads-max", numbers)

    assert (expected, read) == ((found.value, found.limit), found.read)


# Levels: the one that refused comes first.


def level(kind: str, up: int, number: int, used: int, limit: int) -> events.Level:
    return events.Level(kind, up, number, used, limit)


CGROUPS = [
    ("pids-cgroup", "pids_cgroup", "pids.max", 4_194_305, 1),
    ("memory-cgroup", "memcg_cgroup", "memory.max", (1 << 63) // 4096, 4),
]


@pytest.mark.parametrize(("cause", "deciding", "name", "no_limit", "factor"), CGROUPS)
def test_every_level_of_a_cgroup_is_told_and_the_one_that_refused_comes_first(
    cause: str, deciding: str, name: str, no_limit: int, factor: int
) -> None:
    found = told_of(
        cause,
        {deciding: 98},
        levels=(
            level(cause, 0, 97, 5, 90),
            level("nproc", 0, 98, 1, 1),  # of another hierarchy
            level(cause, 1, 98, 7, 7),
            level(cause, 2, 99, 9, no_limit),
        ),
    )

    assert [
        (name, 7 * factor, 7 * factor, "/cgroup/98"),
        (name, 5 * factor, 90 * factor, "/cgroup/97"),
        (name, 9 * factor, None, "/cgroup/99 (no limit)"),
    ] == lines(found)


def test_a_limit_of_none_at_all_is_zero_and_not_unlimited() -> None:
    found = told_of("pids-cgroup", {"pids_cgroup": 9}, levels=[level("pids-cgroup", 0, 9, 1, 0)])

    assert [("pids.max", 1, 0, "/cgroup/9")] == lines(found)


@pytest.mark.parametrize(("limit", "told"), [((1 << 62) - 1, True), (1 << 62, False), (-1, False)])
def test_a_limit_that_is_none_has_no_number(limit: int, told: bool) -> None:
    """RLIM_INFINITY is -1 as a signed number, and LONG_MAX in a user namespace."""
    found = told_of(
        "rlimit-nproc", NUMBERS["rlimit-nproc"], levels=[level("nproc", 1, 9, 1, limit)]
    )

    assert (limit if told else None) == found[1].limit


def test_a_cgroup_above_the_levels_that_there_was_room_for_comes_first_all_the_same() -> None:
    levels = [level("pids-cgroup", up, 100 + up, 1, 4_194_305) for up in range(16)]
    numbers = {"pids_cgroup": 99, "pids_current": 7, "pids_limit": 8, "pids_levels_up": 20}

    found = told_of("pids-cgroup", numbers, levels=levels)

    assert ("pids.max", 7, 8, "/cgroup/99") == lines(found)[0]
    assert 17 == len(found)


def test_a_cgroup_without_a_path_is_named_by_its_id() -> None:
    found = told_of("pids-cgroup", NUMBERS["pids-cgroup"], cgroup_name=lambda level: None)

    assert "cgroup id 99" == found[0].where


@pytest.mark.parametrize(("cause", "deciding", "name", "no_limit", "factor"), CGROUPS)
def test_of_levels_of_which_none_is_known_to_have_refused_those_with_a_limit_are_told(
    cause: str, deciding: str, name: str, no_limit: int, factor: int
) -> None:
    found = told_of(
        cause,
        {"a_number_of_another_kind": 7},
        levels=(
            level(cause, 2, 99, 9, 90),
            level(cause, 1, 98, 8, no_limit),
            level("nproc", 0, 96, 1, 1),  # of another hierarchy
            level(cause, 0, 97, 7, 70),
        ),
    )

    assert [
        (name, 7 * factor, 70 * factor, "/cgroup/97"),
        (name, 9 * factor, 90 * factor, "/cgroup/99"),
    ] == lines(found)


@pytest.mark.parametrize(("cause", "deciding", "name", "no_limit", "factor"), CGROUPS)
def test_levels_without_a_limit_have_refused_nothing(
    cause: str, deciding: str, name: str, no_limit: int, factor: int
) -> None:
    assert () == told_of(cause, {}, levels=[level(cause, 0, 9, 7, no_limit)])


def test_every_pid_namespace_is_told_after_the_fullest_one() -> None:
    found = told_of(
        "pid-max",
        NUMBERS["pid-max"],
        levels=[
            level("pid-namespace", 1, 5, 300, 301),
            level("pid-namespace", 0, 4, 400, 32_768),
            level("pid-namespace", 2, 6, 7, 0),  # its limit could not be read
        ],
    )

    assert [
        ("kernel.pid_max", 300, 301, "pid namespace 5 (level 1), the fullest of its levels"),
        ("kernel.pid_max", 400, 32_768, "pid namespace 4 (level 0)"),
        ("kernel.pid_max", 7, None, "pid namespace 6 (level 2)"),
    ] == lines(found)


def test_every_level_of_nproc_is_told_after_the_one_that_refused() -> None:
    numbers = {"nproc": 23, "nproc_limit": 24, "nproc_level": 1, "nproc_uid": 1001}
    found = told_of(
        "rlimit-nproc",
        numbers,
        levels=[
            level("nproc", 2, 1000, 3, (1 << 63) - 1),
            level("nproc", 1, 1001, 23, 24),
            level("nproc", 0, 1002, 30, 1000),
        ],
    )

    assert [
        ("RLIMIT_NPROC", 23, 24, "uid 1001, user namespace level 1"),
        ("RLIMIT_NPROC", 3, None, "uid 1000, user namespace level 2"),
        ("RLIMIT_NPROC", 30, 1000, "uid 1002, the whole host"),
    ] == lines(found)


@pytest.mark.parametrize(
    ("level", "where"),
    [
        (0, "uid 7, the whole host"),
        (2, "uid 7, user namespace level 2"),
    ],
)
def test_an_nproc_limit_says_in_which_user_namespace_it_stands(level: int, where: str) -> None:
    numbers = {**NUMBERS["rlimit-nproc"], "nproc_level": level}

    assert where == told_of("rlimit-nproc", numbers, uid=7)[0].where


def test_an_unread_level_and_an_unknown_uid_are_visible() -> None:
    where = told_of("rlimit-nproc", {"nproc": 1}, uid=None)[0].where

    assert "uid ?, user namespace level ?" == where


# Namespaces, flags and stacks.


@pytest.mark.parametrize(
    ("step", "flags", "kind"),
    [
        ("create_user_ns", 0x50000000, "user"),
        ("copy_mnt_ns", 0, "mnt"),
        ("copy_utsname", 0, "uts"),
        ("copy_ipcs", 0, "ipc"),
        ("copy_pid_ns", 0, "pid"),
        ("copy_cgroup_ns", 0, "cgroup"),
        ("copy_net_ns", 0, "net"),
        ("copy_time_ns", 0, "time"),
        # Not seen: what was asked for tells, if it was one.
        ("copy_namespaces", 0x40000000, "net"),
        ("copy_namespaces", 0x00000080, "time"),
        ("copy_namespaces", 0x60000000, "*"),
        ("copy_namespaces", 0, "*"),
    ],
)
def test_a_full_count_of_namespaces_is_named_by_its_sysctl(
    step: str, flags: int, kind: str
) -> None:
    (found,) = told_of("namespace-limit", NUMBERS["namespace-limit"], step=step, flags=flags)

    assert f"user.max_{kind}_namespaces" == found.name


@pytest.mark.parametrize(
    ("step", "flags", "kind"),
    [
        ("create_user_ns", 0x30000000, "user"),
        ("copy_pid_ns", 0x30000000, "pid"),
        ("copy_namespaces", 0x10000000, "user"),
        ("copy_namespaces", 0x20000000, "pid"),
        ("copy_namespaces", 0x30000000, "user or pid"),
    ],
)
def test_a_depth_is_of_the_namespaces_that_were_asked_for(step: str, flags: int, kind: str) -> None:
    (found,) = told_of("namespace-depth", {}, step=step, flags=flags)

    assert (f"nested {kind} namespaces", None, 32) == (found.name, found.value, found.limit)


def test_an_unread_namespace_level_is_visible() -> None:
    (found,) = told_of("namespace-limit", {"ns_max": 0}, uid=None, step="copy_ipcs")

    assert (None, 0, "uid ?, user namespace level ?") == (found.value, found.limit, found.where)


def test_every_broken_rule_on_flags_is_told() -> None:
    found = told_of("invalid-flags", {"flag_rules": 1 | 8 | 128})

    assert [
        "CLONE_NEWNS with CLONE_FS",
        "CLONE_SIGHAND without CLONE_VM",
        "CLONE_PARENT by the init of a pid namespace",
    ] == [each.where for each in found]


@pytest.mark.parametrize(
    ("counter", "name"),
    [
        (0, "memory.max"),
        (1, "memory.memsw.limit_in_bytes"),
        (2, "memory.kmem.limit_in_bytes"),
        (9, "memory.max"),
    ],
)
def test_the_counter_of_v1_that_refused_is_told(counter: int, name: str) -> None:
    levels = [
        events.Level("memory-cgroup", 0, 99, 1000, 1024),
        events.Level("memory-cgroup", 1, 98, 2000, 4096),
    ]
    numbers = {**NUMBERS["memory-cgroup"], "memcg_counter": counter}
    found = told_of("memory-cgroup", numbers, levels=levels)

    assert [(name, 4000, 4096), ("memory.max", 8000, 16384)] == [
        (each.name, each.value, each.limit) for each in found
    ]


def test_a_rule_that_one_flag_brings_by_another_is_told_by_both() -> None:
    (found,) = told_of("invalid-flags", {"flag_rules": 1}, flags=0x2000020200)

    assert "CLONE_NEWNS, which CLONE_EMPTY_MNTNS implies, with CLONE_FS" == found.where


@pytest.mark.parametrize(("flags", "count"), [(0x08040000, 1), (0x08000000, 0), (0x00040000, 0)])
def test_the_rule_of_copy_namespaces_is_told_where_that_was_observed(
    flags: int, count: int
) -> None:
    found = told_of("invalid-flags", {}, step="copy_namespaces", flags=flags)

    assert ["CLONE_NEWIPC with CLONE_SYSVSEM"] * count == [each.where for each in found]


STACK = {
    "stack_bytes": 8_388_608,
    "mm_total_pages": 1000,
    "data_pages": 500,
    "address_space_limit": 8_392_704,
    "data_limit": 4_194_304,
    "map_count": 65_530,
    "max_map_count": 65_530,
}


@pytest.mark.parametrize(
    ("detail", "expected"),
    [
        ("stack-address-space", ("RLIMIT_AS", 8192 + 4000, 8196)),
        ("stack-data", ("RLIMIT_DATA", 8192 + 2000, 4096)),
        ("stack-mappings", ("vm.max_map_count", 65_530, 65_530)),
        ("stack-locked", ("RLIMIT_MEMLOCK", None, None)),
        ("", ("stack of the new thread", 8192, None)),
    ],
)
def test_a_thread_stack_has_the_limit_that_refused_it(
    detail: str, expected: tuple[str, int | None, int | None]
) -> None:
    found = told_of("thread-stack", STACK, detail=detail)

    first = found[0]
    assert expected == (first.name, first.value, first.limit)
    assert ("stack of the new thread", 8192, None) == (
        found[-1].name,
        found[-1].value,
        found[-1].limit,
    )


@pytest.mark.parametrize(
    ("mode", "first"), [(2, "commit charge"), (0, "one mapping of the parent")]
)
def test_a_thread_stack_that_the_overcommit_rule_refused_has_its_numbers(
    mode: int, first: str
) -> None:
    numbers = {**MODE_2, "overcommit_memory": mode, "stack_bytes": 8_388_608}

    found = told_of("thread-stack", numbers, detail="stack-commit")

    assert (first, "stack of the new thread") == (found[0].name, found[-1].name)


@pytest.mark.parametrize("detail", ["stack-address-space", "stack-data"])
@pytest.mark.parametrize("name", ["stack_bytes", "mm_total_pages", "data_pages"])
def test_a_sum_with_an_unread_part_is_unknown(detail: str, name: str) -> None:
    numbers = dict(STACK)
    del numbers[name]

    first = told_of("thread-stack", numbers, detail=detail)[0]

    is_part = name != ("data_pages" if detail == "stack-address-space" else "mm_total_pages")
    assert is_part == (first.value is None)


def test_why_a_user_namespace_was_denied_is_one_reason() -> None:
    told = told_of("user-namespace-denied", {}, denied=("a chroot", "its root is /x"))
    by_sysctl = told_of("user-namespace-denied", {}, step="clone_flags", denied=("a chroot", ""))

    assert [("a chroot", None, None, "its root is /x")] == lines(told)
    assert ["kernel.unprivileged_userns_clone"] == [each.name for each in by_sysctl]
    assert () == told_of("user-namespace-denied", {})


def test_overcommit_shows_the_parent_and_the_mode_beside_the_rule() -> None:
    found = told_of("overcommit-never", {**MODE_2, "data_pages": 2600})

    assert [
        ("commit charge", 3_970_240, 3_951_808, "the whole host"),
        ("one mapping of the parent", 10_240, None, "the forking process"),
        ("address space of the parent", 1_280_000, None, "the forking process"),
        ("accountable memory of the parent", 10_400, None, "the forking process"),
        ("vm.overcommit_ratio", 50, None, "the whole host"),
        ("commit limit without swap", 2000000, 4000000, "RAM of the whole host"),
        ("vm.overcommit_memory", 2, None, "the whole host"),
    ] == lines(found)


@pytest.mark.parametrize(("numbers", "expected"), [({}, (2, "proc")), (MODE_2, (2, "kernel"))])
def test_the_overcommit_mode_says_where_it_was_read(
    numbers: dict[str, int], expected: tuple[int, str]
) -> None:
    last = told_of("overcommit-never", numbers)[-1]

    assert expected == (last.value, last.read)


@pytest.mark.parametrize(
    ("number", "name"),
    [(11, "EAGAIN"), (12, "ENOMEM"), (35, "EDEADLK"), (95, "EOPNOTSUPP"), (999, "unknown:999")],
)
def test_an_errno_has_its_name_and_an_unknown_one_its_number(number: int, name: str) -> None:
    assert name == verdict.errno_name(number)


@pytest.mark.parametrize(
    ("cause", "threads", "is_told"),
    [
        ("rlimit-nproc", 24, True),
        ("pids-cgroup", 24, True),
        # one of a single thread tells nothing; of a limit that is no pool's, threads are beside the point
        ("rlimit-nproc", 1, False),
        ("fd-table-limit", 24, False),
    ],
)
def test_what_the_caller_held_itself_was_counted_at_the_refusal(
    cause: str, threads: int, is_told: bool
) -> None:
    found = told_of(cause, {**NUMBERS[cause], "own_threads": threads})
    told = [each for each in found if each.name == "threads of the caller"]

    assert [(24, None, "threads", "kernel")] * is_told == [
        (each.value, each.limit, each.unit, each.read) for each in told
    ]
    assert found[0].name != "threads of the caller"


def test_with_nothing_but_the_caller_s_threads_there_are_no_numbers() -> None:
    assert () == told_of("fd-table-limit", {"own_threads": 24})


@pytest.mark.parametrize(("flags", "is_told"), [(0x1000, True), (0x100, False)])
def test_of_an_address_that_cannot_be_written_the_rule_is_told(flags: int, is_told: bool) -> None:
    found = told_of("invalid-flags", {}, step="copy_process", flags=flags)

    assert is_told == ("the address for the pidfd cannot be written" in "".join(map(str, found)))
