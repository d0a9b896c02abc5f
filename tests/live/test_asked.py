"""What is asked for otherwise than by a fork that might succeed: tasks that the kernel makes by itself
(io_uring's and vhost's workers, kernel threads, user-mode helpers), and calls against the rules.

One run of them all under every attach mode. The kernel's own answers are the truth.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import own_cgroups
import pytest
from accuracy.watching import Watched, refusal, watching
from building import PROGRAMS

from .conftest import IS_GUEST, Captured

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(not IS_GUEST, reason="sets kernel.threads-max to 20: run it by scripts/vm"),
]

WATCHERS = {
    "fexit": ("--attach", "fexit", "--all-steps", "--refused"),
    "kprobe": ("--without", "trampolines", "--refused"),
    "tracepoint": ("--attach", "tracepoint"),
}
SEEING = [name for name in WATCHERS if name != "tracepoint"]
UID, ROOM, REQUESTS = 60003, "6", "16"
IN_CGROUP, OF_USER = "io-cgroup", "io-nproc"
ASKER = "asks"  # programs/kernel_tasks.py


UNKNOWN = "a flag that this kernel does not know"
# Name in the program -> errno, the rule, and whether only newer kernels know the flags.
RULES: dict[str, tuple[str, str, bool]] = {
    "small": ("EINVAL", "clone3's size is below 64, that of its first version", False),
    "large": ("E2BIG", "clone3's size is above a page", False),
    "newer": (
        *(
            "E2BIG",
            "struct clone_args is newer than this kernel's, and its additional bytes are not 0",
        ),
        False,
    ),
    "fault": ("EFAULT", "the address of struct clone_args cannot be read", False),
    "unknown-flag": ("EINVAL", UNKNOWN, False),
    "detached": ("EINVAL", "CLONE_DETACHED, which clone3 does not take", False),
    "flag-signal": ("EINVAL", "a signal among the flags: clone3 takes it in exit_signal", False),
    "clear-sighand": ("EINVAL", "CLONE_SIGHAND with CLONE_CLEAR_SIGHAND", False),
    "thread-signal": ("EINVAL", "CLONE_THREAD or CLONE_PARENT with an exit_signal", False),
    "no-stack-size": ("EINVAL", "a stack without stack_size", False),
    "no-stack": ("EINVAL", "a stack_size without a stack", False),
    "no-signal": ("EINVAL", "the exit signal is no signal (above 64)", False),
    "set-tid-size": (
        *("EINVAL", "set_tid does not match set_tid_size, or has more than 32 numbers"),
        False,
    ),
    "set-tid-fault": ("EFAULT", "the address in set_tid cannot be read", False),
    "cgroup-small": (
        *(
            "EINVAL",
            "CLONE_INTO_CGROUP with a number that is no descriptor, or with a size below 88",
        ),
        False,
    ),
    "pidfd-settid": (
        *("EINVAL", "CLONE_PIDFD and CLONE_PARENT_SETTID write to the same address"),
        False,
    ),
    "ipc-sysvsem": ("EINVAL", "CLONE_NEWIPC with CLONE_SYSVSEM", False),
    "old-no-signal": ("EINVAL", "the exit signal is no signal (above 64)", True),
    "old-pidfd": (
        *("EINVAL", "CLONE_PIDFD and CLONE_PARENT_SETTID write to the same address"),
        False,
    ),
    "reap-thread": ("EINVAL", "CLONE_AUTOREAP with CLONE_THREAD", True),
    "reap-parent": ("EINVAL", "CLONE_AUTOREAP with CLONE_PARENT", True),
    "reap-signal": ("EINVAL", "CLONE_AUTOREAP with an exit_signal", True),
    "nnp-thread": ("EINVAL", "CLONE_NNP with CLONE_THREAD", True),
    "kill-no-pidfd": ("EINVAL", "CLONE_PIDFD_AUTOKILL without CLONE_PIDFD", True),
    "kill-no-reap": ("EINVAL", "CLONE_PIDFD_AUTOKILL without CLONE_AUTOREAP", True),
    "mntns-fs": ("EINVAL", "CLONE_NEWNS, which CLONE_EMPTY_MNTNS implies, with CLONE_FS", True),
    "kill-denied": ("EPERM", "CLONE_PIDFD_AUTOKILL without CLONE_NNP needs CAP_SYS_ADMIN", True),
}


class Asked(NamedTuple):
    """What every watcher saw, what each attempt ended with, and how the kernel answered.

    That is: to each broken rule, and to a stack that was asked for by 32-bit calls.
    """

    seen: dict[str, Watched | None]
    told: dict[str, Any]
    errnos: dict[str, str | None]
    old_calls: str


def run(program: str) -> Any:
    """Run one of the Python programs, which prints JSON."""
    done = subprocess.run([sys.executable, PROGRAMS / program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def asked(usable: dict[str, Any], build: Any, tmp_path_factory: pytest.TempPathFactory) -> Asked:
    """All of it, once."""
    place = tmp_path_factory.mktemp("asked")
    for directory in (place, *place.parents):
        if directory != Path("/tmp"):
            directory.chmod(directory.stat().st_mode | 0o055)
    program = Path(build("io_workers"))
    for name in (IN_CGROUP, OF_USER):
        (place / name).write_bytes(program.read_bytes())
        (place / name).chmod(0o755)
    told: dict[str, Any] = {}
    with own_cgroups.with_pids("ft-io") as cgroup, watching(place, WATCHERS) as seen:
        assert cgroup is not None
        (cgroup / "pids.max").write_text(ROOM)
        enter = f"echo $$ > {cgroup}/cgroup.procs; exec {place}/{IN_CGROUP} {REQUESTS}"
        own = ["prlimit", f"--nproc={ROOM}:{ROOM}", "setpriv", f"--reuid={UID}", "--clear-groups"]
        for name, command in (
            (IN_CGROUP, ["sh", "-c", enter]),
            (OF_USER, [*own, str(place / OF_USER), REQUESTS]),
        ):
            done = subprocess.run(command, capture_output=True, text=True, timeout=120)
            told[name] = (done.returncode, done.stdout.splitlines()[-1], done.stderr)
        told |= run("kernel_tasks.py")
        errnos = run("clone_rules.py")
        old = subprocess.run([build("old_calls")], capture_output=True, text=True)
    print(told, errnos, old)
    return Asked(seen, told, errnos, old.stdout.strip())


def seen_by(asked: Asked, name: str) -> Captured:
    """What one watcher recorded; skips where this kernel lacks its attach mode."""
    watched = asked.seen[name]
    assert watched is not None
    why = refusal(name, watched)
    if why is not None:
        pytest.skip(why)
    return Captured(watched.records, watched.done)


@pytest.fixture(scope="module", params=SEEING)
def seeing(request: pytest.FixtureRequest, asked: Asked) -> Captured:
    """What one watcher that sees copy_process saw."""
    return seen_by(asked, str(request.param))


@pytest.fixture(scope="module", params=WATCHERS)
def seen(request: pytest.FixtureRequest, asked: Asked) -> Captured:
    """What any one of them saw."""
    return seen_by(asked, str(request.param))


@pytest.mark.parametrize(
    ("comm", "cause", "step"),
    [(IN_CGROUP, "pids-cgroup", "cgroup_can_fork"), (OF_USER, "rlimit-nproc", "rlimit_nproc")],
)
def test_a_worker_of_io_uring_is_told_as_that(
    seeing: Captured, asked: Asked, comm: str, cause: str, step: str
) -> None:
    told = asked.told[comm]
    seen = seeing.by(comm, "cause", "step", "errno", "syscall", "creates", "caller")
    advice = {each["text"] for failure in seeing.of(comm) for each in failure["advice"]}

    # The program itself heard of nothing.
    assert told == (0, f"completed: {REQUESTS}, failed: 0", "")
    assert set(seen) == {(cause, step, "EAGAIN", "kernel", "thread", "(io_uring worker)")}
    assert seeing.count(comm) == seeing.exact(comm) > 0
    assert {each["maker"]["kind"] for each in seeing.of(comm)} == {"io-uring-worker"}
    assert any("IORING_REGISTER_IOWQ_MAX_WORKERS" in text for text in advice)
    if os.uname().release.startswith("5.10.") and comm == OF_USER:
        return  # that kernel has no function of its own for this test
    assert {each["certainty"] for each in seeing.of(comm)} == {"observed"}


def made(seeing: Captured, kind: str) -> list[dict[str, Any]]:
    """The failures of tasks of a kind."""
    return [each for each in seeing.failures if (each["maker"] or {}).get("kind") == kind]


def test_a_kernel_thread_is_told_with_who_waits_for_it(seeing: Captured, asked: Asked) -> None:
    assert asked.told["kthread"] not in (None, "done")
    found = made(seeing, "kernel-thread")
    words = {each["maker"]["name"] or each["maker"]["function"] for each in found}

    assert found
    if not os.uname().release.startswith("5.10."):  # which tells neither
        assert any(each and each.startswith(("kpktgend", "pktgen")) for each in words)
    for each in found:
        assert (each["comm"], each["pid"], each["syscall"]) == ("kthreadd", 2, "kernel")
        assert (each["cause"], each["errno"]) == ("threads-max", "EAGAIN")
        assert each["caller"].startswith("(kernel thread")
        # On another CPU kthreadd can be refused before the one who asked waits.
        assert each["maker"]["asker"] in (None, ASKER)
        assert bool(each["maker"]["asker_pid"]) == bool(each["maker"]["asker"])
        assert each["caller"].endswith(f"<- {ASKER}") == bool(each["maker"]["asker"])


def test_a_user_mode_helper_is_told_with_its_program(seeing: Captured, asked: Asked) -> None:
    assert asked.told["helper"] == "EAFNOSUPPORT"
    found = made(seeing, "user-mode-helper")

    assert found
    assert {each["caller"] for each in found} == {"(user-mode helper /sbin/modprobe)"}
    assert {(each["cause"], each["errno"]) for each in found} == {("threads-max", "EAGAIN")}
    assert all(each["comm"].startswith("kworker/") for each in found)


def test_a_worker_of_vhost_is_told_in_either_form(seeing: Captured, asked: Asked) -> None:
    """Since Linux v6.4 it is a task of the caller's; before that, a kernel thread."""
    if asked.told["vhost"] is None:
        pytest.skip("this kernel has no vhost_net")
    assert asked.told["vhost"] != "done"
    names = {(each["maker"] or {}).get("name") or "" for each in seeing.of(ASKER)}
    by_kthreadd = [
        each
        for each in made(seeing, "kernel-thread")
        if (each["maker"]["function"] or "").startswith("vhost_worker")
    ]
    old = os.uname().release.startswith("5.10.")  # which tells no function

    assert any(name.startswith("vhost-") for name in names) or by_kthreadd or old


