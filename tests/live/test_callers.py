"""Who asked: real programs whose forks are refused, each named down to its own functions.

Runs natively too, in the lowest rung. One capture for all of them: a program ends when it was refused.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from building import PROGRAMS

from fork_trace.events import STACK_CHUNK

from .conftest import Captured, capture, functions, host_by

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="builds programs for x86-64"),
]

KINDS = ("fork", "vfork", "popen", "system", "posix_spawn", "pthread_create")
WRAPPERS = KINDS[2:]
NAMED = ["run_job", "middle_job", "outer_job", "main"]
FLAGS = ("-O2", "-fomit-frame-pointer", "-Wall", "-Werror", "-pthread")
MUSL_LOADER = Path("/lib/ld-musl-x86_64.so.1")
HASTY = 7
# Of 16 bytes each: as many as there are places for a stack pointer within a chunk of the stack.
PLACES = STACK_CHUNK // 16

# How it is built beyond FLAGS, and whether it keeps the names that only the linker needs. A build id of
# its own: no other variant's names shall be found for it.
VARIANTS = {
    "pie": ("-pie", "-fPIE"),
    "nopie": ("-no-pie",),
    "static": ("-static",),
    "staticpie": ("-static-pie",),
    "stripped": ("-s", "-Wl,--build-id=sha1", "-DSTRIPPED"),
}


def build_called(target: Path, compiler: str, *options: str) -> None:
    subprocess.run(
        [compiler, *FLAGS, *options, "-o", str(target), str(PROGRAMS / "called.c")], check=True
    )


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with each variant, and a root with another C library."""
    place = tmp_path_factory.mktemp("called")
    for name, options in VARIANTS.items():
        build_called(place / f"c-{name}", "cc", *options)
    root = place / "root"
    (root / "lib").mkdir(parents=True)
    if shutil.which("musl-gcc"):
        build_called(root / "c-musl", "musl-gcc", "-rdynamic")
        shutil.copy(os.path.realpath(MUSL_LOADER), root / "lib" / MUSL_LOADER.name)
    for directory in (*place.parents, place, root):
        if directory.stat().st_uid == os.geteuid() and directory != Path("/tmp"):
            directory.chmod(directory.stat().st_mode | 0o055)
    return place


RUNGS = ("fexit", "kprobe", "tracepoint")


