"""Who asked, in a few words, from frames and a command line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from fork_trace.model.records import CONFIRMED, UNCONFIRMED, Frame
from fork_trace.stacks import callers

LIBC = "/usr/lib/x86_64-linux-gnu/libc.so.6"
APP = "/opt/app"


def frames(*parts: str | tuple[str | None, str | None]) -> tuple[Frame, ...]:
    """Frames by symbol, of the program; or by (symbol, file)."""
    return tuple(
        Frame(address, part, APP, 0x10 * address)
        if isinstance(part, str)
        else Frame(address, part[0], part[1], 0x10 * address)
        for address, part in enumerate(parts, 1)
    )


def libc(*names: str | None) -> list[tuple[str | None, str | None]]:
    return [(name, LIBC) for name in names]


@pytest.mark.parametrize(
    ("stack", "expected"),
    [
        ((*libc("_Fork", "fork"), "run_job", "main"), "run_job"),
        ((*libc("vfork"), "run_job"), "run_job"),
        ((*libc("clone3", None, "posix_spawn", None, "popen"), "run_job"), "popen <- run_job"),
        ((*libc("clone3", None, "posix_spawn", "do_system"), "run_job"), "system <- run_job"),
        ((*libc("clone3", None, "posix_spawn"), "run_job"), "posix_spawn <- run_job"),
        ((*libc("clone3", None, None, "pthread_create"), "spawn_worker"),)
        + ("pthread_create <- spawn_worker",),
        # In a static program all of these are the program's own.
        (("clone3", "__clone_internal", "__spawnix", "posix_spawn", "popen", "run_job"),)
        + ("popen <- run_job",),
        ((*libc("fork", "forkpty"), "login"), "forkpty <- login"),
        ((*libc("fork"), "uv__spawn_and_init_child", "uv_spawn", "node::ProcessWrap::Spawn(int)"),)
        + ("uv_spawn <- node::ProcessWrap::Spawn",),
        ((*libc("mmap"), *libc("allocate_stack", "pthread_create"), "go"), "pthread_create <- go"),
        # What is not known is not skipped in silence.
        ((*libc("popen"), (None, None)), "popen <- ?"),
        ((*libc("popen"), (None, APP)), "popen <- app+0x20"),
        (((None, APP),), "app+0x10"),
        (((None, None),), None),
        (tuple(libc("_Fork", "fork")), "fork"),
        (tuple(libc("_Fork", None)), "_Fork"),
        (tuple(libc(None)), None),
        ((), None),
    ],
)
def test_the_caller_is_the_nearest_frame_that_is_no_machinery(
    stack: tuple[str | tuple[str | None, str | None], ...], expected: str | None
) -> None:
    assert expected == callers.caller(frames(*stack))


@pytest.mark.parametrize(
    ("stack", "script", "expected"),
    [
        ((*libc("vfork"), "do_fork_exec", "subprocess_fork_exec", "eval"), "/srv/job.py")
        + ("_fork_exec <- job.py",),
        ((*libc("fork"), "make_child", "execute_command"), "./b.sh", "make_child <- b.sh"),
        # Stripped: the interpreter's own function has no name, the script has.
        ((*libc("fork"), (None, "/usr/bin/python3.11")), "/srv/job.py", "job.py"),
        ((*libc("fork"), (None, "/usr/bin/python3.11")), "-m app.jobs", "-m app.jobs"),
        ((*libc("popen"), (None, None)), "/srv/job.py", "popen <- job.py"),
        # A perf map names the functions of the program itself; the runtime's own are passed over.
        (
            (*libc("fork"), "uv_spawn", ("JS:*spawn node:child_process:700:10", None))
            + (("JS:~runJob file:///srv/app.js:3:18", None),),
            "/srv/app.js",
            "uv_spawn <- runJob app.js:3:18",
        ),
        (
            (*libc("clone3", "pthread_create"), "os::create_thread(Thread*)", "JVM_StartThread")
            + (("java.lang.Thread::start0", None), ("void Caller.runJob()", None)),
            "Caller",
            "pthread_create <- void Caller.runJob()",
        ),
        # Which function was interpreted, nobody knows: not the next one that was compiled.
        (
            (*libc("fork"), "uv_spawn", ("Builtins_InterpreterEntryTrampoline", "/usr/bin/node"))
            + (("JS:^ /srv/app.js:1:1", None),),
            "/srv/app.js",
            "uv_spawn <- app.js",
        ),
        (
            (*libc("fork"), "os_fork", ("py::run_job:/srv/job.py", None)),
            "/srv/job.py",
            "os_fork <- run_job:job.py",
        ),
    ],
)
def test_where_a_program_is_interpreted_it_is_named(
    stack: tuple[str | tuple[str | None, str | None], ...], script: str, expected: str
) -> None:
    assert expected == callers.caller(frames(*stack), script)


LIBRARY = "/usr/lib/python3.13/subprocess.py"
OWN = "/srv/lib/python3.13/site-packages/jobs.py"


def read(name: str, file: str = "/srv/job.py", how: str = CONFIRMED) -> Frame:
    return Frame(0x5000, name, file, line=7, read_later=how)


@pytest.mark.parametrize(
    ("functions", "script", "expected"),
    [
        ([read("spawn")], "/srv/job.py", "spawn:job.py"),
        ([read("Pool.grow", OWN), read("main")], "/srv/job.py", "Pool.grow:jobs.py"),
        ([read("run", LIBRARY), read("job")], "/srv/job.py", "job:job.py"),
        ([read("run", LIBRARY), read("job", how=UNCONFIRMED)], None, "probably job:job.py"),
        ([read("spawn", how=UNCONFIRMED)], "/srv/job.py", "probably spawn:job.py"),
        ([read("run", LIBRARY)], "/srv/job.py", "job.py"),
        ([read("run", LIBRARY)], None, "run:subprocess.py"),
        # By the command line it is known too.
        ([read("<module>", how=UNCONFIRMED)], "/srv/job.py", "job.py"),
        ([read("<module>", "/srv/jobs.py", UNCONFIRMED)], "/srv/job.py", "probably jobs.py"),
        ([], "/srv/job.py", "job.py"),
    ],
)
def test_a_python_function_is_the_caller_and_no_surer_than_it_is(
    functions: list[Frame], script: str | None, expected: str
) -> None:
    inner, outer = frames(*libc("fork"), "os_fork"), frames("PyEval_EvalCode")

    assert f"os_fork <- {expected}" == callers.caller((*inner, *functions, *outer), script)


@pytest.mark.parametrize(
    ("exe", "arguments", "expected"),
    [
        ("/usr/bin/python3.11", "python3 -u /srv/job.py --token x", "/srv/job.py"),
        ("/usr/bin/python3.11", "python3 -W error -X dev job.py", "job.py"),
        ("/usr/bin/python3.11", "python3 -m app.jobs --token x", "-m app.jobs"),
        ("/usr/bin/python3.11", "python3 -c secret", None),
        ("/usr/bin/python3.11", "python3", None),
        ("/usr/bin/python3.11", "python3 -", None),
        ("/usr/bin/dash", "sh -ec secret", None),
        ("/usr/bin/bash", "bash -x ./backup.sh /data", "./backup.sh"),
        ("/usr/bin/bash", "-bash", None),
        ("/usr/bin/node", "node --max-old-space-size=64 -r ./hook.js app.js", "app.js"),
        ("/usr/bin/node", "node -e secret", None),
        ("/usr/lib/jvm/bin/java", "java -Xmx1g -cp lib.jar:app.jar app.Main x", "app.Main"),
        ("/usr/lib/jvm/bin/java", "java -jar app.jar x", "app.jar"),
        ("/usr/bin/perl", "perl -w -I lib job.pl", "job.pl"),
        ("/usr/bin/ruby3.1", "ruby -- job.rb", "job.rb"),
        ("/usr/sbin/nginx", "nginx -g daemon", None),
        (None, "python3 job.py", None),
    ],
)
def test_the_script_is_told_and_no_text_that_was_given_on_the_command_line(
    exe: str | None, arguments: str, expected: str | None
) -> None:
    assert expected == callers.script(exe, arguments.split())


@pytest.mark.parametrize(
    ("symbol", "expected"),
    [
        ("main", "main"),
        ("node::ProcessWrap::Spawn(v8::Args<int> const&)", "node::ProcessWrap::Spawn"),
        ("(anonymous namespace)::run()", "(anonymous namespace)::run"),
        ("a::(anonymous namespace)::run(int)", "a::(anonymous namespace)::run"),
        ("Foo::operator()(int)", "Foo::operator()"),
        ("std::function<void (int)>::call(int) const", "std::function<void (int)>::call"),
        ("<core::Iter as Iterator>::next", "<core::Iter as Iterator>::next"),
        ("", ""),
    ],
)
def test_a_function_is_shown_without_its_parameters(symbol: str, expected: str) -> None:
    assert expected == callers.function(symbol)


@given(
    some.lists(some.tuples(some.none() | some.text(), some.none() | some.text()), max_size=8),
    some.none() | some.text(),
)
def test_no_name_is_too_odd(parts: list[tuple[str | None, str | None]], script: str | None) -> None:
    found = callers.caller(frames(*parts), script)

    assert found is None or isinstance(found, str)


@given(some.text(), some.lists(some.text()))
def test_no_command_line_is_too_odd(exe: str, arguments: list[str]) -> None:
    callers.script(exe, arguments)
    callers.script("/usr/bin/python3", arguments)
