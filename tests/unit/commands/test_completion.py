"""What a shell offers at Tab: asked as click is asked, and by the shells themselves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fork_trace.diagnosis import lookup
from fork_trace.diagnosis.advice import means
from fork_trace.diagnosis.causes import CAUSES
from fork_trace.rehearse.scenarios import EVERY

ENVIRON = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
TIMEOUT_S = 60


def offered(line: str, shell: str = "bash") -> list[str]:
    """What click answers for a command line, its last word unfinished."""
    variables = {"COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    done = subprocess.run(
        ["fork-trace"],
        env={**ENVIRON, **variables, "_FORK_TRACE_COMPLETE": f"{shell}_complete"},
        capture_output=True,
        text=True,
        check=True,
        timeout=TIMEOUT_S,
    )
    assert "" == done.stderr
    return done.stdout.splitlines()


def words(line: str) -> list[str]:
    return [each.partition(",")[2] for each in offered(line) if each]


def shell(*argv: str, text: str = "") -> str:
    """Run a shell; where the machine has it not, scripts/setup --vm installs it."""
    if not shutil.which(argv[0]):
        pytest.skip(f"there is no {argv[0]}: scripts/setup --vm installs it")
    done = subprocess.run(
        argv, input=text, capture_output=True, text=True, env=ENVIRON, timeout=TIMEOUT_S
    )
    assert 0 == done.returncode, done.stderr
    return done.stdout


def test_explain_is_offered_every_cause_step_and_errno() -> None:
    found = words("fork-trace explain ")

    assert {cause.slug for cause in CAUSES} <= set(found)
    assert {step.name.split()[0] for step in lookup.STEPS} <= set(found)
    assert {"EAGAIN", "ENOMEM", "PostgreSQL"} <= set(found)
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("word", [word for word, _ in lookup.offers()])
def test_what_explain_is_offered_it_explains(word: str) -> None:
    assert lookup.look_up([word]).causes
    assert " " not in word


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("fork-trace expl", ["explain"]),
        ("fork-trace explain pids", ["pids-cgroup"]),
        ("fork-trace explain alloc", ["alloc_pid"]),
        ("fork-trace explain --js", ["--json"]),
        ("fork-trace rehearse into-cgroup-b", ["into-cgroup-busy", "into-cgroup-bad-fd"]),
        ("fork-trace rehearse into-cgroup-busy into-cgroup-b", ["into-cgroup-bad-fd"]),
        ("fork-trace rehearse --host", ["--host-wide"]),
        ("fork-trace live --by ca", ["caller", "cause"]),
        ("fork-trace live --by cause,us", ["cause,user"]),
        ("fork-trace live --by cause,ca", ["cause,caller"]),
        ("fork-trace live --attach f", ["fexit"]),
        ("fork-trace live --without bt", ["btf"]),
        ("fork-trace explain zzz", []),
    ],
)
def test_what_is_begun_is_completed(line: str, expected: list[str]) -> None:
    assert expected == words(line)


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("fork-trace report fo", "file,fo"),
        ("fork-trace capture --output fo", "file,fo"),
        ("fork-trace live --cgroup /sys", "dir,/sys"),
    ],
)
def test_names_of_files_are_left_to_the_shell(line: str, kind: str) -> None:
    assert [kind] == offered(line)


def test_every_rehearsal_is_offered() -> None:
    assert ["all", *(each.name for each in EVERY)] == words("fork-trace rehearse ")


def test_zsh_is_told_what_each_is() -> None:
    found = offered("fork-trace explain pid-m", "zsh")

    assert ["plain", "pid-max", means("pid-max")] == found


def test_bash_completes() -> None:
    text = """
        eval "$(_FORK_TRACE_COMPLETE=bash_source fork-trace)"
        complete -p fork-trace
        COMP_WORDS=(fork-trace explain overcommit-) COMP_CWORD=2
        _fork_trace_completion fork-trace
        printf '%s\\n' "${COMPREPLY[@]}"
    """
    how, *found = shell("bash", "--norc", text=text).splitlines()

    assert "-F _fork_trace_completion fork-trace" in how
    assert ["overcommit-heuristic", "overcommit-never"] == found


def test_fish_completes() -> None:
    text = """
        _FORK_TRACE_COMPLETE=fish_source fork-trace | source
        complete -C "fork-trace explain overcommit-"
    """
    found = shell("fish", "--no-config", "-c", text).splitlines()

    assert ["overcommit-heuristic", "overcommit-never"] == [
        line.partition("\t")[0] for line in found
    ]


def test_zsh_completes(tmp_path: Path) -> None:
    # Completion needs a line editor, and that a terminal.
    text = f"""
        zmodload zsh/zpty
        zpty inner zsh -f -i
        zpty -w inner 'autoload -U compinit; compinit -u -d {tmp_path}/dump'
        zpty -w inner 'eval "$(_FORK_TRACE_COMPLETE=zsh_source fork-trace)"; echo rea""dy'
        zpty -r -m inner heard '*ready*'
        zpty -w -n inner $'fork-trace rehearse into-cgroup-rem\\t'
        zpty -r -m inner heard '*into-cgroup-removed*' && echo completed
        zpty -d inner
    """

    assert "completed\n" == shell("zsh", "-f", text=text)
