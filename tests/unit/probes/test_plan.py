"""Which probes for which kernel. Each test begins from a capable one and takes one thing away."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from fork_trace.errors import ForkTraceError
from fork_trace.model import steps
from fork_trace.probes import plan
from fork_trace.probes.request import FEATURES, Request

# What clone3's arguments were refused for is taken up by the system call's exit alone: --refused.
START, FAILED, UNEXPLAINED = plan.Stage
WATCHED = [step.name for step in steps.STEPS if step.watches and step.name != "clone_args"]
INLINE = [step.name for step in steps.STEPS if not step.watches and step.name != steps.EXECVE]
# Those of one kind of machine.
EXECVES = [watch for watch in steps.EXECVES if watch.function.startswith("__x64_sys_")]
FUNCTIONS = [
    *(watch.function for step in steps.STEPS for watch in step.watches),
    steps.MEMORY_CGROUP.function,
    *(watch.function for watch in EXECVES),
]
SEVERAL = [step for step in steps.STEPS if len({watch.function for watch in step.watches}) > 1]
FORMS = [(step, watch) for step in steps.STEPS if len(step.watches) > 1 for watch in step.watches]


def capable(**changes: Any) -> plan.KernelFacts:
    facts = plan.KernelFacts(
        release="6.1.0",
        machine="x86_64",
        may_load=plan.YES,
        unlocked=plan.YES,
        libbpf=plan.YES,
        btf=plan.YES,
        trampolines=plan.Fact(None),
        ringbuf=plan.YES,
        kprobes=plan.YES,
        tracepoints=plan.YES,
        kallsyms=plan.YES,
        # Of several forms the first; reversed, as the last one of a function would win.
        params={
            watch.function: watch.params
            for watch in (
                *(w for step in steps.STEPS for w in reversed(step.watches)),
                steps.MEMORY_CGROUP,
                *EXECVES,
            )
        },
        addresses={
            name: 0x1000 + 16 * index
            for index, name in enumerate((*dict.fromkeys(FUNCTIONS), *plan.VARIABLES))
        },
        copy_process_range=(0x1000, 0x3000),
        preempts=plan.Fact(False),
        bcc=plan.Fact(False, "no bcc"),
    )
    return replace(facts, **changes)


def compiling(**changes: Any) -> plan.KernelFacts:
    """One without BTF, on a host that has all that bcc needs."""
    facts = capable(
        btf=plan.Fact(False, "no BTF"),
        params={},
        bcc=plan.YES,
        headers=plan.YES,
        headers_remedy="Install the headers.",
        header_fields={"cred_ucounts": True},
        header_params={"dup_fd": 2, "sched_cgroup_fork": 2},
    )
    return replace(facts, **changes)


NO = plan.Fact(False, "because of the test")


def without(mapping: Any, *names: str) -> dict[str, Any]:
    return {name: value for name, value in mapping.items() if name not in names}


def watched(made: plan.Plan) -> list[str]:
    """Name the steps that are watched, but for execve, which has several functions."""
    return [probe.step for probe in made.probes if probe.step not in (None, steps.EXECVE)]


def programs(made: plan.Plan) -> list[str]:
    return [probe.program for probe in made.probes]


def reasons(made: plan.Plan) -> dict[str, str]:
    return {gap.step: gap.reason for gap in made.missing}


def test_a_capable_kernel_gets_every_probe_and_misses_only_the_inline_tests() -> None:
    made = plan.make(capable())

    assert ("fexit", "libbpf") == (made.attach, made.backend)
    assert WATCHED == watched(made)
    assert sorted([*INLINE, "clone_args"]) == sorted(reasons(made))
    assert "inline" in reasons(made)["threads_max"]
    assert "--refused" in reasons(made)["seccomp"]
    assert steps.MEMORY_CGROUP.program in programs(made)
    assert not set(steps.SYSCALL_PROGRAMS) & set(programs(made))
    assert set(plan.VARIABLES) == set(made.addresses)
    assert (0x1000, 0x3000) == made.copy_process_range


def test_steps_that_every_fork_pays_for_are_attached_later() -> None:
    made = plan.make(capable())

    expected = {step.name for step in steps.STEPS if step.in_detail}

    assert expected == {probe.step for probe in made.probes if probe.stage is UNEXPLAINED}
    assert {"copy_process", "alloc_pid", "cgroup_can_fork"}.isdisjoint(expected)


def test_with_all_steps_none_is_attached_later() -> None:
    made = plan.make(capable(), Request(all_steps=True))

    assert WATCHED == watched(made)
    assert {START} == {probe.stage for probe in made.probes}
    assert made.watched(FAILED) == made.watched(UNEXPLAINED)


@pytest.mark.parametrize("attach", ["fexit", "kprobe"])
def test_on_demand_only_the_forks_own_end_is_attached_from_the_start(attach: str) -> None:
    usual = plan.make(capable(), Request(attach=attach))
    made = plan.make(capable(), Request(attach=attach, on_demand=True))

    assert ["copy_process"] == [each.function for each in made.probes if each.stage is START]
    assert [each.stage or FAILED for each in usual.probes[1:]] == [
        each.stage for each in made.probes[1:]
    ]
    assert programs(usual) == programs(made)


def test_on_demand_what_the_user_asks_for_beside_it_is_attached_as_asked() -> None:
    made = plan.make(capable(), Request(refused=True, all_steps=True, on_demand=True))

    assert {"copy_process", "copy_clone_args_from_user", "sys_enter", "sys_exit"} == {
        each.function for each in made.probes if each.stage is START
    }
    assert {START, FAILED} == {each.stage for each in made.probes}


def test_the_masks_of_watched_steps_have_a_bit_for_each_probe() -> None:
    made = plan.make(capable())
    watched_ = [steps.BY_NAME[name] for name in (*WATCHED, steps.EXECVE)]
    now = sum(1 << step.number for step in watched_ if not step.in_detail)
    later = sum(1 << step.number for step in watched_ if step.in_detail)

    assert (now, now | later) == (made.watched(FAILED), made.watched(UNEXPLAINED))


def test_a_probe_that_was_given_up_has_no_bit() -> None:
    made = plan.make(capable())
    bit = 1 << steps.BY_NAME["sched_fork"].number

    less = made.without_probe("fexit_sched_fork", "refused")

    assert made.watched(UNEXPLAINED) - bit == less.watched(UNEXPLAINED)


@pytest.mark.parametrize(("step", "watch"), FORMS, ids=lambda each: getattr(each, "program", ""))
def test_each_form_of_a_function_has_the_program_that_is_written_for_it(
    step: steps.Step, watch: steps.Watch
) -> None:
    params = without(capable().params, *(each.function for each in step.watches))

    made = plan.make(capable(params={**params, watch.function: watch.params}))

    stage = UNEXPLAINED if step.in_detail else START
    expected = plan.Probe(step.name, watch.function, watch.program, stage)
    assert [expected] == [probe for probe in made.probes if probe.step == step.name]


@pytest.mark.parametrize("step", SEVERAL, ids=lambda step: step.name)
def test_of_several_functions_the_first_that_is_there_is_taken(step: steps.Step) -> None:
    both = {watch.function: watch.params for watch in reversed(step.watches)}

    made = plan.make(capable(params={**capable().params, **both}))

    assert [step.watches[0].program] == [p.program for p in made.probes if p.step == step.name]


@pytest.mark.parametrize("step", SEVERAL, ids=lambda step: step.name)
def test_of_several_functions_the_reason_is_of_the_one_that_is_there(step: steps.Step) -> None:
    *others, last = (watch.function for watch in step.watches)
    params = {**capable().params, **dict.fromkeys(others), last: 9}

    made = plan.make(capable(params=params))

    assert f"{last} has 9 parameters" in reasons(made)[step.name]


def test_a_function_that_copy_process_does_not_call_is_not_watched() -> None:
    # As in Linux 6.12, whose copy_process has __pidfd_prepare inlined.
    params = {**capable().params, "__pidfd_prepare": None, "pidfd_prepare": 3}

    made = plan.make(capable(params=params, last_params={"pidfd_prepare": "ret"}))
    later = plan.make(capable(params=params, last_params={"pidfd_prepare": "ret_file"}))

    assert "does not call pidfd_prepare" in reasons(made)["pidfd_prepare"]
    assert "pidfd_prepare" in watched(later)


def cannot_be_watched(facts: plan.KernelFacts, function: str, lack: str) -> plan.KernelFacts:
    return {
        # None: there is no such function, or it is void and its exit tells nothing
        "no function": replace(facts, params={**facts.params, function: None}),
        "no entry": replace(facts, params=without(facts.params, function)),
        "other parameters": replace(facts, params={**facts.params, function: 9}),
        "no symbol": replace(facts, addresses=without(facts.addresses, function)),
    }[lack]


LACKS = ["no function", "no entry", "other parameters", "no symbol"]


@pytest.mark.parametrize("lack", LACKS)
def test_a_step_seen_in_part_where_it_can_be_is_elsewhere_one_that_never_is(lack: str) -> None:
    made = plan.make(cannot_be_watched(capable(), "__vmalloc_area_node", lack))

    (gap,) = (each for each in made.missing if each.step == "dup_task_struct")
    assert (None, True) == (gap.function, "tested inline" in gap.reason)


@pytest.mark.parametrize("kprobes", [plan.YES, NO])
def test_a_function_that_takes_a_struct_is_watched_at_its_return(kprobes: plan.Fact) -> None:
    made = plan.make(capable(kprobes=kprobes))

    found = [each.program for each in made.probes if each.function == "__vmalloc_area_node"]
    assert (["kretprobe_vmalloc_area"] if kprobes is plan.YES else []) == found


@pytest.mark.parametrize(
    "step", [name for name in WATCHED if name not in ("copy_process", *steps.SEEN_IN_PART)]
)
@pytest.mark.parametrize("lack", LACKS)
def test_a_step_that_cannot_be_watched_is_missing_with_its_reason(step: str, lack: str) -> None:
    facts = capable()
    functions = {watch.function for watch in steps.BY_NAME[step].watches}
    for function in functions:
        facts = cannot_be_watched(facts, function, lack)

    made = plan.make(facts)

    assert [name for name in WATCHED if name != step] == watched(made)
    assert any(function in reasons(made)[step] for function in functions)
    assert ("9 parameters" in reasons(made)[step]) == (lack == "other parameters")
    assert "that returns something" in reasons(made)[step] or lack in LACKS[2:]
    assert len(steps.STEPS) == len(watched(made)) + len(made.missing) + 1  # execve


def test_execve_is_watched_in_each_of_its_system_calls_and_missing_once_none_can_be() -> None:
    facts = capable()
    programs_of = [watch.program for watch in EXECVES]
    assert programs_of == [each for each in programs(plan.make(facts)) if "execve" in each]

    made = plan.make(cannot_be_watched(facts, EXECVES[0].function, LACKS[0]))
    assert programs_of[1:] == [each for each in programs(made) if "execve" in each]
    assert "execve" not in reasons(made)

    for watch in EXECVES:
        facts = cannot_be_watched(facts, watch.function, LACKS[0])
    assert "--refused" in reasons(plan.make(facts))["execve"]
    assert "execve" not in reasons(plan.make(facts, Request(refused=True)))


@pytest.mark.parametrize("lack", LACKS)
def test_without_word_of_memory_cgroups_every_step_stays(lack: str) -> None:
    made = plan.make(cannot_be_watched(capable(), steps.MEMORY_CGROUP.function, lack))

    assert WATCHED == watched(made)
    assert steps.MEMORY_CGROUP.program not in programs(made)


def test_a_memory_cgroup_s_program_that_was_refused_is_told_by_its_function() -> None:
    made = plan.make(capable())

    less = made.without_probe(steps.MEMORY_CGROUP.program, "refused")

    function = steps.MEMORY_CGROUP.function
    assert (*made.missing, plan.Missing(function, function, "refused")) == less.missing
    assert len(made.probes) - 1 == len(less.probes)


def test_refused_calls_are_watched_on_demand_beside_the_upper_attach() -> None:
    made = plan.make(capable(), Request(refused=True))

    assert "fexit" == made.attach
    assert sorted([*WATCHED, "clone_args"]) == sorted(watched(made))
    assert list(steps.SYSCALL_PROGRAMS) == programs(made)[-2:]
    assert {"seccomp", "kernel_clone"}.isdisjoint(reasons(made))
    assert "threads_max" in reasons(made)


@pytest.mark.parametrize(("attach", "expected"), [("fexit", 2), ("kprobe", 1)])
def test_where_programs_are_preempted_a_second_one_watches_copy_process(
    attach: str, expected: int
) -> None:
    made = plan.make(capable(preempts=plan.YES), Request(attach=attach))

    assert expected == sum(probe.function == "copy_process" for probe in made.probes)
    assert (attach == "fexit") == (steps.COPIED_AGAIN in programs(made)) == made.is_copied_twice
    assert (attach != "tracepoint") == made.can_leave_out


@pytest.mark.parametrize("has_kprobes", [True, None, False])
def test_the_second_one_is_at_the_return_unless_there_are_no_kprobes(
    has_kprobes: bool | None,
) -> None:
    facts = capable(preempts=plan.YES, kprobes=plan.Fact(has_kprobes))
    made = plan.make(facts)
    expected = steps.COPIED_AGAIN_ON_EXIT if has_kprobes is False else steps.COPIED_AGAIN

    assert expected == programs(made)[-1]
    assert made.can_leave_out


def test_if_the_kernel_refuses_that_one_another_on_the_exit_is_in_its_place() -> None:
    made = plan.make(capable(preempts=plan.YES))
    left = made.without_probe(steps.COPIED_AGAIN, "refused")
    least = left.without_probe(steps.COPIED_AGAIN_ON_EXIT, "refused")

    assert (steps.COPIED_AGAIN_ON_EXIT, True) == (programs(left)[-1], left.is_copied_twice)
    assert len(made.probes) == len(left.probes) == len(least.probes) + 1
    assert (made.missing, False) == (least.missing, least.is_copied_twice)


@pytest.mark.parametrize("wishes", [Request(refused=True), Request(attach="tracepoint")])
def test_where_tracepoints_are_preempted_a_second_program_watches_each(
    wishes: Request,
) -> None:
    made = plan.make(capable(preempts_tracepoints=plan.YES), wishes)

    assert [*steps.SYSCALL_PROGRAMS, *steps.SECOND_PROGRAMS] == programs(made)[-4:]
    assert ["sys_enter", "sys_exit"] * 2 == [probe.function for probe in made.probes[-4:]]


def test_a_way_that_cannot_have_copy_process_gives_way_to_the_next() -> None:
    bare = capable(params=without(capable().params, "copy_process"))
    # As on Debian's arm64 kernel 5.10, whose BTF has no static function at all.
    made = plan.make(bare)

    assert ("kprobe", "libbpf") == (made.attach, made.backend)
    assert "copy_process" in watched(made)
    reason = "this kernel's BTF has no function copy_process that returns something"
    assert [("fexit", reason)] == [(each.attach, each.reason) for each in made.fallbacks]

    changed = capable(params={**capable().params, "copy_process": 9})
    made = plan.make(changed)

    assert "tracepoint" == made.attach
    assert {"fexit", "kprobe"} == {each.attach for each in made.fallbacks}
    assert "9 parameters" in made.fallbacks[0].reason


@pytest.mark.parametrize("attach", ["fexit", "kprobe"])
def test_who_forces_a_way_that_cannot_have_copy_process_is_told(attach: str) -> None:
    changed = capable(params={**capable().params, "copy_process": 9})

    with pytest.raises(ForkTraceError, match=r"6\.1\.0: copy_process has 9 parameters"):
        plan.make(changed, Request(attach=attach))


NEEDED = ["libbpf", "btf", "may_load", "unlocked", "ringbuf"]  # by every attach mode that there is


@pytest.mark.parametrize("feature", NEEDED)
@pytest.mark.parametrize("attach", [None, "fexit", "kprobe", "tracepoint"])
def test_what_the_attach_needs_and_is_not_there_is_told_with_a_remedy(
    feature: str, attach: str | None
) -> None:
    facts = capable(**{feature: plan.Fact(False, "because of the test")})

    with pytest.raises(ForkTraceError) as refusal:
        plan.make(facts, Request(attach=attach))

    expected = "cannot watch forks on 6.1.0: because of the test"
    assert refusal.value.message in (expected, f"{expected}; bcc is not an option either: no bcc")
    assert refusal.value.hint


@pytest.mark.parametrize(
    "feature", ["libbpf", "btf", "may_load", "unlocked", "trampolines", "ringbuf"]
)
def test_what_could_not_be_told_is_tried(feature: str) -> None:
    assert WATCHED == watched(plan.make(capable(**{feature: plan.Fact(None)})))


@pytest.mark.parametrize("feature", ["kprobes", "tracepoints"])
def test_what_the_attach_does_not_need_is_not_asked_for(feature: str) -> None:
    made = plan.make(capable(**{feature: plan.Fact(False, "gone")}))

    assert ("fexit", "libbpf") == (made.attach, made.backend)
    # What is seen in part is seen at a return.
    assert set(WATCHED) - set(watched(made)) <= set(steps.SEEN_IN_PART)


def test_without_trampolines_and_kprobes_the_tracepoint_attach_says_what_it_infers() -> None:
    made = plan.make(capable(trampolines=NO, kprobes=NO))

    assert "tracepoint" == made.attach
    assert list(steps.SYSCALL_PROGRAMS) == programs(made)
    assert (0, 0) == (made.watched(FAILED), made.watched(UNEXPLAINED))
    seen = {"seccomp", "kernel_clone", "copy_process", "mmap", "mprotect", "execve"}
    assert seen == set(steps.BY_NAME) - set(reasons(made))
    assert set(plan.VARIABLES) == set(made.addresses)


@pytest.mark.parametrize(
    "wishes",
    [
        Request(attach="tracepoint"),
        Request(without=frozenset({"trampolines", "kprobes"})),
        Request(without=frozenset({"trampolines", "kprobes"}), refused=True, all_steps=True),
    ],
)
def test_the_tracepoint_attach_can_be_forced_or_come_to(wishes: Request) -> None:
    expected = plan.make(capable(trampolines=NO, kprobes=NO))

    made = plan.make(capable(), wishes)

    assert replace(expected, fallbacks=()) == replace(made, fallbacks=())


def test_without_trampolines_the_kprobe_attach_watches_the_same_steps() -> None:
    best, made = plan.make(capable()), plan.make(capable(trampolines=NO))

    assert ("kprobe", "libbpf") == (made.attach, made.backend)
    assert [(p.step, p.function, p.stage) for p in best.probes] == [
        (p.step, p.function, p.stage) for p in made.probes
    ]
    assert best.missing == made.missing
    assert best.watched(UNEXPLAINED) == made.watched(UNEXPLAINED)


def test_a_kprobe_at_a_return_has_one_at_the_entry_where_arguments_are_needed() -> None:
    made = plan.make(capable(trampolines=NO))
    entries = {probe.function: (probe.program, probe.entry) for probe in made.probes}

    assert ("kretprobe_alloc_pid", "kprobe_alloc_pid") == entries["alloc_pid"]
    assert ("kretprobe_copy_process", "kprobe_copy_process") == entries["copy_process"]
    assert ("kretprobe_cgroup_can_fork", None) == entries["cgroup_can_fork"]
    assert not any(probe.entry for probe in plan.make(capable()).probes)


@pytest.mark.parametrize(
    "wishes", [Request(attach="kprobe"), Request(without=frozenset({"trampolines"}))]
)
def test_the_kprobe_attach_can_be_forced_or_come_to(wishes: Request) -> None:
    expected = plan.make(capable(trampolines=NO))

    made = plan.make(capable(), wishes)

    assert replace(expected, fallbacks=()) == replace(made, fallbacks=())


def test_a_plan_says_which_better_ones_were_fallbacks_and_why() -> None:
    denied = Request(without=frozenset({"kprobes"}))

    made = plan.make(capable(trampolines=NO), denied)

    assert [("fexit", "libbpf"), ("kprobe", "libbpf"), ("kprobe", "bcc")] == [
        (each.attach, each.backend) for each in made.fallbacks
    ]
    assert "because of the test" == made.fallbacks[0].reason
    assert "denied by --without kprobes" == made.fallbacks[1].reason
    assert () == plan.make(capable(trampolines=NO), Request(attach="kprobe")).fallbacks


def test_where_btf_tells_no_static_function_the_symbols_decide_for_kprobes() -> None:
    statics = ("copy_process", "copy_clone_args_from_user", "mm_init", "pgd_alloc", "dup_mmap")
    bare = capable(
        trampolines=NO,
        params=without(capable().params, *statics),
        addresses=without(capable().addresses, "mm_init", "pgd_alloc"),
        voids=frozenset({"sched_cgroup_fork"}),
    )
    bare = replace(bare, params={**bare.params, "sched_cgroup_fork": None})

    made = plan.make(bare)

    assert {"copy_process", "dup_mmap"} <= set(watched(made))
    assert {"mm_init", "sched_cgroup_fork"} <= set(reasons(made))


@pytest.mark.parametrize("attach", ["fexit", "kprobe"])
def test_where_the_function_in_mprotect_is_inlined_the_system_call_itself_is_watched(
    attach: str,
) -> None:
    gone = "do_mprotect_pkey", "__arm64_sys_mprotect"
    facts = capable(params=without(capable().params, *gone))

    made = plan.make(facts, Request(attach=attach))

    assert {"__x64_sys_mprotect"} == {
        probe.function for probe in made.probes if probe.step == "mprotect"
    }


def test_where_btf_tells_static_functions_one_that_it_has_not_is_not_traceable() -> None:
    facts = capable(trampolines=NO, params=without(capable().params, "perf_event_init_task"))

    assert "perf_event_init_task" in reasons(plan.make(facts))


def test_who_forces_the_fexit_attach_gets_no_other() -> None:
    facts = capable(trampolines=plan.Fact(False, "because of the test"))

    with pytest.raises(ForkTraceError, match="because of the test") as refusal:
        plan.make(facts, Request(attach="fexit"))

    assert "trampolines" in refusal.value.hint


def test_without_system_call_tracepoints_there_is_no_lower_attach() -> None:
    facts = capable(tracepoints=plan.Fact(False, "no syscall tracepoints"), kprobes=NO)

    with pytest.raises(ForkTraceError, match="no syscall tracepoints") as refusal:
        plan.make(facts, Request(attach="tracepoint"))
    assert "CONFIG_FTRACE_SYSCALLS" in refusal.value.hint

    # Of two attach modes that fail the better one's reason is told.
    with pytest.raises(ForkTraceError, match="no trampolines"):
        plan.make(replace(facts, trampolines=plan.Fact(False, "no trampolines")))


@pytest.mark.parametrize("feature", ["libbpf", "btf", "ringbuf"])
def test_a_denied_feature_is_as_good_as_missing_and_says_who_denied_it(feature: str) -> None:
    with pytest.raises(ForkTraceError, match=f"denied by --without {feature}"):
        plan.make(capable(), Request(without=frozenset({feature})))


def test_without_kallsyms_every_probe_stays_but_no_address_is_used() -> None:
    made = plan.make(capable(), Request(without=frozenset({"kallsyms"})))

    assert WATCHED == watched(made)
    assert {} == made.addresses
    assert made.copy_process_range is None


def test_symbols_that_show_no_addresses_are_no_reason_to_miss_a_step() -> None:
    facts = capable(kallsyms=plan.Fact(False, "kptr_restrict"), addresses={})

    assert WATCHED == watched(plan.make(facts))


def test_a_variable_that_this_kernel_has_not_is_left_out() -> None:
    made = plan.make(capable(addresses=without(capable().addresses, "pid_max")))

    assert set(plan.VARIABLES) - {"pid_max"} == set(made.addresses)
    assert WATCHED == watched(made)


def test_without_btf_what_is_compiled_here_watches_by_kprobe() -> None:
    made = plan.make(compiling())

    assert ("kprobe", "bcc") == (made.attach, made.backend)
    assert WATCHED == watched(made)
    assert {"cred_ucounts": True} == made.header_fields
    assert [("fexit", "no BTF"), ("kprobe", "no BTF")] == [
        (each.attach, each.reason) for each in made.fallbacks
    ]


@pytest.mark.parametrize("denied", [{"btf"}, {"btf", "trampolines"}, {"libbpf"}])
def test_what_is_denied_to_libbpf_leaves_it_to_bcc(denied: set[str]) -> None:
    facts = capable(bcc=plan.YES, headers=plan.YES)

    made = plan.make(facts, Request(without=frozenset(denied)))

    assert ("kprobe", "bcc") == (made.attach, made.backend)


def test_bcc_is_forced_where_libbpf_could_do_it() -> None:
    made = plan.make(capable(bcc=plan.YES, headers=plan.YES), Request(backend="bcc"))

    assert ("kprobe", "bcc", ()) == (made.attach, made.backend, made.fallbacks)


def test_where_libbpf_can_trace_functions_nothing_is_compiled() -> None:
    facts = capable(bcc=plan.YES, headers=plan.YES, trampolines=NO)

    assert "libbpf" == plan.make(facts).backend


@pytest.mark.parametrize(("value", "expected"), [(True, True), (None, True), (False, False)])
def test_samples_come_by_a_perf_buffer_only_where_there_is_no_other(
    value: bool | None, expected: bool
) -> None:
    assert expected == plan.make(compiling(ringbuf=plan.Fact(value))).has_ringbuf


def test_without_btf_the_symbols_say_what_is_there() -> None:
    facts = compiling(addresses=without(compiling().addresses, "dup_mmap"))

    assert "symbols have no dup_mmap" in reasons(plan.make(facts))["dup_mmap"]


@pytest.mark.parametrize("params", [2, 3])
def test_without_btf_a_header_says_which_form_of_dup_fd_it_is(params: int) -> None:
    made = plan.make(compiling(header_params={"dup_fd": params}))

    (probe,) = (each for each in made.probes if each.step == "dup_fd")
    assert ("kretprobe_dup_fd" if params == 2 else "kretprobe_dup_fd_510") == probe.program


def test_what_returns_nothing_by_its_header_is_not_watched() -> None:
    facts = compiling(header_params={"dup_fd": 2, "sched_cgroup_fork": None})

    assert "returns nothing" in reasons(plan.make(facts))["sched_cgroup_fork"]


@pytest.mark.parametrize(
    ("feature", "remedy"),
    [
        ("bcc", "python3-bpfcc"),
        ("headers", "Install the headers."),
        ("kprobes", "CONFIG_KPROBE_EVENTS=y"),
        ("may_load", "CAP_BPF"),
        ("unlocked", "lockdown=integrity"),
    ],
)
def test_what_bcc_needs_and_is_not_there_is_told_with_a_remedy(feature: str, remedy: str) -> None:
    with pytest.raises(ForkTraceError, match="because of the test") as refusal:
        plan.make(compiling(**{feature: NO}), Request(backend="bcc"))

    assert remedy in refusal.value.hint


def test_the_package_with_bcc_is_named_only_where_bcc_is_the_only_way() -> None:
    with pytest.raises(ForkTraceError) as refusal:
        plan.make(compiling(bcc=NO))

    assert "python3-bpfcc" in refusal.value.hint
    assert "libbpf" == plan.make(capable(bcc=NO)).backend


def test_where_neither_backend_can_do_it_both_reasons_and_remedies_are_told() -> None:
    with pytest.raises(ForkTraceError) as refusal:
        plan.make(compiling(headers=NO))

    assert "no BTF; bcc is not an option either: because of the test" in refusal.value.message
    assert "CONFIG_DEBUG_INFO_BTF=y" in refusal.value.hint
    assert "Or: Install the headers." in refusal.value.hint


def test_a_reason_that_both_have_is_told_once() -> None:
    with pytest.raises(ForkTraceError) as refusal:
        plan.make(compiling(btf=plan.YES, may_load=NO))

    assert "stand in" not in refusal.value.message


def test_a_attach_that_a_backend_has_not_is_said_so() -> None:
    with pytest.raises(ForkTraceError, match="the bcc backend does not support --attach fexit"):
        plan.make(capable(), Request(attach="fexit", backend="bcc"))


@pytest.mark.parametrize("wishes", [Request(attach="fexit"), Request(backend="libbpf")])
def test_what_would_be_chosen_anyway_can_be_forced(wishes: Request) -> None:
    assert plan.make(capable()) == plan.make(capable(), wishes)


def test_every_feature_that_can_be_denied_is_a_fact() -> None:
    assert all(isinstance(capable().feature(name), plan.Fact) for name in FEATURES)


def test_a_probe_that_the_kernel_refused_moves_to_the_missing_ones() -> None:
    made = plan.make(capable()).without_probe("fexit_dup_fd", "invalid argument")

    assert "dup_fd" not in watched(made)
    assert "invalid argument" == reasons(made)["dup_fd"]
    assert "alloc_pid" in watched(made)
    assert len(steps.STEPS) == len(watched(made)) + len(made.missing) + 1  # execve


OOM = {"oom_kill_process": 0x9000, "__oom_kill_process": 0x9100}


@pytest.mark.parametrize(
    ("attach", "denied", "expected"),
    [
        ("fexit", (), ["fentry_oom_kill", "fentry_oom_kill_process"]),
        ("fexit", ("__oom_kill_process",), ["fentry_oom_kill_process"]),
        ("fexit", ("oom_kill_process",), ["raw_mark_victim"]),
        ("kprobe", (), ["kprobe_oom_kill", "kprobe_oom_kill_process"]),
        ("tracepoint", (), ["raw_mark_victim"]),
    ],
)
def test_the_oom_killer_is_watched_by_what_there_is(
    attach: str, denied: tuple[str, ...], expected: list[str]
) -> None:
    there = {name: address for name, address in OOM.items() if name not in denied}
    facts = capable(voids=frozenset(there), addresses={**capable().addresses, **there})
    made = plan.make(facts, Request(attach=attach))

    assert expected == [probe.program for probe in made.late]
    assert not {probe.program for probe in made.probes} & set(expected)


@pytest.mark.parametrize(
    ("attach", "parameters", "expected"),
    [
        ("fexit", 4, (None, "fexit_hugetlb_fault")),
        ("fexit", 5, None),
        ("kprobe", None, ("kprobe_hugetlb_fault", "kretprobe_hugetlb_fault")),
        ("tracepoint", 4, None),
    ],
)
def test_faults_of_huge_pages_are_watched_where_their_arguments_are_known(
    attach: str, parameters: int | None, expected: tuple[str | None, str] | None
) -> None:
    facts = capable(voids=frozenset(OOM))
    addresses = {**facts.addresses, **OOM, plan.HUGE_FAULT: 0x9200}
    params = {**facts.params, plan.HUGE_FAULT: parameters}
    made = plan.make(replace(facts, addresses=addresses, params=params), Request(attach=attach))
    found = [each for each in made.late if each.function == plan.HUGE_FAULT]

    assert [expected] * bool(expected) == [(each.entry, each.program) for each in found]


def test_a_program_of_deaths_that_is_refused_is_given_up_alone() -> None:
    made = plan.make(capable(), Request(attach="tracepoint"))
    left = made.without_probe("raw_mark_victim", "no")

    assert (made.probes, ()) == (left.probes, left.late)
    assert "no" == left.missing[-1].reason
