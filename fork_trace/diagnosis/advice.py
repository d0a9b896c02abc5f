"""The causes in words: what each means, how to confirm it, what relieves it now, what cures it. Pure text.

Judging is `causes`'; where a cgroup runs is `containers`'; what applications print is `texts`'. The
commands are checked by the tests as far as a shell can: each parses, whatever a name holds.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Union

from fork_trace import containers
from fork_trace.containers import Place
from fork_trace.records import Evidence

# One sentence, or several by where it happens or by which limit; "" serves all others.
Remedy = Union[str, Mapping[str, str]]


@dataclass(frozen=True)
class Entry:
    """One cause. Its remedies name in braces what `_known` fills in."""

    cause: str
    errnos: tuple[str, ...]  # most frequent first; empty: any
    means: str
    limit: str  # what was hit, in a few words
    confirm: Remedy
    relieve: Remedy
    cure: Remedy
    myths: tuple[str, ...] = ()


@dataclass(frozen=True)
class StepEntry:
    """One step of a fork as reports name it: what it does, and the causes it can refuse for."""

    name: str
    what: str
    causes: tuple[str, ...]


# Likeliest first, by the reports that people filed; `explain` lists an errno's causes in this order.
ENTRIES: tuple[Entry, ...] = (
    Entry(
        "pids-cgroup",
        ("EAGAIN",),
        "a cgroup has reached its pids.max; every thread counts",
        "`pids.max` of the cgroup or an ancestor (systemd `TasksMax=`, `docker --pids-limit`, "
        "podPidsLimit)",
        "compare `cat {dir}/pids.current` with `cat {dir}/pids.max`{seen}; the tasks of all "
        "cgroups below it count too.",
        {
            "": "`echo N > {dir}/pids.max`, N above {limit}, at once and as root.",
            "systemd-service": "`systemctl set-property --runtime {unit} TasksMax=N`, N above "
            "{limit}; it takes effect at once.",
            "systemd-scope": "`systemctl set-property --runtime {unit} TasksMax=N`, N above "
            "{limit}; it takes effect at once.",
            "slice": "`systemctl set-property --runtime {unit} TasksMax=N`, N above {limit}; the "
            "slice bounds all units in it together.",
            "login-session": "`systemctl set-property --runtime {unit} TasksMax=N`, N above "
            "{limit}; it takes effect at once, for sessions that are open too.",
            "user-unit": "as uid {owner}: `systemctl --user set-property --runtime {unit} "
            "TasksMax=N`, N above {limit}.",
            "docker": "`docker update --pids-limit N {id}`, N above {limit}; the container keeps "
            "running.",
            "podman": "`podman update --pids-limit N {id}` as the user who runs it (podman 4.4), "
            "or `echo N > {dir}/pids.max`.",
            "kubernetes": "on the node, as root: `echo N > {dir}/pids.max`, N above {limit}; it "
            "lasts until the cgroup is made anew.",
        },
        {
            "": "raise pids.max in whatever makes the cgroup, or bound the threads of what runs "
            "in it.",
            "systemd-service": "`systemctl set-property {unit} TasksMax=N` also survives a "
            "reboot (without its own, a unit has DefaultTasksMax= of /etc/systemd/system.conf); "
            "or bound its threads.",
            "systemd-scope": "a scope is new each time: set TasksMax= in what makes it, such as "
            "`systemd-run --scope -p TasksMax=N COMMAND`.",
            "slice": "`systemctl set-property {unit} TasksMax=N` also survives a reboot; or move "
            "a greedy unit out of it with Slice=.",
            "login-session": "for all users, TasksMax=N under [Slice] in "
            "/etc/systemd/system/user-.slice.d/50-tasks.conf, then `systemctl daemon-reload` "
            "(before systemd 239: UserTasksMax= in /etc/systemd/logind.conf).",
            "user-unit": "as uid {owner}: `systemctl --user set-property {unit} TasksMax=N`; the "
            "limits of user@{owner}.service and user-{owner}.slice stand above it.",
            "docker": "start it with `docker run --pids-limit N` (compose: pids_limit), or bound "
            "its threads; without an init, `docker run --init` reaps zombies, which count too.",
            "podman": "start it with `podman run --pids-limit N`, or set pids_limit under "
            "[containers] in /etc/containers/containers.conf (2048 if unset).",
            "kubernetes": "podPidsLimit of the kubelet (/var/lib/kubelet/config.yaml, then restart "
            "the kubelet; new pods get it), or fewer threads in the pod.",
            "kubernetes-container": "this limit is the runtime's: pids_limit in "
            "/etc/crio/crio.conf (CRI-O), DefaultTasksMax= of systemd; the pod's own is "
            "podPidsLimit of the kubelet.",
            "kubernetes-node": "this limit is all pods' together: raise kernel.pid_max and "
            "kernel.threads-max on the node, or reserve fewer with pid= in the kubelet's "
            "systemReserved and kubeReserved, then restart the kubelet.",
        },
        (
            "The kernel log names the culprit: it names the cgroup that forked, once, and not the "
            "ancestor whose limit it was.",
            "Root is exempt: no, and no privilege helps.",
            "pids.events counts at the limit: up to Linux 6.1 it counts where the fork happened.",
            "pids.max counts processes: it counts threads, and zombies.",
        ),
    ),
    Entry(
        "rlimit-nproc",
        ("EAGAIN",),
        "the user has as many tasks as RLIMIT_NPROC allows; all its threads on the host count, "
        "other containers' too",
        "`RLIMIT_NPROC`: all tasks of the uid on the host, threads and other containers' too",
        "on the host, `ps -L -U {uid} -o comm= | sort | uniq -c | sort -n` counts the user's "
        "tasks{seen}; `grep processes /proc/{pid}/limits` is the limit.",
        {
            "": "`prlimit --pid {pid} --nproc=N:N` as root raises it for the running process and "
            "its children; or end tasks of uid {uid}.",
            "docker": "on the host, `prlimit --pid {pid} --nproc=N:N` for the process that "
            "failed; or stop other containers with uid {uid}, whose tasks count too.",
            "podman": "on the host, `prlimit --pid {pid} --nproc=N:N` for the process that "
            "failed; in a rootless container the limit of whoever started it counts as well.",
            "kubernetes": "on the node, `prlimit --pid {pid} --nproc=N:N` for the process that "
            "failed; pods with uid {uid} count together.",
        },
        {
            "": "raise it where the process is started (`ulimit -u N`), or give it a user of its "
            "own.",
            "systemd-service": "LimitNPROC=N under [Service] (`systemctl edit {unit}`, then restart "
            "it), or a User= of its own.",
            "systemd-scope": "a scope keeps the limits of what started it: raise `ulimit -u` "
            "there, or in /etc/security/limits.conf.",
            "login-session": "a line `NAME - nproc N` in /etc/security/limits.d/90-nproc.conf, "
            "then log in again; in a container's shell, the container's limit counts.",
            "docker": "`docker run --ulimit nproc=N:N`, or default-ulimits in "
            "/etc/docker/daemon.json; better, a uid of its own for each container (`--user`).",
            "podman": "`podman run --ulimit nproc=N:N`; rootless, at most the hard limit of the "
            "user, from /etc/security/limits.conf.",
            "kubernetes": "LimitNPROC=infinity in the unit of the container runtime, which pods "
            "inherit, and a uid of its own for each workload "
            "(securityContext.runAsUser).",
        },
        (
            "ulimit -u counts processes of the session or container: it counts threads of the "
            "real uid, on the whole host or user namespace.",
            "Root is never limited: root on the host is exempt, root inside a user namespace is "
            "not.",
            "EAGAIN from fork means ulimit -u: at least six limits answer EAGAIN.",
        ),
    ),
    Entry(
        "overcommit-heuristic",
        ("ENOMEM",),
        "vm.overcommit_memory=0: one mapping of the parent is larger than RAM and swap together",
        "RAM and swap, for one mapping, with `vm.overcommit_memory=0`",
        "`sysctl vm.overcommit_memory` is 0, and the largest of `pmap -x {pid} | sort -n -k2 | "
        "tail -3` is above MemTotal and SwapTotal of /proc/meminfo together{seen}.",
        "`sysctl vm.overcommit_memory=1` if the child never writes all of it, or add swap with "
        "`swapon FILE`.",
        "start programs with posix_spawn or vfork, which copy no mapping; or exclude the large "
        "one with madvise(MADV_DONTFORK); or keep vm.overcommit_memory=1 in "
        "/etc/sysctl.d/90-overcommit.conf.",
        (
            "Mode 0 refuses a fork when RAM is short: since Linux 5.2 it only refuses a single "
            "mapping that is larger than RAM and swap.",
            "fork needs as much as the parent's RSS: only private writable mappings are asked "
            "for, by their virtual size, and none by vfork, posix_spawn or threads.",
        ),
    ),
    Entry(
        "overcommit-never",
        ("ENOMEM",),
        "vm.overcommit_memory=2: copying the parent's mappings would pass the commit limit, "
        "however much memory is free",
        "the commit limit with `vm.overcommit_memory=2`",
        "`sysctl vm.overcommit_memory` is 2, and `grep Commit /proc/meminfo` shows little "
        "between Committed_AS and CommitLimit{seen}.",
        "`sysctl vm.overcommit_ratio=N` or `sysctl vm.overcommit_kbytes=N` (each resets the "
        "other), more swap with `swapon FILE`, or `sysctl vm.overcommit_memory=0`.",
        "make the parent ask for less: posix_spawn and vfork copy no mapping, "
        "madvise(MADV_DONTFORK) excludes one; keep what you set in "
        "/etc/sysctl.d/90-overcommit.conf.",
        (
            "There is free memory, so it cannot be memory: the commit limit counts promises, not "
            "use.",
            "vm.overcommit_kbytes is halved: it is KiB, turned into pages.",
            "CommitLimit is the bound: admin_reserve_kbytes (not for root) and "
            "user_reserve_kbytes come off it.",
        ),
    ),
    Entry(
        "pid-max",
        ("EAGAIN",),
        "no pid number is free; threads, zombies, process groups and sessions hold one each, and "
        "numbers below 300 are not given out again once the count has wrapped",
        "`kernel.pid_max`; threads and zombies hold a number each",
        "`cat /proc/sys/kernel/pid_max` against `ps -eL --no-headers | wc -l`{seen}; zombies: "
        "`ps -eo stat=,ppid=,comm= | grep ^Z`.",
        {
            "": "`sysctl kernel.pid_max=N`{now}, at most 4194304 (since Linux 6.14 each pid "
            "namespace has its own as well); zombies go when their parent ends.",
            "nested": "`nsenter --target {pid} --pid sysctl kernel.pid_max=N`{now} for {where} "
            "(before Linux 6.14 there is only the host's); zombies go when their parent ends.",
        },
        {
            "": "find who makes them (`ps -eLo comm= | sort | uniq -c | sort -n`), have zombies "
            "reaped, and keep kernel.pid_max=4194304 in /etc/sysctl.d/90-pid.conf.",
            "docker": "`docker run --init` reaps zombies, `docker run --pids-limit N` bounds each "
            "container; on the host, kernel.pid_max=4194304 in /etc/sysctl.d/90-pid.conf.",
            "podman": "`podman run --init` reaps zombies, `podman run --pids-limit N` bounds each "
            "container; on the host, kernel.pid_max=4194304 in /etc/sysctl.d/90-pid.conf.",
            "kubernetes": "an init such as tini as the container's first process reaps zombies, "
            "podPidsLimit of the kubelet bounds each pod; on the node, kernel.pid_max=4194304 in "
            "/etc/sysctl.d/90-pid.conf.",
        },
        (
            "Running out of pids is reported as Cannot allocate memory: only before Linux 4.1 and "
            "on RHEL 7; ENOMEM from alloc_pid now means a dead pid namespace or real memory.",
            "pid_max - 1 processes are possible: threads, zombies, groups and sessions hold "
            "numbers, 300 are reserved, and each namespace level needs one.",
        ),
    ),
    Entry(
        "thread-stack",
        ("ENOMEM", "EAGAIN"),
        "a thread was refused before clone: its stack could not be mapped; pthread_create turns "
        "the kernel's ENOMEM into EAGAIN",
        "`vm.max_map_count`, `RLIMIT_AS`, `RLIMIT_DATA`, `RLIMIT_MEMLOCK` or the commit limit, "
        "for the stack",
        {
            "": "`cat /proc/{pid}/limits` (address space, data size, locked memory), `wc -l < "
            "/proc/{pid}/maps` against `sysctl vm.max_map_count`, `grep Commit /proc/meminfo`.",
            "vm.max_map_count": "`wc -l < /proc/{pid}/maps` against `sysctl "
            "vm.max_map_count`{seen}; a thread takes a mapping for its stack and mostly one for "
            "its guard.",
            "RLIMIT_AS": "VmSize of `grep VmSize /proc/{pid}/status` against `grep 'address space' "
            "/proc/{pid}/limits`{seen}.",
            "RLIMIT_DATA": "VmData of `grep VmData /proc/{pid}/status` against `grep 'data size' "
            "/proc/{pid}/limits`{seen}.",
            "RLIMIT_MEMLOCK": "VmLck of `grep VmLck /proc/{pid}/status` against `grep 'locked "
            "memory' /proc/{pid}/limits`{seen}; mlockall(MCL_FUTURE) locks each new stack.",
            "commit charge": "`sysctl vm.overcommit_memory` is 2, and `grep Commit /proc/meminfo` "
            "shows no room for another stack{seen}.",
        },
        {
            "": "`sysctl vm.max_map_count=N`, `prlimit --pid {pid} --as=unlimited`, or smaller "
            "stacks.",
            "vm.max_map_count": "`sysctl vm.max_map_count=N`{now}; it is the host's, for "
            "containers too.",
            "RLIMIT_AS": "`prlimit --pid {pid} --as=unlimited` for the running process.",
            "RLIMIT_DATA": "`prlimit --pid {pid} --data=unlimited` for the running process.",
            "RLIMIT_MEMLOCK": "`prlimit --pid {pid} --memlock=unlimited` for the running process.",
            "commit charge": "`sysctl vm.overcommit_ratio=N` or `sysctl vm.overcommit_memory=0`.",
        },
        {
            "": "fewer threads, or smaller stacks: `ulimit -s KIB` before the start, -Xss for "
            "Java, pthread_attr_setstacksize.",
            "vm.max_map_count": "fewer threads and mappings in one process; keep "
            "vm.max_map_count=N in /etc/sysctl.d/90-maps.conf.",
            "RLIMIT_AS": "take away `ulimit -v` or LimitAS= where it is started; smaller stacks: "
            "`ulimit -s KIB`, -Xss for Java.",
            "RLIMIT_DATA": "take away `ulimit -d` or LimitDATA= where it is started; smaller "
            "stacks: `ulimit -s KIB`, -Xss for Java.",
            "RLIMIT_MEMLOCK": "LimitMEMLOCK= of the unit, memlock in /etc/security/limits.conf, "
            "`docker run --ulimit memlock=-1`; or no MCL_FUTURE.",
            "commit charge": "a stack is charged whole: smaller ones (`ulimit -s KIB`, -Xss for "
            "Java); keep what you set in /etc/sysctl.d/90-overcommit.conf.",
        },
        (
            "unable to create native thread means the heap is too small: a larger heap leaves "
            "less for stacks.",
            "EAGAIN from pthread_create is a limit on processes: as often the stack could not be "
            "mapped, and no clone was tried.",
            "vm.max_map_count makes fork fail: fork never asks it, threads do.",
        ),
    ),
    Entry(
        "memory-cgroup",
        ("ENOMEM",),
        "a memory cgroup is at its limit, and there was nothing in it to reclaim or kill",
        "`memory.max` of the cgroup or an ancestor (systemd `MemoryMax=`, `docker --memory`, "
        "resources.limits.memory)",
        "`cat {dir}/{mem_now} {dir}/{mem_max}`{seen}, and `cat {dir}/{mem_events}` for how often; "
        "tasks with oom_score_adj -1000 there cannot be killed to make room.",
        {
            "": "`echo SIZE > {dir}/{mem_max}`, or end something in it.",
            "systemd-service": "`systemctl set-property --runtime {unit} {mem_property}=SIZE`; it "
            "takes effect at once.",
            "systemd-scope": "`systemctl set-property --runtime {unit} {mem_property}=SIZE`; it "
            "takes effect at once.",
            "slice": "`systemctl set-property --runtime {unit} {mem_property}=SIZE`; the slice "
            "bounds all units in it together.",
            "login-session": "`systemctl set-property --runtime {unit} {mem_property}=SIZE`, for "
            "sessions that are open too.",
            "user-unit": "as uid {owner}: `systemctl --user set-property --runtime {unit} "
            "{mem_property}=SIZE`.",
            "docker": "`docker update --memory SIZE --memory-swap SIZE {id}`; the container keeps "
            "running.",
            "podman": "`podman update --memory SIZE {id}` as the user who runs it (podman 4.4), or "
            "`echo SIZE > {dir}/{mem_max}`.",
            "kubernetes": "on the node, as root: `echo SIZE > {dir}/{mem_max}`; it lasts until "
            "the kubelet makes the cgroup anew or resizes the pod.",
        },
        {
            "": "raise it in whatever makes the cgroup, or find what fills it: `cat "
            "{dir}/memory.stat`.",
            "systemd-service": "`systemctl set-property {unit} {mem_property}=SIZE` also survives "
            "a reboot; `cat {dir}/memory.stat` shows what fills it.",
            "systemd-scope": "a scope is new each time: set {mem_property}= in what makes it, such "
            "as `systemd-run --scope -p {mem_property}=SIZE COMMAND`.",
            "slice": "`systemctl set-property {unit} {mem_property}=SIZE` also survives a reboot; "
            "or move a greedy unit out of it with Slice=.",
            "login-session": "for all users, {mem_property}=SIZE under [Slice] in "
            "/etc/systemd/system/user-.slice.d/50-memory.conf, then `systemctl daemon-reload`.",
            "user-unit": "as uid {owner}: `systemctl --user set-property {unit} "
            "{mem_property}=SIZE`.",
            "docker": "start it with `docker run --memory SIZE` (compose: mem_limit), and without "
            "--oom-kill-disable.",
            "podman": "start it with `podman run --memory SIZE`, and without --oom-kill-disable.",
            "kubernetes": "resources.limits.memory of the container (the pod's cgroup has the sum "
            "of its containers); no oom_score_adj of -1000 inside.",
            "kubernetes-node": "this limit is all pods' together: less in the kubelet's "
            "systemReserved and kubeReserved, or a larger node.",
        },
        (
            "memory.max makes fork return ENOMEM: mostly the OOM killer acts instead; ENOMEM comes "
            "when it finds nothing to kill.",
            "The step that failed is the cause: charges are batched, so it is an accident which "
            "allocation met the limit.",
        ),
    ),
    Entry(
        "kernel-memory",
        ("ENOMEM",),
        "the kernel could not get memory for its own structures: RAM, or a memory cgroup's limit",
        "the kernel's own memory, or a memory cgroup",
        "`grep -E 'MemAvailable|SUnreclaim|KernelStack|PageTables' /proc/meminfo`, `dmesg | grep "
        "-E 'allocation failure|Out of memory|SLUB'`, and `cat {own_dir}/memory.events`.",
        "end what can be spared on the host, or raise the memory limit of the cgroup of the "
        "caller and its ancestors.",
        "more memory or fewer tasks (on x86 each takes 16 KiB of kernel stack and more); on old "
        "kernels no kernel memory limit for containers (docker --kernel-memory): it leaks.",
        (
            "free shows gigabytes, so the kernel lies: a cgroup's limit, or the dead init of a pid "
            "namespace, answers ENOMEM as well.",
        ),
    ),
    Entry(
        "threads-max",
        ("EAGAIN",),
        "the host has as many threads as kernel.threads-max allows",
        "`kernel.threads-max`, the whole host",
        "`cut -d' ' -f4 /proc/loadavg` has the number of threads behind its slash, `cat "
        "/proc/sys/kernel/threads-max` the limit{seen}.",
        "`sysctl kernel.threads-max=N`{now}; every container and root share it.",
        {
            "": "kernel.threads-max=N in /etc/sysctl.d/90-threads.conf; find who holds them: `ps "
            "-eLo comm= | sort | uniq -c | sort -n`.",
            "docker": "bound the container with `docker run --pids-limit N`; on the host, "
            "kernel.threads-max=N in /etc/sysctl.d/90-threads.conf.",
            "podman": "bound the container with `podman run --pids-limit N`; on the host, "
            "kernel.threads-max=N in /etc/sysctl.d/90-threads.conf.",
            "kubernetes": "bound pods with podPidsLimit of the kubelet; on the node, "
            "kernel.threads-max=N in /etc/sysctl.d/90-threads.conf.",
            "systemd-service": "bound the unit with TasksMax=; kernel.threads-max=N in "
            "/etc/sysctl.d/90-threads.conf.",
        },
        (
            "kernel.threads-max is a container's own: it is the host's, in no namespace.",
            "Root is exempt: no, and no privilege helps.",
        ),
    ),
    Entry(
        "exec-in-progress",
        ("EAGAIN",),
        "another thread of the process was inside execve, and until it is done no thread can join",
        "none: another thread of the process is inside execve",
        "`strace -f -e trace=execve,clone,clone3 -p {pid}` shows execve and the refused clone at "
        "the same time.",
        "try again: it lasts as long as that execve, some milliseconds.",
        "in the program, no thread creation while a sibling calls execve: fork first and execve "
        "in the child; or retry on EAGAIN.",
        ("EAGAIN means that a limit is reached: here none is, and no setting helps.",),
    ),
    Entry(
        "deadline-policy",
        ("EAGAIN",),
        "the caller runs as SCHED_DEADLINE without the reset-on-fork flag, and a deadline task may "
        "not fork",
        "none: SCHED_DEADLINE without SCHED_FLAG_RESET_ON_FORK",
        "`chrt --pid {pid}` says SCHED_DEADLINE, without SCHED_RESET_ON_FORK.",
        "`chrt --other --pid 0 {pid}` makes it a normal task, which may fork.",
        "set SCHED_FLAG_RESET_ON_FORK in sched_setattr (`chrt --reset-on-fork --deadline`), or "
        "make processes and threads before the policy is set.",
        ("Root is exempt: no, and no privilege helps.",),
    ),
    Entry(
        "seccomp",
        ("EPERM", "ENOSYS", "EAGAIN"),
        "a seccomp filter answered the call, so the kernel never began to fork",
        "none: a seccomp filter answers, with the errno it likes",
        "`grep Seccomp /proc/{pid}/status`: mode 2 is a filter; the call never reaches "
        "copy_process.",
        {
            "": "run it without the filter for a moment, to see whether it was the filter.",
            "docker": "for a trial, `docker run --security-opt seccomp=unconfined IMAGE`.",
            "podman": "for a trial, `podman run --security-opt seccomp=unconfined IMAGE`.",
            "kubernetes": "for a trial, securityContext.seccompProfile.type: Unconfined in the pod.",
            "systemd-service": "for a trial, empty SystemCallFilter= and RestrictNamespaces= "
            "(`systemctl edit {unit}`, then restart it).",
        },
        {
            "": "let the filter allow clone, clone3, fork and vfork, or answer ENOSYS for clone3, so "
            "that libc falls back to clone.",
            "docker": "docker 20.10.10 or newer with a new libseccomp: older profiles answer EPERM "
            "for clone3, where glibc 2.34 and newer expect ENOSYS.",
            "podman": "a newer containers-common and libseccomp: older profiles answer EPERM for "
            "clone3, where glibc 2.34 and newer expect ENOSYS.",
            "kubernetes": "a newer container runtime and libseccomp, or a localhost profile which "
            "allows clone3: glibc 2.34 and newer fall back to clone on ENOSYS only.",
            "systemd-service": "add @process and clone3 to SystemCallFilter=, and the namespace's "
            "type to RestrictNamespaces=, in the unit's file.",
        },
        (
            "EPERM from pthread_create is a missing privilege: old container profiles answer EPERM "
            "for clone3, and new C libraries expect ENOSYS.",
            "The kernel log would show it: only filters that log do.",
        ),
    ),
    Entry(
        "namespace-limit",
        ("ENOSPC",),
        "a user or user namespace has as many namespaces as a user.max_*_namespaces allows",
        "`user.max_*_namespaces` of the caller's user namespace or an ancestor",
        "`sysctl {sysctl}`{seen}, and `lsns --type {nstype}` for who holds them.",
        "`sysctl {sysctl}=N`{now}, in the user namespace where it is full ({where}).",
        "{sysctl}=N in /etc/sysctl.d/90-namespaces.conf; end what leaks namespaces: a process, a "
        "bind mount or an open descriptor of /proc/PID/ns keeps one alive.",
        ("No space left on device means a full disk: from clone and unshare it is a count.",),
    ),
    Entry(
        "namespace-depth",
        ("ENOSPC", "EUSERS"),
        "pid or user namespaces are nested 32 levels deep, and the kernel allows no more",
        "32 levels of pid or user namespaces",
        "`grep NSpid /proc/{pid}/status` has a number for each pid namespace level; user "
        "namespaces: `lsns --type user`.",
        "start it further out, beside the innermost containers and not inside.",
        "end the nesting: something enters a new namespace each time it restarts. The limit is "
        "part of the kernel.",
        ("No space left on device means a full disk: from clone and unshare it is a count.",),
    ),
    Entry(
        "user-namespace-denied",
        ("EPERM", "EACCES"),
        "the caller may not make a user namespace: unprivileged ones are off, it is in a chroot, "
        "its uid or gid is not mapped, or a security module said no",
        "`kernel.unprivileged_userns_clone`, a chroot, unmapped ids, or a security module",
        "`sysctl kernel.unprivileged_userns_clone kernel.apparmor_restrict_unprivileged_userns` "
        "(Debian's and Ubuntu's), `readlink /proc/{pid}/root` (not / in a chroot), `cat "
        "/proc/{pid}/uid_map`, `dmesg | grep userns`.",
        {
            "": "`sysctl kernel.unprivileged_userns_clone=1` (Debian), `sysctl "
            "kernel.apparmor_restrict_unprivileged_userns=0` (Ubuntu 23.10 and newer), or run it as "
            "root.",
            "docker": "on the host, `sysctl kernel.unprivileged_userns_clone=1` (Debian), `sysctl "
            "kernel.apparmor_restrict_unprivileged_userns=0` (Ubuntu 23.10 and newer); or "
            "`docker run --security-opt apparmor=unconfined IMAGE`.",
        },
        "an AppArmor profile with `userns,` for the program, rather than off for all; outside of a "
        "chroot (pivot_root instead); uid and gid mapped in uid_map and gid_map.",
        ("Only the kernel's configuration decides: a chroot or an unmapped uid refuses as well.",),
    ),
    Entry(
        "namespace-denied",
        ("EPERM",),
        "a new namespace needs CAP_SYS_ADMIN, and the caller has it not",
        "CAP_SYS_ADMIN, for CLONE_NEW* without CLONE_NEWUSER",
        "`grep CapEff /proc/{pid}/status`, then `capsh --decode=CAPEFF` shows no cap_sys_admin.",
        "run it as root, or in a user namespace of its own: `unshare --user --map-root-user "
        "COMMAND`.",
        {
            "": "give CAP_SYS_ADMIN to the program that needs it, or add CLONE_NEWUSER to its call.",
            "systemd-service": "AmbientCapabilities=CAP_SYS_ADMIN for the unit (`systemctl edit "
            "{unit}`), or PrivateUsers= and CLONE_NEWUSER.",
            "docker": "`docker run --cap-add SYS_ADMIN IMAGE`, with a seccomp profile that allows "
            "it; or CLONE_NEWUSER in the program.",
            "podman": "`podman run --cap-add SYS_ADMIN IMAGE`; or CLONE_NEWUSER in the program.",
            "kubernetes": "SYS_ADMIN in securityContext.capabilities.add of the container, or "
            "CLONE_NEWUSER in the program.",
        },
        ("Root may make any namespace: root in a container mostly lacks CAP_SYS_ADMIN.",),
    ),
    Entry(
        "unshared-namespace",
        ("EINVAL",),
        "the caller has unshared its pid or time namespace, and only a new process can enter it, "
        "no thread (nor vfork, for time, before Linux 6.12)",
        "none: after unshare(CLONE_NEWPID) or CLONE_NEWTIME",
        "`readlink /proc/{pid}/ns/pid /proc/{pid}/ns/pid_for_children` name two namespaces (or "
        "ns/time and ns/time_for_children).",
        "fork first, and make threads in the child: `unshare --pid --fork COMMAND`.",
        "in the program, call unshare or setns for pid and time in a helper that then forks, never "
        "in a process which goes on to make threads.",
        (
            "Invalid argument means that the arguments are wrong: it is what the caller did before.",
            "unshare(CLONE_NEWPID) moves the caller: only its children go there, the first as init.",
        ),
    ),
    Entry(
        "pid-namespace-dead",
        ("ENOMEM",),
        "the init of the pid namespace has died, so it takes no new process; this is no shortage "
        "of memory, although the errno says so",
        "none: the namespace's init has died. No shortage of memory",
        "`readlink /proc/{pid}/ns/pid /proc/{pid}/ns/pid_for_children` name two namespaces, or the "
        "second is gone; `free -m` shows memory.",
        {
            "": "start the shell or program anew: a dead pid namespace cannot be revived.",
            "docker": "`docker restart {id}`: a dead pid namespace cannot be revived; `docker logs "
            "{id}` tells why its first process ended.",
            "podman": "`podman restart {id}`: a dead pid namespace cannot be revived; `podman logs "
            "{id}` tells why its first process ended.",
            "kubernetes": "delete the pod: a dead pid namespace cannot be revived; `kubectl logs "
            "--previous POD` tells why its first process ended.",
        },
        "with unshare(1) give --fork (`unshare --pid --fork COMMAND`); in a program, let the first "
        "child after unshare(CLONE_NEWPID) stay: it is the init.",
        (
            "Cannot allocate memory means memory: alloc_pid answers ENOMEM for a dead pid "
            "namespace, on purpose (pid_namespaces(7)).",
        ),
    ),
    Entry(
        "signal-pending",
        ("ERESTARTNOINTR",),
        "a signal arrived before the fork was done, so the kernel runs the handler and begins "
        "again; the program sees no error, but with many signals a fork that never ends",
        "none: the kernel restarts the call after the signal",
        "`strace -f -p {pid}` shows ERESTARTNOINTR and the signal, mostly SIGPROF or SIGALRM.",
        "stop the profiler or the timer which sends the signals, or lengthen its interval.",
        "block the signal around fork (sigprocmask), or use posix_spawn, which takes less time "
        "than a fork of a large process.",
        ("It is a failure: user space never sees ERESTARTNOINTR.",),
    ),
    Entry(
        "fd-table-limit",
        ("EMFILE",),
        "the parent has a descriptor open above fs.nr_open, and the child's table must reach it; "
        "neither fs.file-max nor ulimit -n is asked",
        "`fs.nr_open`; neither `fs.file-max` nor `ulimit -n`",
        "`ls /proc/{pid}/fd | sort -n | tail -1` is the highest descriptor, `sysctl fs.nr_open` the "
        "limit{seen}.",
        "`sysctl fs.nr_open=1048576`{now}, or as many as the table needs, if that is more.",
        "do not lower fs.nr_open below descriptors that are open (look in /etc/sysctl.d), or close "
        "the high descriptor, which dup2 or F_DUPFD made.",
        (
            "EMFILE from fork means fs.file-max or ulimit -n: neither is asked by fork.",
            "Root is exempt: no, and no privilege helps.",
        ),
    ),
    Entry(
        "rlimit-nofile",
        ("EMFILE",),
        "the caller asked for a pidfd (CLONE_PIDFD), and has no descriptor left below RLIMIT_NOFILE",
        "`RLIMIT_NOFILE` of the caller, for CLONE_PIDFD only",
        "`ls /proc/{pid}/fd | wc -l` against `grep 'open files' /proc/{pid}/limits`{seen}.",
        "`prlimit --pid {pid} --nofile=N:N` for the running process.",
        {
            "": "raise `ulimit -n` where it is started, or find the descriptors that leak: `ls -l "
            "/proc/{pid}/fd`.",
            "systemd-service": "LimitNOFILE=N under [Service] (`systemctl edit {unit}`, then restart "
            "it), or find the descriptors that leak: `ls -l /proc/{pid}/fd`.",
            "login-session": "a line `NAME - nofile N` in /etc/security/limits.d/90-nofile.conf, "
            "then log in again; or find what leaks: `ls -l /proc/{pid}/fd`.",
            "docker": "`docker run --ulimit nofile=N:N IMAGE`, or find the descriptors that leak: "
            "`ls -l /proc/{pid}/fd`.",
            "podman": "`podman run --ulimit nofile=N:N IMAGE`, or find the descriptors that leak: "
            "`ls -l /proc/{pid}/fd`.",
        },
        ("A plain fork needs a free descriptor: only CLONE_PIDFD does.",),
    ),
    Entry(
        "file-max",
        ("ENFILE",),
        "the caller asked for a pidfd (CLONE_PIDFD), and the host has as many open files as "
        "fs.file-max allows",
        "`fs.file-max` of the host, for CLONE_PIDFD only",
        "`cat /proc/sys/fs/file-nr`: the first number is in use, the last is the limit{seen}.",
        "`sysctl fs.file-max=N`{now}; root is not bound by it.",
        "fs.file-max=N in /etc/sysctl.d/90-files.conf; find who holds them: `lsof -nw | cut -d' ' "
        "-f1 | sort | uniq -c | sort -n`.",
        ("ENFILE can come from any fork: only from one with CLONE_PIDFD.",),
    ),
    Entry(
        "mapping-limit",
        ("ENOMEM",),
        "the new thread of a process with shadow stacks needs one too, and it could not be mapped",
        "`RLIMIT_AS`, `vm.max_map_count` or the commit limit, for a shadow stack",
        "`grep x86_Thread_features /proc/{pid}/status` says shstk; `wc -l < /proc/{pid}/maps` "
        "against `sysctl vm.max_map_count`, `grep 'address space' /proc/{pid}/limits`.",
        "`sysctl vm.max_map_count=N`, `prlimit --pid {pid} --as=unlimited`, or with "
        "vm.overcommit_memory=2 a higher vm.overcommit_ratio.",
        "fewer threads, smaller stacks (a shadow stack is as large as the stack); or "
        "`GLIBC_TUNABLES=glibc.cpu.x86_shstk=off` in its environment.",
        (
            "The stack that libc maps is all that a thread needs: with shadow stacks the kernel maps "
            "another one, inside clone.",
        ),
    ),
    Entry(
        "mount-limit",
        ("ENOSPC",),
        "a new mount namespace would hold more mounts than fs.mount-max allows",
        "`fs.mount-max`, for CLONE_NEWNS",
        "`wc -l < /proc/{pid}/mountinfo` against `sysctl fs.mount-max`{seen}.",
        "`sysctl fs.mount-max=N`{now}, or unmount what is mounted over and over.",
        "find the leak, `cut -d' ' -f5 /proc/{pid}/mountinfo | sort | uniq -c | sort -n`, or keep "
        "fs.mount-max=N in /etc/sysctl.d/90-mounts.conf.",
        ("No space left on device means a full disk: here it is a count of mounts.",),
    ),
    Entry(
        "cgroup-refused",
        ("EBUSY", "EACCES", "EOPNOTSUPP", "ENOENT", "ENODEV", "EBADF", "EINVAL", "ENOSPC"),
        "the cgroup given with CLONE_INTO_CGROUP does not take the child",
        "the cgroup given with CLONE_INTO_CGROUP does not take the child",
        "look at the cgroup asked for, `cat CGROUP/cgroup.type CGROUP/cgroup.subtree_control`: "
        "EBUSY, it has controllers for cgroups below it; EOPNOTSUPP, threaded or invalid; EACCES, "
        "cgroup.procs not writable; ENOENT, removed.",
        "start the child in a leaf below that cgroup, or make it a leaf: `echo -CONTROLLER > "
        "CGROUP/cgroup.subtree_control` for each that it lists.",
        "processes only in leaf cgroups (cgroups(7), no internal processes); with systemd, "
        "Delegate=yes and DelegateSubgroup= for units that make cgroups.",
        ("Device or resource busy means a mount or a device: here it is a cgroup with children.",),
    ),
    Entry(
        "security-module",
        ("EACCES", "EPERM", "ENOMEM"),
        "a security module (SELinux, AppArmor, TOMOYO, BPF LSM) refused the new task",
        "none: a security module's policy",
        "`cat /sys/kernel/security/lsm` lists the modules; their denials: `ausearch -m AVC -ts "
        "recent`, `dmesg | grep -i -E 'apparmor|avc'`, `bpftool prog show | grep lsm`.",
        "for a trial, permissive mode: `setenforce 0` (SELinux), `aa-complain PROFILE` (AppArmor); "
        "end the loader of a BPF LSM program.",
        "change the policy for this program: SELinux process:fork, the AppArmor profile, the BPF "
        "program.",
        (
            "Permission denied is about a file: fork opens none.",
            "A denial is in the kernel log: a BPF LSM program logs nothing by itself.",
        ),
    ),
    Entry(
        "invalid-flags",
        ("EINVAL", "EPERM", "E2BIG", "EFAULT"),
        "the arguments of clone contradict each other, or this kernel does not know them",
        "none: the arguments of clone or clone3",
        "`strace -f -e trace=clone,clone3,fork,vfork -p {pid}` shows the arguments; clone(2) lists "
        "what each errno means.",
        "none but the program's: a library or runtime that fits this kernel (`uname -r`).",
        "correct the call: CLONE_THREAD needs CLONE_SIGHAND, which needs CLONE_VM; CLONE_NEWNS and "
        "CLONE_NEWUSER exclude CLONE_FS; E2BIG is a newer struct clone_args than the kernel's.",
        ("A kernel without clone3 answers EINVAL: it answers ENOSYS, and libc then calls clone.",),
    ),
    Entry(
        "set-tid-refused",
        ("EPERM", "EINVAL"),
        "the caller may not choose the child's pid (clone3 set_tid), or the number is out of range",
        "CAP_CHECKPOINT_RESTORE, and `kernel.pid_max`, for set_tid",
        "`grep CapEff /proc/{pid}/status`, then `capsh --decode=CAPEFF`; EINVAL is a number below 1 "
        "or from pid_max on, or more numbers than pid namespace levels.",
        {
            "": "run it as root, or `setcap cap_checkpoint_restore+ep PROGRAM` (Linux 5.9; before "
            "that cap_sys_admin).",
            "docker": "`docker run --cap-add CHECKPOINT_RESTORE IMAGE` (Linux 5.9; before that "
            "SYS_ADMIN).",
            "podman": "`podman run --cap-add CHECKPOINT_RESTORE IMAGE` (Linux 5.9; before that "
            "SYS_ADMIN).",
        },
        "ask only for numbers from 1 to pid_max - 1, one for each level, with the capability in "
        "the user namespace that owns the pid namespace.",
        ("Root in a container may choose pids: the capability is not among a container's.",),
    ),
    Entry(
        "pid-taken",
        ("EEXIST",),
        "the caller asked for a certain pid (clone3 set_tid) which is in use",
        "none: the pid asked for with `set_tid` is in use",
        "`ps -L -p NUMBER` with the pid asked for; a zombie, thread, process group or session holds "
        "it too.",
        "wait until that pid is free, or end what holds it.",
        "restore into a fresh pid namespace: `unshare --pid --fork --mount-proc COMMAND`.",
        ("`ps -p` shows nothing, so the pid is free: threads and groups hold numbers as well.",),
    ),
    Entry(
        "perf-events",
        ("ENOMEM",),
        "a perf event of the caller is to be inherited by the child, and that failed",
        "none: inheriting the caller's perf events failed",
        "`ls -l /proc/{pid}/fd | grep perf_event` shows its own; others may watch it: `ps -C perf`.",
        "end the profiler that watches it.",
        "profile without inheritance: `perf record --no-inherit`; attr.inherit=0 in "
        "perf_event_open.",
        ("A profiler only looks: an inherited event is allocated anew in every fork below it.",),
    ),
    Entry(
        "sched-ext",
        (),
        "the BPF scheduler (sched_ext) refused the new task",
        "none: the loaded BPF scheduler decides",
        "`cat /sys/kernel/sched_ext/state /sys/kernel/sched_ext/root/ops` names the scheduler that "
        "is loaded.",
        "end that scheduler's process, or `echo S > /proc/sysrq-trigger`: tasks go back to the "
        "kernel's own.",
        "correct its ops.init_task, or load another.",
        ("A scheduler has no say in a fork: ops.init_task of a BPF scheduler has.",),
    ),
    Entry(
        "unknown",
        (),
        "copy_process refused, and no step that is watched here did",
        "none that is watched: the step is not in the table yet",
        "`fork-trace doctor` lists the steps that cannot be observed on this kernel.",
        "none: the cause is not known; `fork-trace explain ERRNO` lists what it can be.",
        "report it with the kernel version and this record: a step is missing from the table.",
        ("EAGAIN means try again: mostly the limit is still there the next time.",),
    ),
)

BY_CAUSE: Mapping[str, Entry] = {entry.cause: entry for entry in ENTRIES}

_MEMORY = ("memory-cgroup", "kernel-memory")
STEPS: tuple[StepEntry, ...] = (
    StepEntry(
        "seccomp", "a seccomp filter or a tracer answers before the call begins", ("seccomp",)
    ),
    StepEntry("clone_args", "the arguments of clone3 are copied and checked", ("invalid-flags",)),
    StepEntry(
        "kernel_clone",
        "the arguments of clone are checked, before copy_process",
        ("invalid-flags",),
    ),
    StepEntry(
        "copy_process",
        "the fork itself: every refusal ends here",
        ("unknown", "signal-pending", "invalid-flags"),
    ),
    StepEntry(
        "clone_flags",
        "flags that contradict each other or the caller's state",
        ("invalid-flags", "unshared-namespace", "user-namespace-denied"),
    ),
    StepEntry("dup_task_struct", "memory for the task and its kernel stack", _MEMORY),
    StepEntry(
        "task_exec_state_copy",
        "memory for what execve needs, for a new process (Linux 7.2)",
        _MEMORY,
    ),
    StepEntry("copy_creds", "the child's credentials", (*_MEMORY, "security-module")),
    StepEntry(
        "create_user_ns",
        "a new user namespace (CLONE_NEWUSER)",
        ("user-namespace-denied", "namespace-limit", "namespace-depth", *_MEMORY),
    ),
    StepEntry(
        "set_cred_ucounts",
        "the counters of a new user namespace; EAGAIN here is memory",
        _MEMORY,
    ),
    StepEntry("rlimit_nproc", "the user's tasks against RLIMIT_NPROC", ("rlimit-nproc",)),
    StepEntry(
        "threads_max", "all threads of the host against kernel.threads-max", ("threads-max",)
    ),
    StepEntry(
        "__io_uring_fork", "the caller's io_uring restrictions are copied (Linux 7.2)", _MEMORY
    ),
    StepEntry("__mpol_dup", "the caller's NUMA memory policy is copied", _MEMORY),
    StepEntry(
        "sched_fork",
        "the scheduler's consent: SCHED_DEADLINE is not inherited",
        ("deadline-policy",),
    ),
    StepEntry(
        "perf_event_init_task", "perf events that the child inherits", ("perf-events", *_MEMORY)
    ),
    StepEntry("audit_alloc", "memory for the audit context", _MEMORY),
    StepEntry(
        "security_task_alloc", "the security modules' consent", ("security-module", *_MEMORY)
    ),
    StepEntry("copy_semundo", "System V semaphore undo lists", _MEMORY),
    StepEntry(
        "dup_fd", "the child's descriptor table against fs.nr_open", ("fd-table-limit", *_MEMORY)
    ),
    StepEntry(
        "copy_fs",
        "root and working directory, shared: not while a sibling thread is in execve",
        ("exec-in-progress",),
    ),
    StepEntry("copy_fs_struct", "memory for the root and working directory of a process", _MEMORY),
    StepEntry("copy_signal", "memory for signal handlers and signal state", _MEMORY),
    StepEntry("mm_init", "memory for the address space and its top page table", _MEMORY),
    StepEntry("dup_mmap", "the parent's mappings are copied", _MEMORY),
    StepEntry(
        "__vm_enough_memory",
        "each accountable mapping of the parent against the overcommit rule",
        ("overcommit-heuristic", "overcommit-never"),
    ),
    StepEntry("vm_area_dup", "memory for the description of one mapping", _MEMORY),
    StepEntry("vma_dup_policy", "the memory policy of one mapping", _MEMORY),
    StepEntry("dup_userfaultfd", "the userfaultfd of one mapping", _MEMORY),
    StepEntry("anon_vma_fork", "memory for the reverse map of one mapping", _MEMORY),
    StepEntry("copy_page_range", "the page tables of one mapping", _MEMORY),
    StepEntry("ldt_dup_context", "the x86 local descriptor table", _MEMORY),
    StepEntry(
        "copy_namespaces",
        "new namespaces: flags and privileges",
        ("namespace-denied", "invalid-flags", *_MEMORY),
    ),
    StepEntry(
        "copy_mnt_ns",
        "a new mount namespace (CLONE_NEWNS)",
        ("namespace-limit", "mount-limit", *_MEMORY),
    ),
    StepEntry("copy_utsname", "a new UTS namespace (CLONE_NEWUTS)", ("namespace-limit", *_MEMORY)),
    StepEntry("copy_ipcs", "a new IPC namespace (CLONE_NEWIPC)", ("namespace-limit", *_MEMORY)),
    StepEntry(
        "copy_pid_ns",
        "a new pid namespace (CLONE_NEWPID)",
        ("namespace-limit", "namespace-depth", "unshared-namespace", *_MEMORY),
    ),
    StepEntry(
        "copy_cgroup_ns",
        "a new cgroup namespace (CLONE_NEWCGROUP)",
        ("namespace-limit", *_MEMORY),
    ),
    StepEntry(
        "copy_net_ns", "a new network namespace (CLONE_NEWNET)", ("namespace-limit", *_MEMORY)
    ),
    StepEntry(
        "copy_time_ns", "a new time namespace (CLONE_NEWTIME)", ("namespace-limit", *_MEMORY)
    ),
    StepEntry("__copy_io", "the caller's I/O priority", _MEMORY),
    StepEntry("copy_thread", "registers and thread-local storage", ("invalid-flags",)),
    StepEntry(
        "shstk_alloc_thread_stack",
        "a shadow stack for the new thread (x86 CET)",
        ("mapping-limit",),
    ),
    StepEntry(
        "alloc_pid",
        "a pid number in every pid namespace of the child",
        ("pid-max", "pid-namespace-dead", "pid-taken", "set-tid-refused", *_MEMORY),
    ),
    StepEntry(
        "pidfd_prepare",
        "a pidfd for the parent (CLONE_PIDFD)",
        ("rlimit-nofile", "file-max", *_MEMORY),
    ),
    StepEntry(
        "cgroup_can_fork",
        "the cgroup controllers' consent, first of all pids.max up the tree",
        ("pids-cgroup", "cgroup-refused", *_MEMORY),
    ),
    StepEntry("sched_cgroup_fork", "a BPF scheduler's consent (sched_ext)", ("sched-ext",)),
    StepEntry(
        "futex_hash_allocate_default", "memory for the process' futex hash (Linux 7.2)", _MEMORY
    ),
    StepEntry(
        "pid_namespace_late",
        "the init of the pid namespace, which can die in the middle of a fork",
        ("pid-namespace-dead",),
    ),
    StepEntry("signal_late", "a fatal signal in the middle of a fork", ("signal-pending",)),
    StepEntry("mmap (thread stack)", "the stack of a thread, before clone", ("thread-stack",)),
    StepEntry(
        "mprotect (thread stack)",
        "the stack of a thread made usable, before clone",
        ("thread-stack",),
    ),
)
BY_STEP: Mapping[str, StepEntry] = {step.name: step for step in STEPS}

# The cgroup that limits can stand far above the caller's; what helps is up to whoever made that one.
_LIMITED_BY_CGROUP = ("pids-cgroup", "memory-cgroup")
# What `check` looks at before anything fails.
CHECKED = frozenset(
    (
        *("pids-cgroup", "rlimit-nproc", "threads-max", "pid-max", "thread-stack"),
        *("overcommit-never", "overcommit-heuristic", "fd-table-limit", "file-max"),
    )
)
# What never reaches the kernel's fork, all of it or some: seen with --refused only.
REFUSED = frozenset(("seccomp", "invalid-flags"))
# The rehearsals that make each happen. Those of the whole host need --host-wide.
REHEARSED: Mapping[str, str] = {
    "pids-cgroup": "pids-cgroup",
    "rlimit-nproc": "rlimit-nproc",
    "overcommit-heuristic": "overcommit-heuristic",
    "overcommit-never": "--host-wide overcommit-never",
    "pid-max": "--host-wide pid-max",
    "thread-stack": "thread-stack-mappings",
    "memory-cgroup": "memory-cgroup",
    "threads-max": "--host-wide threads-max",
    "exec-in-progress": "exec-in-progress",
    "deadline-policy": "deadline",
    "seccomp": "seccomp",
    "namespace-limit": "user-namespace-limit",
    "namespace-depth": "user-namespace-depth",
    "user-namespace-denied": "user-namespace-chroot",
    "namespace-denied": "namespace-denied",
    "unshared-namespace": "thread-after-unshare",
    "pid-namespace-dead": "pid-namespace-dead",
    "fd-table-limit": "--host-wide fd-table-limit",
    "rlimit-nofile": "pidfd-nofile",
    "file-max": "--host-wide pidfd-file-max",
    "cgroup-refused": "into-cgroup-busy",
    "security-module": "security-module",
    "invalid-flags": "invalid-flags",
    "set-tid-refused": "set-tid-denied",
    "pid-taken": "set-tid-taken",
}
# Kinds of place and of limit, in the words of `explain`.
VARIANTS: Mapping[str, str] = {
    "": "",
    "systemd-service": "systemd service",
    "systemd-scope": "systemd scope",
    "slice": "systemd slice",
    "login-session": "login session",
    "user-unit": "unit of a user's systemd",
    "docker": "docker",
    "podman": "podman",
    "kubernetes": "kubernetes pod",
    "kubernetes-container": "one container of a pod",
    "kubernetes-node": "all pods of a node",
    "nested": "nested pid namespace",
    **{
        name: name
        for name in (
            *("vm.max_map_count", "RLIMIT_AS", "RLIMIT_DATA", "RLIMIT_MEMLOCK", "commit charge"),
        )
    },
}
FOR_NOW = "For now: "
_LABELS = ("To confirm: ", FOR_NOW, "For good: ")
_SYSCTL = re.compile(r"user\.max_(user|mnt|uts|ipc|pid|cgroup|net|time)_namespaces")


def means(cause: str) -> str:
    """Say in one clause what a cause is; of an unknown slug only that."""
    entry = BY_CAUSE.get(cause)
    return entry.means if entry else "a cause that this version does not know"


def advice(
    cause: str,
    evidence: Sequence[Evidence] = (),
    uid: int | None = None,
    cgroup: str | None = None,
    pid: int | None = None,
) -> tuple[str, ...]:
    """Say what to do about a failure: how to confirm it, what relieves it now, what cures it.

    `cgroup` is the caller's own, by path or directory; `pid` the process that failed. A cause of a
    newer version has no advice.
    """
    entry = BY_CAUSE.get(cause)
    if entry is None:
        return ()
    first = evidence[0] if evidence else None
    place = containers.place(cgroup)
    if cause in _LIMITED_BY_CGROUP:
        place = containers.place(first.where if first else None)
        if place.inner is not None:
            # A cgroup that the container or unit made for itself: its own setting is not at fault.
            place = containers.PLAIN
    keys = _keys(place, first)
    known = _known(first, uid, pid, place, cgroup)
    # Names from the host may hold braces; they are values here, never formats.
    return tuple(
        label + choose(remedy, keys).format(**known)
        for label, remedy in zip(_LABELS, (entry.confirm, entry.relieve, entry.cure))
    )


def by_tool(cause: str) -> tuple[str, ...]:
    """Say how this tool shows a cause: while it fails, before it does, and on purpose."""
    if cause == "signal-pending":
        shown = "`fork-trace capture --json --duration 60` counts it as `retries`, in its summary."
    elif cause == "unknown":
        shown = "`fork-trace capture --all-steps --duration 60` watches what can be watched."
    else:
        option = " --refused" if cause in REFUSED else ""
        shown = (
            f"`fork-trace capture{option} --duration 60`, while it fails, names {cause} with its "
            "numbers; a * behind it says that it was inferred."
        )
    told = [shown]
    if cause in CHECKED:
        told.append("`fork-trace check` tells how near it is, before it fails.")
    if cause in REHEARSED:
        told.append(f"`fork-trace rehearse {REHEARSED[cause]}` makes it happen, on purpose.")
    return tuple(told)


def offline(remedy: Remedy) -> dict[str, str]:
    """Return a remedy's sentences by variant, with words in capitals for what differs."""
    variants = {"": remedy} if isinstance(remedy, str) else remedy
    known = _known(None, None, None, containers.PLAIN, None)
    return {key: text.format(**known) for key, text in variants.items()}


