"""The book, asked by step, cause, errno, limit and by what applications print."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner
from test_advice import STEP_NAMES
from test_texts import SEEN
from test_verdict import SLUGS

from fork_trace.commands import cli
from fork_trace.diagnosis import advice, lookup, texts
from fork_trace.diagnosis.causes import CAUSES
from fork_trace.errors import ForkTraceError


def asked(*words: str) -> lookup.Answer:
    return lookup.look_up(words)


def causes(*words: str) -> list[str]:
    return [cause.slug for cause in asked(*words).causes]


def shown(*words: str) -> str:
    # This host's own limits would be in it; test_explain has them.
    result = CliRunner().invoke(cli.cli, ["explain", "--no-check", *words])

    assert 0 == result.exit_code, result.output
    return result.output


def refused(*words: str, capsys: Any) -> str:
    with pytest.raises(SystemExit) as end:
        cli.main(["explain", *words])

    assert 2 == end.value.code
    return str(capsys.readouterr().err)


def test_without_a_word_every_cause_is_listed_with_its_errno() -> None:
    text = shown()

    assert all(f"  {cause} (" in text for cause in SLUGS)
    assert "  pids-cgroup (EAGAIN)\n    a cgroup has reached its pids.max" in text


@pytest.mark.parametrize("cause", SLUGS)
def test_a_cause_is_told_whole(cause: str) -> None:
    text = shown(cause)

    assert [cause] == causes(cause)
    assert text.startswith(f"{cause}: ")
    for heading in (
        "errno: ",
        "limit: ",
        "step:  ",
        "\nWith fork-trace\n",
        "\nVerify\n",
        "\nMitigate\n",
        "\nFix\n",
        "\nCommon misconceptions\n",
    ):
        assert heading in text


def test_a_cause_has_its_misconceptions_and_what_applications_print() -> None:
    text = shown("fd-table-limit")

    assert "Common misconceptions\n  EMFILE from fork means fs.file-max" in text
    assert "What applications print\n" in shown("threads-max")


@pytest.mark.parametrize("step", STEP_NAMES)
def test_a_step_tells_what_it_does_and_its_causes(step: str) -> None:
    answer = asked(step)

    assert answer.kind == (
        "cause" if step == "seccomp" or step in ("rlimit_nproc", "threads_max") else "step"
    )
    assert answer.causes


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        ("PIDS-CGROUP", "pids-cgroup"),
        ("pids_cgroup", "pids-cgroup"),
        ("pids cgroup", "pids-cgroup"),
        ("pids.max", "pids-cgroup"),
        ("TasksMax", "pids-cgroup"),
        ("--pids-limit", "pids-cgroup"),
        ("ulimit -u", "rlimit-nproc"),
        ("kernel.pid_max", "pid-max"),
        ("vm.max_map_count", "thread-stack"),
        ("shstk_alloc_thread_stack()", "mapping-limit"),
        ("pids_can_fork", "pids-cgroup"),
        # as they stand in files, on command lines and in /proc/sys
        ("TasksMax=", "pids-cgroup"),
        ("TasksMax=512", "pids-cgroup"),
        ("DefaultTasksMax", "pids-cgroup"),
        ("--pids-limit=100", "pids-cgroup"),
        ("max_map_count", "thread-stack"),
        ("vm.max_map_count = 65530", "thread-stack"),
        ("sysctl -w kernel.pid_max=99999", "pid-max"),
        ("/proc/sys/kernel/threads-max", "threads-max"),
        ("/sys/fs/cgroup/user.slice/pids.max", "pids-cgroup"),
        ("ulimit -u 1024", "rlimit-nproc"),
        ("LimitNPROC=4096", "rlimit-nproc"),
        ("user.max_user_namespaces", "namespace-limit"),
        ("cgroup.procs", "cgroup-refused"),
        ("seccomp=unconfined", "seccomp"),
        ("overcommit_ratio", "overcommit-never"),
    ],
)
def test_other_names_of_the_same_find_it(words: str, cause: str) -> None:
    assert cause == causes(*words.split())[0]


@pytest.mark.parametrize(
    ("word", "name", "first"),
    [
        ("EAGAIN", "EAGAIN", ["pids-cgroup", "rlimit-nproc", "thread-stack", "pid-max"]),
        ("eagain", "EAGAIN", ["pids-cgroup"]),
        ("11", "EAGAIN", ["pids-cgroup"]),
        ("-11", "EAGAIN", ["pids-cgroup"]),
        ("errno=11", "EAGAIN", ["pids-cgroup"]),
        ("EWOULDBLOCK", "EAGAIN", ["pids-cgroup"]),
        ("ENOMEM", "ENOMEM", ["overcommit-heuristic", "overcommit-never"]),
        ("12", "ENOMEM", ["overcommit-heuristic"]),
        ("Resource temporarily unavailable", "EAGAIN", ["pids-cgroup"]),
        ("Cannot allocate memory", "ENOMEM", ["overcommit-heuristic"]),
        ("EMFILE", "EMFILE", ["fd-table-limit", "rlimit-nofile"]),
        ("ENFILE", "ENFILE", ["file-max"]),
        ("ENOSPC", "ENOSPC", ["namespace-limit", "namespace-depth"]),
        ("EPERM", "EPERM", ["seccomp", "user-namespace-denied"]),
        ("EEXIST", "EEXIST", ["pid-taken"]),
        ("EBUSY", "EBUSY", ["cgroup-refused"]),
        ("EOPNOTSUPP", "EOPNOTSUPP", ["cgroup-refused"]),
        ("ENOTSUP", "EOPNOTSUPP", ["cgroup-refused"]),
        ("95", "EOPNOTSUPP", ["cgroup-refused"]),
        ("513", "ERESTARTNOINTR", ["signal-pending"]),
        ("ERESTARTNOINTR", "ERESTARTNOINTR", ["signal-pending"]),
        # nothing in the table gives it; some can give any
        ("EXDEV", "EXDEV", ["seccomp", "security-module", "sched-ext"]),
    ],
)
def test_an_errno_tells_all_its_causes_likeliest_first(
    word: str, name: str, first: list[str]
) -> None:
    answer = asked(*word.split())

    assert ("errno", name) == (answer.kind, answer.errno)
    assert first == [each.slug for each in answer.causes][: len(first)]


@pytest.mark.parametrize(("line", "application", "error", "cause"), SEEN)
def test_a_printed_text_finds_its_causes(
    line: str, application: str, error: str | None, cause: str
) -> None:
    answer = asked(*line.split())

    assert "text" == answer.kind
    assert application in [each.application for each in answer.texts]
    assert cause == answer.causes[0].slug
    if error and error != "EINTR":
        # pid-max: before Linux 4.1 it gave ENOMEM
        late = ["pid-max"] if error == "ENOMEM" else []
        assert late == [
            each.slug for each in answer.causes if each.errnos and error not in each.errnos
        ]


@pytest.mark.parametrize(("line", "application", "error", "cause"), SEEN)
def test_a_line_is_pasted_as_it_was_printed(
    line: str, application: str, error: str | None, cause: str
) -> None:
    # -bash: has an h in it, and -h is an option.
    assert json.loads(shown("--json", *line.split())) == json.loads(shown(*line.split(), "--json"))
    assert "Possible causes" in shown(line) or f"{cause}: " in shown(line)


@pytest.mark.parametrize("words", [["-h"], ["pids-cgroup", "--help"], ["-bash:", "-h"]])
def test_help_is_still_there(words: list[str]) -> None:
    assert shown(*words).startswith("Usage: ")


def test_what_begins_like_an_option_is_a_word() -> None:
    assert shown("--pids-limit") == shown("--", "--pids-limit") == shown("pids-cgroup")


@pytest.mark.parametrize(
    ("word", "kind", "name", "first"),
    [
        ("clone3", "call", ["process", "thread", "namespace"], "seccomp"),
        ("fork()", "call", ["process"], "pids-cgroup"),
        ("pthread_create(3)", "call", ["thread"], "pids-cgroup"),
        ("unshare", "call", ["namespace"], "user-namespace-denied"),
        ("OOMKilled", "call", ["late"], "copy-on-write"),
        ("kernel-thread", "call", ["kernel-thread"], "threads-max"),
        ("podman", "application", ["process", "namespace", "thread"], "pids-cgroup"),
        ("Erlang", "application", ["thread", "process"], "pids-cgroup"),
        ("beam.smp", "application", ["thread", "process"], "pids-cgroup"),
        ("java", "application", ["thread", "process"], "pids-cgroup"),
        ("vm.overcommit_memory", "setting", ["process"], "overcommit-heuristic"),
        (
            *("apparmor", "setting", ["namespace", "process", "thread"]),
            "user-namespace-denied",
        ),
        ("TasksMax=512", "cause", ["process", "thread"], "pids-cgroup"),
        ("max_map_count", "cause", ["thread"], "thread-stack"),
        ("cgroup.procs", "cause", ["cgroup", "process"], "cgroup-refused"),
    ],
)
def test_a_single_word_is_a_call_an_application_or_a_setting(
    word: str, kind: str, name: list[str], first: str
) -> None:
    answer = asked(word)

    assert (kind, name) == (answer.kind, list(answer.kinds))
    assert first == answer.causes[0].slug


@pytest.mark.parametrize(
    "text", ["-bash: fork: \u65e0\u6cd5\u5206\u914d\u5185\u5b58", "spawn EMFILE", "clone3"]
)
def test_an_answer_ends_with_the_command_that_decides(text: str) -> None:
    said = shown(text)
    head, _, decides = said.partition("\nTo decide here and now:\n")

    assert head and decides
    assert list(asked(text).decides) == [line.strip() for line in decides.splitlines()]
    assert json.loads(shown(text, "--json"))["decide"] == list(asked(text).decides)


def test_a_text_about_no_fork_is_told_without_a_cause() -> None:
    said = shown("Error: spawn EMFILE")

    assert said.startswith("Node: Error: spawn EMFILE\n") or said.startswith("Printed by Node.\n")
    assert "not-a-fork: No fork was refused here." in said
    assert "fd-table-limit" not in said
    assert [] == json.loads(shown("spawn", "EMFILE", "--json"))["causes"]


def test_an_unknown_text_with_an_errno_in_it_tells_that_errno() -> None:
    assert "ENOMEM" == asked("frobd: cannot clone myself: Cannot allocate memory").errno


@pytest.mark.parametrize(
    ("word", "near"),
    [
        ("pid-maxx", "pid-max"),
        ("aloc_pid", "alloc_pid"),
        ("EAGAINN", "EAGAIN"),
        ("treads-max", "threads-max"),
        ("postgress", "PostgreSQL"),
    ],
)
def test_an_unknown_word_suggests_the_nearest(word: str, near: str, capsys: Any) -> None:
    assert f"fork-trace: no such step, cause or errno: '{word}'. Did you mean {near}?\n" == refused(
        word, capsys=capsys
    )


def test_an_unknown_text_leads_to_the_list(capsys: Any) -> None:
    said = refused("the", "cat", "sat", "on", "the", "mat", capsys=capsys)

    assert "nothing in 'the cat sat on the mat' tells of a fork or thread" in said


@pytest.mark.parametrize("word", ["zzzzzzzz", "\u202e", "\x1b[2J", "9999", "0"])
def test_what_is_like_nothing_leads_to_the_list_and_is_harmless(word: str, capsys: Any) -> None:
    said = refused(word, capsys=capsys)

    assert "to list all causes" in said
    assert said.rstrip("\n").isprintable()


def queries() -> list[str]:
    numbers = ["EAGAIN", "ENOMEM", "EPERM", "EINVAL", "EXDEV"]
    return ["", *SLUGS, *STEP_NAMES, *numbers, *(each.text for each in texts.TEXTS)]


COMMANDS = {
    command
    for cause in CAUSES
    for kind, remedies in lookup.remedies_of(cause)
    for each in advice.offline(kind, remedies).values()
    for command in each.commands
}


def test_every_page_of_the_book_is_narrower_than_80_columns_and_without_colour() -> None:
    for query in queries():
        text = shown(*query.split())

        # A command stays on its line, whatever its length.
        lines = [line for line in text.splitlines() if line.strip() not in COMMANDS]
        assert max(map(len, lines)) < 80, query
        assert "\x1b" not in text


def test_json_is_one_object_with_the_same_entries() -> None:
    found = json.loads(shown("--json", "pids-cgroup"))
    (entry,) = found["causes"]

    assert ("cause", "pids-cgroup") == (found["asked"], found["text"])
    assert ["cgroup_can_fork"] == entry["steps"]
    assert {"", "docker", "podman", "kubernetes", "login-session"} <= set(entry["mitigate"])
    assert ["cat /sys/fs/cgroup/PATH/pids.current", "cat /sys/fs/cgroup/PATH/pids.max"] == (
        entry["verify"][""]["commands"]
    )
    assert entry["fix"][""]["text"] and entry["myths"] and entry["texts"]


@pytest.mark.parametrize("query", ["", "alloc_pid", "EAGAIN", "fork: retry: No child processes"])
def test_json_of_every_kind_of_answer_has_the_same_keys(query: str) -> None:
    found = json.loads(shown(*query.split(), "--json"))

    assert [
        *("text", "asked", "application", "errno", "kinds", "means", "step", "texts", "notes"),
        *("causes", "decide", "check"),
    ] == list(found)
    assert found["causes"]
    assert found["check"] is None


def test_an_error_is_an_exception_for_callers() -> None:
    with pytest.raises(ForkTraceError, match="pid-maxx"):
        asked("pid-maxx")


@pytest.mark.parametrize("slug", ["page-tables", "cgroup-threadgroup-lock", "processor"])
def test_a_reason_why_forks_take_long_is_told_with_what_to_do(slug: str) -> None:
    answer = lookup.look_up([slug])

    assert ("reason", (), ("slow",)) == (answer.kind, answer.causes, answer.kinds)
    assert [each.partition(":")[0] for each in answer.notes[1:]] == ["Verify", "Mitigate", "Fix"]
    assert "latency" in answer.decides[0]


@pytest.mark.parametrize(
    "text",
    [
        "fork failed after it took 3 seconds: Cannot allocate memory",
        "slow fork: Resource temporarily unavailable",
    ],
)
def test_what_failed_was_not_slow(text: str) -> None:
    assert "slow" not in lookup.look_up([text]).kinds
