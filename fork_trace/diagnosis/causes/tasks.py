"""Causes: too many tasks, or no pid number left."""

from __future__ import annotations

import errno

from fork_trace.diagnosis.cause import UNREAD, Cause, Fit, Gauge, Refusal, do
from fork_trace.diagnosis.evidence import below, cgroup_levels, pid_namespace
from fork_trace.diagnosis.readings import HostReadings, KernelReadings
from fork_trace.model.records import Evidence

_NO_PIDS_LIMIT = 4194304  # PID_MAX_LIMIT, include/linux/threads.h; pids.max "max" is one more
_NO_TASK_LIMIT = 1 << 62  # RLIM_INFINITY, or LONG_MAX in a user namespace
# What systemd's own properties do, any echo to the same file does until systemd writes it again.
_ECHO_PIDS = "echo N > {dir}/pids.max  # no fork left"
_TWICE = (
    "Set twice what is needed, not infinity: this limit keeps one leak from taking the whole host."
)
_REVERT = (
    " What echo writes is undone by the next daemon-reload. set-property without --runtime is kept in /etc/systemd/system.control and wins over drop-ins; "
    "`systemctl revert {unit}` removes it, and what `systemctl edit` changed as well."
)
_FREEZE = (
    " If a leak or a fork bomb filled it, stop that first: cgroup.freeze halts all of it and keeps its "
    "state (0 lets it go on), cgroup.kill (Linux 5.14) ends all of it."
)
_RAISE_THREADS = "Persist kernel.threads-max=N in /etc/sysctl.d/90-threads.conf on the host"
_RAISE_PIDS = "keep kernel.pid_max=4194304 in /etc/sysctl.d/90-pid.conf on the host"


def _pids_max(seen: KernelReadings, _host: HostReadings) -> tuple[Evidence, ...]:
    names = ("pids_cgroup", "pids_current", "pids_limit", "pids_levels_up")
    kind = "pids-cgroup"  # of events.LEVELS
    return cgroup_levels(seen, ("pids.max", kind, "tasks", _NO_PIDS_LIMIT), names, lambda n: n)


