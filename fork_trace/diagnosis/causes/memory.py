"""Causes: memory, or the permission to promise it."""

from __future__ import annotations

import errno
from dataclasses import replace

from fork_trace.diagnosis import evidence
from fork_trace.diagnosis.cause import ASKED, UNREAD, Cause, Fit, Gauge, Refusal, do
from fork_trace.diagnosis.readings import HostReadings, KernelReadings
from fork_trace.model.records import Evidence

_NO_PAGE_LIMIT = 1 << 50  # PAGE_COUNTER_MAX is LONG_MAX in pages
_VM = "__vm_enough_memory"
_CHOSEN = (
    "Somebody chose mode 2, often for a database: ask before leaving it. Note vm.overcommit_ratio and "
    "vm.overcommit_kbytes first, as setting one resets the other to 0."
)
_V1_MEMORY = (
    "Raise the limit, or end something in the cgroup. Where memory.memsw.limit_in_bytes exists it must "
    "not be below, or the kernel answers EINVAL: raise it first."
)
_REVERT = (
    "More than the host has moves the shortage to the others on it. What echo writes is undone by the "
    "next daemon-reload. set-property without --runtime is "
    "kept in /etc/systemd/system.control and wins over drop-ins; `systemctl revert {unit}` removes it, "
    "and what `systemctl edit` changed as well."
)
# What systemd's own properties do, any echo to the same file does until systemd writes it again.
_ECHO_MEMORY = "echo SIZE > {dir}/{mem_max}  # no fork left"
_KEEP_OVERCOMMIT = "/etc/sysctl.d/90-overcommit.conf"
# Where the kernel allocates memory for the child. ENOMEM from any of them is one of two causes.
_ALLOCATING = (
    *("dup_task_struct", "task_exec_state_copy", "copy_creds", "create_user_ns"),
    *("set_cred_ucounts", "__io_uring_fork", "__mpol_dup", "perf_event_init_task", "audit_alloc"),
    *("security_task_alloc", "copy_semundo", "dup_fd", "copy_fs_struct", "copy_sighand"),
    *(
        "copy_signal",
        "dup_mm",
        "mm_init",
        "dup_mmap",
        "vm_area_dup",
        "vma_dup_policy",
        "dup_userfaultfd",
        "anon_vma_fork",
    ),
    *("copy_page_range", "ldt_dup_context", "copy_namespaces", "copy_mnt_ns", "copy_utsname"),
    *("copy_ipcs", "copy_pid_ns", "copy_cgroup_ns", "copy_net_ns", "copy_time_ns", "__copy_io"),
    *("alloc_pid", "pidfd_prepare", "cgroup_can_fork", "futex_hash_allocate_default"),
)

# What a new network namespace can fail with for want of memory, beside ENOMEM.
_NET_ERRNOS = (
    *(errno.ENOBUFS, errno.ENFILE, errno.ENODEV, errno.EAFNOSUPPORT, errno.EEXIST),
    *(errno.EINVAL, errno.ENOENT),
)

