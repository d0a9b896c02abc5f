"""The runbook against the code: its commands are commands, its causes the book's, its outputs today's words."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from typing import Any

import click
import pytest
from conftest import MadeHost

from fork_trace import documents
from fork_trace.commands import cli
from fork_trace.diagnosis import lookup
from fork_trace.diagnosis.advice import means, offline
from fork_trace.diagnosis.causes import BY_SLUG
from fork_trace.headroom import check
from fork_trace.output import check as output

TEXT = documents.text("runbook")
PIECES = re.split(r"^```\n(.*?)^```\n", TEXT, flags=re.MULTILINE | re.DOTALL)
PROSE, TRANSCRIPTS = "".join(PIECES[::2]), PIECES[1::2]
FLAT = " ".join(TEXT.split())
COMMANDS = sorted(
    {
        *re.findall(r"^# (fork-trace .+?)(?:;.*)?$", TEXT, re.MULTILINE),
        *re.findall(r"`(?:sudo |exec )?(fork-trace [^`]+)`", PROSE),
    }
)
# The symptoms that the tables begin from, with the causes under each.
TABLES = re.findall(r"^`([^`]+)`.*\n\n((?:\|.*\n)+)", PROSE, re.MULTILINE)
# The five that people come with.
SYMPTOMS = [
    "bash: fork: Cannot allocate memory",
    "fork: retry: Resource temporarily unavailable",
    "unable to create native thread",
    "could not fork new process for connection",
    "Can't save in background: fork: Cannot allocate memory",
]


@pytest.mark.parametrize("line", COMMANDS)
def test_its_commands_are_commands(line: str) -> None:
    _, name, *words = shlex.split(line.replace("CAUSE", "pids-cgroup"))

    try:
        cli.load(name).make_context(name, words, **cli.cli.context_settings).close()
    except click.exceptions.Exit as end:
        assert 0 == end.exit_code


def test_it_has_commands_of_each_kind() -> None:
    assert {"live", "capture", "check", "explain"} <= {line.split()[1] for line in COMMANDS}


@pytest.mark.parametrize("symptom", SYMPTOMS)
def test_each_symptom_has_a_section_with_a_report_and_a_fix(symptom: str) -> None:
    sections = [
        part
        for part in re.split(r"^## ", TEXT, flags=re.M)
        if f"`{symptom}`" in part.splitlines()[0]
    ]

    assert 1 == len(sections)
    assert lookup.look_up(symptom.split()).texts
    assert "fix" in sections[0]
    assert "# fork-trace " in sections[0]


@pytest.mark.parametrize(("symptom", "table"), TABLES, ids=lambda value: value[:20])
def test_the_causes_under_a_symptom_can_print_it(symptom: str, table: str) -> None:
    causes = re.findall(r"^\| `([a-z-]+)`", table, re.MULTILINE)
    possible = {cause.slug for cause in lookup.look_up(symptom.split()).causes}

    assert causes
    assert set() == set(causes) - possible


def test_there_is_a_table_for_each_kind_of_symptom() -> None:
    assert 5 == len(TABLES)


def test_what_the_reports_say_of_a_cause_is_what_the_book_says() -> None:
    told = dict(
        re.findall(r"^([a-z-]+): ((?:.+\n)(?:  (?! ).*\n)*?)(?=  \d+ x )", TEXT, re.MULTILINE)
    )

    assert {"pid-namespace-dead", "pids-cgroup"} <= set(told)
    for cause, text in told.items():
        assert means(cause) == " ".join(text.split())


def test_its_advice_is_what_the_causes_say_without_the_numbers() -> None:
    for slug, kind, words in (
        ("pid-namespace-dead", "mitigate", "Leave that shell, or restart that program"),
        ("pids-cgroup", "fix", "Raise pids.max in whatever creates the cgroup"),
        ("rlimit-nproc", "mitigate", "raise the limit of the running process"),
    ):
        remedies = dict(lookup.remedies_of(BY_SLUG[slug]))[kind]

        assert words in offline(kind, remedies)[""].text
        assert words in FLAT


CARD = next(block for block in TRANSCRIPTS if "mapfile" in block).splitlines()


def test_what_needs_no_fork_works_where_none_can_be_made() -> None:
    """The whole card, by one shell; what it becomes at the end proves that it could not have forked."""
    forks = "import os\ntry: os.fork()\nexcept BlockingIOError: print('no fork')"
    # The limit comes once bash runs. Root, whom RLIMIT_NPROC does not bind, is left before.
    script = "\n".join(
        ["ulimit -Su 0", *CARD, "ulimit -u 0", f"exec python3 -c {shlex.quote(forks)}"]
    )
    user: dict[str, Any] = (
        {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}
    )
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, timeout=60, cwd="/", **user
    )

    assert (0, "") == (done.returncode, done.stderr)
    assert "no fork" == done.stdout.splitlines()[-1]
    assert re.search(
        r"^MemTotal:.*\n(.*\n)*Max processes.*\n(.*\n)*\d+ processes\n1 threads$", done.stdout, re.M
    )


@pytest.mark.parametrize(("page", "number"), [("runbook", 3), ("headroom", 1)])
def test_its_checks_look_as_check_writes_them(page: str, number: int, made_host: MadeHost) -> None:
    today = output.check(check.examine(0.001, 100, str(made_host.root)), False)
    text = documents.text(page)
    (heading,) = re.findall(r"^LEVEL .*$", today, re.M)
    words = re.findall(r"\d+\s+(\w+)", re.split(r"\n\n", today)[0].rpartition(";")[2])

    assert number == len(re.findall(r"^LEVEL ", text, re.M))
    for line, row in re.findall(r"^(LEVEL .*)\n(.*)$", text, re.M):
        assert heading.split() == line.split()
        assert re.fullmatch(r"(full|near) +\d+%  .*", row)
    for counts in re.findall(r"; (\d+ full,\s+[^\n]*(?:\n  [^\n]*)?)\n\n", text):
        assert words == re.findall(r"\d+\s+(\w+)", counts)
