"""Causes: namespaces, new ones and those that the caller is in."""

from __future__ import annotations

import errno

from fork_trace.diagnosis.cause import ASKED, UNREAD, Cause, Fit, Gauge, Refusal, do
from fork_trace.diagnosis.evidence import namespaces_asked, pid_namespace
from fork_trace.diagnosis.readings import HostReadings, KernelReadings
from fork_trace.model.records import Evidence

# Each step that makes a namespace -> its word in user.max_*_namespaces.
_KINDS = {
    "create_user_ns": "user",
    "copy_mnt_ns": "mnt",
    "copy_utsname": "uts",
    "copy_ipcs": "ipc",
    "copy_pid_ns": "pid",
    "copy_cgroup_ns": "cgroup",
    "copy_net_ns": "net",
    "copy_time_ns": "time",
}
# All but the user namespace are made in copy_namespaces.
NEW_NAMESPACE = ("copy_namespaces", *(step for step in _KINDS if step != "create_user_ns"))
_NO_DISK = "No space left on device means a full disk"


def _count(seen: KernelReadings, _host: HostReadings) -> tuple[Evidence, ...]:
    numbers = seen.numbers
    kind = _KINDS.get(seen.step)
    if kind is None:
        asked = namespaces_asked(seen.flags)
        kind = asked[0] if len(asked) == 1 else "*"
    uid, level = (
        "?" if each is None else each
        for each in (numbers.get("ns_uid", seen.uid), numbers.get("ns_level"))
    )
    where = f"uid {uid}, user namespace level {level}"
    used, limit = numbers.get("ns_count"), numbers.get("ns_max")
    return (Evidence(f"user.max_{kind}_namespaces", used, limit, "namespaces", where, "kernel"),)


NAMESPACE_LIMIT = Cause(
    slug="namespace-limit",
    errnos=("ENOSPC",),
    means="a user or user namespace has as many namespaces as its user.max_*_namespaces allows",
    limit="`user.max_*_namespaces` of the caller's user namespace or an ancestor",
    steps=tuple(_KINDS),
    # Only where a count was read at its limit: the kernel answers the same for want of memory.
    refusals=(Refusal("", detail="ns-limit"),),
    fits=(
        # A namespace's depth is checked before it is counted.
        Fit(errno.ENOSPC, "ns-limit", "copy_namespaces", place=2),
        Fit(errno.ENOSPC, "asked-newuser", "create_user_ns", ASKED, 4),
        Fit(errno.ENOSPC, "asked-namespace", "copy_namespaces", ASKED, 5),
    ),
    evidence=_count,
    check=Gauge(
        "user.max_*_namespaces",
        "namespaces",
        "the namespaces of each type that processes are in, of all users together, with "
        "`user.max_TYPE_namespaces`, which each user may have; types other than user and pid only "
        "where the limit is low enough to matter",
    ),
    aliases=tuple(
        f"user.max_{kind}_namespaces"
        for kind in ("user", "mnt", "uts", "ipc", "pid", "cgroup", "net", "time")
    ),
    rehearsal="user-namespace-limit",
    verify=do(
        "Compare the limit with the number of namespaces{seen}, and see who holds them.",
        "{in_userns}sysctl {sysctl}",
        "lsns --type {nstype}",
    ),
    mitigate={
        "": do(
            "Raise the limit{now} in the user namespace where it was hit{at}.",
            "{in_userns}sysctl {sysctl}=N",
        ),
        # Nobody has any: nothing leaks.
        "switched-off": do(
            "These namespaces were switched off on purpose: {sysctl} is 0 in the user namespace where "
            "it was hit{at}. Ask who did it, and only then allow them again.",
            "{in_userns}sysctl {sysctl}=N",
        ),
    },
    fix={
        "": do(
            "Persist {sysctl}=N in /etc/sysctl.d/90-namespaces.conf, and stop whatever leaks "
            "namespaces: a process, a bind mount or an open descriptor of /proc/PID/ns keeps one "
            "alive."
        ),
        "switched-off": do(
            "Find where it is set to 0, and change it there; or run the program without these "
            "namespaces, as whoever set it wants.",
            "grep -rs {sysctl} /etc/sysctl.* /usr/lib/sysctl.d",
        ),
    },
    myths=(f"{_NO_DISK}: from clone and unshare it means too many namespaces.",),
    careful=do(
        "A namespace that nobody needs any more is a leak, and takes any limit. User namespaces, where "
        "they were switched off, open more of the kernel to each user."
    ),
)