PIDS_CGROUP = Cause(
    slug="pids-cgroup",
    errnos=("EAGAIN",),
    means="a cgroup has reached its pids.max; every thread counts",
    limit="`pids.max` of the cgroup or an ancestor (systemd `TasksMax=`, `docker --pids-limit`, "
    "podPidsLimit)",
    steps=("cgroup_can_fork",),
    refusals=(Refusal("cgroup_can_fork", errno.EAGAIN),),
    fits=(
        Fit(errno.EAGAIN, "pids-cgroup", "cgroup_can_fork"),
        Fit(errno.EAGAIN, "pids-unknown", "cgroup_can_fork", UNREAD, 1),
        # Whether the cgroup that was asked for is full was not read.
        Fit(errno.EAGAIN, "asked-cgroup", "cgroup_can_fork", UNREAD, 6),
    ),
    evidence=_pids_max,
    structures=("pids_cgroup",),
    pool="cgroup",
    is_of_cgroup=True,
    check=Gauge(
        "pids.max",
        "tasks",
        "`pids.current` with `pids.max`, for each cgroup that has one, so for ancestors too",
    ),
    aliases=(
        *("pids.max", "pids.current", "pids.events", "tasksmax", "defaulttasksmax", "usertasksmax"),
        *("--pids-limit", "pids-limit", "pids_limit", "podpidslimit", "pod-max-pids"),
        "limits.processes",
    ),
    rehearsal="pids-cgroup",
    verify=do(
        "Compare the cgroup's task count with its limit{seen}. Tasks in its descendant cgroups "
        "count as well. Since Linux 6.1 pids.peak has the most so far.",
        "cat {dir}/pids.current",
        "cat {dir}/pids.max",
    ),
    mitigate={
        "": do(
            "Raise the limit as root{above}; it takes effect immediately.",
            "echo N > {dir}/pids.max",
        ),
        "systemd-service": do(
            "Raise TasksMax= of the unit{above}; it takes effect immediately.",
            "systemctl set-property --runtime {unit} TasksMax=N",
            _ECHO_PIDS,
        ),
        "systemd-scope": do(
            "Raise TasksMax= of the scope{above}; it takes effect immediately.",
            "systemctl set-property --runtime {unit} TasksMax=N",
            _ECHO_PIDS,
        ),
        "slice": do(
            "Raise TasksMax= of the slice{above}. All units in the slice share it.",
            "systemctl set-property --runtime {unit} TasksMax=N",
            _ECHO_PIDS,
        ),
        "login-session": do(
            "Raise TasksMax={above}; it takes effect immediately, in open sessions too.",
            "systemctl set-property --runtime {unit} TasksMax=N",
            _ECHO_PIDS,
        ),
        # systemctl(1), --machine: user@.host, by name or number, since systemd 248.
        "user-unit": do(
            "As root or as uid {owner}, raise TasksMax= of the unit{above}.",
            "systemctl --user --machine={owner}@.host set-property --runtime {unit} TasksMax=N",
            _ECHO_PIDS,
        ),
        "unit-inside": do(
            "Raise TasksMax= of the unit{above}. A service manager inside a container made it; a unit "
            "of that name on the host is another one.",
            "nsenter --target {pid} --all systemctl set-property --runtime {unit} TasksMax=N",
            _ECHO_PIDS,
        ),
        "docker": do(
            "Raise the container's limit{above}; the container keeps running.",
            "docker update --pids-limit N {id}",
            _ECHO_PIDS,
        ),
        "podman": do(
            "Raise the container's limit as the user who runs it (podman 4.4 or newer), or write "
            "it to the cgroup as root.",
            "podman update --pids-limit N {id}",
            _ECHO_PIDS,
        ),
        "containerd": do(
            "Raise the container's limit{above}: with nerdctl, or as root in its cgroup.",
            "nerdctl update --pids-limit N {id}",
            _ECHO_PIDS,
        ),
        "lxc": do(
            "Raise the container's limit{above}, by what manages it: Incus, LXD, or neither (LXC, "
            "Proxmox), where it lasts until the container is restarted.",
            "incus config set {lxc} limits.processes N",
            "lxc config set {lxc} limits.processes N",
            "echo N > {dir}/pids.max",
        ),
        "kubernetes": do(
            "On the node, raise the limit as root{above}. It lasts until the cgroup is recreated.",
            "echo N > {dir}/pids.max",
        ),
        "kubernetes-systemd": do(
            "On the node, raise the limit{above}. It lasts until the cgroup is recreated.",
            "systemctl set-property --runtime {unit} TasksMax=N",
            _ECHO_PIDS,
        ),
    },
    fix={
        "": do(
            "Raise pids.max in whatever creates the cgroup, or cap the number of threads of what "
            "runs in it."
        ),
        "systemd-service": do(
            "Raise TasksMax= permanently, or cap the service's threads. A unit without its own "
            "TasksMax= gets DefaultTasksMax= from /etc/systemd/system.conf: 15 % of the least of "
            "kernel.threads-max, kernel.pid_max and the root cgroup's pids.max. Slices have no default.",
            "systemctl set-property {unit} TasksMax=N",
        ),
        "systemd-scope": do(
            "Scopes do not persist: set TasksMax= where the scope is created.",
            "systemd-run --scope -p TasksMax=N COMMAND",
        ),
        "slice": do(
            "Raise TasksMax= permanently, or move a greedy unit to another slice with Slice=.",
            "systemctl set-property {unit} TasksMax=N",
        ),
        "login-session": do(
            "For all users, set TasksMax=N under [Slice] in "
            "/etc/systemd/system/user-.slice.d/50-tasks.conf and reload (before systemd 239: "
            "UserTasksMax= in /etc/systemd/logind.conf). systemd's own drop-in gives a user's slice 33 %.",
            "systemctl daemon-reload",
        ),
        "user-unit": do(
            "As root or as uid {owner}, raise TasksMax= permanently. The limits of "
            "user@{owner}.service and user-{owner}.slice apply on top of it.",
            "systemctl --user --machine={owner}@.host set-property {unit} TasksMax=N",
        ),
        "docker": do(
            "Start the container with a higher limit (compose: pids_limit), or cap its threads. "
            "Always give a number: without one, or with -1, systemd's DefaultTasksMax= is the limit. "
            "If it has no init, --init reaps zombies, which count as well.",
            "docker run --pids-limit N IMAGE",
            "docker run --init IMAGE",
        ),
        "containerd": do(
            "Start the container with a higher limit, or cap its threads. Always give a number: "
            "without one systemd's DefaultTasksMax= is the limit.",
            "nerdctl run --pids-limit N IMAGE",
        ),
        "lxc": do(
            "With Incus and LXD the setting stays. With LXC put lxc.cgroup2.pids.max = N into "
            "/var/lib/lxc/{lxc}/config; with Proxmox into /etc/pve/lxc/{lxc}.conf, as "
            "lxc.cgroup2.pids.max: N."
        ),
        "unit-inside": do(
            "Inside the container, raise TasksMax= permanently. DefaultTasksMax= in there is 15 % of "
            "the container's own limit.",
            "nsenter --target {pid} --all systemctl set-property {unit} TasksMax=N",
        ),
        "podman": do(
            "Start the container with a higher limit, or set pids_limit under [containers] in "
            "/etc/containers/containers.conf (2048 if unset).",
            "podman run --pids-limit N IMAGE",
        ),
        "kubernetes": do(
            "Raise podPidsLimit in /var/lib/kubelet/config.yaml and restart the kubelet, or run fewer "
            "threads in the pod. Only new pods get it; on managed nodes that file is overwritten, and the "
            "provider's node configuration has the setting. A limit for one pod alone is KEP-6063."
        ),
        "kubernetes-container": do(
            "This is the container runtime's limit: pids_limit in /etc/crio/crio.conf (CRI-O), or "
            "systemd's DefaultTasksMax=. The pod's own limit is the kubelet's podPidsLimit."
        ),
        "kubernetes-node": do(
            "All pods of the node share this limit: raise kernel.pid_max and kernel.threads-max on "
            "the node, or reserve less with pid= in the kubelet's systemReserved and kubeReserved, "
            "then restart the kubelet."
        ),
    },
    myths=(
        "The kernel log names the culprit: it names the cgroup that forked, once, and not the "
        "ancestor whose limit was hit.",
        "Root is exempt: nobody is, whatever the privileges.",
        "pids.events counts at the limit: with cgroup v2 before Linux 6.11 it counts in the cgroup that "
        "forked, wherever the limit is.",
        "pids.max counts processes: it counts threads, and zombies.",
    ),
    careful={
        "": do(_TWICE + _FREEZE, "echo 1 > {dir}/cgroup.freeze"),
        "systemd-service": do(_TWICE + _FREEZE + _REVERT, "echo 1 > {dir}/cgroup.freeze"),
        "systemd-scope": do(_TWICE + _FREEZE + _REVERT, "echo 1 > {dir}/cgroup.freeze"),
        # All that the slice holds would be frozen, the shell that does it too.
        "slice": do(_TWICE + _REVERT),
        "user-unit": do(_TWICE),
        "login-session": do(_TWICE + _REVERT),
        "v1": do(_TWICE),
    },
)


