"""The command line as a person meets it: a process, its two streams and its exit code."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import (
    capture_text,
    decoded,
    make_evidence,
    make_failure,
    make_header,
    make_summary,
    needs_libbpf,
)

from fork_trace import __version__
from fork_trace.commands import capture_run, cli, options
from fork_trace.probes import kernel
from fork_trace.probes.request import Request

CHECKOUT = Path(__file__).resolve().parents[3]
COMMANDS = ["live", "capture", "report", "doctor", "rehearse"]
NOBODY = 65534


def run(
    *arguments: str,
    before: str = "",
    environ: dict[str, str] | None = None,
    stdout: Any = subprocess.PIPE,
) -> subprocess.CompletedProcess[str]:
    """Run a command line; `before` is Python that runs in the process before the tool begins."""
    program = [sys.executable, "-m", "fork_trace"]
    if before:
        # Imported first: what `before` gives up may be what reads the checkout.
        text = f"from fork_trace.commands.cli import main\nimport os\n{before}\nmain()"
        program = [sys.executable, "-c", text]
    done = subprocess.run(
        [*program, *arguments],
        cwd=CHECKOUT,
        env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **(environ or {})},
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert "Exception ignored" not in done.stderr, done.stderr
    return done


def refusal(*arguments: str, **how: Any) -> str:
    """Run what must be refused: exit 2, nothing on stdout; return the text."""
    done = run(*arguments, **how)
    # Of a check 2 says that a limit is full.
    code = 3 if arguments[:1] == ("check",) else 2
    assert (code, "") == (done.returncode, done.stdout), done.stderr
    return done.stderr


def sentences(text: str) -> list[str]:
    return [part for part in text.strip().replace("?", ".").split(". ") if part]


@pytest.fixture
def whole(tmp_path: Path) -> str:
    path = tmp_path / "whole.jsonl"
    path.write_text(capture_text())
    return str(path)


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)], ids=str)
def test_help_fits_80_columns_and_shows_how(command: list[str]) -> None:
    done = run(*command, "-h")

    assert 0 == done.returncode
    assert max(len(line) for line in done.stdout.splitlines()) < 80
    assert not done.stdout.splitlines()[2].endswith(".")
    assert command in ([], ["doctor"]) or "fork-trace " + command[0] in done.stdout[50:]


@needs_libbpf
@pytest.mark.parametrize("command", ["live", "capture"])
@pytest.mark.parametrize("option", ["--refused", "--all-steps"])
def test_what_watches_can_be_told_to_watch_more(command: str, option: str) -> None:
    assert f"  {option} " in run(command, "-h").stdout
    assert "denied by --without btf" in refusal(command, option, "--without", "btf")


@pytest.mark.parametrize("option", ["--refused", "--all-steps"])
def test_doctor_knows_no_option_that_only_watching_has(option: str) -> None:
    assert "No such option" in refusal("doctor", option)


@pytest.mark.parametrize(
    ("refused", "all_steps"), [(False, False), (True, False), (False, True), (True, True)]
)
def test_what_was_asked_for_reaches_the_plan(refused: bool, all_steps: bool) -> None:
    given = {"refused": refused, "all_steps": all_steps, "on_demand": False}

    request = options.probes_asked_for(
        {"attach": None, "backend": None, "without": ["btf"], **given}
    )

    assert Request(None, None, frozenset({"btf"}), refused, all_steps) == request


@pytest.mark.parametrize("command", ["live", "capture", "report", "doctor", "explain", "check"])
def test_help_loads_nothing_that_watches(command: str) -> None:
    text = (
        "import sys\nfrom fork_trace.commands.cli import main\n"
        f"try:\n    main([{command!r}, '--help'])\n"
        "except SystemExit:\n    print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", text], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    loaded = set(done.stderr.split())

    assert f"fork_trace.commands.{command}" in loaded
    assert set() == loaded & {
        "fork_trace.collect.session",
        "fork_trace.diagnosis.advice",
        "tabulate",
        "ctypes",
    }


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_a_command_is_called_as_its_file(name: str) -> None:
    assert name == cli.load(name).name


def test_the_help_names_every_command() -> None:
    text = run("--help").stdout

    assert all(f"\n  {name} " in text for name in COMMANDS)


def test_the_version_is_the_package_s() -> None:
    assert f"fork-trace, version {__version__}\n" == run("--version").stdout


def test_the_installed_script_is_the_same_program() -> None:
    script = Path(sys.executable).parent / "fork-trace"
    if not script.exists():
        pytest.skip("fork-trace is not installed beside this Python; run scripts/setup")

    done = subprocess.run([str(script), "--version"], capture_output=True, text=True, check=True)

    assert run("--version").stdout == done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lives"], "No such command"),
        (["live", "--colour"], "No such option"),
        (["live", "--interval", "soon"], "not a valid float"),
        (["live", "--interval", "0"], "above 0"),
        (["live", "--interval", "nan"], "above 0"),
        (["live", "--duration", "-1"], "above 0"),
        (["capture", "--duration", "inf"], "above 0"),
        (["live", "--pid", "0"], "not in the range"),
        (["live", "--uid", "-1"], "not in the range"),
        (["live", "--attach", "uprobe"], "'uprobe' is not one of"),
        (["live", "--format", "csv"], "'csv' is not one of"),
        (["live", "--without", "luck"], "'luck' is not one of"),
        (["report", "x", "--uid", "root"], "'root' is not a valid integer"),
        (["check", "--near", "0"], "not in the range"),
        (["check", "--near", "90", "--full", "80"], "--near must not be above"),
        (["check", "--json", "--nagios"], "Use one of --json and --nagios"),
        (["check", "--json", "--textfile", "x"], "Use one of --json and --textfile"),
        (["check", "--nagios", "--format", "npx"], "'npx' is not one of"),
        (["check", "--nagios", "--format", "table"], "Use one of --nagios and --format table"),
        (["check", "--format", "xml"], "'xml' is not one of"),
        (["check", "--tasks-left", "-1"], "not in the range"),
        (["rehearse"], "Name a scenario"),
        (["rehearse", "--count", "0", "pids-cgroup"], "not in the range"),
    ],
)
def test_a_wrong_command_line_is_told_as_such(arguments: list[str], words: str) -> None:
    text = refusal(*arguments)

    assert words in text
    assert text.startswith("Usage: fork-trace")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["rehearse", "pid-cgroup"], ["'pid-cgroup'", "pids-cgroup?", "--list"]),
        (["rehearse", "pids-cgroup", "zzzz"], ["'zzzz'", "--list"]),
        (["rehearse", "pid-max"], ["--host-wide"]),
        (["report", "--by", "colour", "x"], ["'colour'", "command, caller, cause"]),
        (["live", "--by", ""], ["--by has no column ''"]),
        (["live", "--cgroup", "/no/such/cgroup"], ["/no/such/cgroup", "/proc/PID/cgroup"]),
        pytest.param(
            ["live", "--without", "btf"],
            ["denied by --without btf", "CONFIG_DEBUG_INFO_BTF"],
            marks=needs_libbpf,
        ),
        (["live", "--without", "libbpf"], ["denied by --without libbpf", "libbpf1"]),
        pytest.param(
            ["live", "--attach", "kprobe", "--without", "kprobes"],
            ["denied by --without kprobes"],
            marks=needs_libbpf,
        ),
        pytest.param(
            ["live", "--attach", "tracepoint", "--without", "btf"],
            ["denied by --without btf"],
            marks=needs_libbpf,
        ),
        (
            ["live", "--attach", "fexit", "--backend", "bcc"],
            ["the bcc backend does not support --attach fexit"],
        ),
    ],
)
def test_what_cannot_be_done_is_told_with_what_to_do(
    arguments: list[str], words: list[str]
) -> None:
    text = refusal(*arguments)

    assert text.startswith("fork-trace: ")
    assert 1 == text.count("\n")
    assert 2 <= len(sentences(text))
    assert all(word in text for word in words)


@pytest.mark.parametrize("command", [["live"], ["capture"]], ids=str)
@pytest.mark.parametrize("feature", [pytest.param("btf", marks=needs_libbpf), "libbpf"])
def test_live_and_capture_tell_a_missing_feature_alike(command: list[str], feature: str) -> None:
    assert f"denied by --without {feature}" in refusal(*command, "--without", feature)


@needs_libbpf
@pytest.mark.skipif(
    not kernel.may_load().value, reason="privileges are asked for first; run as root"
)
@pytest.mark.parametrize(
    ("feature", "arguments"),
    [
        ("ringbuf", []),
        # Without the wish for an attach mode, the next one has its turn.
        ("trampolines", ["--attach", "fexit"]),
    ],
)
def test_what_only_the_privileged_can_ask_for_can_be_denied_too(
    feature: str, arguments: list[str]
) -> None:
    told = refusal("live", "--without", feature, *arguments)

    assert f"denied by --without {feature}" in told


@needs_libbpf
@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user; run as root")
@pytest.mark.parametrize("command", ["live", "capture"])
@pytest.mark.parametrize("home", [{}, {"HOME": "/nonexistent", "TERM": "xterm"}], ids=str)
def test_without_privileges_it_says_which_it_needs(command: str, home: dict[str, str]) -> None:
    text = refusal(command, before=f"os.setgid({NOBODY}); os.setuid({NOBODY})", environ=home)

    assert "needs root, or CAP_BPF and CAP_PERFMON" in text
    assert "Run it as root" in text


@needs_libbpf
@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user; run as root")
def test_doctor_without_privileges_says_no_and_why() -> None:
    done = run("doctor", "--json", before=f"os.setgid({NOBODY}); os.setuid({NOBODY})")
    found = json.loads(done.stdout)

    assert (1, False) == (done.returncode, found["usable"])
    assert found["features"]["may_load"]["value"] is False
    assert "CAP_BPF" in found["remedy"]


@pytest.mark.parametrize(
    "feature", ["libbpf", "btf", "trampolines", "ringbuf", "kallsyms", "kprobes"]
)
def test_doctor_shows_a_denied_feature_as_denied(feature: str) -> None:
    done = run("doctor", "--json", "--without", feature)

    shown = json.loads(done.stdout)["features"][feature]

    assert {"value": False, "why": f"denied by --without {feature}"} == shown


def test_doctor_without_btf_is_of_no_use_and_says_what_to_run() -> None:
    done = run("doctor", "--without", "btf")

    assert 1 == done.returncode
    assert done.stdout.startswith("fork-trace cannot watch forks here: ")
    assert max(len(line) for line in done.stdout.splitlines()) < 80


def fake_libbpf(tmp_path: Path, source: str) -> dict[str, str]:
    """An environment in which libbpf.so.1 is what this makes of it."""
    (tmp_path / "fake.c").write_text(source)
    subprocess.run(
        [
            *("cc", "-shared", "-fPIC", "-Wl,-soname,libbpf.so.1"),
            *("-o", str(tmp_path / "libbpf.so.1"), str(tmp_path / "fake.c")),
        ],
        check=True,
    )
    return {"LD_LIBRARY_PATH": str(tmp_path)}


def test_a_libbpf_that_is_too_old_is_told_with_what_to_install(tmp_path: Path) -> None:
    text = refusal("live", environ=fake_libbpf(tmp_path, "int old;"))

    assert "cannot load libbpf" in text
    assert "Install libbpf 1.0 or newer" in text


def test_a_libbpf_that_cannot_be_loaded_is_told_with_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "libbpf.so.1").write_text("no library")

    text = refusal("live", environ={"LD_LIBRARY_PATH": str(tmp_path)})

    assert "cannot load libbpf" in text
    assert "Install libbpf 1.0 or newer" in text


@pytest.mark.parametrize("layout", ["bcc/__init__.py", "bcc.py"])
def test_an_unrelated_bcc_is_recognised_and_not_imported(tmp_path: Path, layout: str) -> None:
    (tmp_path / layout).parent.mkdir(exist_ok=True)
    (tmp_path / layout).write_text("raise SystemExit('imported')")
    environ = {"PYTHONPATH": str(tmp_path)}

    text = refusal("live", "--backend", "bcc", environ=environ)
    found = json.loads(run("doctor", "--json", environ=environ).stdout)

    assert "unrelated project of the same name" in text
    assert str(tmp_path) in text
    assert "python3-bpfcc" in text
    assert found["features"]["bcc"]["value"] is False


def test_a_bcc_that_is_the_right_one_is_not_called_unrelated(tmp_path: Path) -> None:
    (tmp_path / "bcc").mkdir()
    for name in ("__init__.py", "libbcc.py"):
        (tmp_path / "bcc" / name).write_text("raise SystemExit('imported')")

    found = json.loads(run("doctor", "--json", environ={"PYTHONPATH": str(tmp_path)}).stdout)

    assert found["features"]["bcc"] == {"value": True, "why": "installed"}


def test_a_report_shows_its_failures_and_exits_1(whole: str) -> None:
    done = run("report", whole)

    assert (1, "") == (done.returncode, done.stderr)
    assert done.stdout.startswith("1 cause, 1 failure in 2 s; worst: sh in /app.service at ")


def test_a_report_of_no_failures_exits_0(tmp_path: Path) -> None:
    path = tmp_path / "none.jsonl"
    path.write_text(capture_text(make_header(), make_summary(failures=0, causes={})))

    done = run("report", str(path))

    assert (0, "") == (done.returncode, done.stderr)
    assert done.stdout.startswith("No fork failed in 2 s.\n")


def test_two_hosts_merge_and_are_told_apart_on_request(tmp_path: Path) -> None:
    for host, count in [("alpha", 2), ("beta", 3)]:
        (tmp_path / host).write_text(
            capture_text(
                make_header(host=host), make_failure(count=count), make_summary(failures=count)
            )
        )
    files = [str(tmp_path / "alpha"), str(tmp_path / "beta")]

    merged = json.loads(run("report", "--json", *files).stdout.splitlines()[-1])
    apart = json.loads(
        run("report", "--json", "--by", "host,cause", *files).stdout.splitlines()[-1]
    )

    assert [5] == [row["count"] for row in merged["rows"]]
    assert [("beta", 3), ("alpha", 2)] == [(row["host"], row["count"]) for row in apart["rows"]]
    assert (2, 5) == (merged["captures"], merged["failures"])
    text = run("report", *files).stdout
    assert "on 2 hosts" in text
    assert ["COUNT", "HOST", "COMMAND"] == text.splitlines()[2].split()[:3]
    assert "HOST" not in run("report", "--by", "cause", *files).stdout
    assert "HOST" not in run("report", files[0], files[0]).stdout


@pytest.mark.parametrize(
    ("format_", "start"),
    [
        ("table", "1 cause, 1 failure"),
        ("json", '{"type": "report"'),
        ("jsonl", '{"type": "header"'),
        ("markdown", "**1 cause, 1 failure"),
        ("csv", "command,caller,cause,count,"),
    ],
)
def test_a_report_is_written_in_each_format(whole: str, format_: str, start: str) -> None:
    done = run("report", whole, "--format", format_)

    assert (1, "") == (done.returncode, done.stderr)
    assert done.stdout.startswith(start)


def test_json_is_another_word_for_json_lines(whole: str) -> None:
    lines = run("report", whole, "--format", "jsonl").stdout

    assert lines == run("report", whole, "--json").stdout
    assert lines == run("report", whole, "--json", "--format", "jsonl").stdout


@pytest.mark.parametrize(
    "arguments", [["report", "x"], ["capture"], ["live"]], ids=lambda each: each[0]
)
def test_json_and_another_format_are_refused(arguments: list[str]) -> None:
    text = refusal(*arguments, "--json", "--format", "table")

    assert "--json means --format jsonl; use one of --json and --format table." in text


def test_a_report_as_json_has_every_record_and_one_merged_summary(whole: str) -> None:
    done = run("report", "--json", whole)

    records = [json.loads(line) for line in done.stdout.splitlines()]

    assert ["header", "failure", "summary"] == [record["type"] for record in records]
    assert 1 == done.returncode
    assert {
        "command": "sh",
        "caller": "_Fork",
        "cause": "pids-cgroup",
        "count": 1,
        "errnos": {"EAGAIN": 1},
    }.items() <= records[-1]["rows"][0].items()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file or directory"),
        (b"", "is empty"),
        (capture_text().encode()[:30], "is cut off within its first record"),
        (b"COMM PID\nsh 1\n", "line 1 is not a record"),
        (bytes(range(128, 256)) * 64, "is not text"),
        (b"\x7fELF" + bytes(4096), "line 1 is not a record"),
        (b"\x1f\x8b" + bytes(4096), "is cut off within its first record"),
        (capture_text(make_header(version=99), make_summary()).encode(), "newer fork-trace"),
        (capture_text(make_failure()).encode(), "the first record is no header"),
        (b"[" * 200_000 + b"\n", "line 1 is not a record"),
    ],
    ids=["missing", "empty", "cut", "text", "binary", "elf", "gzip", "newer", "headless", "deep"],
)
def test_a_file_that_is_no_capture_is_named_with_what_is_wrong(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    path = tmp_path / "forks.jsonl"
    if content is not None:
        path.write_bytes(content)

    text = refusal("report", str(path))

    assert words in text
    assert str(path) in text
    assert 1 == text.count("\n")
    assert 2 <= len(sentences(text))


def test_one_bad_file_among_good_ones_is_named_and_the_others_are_read(
    tmp_path: Path, whole: str
) -> None:
    path = tmp_path / "forks.jsonl"
    path.touch()

    done = run("report", whole, str(path), whole)

    assert 1 == done.returncode
    told = " ".join(done.stdout.split())
    assert f"left out: {path} is empty" in told
    assert "1 cause, 1 failure" in told
    assert "1 file was given twice and counted once" in told


def test_a_directory_without_captures_is_refused(tmp_path: Path) -> None:
    assert "holds no captures" in refusal("report", str(tmp_path))


def test_a_hostile_file_name_is_escaped() -> None:
    text = refusal("report", "\x1b[31mred\n" + decoded(b"\xff"))

    assert "\x1b" not in text
    assert "\\x1b[31mred\\n" in text


@pytest.mark.parametrize("argument", ["--comm", "--cgroup", "--by"])
def test_arguments_of_any_bytes_are_taken_as_they_are(argument: str) -> None:
    refusal("live", argument, decoded(b"caf\xe9"), "--without", "btf")


@pytest.mark.parametrize("environ", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C"}], ids=str)
def test_a_name_that_the_locale_has_no_letters_for_is_escaped(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    path = tmp_path / "forks.jsonl"
    path.write_text(capture_text(make_header(), make_failure(comm="\u65e5\u672c"), make_summary()))

    done = run("report", str(path), environ=environ)

    assert 1 == done.returncode
    assert "\u65e5\u672c" in done.stdout or "\\u65e5\\u672c" in done.stdout


def test_a_hostile_capture_does_not_reach_the_terminal_raw(tmp_path: Path) -> None:
    path = tmp_path / "forks.jsonl"
    evil = "\x1b]0;owned\x07\u202e"
    failure = make_failure(
        comm=evil,
        caller=evil,
        errno=evil,
        cause=evil,
        syscall=evil,
        evidence=(make_evidence(where=evil, name=evil, unit=evil),),
    )
    path.write_text(capture_text(make_header(host=evil, kernel=evil), failure, make_summary()))

    done = run("report", str(path), "--by", "command,caller,cause,host")

    assert not {"\x1b", "\x07", "\u202e"} & set(done.stdout)


@pytest.mark.parametrize(
    ("arguments", "rows"),
    [
        (["-h"], 0),
        (["rehearse", "--list"], 0),
        (["report"], 1),
        (["report", "--json"], 1),
        (["report"], 2000),  # more than a pipe holds
    ],
)
def test_a_reader_that_has_gone_is_no_error(
    tmp_path: Path, arguments: list[str], rows: int
) -> None:
    path = tmp_path / "many.jsonl"
    failures = [make_failure(comm=f"c{number}") for number in range(rows)]
    if rows:
        path.write_text(capture_text(make_header(), *failures, make_summary()))
        arguments = [*arguments, str(path)]
    gone, stdout = os.pipe()
    os.close(gone)
    try:
        done = run(*arguments, stdout=stdout)
    finally:
        os.close(stdout)

    assert "" == done.stderr
    assert done.returncode in (0, 1)


def test_a_full_disk_behind_stdout_is_told() -> None:
    with open("/dev/full", "w") as full:
        done = run("rehearse", "--list", stdout=full)

    assert 2 == done.returncode
    assert "No space left on device" in done.stderr


def test_an_output_in_a_directory_that_is_not_there_is_refused(tmp_path: Path) -> None:
    text = refusal("capture", "--output", str(tmp_path / "no" / "forks.jsonl"))

    assert "cannot write" in text
    assert "No such file or directory" in text


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user; run as root")
def test_an_output_in_a_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o755)
    text = refusal(
        *("capture", "--output", str(tmp_path / "forks.jsonl")),
        before=f"os.setgid({NOBODY}); os.setuid({NOBODY})",
    )

    assert "Permission denied" in text
    assert [] == list(tmp_path.iterdir())


def test_an_output_through_a_link_is_refused_and_its_target_is_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("precious")
    (tmp_path / "link").symlink_to("target")

    text = refusal("capture", "--force", "--output", str(tmp_path / "link"))

    assert "symlinks are not followed" in text
    assert "precious" == (tmp_path / "target").read_text()


def test_an_output_that_is_a_directory_is_refused(tmp_path: Path) -> None:
    assert "Is a directory" in refusal("capture", "--output", str(tmp_path))


def test_an_output_with_something_in_it_is_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "forks.jsonl").write_text("precious")

    text = refusal("capture", "--output", str(tmp_path / "forks.jsonl"))

    assert "exists and is not empty" in text
    assert "--force" in text
    assert "precious" == (tmp_path / "forks.jsonl").read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a file of another user; run as root")
def test_an_output_of_somebody_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "forks.jsonl"
    path.touch()
    os.chown(path, NOBODY, NOBODY)

    text = refusal("capture", "--force", "--output", str(path))

    assert f"belongs to another user (uid {NOBODY})" in text


def test_an_output_that_has_another_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("precious")
    os.link(tmp_path / "precious", tmp_path / "forks.jsonl")

    text = refusal("capture", "--force", "--output", str(tmp_path / "forks.jsonl"))

    assert "hard link" in text
    assert "precious" == (tmp_path / "precious").read_text()


def test_a_pipe_that_nobody_reads_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    assert "cannot write" in refusal("capture", "--output", str(tmp_path / "pipe"))


@pytest.mark.skipif(os.geteuid() != 0, reason="makes a pipe of another user; run as root")
def test_a_pipe_of_somebody_else_gets_nothing(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    os.chown(pipe, NOBODY, NOBODY)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        text = refusal("capture", "--force", "--output", str(pipe))
        assert b"" == os.read(reader, 1)
    finally:
        os.close(reader)

    assert f"is a pipe or device that belongs to another user (uid {NOBODY})" in text


def test_a_file_without_an_end_is_no_capture() -> None:
    assert "line 1 is not a record" in refusal("report", "/dev/zero")


HOSTILE = "\x1b[2J\u202e|\"'" + decoded(b"\xff") + "x" * 200


@pytest.mark.parametrize(
    "arguments",
    [
        ("report", HOSTILE),
        ("report", f"--{HOSTILE}"),  # as a shell hands on the names that it finds for *
        ("live", "--attach", HOSTILE),
        ("live", "--interval", HOSTILE),
        ("live", "--by", HOSTILE),
        ("live", "--cgroup", HOSTILE),
        ("capture", "--output", f"/nowhere/{HOSTILE}"),
        ("capture", "--", HOSTILE),
        ("rehearse", HOSTILE),
        (HOSTILE,),
    ],
    ids=lambda each: " ".join(each)[:12].encode("unicode_escape").decode(),
)
def test_what_a_refusal_quotes_is_harmless(arguments: tuple[str, ...]) -> None:
    text = refusal(*arguments)

    assert all(char == "\n" or char.isprintable() for char in text)
    assert r"\x1b[2J\u202e|" in text


def test_a_run_that_cannot_begin_spares_the_old_capture(tmp_path: Path) -> None:
    old, new = tmp_path / "old.jsonl", tmp_path / "new.jsonl"
    old.write_text("precious")

    for path in (old, new):
        refusal("capture", "--force", "--output", str(path), "--without", "btf")

    assert "precious" == old.read_text()
    assert not new.exists()


def test_a_run_that_cannot_begin_leaves_a_device_where_it_is(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        refusal("capture", "--output", str(pipe), "--without", "btf")
    finally:
        os.close(reader)

    assert pipe.is_fifo()


def test_an_output_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "forks.jsonl"
    path.touch()
    path.chmod(0o666)

    refusal("capture", "--output", str(path), "--without", "btf")

    assert 0o600 == stat.S_IMODE(path.stat().st_mode)


def test_the_list_of_rehearsals_fits_80_columns_and_is_json_on_request() -> None:
    text = run("rehearse", "--list").stdout
    listed = [json.loads(line) for line in run("rehearse", "--list", "--json").stdout.splitlines()]

    assert max(len(line) for line in text.splitlines()) < 80
    assert all(each["name"] in text for each in listed)
    assert {"name", "title", "cause", "step", "errno", "host_wide"} <= set(listed[0])


def test_ctrl_c_ends_with_130() -> None:
    before = (
        "import fork_trace.collect.doctor\n"
        "def interrupted(*_): raise KeyboardInterrupt\n"
        "fork_trace.collect.doctor.examine = interrupted"
    )

    done = run("doctor", before=before)

    assert (130, "") == (done.returncode, done.stdout)


def test_check_ends_with_the_worst_level_and_says_nothing_on_stderr() -> None:
    done = run("check", "--json")
    found = json.loads(done.stdout)

    assert {"fine": 0, "near": 1, "full": 2, "unknown": 3}[found["level"]] == done.returncode
    assert "" == done.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--bogus"], 3),
        (["--npd", "--bogus"], 2),
        (["--format", "npd", "--bogus"], 2),
        (["--format=npd", "--bogus"], 2),
        (["--npd", "--nagios"], 2),
    ],
)
def test_a_check_that_cannot_be_made_is_unknown_to_who_asked(
    arguments: list[str], code: int
) -> None:
    done = run("check", *arguments)

    assert (code, "") == (done.returncode, done.stdout)


@pytest.mark.parametrize(("option", "code"), [("--nagios", 3), ("--npd", 2), ("--all", 3)])
def test_without_proc_a_check_says_one_sentence(
    option: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from fork_trace.host import procfs

    monkeypatch.setattr(procfs, "is_mounted", lambda _: False)

    with pytest.raises(SystemExit) as end:
        cli.main(["check", option])

    out, err = capsys.readouterr()
    assert code == end.value.code
    assert "/proc is not mounted, and all that is checked is read there." in err
    assert 1 == err.count("\n")
    # A plugin is heard on stdout alone.
    assert (option == "--all") == (out == "")


def test_a_textfile_is_replaced_at_once_and_left_alone_if_it_cannot_be(tmp_path: Path) -> None:
    path = tmp_path / "check.prom"
    path.write_text("old")

    done = run("check", "--textfile", str(path))

    assert (done.stdout, done.stderr) == ("", "")
    assert "fork_trace_check_level" in path.read_text()
    assert [path] == list(tmp_path.iterdir())
    assert 0o644 == stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("name", ["nowhere/check.prom", "", "."])
def test_a_textfile_that_cannot_be_written_is_told(tmp_path: Path, name: str) -> None:
    text = refusal("check", "--textfile", f"{tmp_path}/{name}" if name else "")

    assert "cannot write" in text
    assert 2 == len(sentences(text))
    assert [] == list(tmp_path.iterdir())


def test_a_check_needs_prometheus_client_for_its_format_alone() -> None:
    before = "import sys; sys.modules['prometheus_client'] = None"

    done = run("check", "--format", "prometheus", before=before)
    fine = run("check", "--npd", before=before)

    assert (3, "") == (done.returncode, done.stdout)
    assert "needs prometheus_client, which is not installed. Install" in done.stderr
    assert fine.returncode in (0, 1)


@pytest.mark.parametrize("name", ["--nagios", "--npd", "--format=prometheus"])
def test_a_check_of_this_machine_is_written_for_each_monitor(name: str) -> None:
    done = run("check", name)

    assert "" == done.stderr
    assert done.stdout.endswith("\n")
    assert ("\n" in done.stdout[:-1]) == (name == "--format=prometheus")


def test_check_has_its_thresholds_from_the_command_line() -> None:
    done = run("check", "--json", "--near", "1e-7", "--full", "1e-6")
    found = json.loads(done.stdout)

    assert 2 == done.returncode
    assert (1e-7, 1e-6) == (found["near_percent"], found["full_percent"])
    assert found["limits"][0]["advice"]


def test_check_fits_80_columns() -> None:
    done = run("check", "--all")

    table = done.stdout.split("\n\n")[1]
    assert max(map(len, table.splitlines())) < 80


@pytest.mark.parametrize(
    ("environment", "command"),
    [
        ({}, "  fork-trace report 'my forks'"),
        ({"SUDO_UID": "1000"}, "  sudo fork-trace report 'my forks'"),
    ],
)
def test_the_command_that_shows_a_capture_again_can_be_pasted(
    environment: dict[str, str], command: str
) -> None:
    assert command == capture_run.to_show_again("my forks", environment).splitlines()[1]