def test_by_tracepoints_none_is_seen_and_that_is_said(asked: Asked) -> None:
    captured = seen_by(asked, "tracepoint")

    assert not [each for each in captured.failures if each["syscall"] == "kernel"]
    assert captured.count(IN_CGROUP) == captured.count(OF_USER) == 0
    text = " ".join(captured.done.stdout.split())
    assert "syscall tracepoints do not see tasks that the kernel makes by itself" in text


def test_by_the_others_nothing_is_said_of_that(seeing: Captured) -> None:
    assert "syscall tracepoints" not in seeing.done.stdout


@pytest.fixture(scope="module")
def is_new() -> bool:
    """Does this kernel know the flags that came with Linux v7.1?"""
    return b"\0autoreap\0" in Path("/sys/kernel/btf/vmlinux").read_bytes()


# Earlier kernels take it: of clone they did not look at the signal.
TAKEN_BEFORE = "old-no-signal"


def expected(name: str, is_new: bool) -> tuple[str | None, str]:
    """The errno and the rule on this kernel."""
    errno_, rule, needs_new = RULES[name]
    if name == TAKEN_BEFORE and not is_new:
        return None, ""
    return (errno_, rule) if is_new or not needs_new else ("EINVAL", UNKNOWN)


def test_the_kernel_answers_as_its_rules_say(asked: Asked, is_new: bool) -> None:
    assert asked.errnos == {name: expected(name, is_new)[0] for name in RULES}