OVERCOMMIT_HEURISTIC = Cause(
    slug="overcommit-heuristic",
    errnos=("ENOMEM",),
    means="vm.overcommit_memory=0: one mapping of the parent is larger than RAM and swap together",
    limit="RAM and swap, for one mapping, with `vm.overcommit_memory=0`",
    steps=(_VM,),
    evidence=evidence.one_mapping,
    structures=("mm_struct",),
    reads="overcommit",
    check=Gauge(
        "largest mapping",
        "KiB",
        "in mode 0: the largest private writable mapping of the three largest processes with RAM "
        "plus swap, the rule since Linux 5.2",
    ),
    rehearsal="overcommit-heuristic",
    verify=do(
        "The mode is 0, and the largest mapping exceeds MemTotal plus SwapTotal{seen}.",
        "sysctl vm.overcommit_memory",
        # Private and writable ones alone are charged.
        "pmap -x {pid} | grep -F ' rw---' | sort -n -k2 | tail -3",
        "grep -E 'MemTotal|SwapTotal' /proc/meminfo",
    ),
    mitigate=do(
        "Allow overcommit if the child never writes to all of it; or add swap (mkswap, then swapon).",
        "sysctl vm.overcommit_memory=1",
    ),
    fix=do(
        "Start programs with posix_spawn or vfork, which copy no mappings; or exclude the large "
        f"one with madvise(MADV_DONTFORK); or keep vm.overcommit_memory=1 in {_KEEP_OVERCOMMIT}."
    ),
    myths=(
        "Mode 0 refuses a fork when RAM is short: since Linux 5.2 it refuses only a single mapping "
        "that is larger than RAM and swap; RHEL 8 (4.18) still compares with what is free.",
        "fork needs as much as the parent's RSS: only private writable mappings are charged, by "
        "their virtual size, and none at all by vfork, posix_spawn or threads.",
    ),
    careful=do(
        "Mode 1 is the whole host's, and refuses nothing: where more is written than there is, the OOM "
        "killer decides. `sysctl vm.overcommit_memory=0` goes back."
    ),
)

OVERCOMMIT_NEVER = Cause(
    slug="overcommit-never",
    errnos=("ENOMEM",),
    means="vm.overcommit_memory=2: a copy of the parent's mappings would exceed the commit limit, "
    "however much memory is free",
    limit="the commit limit with `vm.overcommit_memory=2`",
    steps=(_VM,),
    # Which of the two rules it is, the mode decides: see `verdict`.
    fits=(
        Fit(errno.ENOMEM, "overcommit", _VM),
        Fit(errno.ENOMEM, "overcommit-unknown", _VM, UNREAD, 1),
    ),
    evidence=evidence.commit_charge,
    structures=("mm_struct",),
    reads="overcommit",
    check=Gauge(
        "commit charge",
        "KiB",
        "in mode 2: Committed_AS with CommitLimit less the reserves, for root and for others; and "
        "what a fork of each of the three largest processes would add. In mode 1 nothing is refused",
    ),
    aliases=("vm.overcommit_ratio", "vm.overcommit_kbytes", "commitlimit", "committed_as"),
    rehearsal="--host-wide overcommit-never",
    verify=do(
        "The mode is 2, and Committed_AS is close to CommitLimit{seen}.",
        "sysctl vm.overcommit_memory vm.overcommit_ratio vm.overcommit_kbytes",
        "grep Commit /proc/meminfo",
    ),
    # Ratio and kbytes reset each other to 0: mm/util.c, overcommit_ratio_handler.
    mitigate={
        "": do(
            "Raise the commit limit, so that a copy of the whole parent fits. Last resort: leave mode 2.",
            "sysctl vm.overcommit_ratio={ratio}",
            "sysctl vm.overcommit_memory=0  # last resort",
        ),
        "overcommit-kbytes": do(
            "Raise the commit limit, so that a copy of the whole parent fits. Last resort: leave mode 2.",
            "sysctl vm.overcommit_kbytes={kbytes}",
            "sysctl vm.overcommit_memory=0  # last resort",
        ),
    },
    fix=do(
        "Make the parent ask for less: posix_spawn and vfork copy no mappings, and "
        f"madvise(MADV_DONTFORK) excludes one. Or add swap, which counts in full. Persist the sysctls you set in {_KEEP_OVERCOMMIT}."
    ),
    myths=(
        "There is free memory, so it cannot be memory: the commit limit counts promises, not use.",
        "vm.overcommit_kbytes is halved: it is in KiB, and converted to pages.",
        "CommitLimit is the bound: admin_reserve_kbytes (not for root) and user_reserve_kbytes are "
        "subtracted from it.",
    ),
    careful=do(_CHOSEN),
)