def _depth(seen: KernelReadings, _host: HostReadings) -> tuple[Evidence, ...]:
    kind = "user" if seen.step == "create_user_ns" else "pid"
    if seen.step not in ("create_user_ns", "copy_pid_ns"):
        # These two have a depth; which one refused was not seen.
        asked = namespaces_asked(seen.flags)
        kind = " or ".join(name for name in asked if name in ("user", "pid")) or kind
    level = seen.numbers.get("ns_level")
    most = 32  # kernel/user_namespace.c and kernel/pid_namespace.c
    where = "the caller's namespace"
    return (Evidence(f"nested {kind} namespaces", level, most, "levels", where, "kernel"),)


NAMESPACE_DEPTH = Cause(
    slug="namespace-depth",
    errnos=("ENOSPC", "EUSERS"),
    means="pid or user namespaces are nested 32 levels deep, which is as deep as the kernel allows",
    limit="32 levels of pid or user namespaces",
    steps=("create_user_ns", "copy_pid_ns"),
    refusals=(Refusal("", detail="ns-depth"),),
    fits=(Fit(errno.ENOSPC, "ns-depth", "copy_namespaces", place=1),),
    evidence=_depth,
    rehearsal="user-namespace-depth",
    verify=do(
        "NSpid has one number for each pid namespace level; lsns shows user namespaces. The errno is "
        "EUSERS only before Linux 4.9.",
        "grep NSpid /proc/{pid}/status",
        "lsns --type user",
    ),
    mitigate=do("Start it further out: next to the innermost containers, not inside them."),
    fix=do(
        "Stop the nesting: something enters a new namespace each time it restarts. The limit is "
        "hard-coded in the kernel."
    ),
    myths=(f"{_NO_DISK}: from clone and unshare it means nested too deep.",),
)

_BY_SYSCTL = "kernel.unprivileged_userns_clone"
_BY_APPARMOR = "kernel.apparmor_restrict_unprivileged_userns"


def _denied(seen: KernelReadings, _host: HostReadings) -> tuple[Evidence, ...]:
    """Return the reason as a rule: of several, the one that the kernel asks first."""
    reason = seen.denied
    if seen.step == "clone_flags":
        reason = (_BY_SYSCTL, "unprivileged user namespaces are switched off (Debian, Ubuntu)")
    if reason is None:
        return ()
    return (Evidence(reason[0], None, None, "rule", reason[1], "proc"),)


