"""What printed texts are about: texts from sources and reports of users, each with its kind, errno and application."""

from __future__ import annotations

from pathlib import Path

import pytest

from fork_trace.diagnosis import errnos, kinds, lookup
from fork_trace.diagnosis.causes import BY_SLUG

# kind, errno, application ("-": it tells none), text
PRINTED = [
    tuple(line.split("\t"))
    for line in (Path(__file__).parents[2] / "data" / "printed.tsv")
    .read_text(encoding="utf-8")
    .splitlines()
]
THREAD_ONLY = {"thread-stack", "exec-in-progress", "unshared-namespace", "mapping-limit"}
OVERCOMMIT = {"overcommit-heuristic", "overcommit-never"}


@pytest.mark.parametrize(
    ("kind", "error", "application", "text"), PRINTED, ids=[each[3][:60] for each in PRINTED]
)
def test_a_printed_text_is_known_for_what_it_is(
    kind: str, error: str, application: str, text: str
) -> None:
    answer = lookup.look_up([text])

    assert kind == answer.kinds[0]
    assert (error, application) == (answer.errno or "-", answer.application or "-")


def test_the_causes_of_a_text_are_those_of_its_kind_and_errno() -> None:
    wrong = [
        (text, causes)
        for kind, error, _, text in PRINTED
        for causes in [[cause.slug for cause in lookup.look_up([text]).causes]]
        if not fits(kind, error, causes)
    ]

    assert [] == wrong


def fits(kind: str, error: str, causes: list[str]) -> bool:
    """Say whether causes can be those of a text of this kind, by what the kernel does."""
    if len(set(causes)) < len(causes):
        return False
    if kind == "not-a-fork":
        return not causes
    if kind == "process" and (not causes or causes[0] in THREAD_ONLY):
        return False
    if kind == "thread" and (not causes or OVERCOMMIT & set(causes)):
        return False
    if error == "-" or kind == "late":
        return True
    # pid-max gave ENOMEM before Linux 4.1.
    known = [each for each in causes if (each, error) != ("pid-max", "ENOMEM")]
    return all(not BY_SLUG[each].errnos or error in BY_SLUG[each].errnos for each in known)


def test_every_kind_is_in_the_texts_and_says_what_it_is_and_what_decides() -> None:
    assert {kind.name for kind in kinds.KINDS} == {each[0] for each in PRINTED}
    for kind in kinds.KINDS:
        assert kind.means.endswith(".")
        assert kinds.decides(kind.name, None)


@pytest.mark.parametrize(
    "text",
    [
        "hello world, how are you",
        "Started Daily apt download activities.",
        "fork-trace, version 0.1.0",
        "user logged in from 10.0.0.1 port 22",
        "all threads are running",
        "GET /spawn/list HTTP/1.1 200",
    ],
)
def test_what_tells_of_nothing_has_no_kind_that_is_certain(text: str) -> None:
    normal = errnos.normal(text)
    error = errnos.told(normal, is_typed=False)
    found = kinds.read(normal, error)

    assert not found or not kinds.is_certain(normal, error, found)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        # Attributes of its own, or a filter: who sets none can only have met the filter.
        ("pthread_create failed: Operation not permitted", ("thread-attributes", "thread")),
        (
            "runtime/cgo: pthread_create failed: Operation not permitted",
            ("thread", "thread-attributes"),
        ),
        # fork itself gives EMFILE above fs.nr_open; before it, a program's pipes give it.
        ("bash: fork: Too many open files", ("process", "not-a-fork")),
        ("Error: spawn EMFILE", ("not-a-fork", "process")),
        ("pipe: Too many open files", ("not-a-fork",)),
        # The same verb, another errno: what the clone was asked for was refused.
        ("clone: Resource temporarily unavailable", ("process",)),
        ("clone: Operation not permitted", ("namespace",)),
        # A start into a cgroup
        ("Failed to spawn executor: Resource temporarily unavailable", ("process",)),
        ("Failed to spawn executor: Device or resource busy", ("cgroup", "process")),
        # execve in the child of a spawn
        ("Error: spawn /usr/bin/x ENOENT", ("exec",)),
        ("Error: spawn /usr/bin/x EAGAIN", ("process",)),
    ],
)
def test_an_errno_decides_between_kinds(text: str, found: tuple[str, ...]) -> None:
    assert found == lookup.look_up([text]).kinds


def test_a_text_about_no_fork_says_so_and_what_it_is_instead() -> None:
    said = kinds.means("not-a-fork", "EMFILE")

    assert said.startswith("No fork was refused here.")
    assert "ulimit -n" in said and "pipes" in said
    assert "grep 'open files' /proc/PID/limits" in kinds.decides("not-a-fork", "EMFILE")


def test_a_kill_is_of_a_cgroup_where_the_text_names_it_and_may_be_by_a_fork() -> None:
    def causes(text: str) -> list[str]:
        return [cause.slug for cause in lookup.look_up([text]).causes]

    of_a_cgroup = ["copy-on-write", "memory-cgroup-oom"]
    assert of_a_cgroup == causes("kernel: Out of memory: Killed process 99 (java)")[:2]
    for text in (
        "Memory cgroup out of memory: Killed process 99 (java)",
        "OOMKilled",
        "Background saving terminated by signal 9",
        "Killed",
        "command terminated with exit code 137",
    ):
        assert of_a_cgroup == causes(text)[:2], text


def test_ids_that_were_not_mapped_are_said_to_be_of_a_namespace_that_was_made() -> None:
    for text in ("newuidmap: write to uid_map failed: EPERM", "bwrap: setting up gid map: EACCES"):
        (note,) = lookup.look_up([text]).notes
        assert "The namespace was made" in note and "AppArmor" in note
    assert () == lookup.look_up(["unshare: unshare failed: EPERM"]).notes


def test_enomem_can_be_pid_exhaustion_on_an_old_kernel() -> None:
    for text in ("bash: fork: Cannot allocate memory", "ENOMEM", "pthread_create failed: ENOMEM"):
        answer = lookup.look_up([text])

        assert "pid-max" == answer.causes[-1].slug
        assert any("35f71bc0a09a" in note for note in answer.notes)
    assert () == lookup.look_up(["bash: fork: Resource temporarily unavailable"]).notes
