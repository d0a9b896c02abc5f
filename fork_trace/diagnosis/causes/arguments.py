"""Causes: what the caller asked for in clone or clone3."""

from __future__ import annotations

import errno

from fork_trace.diagnosis.cause import ASKED, Cause, Fit, Refusal, do
from fork_trace.diagnosis.readings import HostReadings, KernelReadings
from fork_trace.model.records import Evidence

# By bit of `flag_rules`: enum ft_rule of bpf/wire.h.
_RULES = (
    "CLONE_NEWNS with CLONE_FS",
    "CLONE_NEWUSER with CLONE_FS",
    "CLONE_THREAD without CLONE_SIGHAND",
    "CLONE_SIGHAND without CLONE_VM",
    "CLONE_THREAD with CLONE_NEWUSER or CLONE_NEWPID",
    "CLONE_PIDFD with CLONE_DETACHED",
    "CLONE_NEWIPC with CLONE_SYSVSEM",
    "CLONE_PARENT by the init of a pid namespace",
    "CLONE_PIDFD with CLONE_THREAD, before Linux 6.9",
    "CLONE_AUTOREAP with CLONE_THREAD",
    "CLONE_AUTOREAP with CLONE_PARENT",
    "CLONE_AUTOREAP with an exit_signal",
    "CLONE_PARENT by a process that was itself created with CLONE_AUTOREAP",
    "CLONE_NNP with CLONE_THREAD",
    "CLONE_PIDFD_AUTOKILL without CLONE_PIDFD",
    "CLONE_PIDFD_AUTOKILL without CLONE_AUTOREAP",
    "CLONE_PIDFD_AUTOKILL with CLONE_THREAD",
    "CLONE_PIDFD_AUTOKILL without CLONE_NNP needs CAP_SYS_ADMIN",
    "CLONE_PIDFD and CLONE_PARENT_SETTID write to the same address",
    "the exit signal is no signal (above 64)",
    "clone3's size is below 64, that of its first version",
    "clone3's size is above a page",
    "struct clone_args is newer than this kernel's, and its additional bytes are not 0",
    "the address of struct clone_args cannot be read",
    "a flag that this kernel does not know",
    "CLONE_DETACHED, which clone3 does not take",
    "a signal among the flags: clone3 takes it in exit_signal",
    "CLONE_SIGHAND with CLONE_CLEAR_SIGHAND",
    "CLONE_THREAD or CLONE_PARENT with an exit_signal",
    "a stack without stack_size",
    "a stack_size without a stack",
    "set_tid does not match set_tid_size, or has more than 32 numbers",
    "the address in set_tid cannot be read",
    "CLONE_INTO_CGROUP with a number that is no descriptor, or with a size below 88",
)
_NEWIPC_SYSVSEM = 1 << 6
_CLONE_PIDFD = 0x1000
_CLONE_NEWIPC, _CLONE_SYSVSEM, _CLONE_EMPTY_MNTNS = 0x08000000, 0x00040000, 0x2000000000


def _rules(seen: KernelReadings, _host: HostReadings) -> tuple[Evidence, ...]:
    rules = seen.numbers.get("flag_rules")
    if rules is None and seen.step == "copy_namespaces":
        # kernel/nsproxy.c: the one rule that it asks for.
        asked = seen.flags & (_CLONE_NEWIPC | _CLONE_SYSVSEM)
        rules = _NEWIPC_SYSVSEM if asked == _CLONE_NEWIPC | _CLONE_SYSVSEM else None
    if rules is None and seen.step == "copy_process" and seen.flags & _CLONE_PIDFD:
        # kernel/fork.c: all that copy_process itself writes for the caller is the number of the pidfd.
        text = "the address for the pidfd cannot be written (parent_tid of clone, pidfd of clone3)"
        return (Evidence("arguments", None, None, "rule", text, "kernel"),)
    if rules is None:
        return ()
    words = dict(enumerate(_RULES))
    if seen.flags & _CLONE_EMPTY_MNTNS:
        words[0] = "CLONE_NEWNS, which CLONE_EMPTY_MNTNS implies, with CLONE_FS"
    broken = [text for bit, text in words.items() if rules & 1 << bit]
    return tuple(Evidence("flags", None, None, "rule", text, "kernel") for text in broken)