@pytest.fixture(scope="module", params=RUNGS)
def rung(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each rung that samples stacks and that this kernel has."""
    if request.param == "tracepoint":
        request.getfixturevalue("any_host")
    else:
        host_by(request.param)
    yield request.param


@pytest.fixture(scope="module")
def called(rung: str, programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Captured:
    """One capture around every variant."""
    lines = []
    for kind in KINDS:
        lines.append(f"cp {programs}/c-pie {programs}/k-{kind} && {programs}/k-{kind} {kind}")
        if (programs / "root/c-musl").exists():
            lines.append(f"cp {programs}/root/c-musl {programs}/root/m-{kind}")
            lines.append(f"{programs}/root/m-{kind} {kind} 1 {programs}/root")
    if (programs / "root/c-musl").exists():
        lines.append(f"cp {programs}/root/c-musl {programs}/root/m-places")
        lines.append(f"{programs}/root/m-places vfork {PLACES} {programs}/root")
    for name in ("nopie", "static", "staticpie", "stripped"):
        lines.append(f"{programs}/c-{name} popen")
    lines.append(f"for i in $(seq {HASTY}); do {programs}/k-fork fork!; done")
    lines.append("true")
    (programs / "run.sh").write_text("\n".join(lines))
    return capture(
        tmp_path_factory.mktemp("capture") / "c.jsonl",
        *("sh", str(programs / "run.sh")),
        options=("--attach", rung),
    )


def only(captured: Captured, comm: str) -> dict[str, Any]:
    failures = captured.of(comm)
    assert failures, f"{comm} was not refused: {captured.done.stdout[-500:]}"
    return failures[0]


def named(failure: dict[str, Any]) -> list[str | None]:
    """The program's own functions in the stack, innermost first."""
    return [name for name in functions(failure) if name in NAMED]


@pytest.mark.parametrize("kind", KINDS)
def test_all_functions_of_a_caller_are_named_in_order(called: Captured, kind: str) -> None:
    failure = only(called, f"k-{kind}"[:15])

    assert NAMED == named(failure)
    assert (f"{kind} <- " if kind in WRAPPERS else "") + "run_job" == failure["caller"]
    assert "unwinding" == failure["stack_by"]


@pytest.mark.parametrize("name", ["nopie", "static", "staticpie"])
def test_however_a_program_is_linked_its_functions_are_named(called: Captured, name: str) -> None:
    failure = only(called, f"c-{name}")

    assert NAMED == named(failure)
    assert "popen <- run_job" == failure["caller"]


def test_a_stripped_program_is_unwound_through(called: Captured, programs: Path) -> None:
    failure = only(called, "c-stripped")
    own = [frame for frame in failure["stack"] if frame["file"] == f"{programs}/c-stripped"]

    # run_job, middle_job, outer_job, main and _start, none of which has a name any more.
    assert [None] * 5 == [frame["symbol"] for frame in own]
    assert "__libc_start_main" in functions(failure)
    assert f"popen <- c-stripped+{own[0]['offset']:#x}" == failure["caller"]
    assert {40} == {len(frame["build_id"]) for frame in own}


@pytest.mark.parametrize("kind", KINDS)
def test_in_a_chroot_with_another_c_library_they_are_named_too(
    called: Captured, programs: Path, kind: str
) -> None:
    if not (programs / "root/c-musl").exists():
        pytest.skip("needs musl-gcc; install musl-tools to run it")
    failure = only(called, f"m-{kind}"[:15])

    assert NAMED == named(failure)
    assert (f"{kind} <- " if kind in WRAPPERS else "") + "run_job" == failure["caller"]


def test_wherever_the_stack_pointer_is_what_lies_right_below_it_is_had(
    called: Captured, programs: Path
) -> None:
    if not (programs / "root/c-musl").exists():
        pytest.skip("needs musl-gcc; install musl-tools to run it")
    # musl's vfork takes its return address off the stack before its system call.
    failures = called.of("m-places")

    assert [1] * PLACES == [failure["count"] for failure in failures]
    assert [NAMED] * PLACES == [named(failure) for failure in failures]


def test_a_program_that_ends_at_once_is_named_all_the_same(called: Captured) -> None:
    failures = called.of("k-fork")

    assert HASTY + 1 == sum(failure["count"] for failure in failures)
    assert {"run_job"} == {failure["caller"] for failure in failures}
    assert [NAMED] * len(failures) == [named(failure) for failure in failures]


def test_no_stack_and_no_sample_is_lost(called: Captured) -> None:
    assert (0, 0) == (called.summary["lost"], called.summary["stackless"])


def test_without_stacks_the_frame_pointers_lead(rung: str, programs: Path, tmp_path: Path) -> None:
    captured = capture(
        tmp_path / "c.jsonl",
        *(f"{programs}/c-pie", "fork"),
        options=("--attach", rung, "--stack-bytes", "0"),
    )
    failure = only(captured, "c-pie")

    assert "frame-pointers" == failure["stack_by"]
    assert [] == [name for name in named(failure) if name == "outer_job"]


def test_whole_stacks_are_shown_if_asked_for(programs: Path, rung: str, tmp_path: Path) -> None:
    captured = capture(
        tmp_path / "c.jsonl",
        *(f"{programs}/c-pie", "popen", "5"),
        options=("--attach", rung, "--stacks", "--comm", "c-pie"),
    )
    (row,) = captured.summary["rows"]

    assert 5 == row["count"]
    assert NAMED == named(row)
    assert "  #7  run_job in " in captured.done.stdout


HOSTILE_COUNT = 23


def test_no_failure_is_lost_by_a_hostile_file(
    any_host: dict[str, Any], programs: Path, tmp_path: Path
) -> None:
    """A program that runs, whose file was spoilt behind its back where its tables are."""
    spoilt = programs / "c-spoilt"
    shutil.copy(programs / "c-pie", spoilt)
    image = bytearray(spoilt.read_bytes())
    sections = subprocess.run(
        ["readelf", "-SW", spoilt], capture_output=True, text=True, check=True
    ).stdout
    for line in sections.splitlines():
        parts = line.replace("[ ", "[").split()
        if len(parts) > 5 and parts[1] in (".eh_frame", ".eh_frame_hdr", ".symtab"):
            at, size = int(parts[4], 16), int(parts[5], 16)
            image[at : at + size] = b"\xff" * size
    spoilt.write_bytes(image)
    captured = capture(
        tmp_path / "c.jsonl",
        *(str(spoilt), "fork", str(HOSTILE_COUNT)),
        options=("--comm", "c-spoilt"),
    )

    assert HOSTILE_COUNT == captured.count("c-spoilt") == captured.exact("c-spoilt")
    assert 0 == captured.summary["lost"]
    assert {"fork"} <= {name for each in captured.failures for name in functions(each)}
