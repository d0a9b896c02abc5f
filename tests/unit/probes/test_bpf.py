"""bpf/: which file may include which, what the table of probes says, and what is made of it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from docs import step_table
from test_plan import capable

from fork_trace.model import steps
from fork_trace.probes import plan
from fork_trace.probes.request import Request

CHECKOUT = Path(__file__).resolve().parents[3]
BPF = CHECKOUT / "bpf"
TABLE = (BPF / "probes.def").read_text()
STEPS, WITHOUT_STEP = step_table.parse(TABLE)
PROBES = [*(probe for step in STEPS for probe in step.probes), *WITHOUT_STEP]
WATCHES = [
    *(watch for step in steps.STEPS for watch in step.watches),
    steps.MEMORY_CGROUP,
    *steps.UNSHARED,
    *steps.EXECVES,
]

# File -> the files of ours that it includes. Each stands above all that it names.
INCLUDES: dict[str, set[str]] = {
    # Plain C: what the native shell has as well.
    "probes.def": set(),
    "uapi.h": set(),
    "wire.h": {"probes.def"},
    "settings.h": {"wire.h"},
    "port.h": {"settings.h", "wire.h"},
    "refusal.h": {"port.h", "wire.h"},
    "count.h": {"port.h", "uapi.h", "wire.h"},
    "logic.h": {"count.h", "port.h", "refusal.h", "uapi.h", "wire.h"},
    "counters.h": {"port.h", "wire.h"},
    "without_refusals.h": {"port.h"},
    "slots.h": {"uapi.h", "wire.h"},
    # The kernel's types, in either way.
    "kernel_types.h": set(),
    "kernel_headers.h": set(),
    # What reads the kernel: over one of these two, and never over both.
    "reading.h": {"port.h", "refusal.h", "slots.h", "wire.h"},
    "caller.h": {"port.h", "reading.h", "uapi.h", "wire.h"},
    "limits/cgroup.h": {"caller.h", "port.h", "reading.h", "refusal.h", "wire.h"},
    "limits/fds.h": {"port.h", "reading.h", "refusal.h", "uapi.h", "wire.h"},
    "limits/mappings.h": {"port.h", "reading.h", "refusal.h", "wire.h"},
    "limits/memory.h": {
        *("limits/mappings.h", "port.h", "reading.h", "refusal.h", "uapi.h", "wire.h"),
    },
    "limits/namespaces.h": {"port.h", "reading.h", "refusal.h", "uapi.h", "wire.h"},
    "limits/nproc.h": {"port.h", "reading.h", "refusal.h", "wire.h"},
    "limits/pidns.h": {"port.h", "reading.h", "refusal.h", "wire.h"},
    "limits/stack.h": {
        *("limits/memory.h", "port.h", "reading.h", "refusal.h", "uapi.h", "wire.h"),
    },
    "judge.h": {
        *("limits/cgroup.h", "limits/fds.h", "limits/memory.h", "limits/namespaces.h"),
        *("limits/nproc.h", "limits/pidns.h"),
        *("logic.h", "port.h", "reading.h", "refusal.h", "uapi.h", "wire.h"),
    },
    "steps.h": {
        *("limits/cgroup.h", "limits/fds.h", "limits/memory.h", "limits/namespaces.h"),
        *("limits/nproc.h", "limits/pidns.h", "limits/stack.h", "caller.h"),
        *("logic.h", "port.h", "reading.h", "refusal.h", "slots.h", "uapi.h", "wire.h"),
    },
    "programs.h": {"steps.h"},
    "maker.h": {"caller.h", "port.h", "reading.h", "wire.h"},
    "user_stack.h": {"caller.h", "port.h", "reading.h", "wire.h"},
    "latency.h": {"wire.h"},
    "late.h": {"caller.h", "limits/cgroup.h", "user_stack.h"},
    # The shells, and what has nothing to do with them.
    "fork_trace.bpf.c": {
        *("counters.h", "judge.h", "kernel_types.h", "late.h", "maker.h", "probes.def"),
        "programs.h",
        *("steps.h", "user_stack.h"),
    },
    "fork_trace.bcc.c": {"judge.h", "kernel_headers.h", "probes.def", "programs.h", "steps.h"},
    "counting.bpf.c": {
        *("caller.h", "count.h", "counters.h", "kernel_types.h", "slots.h"),
        "without_refusals.h",
    },
    "latency.bpf.c": {
        *("caller.h", "kernel_types.h", "latency.h", "slots.h", "user_stack.h"),
        "without_refusals.h",
    },
    "kernel_symbols.bpf.c": {"kernel_types.h"},
    "kernel_sysctls.bpf.c": {"kernel_types.h"},
    "rehearse_lsm.bpf.c": {"kernel_types.h"},
}
HEADERS = [name for name in INCLUDES if name.endswith(".h") and name != "kernel_headers.h"]


def included(name: str) -> set[str]:
    """The files of ours that one includes, from bpf/."""
    path = BPF / name
    found = re.findall(r'^#include "(.+)"$', path.read_text(), re.MULTILINE)
    return {(path.parent / each).resolve().relative_to(BPF).as_posix() for each in found}


def below(name: str) -> set[str]:
    """All that a file includes, directly or not."""
    return set().union(*({each} | below(each) for each in INCLUDES[name]))


def test_every_file_includes_what_the_table_of_arrows_says() -> None:
    paths = (path for path in BPF.rglob("*") if path.suffix in (".c", ".h", ".def"))
    names = {path.relative_to(BPF).as_posix() for path in paths}

    assert INCLUDES == {name: included(name) for name in names}


def test_no_file_includes_itself_by_way_of_others() -> None:
    above: list[str] = []
    for name, arrows in INCLUDES.items():
        assert arrows <= set(above), f"{name} includes what stands below it in the table of arrows"
        above.append(name)


@pytest.mark.parametrize("name", HEADERS)
def test_a_header_needs_nothing_that_it_does_not_include(name: str) -> None:
    if not shutil.which("clang"):
        pytest.skip("needs clang; scripts/setup installs it")
    asks = {"counters.h", "reading.h"} & (below(name) | {name})
    kernel = '#include "kernel_types.h"\n' if asks else ""
    kernel += "#include <bpf/bpf_helpers.h>\n#include <bpf/bpf_core_read.h>\n" if kernel else ""
    text = f'{kernel}#include "{name}"\n'
    command = ["clang", "-target", "bpf", "-D__TARGET_ARCH_x86", "-fsyntax-only", "-w", f"-I{BPF}"]
    done = subprocess.run(
        [*command, "-x", "c", "-"], input=text, capture_output=True, text=True, check=False
    )

    assert (0, "") == (done.returncode, done.stderr)


# What a slot may be read by: at a width of its own, or as the whole pointer that it is.
_READ = re.compile(
    r"\b(?:INT_IN|ENUM_IN|BOOL_IN|LONG_IN|IS_ERR_VALUE|REFUSED_\w+)\($"
    r"|\((?:const )?struct \w+ \*\)$"
    r"|&$"  # by its address: number_in, error_in
)


def test_no_slot_of_a_context_is_read_but_at_a_width() -> None:
    """Of an int or a bool only its own bytes are defined; a comparison of all 64 bits is one of rubbish."""
    text = re.sub(r"/\*.*?\*/", "", (BPF / "fork_trace.bpf.c").read_text(), flags=re.DOTALL)
    slots = [match.start() for match in re.finditer(r"\bctx\[", text)]

    assert len(slots) > 30
    for at in slots:
        before = text[text.rindex("\n", 0, at) + 1 : at].replace("REFUSED_##returns", "REFUSED_X")
        assert _READ.search(before), text[at - 60 : at + 20]


def test_the_package_carries_all_that_bcc_compiles() -> None:
    carried = re.search(r"CARRIED = \((.*?)\n\)", (CHECKOUT / "setup.py").read_text(), re.DOTALL)

    assert carried
    sources = {name for name in re.findall(r'"([^"]+)"', carried[1]) if not name.endswith(".o")}
    assert {"fork_trace.bcc.c"} | below("fork_trace.bcc.c") == sources


def test_every_program_stands_in_the_table_once() -> None:
    programs = [probe.program for probe in PROBES]

    assert sorted(set(programs)) == sorted(programs)


@pytest.mark.parametrize(
    "probe",
    [probe for probe in PROBES if probe.body == "OUTER"],
    ids=lambda probe: probe.program,
)
def test_the_steps_inside_an_outer_one_have_the_numbers_after_its_own(
    probe: step_table.Probe,
) -> None:
    order = [step.ident for step in STEPS]

    assert order.index(probe.step) < order.index(probe.of)


def test_whatever_copying_the_address_space_refuses_lies_between_mm_init_and_its_last_step() -> (
    None
):
    order = [step.ident for step in STEPS]
    first, last = order.index("MM_INIT"), order.index("LDT_DUP_CONTEXT")
    expected = {"DUP_MMAP", "VM_ENOUGH_MEMORY", "VM_AREA_DUP", "VMA_DUP_POLICY", "DUP_USERFAULTFD"}
    expected |= {"MM_INIT", "ANON_VMA_FORK", "COPY_PAGE_RANGE", "LDT_DUP_CONTEXT"}

    assert expected == set(order[first : last + 1])


@pytest.mark.parametrize(
    "probe",
    [probe for probe in PROBES if probe.body in ("OWN", "EACH") and probe.callers == "OTHERS"],
    ids=lambda probe: probe.program,
)
def test_a_body_of_what_others_call_as_well_asks_who_calls(probe: step_table.Probe) -> None:
    text = (BPF / "steps.h").read_text()
    bodies = re.findall(r"^ft_\w+ \w+ \**(\w+)\((.*?)^}", text, re.MULTILINE | re.DOTALL)
    question = re.compile(r"\b(is_inside_copy_process|is_inside_fork|is_fork_call)\(")
    asks = {name: bool(question.search(body)) for name, body in bodies}
    # Whose stack it is, is asked by what a stack is, and not by the caller.
    asks |= {"on_mmap": True, "on_mprotect": True}
    reached = [f"on_{probe.of}_return"]
    for name in reached:
        body = next(body for each, body in bodies if each == name)
        reached += [each for each, _ in bodies if f"{each}(" in body and each not in reached]

    assert any(asks[name] for name in reached)


def test_only_what_others_call_as_well_is_asked_who_calls() -> None:
    """A guard where only copy_process calls would hide what the kernel's own tasks were refused for."""
    if not shutil.which("clang"):
        pytest.skip("needs clang; scripts/setup installs it")
    command = [
        "clang",
        "-E",
        "-P",
        "-D__TARGET_ARCH_x86",
        "-I",
        str(BPF),
        f"{BPF}/fork_trace.bpf.c",
    ]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    asks = {}
    for probe in PROBES:
        if probe.body in ("OWN", "EACH", "SHELL"):
            continue
        for kind in ("fexit", "kretprobe"):
            name = f"{kind}_{probe.program}"
            body = re.search(rf"\bint {name}\(.*?(?=\bint \w+\(|\Z)", text, re.DOTALL)
            assert body, name
            told = re.sub(r"\bon_namespace_return\(", "is_inside_fork(", body[0])
            asks[name] = "is_inside_fork(" in told
    expected = {
        f"{kind}_{probe.program}": probe.callers == "OTHERS"
        for probe in PROBES
        if probe.body not in ("OWN", "EACH", "SHELL")
        for kind in ("fexit", "kretprobe")
    }

    assert expected == asks