INVALID_FLAGS = Cause(
    slug="invalid-flags",
    errnos=("EINVAL", "EPERM", "E2BIG", "EFAULT"),
    means="the arguments of clone contradict each other, or this kernel does not know them",
    limit="none: the arguments of clone or clone3",
    steps=(
        *("clone_args", "kernel_clone", "copy_process", "clone_flags", "copy_namespaces"),
        "copy_thread",
    ),
    refusals=(
        Refusal("clone_args"),
        Refusal("kernel_clone", errno.EINVAL),
        Refusal("clone_flags"),
        # CLONE_NEWIPC with CLONE_SYSVSEM; what makes the namespaces looks at no other flag.
        Refusal("copy_namespaces", errno.EINVAL),
        Refusal("copy_thread"),
    ),
    fits=(
        Fit(errno.EINVAL, "flags", "clone_flags", place=1),
        Fit(errno.EPERM, "flags", "clone_flags", place=1),
        Fit(errno.EFAULT, "flags", "clone_args", place=1),
        Fit(errno.E2BIG, "flags", "clone_args", place=1),
        Fit(errno.EINVAL, "", "clone_flags", ASKED, 9),
        Fit(errno.EPERM, "asked-tls", "copy_thread", ASKED, 3),
        # copy_process itself only writes the pidfd for the caller.
        Fit(errno.EFAULT, "pointer-bad", "copy_process"),
        Fit(errno.EFAULT, "asked-pidfd", "copy_process", ASKED, 2),
        Fit(errno.EFAULT, "", "clone_args", ASKED, 9),
        Fit(errno.E2BIG, "", "clone_args", ASKED, 9),
    ),
    evidence=_rules,
    rehearsal="invalid-flags",
    is_early=True,
    verify=do(
        "Look at the arguments; clone(2) says what each errno means.",
        "strace -f -e trace=clone,clone3,fork,vfork -p {pid}",
    ),
    mitigate=do(
        "Nothing on the host helps: use a version of the library or runtime that fits this kernel.",
        "uname -r",
    ),
    fix=do(
        "Correct the call: CLONE_THREAD needs CLONE_SIGHAND, which needs CLONE_VM; CLONE_NEWNS and "
        "CLONE_NEWUSER exclude CLONE_FS; E2BIG means a newer struct clone_args than the kernel's."
    ),
    myths=(
        "A kernel without clone3 answers EINVAL: it answers ENOSYS, and libc then calls clone.",
    ),
)

SET_TID_REFUSED = Cause(
    slug="set-tid-refused",
    errnos=("EPERM", "EINVAL"),
    means="the caller may not choose the child's pid (clone3 set_tid), or the number is out of range",
    limit="CAP_CHECKPOINT_RESTORE, and `kernel.pid_max`, for set_tid",
    steps=("alloc_pid",),
    refusals=(Refusal("alloc_pid", errno.EINVAL), Refusal("alloc_pid", errno.EPERM)),
    fits=(
        Fit(errno.EINVAL, "asked-tid", "alloc_pid", ASKED, 1),
        Fit(errno.EPERM, "asked-tid", "alloc_pid", ASKED, 2),
    ),
    rehearsal="set-tid-denied",
    verify=do(
        "For EPERM, decode CapEff: cap_checkpoint_restore is missing. EINVAL means a number below 1 "
        "or from pid_max up, or more numbers than pid namespace levels.",
        "grep CapEff /proc/{pid}/status",
        "capsh --decode=CAPEFF",
    ),
    mitigate={
        "": do(
            "Run it as root, or give it the capability (Linux 5.9; before that, cap_sys_admin).",
            "setcap cap_checkpoint_restore+ep PROGRAM",
        ),
        "docker": do(
            "Add the capability (Linux 5.9; before that, SYS_ADMIN).",
            "docker run --cap-add CHECKPOINT_RESTORE IMAGE",
        ),
        "podman": do(
            "Add the capability (Linux 5.9; before that, SYS_ADMIN).",
            "podman run --cap-add CHECKPOINT_RESTORE IMAGE",
        ),
    },
    fix=do(
        "Ask only for numbers from 1 to pid_max - 1, one for each level, with the capability in the "
        "user namespace that owns the pid namespace."
    ),
    myths=("Root in a container may choose pids: containers do not have the capability.",),
    careful=do("A file capability is for everybody who may run the program."),
)

PID_TAKEN = Cause(
    slug="pid-taken",
    errnos=("EEXIST",),
    means="the caller asked for a specific pid (clone3 set_tid) that is in use",
    limit="none: the pid asked for with `set_tid` is in use",
    steps=("alloc_pid",),
    refusals=(Refusal("alloc_pid", errno.EEXIST),),
    fits=(Fit(errno.EEXIST, "asked-tid", "alloc_pid", ASKED),),
    rehearsal="set-tid-taken",
    verify=do(
        "Look up the pid asked for. A zombie, thread, process group or session holds it as well.",
        "ps -L -p NUMBER",
    ),
    mitigate=do("Wait until that pid is free, or end whatever holds it."),
    fix=do("Restore into a fresh pid namespace.", "unshare --pid --fork --mount-proc COMMAND"),
    myths=("`ps -p` shows nothing, so the pid is free: threads and groups hold numbers as well.",),
)