THREAD_STACK = Cause(
    slug="thread-stack",
    errnos=("ENOMEM", "EAGAIN"),
    means="a thread failed before clone because its stack could not be mapped; pthread_create "
    "turns the kernel's ENOMEM into EAGAIN",
    limit="`vm.max_map_count`, `RLIMIT_AS`, `RLIMIT_DATA`, `RLIMIT_MEMLOCK` or the commit limit, "
    "for the stack",
    steps=("mmap", "mprotect"),
    refusals=(
        *(Refusal(step) for step in ("mmap", "mprotect")),
        *(Refusal(step, errno.ENOMEM) for step in ("mmap", "mprotect")),
    ),
    evidence=evidence.thread_stack,
    reads="overcommit",
    check=Gauge(
        "vm.max_map_count",
        "mappings",
        "the mappings of the 20 largest processes with `vm.max_map_count` (a thread takes two); the "
        "three with the most are shown. VmSize and VmData of the processes nearest to their "
        "RLIMIT_AS and RLIMIT_DATA with these, with room for one more stack",
    ),
    aliases=(
        *("vm.max_map_count", "rlimit_as", "limitas", "ulimit -v", "rlimit_data", "limitdata"),
        *("rlimit_stack", "limitstack", "ulimit -s"),
    ),
    rehearsal="thread-stack-mappings",
    verify={
        "": do(
            "Check the address space, data size and locked memory limits, the number of mappings, "
            "and the commit limit.",
            "cat /proc/{pid}/limits",
            "wc -l < /proc/{pid}/maps",
            "sysctl vm.max_map_count",
            "grep Commit /proc/meminfo",
        ),
        "vm.max_map_count": do(
            "Compare the number of mappings with the limit{seen}. A thread needs one mapping for "
            "its stack and usually one for its guard page.",
            "wc -l < /proc/{pid}/maps",
            "sysctl vm.max_map_count",
        ),
        "RLIMIT_AS": do(
            "Compare VmSize with the limit{seen}.",
            "grep VmSize /proc/{pid}/status",
            "grep 'address space' /proc/{pid}/limits",
        ),
        "RLIMIT_DATA": do(
            "Compare VmData with the limit{seen}.",
            "grep VmData /proc/{pid}/status",
            "grep 'data size' /proc/{pid}/limits",
        ),
        "RLIMIT_MEMLOCK": do(
            "Compare VmLck with the limit{seen}; mlockall(MCL_FUTURE) locks every new stack.",
            "grep VmLck /proc/{pid}/status",
            "grep 'locked memory' /proc/{pid}/limits",
        ),
        "commit charge": do(
            "The mode is 2, and there is no room for another stack below CommitLimit{seen}.",
            "sysctl vm.overcommit_memory",
            "grep Commit /proc/meminfo",
        ),
    },
    mitigate={
        "": do(
            "Raise the limit that was hit, or use smaller stacks.",
            "sysctl vm.max_map_count=N",
            "prlimit --pid {pid} --as=unlimited",
        ),
        "vm.max_map_count": do(
            "Raise the limit{now}. It applies to the whole host, containers included.",
            "sysctl vm.max_map_count=N",
        ),
        "RLIMIT_AS": do(
            "Lift the limit of the running process.", "prlimit --pid {pid} --as=unlimited"
        ),
        "RLIMIT_DATA": do(
            "Lift the limit of the running process.", "prlimit --pid {pid} --data=unlimited"
        ),
        "RLIMIT_MEMLOCK": do(
            "Lift the limit of the running process.", "prlimit --pid {pid} --memlock=unlimited"
        ),
        "commit charge": do(
            "Raise the commit limit. Last resort: leave mode 2.",
            "sysctl vm.overcommit_ratio={ratio}",
            "sysctl vm.overcommit_memory=0  # last resort",
        ),
        "overcommit-kbytes": do(
            "Raise the commit limit. Last resort: leave mode 2.",
            "sysctl vm.overcommit_kbytes={kbytes}",
            "sysctl vm.overcommit_memory=0  # last resort",
        ),
    },
    fix={
        "": do(
            "Run fewer threads, or use smaller stacks: set `ulimit -s` (in KiB) before the start, "
            "LimitSTACK= in a unit, -Xss for Java, or pthread_attr_setstacksize.",
            "ulimit -s 1024",
        ),
        "vm.max_map_count": do(
            "Run fewer threads and mappings in one process; smaller stacks (-Xss) do not help. Persist "
            "vm.max_map_count=N in /etc/sysctl.d/90-maps.conf: 262144 is common, and Elasticsearch asks "
            "for 1048576."
        ),
        "RLIMIT_AS": do(
            "Remove `ulimit -v` or LimitAS= where the process is started; or use smaller stacks (-Xss "
            "for Java, LimitSTACK= in a unit). A 32-bit program has at most 4 GiB whatever the limit.",
            "ulimit -s 1024",
        ),
        "RLIMIT_DATA": do(
            "Remove `ulimit -d` or LimitDATA= where the process is started; or use smaller stacks "
            "(-Xss for Java, LimitSTACK= in a unit).",
            "ulimit -s 1024",
        ),
        "RLIMIT_MEMLOCK": do(
            "Raise LimitMEMLOCK= of the unit, or memlock in /etc/security/limits.conf or for the "
            "container; or do without MCL_FUTURE.",
            "docker run --ulimit memlock=-1 IMAGE",
        ),
        "commit charge": do(
            "A stack is charged at its full size: use smaller ones (-Xss for Java). Persist the "
            f"sysctls you set in {_KEEP_OVERCOMMIT}.",
            "ulimit -s 1024",
        ),
    },
    careful={
        "": do(
            "These limits keep one process from taking the whole host: a leak of threads is no reason to "
            "lift them."
        ),
        "vm.max_map_count": do(
            "It holds for each process of the host; a mapping takes some 200 bytes of kernel memory, and "
            "a leak of threads takes any number of them."
        ),
        "commit charge": do(_CHOSEN),
        "overcommit-kbytes": do(_CHOSEN),
    },
    myths=(
        "unable to create native thread means that the heap is too small: a larger heap leaves "
        "less room for stacks.",
        "EAGAIN from pthread_create is a limit on processes: just as often the stack could not be "
        "mapped, and clone was never called.",
        "vm.max_map_count makes fork fail: fork never checks it, thread creation does.",
    ),
)


