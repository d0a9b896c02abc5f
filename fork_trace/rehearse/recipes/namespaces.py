"""How rehearsals make forks fail by namespaces: full, too deep, denied, or left behind.

Nothing of the host is changed but by user_namespace_sysctl: limits are lowered in a user namespace
of the child's own. Which scenarios there are is rehearse's.
"""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Callable
from functools import partial

from fork_trace.errors import NotHereError
from fork_trace.rehearse import identity, syscalls
from fork_trace.rehearse.child import Stage, kill
from fork_trace.rehearse.recipes.arguments import by_clone3
from fork_trace.rehearse.recipes.limits import Act, least_pid_max, spawns_by_clone3, unused_uid
from fork_trace.rehearse.restore import Borrowed

# Kind, as in /proc/sys/user/max_*_namespaces -> the flag that asks for one.
_FLAGS = {
    "user": syscalls.CLONE_NEWUSER,
    "mnt": syscalls.CLONE_NEWNS,
    "uts": syscalls.CLONE_NEWUTS,
    "ipc": syscalls.CLONE_NEWIPC,
    "pid": syscalls.CLONE_NEWPID,
    "cgroup": syscalls.CLONE_NEWCGROUP,
    "net": syscalls.CLONE_NEWNET,
    "time": syscalls.CLONE_NEWTIME,
}
# The first number that a pid namespace gives again (include/linux/pid.h, RESERVED_PIDS).
_RESERVED_PIDS = 300
# include/linux/proc_ns.h, PROC_PID_INIT_INO and PROC_USER_INIT_INO.
_INITIAL = {"pid": 0xEFFFFFFC, "user": 0xEFFFFFFD}
# How deep they may be nested below the initial one: MAX_PID_NS_LEVEL (include/linux/
# pid_namespace.h), and the test of create_user_ns() (kernel/user_namespace.c).
_DEEPEST = {"pid": 32, "user": 33}

SPAWN_SYSCALL = "clone3" if spawns_by_clone3() else "clone"


def limit(kind: str) -> Callable[[Borrowed], Act]:
    """Return the recipe for user.max_*_namespaces of this kind, one of those in /proc/sys/user."""
    path = f"/proc/sys/user/max_{kind}_namespaces"

    def prepare(borrowed: Borrowed) -> Act:
        if not os.path.exists(f"/proc/self/ns/{kind}") or not os.path.exists(path):
            raise NotHereError(
                f"this kernel has no {kind} namespaces, or no {path}.",
                "Rehearse uts-namespace-limit instead.",
            )
        flag = _FLAGS[kind]
        # In clone, CLONE_NEWTIME is part of the exit signal.
        ask = by_clone3(flag) if kind == "time" else partial(syscalls.clone, flag)

        def act(stage: Stage) -> None:
            identity.enter_user_namespace()
            identity.write(path, "0")
            stage.ask_until_refused(ask)
            stage.notes.append(f"user.max_{kind}_namespaces was 0 in a user namespace of its own.")

        return act

    prepare.__doc__ = f"Refuse by user.max_{kind}_namespaces 0 in a user namespace of its own."
    return prepare


def user_namespace_depth(borrowed: Borrowed) -> Act:
    """Refuse by 33 user namespaces inside each other (kernel/user_namespace.c, create_user_ns())."""

    def act(stage: Stage) -> None:
        levels = _nest("user", identity.enter_user_namespace)
        stage.ask_until_refused(partial(syscalls.clone, syscalls.CLONE_NEWUSER))
        stage.notes.append(f"The process was {levels} user namespaces deeper than its parent.")

    return act


def pid_namespace_depth(borrowed: Borrowed) -> Act:
    """Refuse by 32 pid namespaces inside each other (kernel/pid_namespace.c, copy_pid_ns())."""

    def act(stage: Stage) -> None:
        levels = _nest("pid", partial(_enter_pid_namespace, stage))
        stage.ask_until_refused(partial(syscalls.clone, syscalls.CLONE_NEWPID))
        stage.notes.append(f"The process was {levels} pid namespaces deeper than its parent.")

    return act