CGROUP_REFUSED = Cause(
    slug="cgroup-refused",
    errnos=("EBUSY", "EACCES", "EOPNOTSUPP", "ENOENT", "ENODEV", "EBADF", "EINVAL", "ENOSPC"),
    means="the cgroup given with CLONE_INTO_CGROUP does not accept the child",
    limit="the cgroup given with CLONE_INTO_CGROUP does not accept the child",
    steps=("cgroup_can_fork",),
    # cgroup_css_set_fork and cpuset_can_fork answer only to CLONE_INTO_CGROUP.
    refusals=(Refusal("cgroup_can_fork"),),
    fits=tuple(
        Fit(number, "asked-cgroup", "cgroup_can_fork", ASKED, place)
        for number, place in (
            (errno.EINVAL, 2),
            (errno.EACCES, 1),
            (errno.ENOSPC, 3),
            (errno.EBADF, 1),
            (errno.ENOENT, 1),
            (errno.ENODEV, 1),
            (errno.EBUSY, 1),
            (errno.EOPNOTSUPP, 1),
        )
    ),
    aliases=("clone_into_cgroup", "cgroup.procs", "cgroup.subtree_control", "cgroup.type"),
    rehearsal="into-cgroup-busy",
    verify=do(
        "Look at the cgroup asked for. EBUSY: it enables controllers for its children; EOPNOTSUPP: "
        "it is threaded or invalid; EACCES: the caller may not write cgroup.procs there, or in the "
        "ancestor that both have in common; ENOENT: it was removed, or lies outside of the caller's cgroup "
        "namespace; ENODEV: it was being removed; EBADF: the number is no "
        "descriptor of a cgroup v2 directory; EINVAL, ENOSPC: its cpuset has no CPU or memory node.",
        "cat CGROUP/cgroup.type CGROUP/cgroup.subtree_control",
        "ls -ld CGROUP/cgroup.procs",
    ),
    mitigate={
        "": do("See that the cgroup exists and accepts processes; then call again."),
        "EBUSY": do(
            "Start the child in a leaf below that cgroup, or make it a leaf by disabling each "
            "controller that it lists.",
            "echo -CONTROLLER > CGROUP/cgroup.subtree_control",
        ),
        "EOPNOTSUPP": do(
            "Start the child in a cgroup whose cgroup.type is domain; a threaded one takes threads only "
            "of processes that are in its domain already.",
            "cat CGROUP/cgroup.type",
        ),
        "EACCES": do(
            "Give the caller cgroup.procs of that cgroup, and of the ancestor that both have in common; "
            "or let whoever owns them start the child.",
            "chown USER CGROUP/cgroup.procs ANCESTOR/cgroup.procs",
        ),
        "ENOENT": do(
            "It was removed while it was open: make it again, open it, and call again. If it is there, "
            "it lies outside of the caller's cgroup namespace (cgroup2 is mounted with nsdelegate): "
            "start the child from outside.",
            "mkdir CGROUP",
        ),
        "ENODEV": do(
            "It was removed while it was open: make it again, open it, and call again.",
            "mkdir CGROUP",
        ),
        "EBADF": do(
            "Open the directory of a cgroup v2 (O_DIRECTORY, O_PATH will do) and pass that descriptor; "
            "one of another file system is refused the same way.",
            "stat --file-system --format %T CGROUP  # cgroup2fs",
        ),
        "EINVAL": do("Give its cpuset CPUs and memory nodes.", "cat CGROUP/cpuset.cpus.effective"),
        "ENOSPC": do("Give its cpuset CPUs and memory nodes.", "cat CGROUP/cpuset.cpus.effective"),
    },
    fix=do(
        "Put processes in leaf cgroups only (cgroups(7), no internal processes). Under systemd, set "
        "Delegate=yes and DelegateSubgroup= for units that create cgroups."
    ),
    careful={
        "": do(
            "Under systemd, change only cgroups that were delegated: it writes the others itself."
        ),
        "EBUSY": do(
            "To disable a controller deletes all limits that the children have of it. Under systemd, "
            "change only cgroups that were delegated."
        ),
    },
    myths=("Device or resource busy means a mount or a device: here a cgroup has children.",),
)