# https://kubernetes.io: in-place resize, beta since 1.33.
RESIZE = (
    "kubectl{in_namespace} patch pod {pod} --subresource resize --patch "
    '\'{{"spec":{{"containers":[{{"name":"{of_pod}","resources":'
    '{{"limits":{{"memory":"{size_mi}"}}}}}}]}}}}\''
)
# enum ft_memcg_counter: those beside memory.limit_in_bytes, which is told as memory.max.
_COUNTERS_OF_V1 = {1: "memory.memsw.limit_in_bytes", 2: "memory.kmem.limit_in_bytes"}


def _memory_max(seen: KernelReadings, host: HostReadings) -> tuple[Evidence, ...]:
    names = ("memcg_cgroup", "memcg_pages", "memcg_max", "memcg_levels_up")
    kib = host.page_bytes // 1024
    kind = "memory-cgroup"  # of events.LEVELS
    found = evidence.cgroup_levels(
        seen, ("memory.max", kind, "KiB", _NO_PAGE_LIMIT), names, lambda pages: pages * kib
    )
    counter = _COUNTERS_OF_V1.get(seen.numbers.get("memcg_counter", 0))
    if counter is None or not found:
        return found
    return (replace(found[0], name=counter), *found[1:])


MEMORY_CGROUP = Cause(
    slug="memory-cgroup",
    errnos=("ENOMEM",),
    means="a memory cgroup is at its limit, and there was nothing in it to reclaim or kill",
    limit="`memory.max` of the cgroup or an ancestor (systemd `MemoryMax=`, `docker --memory`, "
    "resources.limits.memory)",
    steps=_ALLOCATING,
    # One that is observed, and one at its limit, is preferred to want of memory: see `verdict`.
    fits=(
        Fit(errno.ENOMEM, "memcg", "copy_process"),
        Fit(errno.EFAULT, "memcg", "copy_process"),
        # With room below its limit it is the last that one thinks of.
        Fit(errno.ENOMEM, "memcg-limited", "copy_process", ASKED, 10),
        Fit(errno.EFAULT, "memcg-limited", "copy_process", ASKED, 4),
    ),
    evidence=_memory_max,
    structures=("mem_cgroup",),
    is_of_cgroup=True,
    check=Gauge(
        "memory.max",
        "KiB",
        "only where a memory cgroup is at its limit: what it holds and can neither drop nor swap, "
        "and 256 KiB for one more fork, with `memory.max`. It is never near: many live there",
    ),
    aliases=("memory.max", "memorymax", "memory.limit_in_bytes", "memorylimit"),
    rehearsal="memory-cgroup",
    verify=do(
        "Compare usage with the limit{seen}, and see how often it was hit. Tasks in it that have "
        "oom_score_adj -1000 cannot be killed to make room.",
        "cat {dir}/{mem_now} {dir}/{mem_max}",
        "cat {dir}/{mem_events}",
    ),
    mitigate={
        "": do("Raise the limit, or end something in the cgroup.", "echo SIZE > {dir}/{mem_max}"),
        # mm/memcontrol-v1.c, mem_cgroup_resize_max.
        "v1": do(
            _V1_MEMORY,
            "echo SIZE > {dir}/memory.memsw.limit_in_bytes",
            "echo SIZE > {dir}/{mem_max}",
        ),
        "unit-inside": do(
            "Raise {mem_property}= of the unit. A service manager inside a container made it; a unit of "
            "that name on the host is another one.",
            "nsenter --target {pid} --all systemctl set-property --runtime {unit} {mem_property}=SIZE",
            _ECHO_MEMORY,
        ),
        "containerd": do(
            "Raise the container's limit: with nerdctl, or as root in its cgroup.",
            "nerdctl update --memory SIZE {id}",
            _ECHO_MEMORY,
        ),
        "lxc": do(
            "Raise the container's limit, by what manages it: Incus, LXD, or neither (LXC, Proxmox), "
            "where it lasts until the container is restarted.",
            "incus config set {lxc} limits.memory {size_mib}",
            "lxc config set {lxc} limits.memory {size_mib}",
            "echo SIZE > {dir}/{mem_max}",
        ),
        "systemd-service": do(
            "Raise {mem_property}= of the unit; it takes effect immediately.",
            "systemctl set-property --runtime {unit} {mem_property}=SIZE",
            _ECHO_MEMORY,
        ),
        "systemd-scope": do(
            "Raise {mem_property}= of the scope; it takes effect immediately.",
            "systemctl set-property --runtime {unit} {mem_property}=SIZE",
            _ECHO_MEMORY,
        ),
        "slice": do(
            "Raise {mem_property}= of the slice. All units in the slice share it.",
            "systemctl set-property --runtime {unit} {mem_property}=SIZE",
            _ECHO_MEMORY,
        ),
        "login-session": do(
            "Raise {mem_property}=; it takes effect immediately, in open sessions too.",
            "systemctl set-property --runtime {unit} {mem_property}=SIZE",
            _ECHO_MEMORY,
        ),
        "user-unit": do(
            "As root or as uid {owner}, raise {mem_property}= of the unit.",
            "systemctl --user --machine={owner}@.host set-property --runtime {unit} {mem_property}=SIZE",
        ),
        "docker": do(
            "Raise the container's limit; the container keeps running. --memory-swap is memory plus "
            "swap: with both the same the container would have no swap.",
            "docker update --memory SIZE --memory-swap -1 {id}",
        ),
        "podman": do(
            "Raise the container's limit as the user who runs it (podman 4.4 or newer), or write "
            "it to the cgroup as root.",
            "podman update --memory SIZE {id}",
            _ECHO_MEMORY,
        ),
        "kubernetes": do(
            "On the node, raise the limit as root. It lasts until the kubelet recreates the cgroup "
            "or resizes the pod.",
            "echo SIZE > {dir}/{mem_max}",
            RESIZE,
        ),
        "kubernetes-systemd": do(
            "On the node, raise the limit. It lasts until the kubelet recreates the cgroup or resizes "
            "the pod; or resize the pod in place (Kubernetes 1.33).",
            "systemctl set-property --runtime {unit} {mem_property}=SIZE",
            RESIZE,
            _ECHO_MEMORY,
        ),
        "kubernetes-node": do(
            "On the node, raise the limit that all pods share.", "echo SIZE > {dir}/{mem_max}"
        ),
    },
    fix={
        "": do(
            "Raise the limit in whatever creates the cgroup, or find what fills it.",
            "cat {dir}/memory.stat",
        ),
        "systemd-service": do(
            "Raise {mem_property}= permanently, or find what fills the cgroup.",
            "systemctl set-property {unit} {mem_property}=SIZE",
            "cat {dir}/memory.stat",
        ),
        "systemd-scope": do(
            "Scopes do not persist: set {mem_property}= where the scope is created.",
            "systemd-run --scope -p {mem_property}=SIZE COMMAND",
        ),
        "slice": do(
            "Raise {mem_property}= permanently, or move a greedy unit to another slice with "
            "Slice=.",
            "systemctl set-property {unit} {mem_property}=SIZE",
        ),
        "login-session": do(
            "For all users, set {mem_property}=SIZE under [Slice] in "
            "/etc/systemd/system/user-.slice.d/50-memory.conf and reload.",
            "systemctl daemon-reload",
        ),
        "user-unit": do(
            "As root or as uid {owner}, raise {mem_property}= permanently.",
            "systemctl --user --machine={owner}@.host set-property {unit} {mem_property}=SIZE",
        ),
        "docker": do(
            "Start the container with a higher limit (compose: mem_limit) and without "
            "--oom-kill-disable.",
            "docker run --memory SIZE IMAGE",
        ),
        "podman": do(
            "Start the container with a higher limit and without --oom-kill-disable.",
            "podman run --memory SIZE IMAGE",
        ),
        "kubernetes": do(
            "Raise resources.limits.memory of the container (the pod's cgroup has the sum of its "
            "containers), and do not run anything in it with oom_score_adj -1000."
        ),
        "kubernetes-node": do(
            "All pods of the node share this limit: reserve less in the kubelet's systemReserved "
            "and kubeReserved, or use a larger node."
        ),
    },
    myths=(
        "memory.max makes fork return ENOMEM: usually the OOM killer acts instead; ENOMEM comes "
        "when it finds nothing to kill.",
        "The step that failed is the cause: charges are batched, so which allocation hits the limit "
        "is an accident.",
    ),
    careful={
        "": do("More than the host has moves the shortage to the others on it."),
        "systemd-service": do(_REVERT),
        "systemd-scope": do(_REVERT),
        "slice": do(_REVERT),
        "user-unit": do("More than the host has moves the shortage to the others on it."),
        "login-session": do(_REVERT),
        "docker": do(
            "More than the host has moves the shortage to the others on it; --memory-swap -1 lifts the "
            "container's limit of swap as well."
        ),
    },
)

