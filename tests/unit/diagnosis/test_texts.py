"""What applications print: found in a log line, from memory, and with the errno they tell."""

from __future__ import annotations

import pytest

from fork_trace.diagnosis import applications, errnos, lookup, texts

BOTH = ("EAGAIN", "ENOMEM")

# As they stand in logs and in reports of users.
SEEN = [
    ("-bash: fork: retry: Resource temporarily unavailable", "bash", "EAGAIN", "pids-cgroup"),
    ("bash: fork: retry: No child processes", "bash", "EAGAIN", "pids-cgroup"),
    ("bash: fork: Interrupted system call", "bash", "EINTR", "pids-cgroup"),
    ("-bash: fork: Cannot allocate memory", "bash", "ENOMEM", "overcommit-heuristic"),
    ("sh: 1: Cannot fork", "dash", None, "pids-cgroup"),
    ("zsh: fork failed: resource temporarily unavailable", "zsh", "EAGAIN", "pids-cgroup"),
    ("sudo: unable to fork: Cannot allocate memory", "sudo", "ENOMEM", "overcommit-heuristic"),
    ("shell request failed on channel 0", "ssh", None, "pids-cgroup"),
    ("Nov 21 03:00:01 host CRON[812]: (CRON) error (can't fork)", "cron", None, "pids-cgroup"),
    (
        "systemd[1]: user@1000.service: Failed to spawn 'start' task: Device or resource busy",
        "systemd",
        "EBUSY",
        "cgroup-refused",
    ),
    (
        "cgroup: fork rejected by pids controller in /user.slice/user-0.slice/session-4.scope",
        "kernel",
        None,
        "pids-cgroup",
    ),
    (
        "docker: Error response from daemon: OCI runtime create failed: runc create failed: unable "
        "to start container process: can't get final child's PID from pipe: EOF: unknown.",
        "docker",
        None,
        "pids-cgroup",
    ),
    (
        "runtime/cgo: pthread_create failed: Operation not permitted",
        "Go",
        "EPERM",
        "seccomp",
    ),
    (
        "nsexec-1[19437]: failed to unshare remaining namespaces: No space left on device",
        "runc",
        "ENOSPC",
        "namespace-limit",
    ),
    (
        'java.io.IOException: Cannot run program "git": error=11, Resource temporarily unavailable',
        "JVM",
        "EAGAIN",
        "pids-cgroup",
    ),
    (
        'Exception in thread "main" java.lang.OutOfMemoryError: unable to create native thread: '
        "possibly out of memory or process/resource limits reached",
        "JVM",
        None,
        "pids-cgroup",
    ),
    ("unable to create native thread", "JVM", None, "pids-cgroup"),
    (
        '[18.128s][warning][os,thread] Failed to start thread "Unknown thread" - pthread_create '
        "failed (EAGAIN) for attributes: stacksize: 1024k, guardsize: 4k, detached.",
        "JVM",
        "EAGAIN",
        "pids-cgroup",
    ),
    (
        "runtime: failed to create new OS thread (have 4096 already; errno=11)",
        "Go",
        "EAGAIN",
        "pids-cgroup",
    ),
    ("fork/exec /usr/bin/ls: resource temporarily unavailable", "Go", "EAGAIN", "pids-cgroup"),
    ("fork/exec /proc/self/exe: no space left on device", "Go", "ENOSPC", "namespace-limit"),
    ("Error: spawn EAGAIN", "Node", "EAGAIN", "pids-cgroup"),
    ("RuntimeError: can\u2019t start new thread", "Python", None, "pids-cgroup"),
    ("OSError: [Errno 12] Cannot allocate memory", "Python", "ENOMEM", "overcommit-heuristic"),
    (
        "ThreadError: can't create Thread: Resource temporarily unavailable",
        "Ruby",
        "EAGAIN",
        "pids-cgroup",
    ),
    (
        "proc_open(): fork failed - Cannot allocate memory",
        "PHP-FPM",
        "ENOMEM",
        "overcommit-heuristic",
    ),
    (
        "LOG:  could not fork new process for connection: Resource temporarily unavailable",
        "PostgreSQL",
        "EAGAIN",
        "pids-cgroup",
    ),
    (
        "# Can't save in background: fork: Cannot allocate memory",
        "Redis",
        "ENOMEM",
        "overcommit-heuristic",
    ),
    (
        'fork() failed while spawning "worker process" (11: Resource temporarily unavailable)',
        "nginx",
        "EAGAIN",
        "pids-cgroup",
    ),
    ("make: vfork: Resource temporarily unavailable", "make", "EAGAIN", "pids-cgroup"),
    ("pthread_create: Resource temporarily unavailable (11)", "Chrome", "EAGAIN", "pids-cgroup"),
    (
        "bwrap: Creating new namespace failed: No space left on device",
        "bubblewrap",
        "ENOSPC",
        "namespace-limit",
    ),
    (
        "unshare: unshare failed: No space left on device",
        "unshare",
        "ENOSPC",
        "namespace-limit",
    ),
    ("sshd[812]: fatal: fork of unprivileged child failed", "ssh", None, "pids-cgroup"),
    (
        "systemd[1]: app.service: Failed to run 'start' task: Resource temporarily unavailable",
        "systemd",
        "EAGAIN",
        "pids-cgroup",
    ),
    (
        "Cannot start service web: : fork/exec /usr/bin/containerd-shim-runc-v2: resource "
        "temporarily unavailable: unknown",
        "containerd",
        "EAGAIN",
        "pids-cgroup",
    ),
    ("Failed to create CoreCLR, HRESULT: 0x8007000E", ".NET", None, "pids-cgroup"),
    ("Error: spawn /bin/sh EAGAIN", "Node", "EAGAIN", "pids-cgroup"),
    (
        "node[849]: pthread_create: Resource temporarily unavailable",
        "Node",
        "EAGAIN",
        "pids-cgroup",
    ),
    (
        "node[28]: ../src/node_platform.cc:58: Assertion `(0) == (uv_thread_create(t.get(), "
        "start_thread, this))' failed.",
        "Node",
        None,
        "pids-cgroup",
    ),
    ("thread.error: can't start new thread", "Python", None, "pids-cgroup"),
    (
        "fork_exec_process.rb:20: warning: pthread_create failed for timer: Resource temporarily "
        "unavailable, scheduling broken",
        "Ruby",
        "EAGAIN",
        "pids-cgroup",
    ),
    (
        "PHP Warning:  pcntl_fork(): Error 11 in /srv/job.php on line 3",
        "PHP-FPM",
        "EAGAIN",
        "pids-cgroup",
    ),
    (
        "LOG:  could not fork background worker process: Cannot allocate memory",
        "PostgreSQL",
        "ENOMEM",
        "overcommit-heuristic",
    ),
    (
        'LOG:  could not fork "checkpointer" process: Resource temporarily unavailable',
        "PostgreSQL",
        "EAGAIN",
        "pids-cgroup",
    ),
    (
        "(error) MISCONF Redis is configured to save RDB snapshots, but it's currently unable to "
        "persist to disk.",
        "Redis",
        None,
        "pids-cgroup",
    ),
    (
        'fork() failed while spawning "cache manager process" (12: Cannot allocate memory)',
        "nginx",
        "ENOMEM",
        "overcommit-heuristic",
    ),
    (
        "ninja: fatal: posix_spawn: Resource temporarily unavailable",
        "ninja",
        "EAGAIN",
        "pids-cgroup",
    ),
    (
        "glib: Error creating thread: Resource temporarily unavailable",
        "GLib",
        "EAGAIN",
        "pids-cgroup",
    ),
    ("unshare: fork failed: Cannot allocate memory", "unshare", "ENOMEM", "pid-namespace-dead"),
]


