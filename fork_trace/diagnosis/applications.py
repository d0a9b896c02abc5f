"""Who prints a text: the programs and runtimes that people ask about, by name and by what marks them. Pure.

What they print word for word is `texts`'; what any text is about is `kinds`'.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_BOTH = ("process", "thread")


class Application(NamedTuple):
    """A program, a runtime or a library that passes on what the kernel refused."""

    name: str
    kinds: tuple[str, ...]  # what it asks the kernel for, likeliest first
    programs: tuple[str, ...] = ()  # as they begin a line of a log: PROGRAM[PID]:
    marks: tuple[str, ...] = ()  # words in small letters that nobody else prints


def _app(name: str, kinds: tuple[str, ...], programs: str = "", *marks: str) -> Application:
    return Application(name, kinds, tuple(programs.split()), marks)


# Runtimes come before those who use them, and what is marked by a phrase before a mere name.
APPLICATIONS: tuple[Application, ...] = (
    _app("bash", ("process",), "bash rbash", "fork: retry:", "make_child"),
    _app("dash", ("process",), "sh dash ash"),
    _app("zsh", ("process",), "zsh"),
    _app("ksh", ("process",), "ksh mksh"),
    _app("fish", ("process",), "fish"),
    _app("busybox", ("process",), "busybox"),
    _app("sudo", ("process", "exec"), "sudo"),
    _app("su", ("exec", "process"), "su runuser"),
    _app("ssh", ("process", "exec"), "sshd sshd-session ssh", "request failed on channel"),
    _app("login", ("exec", "process"), "login"),
    _app("tmux", ("process",), "tmux", "create window failed"),
    _app("screen", ("process",), "screen"),
    _app("cron", ("process", "exec"), "cron crond crontab CRON anacron", "(cron) error"),
    _app(
        "systemd",
        ("process", "exec", "cgroup", "namespace"),
        "systemd systemd-executor systemd-logind systemd-udevd systemd-run",
        "failed to spawn executor",
        "failed at step ",
    ),
    _app("systemd-nspawn", ("namespace", "process"), "systemd-nspawn nspawn"),
    _app("containerd", _BOTH, "containerd containerd-shim dockerd", "containerd-shim"),
    _app("runc", ("process", "namespace", "cgroup"), "runc", "nsexec", "runc create failed"),
    _app("crun", ("process", "namespace", "cgroup"), "crun"),
    _app("podman", ("process", "namespace", "thread"), "podman conmon buildah", "libpod"),
    _app("docker", (*_BOTH, "namespace"), "docker", "error response from daemon", "oci runtime"),
    _app(
        "kubernetes",
        _BOTH,
        "kubelet crio kubectl cri-o",
        "pod sandbox",
        "create shim task",
        "podsandbox",
    ),
    _app("LXC", ("namespace", "process"), "lxc lxc-start lxd incus", "lxc_spawn", "lxc_start"),
    _app("bubblewrap", ("namespace", "process"), "bwrap bubblewrap"),
    _app("flatpak", ("namespace", "process"), "flatpak"),
    _app("nsjail", ("namespace", "process"), "nsjail"),
    _app("firejail", ("namespace", "process"), "firejail"),
    _app("unshare", ("namespace", "process"), "unshare"),
    _app("nsenter", ("namespace", "process"), "nsenter"),
    _app("newuidmap", ("namespace",), "newuidmap newgidmap"),
    _app("Apptainer", ("namespace", "process"), "apptainer singularity"),
    _app("Nix", ("process", "namespace"), "nix nix-build nix-daemon", "builder process"),
    _app("Jenkins", _BOTH, "jenkins", "hudson.", "org.jenkinsci"),
    _app("Elasticsearch", ("thread",), "elasticsearch opensearch"),
    _app(
        "JVM",
        ("thread", "process"),
        "java jvm",
        "java.lang.",
        "java.io.",
        "[os,thread]",
        "native thread",
        "exception in thread",
    ),
    _app("Android", ("thread", "process"), "zygote zygote64", "kb stack) failed"),
    _app(
        ".NET",
        ("thread", "process"),
        "dotnet",
        "coreclr",
        "system.outofmemoryexception",
        "with working directory",
    ),
    _app("tokio", ("thread",), "", "can't spawn worker thread"),
    _app("rayon", ("thread",), "rayon", "threadpoolbuild", "global thread pool"),
    _app("Rust", _BOTH, "cargo rustc rustup", "(os error ", "panicked at", "kind: wouldblock"),
    _app(
        "Go",
        _BOTH,
        "go golang",
        "runtime/cgo",
        "fork/exec ",
        "new os thread",
        "newosproc",
        "runtime: may need to increase",
    ),
    _app("bun", ("thread", "process"), "bun"),
    _app("Deno", ("thread", "process"), "deno"),
    _app("libuv", ("thread", "process"), "libuv", "uv_thread", "uv_spawn"),
    _app(
        "Node",
        _BOTH,
        "node npm nodejs yarn pnpm",
        "error: spawn",
        "child_process",
        "err_worker",
        "spawnsync",
    ),
    _app(
        "Python",
        _BOTH,
        "python python3 gunicorn celery",
        "start new thread",
        "[errno ",
        "blockingioerror",
        "os.fork",
        "brokenprocesspool",
        "subprocess.py",
    ),
    _app(
        "Ruby",
        _BOTH,
        "ruby puma unicorn sidekiq rake",
        "threaderror",
        "errno::e",
        "- fork(2)",
        "failed for timer",
    ),
    _app("Passenger", ("process",), "passenger", "phusion"),
    _app(
        "PHP-FPM",
        ("process",),
        "php php-fpm",
        "php warning",
        "proc_open",
        "pcntl_fork",
        "unable to fork [",
    ),
    _app("perl", _BOTH, "perl", "trying again in 5 seconds"),
    _app("Tcl", ("process",), "tclsh", "couldn't fork child process"),
    _app("R", ("process",), "R Rscript", "mcfork", "mclapply", "cannot popen"),
    _app("Julia", _BOTH, "julia", "could not spawn `"),
    _app(
        "Haskell",
        _BOTH,
        "ghc stack cabal",
        "runinteractiveprocess",
        "createprocess: ",
        "forkprocess",
        "forkos_",
    ),
    _app("OCaml", _BOTH, "ocaml opam dune", "thread.create", "unix.unix_error", "unix_error"),
    _app(
        "Erlang",
        ("thread", "process"),
        "erlang beam.smp beam erl elixir rabbitmq couchdb",
        "erl_child_setup",
        "open_port",
        "dirty io scheduler",
        "dirty cpu scheduler",
        "erts_",
    ),
    _app(
        "PostgreSQL",
        ("process", "late"),
        "postgres postgresql postmaster pg_ctl",
        "could not fork new process",
        "could not fork worker",
        "could not fork background",
        "could not fork autovacuum",
        "server process (pid",
    ),
    _app(
        "Redis",
        ("process", "thread"),
        "redis redis-server valkey keydb",
        "can't save in background",
        "append only file",
        "misconf",
        "background saving",
        "fork cow for ",
        "initialize background jobs",
    ),
    _app(
        "MySQL",
        ("thread",),
        "mysqld mysql mariadbd mariadb",
        "create a new thread",
        "thread to handle new connection",
    ),
    _app("MongoDB", ("thread",), "mongod mongos mongodb", "service entry worker"),
    _app("Oracle", ("process",), "oracle", "ora-2730", "skgpspawn"),
    _app("Cassandra", ("thread",), "cassandra"),
    _app("nginx", ("process", "late"), "nginx", "failed while spawning"),
    _app(
        "Apache",
        _BOTH,
        "httpd apache2 apache",
        "ah00159",
        "apr_thread",
        "unable to fork new process",
    ),
    _app("haproxy", _BOTH, "haproxy", "[haproxy."),
    _app("Varnish", ("thread", "process"), "varnishd varnish", "create worker thread failed"),
    _app("squid", ("process",), "squid", "ipccreate"),
    _app("uWSGI", ("process",), "uwsgi", "core/master_utils"),
    _app("supervisord", ("process",), "supervisord supervisor", "processes in process table"),
    _app("Postfix", ("process",), "postfix", "master_spawn", "postfix/"),
    _app("Dovecot", ("process",), "dovecot imap pop3 lmtp", "master: error:"),
    _app("Exim", ("process",), "exim exim4"),
    _app("Samba", ("process",), "smbd samba winbindd"),
    _app("Zabbix", ("process",), "zabbix_server zabbix_agentd zabbix", "cannot fork: ["),
    _app("Nagios", ("process",), "nagios icinga2 naemon", "the check of service"),
    _app("Ceph", ("thread",), "ceph ceph-osd", "thread::try_create"),
    _app("git", ("process", "exec"), "git", "cannot fork() for"),
    _app("make", ("process",), "make gmake"),
    _app("ninja", ("process",), "ninja"),
    _app("Bazel", ("process", "namespace"), "bazel", "linux-sandbox", "process-wrapper"),
    _app("gcc", ("process", "late"), "gcc cc g++ c++ cc1 cc1plus collect2", "fatal error: vfork"),
    _app("LLVM", ("thread",), "clang ld.lld lld", "llvm error"),
    _app("tar", ("process",), "tar"),
    _app("xargs", ("process",), "xargs"),
    _app("dpkg", ("process",), "dpkg apt apt-get", "dpkg: "),
    _app("Emacs", ("process",), "emacs", "doing vfork"),
    _app("gdb", ("process",), "gdb"),
    _app("squashfs-tools", ("thread",), "mksquashfs unsquashfs"),
    _app("OpenMP", ("thread",), "libgomp OMP", "omp: ", "libgomp", "kmp_"),
    _app("OpenBLAS", ("thread",), "openblas OpenBLAS", "blas_thread_init", "openblas"),
    _app("Qt", ("thread", "process"), "", "qthread", "qprocess"),
    _app("Boost", ("thread",), "", "boost::thread", "n5boost", "boost.thread"),
    _app(
        "C++",
        ("thread",),
        "",
        "std::exception",
        "std::system_error",
        "thread constructor",
        "std::thread",
    ),
    _app("GLib", _BOTH, "GLib glib", "glib", "g_spawn", "execute child process"),
    _app(
        "Chrome",
        (*_BOTH, "namespace"),
        "chrome chromium electron google-chrome",
        "zygote",
        "move to new namespace",
        "usable sandbox",
        "suid sandbox",
        "setuid sandbox",
    ),
    _app("Firefox", ("namespace", *_BOTH), "firefox", "cancreateusernamespace"),
    _app("VTE", ("process",), "gnome-terminal xfce4-terminal", "child process for this terminal"),
    _app("libvirt", _BOTH, "libvirtd libvirt virsh", "poll thread"),
    _app("QEMU", ("thread",), "qemu qemu-system-x86_64 kvm", "qemu_thread"),
    _app("STAR", ("thread",), "", "exiting because of fatal error: phtread"),
    _app("3proxy", ("thread",), "3proxy", "0 0 0 pthread_create"),
    _app("DOMjudge", ("exec", "process"), "runguard domjudge"),
    _app("Travis", _BOTH, "travis", "return code from pthread_create"),
    _app("pthread", ("thread",), "pthread", "pthread_create"),
    _app(
        "kernel",
        ("process", "kernel-thread", "late"),
        "kernel workqueue",
        "cgroup: fork rejected",
        "vm_enough_memory",
        "slub: unable",
        "bch2_",
        "killed process",
        "memory cgroup out of memory",
    ),
)
BY_NAME = {
    **{program.lower(): each for each in reversed(APPLICATIONS) for program in each.programs},
    **{each.name.lower(): each for each in APPLICATIONS},
}
# A mark that many print comes last: whoever has one of its own is told by that.
COMMON = frozenset(("pthread", "Python", "Rust", "C++", "Go", "Node"))


def named(word: str) -> Application | None:
    """Return the application of this name, or that a program of this name belongs to; else None."""
    return BY_NAME.get(word.strip().strip(":").lower())


# As a log or the program itself begins: NAME[PID]: or NAME:, a path before it or none.
_PROGRAM = r"(?:^|[\s(/-])([a-z][\w.+-]*)(?:\[\d+\])?: "


def of(text: str) -> Application | None:
    """Say who prints a normal text; None where nothing tells."""
    common: Application | None = None
    for each in APPLICATIONS:
        if any(mark in text for mark in each.marks):
            if each.name not in COMMON:
                return each
            common = common or each
    begins = (BY_NAME.get(name) for name in re.findall(_PROGRAM, text))
    return next((each for each in begins if each is not None), common)