@pytest.mark.parametrize("name", RULES)
def test_the_rule_that_was_broken_is_told(seen: Captured, is_new: bool, name: str) -> None:
    errno_, rule = expected(name, is_new)
    if errno_ is None:
        assert seen.exact(f"r-{name}") == 0
        return
    failures = seen.of(f"r-{name}")
    told = [each["where"] for failure in failures for each in failure["evidence"]]

    assert seen.count(f"r-{name}") == seen.exact(f"r-{name}") == 1
    assert seen.by(f"r-{name}", "cause", "errno") == {("invalid-flags", errno_): 1}
    assert rule in told
    # A flag that is not known breaks no other rule.
    assert rule != UNKNOWN or name == "unknown-flag" or told == [rule]


@pytest.mark.parametrize(
    ("comm", "call", "limit"),
    [("old-mmap", "mmap", "RLIMIT_AS"), ("old-mprotect", "mprotect", "RLIMIT_DATA")],
)
def test_a_stack_that_is_asked_for_by_32_bit_calls_is_told(
    seen: Captured, asked: Asked, comm: str, call: str, limit: str
) -> None:
    (failure,) = seen.of(comm)

    assert asked.old_calls == "-12 -12"
    assert (failure["cause"], failure["errno"]) == ("thread-stack", "ENOMEM")
    assert (failure["syscall"], failure["evidence"][0]["name"]) == (call, limit)


def test_new_flags_have_names(seen: Captured) -> None:
    (failure,) = seen.of("r-kill-no-pidfd")

    assert failure["flags"] == ["CLONE_AUTOREAP", "CLONE_PIDFD_AUTOKILL"]