def _enter_pid_namespace(stage: Stage) -> None:
    identity.unshare_with_any_right(syscalls.CLONE_NEWPID, "a pid namespace")
    # A pid namespace is for the children of the one that made it.
    stage.hand_over()


def _nest(kind: str, enter: Callable[[], None]) -> int:
    is_initial = os.stat(f"/proc/self/ns/{kind}").st_ino == _INITIAL[kind]
    for level in range(_DEEPEST[kind]):
        try:
            enter()
        except NotHereError:
            # In the initial namespace it must be a limit of /proc/sys/user that is met early;
            # in a container it is taken for the depth, as what is above cannot be seen.
            if is_initial or level == 0:
                raise
            return level
    return _DEEPEST[kind]


def user_namespace_chroot(borrowed: Borrowed) -> Act:
    """Refuse a user namespace to a process in a chroot (kernel/user_namespace.c, create_user_ns())."""

    def act(stage: Stage) -> None:
        try:
            os.chroot("/proc")
        except PermissionError:
            identity.enter_user_namespace()
            os.chroot("/proc")
        stage.ask_until_refused(partial(syscalls.clone, syscalls.CLONE_NEWUSER))
        stage.notes.append("The root directory of the process was /proc.")

    return act


def user_namespace_unmapped(borrowed: Borrowed) -> Act:
    """Refuse a user namespace to a process whose ids are not mapped in the one that it is in."""

    def act(stage: Stage) -> None:
        identity.unshare(syscalls.CLONE_NEWUSER, "a user namespace")
        stage.ask_until_refused(partial(syscalls.clone, syscalls.CLONE_NEWUSER))
        stage.notes.append("The uid_map of the process's user namespace was empty.")

    return act


def user_namespace_sysctl(borrowed: Borrowed) -> Act:
    """Refuse by kernel.unprivileged_userns_clone 0, a sysctl of Debian and its kin."""
    if not os.path.exists("/proc/sys/kernel/unprivileged_userns_clone"):
        raise NotHereError(
            "this kernel has no kernel.unprivileged_userns_clone, which is a patch of Debian's.",
            "Rehearse user-namespace-limit instead.",
        )
    allowed = borrowed.sysctl("kernel/unprivileged_userns_clone")
    uid = unused_uid()

    def act(stage: Stage) -> None:
        with stage.changed((allowed, 0)), identity.without_privileges(stage, uid):
            stage.ask_until_refused(partial(syscalls.clone, syscalls.CLONE_NEWUSER))

    return act


def namespace_denied(borrowed: Borrowed) -> Act:
    """Refuse a network namespace to a process without CAP_SYS_ADMIN."""

    def act(stage: Stage) -> None:
        identity.drop_privileges(stage)
        stage.ask_until_refused(partial(syscalls.clone, syscalls.CLONE_NEWNET))
        stage.notes.append(f"User id {os.getuid()} asked without a user namespace of its own.")

    return act


def thread_after_unshare(borrowed: Borrowed) -> Act:
    """Refuse a thread to a process whose children are to be in another pid namespace."""
    thread = syscalls.CLONE_VM | syscalls.CLONE_FS | syscalls.CLONE_FILES | syscalls.CLONE_SIGHAND
    thread |= syscalls.CLONE_THREAD

    def act(stage: Stage) -> None:
        identity.unshare_with_any_right(syscalls.CLONE_NEWPID, "a pid namespace")
        stage.ask_until_refused(partial(syscalls.clone, thread, 0))
        stage.notes.append("The process had called unshare(CLONE_NEWPID) before.")

    return act