def choose(remedy: Remedy, keys: Sequence[str]) -> str:
    """Return the sentence for the first of these variants that the remedy tells apart."""
    if isinstance(remedy, str):
        return remedy
    return next(remedy[key] for key in (*keys, "") if key in remedy)


def _keys(place: Place, first: Evidence | None) -> tuple[str, ...]:
    keys: list[str] = [first.name] if first is not None and first.name else []
    if first is not None and "pid namespace" in first.where and "(level 0)" not in first.where:
        keys.append("nested")
    if place.kind == "kubernetes":
        if place.id is not None:
            keys.append("kubernetes-container")
        elif place.pod is None:
            keys.append("kubernetes-node")
    if place.user is not None:
        keys.append("user-unit")
    return (*keys, place.kind)


def shell(text: str) -> str:
    """Quote a name for a shell command; one with control characters in the form of bash ($'...')."""
    if text.isprintable():
        return shlex.quote(text)
    escaped = text.encode("utf-8", "surrogatepass").decode("latin-1")
    return "$'" + "".join(_ansi_c(char) for char in escaped) + "'"


def _ansi_c(char: str) -> str:
    if char in "\\'":
        return "\\" + char
    return char if " " <= char <= "~" else f"\\x{ord(char):02x}"


def _directory(where: str | None) -> str:
    """Write a cgroup's directory for a shell; words in capitals where it is not known."""
    number = re.fullmatch(r"cgroup id ([0-9]+)", where or "")
    if number:
        # The id is the directory's inode (since Linux 5.5, on 64-bit kernels).
        return f'"$(find /sys/fs/cgroup -type d -inum {number[1]})"'
    if where is None or not where.startswith("/"):
        return "/sys/fs/cgroup/PATH"
    if where.startswith("/sys/fs/cgroup"):
        return shell(where)
    return shell("/sys/fs/cgroup" + where.rstrip("/"))


