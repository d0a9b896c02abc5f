"""What doctor found, as people read it."""

from __future__ import annotations

from typing import Any

from conftest import widths

from fork_trace.model import steps
from fork_trace.output import doctor


def found(**changes: Any) -> dict[str, Any]:
    return {
        "kernel": "6.1.0",
        "machine": "x86_64",
        "lockdown": None,
        "features": {
            "btf": {"value": True, "why": ""},
            "kprobes": {"value": None, "why": "x " * 90},
        },
        "usable": True,
        "attach": "fexit",
        "backend": "libbpf",
        "attached": [
            {"step": "dup_fd", "function": "dup_fd", "later": False},
            {"step": "mm_init", "function": "mm_init", "later": True},
            {"step": None, "function": "mem_cgroup_out_of_memory", "later": False},
        ],
        "missing": [{"step": "threads_max", "function": None, "reason": "inline " * 20}],
        "fallbacks": [],
        "unseen": None,
        "why": None,
        "remedy": None,
        "limits": {},
        **changes,
    }


def test_doctor_says_what_an_attach_mode_cannot_see() -> None:
    assert "Not seen" not in doctor.doctor(found())
    assert "Not seen: kernel threads.\n" in doctor.doctor(found(unseen="kernel threads"))


def test_doctor_begins_with_the_verdict_and_fits_80_columns() -> None:
    text = doctor.doctor(found())

    assert text.startswith("fork-trace works here, using fexit via libbpf.\n")
    assert "lockdown: not built into this kernel" in text
    assert max(widths(text)) < 80


def test_doctor_says_of_every_step_how_it_is_known() -> None:
    lines = [line.split(None, 1) for line in doctor.doctor(found()).splitlines()]
    told = {line[0]: " ".join(line[1].split()) for line in lines if len(line) > 1}

    assert "HOW FUNCTION OR REASON" == told["STEP"]
    assert "observed dup_fd" == told["dup_fd"]
    assert "on demand mm_init" == told["mm_init"]
    assert "observed mem_cgroup_out_of_memory" == told["-"]
    assert told["threads_max"].startswith("inferred inline")


def test_doctor_says_what_cannot_be_read_and_that_it_is_counted_all_the_same() -> None:
    names = ("cred.user", "ucount_type::UCOUNT_CGROUP_NAMESPACES", "\x1b[31m")
    gaps = [
        {"step": name, "function": None, "reason": f"this kernel's BTF has no {name}"}
        for name in names
    ]
    text = doctor.doctor(found(missing=gaps))

    told = " ".join(text.split())
    assert "this kernel's BTF has no cred.user" in told
    assert "no ucount_type::UCOUNT_CGROUP_NAMESPACES" in told
    assert "Counts are exact" in told
    assert "\x1b" not in text
    assert max(widths(text)) < 80
    assert "Not readable" not in doctor.doctor(found())


def test_doctor_says_why_no_better_attach_mode_is_used() -> None:
    reason = {"attach": "fexit", "backend": "libbpf", "reason": "no trampolines " * 9}

    text = doctor.doctor(found(attach="kprobe", fallbacks=[reason]))

    assert any(
        line.split()[:4] == ["fexit", "libbpf", "no", "trampolines"] for line in text.splitlines()
    )
    assert max(widths(text)) < 80
    assert "NOT USED" not in doctor.doctor(found())


def test_a_step_with_the_longest_name_leaves_its_reason_less_room() -> None:
    longest = max(steps.BY_NAME, key=len)
    gap = {"step": longest, "function": None, "reason": "inferred from kernel state " * 4}

    text = doctor.doctor(found(missing=[gap]))

    assert longest in text
    assert max(widths(text)) < 80


def test_doctor_says_what_is_wrong_and_what_to_do() -> None:
    text = doctor.doctor(found(usable=False, why="no BTF", remedy="Get one.", attached=[]))

    assert text.startswith("fork-trace cannot watch forks here: no BTF.\n  -> Get one.\n")