_EACH_NPROC = "for p in $(cat {own_dir}/cgroup.procs); do prlimit --pid $p --nproc=N:N; done"


def _nproc(seen: KernelReadings, _host: HostReadings) -> tuple[Evidence, ...]:
    numbers = seen.numbers
    if "nproc" not in numbers:
        return ()
    level = numbers.get("nproc_level")
    # In a user namespace the level that refused can count another uid: its creator's.
    uid = numbers.get("nproc_uid", seen.uid)
    where = _nproc_where(uid, level)
    limit = numbers.get("nproc_limit")
    first = Evidence("RLIMIT_NPROC", numbers["nproc"], limit, "tasks", where, "kernel")
    others = [
        Evidence(
            *("RLIMIT_NPROC", each.used, below(each.limit, _NO_TASK_LIMIT), "tasks"),
            where=_nproc_where(each.number, each.up),
            read="kernel",
        )
        for each in seen.levels
        if each.kind == "nproc" and (each.up, each.number) != (level, uid)
    ]
    return (first, *others)


def _nproc_where(uid: int | None, level: int | None) -> str:
    where = f"uid {'?' if uid is None else uid}"
    if level == 0:
        return f"{where}, the whole host"
    return f"{where}, user namespace level {'?' if level is None else level}"


RLIMIT_NPROC = Cause(
    slug="rlimit-nproc",
    errnos=("EAGAIN",),
    means="the user has as many tasks as RLIMIT_NPROC allows; all of the user's threads on the "
    "host count, including those in other containers",
    limit="`RLIMIT_NPROC`: all tasks of the uid on the host, including threads and other containers",
    steps=("rlimit_nproc", "execve"),
    refusals=(Refusal("rlimit_nproc"), Refusal("execve")),
    fits=(
        Fit(errno.EAGAIN, "nproc", "rlimit_nproc"),
        Fit(errno.EAGAIN, "nproc-unknown", "rlimit_nproc", UNREAD, 3),
    ),
    evidence=_nproc,
    structures=("ucounts",),
    pool="user",
    check=Gauge(
        "RLIMIT_NPROC",
        "tasks",
        "the tasks of each user as the kernel counts them (since Linux 5.14 in each user namespace) "
        "with the lowest soft limit among its processes. Root and holders of CAP_SYS_ADMIN or "
        "CAP_SYS_RESOURCE are exempt; a process that has RLIMIT_NPROC 0 is left out",
    ),
    aliases=("rlimit_nproc", "ulimit -u", "limitnproc", "nproc", "max user processes"),
    rehearsal="rlimit-nproc",
    verify=do(
        "On the host, count the user's tasks by command and compare with the limit{seen}.",
        "ps -L -U {uid} -o comm= | sort | uniq -c | sort -n",
        "grep processes /proc/{pid}/limits",
    ),
    mitigate={
        "": do(
            "As root, raise the limit of the running process, which its future children inherit, but "
            "nothing else does; or end some tasks of uid {uid}.",
            "prlimit --pid {pid} --nproc=N:N",
        ),
        "systemd-service": do(
            "As root, raise the limit of each process of the unit: one process's is inherited by its "
            "future children alone. Or end some tasks of uid {uid}.",
            _EACH_NPROC,
        ),
        # kernel/ucount.c, is_rlimit_overlimit: of the levels above, ns->rlimit_max, which
        # create_user_ns took from its maker.
        "above-user-namespace": do(
            "This limit was fixed when the caller's user namespace was created, by whoever created "
            "it: to raise one process's changes nothing. End some tasks of uid {uid}, or raise the "
            "limit of whatever starts the container, and restart that."
        ),
        "docker": do(
            "On the host, raise the limit of the process that failed; or stop other containers "
            "that run as uid {uid}, whose tasks count too.",
            "prlimit --pid {pid} --nproc=N:N",
        ),
        "podman": do(
            "On the host, raise the limit of the process that failed. In a rootless container, "
            "the limit of the user who started it applies as well.",
            "prlimit --pid {pid} --nproc=N:N",
        ),
        "kubernetes": do(
            "On the node, raise the limit of the process that failed. All pods that run as uid "
            "{uid} count together.",
            "prlimit --pid {pid} --nproc=N:N",
        ),
    },
    fix={
        "": do(
            "Raise the limit where the process is started, or run it as a user of its own.",
            "ulimit -u N",
        ),
        "systemd-service": do(
            "Set LimitNPROC=N under [Service] and restart the unit, or give it its own User=. Without "
            "it systemd's DefaultLimitNPROC= holds, which is the kernel's default: threads-max / 2.",
            "systemctl edit {unit}",
        ),
        "systemd-scope": do(
            "A scope keeps the limits of whatever started it: raise them there, or in "
            "/etc/security/limits.conf.",
            "ulimit -u N",
        ),
        "login-session": do(
            "Add a line `NAME - nproc N` to /etc/security/limits.d/90-nproc.conf and log in again; a "
            "user's line wins over one with `*` (CentOS 7 has 4096 for all in 20-nproc.conf). With "
            "lingering a new login does not renew user@{uid}.service: restart that. In a shell inside a "
            "container, the container's limit applies.",
        ),
        "docker": do(
            "Start the container with a higher limit, or set default-ulimits in "
            "/etc/docker/daemon.json; better still, give each container its own uid (--user).",
            "docker run --ulimit nproc=N:N IMAGE",
        ),
        "podman": do(
            "Start the container with a higher limit. Rootless containers can go up to the user's "
            "hard limit, which is set in /etc/security/limits.conf.",
            "podman run --ulimit nproc=N:N IMAGE",
        ),
        "kubernetes": do(
            "Set LimitNPROC=infinity in the container runtime's unit, from which pods inherit it, "
            "and give each workload its own uid (securityContext.runAsUser)."
        ),
    },
    myths=(
        "ulimit -u counts the processes of the session or container: it counts threads of the real "
        "uid, across the whole host or user namespace.",
        "Root is never limited: root on the host is exempt, root inside a user namespace is not.",
        "EAGAIN from fork means ulimit -u: at least six limits answer EAGAIN.",
    ),
    careful=do(
        "Set twice what is needed, not unlimited: this limit keeps one user's leak from taking the pids "
        "of all others."
    ),
)