def vfork_after_unshare_time(borrowed: Borrowed) -> Act:
    """Refuse posix_spawn to a process whose children are to be in another time namespace."""

    def spawn() -> int:
        # The C library gives the child a stack of its own: raw, it could not be let through.
        return os.posix_spawn("/bin/sh", ["sh", "-c", "exit 0"], {})

    ask = _or_not_here(
        spawn,
        "this kernel lets posix_spawn pass after unshare(CLONE_NEWTIME).",
        "Rehearse thread-after-unshare instead.",
    )

    def act(stage: Stage) -> None:
        identity.unshare_with_any_right(syscalls.CLONE_NEWTIME, "a time namespace")
        stage.ask_until_refused(ask)
        stage.notes.append("The process had called unshare(CLONE_NEWTIME) before posix_spawn.")

    return act


def _or_not_here(ask: Callable[[], int], why: str, hint: str) -> Callable[[], int]:
    def asked() -> int:
        pid = ask()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        raise NotHereError(why, hint)

    return asked


def pid_namespace_full(borrowed: Borrowed) -> Act:
    """Refuse by kernel.pid_max of a pid namespace two levels above the forking process's own."""
    least = least_pid_max()

    def act(stage: Stage) -> None:
        # Unprivileged also as root: where pid_max is one for all, only the host's root may write
        # it, so that nothing can happen to the host.
        identity.drop_privileges(stage)
        identity.enter_user_namespace()
        _enter_pid_namespace(stage)
        # Three numbers: for the two processes between, and one for a sleeper.
        _lower_pid_max(least + 2)
        _use_up_to(_RESERVED_PIDS)
        _enter_pid_namespace(stage)
        _enter_pid_namespace(stage)
        sleepers: list[int] = []
        try:
            stage.fork_until_refused(keep=sleepers.append)
        finally:
            kill(sleepers)
        stage.notes.append(
            f"kernel.pid_max was {least + 2} in the pid namespace two levels above, and its last"
            f" numbers were held by {len(sleepers)} processes besides the three that nest."
        )

    return act


def _lower_pid_max(value: int) -> None:
    path = "/proc/sys/kernel/pid_max"
    try:
        identity.write(path, str(value))
    except PermissionError:
        # Linux commit 7863dcc72d0f ("pid: allow pid_max to be set per pid namespace") (in v6.14).
        raise NotHereError(
            "kernel.pid_max is one for the whole host, and not each pid namespace's, before 6.14.",
            "Rehearse pid-max instead, which needs --host-wide.",
        ) from None


def _use_up_to(number: int) -> None:
    # Once the cursor is past RESERVED_PIDS, lower numbers are not given again (kernel/pid.c,
    # alloc_pid()). ns_last_pid needs CONFIG_CHECKPOINT_RESTORE; without it, forks move the cursor.
    with contextlib.suppress(OSError):
        identity.write("/proc/sys/kernel/ns_last_pid", str(number))
    pid = 0
    while pid <= number:
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)


def rlimit_nproc_user_namespace(borrowed: Borrowed) -> Act:
    """Refuse by the RLIMIT_NPROC 1 that the maker of the user namespace had, not the process's own."""
    ask = _or_not_here(
        os.fork,
        "this kernel does not hold a user namespace to the RLIMIT_NPROC of its maker (5.14 does).",
        "Rehearse rlimit-nproc instead.",
    )

    def act(stage: Stage) -> None:
        identity.drop_privileges(stage)
        hard = resource.getrlimit(resource.RLIMIT_NPROC)[1]
        resource.setrlimit(resource.RLIMIT_NPROC, (1, hard))
        identity.enter_user_namespace()
        resource.setrlimit(resource.RLIMIT_NPROC, (hard, hard))
        stage.ask_until_refused(ask)
        own = "unlimited" if hard == resource.RLIM_INFINITY else hard
        stage.notes.append(
            f"The process's own RLIMIT_NPROC was {own}; it was 1 when the user namespace was made."
        )

    return act
