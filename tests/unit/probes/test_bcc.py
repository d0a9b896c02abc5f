"""The bcc backend as far as no kernel is needed: options for the compiler, its words, the shell's programs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from fork_trace.model import steps
from fork_trace.probes import bcc, headers, plan
from fork_trace.probes.backend import AttachRefusedError, Filter
from fork_trace.probes.config import Config

BPF = Path(__file__).resolve().parents[3] / "bpf"
WATCHES = [*(watch for step in steps.STEPS for watch in step.watches), steps.MEMORY_CGROUP]

PLAN = plan.Plan(
    attach="kprobe",
    backend="bcc",
    probes=(plan.Probe("copy_process", "copy_process", "kretprobe_copy_process"),),
    missing=(),
    addresses={"nr_threads": 0xFFFFFFFF82000000},
    copy_process_range=(0x1000, 0x2000),
    has_ringbuf=False,
    header_fields={"cred_ucounts": True, "ucounts_rlimit": False},
)


def settings(filter_: Filter = Filter()) -> dict[str, str]:
    """The initializer that the compiler gets, by the fields of struct ft_config."""
    (flag,) = (each for each in bcc._flags(PLAN, filter_, 50) if each.startswith("-DFT_CONFIG="))
    values = re.findall(r"\{[^}]*\}|[^,]+", flag.partition("=")[2])
    names = [name for name, _ in Config._fields_]  # type: ignore[misc]
    assert len(names) == len(values)
    return dict(zip(names, values))


def test_the_settings_are_constants_in_the_order_of_their_structure() -> None:
    found = settings()

    assert "0x1000ULL" == found["copy_process_start"]
    assert "0xffffffff82000000ULL" == found["nr_threads"]
    assert "0x32ULL" == found["samples_per_second"]
    assert "0x1ULL" == found["notes_attempts"]
    assert "{0}" == found["filter_comm"]


def test_a_hostile_name_reaches_the_compiler_as_numbers() -> None:
    assert "{125,59,34,92}" == settings(Filter(comm='};"\\'))["filter_comm"]


def test_what_the_headers_have_and_the_buffer_are_told_to_the_compiler() -> None:
    flags = bcc._flags(PLAN, Filter(), 50)

    assert {"-DFT_RINGBUF=0", "-DFT_HAS_cred_ucounts=1", "-DFT_HAS_ucounts_rlimit=0"} <= set(flags)


def test_every_field_that_the_shell_asks_for_is_looked_for_in_the_headers(tmp_path: Path) -> None:
    text = (BPF / "kernel_headers.h").read_text()
    asked = set(re.findall(r"\bFT_HAS_(\w+)", " ".join(re.findall(r"^#if (.*)", text, re.M))))

    assert asked == {f"{type_}_{member}" for type_, member in headers._ASKED}


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The functions that the shell consists of once its macros are expanded, without the kernel's headers."""
    if not shutil.which("clang"):
        pytest.skip("needs clang; scripts/setup installs it")
    text = tmp_path_factory.mktemp("shell") / "shell.c"
    own = re.sub(r'#include "(?!programs\.h|probes\.def).*\n', "", bcc._source().decode())
    text.write_text(own)
    made = (BPF / "programs.h").read_text().replace('#include "steps.h"', "")
    (text.parent / "programs.h").write_text(made)
    command = ["clang", "-E", "-P", "-DFT_CONFIG=0", "-DFT_RINGBUF=1", str(text)]
    expanded = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return re.findall(r"^ ?int (\w+)\(", expanded, re.MULTILINE)


@pytest.mark.parametrize("watch", WATCHES, ids=lambda watch: watch.program)
def test_the_shell_has_a_program_for_each_that_a_plan_can_name(
    watch: steps.Watch, programs: list[str]
) -> None:
    expected = [watch.kprobe, watch.kretprobe] if watch.kprobe else [watch.kretprobe]

    assert [1] * len(expected) == [programs.count(name) for name in expected]


def test_the_shell_has_no_program_that_no_plan_can_name(programs: list[str]) -> None:
    named = {*(watch.kretprobe for watch in WATCHES), *(watch.kprobe for watch in WATCHES)}

    assert set(programs) <= named | set(steps.SYSCALL_PROGRAMS)


def test_no_line_of_the_shell_makes_two_programs() -> None:
    """What bcc writes before a function would go to the first of them alone."""
    lines = re.findall(
        r"^#define PROBE\(step.*\n((?:.*\\\n)*.*)", bcc._source().decode(), re.MULTILINE
    )

    assert [1, 1] == [len(re.findall(r"(?:SAVE|RETURN)_##", line)) for line in lines]


def test_what_c_code_says_on_stderr_is_kept_from_the_user(capfd: Any) -> None:
    said: list[str] = []

    assert 7 == bcc._quietly(lambda: os.write(2, b"a\nword") and 7, said)
    os.write(2, b"after")

    assert ["a", "word"] == said
    assert "after" == capfd.readouterr().err


def test_a_failure_gives_stderr_back_too(capfd: Any) -> None:
    def fail() -> None:
        raise ValueError

    with pytest.raises(ValueError):
        bcc._quietly(fail, [])
    os.write(2, b"after")

    assert "after" == capfd.readouterr().err


def fake(compile_: Any) -> dict[str, ModuleType]:
    whole, lib = ModuleType("bcc"), ModuleType("bcc.libbcc")
    whole.BPF = compile_  # type: ignore[attr-defined]
    whole.__version__ = "0.26.0"  # type: ignore[attr-defined]
    compile_.KPROBE, compile_.RAW_TRACEPOINT = 2, 17
    whole.libbcc = lib  # type: ignore[attr-defined]
    lib.lib = SimpleNamespace()  # type: ignore[attr-defined]
    return {"bcc": whole, "bcc.libbcc": lib}


def test_an_error_of_its_compiler_becomes_one_sentence_with_both_versions(
    monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    def compile_(**_options: Any) -> None:
        os.write(2, b"In file included from x.h:1:\ninclude/linux/new.h:7:1: error: what is this\n")
        raise Exception("Failed to compile BPF module <text>")

    for name, module in fake(compile_).items():
        monkeypatch.setitem(sys.modules, name, module)

    with pytest.raises(AttachRefusedError) as refusal:
        bcc.BccBackend(PLAN)

    release = os.uname().release
    expected = f"bcc 0.26.0 cannot compile for Linux {release}: include/linux/new.h:7:1: error: what is this"
    assert expected == refusal.value.message
    assert "leave --backend out" in refusal.value.hint
    assert "" == capfd.readouterr().err


def test_a_bcc_that_cannot_be_imported_is_told_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "bcc", None)

    with pytest.raises(AttachRefusedError, match="cannot load the module bcc"):
        bcc.BccBackend(PLAN)


def test_the_unrelated_module_of_that_name_is_told_apart(tmp_path: Path) -> None:
    (tmp_path / "bcc").mkdir()
    assert headers.bcc_module([str(tmp_path)]).value is False
    assert "unrelated" in headers.bcc_module([str(tmp_path)]).why

    (tmp_path / "bcc/libbcc.py").write_text("")
    assert headers.bcc_module([str(tmp_path)]).value is True
    assert "not installed" in headers.bcc_module([]).why