KERNEL_MEMORY = Cause(
    slug="kernel-memory",
    errnos=("ENOMEM", "ENOBUFS"),
    means="the kernel could not allocate memory for its own structures: out of RAM, or at a memory "
    "cgroup's limit",
    limit="the kernel's own memory, or a memory cgroup",
    steps=_ALLOCATING,
    # kernel/cred.c, set_cred_ucounts: an EAGAIN that is really want of memory. ENOMEM of any step
    # is this cause unless another one claims it: see `verdict`.
    refusals=(
        Refusal("set_cred_ucounts"),
        Refusal("copy_creds", errno.EAGAIN),
        # kernel/ucount.c, inc_ucount: no memory for a count is ENOSPC too.
        Refusal("", detail="ns-room"),
        # net/core/net_namespace.c, setup_net: each subsystem has errnos of its own for it.
        Refusal("copy_net_ns"),
    ),
    fits=(
        Fit(errno.EAGAIN, "asked-newuser", "set_cred_ucounts", ASKED, 8),
        Fit(errno.ENOMEM, "", "copy_process", ASKED, 9),
        Fit(errno.ENOSPC, "ns-room", "copy_namespaces", ASKED, 1),
        # Where the pidfd is to be written, or clone3's arguments lie, a page may have to be had first.
        Fit(errno.EFAULT, "pointer-mapped", "copy_process", ASKED, 1),
        Fit(errno.EFAULT, "", "copy_process", ASKED, 10),
        *(Fit(number, "new-net", "copy_net_ns", ASKED, 8) for number in _NET_ERRNOS),
    ),
    aliases=("slub", "--kernel-memory", "memory.kmem.limit_in_bytes"),
    verify=do(
        "Look for a shortage in the kernel's own memory, for failed allocations in its log, and "
        "for memory.max events in the caller's cgroup.",
        "grep -E 'MemAvailable|SUnreclaim|KernelStack|PageTables' /proc/meminfo",
        "dmesg | grep -E 'allocation failure|Out of memory|SLUB'",
        "cat {own_dir}/memory.events",
    ),
    mitigate=do(
        "End whatever the host can spare, or raise the memory limit of the caller's cgroup and its "
        "ancestors."
    ),
    fix=do(
        "Add memory or run fewer tasks: on x86 each takes 16 KiB of kernel stack and more. A fork copies "
        "the whole table of descriptors, 8 bytes for each number up to the highest open one. Drop "
        "docker's --kernel-memory where an old setup has it: newer kernels ignore it, older ones leak."
    ),
    myths=(
        "free shows gigabytes, so the kernel is lying: a cgroup's limit, or a pid namespace whose "
        "init has exited, answers ENOMEM as well.",
    ),
)

