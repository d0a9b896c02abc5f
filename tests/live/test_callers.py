"""Who asked: real programs whose forks are refused, each named down to its own functions.

Runs natively too, in the lowest attach mode. One capture for all of them: a program ends when it was refused.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from accuracy.watching import Watched, watching
from building import PROGRAMS

from fork_trace.model.sizes import STACK_CHUNK

from .conftest import Captured, functions
from .rehearsing import NAMED as WATCHERS

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(
        os.uname().machine not in ("x86_64", "aarch64"), reason="unwinds x86-64 and arm64 only"
    ),
]

KINDS = ("fork", "vfork", "popen", "system", "posix_spawn", "pthread_create")
WRAPPERS = KINDS[2:]
NAMED = ["run_job", "middle_job", "outer_job", "main"]
FLAGS = ("-O2", "-fomit-frame-pointer", "-Wall", "-Werror", "-pthread")
MUSL_LOADER = Path(f"/lib/ld-musl-{os.uname().machine}.so.1")
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
LINKED = ["nopie", "static", "staticpie"]
if os.uname().machine == "aarch64":
    # Its return addresses carry signatures, where the processor has such and the kernel lets it.
    VARIANTS["signed"] = ("-mbranch-protection=pac-ret+leaf",)
    LINKED.append("signed")


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
        # Where /lib is not /usr/lib, the shared one lies there, and a static one would be taken.
        shared = f"-L{Path(os.path.realpath(MUSL_LOADER)).parent}"
        build_called(root / "c-musl", "musl-gcc", "-rdynamic", shared)
        shutil.copy(os.path.realpath(MUSL_LOADER), root / "lib" / MUSL_LOADER.name)
    for directory in (*place.parents, place, root):
        if directory.stat().st_uid == os.geteuid() and directory != Path("/tmp"):
            directory.chmod(directory.stat().st_mode | 0o055)
    return place


_MODES = ("fexit", "kprobe", "tracepoint")
ATTACH_MODES = tuple(each for each in _MODES if each in WATCHERS) or _MODES
# By a watcher without stacks; by one that shows whole ones; with a file whose tables are spoilt.
ZERO, WHOLE, SPOILT = "c-zero", "c-whole", "c-spoilt"
SPOILT_COUNT = 23


def watchers() -> dict[str, tuple[str, ...]]:
    """Each attach mode with stacks and without, and one that shows them whole."""
    by: dict[str, tuple[str, ...]] = {attach: ("--attach", attach) for attach in ATTACH_MODES}
    by |= {
        f"{attach}-0": (*by[attach], "--stack-bytes", "0", "--comm", ZERO)
        for attach in ATTACH_MODES
    }
    return {**by, "whole": ("--stacks", "--comm", WHOLE)}


def script(programs: Path) -> str:
    """What runs every variant."""
    lines = []
    has_musl = (programs / "root/c-musl").exists()
    for kind in KINDS:
        lines.append(f"cp {programs}/c-pie {programs}/k-{kind} && {programs}/k-{kind} {kind}")
        if has_musl:
            lines.append(f"cp {programs}/root/c-musl {programs}/root/m-{kind}")
            lines.append(f"{programs}/root/m-{kind} {kind} 1 {programs}/root")
    if has_musl:
        lines.append(f"cp {programs}/root/c-musl {programs}/root/m-places")
        lines.append(f"{programs}/root/m-places vfork {PLACES} {programs}/root")
    for name in (*LINKED, "stripped"):
        lines.append(f"{programs}/c-{name} popen")
    lines.append(f"for i in $(seq {HASTY}); do {programs}/k-fork fork!; done")
    lines += [f"cp {programs}/c-pie {programs}/{name}" for name in (ZERO, WHOLE)]
    lines += [f"{programs}/{ZERO} fork", f"{programs}/{WHOLE} popen 5"]
    lines.append(f"{programs}/{SPOILT} fork {SPOILT_COUNT}")
    return "\n".join([*lines, "true"])


@pytest.fixture(scope="module")
def seen(
    any_host: dict[str, Any], programs: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Watched | None]:
    """What every watcher saw of every variant, in one run of them."""
    spoil(programs)
    with watching(tmp_path_factory.mktemp("callers"), watchers()) as seen:
        subprocess.run(["sh", "-c", script(programs)], check=True, stdout=subprocess.DEVNULL)
    return seen


@pytest.fixture(scope="module", params=ATTACH_MODES)
def attach(request: pytest.FixtureRequest) -> str:
    """Each attach mode that samples stacks."""
    return str(request.param)


def seen_by(seen: dict[str, Watched | None], watcher: str) -> Captured:
    """What one of them saw; skips where this kernel has not that attach mode."""
    watched = seen[watcher]
    assert watched is not None
    if watched.refused is not None:
        pytest.skip(f"{watcher}: {watched.refused.partition('. ')[0]}")
    return Captured(watched.records, watched.done)


@pytest.fixture(scope="module")
def called(attach: str, seen: dict[str, Watched | None]) -> Captured:
    """What the watcher on that attach mode saw."""
    return seen_by(seen, attach)


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


@pytest.mark.parametrize("name", LINKED)
def test_however_a_program_is_built_its_functions_are_named(called: Captured, name: str) -> None:
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
    assert (0, 0) == (called.summary["lost"], called.summary["without_stack"])


def test_without_stacks_the_frame_pointers_lead(
    attach: str, seen: dict[str, Watched | None]
) -> None:
    failure = only(seen_by(seen, f"{attach}-0"), ZERO)

    assert "frame-pointers" == failure["stack_by"]
    # The kernel's own walk ends where the C library keeps no frame pointer.
    assert failure["stack"]
    assert "outer_job" not in named(failure)


def test_whole_stacks_are_shown_if_asked_for(seen: dict[str, Watched | None]) -> None:
    captured = seen_by(seen, "whole")
    (row,) = captured.summary["rows"]

    assert 5 == row["count"]
    assert NAMED == named(row)
    # So many functions of the C library lie between: seven on x86-64, fewer on arm64.
    at = functions(row).index("run_job")
    assert f"  #{at}  run_job in " in captured.done.stdout


def spoil(programs: Path) -> None:
    """Make a program that runs, whose file was spoilt behind its back where its tables are."""
    spoilt = programs / SPOILT
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


def test_no_failure_is_lost_by_a_hostile_file(called: Captured) -> None:
    assert SPOILT_COUNT == called.count(SPOILT) == called.exact(SPOILT)
    assert 0 == called.summary["lost"]
    names = {name for each in called.of(SPOILT) for name in functions(each)}
    assert {"fork"} <= names