def _pids(seen: KernelReadings, _host: HostReadings) -> tuple[Evidence, ...]:
    numbers = seen.numbers
    if "pidns_pids" not in numbers:
        return ()
    inum = numbers.get("pidns_inum")
    where = f"{pid_namespace(inum, numbers.get('pidns_level'))}, the fullest of its levels"
    name, unit = "kernel.pid_max", "pids in use"
    first = Evidence(name, numbers["pidns_pids"], numbers.get("pid_max"), unit, where, "kernel")
    others = [
        Evidence(
            *(name, each.used, each.limit or None, unit),
            where=pid_namespace(each.number, each.up),
            read="kernel",
        )
        for each in seen.levels
        if each.kind == "pid-namespace" and each.number != inum
    ]
    return (first, *others)


PID_MAX = Cause(
    slug="pid-max",
    errnos=("EAGAIN",),
    means="no pid number is free; threads, zombies, process groups and sessions each hold one, and "
    "numbers below 300 are not reused once the counter has wrapped",
    limit="`kernel.pid_max`; threads and zombies each hold a number",
    steps=("alloc_pid",),
    refusals=(Refusal("alloc_pid", errno.EAGAIN),),
    fits=(
        Fit(errno.EAGAIN, "pid-max", "alloc_pid"),
        Fit(errno.EAGAIN, "pidns-unknown", "alloc_pid", UNREAD, 2),
    ),
    evidence=_pids,
    structures=("pid_namespace",),
    pool="pid-namespace",
    check=Gauge(
        "kernel.pid_max",
        "pids",
        "the numbers in use (threads, zombies, and groups and sessions whose leader has exited) "
        "with `kernel.pid_max` less the 300 reserved ones; the same for each nested pid namespace, "
        "whose own limit (since Linux 6.14) is visible only inside it, and is unknown here",
    ),
    aliases=("kernel.pid_max",),
    rehearsal="--host-wide pid-max",
    verify=do(
        "Compare the limit with the number of threads{seen}, and look for zombies.",
        "cat /proc/sys/kernel/pid_max",
        "ps -eL --no-headers | wc -l",
        "ps -eo stat=,ppid=,comm= | grep ^Z",
    ),
    mitigate={
        "": do(
            "Raise the limit{now}, at most 4194304 (32768 on 32-bit kernels); since Linux 6.14 each pid "
            "namespace has its own as well. Zombies disappear when their parent ends.",
            "sysctl kernel.pid_max=N",
        ),
        "nested": do(
            "Raise the limit{now} of {pidns} from a shell that runs inside it, by `echo N > "
            "/proc/sys/kernel/pid_max`: nothing new can start there, nsenter included. Before Linux "
            "6.14 only the host has one. Zombies disappear when their parent ends."
        ),
    },
    fix={
        "": do(
            f"Find what creates so many threads, make sure that zombies are reaped, and {_RAISE_PIDS}.",
            "ps -eLo comm= | sort | uniq -c | sort -n",
        ),
        "docker": do(
            f"Reap zombies with --init and limit each container with --pids-limit; {_RAISE_PIDS}.",
            "docker run --init --pids-limit 4096 IMAGE",
        ),
        "podman": do(
            f"Reap zombies with --init and limit each container with --pids-limit; {_RAISE_PIDS}.",
            "podman run --init --pids-limit 4096 IMAGE",
        ),
        "kubernetes": do(
            "Run an init such as tini as the container's first process so that zombies are reaped, "
            f"and limit pods with the kubelet's podPidsLimit; {_RAISE_PIDS}."
        ),
    },
    myths=(
        "Running out of pids is reported as Cannot allocate memory: only before Linux 4.1 and on "
        "RHEL 7; today ENOMEM from alloc_pid means a dead pid namespace or a real lack of memory.",
        "pid_max - 1 processes are possible: threads, zombies, groups and sessions hold numbers, "
        "300 are reserved, and each namespace level needs one.",
        "pid_max is 32768: systemd 243 and RHEL 8.2 raised it to 4194304, and kernel.threads-max is "
        "reached first there.",
    ),
    careful=do(
        "What took all numbers takes the new ones too, if it is a leak: look for it first. Programs that "
        "keep pids in 16 bits, or print them in five columns, are rare and break."
    ),
)