MAPPING_LIMIT = Cause(
    slug="mapping-limit",
    errnos=("ENOMEM",),
    means="a new thread in a process with shadow stacks needs a shadow stack of its own, and it "
    "could not be mapped",
    limit="`RLIMIT_AS`, `vm.max_map_count` or the commit limit, for a shadow stack",
    steps=("shstk_alloc_thread_stack",),
    refusals=(
        Refusal("shstk_alloc_thread_stack"),
        Refusal("shstk_alloc_thread_stack", errno.ENOMEM),
    ),
    evidence=evidence.thread_stack,
    verify=do(
        "The process uses shadow stacks (shstk); compare its mappings and its address space with "
        "their limits.",
        "grep x86_Thread_features /proc/{pid}/status",
        "wc -l < /proc/{pid}/maps",
        "sysctl vm.max_map_count",
        "grep 'address space' /proc/{pid}/limits",
    ),
    mitigate=do(
        "Raise the limit that was hit; with vm.overcommit_memory=2, raise vm.overcommit_ratio.",
        "sysctl vm.max_map_count=N",
        "prlimit --pid {pid} --as=unlimited",
    ),
    fix=do(
        "Run fewer threads or use smaller stacks (a shadow stack is as large as the stack); or "
        "disable shadow stacks in the program's environment.",
        "export GLIBC_TUNABLES=glibc.cpu.x86_shstk=off",
    ),
    myths=(
        "The stack that libc maps is all that a thread needs: with shadow stacks, the kernel maps "
        "another one inside clone.",
    ),
    careful=do(
        "Without shadow stacks the program lacks a defence against overwritten return addresses; the "
        "other limits keep one process from taking the whole host."
    ),
)