@pytest.mark.parametrize(
    "step", [step for step in STEPS if step.probes], ids=lambda step: step.name
)
def test_the_stage_of_a_step_is_the_one_in_which_a_plan_attaches_it(step: step_table.Step) -> None:
    request = Request(on_demand=True, refused=True)
    made = plan.make(capable(), request)
    stages = {probe.stage.name for probe in made.probes if probe.step == step.name}

    assert {probe.stage for probe in step.probes} == stages


def test_the_floor_has_an_empty_program_for_each_of_ours() -> None:
    if not shutil.which("clang"):
        pytest.skip("needs clang; scripts/setup installs it")
    command = ["clang", "-E", "-P", "-D__TARGET_ARCH_x86", f"-I{BPF}"]
    source = CHECKOUT / "tests" / "tools" / "bench" / "floor.bpf.c"
    text = subprocess.run([*command, source], check=True, capture_output=True, text=True).stdout
    expected = [watch.program.replace("fexit_", "floor_") for watch in WATCHES]

    assert sorted(expected) == sorted(re.findall(r"\bint (floor_\w+)\(", text))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (", INT, OWN, clone_args", ", LONG, OWN, clone_args", "LONG of copy_clone_args is none"),
        ("PROBE(CLONE_ARGS,", "PROBE(SECCOMP,", "copy_clone_args does not stand below its step"),
        ("PROBE(CLONE_ARGS,", " PROBE(CLONE_ARGS,", "not understood"),
        ('STEP(SECCOMP, "', "STEP(SECCOMP, ", "not understood"),
    ],
)
def test_a_table_that_is_not_understood_is_refused(old: str, new: str, message: str) -> None:
    assert old in TABLE

    with pytest.raises(ValueError, match=message):
        step_table.page(TABLE.replace(old, new))


def test_forms_of_one_step_that_are_attached_apart_are_refused() -> None:
    line = next(line for line in TABLE.splitlines() if " mm_init_61," in line)

    with pytest.raises(ValueError, match="MM_INIT are of two stages"):
        step_table.page(TABLE.replace(line, line.replace("UNEXPLAINED", "FAILED")))