USER_NAMESPACE_DENIED = Cause(
    slug="user-namespace-denied",
    errnos=("EPERM", "EACCES"),
    means="the caller may not create a user namespace: unprivileged ones are disabled, it is in a "
    "chroot, its uid or gid is not mapped, or a security module refused",
    limit="`kernel.unprivileged_userns_clone`, a chroot, unmapped ids, or a security module",
    steps=("clone_flags", "create_user_ns"),
    refusals=(Refusal("create_user_ns"),),
    fits=(
        Fit(errno.EPERM, "userns-sysctl", "clone_flags"),
        Fit(errno.EPERM, "asked-newuser", "create_user_ns", ASKED, 1),
    ),
    evidence=_denied,
    aliases=(
        _BY_SYSCTL,
        _BY_APPARMOR,
    ),
    rehearsal="user-namespace-chroot",
    verify={
        "": do(
            "Check the sysctls of Debian and Ubuntu, whether the process is in a chroot (its root is "
            "not /), its id mapping, and the kernel log.",
            "sysctl kernel.unprivileged_userns_clone  # Debian",
            "sysctl kernel.apparmor_restrict_unprivileged_userns  # Ubuntu",
            "readlink /proc/{pid}/root",
            "cat /proc/{pid}/uid_map",
            "dmesg | grep userns",
        ),
        "a chroot": do("See that the root of the process is not /.", "readlink /proc/{pid}/root"),
        "unmapped ids": do(
            "Look for the caller's uid and gid in the mappings of its user namespace.",
            "cat /proc/{pid}/uid_map",
            "cat /proc/{pid}/gid_map",
        ),
        _BY_SYSCTL: do("Read the setting: it is 0.", "sysctl kernel.unprivileged_userns_clone"),
        _BY_APPARMOR: do(
            "Read the setting, and look in the kernel log for what AppArmor denied.",
            "sysctl kernel.apparmor_restrict_unprivileged_userns",
            "dmesg | grep userns",
        ),
        "a security module": do(
            "Look in the kernel log for what was denied, and by which module.",
            "dmesg | grep -i -e apparmor -e avc -e userns",
        ),
    },
    mitigate={
        "": do(
            "Enable unprivileged user namespaces, or run it as root. On Ubuntu 23.10 and newer clone "
            "mostly succeeds: AppArmor moves the process to its profile unprivileged_userns, where the "
            "write of uid_map or the mount is what fails.",
            "sysctl kernel.unprivileged_userns_clone=1  # Debian",
            "sysctl kernel.apparmor_restrict_unprivileged_userns=0  # Ubuntu >= 23.10",
        ),
        "a chroot": do(
            "No setting changes it: in a chroot nobody may, root included. Run the program outside of "
            "it, let whoever starts it use pivot_root instead of chroot, or switch off its sandbox."
        ),
        "unmapped ids": do(
            "No setting changes it: map the caller's uid and gid in uid_map and gid_map of its user "
            "namespace before it asks."
        ),
        _BY_SYSCTL: do(
            "Enable unprivileged user namespaces, or run it as root.",
            "sysctl kernel.unprivileged_userns_clone=1",
        ),
        _BY_APPARMOR: do(
            "Let AppArmor allow them, for all or in a profile of the program with `userns,`.",
            "sysctl kernel.apparmor_restrict_unprivileged_userns=0",
        ),
        "a security module": do("Look up which one refused, and change its policy."),
        "docker": do(
            "On the host, enable unprivileged user namespaces: a container without an AppArmor profile "
            "meets these settings all the same. Mostly docker's seccomp profile answers before; then "
            "the cause is seccomp.",
            "sysctl kernel.unprivileged_userns_clone=1  # Debian",
            "sysctl kernel.apparmor_restrict_unprivileged_userns=0  # Ubuntu >= 23.10",
        ),
    },
    fix={
        "": do(
            "Give the program an AppArmor profile with `userns,` instead of allowing it for all; run it "
            "outside a chroot (pivot_root instead), with its uid and gid mapped in uid_map and gid_map."
        ),
        "a chroot": do(
            "Let whoever starts it use a mount namespace and pivot_root in place of chroot: the root "
            "of the process is then one that may have user namespaces."
        ),
        "unmapped ids": do(
            "Let whoever makes the user namespace write uid_map and gid_map (newuidmap, newgidmap) "
            "before it starts the program."
        ),
        _BY_SYSCTL: do(
            "Find where it is set to 0, and change it there; or run the program as root.",
            "grep -rs unprivileged_userns_clone /etc/sysctl.* /usr/lib/sysctl.d",
        ),
        _BY_APPARMOR: do(
            "Give the program an AppArmor profile with `userns,` instead of allowing it for all."
        ),
        "a security module": do("Allow it in the policy of that module, for this program only."),
    },
    myths=(
        "Only the kernel's configuration decides: a chroot or an unmapped uid refuses as well.",
    ),
    careful={
        "": do(
            "These settings keep much of the kernel from users who are not root: allow one program by a "
            "profile before you allow all."
        ),
        "a chroot": do(
            "A sandbox that is switched off protects nothing: do it for trusted input only."
        ),
        "unmapped ids": do(
            "Map only ids that are the user's own: /etc/subuid and /etc/subgid say which."
        ),
    },
)