def _known(
    first: Evidence | None, uid: int | None, pid: int | None, place: Place, cgroup: str | None
) -> dict[str, object]:
    where = first.where if first else None
    value = first.value if first else None
    limit = first.limit if first else None
    seen = now = ""
    if first is not None and value is not None and limit is not None:
        seen = f" ({value} of {limit} {first.unit} at the refusal)"
    if limit is not None:
        now = f" (it was {limit})"
    named = _SYSCTL.fullmatch(first.name) if first else None
    is_v1_memory = where is not None and where.startswith("/sys/fs/cgroup/memory/")
    unit = shell(place.unit) if place.unit is not None else "UNIT"
    return {
        "seen": seen,
        "now": now,
        "limit": "the limit" if limit is None else limit,
        "where": "the cgroup" if where is None else where,
        "dir": _directory(where),
        "own_dir": _directory(cgroup),
        "uid": "UID" if uid is None else uid,
        "pid": "PID" if pid is None else pid,
        "unit": unit,
        "id": place.id[:12] if place.id else "CONTAINER",
        "owner": "UID" if place.user is None else place.user,
        "sysctl": named[0] if named else "user.max_TYPE_namespaces",
        "nstype": named[1] if named else "TYPE",
        "mem_now": "memory.usage_in_bytes" if is_v1_memory else "memory.current",
        "mem_max": "memory.limit_in_bytes" if is_v1_memory else "memory.max",
        "mem_events": "memory.failcnt" if is_v1_memory else "memory.events",
        "mem_property": "MemoryLimit" if is_v1_memory else "MemoryMax",
    }