@pytest.mark.parametrize(("line", "application", "error", "cause"), SEEN)
def test_a_line_of_a_log_finds_its_application(
    line: str, application: str, error: str | None, cause: str
) -> None:
    found = texts.find(line)

    assert application in [each.application for each in found]
    assert error == errnos.told(line)
    assert any(
        cause in [one.slug for one in each.causes]
        for each in found
        if each.application == application
    )


@pytest.mark.parametrize("each", texts.TEXTS, ids=lambda each: each.text)
def test_a_text_finds_itself_first_whatever_its_case_quotes_and_surroundings(
    each: texts.Text,
) -> None:
    filled = each.text.replace("...", "xyz")
    for said in (
        filled,
        filled.upper(),
        f"03:00 host[1]:  {filled}",
        filled.replace("'", "\u2019"),
    ):
        assert each in texts.find(said)


@pytest.mark.parametrize("each", texts.TEXTS, ids=lambda each: each.text)
def test_the_causes_of_a_text_exist_and_can_give_its_errno(each: texts.Text) -> None:
    slugs = [cause.slug for cause in each.causes]
    assert len(set(slugs)) == len(slugs)
    for name in each.errnos if each.causes else ():
        assert any(name in cause.errnos for cause in each.causes), name


@pytest.mark.parametrize("each", texts.TEXTS, ids=lambda each: each.text)
def test_a_text_has_a_kind_and_a_known_application(each: texts.Text) -> None:
    answer = lookup.read(each.text.replace("...", "xyz"))

    assert answer is not None and answer.kinds
    assert each.kind in ("", answer.kinds[0])
    assert each.application in {one.name for one in applications.APPLICATIONS}


@pytest.mark.parametrize(
    "text", ["", "hello", "no such file or directory", "fork", "a b c d e f g h"]
)
def test_another_text_finds_nothing(text: str) -> None:
    assert [] == texts.find(text)


def test_an_application_s_name_finds_all_that_it_prints() -> None:
    assert {"PostgreSQL"} == {each.application for each in texts.find("postgresql")}


def test_the_applications_that_people_ask_about_are_in_it() -> None:
    asked = {
        "bash",
        "sudo",
        "ssh",
        "cron",
        "systemd",
        "docker",
        "containerd",
        "kubernetes",
        "Jenkins",
        "JVM",
        ".NET",
        "Go",
        "Node",
        "Python",
        "Ruby",
        "PHP-FPM",
        "PostgreSQL",
        "Redis",
        "nginx",
        "make",
        "Chrome",
    }

    assert asked <= {each.name for each in applications.APPLICATIONS}
    # Who has no words of its own is known by name.
    assert asked - {"Jenkins"} <= {each.application for each in texts.TEXTS}