NAMESPACE_DENIED = Cause(
    slug="namespace-denied",
    errnos=("EPERM",),
    means="a new namespace requires CAP_SYS_ADMIN, which the caller does not have",
    limit="CAP_SYS_ADMIN, for CLONE_NEW* without CLONE_NEWUSER",
    steps=("copy_namespaces",),
    refusals=tuple(Refusal(step, errno.EPERM) for step in NEW_NAMESPACE),
    fits=(Fit(errno.EPERM, "ns-denied", "copy_namespaces"),),
    rehearsal="namespace-denied",
    verify=do(
        "Decode CapEff of the process: cap_sys_admin is missing.",
        "grep CapEff /proc/{pid}/status",
        "capsh --decode=CAPEFF",
    ),
    mitigate=do(
        "Run it as root, or in a user namespace of its own.",
        "unshare --user --map-root-user COMMAND",
    ),
    fix={
        "": do(
            "Give CAP_SYS_ADMIN to the program that needs it, or add CLONE_NEWUSER to its call."
        ),
        "systemd-service": do(
            "Set AmbientCapabilities=CAP_SYS_ADMIN for the unit, or PrivateUsers= and use "
            "CLONE_NEWUSER.",
            "systemctl edit {unit}",
        ),
        "docker": do(
            "Add the capability, with a seccomp profile that allows it; or use CLONE_NEWUSER in the "
            "program.",
            "docker run --cap-add SYS_ADMIN IMAGE",
        ),
        "podman": do(
            "Add the capability, or use CLONE_NEWUSER in the program.",
            "podman run --cap-add SYS_ADMIN IMAGE",
        ),
        "kubernetes": do(
            "Add SYS_ADMIN to securityContext.capabilities.add of the container, or use "
            "CLONE_NEWUSER in the program."
        ),
    },
    myths=("Root may create any namespace: root in a container usually lacks CAP_SYS_ADMIN.",),
    careful=do(
        "CAP_SYS_ADMIN is nearly root on the host, in a container too: a user namespace gives less away."
    ),
)

UNSHARED_NAMESPACE = Cause(
    slug="unshared-namespace",
    errnos=("EINVAL",),
    means="the caller has unshared its pid or time namespace: only a new process can enter the new "
    "one, not a thread (for time namespaces before Linux 6.2: neither a thread nor vfork)",
    limit="none: after unshare(CLONE_NEWPID), or before Linux 6.2 CLONE_NEWTIME",
    steps=("clone_flags", "copy_pid_ns"),
    # kernel/pid_namespace.c, copy_pid_ns: the caller's children are to be in another one already.
    refusals=(Refusal("copy_pid_ns", errno.EINVAL),),
    # Flags that contradict each other are refused before.
    fits=(Fit(errno.EINVAL, "unshared", "clone_flags", place=2),),
    rehearsal="thread-after-unshare",
    verify=do(
        # Until 2b5f9dad32ed ("fs/exec: switch timens when a task gets a new mm") (in v6.2).
        "The two links differ; before Linux 6.2 ns/time and ns/time_for_children can be it as well.",
        "readlink /proc/{pid}/ns/pid /proc/{pid}/ns/pid_for_children",
    ),
    mitigate=do("Fork first, and create threads in the child.", "unshare --pid --fork COMMAND"),
    fix=do(
        "In the program, call unshare or setns for pid and time namespaces in a helper that then "
        "forks, never in a process that goes on to create threads."
    ),
    myths=(
        "Invalid argument means that the arguments are wrong: what the caller did earlier is.",
        "unshare(CLONE_NEWPID) moves the caller: only its children go there, the first as init.",
    ),
)


def _dead(seen: KernelReadings, _host: HostReadings) -> tuple[Evidence, ...]:
    numbers = seen.numbers
    left = numbers.get("pidns_pids")
    where = pid_namespace(numbers.get("pidns_inum"), numbers.get("pidns_level"))
    return (
        Evidence("pid namespace", left, None, "pids left (its init has exited)", where, "kernel"),
    )