def _threads(seen: KernelReadings, host: HostReadings) -> tuple[Evidence, ...]:
    value, limit = seen.numbers.get("nr_threads"), seen.numbers.get("max_threads")
    read = "kernel"
    if value is None or limit is None:
        value = host.threads if value is None else value
        limit = host.threads_max if limit is None else limit
        read = "proc"
    return (Evidence("kernel.threads-max", value, limit, "threads", "the whole host", read),)


THREADS_MAX = Cause(
    slug="threads-max",
    errnos=("EAGAIN",),
    means="the host has as many threads as kernel.threads-max allows",
    limit="`kernel.threads-max`, the whole host",
    steps=("threads_max",),
    refusals=(Refusal("threads_max"),),
    fits=(
        Fit(errno.EAGAIN, "threads", "threads_max"),
        Fit(errno.EAGAIN, "threads-near", "threads_max", UNREAD, 4),
        Fit(errno.EAGAIN, "threads-unknown", "threads_max", UNREAD, 5),
    ),
    evidence=_threads,
    reads="threads",
    pool="host",
    check=Gauge(
        "kernel.threads-max", "threads", "all threads of the host with `kernel.threads-max`"
    ),
    aliases=("kernel.threads-max",),
    rehearsal="--host-wide threads-max",
    verify=do(
        "Compare the number of threads (after the slash in loadavg) with the limit{seen}.",
        "cut -d' ' -f4 /proc/loadavg",
        "cat /proc/sys/kernel/threads-max",
    ),
    mitigate=do(
        "End what leaks threads, if something does. Else raise the limit{now}; all containers and root "
        "share it.",
        "sysctl kernel.threads-max=N",
    ),
    fix={
        "": do(
            f"{_RAISE_THREADS}, and find what holds so many threads.",
            "ps -eLo comm= | sort | uniq -c | sort -n",
        ),
        "docker": do(
            f"{_RAISE_THREADS}, and limit the container.", "docker update --pids-limit 4096 {id}"
        ),
        "podman": do(
            f"{_RAISE_THREADS}, and limit the container.", "podman update --pids-limit 4096 {id}"
        ),
        "kubernetes": do(f"{_RAISE_THREADS}, and limit pods with the kubelet's podPidsLimit."),
        "systemd-service": do(f"{_RAISE_THREADS}, and limit the unit with TasksMax=."),
    },
    myths=(
        "Each container has its own kernel.threads-max: it belongs to the host, and to no namespace.",
        "Root is exempt: nobody is, whatever the privileges.",
    ),
    # kernel/fork.c, set_max_threads: their stacks are to take an eighth of RAM at most.
    careful=do(
        "The default, one thread for each 128 KiB of RAM, is already high: to reach it usually means a "
        "leak. Each thread takes 16 KiB and more of kernel memory, which no swap holds."
    ),
)
