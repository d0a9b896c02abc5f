"""Causes: a policy said no, or code that was loaded into the kernel."""

from __future__ import annotations

import errno

from fork_trace.diagnosis.cause import ASKED, Cause, Fit, Refusal, do

_OLD_PROFILE = (
    "Upgrade {what}: older profiles answer clone3 with EPERM, but glibc 2.34 and newer falls back "
    "to clone only on ENOSYS."
)

SECCOMP = Cause(
    slug="seccomp",
    errnos=("EPERM", "ENOSYS", "EAGAIN"),
    means="a seccomp filter answered the call, so the kernel never began to fork",
    limit="none: a seccomp filter answers, with an errno of its choice",
    steps=("seccomp",),
    refusals=(Refusal("seccomp"),),
    aliases=("seccompdefault", "libseccomp", "seccomp=unconfined"),
    rehearsal="seccomp",
    is_early=True,
    verify=do(
        "Mode 2 is a filter; the call never reaches copy_process. By errno: EPERM of pthread_create is a "
        "container runtime older than its image; EPERM of a call with namespace flags, a container "
        "without SYS_ADMIN, as intended; ENOSYS of clone3 is normal, as libc then calls clone.",
        "grep Seccomp /proc/{pid}/status",
    ),
    mitigate={
        "": do("Run it briefly without the filter, to see whether the filter is to blame."),
        "docker": do(
            "As a test, run a copy of the container without a profile.",
            "docker run --security-opt seccomp=unconfined IMAGE",
        ),
        "podman": do(
            "As a test, run a copy of the container without a profile.",
            "podman run --security-opt seccomp=unconfined IMAGE",
        ),
        "kubernetes": do(
            "As a test, set securityContext.seccompProfile.type to Unconfined in the pod."
        ),
        "systemd-service": do(
            "As a test, empty SystemCallFilter= and RestrictNamespaces= and restart the unit.",
            "systemctl edit {unit}",
        ),
    },
    fix={
        "": do(
            "Let the filter allow clone, clone3, fork and vfork; or answer ENOSYS for clone3, so "
            "that libc falls back to clone."
        ),
        "docker": do(
            _OLD_PROFILE.replace("{what}", "to docker 20.10.10 or newer with a recent libseccomp")
            + " Its profile denies the namespace flags of clone without SYS_ADMIN: that is intended."
        ),
        "podman": do(_OLD_PROFILE.replace("{what}", "containers-common and libseccomp")),
        "kubernetes": do(
            _OLD_PROFILE.replace("{what}", "the container runtime and libseccomp")
            + " Or use a Localhost profile that allows clone3. RuntimeDefault is the runtime's own; with "
            "the kubelet's seccompDefault pods get it unasked."
        ),
        "systemd-service": do(
            "Add @process and clone3 to SystemCallFilter=, and the namespace's type to "
            "RestrictNamespaces=, in the unit file."
        ),
    },
    myths=(
        "EPERM from pthread_create is a missing privilege: old container profiles answer EPERM for "
        "clone3, and new C libraries expect ENOSYS.",
        "The kernel log would show it: only filters that log do.",
    ),
    careful=do(
        "Unconfined is for a trial copy, never for what serves: the filter keeps a break-in inside."
    ),
)

SECURITY_MODULE = Cause(
    slug="security-module",
    errnos=("EACCES", "EPERM", "ENOMEM"),
    means="a security module (SELinux, AppArmor, TOMOYO, BPF LSM) refused the new task",
    limit="none: a security module's policy",
    steps=("copy_creds", "security_task_alloc"),
    refusals=(Refusal("copy_creds"), Refusal("security_task_alloc")),
    fits=(
        Fit(errno.EPERM, "", "security_task_alloc", ASKED, 9),
        Fit(errno.EACCES, "", "security_task_alloc", ASKED, 9),
    ),
    aliases=("selinux", "lsm"),
    rehearsal="security-module",
    verify=do(
        "List the active modules, then look for their denials.",
        "cat /sys/kernel/security/lsm",
        "ausearch -m AVC -ts recent",
        "dmesg | grep -i -E 'apparmor|avc'",
        "bpftool prog show | grep lsm",
    ),
    mitigate=do(
        "As a test, switch to permissive mode, of one domain before the whole host; or stop whatever "
        "loaded a BPF LSM program.",
        "semanage permissive -a DOMAIN_t  # SELinux, one domain",
        "setenforce 0  # SELinux, the whole host",
        "aa-complain PROFILE  # AppArmor",
    ),
    fix=do(
        "Change the policy for this program: SELinux process:fork, the AppArmor profile, or the BPF "
        "program."
    ),
    careful=do(
        "Permissive mode allows all that the policy denies, until it is taken back; setenforce 0 does for "
        "every program of the host.",
        "semanage permissive -d DOMAIN_t",
        "setenforce 1",
    ),
    myths=(
        "Permission denied is about a file: fork opens none.",
        "A denial is in the kernel log: a BPF LSM program logs nothing by itself.",
    ),
)

PERF_EVENTS = Cause(
    slug="perf-events",
    errnos=("ENOMEM",),
    means="the child was to inherit a perf event of the caller, and that failed",
    limit="none: inheriting the caller's perf events failed",
    steps=("perf_event_init_task",),
    refusals=(Refusal("perf_event_init_task"),),
    verify=do(
        "Look for perf events of its own, and for profilers that watch it.",
        "ls -l /proc/{pid}/fd | grep perf_event",
        "ps -C perf",
    ),
    mitigate=do("Stop the profiler that watches it."),
    fix=do(
        "Profile without inheritance: --no-inherit, or attr.inherit=0 in perf_event_open.",
        "perf record --no-inherit",
    ),
    myths=("A profiler only looks: an inherited event is allocated again in every fork below it.",),
)

SCHED_EXT = Cause(
    slug="sched-ext",
    errnos=(),
    means="the BPF scheduler (sched_ext) refused the new task",
    limit="none: the loaded BPF scheduler decides",
    steps=("sched_cgroup_fork",),
    refusals=(Refusal("sched_fork"), Refusal("sched_cgroup_fork")),
    verify=do(
        "Find out which scheduler is loaded.",
        "cat /sys/kernel/sched_ext/state /sys/kernel/sched_ext/root/ops",
    ),
    mitigate=do(
        "Stop that scheduler's process, or let the kernel's own scheduler take over.",
        "echo S > /proc/sysrq-trigger",
    ),
    fix=do("Correct the scheduler's ops.init_task, or load another one."),
    careful=do(
        "SysRq-S ends the BPF scheduler for the whole host: all tasks go back to the kernel's own."
    ),
    myths=("A scheduler has no say in a fork: ops.init_task of a BPF scheduler does.",),
)