PID_NAMESPACE_DEAD = Cause(
    slug="pid-namespace-dead",
    errnos=("ENOMEM",),
    means="the pid namespace's init has exited, so no process can be created in it any more; this "
    "is not a memory shortage, although the errno says so",
    limit="none: the namespace's init has exited. Not a memory shortage",
    steps=("alloc_pid", "pid_namespace_late"),
    refusals=(Refusal("alloc_pid", errno.ENOMEM, "pidns-dead"),),
    fits=(
        # copy_process asks once more: alloc_pid let it pass, so the init exited in between.
        Fit(errno.ENOMEM, "pidns-dead", "alloc_pid", later_step="pid_namespace_late"),
        Fit(errno.ENOMEM, "pidns-unknown", "alloc_pid", UNREAD, 2, "pid_namespace_late"),
    ),
    evidence=_dead,
    structures=("pid_namespace",),
    check=Gauge(
        "pid namespace",
        "namespaces",
        "`ns/pid_for_children` of each process with `ns/pid`: where they differ, and no init lives "
        "in the former, no child can be made any more",
    ),
    rehearsal="pid-namespace-dead",
    verify=do(
        "The two links differ, or the second one is gone; and there is memory to spare.",
        "readlink /proc/{pid}/ns/pid /proc/{pid}/ns/pid_for_children",
        "free -m",
    ),
    mitigate={
        "": do(
            "Leave that shell, or restart that program: a dead pid namespace cannot be revived. A "
            "container or pod around it need not be restarted."
        ),
        "by-runtime": do(
            "The container was ending while its runtime started a process in it (docker exec, a "
            "probe): see why it ended. If it is to run, start it again.",
            "{inspect}",
        ),
        "kubernetes": do(
            "If a runtime (runc, crun) asked, the container was ending: see why. Else restart the "
            "program only that made the namespace, not the pod.",
            "kubectl{in_namespace} describe pod {pod}",
        ),
    },
    fix=do(
        "With unshare(1), use --fork; in a program, keep the first child after "
        "unshare(CLONE_NEWPID) alive: it is the init.",
        "unshare --pid --fork COMMAND",
    ),
    myths=(
        "Cannot allocate memory means memory: alloc_pid returns ENOMEM for a dead pid namespace, on "
        "purpose (pid_namespaces(7)).",
    ),
)


# fs/namespace.c: copy_mnt_ns counts what it copies and compares it with nothing, from 5.10 to 7.2;
# count_mounts, which compares, is asked by what attaches mounts. The detail stays for a kernel that does.
MOUNT_LIMIT = Cause(
    slug="mount-limit",
    errnos=("ENOSPC",),
    means="a mount namespace holds as many mounts as fs.mount-max allows; mount(2) answers that, and no "
    "known kernel does when it copies the namespace for a fork",
    limit="`fs.mount-max`, for each mount namespace",
    steps=("copy_mnt_ns",),
    refusals=(Refusal("", detail="mounts"),),
    aliases=("fs.mount-max",),
    verify=do(
        "Compare the number of mounts with the limit. If there is room, ENOSPC of a new namespace is "
        "namespace-limit.",
        "wc -l < /proc/{pid}/mountinfo",
        "sysctl fs.mount-max",
    ),
    mitigate=do(
        "Unmount whatever is mounted over and over, or raise the limit{now}.",
        "sysctl fs.mount-max=N",
    ),
    fix=do(
        "Find the leak: a mount point that is there many times. Or persist fs.mount-max in "
        "/etc/sysctl.d/90-mounts.conf; the default is 100000.",
        "cut -d' ' -f5 /proc/{pid}/mountinfo | sort | uniq -c | sort -n",
    ),
    myths=(
        f"{_NO_DISK}: from mount it means too many mounts.",
        "Too many mounts keep a container from starting in clone or unshare: it is its mounts that fail.",
    ),
    careful=do(
        "Each mount is copied into each new mount namespace: many of them make every one slow."
    ),
)
