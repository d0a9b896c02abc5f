"""What a text is about: a process, a thread, a namespace ... that was refused, or no fork at all. Pure.

General rules over what messages have in common: the call or the thing that is named, the verb, the
errno. What single applications print word for word is `texts`'.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from fork_trace.diagnosis import errnos
from fork_trace.diagnosis.cause import Cause
from fork_trace.diagnosis.causes import (
    CAUSES,
    arguments,
    late,
    memory,
    namespaces,
    policy,
    state,
    tasks,
)


class Kind(NamedTuple):
    """One kind of refusal, as far as a text tells it."""

    name: str
    means: str  # a sentence
    decides: tuple[str, ...]  # commands that tell here and now which cause it is, best first
    usual: tuple[Cause, ...]  # where no errno is told, likeliest first
    possible: tuple[Cause, ...]  # those too, where the errno is theirs


_WATCH = "sudo fork-trace capture --duration 60"
_WATCH_ALL = "sudo fork-trace capture --refused --duration 60"
_CHECK = "fork-trace check"
_STRACE = "strace -f -e trace=clone,clone3,unshare,setns,execve COMMAND"
_THREAD_ONLY = (
    *(memory.THREAD_STACK, memory.MAPPING_LIMIT, state.EXEC_IN_PROGRESS),
    namespaces.UNSHARED_NAMESPACE,
)
_NAMESPACE = (
    *(namespaces.USER_NAMESPACE_DENIED, namespaces.NAMESPACE_LIMIT, namespaces.NAMESPACE_DEPTH),
    *(namespaces.NAMESPACE_DENIED, namespaces.MOUNT_LIMIT, namespaces.UNSHARED_NAMESPACE),
)
# Of the usual causes of a process, posix_spawn and vfork copy no mappings: overcommit has no say.
PROCESS = (
    *(tasks.PIDS_CGROUP, tasks.RLIMIT_NPROC),
    *(memory.OVERCOMMIT_HEURISTIC, memory.OVERCOMMIT_NEVER, tasks.PID_MAX, tasks.THREADS_MAX),
    *(namespaces.PID_NAMESPACE_DEAD, memory.MEMORY_CGROUP, memory.KERNEL_MEMORY),
)
SPAWN = tuple(
    cause
    for cause in PROCESS
    if cause not in (memory.OVERCOMMIT_HEURISTIC, memory.OVERCOMMIT_NEVER)
)
THREAD = (
    *(tasks.PIDS_CGROUP, tasks.RLIMIT_NPROC, memory.THREAD_STACK, policy.SECCOMP, tasks.PID_MAX),
    *(tasks.THREADS_MAX, state.EXEC_IN_PROGRESS, state.DEADLINE_POLICY),
    namespaces.UNSHARED_NAMESPACE,
)
_ANY = tuple(cause for cause in CAUSES if cause.errnos and cause not in _THREAD_ONLY)

KINDS: tuple[Kind, ...] = (
    Kind(
        "process",
        "A new process was refused.",
        (_WATCH, _CHECK),
        PROCESS,
        tuple(cause for cause in _ANY if cause not in (arguments.INVALID_FLAGS,)),
    ),
    Kind(
        "thread",
        "A new thread was refused. For the kernel a thread is a task like any other; the heap "
        "and free memory have little to do with it.",
        (_WATCH_ALL, _CHECK),
        THREAD,
        (
            *(*THREAD, memory.MEMORY_CGROUP, memory.KERNEL_MEMORY, policy.SECURITY_MODULE),
            *(arguments.INVALID_FLAGS, memory.MAPPING_LIMIT),
        ),
    ),
    Kind(
        "thread-attributes",
        "The thread was created, and then one of its attributes was refused, so pthread_create "
        "took it back: the kernel's fork refused nothing. EPERM: a realtime policy or priority "
        "without CAP_SYS_NICE or a large enough RLIMIT_RTPRIO. EINVAL: a CPU outside the cpuset, "
        "or a stack below PTHREAD_STACK_MIN.",
        (
            "strace -f -e trace=clone,clone3,sched_setscheduler,sched_setaffinity COMMAND",
            "grep -e Cpus_allowed_list -e Seccomp /proc/PID/status",
            "grep 'realtime priority' /proc/PID/limits",
        ),
        (),
        (),
    ),
    Kind(
        "kernel-thread",
        "The kernel could not start a thread of its own. EINTR: the program that waited for it "
        "(mount, modprobe) was killed meanwhile, so look for what killed that.",
        ("journalctl -k -b", _WATCH),
        (tasks.THREADS_MAX, tasks.PID_MAX, memory.KERNEL_MEMORY),
        (),
    ),
    Kind(
        "namespace",
        "A new namespace, or what has to be set up in it, was refused.",
        (_STRACE, "sysctl -a --pattern '^(user|kernel)[.].*(namespaces|userns)'", _WATCH_ALL),
        (*_NAMESPACE, policy.SECCOMP, memory.KERNEL_MEMORY),
        (memory.MEMORY_CGROUP, namespaces.PID_NAMESPACE_DEAD, policy.SECURITY_MODULE),
    ),
    Kind(
        "cgroup",
        "A task was refused by the cgroup that it was to be in: a write to a cgroup file, or a "
        "fork right into it (CLONE_INTO_CGROUP). That is none of its limits on tasks or memory.",
        (
            "cd /sys/fs/cgroup/PATH && cat cgroup.type cgroup.subtree_control",
            _WATCH,
        ),
        (arguments.CGROUP_REFUSED,),
        (),
    ),
    Kind(
        "exec",
        "The process was there already: its execve, or the change of user before it, was refused. "
        "EAGAIN: after a change of user, the new user has more tasks than RLIMIT_NPROC allows.",
        (_CHECK, "ps -L -U USER -o comm= | sort | uniq -c | sort -n"),
        (tasks.RLIMIT_NPROC,),
        (memory.KERNEL_MEMORY, memory.MEMORY_CGROUP),
    ),
    Kind(
        "late",
        "The fork succeeded, and the process was killed later, mostly for want of memory: after "
        "a fork, pages are shared until somebody writes to them, so a shortage shows late.",
        (
            "journalctl -k -b --grep 'oom-kill|Killed process'",
            "grep oom_kill /sys/fs/cgroup/PATH/memory.events",
            _WATCH,
        ),
        (late.COPY_ON_WRITE, late.MEMORY_CGROUP_OOM),
        (late.HOST_OOM,),
    ),
    Kind(
        "slow",
        "The fork succeeded and took long: the larger a process is, the longer its page tables take "
        "to copy; or it waited for a lock, for memory or for a processor.",
        ("sudo fork-trace latency --duration 60",),
        (),
        (),
    ),
    Kind("not-a-fork", "No fork was refused here.", ("strace -f COMMAND",), (), ()),
)
BY_KIND: Mapping[str, Kind] = {kind.name: kind for kind in KINDS}

# What else an errno says where no fork has refused.
_OTHERWISE = {
    "EMFILE": "The process has as many open files as `ulimit -n` (RLIMIT_NOFILE) allows. Programs "
    "open pipes for a child before they fork, so fork was never called.",
    "ENFILE": "The host has as many open files as fs.file-max allows. Programs open pipes for a "
    "child before they fork, so fork was never called.",
    "ERANGE": "fork never gives ERANGE: the program has kept the errno of something else.",
    "EAGAIN": "A read, a write, a lock or another call would have had to wait, or a limit of its "
    "own is reached.",
    "ENOMEM": "A program asked for more memory: RLIMIT_AS, the commit limit, its cgroup, or the host "
    "had no more.",
    "ENOSPC": "A file system is full (`df -h; df -i`), or a limit of the call's own, such as that "
    "of inotify watches, is reached.",
    "EACCES": "Permissions of a file, or a security module.",
    "EPERM": "A privilege is missing, or a security module refused.",
}
_DECIDES_FILES = {
    "EMFILE": ("grep 'open files' /proc/PID/limits", "ls /proc/PID/fd | wc -l"),
    "ENFILE": ("cat /proc/sys/fs/file-nr",),
}


def means(name: str, error: str | None) -> str:
    """Say what a kind is; where no fork was refused, what the errno says instead."""
    kind = BY_KIND[name]
    more = _OTHERWISE.get(error or "") if name == "not-a-fork" else None
    return f"{kind.means} {more}" if more else kind.means


def decides(name: str, error: str | None) -> tuple[str, ...]:
    """Return the commands that decide between the causes here and now, the best first."""
    if name == "not-a-fork" and error in _DECIDES_FILES:
        return _DECIDES_FILES[error]
    return BY_KIND[name].decides


def causes(name: str, error: str | None) -> tuple[Cause, ...]:
    """Return the causes that a kind can have with an errno (None: not told), likeliest first."""
    kind = BY_KIND[name]
    if error is None:
        return kind.usual
    if name == "process" and error == "EINVAL":
        return tuple(cause for cause in CAUSES if error in cause.errnos[:3])
    # A cause that seldom gives this errno comes after those for which it is one of the first two.
    found = [cause for cause in (*kind.usual, *kind.possible) if error in cause.errnos]
    found.sort(key=lambda cause: cause.errnos.index(error) > 1)
    return unique(found)


def of_cause(cause: Cause) -> tuple[str, ...]:
    """Return the kinds that can be refused for a cause, those for which it is usual first."""
    usual = [kind.name for kind in KINDS if cause.slug in {each.slug for each in kind.usual}]
    possible = [kind.name for kind in KINDS if cause.slug in {each.slug for each in kind.possible}]
    return tuple(dict.fromkeys((*usual, *possible)))


def unique(found: Iterable[Cause]) -> tuple[Cause, ...]:
    """Return each cause once, where it comes first."""
    by_slug: dict[str, Cause] = {}
    for cause in found:
        by_slug.setdefault(cause.slug, cause)
    return tuple(by_slug.values())


# Every errno that the kernel's fork itself is known to give.
_OF_A_FORK = {name for cause in CAUSES for name in cause.errnos} | {"EINTR", "EAGAIN"}
_ONLY_OF_EXEC = {"ENOEXEC", "E2BIG", "ETXTBSY"}
_OF_EXEC = {"ENOENT", "ENOEXEC", "E2BIG", "ETXTBSY", "ENOTDIR", "EISDIR", "ELOOP"}

# Who passes on another one's message says "exec" and "create" by itself.
_WRAPPERS = r"oci runtime (?:exec|create) failed: (?:\w+ (?:create |exec )?failed: )?"
_VERB = (
    r"(?:creat|start|spawn|launch|allocat|mak|init|construct|fork|instantiat|add|get|clon|run)\w*"
)
_REFUSED = (
    r"fail|cannot|can'?t\b|can not|could ?n[o']t|unable|error|refus|reject|denied|not permitted|"
    r"not allowed|unavailable|insufficient|exceed|limit|too many|exhaust|not enough|reached|no more|"
    r"out of|fatal|panic|abort|\bfull\b|失败|失敗|错误|エラー|실패|오류|fehler|échou|impossible|erreur|"
    r"no se pudo|ошибка|не удалось|impossibile|errore|nie mo|não foi|retry|kill|imposs|"
    r"unsuccess|did(?:n't| not) succeed|returned -1|konnten? kein|falló|no es posible|no se puede"
)
# A thread, in the words of other languages too: there a verb is not looked for.
_THREAD_WORD = (
    r"(?:p?thread(?:s|ed)?|phtreads?|threadpool\w*|thread_\w+|goroutines?|lwps?)(?![a-z])|线程|執行緒|线程|スレッド|"
    r"스레드|поток|потік|wątk|vlákn|tråd(?![a-z])"
)
_RULES: Mapping[str, str] = {
    # Calls and classes that are about threads and nothing else.
    "thread-call": (
        r"pthread_create|pthread create|phtread|thrd_create|uv_thread_create|thread[._:]+create|"
        r"createthread|createnativethread|beginthread|std::thread|boost::thread|qthread|g_thread|gthread|"
        r"threaderror|threadpoolbuild|thread constructor|native threads?|os threads?\b|kmp_|\bomp: |"
        r"libgomp|openblas|blas_thread|err_worker|worker_threads|clone_thread|erts_thr|start_new_thread|"
        r"start_thread|thread[_-]start|std\.thread|thread pool|worker initialization|"
        r"thread_create|threads?_spawn|system_error|java/lang/thread|\bthread::|_thread\.error|newosproc"
    ),
    "thread": (
        rf"{_VERB} (?:\S+ ){{0,5}}?(?:{_THREAD_WORD})|"
        rf"(?:{_THREAD_WORD})(?: \S+){{0,3}}? (?:{_VERB})|"
        rf"(?:{_THREAD_WORD})[ #\d]*(?:\([^)]*\))?:? ?(?:{_REFUSED}|resource|cannot)|"
        rf"(?:{_REFUSED})\S* (?:\S+ ){{0,4}}?(?:{_THREAD_WORD})|thread: |"
        # As git's translations have it, where the word alone means other things too.
        r"kann (?:einen )?thread|erzeugen eines threads?|(?:créer|création d[eu]) (?:le |un )?fil(?![a-z])|"
        r"crear (?:el |un )?hilo|(?:线程|執行緒|スレッド|스레드|поток|потік)"
    ),
    "attributes": (
        r"pthread_attr_|pthread_set(?:affinity|schedparam|schedprio|name)|sched_set(?:affinity|scheduler|param)"
        r".*thread|thread.*(?:affinity|real-?time|rt priority|schedul\w+ policy|sched_fifo|sched_rr|priorit)|"
        r"(?:affinity|real-?time|schedul\w+ policy|sched_fifo|sched_rr).*thread"
    ),
    # Calls on threads that are there.
    "lock": r"pthread_(?:mutex|cond|rwlock|spin|barrier|join|detach|key|once|kill|cancel|sigmask)",
    # fork by name, or what stands for it.
    "fork": (
        r"(?<![a-z/-])(?:v|r|mc|do_|os_|pcntl_|safe_|x|_)?fork(?:ing|ed|s|pty|server|_?exec)?"
        r"(?![a-z-]|\.[a-z])|posix_spawnp?|fork/exec|skgpspawn"
    ),
    "clone": r"(?<![a-z])(?:clone3?|cloning|__clone2?|sys_clone)(?![a-z])",
    "spawn": (
        r"(?<![a-z])(?:spawn(?:ing|ed|sync|p)?|popen\w*|proc_open|subprocess\w*|child[ _-]?process\w*|"
        r"createprocess|processbuilder|system\(\)|execute process|cannot run program|"
        r"new process(?:es)?|executor|backquote|pipe_open)(?![a-z])"
    ),
    "process": (
        r"process(?:es)?(?![a-z])|child(?:ren)?(?![a-z])|daemon|worker|workers|helper|"
        r"subshell|(?:shell|exec|subsystem|pty allocation) request|进程|程序|プロセス|프로세스|prozess|processus|proceso|процесс|processo"
    ),
    "namespace": (
        r"unshare|setns|nsenter|name ?spac(?:e|ing)|userns|user_ns|user ns|clone_new|newuser|newpid|newns|"
        r"usable sandbox|suid sandbox|setuid sandbox|nsjail|nsexec|bwrap|bubblewrap|"
        r"пространств\w+ им[её]н|命名空间|名前空間"
    ),
    "mapping": (
        r"(?:uid|gid)[_ ]?map|newuidmap|newgidmap|/proc/(?:self|\d+)/setgroups|id mapping|map root user|subuid"
    ),
    "mkdir": (
        r"(?:mkdir|create (?:the )?(?:cgroup|cgroup directory|/sys/fs/cgroup)|creating cgroup|"
        r"rmdir|remov\w+ cgroup|(?:un)?mount\w* \S+ to|delet\w+ (?:cgroup|/sys/fs/cgroup)|mount\w* (?:cgroup|\S*/sys/fs/cgroup))"
    ),
    "cgroup": (
        r"cgroup\.(?:procs|threads|subtree_control|type)|clone_into_cgroup|/sys/fs/cgroup/\S+|"
        r"(?:attach|join|enter|mov|add|migrat|assign|plac|put)\w* (?:\S+ ){0,6}?(?:cgroups?|slice)(?![a-z])|"
        r"step cgroup|status=219/cgroup|cgroup attach|into cgroup|to cgroup|cgroup_attach"
    ),
    "kernel-thread": (
        r"kthread|rescuer|kernel thread|kernel_thread|workqueue:|kswapd|khugepaged|kcompactd|kauditd|ksmd|"
        r"(?:bch2|btrfs|ext4|xfs|jbd2|nfsd?|lockd|md\d*|raid\d*|dm-\w+|drbd\d*|ceph|gfs2|ocfs2|f2fs|zfs|spl|"
        r"iscsi\w*|scsi\w*|vhost\S*|cifs|smb|rcu|usb\S*|bcache|nvme\S*|loop\d*|io_uring|iou-\S+)\S*(?: \S+)?: ?"
        r"(?:\S+ ){0,8}?threads?|\bkernel: .*threads?|^\[ *\d+\.\d{6}\] (?!systemd|init).*(?:threads?|daemon)(?![a-z])|"
        # The kernel prints its errnos as it returns them: below zero.
        r"threads?\b.*(?:[(: ]-(?:4|11|12)\b|-e(?:intr|again|nomem)\b)"
    ),
    "exec": (
        r"(?:fail(?:ed)? to|cannot|can'?t|can not|could ?n[o']t|unable to|error) exec(?:ut(?:e|ing))?(?![a-z])|"
        r"failed to execute|(?<![a-z/.])exec(?:v|ve|vp|vpe|l|lp|le|veat)(?![a-z])|step exec|status=203/exec|"
        r"(?<![a-z/-])exec(?:\(\))?:|exec\(\)|\bexec (?:of )?/\S+|exec failed|exec format error|"
        r"exec container process|executable (?:file )?\S+ not found|(?:^|: )exec \S+: |execute process|"
        r"failed to run command|cannot start ['/.]|execution of (?!the program)|cannot exec|could not exec"
    ),
    "user": (
        r"set(?:res|re|e|fs)?[ug]ids?(?![a-z])|set[_ ](?:the )?(?:real |effective )?(?:user|group)(?: ?id|s|\b)|"
        r"set_user|permanently_set_uid|initgroups|setusercontext|step (?:user|group)|status=21[67]/(?:user|group)|drop(?:ping)? privileges|"
        r"(?:chang|switch|becom)\w+ (?:to )?(?:the )?(?:\w+ )?(?:uid|user|gid)(?![a-z])|cannot set groups|set uid|su: cannot"
    ),
    # A shell or su that names a program and not fork has failed to execute it.
    "shell-exec": (
        r"(?:^|\s|-)(?:(?:ba|da|z|k|a|c)?sh|su|env|sudo|xargs|nohup|nice|time|doas|runuser)(?:\[\d+\])?: "
        r"(?:line \d+: )?(?:\.{0,2}/\S+|'[^']+'): "
    ),
    "late": (
        r"out of memory: kill|killed process|oom[-_ ]?kill|oom killer|killed by the oom|oomkilled|"
        r"invoked oom|memory cgroup out of memory|(?:exit(?:ed)?|status|code)\W{0,3}(?:code|status|with)?\W{0,3}"
        r"(?:code |status )?137\b|(?:code|errno|status)(?: is)? 137\b|signal:? ?(?:9|kill)|sigkill|status=9/kill|on signal 9|killed signal|"
        r"internal compiler error: killed|fatal error: killed|terminated abruptly|unexpectedly terminated|"
        r"line \d+: +\d+ killed|(?:^|[:\])] )killed\.?$|oomd killed|terminated by signal 9|perhaps out of memory"
    ),
    "slow": (
        r"latest_fork_(?:usec|us|ms|seconds)|latest fork (?:usec|time|duration)|"
        r"\bv?fork(?:ing|ed|\(\))?\b.{0,40}\b(?:took|takes|taking|is slow|latency|slow(?:ly)?)\b|"
        r"\b(?:slow|long|latency of|time to|took .{1,20} to|takes .{1,20} to) v?fork(?:s|ing)?\b|"
        r"\bv?fork(?:s|ing)? (?:time|duration)\b|"
        r"\blatency\b.{0,30}\bfork\b"
    ),
    # Allocation and I/O: what is printed with the same errnos, and is no fork.
    "other": (
        r"(?<![a-z])(?:x?m?malloc|calloc|x?realloc|mmap|mremap|brk|sbrk|mlock\w*|shm\w*|sem(?:get|op|ctl)|"
        r"msg(?:get|snd)|recv\w*|send\w*|connect|accept4?|read|readv|write|writev|open(?:at)?|f?lock|lockf|fcntl|"
        r"getlock|pipe2?|socketpair|socket|epoll\w*|inotify\w*|fanotify\w*|eventfd|timerfd|signalfd|mkdir|mount|"
        r"rename|stat|io_uring\w*|io_setup|bpf|perf_event_open|add_key|keyctl|getaddrinfo|bind|listen|poll|"
        r"select|truncate|fallocate|copy|ioctl|dlopen|getrandom|flush|fsync|insmod|modprobe)"
        r"(?:\(\d?\)|\([^)]*\))?(?: failed|: | error| to |\(\)| \(|$)|"
        r"(?:open|openat|read|write|mkdir|stat|unlink|rename|copy|creat|truncate|close) '?/\S+: |"
        r"socketpair|out of memory (?:while|when|in)|heap|malloc|realloc|commit_memory|bad_alloc|memoryerror|virtual memory exhausted|allocat\w+ \d+ bytes|"
        r"gc overhead|metaspace|native memory allocation|cuda|gpu|\block\b|/lock\b|watch(?:es)? limit|"
        r"file watchers|disk full|(?:error|failed) (?:writing|reading|opening)|shared memory|shared_?mem|eai_again|name resolution|"
        r"temporary failure|open (?:\w+ ){0,2}file|opening file|page allocation failure|no usable memory|too many open files.{0,3}$"
    ),
    # How many of them there may be is said of processes.
    "limit": (
        r"(?:limit|maximum|max|number|too many|no more)(?: \S+){0,5} (?:processes|process|children|child|forks|pids?|tasks)|"
        r"(?:processes|process|children|tasks|pids?)(?: \S+){0,6} (?:limit|reached|exceeded|exhausted)|"
        r"insufficient resources|ulimit -u|max user processes"
    ),
}
_REFUSED_FORK = (
    rf"(?:{_RULES['fork']}).{{0,40}}?(?:{_REFUSED})|(?:{_REFUSED}).{{0,40}}?(?:{_RULES['fork']})"
)
# These set no attributes of their own, so EPERM of a thread is a filter's.
_PLAIN_THREADS = (
    r"runtime/cgo|\[os,thread\]|java|jvm|node\[|uv_thread|python|ruby|can't start new thread|openblas|"
    r"libgomp|rayon|threadpoolbuild|tokio|chrome|grafana|seccomp|clone3"
)


def _is(text: str, name: str) -> bool:
    # `re` compiles it when it is first asked for, and keeps it: most texts need few of them.
    return re.search(_RULES[name], text) is not None


def is_refusal(text: str) -> bool:
    """Say whether a normal text speaks of something that failed."""
    return re.search(_REFUSED, text) is not None


def is_late_or_slow(text: str) -> bool:
    """Say whether a normal text is about a process that was killed, or a fork that took long."""
    return _is(text, "late") or _is(text, "slow")


def is_mapping(text: str) -> bool:
    """Say whether a normal text is about the ids of a user namespace that was made already."""
    return _is(text, "mapping")


def is_certain(text: str, error: str | None, asked: tuple[str, ...]) -> bool:
    """Say whether a normal line of a log, of which nobody has said what it is about, tells of a refusal.

    A person who asks for a text has picked it; of a whole log most lines are about something else.
    """
    kind = asked[0]
    if kind == "slow":
        return True
    if kind in ("late", "kernel-thread", "thread-attributes"):
        return kind == "late" or error is not None or is_refusal(text)
    if kind == "exec":
        return error in ("EAGAIN", "ENOMEM")
    if kind == "not-a-fork":
        return error in ("EMFILE", "ENFILE") and (_is(text, "spawn") or _is(text, "fork"))
    if kind in ("cgroup", "namespace"):
        return error is not None or (is_refusal(text) and kind == "namespace")
    if kind == "thread":
        is_made = _is(text, "thread-call") or _thread_is_made(text)
        return error is not None or (is_made and is_refusal(text))
    if _is(text, "fork"):
        return error is not None or re.search(_REFUSED_FORK, text) is not None
    return error is not None and (_is(text, "clone") or _is(text, "spawn"))


def read(text: str, error: str | None) -> tuple[str, ...]:
    """Return the kinds that a normal text with this errno can be, likeliest first; none: it tells of none."""
    text = re.sub(_WRAPPERS, "", text)
    for step in (
        _slow,
        _traced,
        _kernel_or_late,
        _cgroup,
        _user_or_exec,
        _thread,
        _namespace,
        _process,
        _rest,
    ):
        found = step(text, error)
        if found:
            return found
    return ()


def refine(kind: str, text: str, error: str | None) -> tuple[str, ...]:
    """Return the kinds of a text whose application is known to mean this kind; an errno can tell more."""
    if kind == "thread":
        return _thread_kinds(text, error)
    if kind == "process" and error in ("EMFILE", "ENFILE"):
        return _process_kinds(text, error)
    return (kind,)


def _slow(text: str, error: str | None) -> tuple[str, ...]:
    """One that went through: what failed has not been slow, whatever it says of the time."""
    if error is not None or not _is(text, "slow") or is_refusal(text):
        return ()
    return ("slow",)


def _traced(text: str, error: str | None) -> tuple[str, ...]:
    """A line of strace tells the call and its flags."""
    found = re.search(_STRACE_LINE, text)
    if found is None:
        return ()
    call, arguments_ = found[1], found[2]
    if call in ("fork", "vfork", "clone", "clone2", "clone3"):
        if "clone_thread" in arguments_:
            return _thread_kinds(text, error)
        if "clone_into_cgroup" in arguments_ and error in arguments.CGROUP_REFUSED.errnos:
            return ("cgroup", "process")
        if "clone_new" in arguments_ and error not in ("EAGAIN", "ENOMEM"):
            return ("namespace",)
        return ("process",)
    if call == "mmap" and "map_stack" in arguments_:
        return ("thread",)
    if call.startswith("write") and "cgroup" in arguments_:
        return ("cgroup",)
    return _TRACED.get(call, ("not-a-fork",))


def _kernel_or_late(text: str, error: str | None) -> tuple[str, ...]:
    if _is(text, "late"):
        return ("late",)
    is_user_s = _is(text, "thread-call") and "kthread" not in text
    if _is(text, "kernel-thread") and not is_user_s:
        return ("kernel-thread",)
    return ()


def _cgroup(text: str, error: str | None) -> tuple[str, ...]:
    if "fork rejected by pids" in text:
        return ("process",)
    if "cgroup" in text and _is(text, "mkdir"):
        return ("not-a-fork",)
    if ("cgroup" in text or "slice" in text) and _is(text, "cgroup"):
        return ("cgroup",)
    is_start = _is(text, "fork") or _is(text, "spawn") or _is(text, "clone")
    if is_start and error in ("EBUSY", "EOPNOTSUPP"):
        return ("cgroup", "process")
    return ()


def _user_or_exec(text: str, error: str | None) -> tuple[str, ...]:
    if _is(text, "mapping"):
        return ("namespace",)
    if _is(text, "fork") or _is(text, "thread-call"):
        return ()
    if error in _ONLY_OF_EXEC:
        return ("exec",)
    if _is(text, "user") and "sandbox" not in text:
        return ("exec",)
    if "never executed" in text or "cannot run program" in text:
        return ()  # of a spawn, which tells both so
    if _is(text, "exec") or _is(text, "shell-exec"):
        # Rust tells an execve that failed in the child just so, and a fork too.
        return ("process", "exec") if "os error" in text else ("exec",)
    return ()


def _thread(text: str, error: str | None) -> tuple[str, ...]:
    if _is(text, "attributes"):
        return ("thread-attributes", "thread")
    if _is(text, "lock") and "pthread_create" not in text:
        return ("not-a-fork",)
    if _is(text, "thread-call"):
        return _thread_kinds(text, error)
    is_fork = _is(text, "fork") or (_is(text, "spawn") and "worker" not in text)
    has_words = "thread" in text or "spawn" not in text
    if has_words and _is(text, "thread") and (not is_fork or _thread_is_made(text)):
        if error in ("EMFILE", "ENFILE"):
            return ("not-a-fork", "thread")
        return _thread_kinds(text, error)
    return ()


def _thread_is_made(text: str) -> bool:
    return re.search(rf"{_VERB} (?:\S+ ){{0,2}}?(?:{_THREAD_WORD})", text) is not None


def _thread_kinds(text: str, error: str | None) -> tuple[str, ...]:
    if error in ("EPERM", "EINVAL"):
        if error == "EPERM" and re.search(_PLAIN_THREADS, text):
            return ("thread", "thread-attributes")
        return ("thread-attributes", "thread")
    return ("thread",)


def _namespace(text: str, error: str | None) -> tuple[str, ...]:
    is_fork = _is(text, "fork")
    if _is(text, "namespace"):
        if is_fork and error in (None, "EAGAIN", "ENOMEM") and "unshare fail" not in text:
            return ("process", "namespace")
        if error in ("EMFILE", "ENFILE"):
            return ("not-a-fork",)
        return ("namespace",)
    flags = ("EPERM", "ENOSPC", "EUSERS", "EINVAL", "EACCES")
    if _is(text, "clone") and error in flags:
        return ("namespace",)
    if "fork/exec" in text and error in ("EPERM", "ENOSPC"):
        return ("namespace", "exec") if error == "EPERM" else ("namespace",)
    if is_fork and error == "ENOSPC":
        return ("namespace", "process")
    return ()


def _process(text: str, error: str | None) -> tuple[str, ...]:
    if _is(text, "fork") or _is(text, "clone") or _is(text, "spawn"):
        return _process_kinds(text, error)
    return ()


def _process_kinds(text: str, error: str | None) -> tuple[str, ...]:
    call = re.search(r"\b(\w+)\([^)]*\) failed", text)
    if call and not re.search(r"fork|clone|spawn|exec|popen|system|process", call[1]):
        return ("not-a-fork", "process")  # on the way to the fork: ioctl(...) failed while spawning
    is_fork = _is(text, "fork") and "fork/exec" not in text and not re.search(r"fork_?exec", text)
    if error in ("EMFILE", "ENFILE"):
        # The pipes for a child come before it. Only where fork itself is named has it been called.
        if is_fork and not _is(text, "spawn") and "pipe" not in text:
            return ("process", "not-a-fork")
        return ("not-a-fork", "process")
    if error in _OF_EXEC:
        return ("exec",)
    if error == "EACCES" and not is_fork:
        return ("exec", "process")
    if error is not None and error not in _OF_A_FORK:
        return ("not-a-fork",)
    return ("process",)


def _rest(text: str, error: str | None) -> tuple[str, ...]:
    if _is(text, "other"):
        return ("not-a-fork",)
    if _is(text, "limit"):
        return ("process",)
    if error is None:
        is_told = _is(text, "process") and is_refusal(text) and re.search(_VERB + "|request", text)
        return ("process",) if is_told else ()
    if _is(text, "process") and error in ("EAGAIN", "ENOMEM"):
        return ("process",)
    found = _BY_ERRNO.get(error, ("not-a-fork",))
    # Of the errnos that every call can give, a text that names another one is about that.
    is_bare = errnos.named(text) is not None
    return found if is_bare or error in ("EAGAIN", "ENOMEM") else ("not-a-fork",)


_STRACE_LINE = r"(?<![\w./:])([a-z]\w+)\((.*)\) += -1 e[a-z]+"
_TRACED: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("unshare", "setns"), ("namespace",)),
    **dict.fromkeys(("execve", "execveat"), ("exec",)),
    **dict.fromkeys(("setuid", "setreuid", "setresuid", "setgid", "setresgid"), ("exec",)),
    **dict.fromkeys(
        ("sched_setscheduler", "sched_setaffinity", "sched_setattr"),
        ("thread-attributes", "thread"),
    ),
}
# With nothing but an errno.
_BY_ERRNO: Mapping[str, tuple[str, ...]] = {
    "EAGAIN": ("process", "thread"),
    "ENOMEM": ("process", "thread", "not-a-fork"),
    "EPERM": ("namespace", "thread-attributes", "thread", "exec"),
    "EACCES": ("namespace", "exec", "not-a-fork"),
    "ENOSPC": ("namespace", "not-a-fork"),
    "EUSERS": ("namespace",),
    "EMFILE": ("not-a-fork", "process"),
    "ENFILE": ("not-a-fork", "process"),
    "EBUSY": ("cgroup", "not-a-fork"),
    "EOPNOTSUPP": ("cgroup", "not-a-fork"),
    "EINVAL": ("thread-attributes", "namespace", "process"),
    "ENOSYS": ("thread", "process"),
    "ERESTARTNOINTR": ("process",),
    "EEXIST": ("not-a-fork", "process"),
    "EINTR": ("not-a-fork", "process"),
}
