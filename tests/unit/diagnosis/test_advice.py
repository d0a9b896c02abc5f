"""The causes in words: complete, right for the place, and runnable whatever a name holds."""

from __future__ import annotations

import json
import re
import shlex
import subprocess

import pytest
from conftest import MadeHost, make_evidence
from hypothesis import given
from hypothesis import strategies as some
from test_verdict import LATE, SLUGS

from fork_trace.diagnosis import lookup
from fork_trace.diagnosis.advice import VARIANTS, About, advise, means, offline, shell
from fork_trace.diagnosis.cause import Cause
from fork_trace.diagnosis.causes import BY_SLUG, CAUSES
from fork_trace.headroom import check
from fork_trace.model import places
from fork_trace.model.records import Advice
from fork_trace.rehearse import scenarios
from fork_trace.rehearse.scenarios import SCENARIOS, find

# The contract: what a record's `step` and `cause` can be.
STEP_NAMES = [
    "seccomp",
    "clone_args",
    "kernel_clone",
    "copy_process",
    "clone_flags",
    "dup_task_struct",
    "task_exec_state_copy",
    "copy_creds",
    "create_user_ns",
    "set_cred_ucounts",
    "rlimit_nproc",
    "threads_max",
    "__io_uring_fork",
    "__mpol_dup",
    "sched_fork",
    "perf_event_init_task",
    "audit_alloc",
    "security_task_alloc",
    "copy_semundo",
    "dup_fd",
    "copy_fs",
    "copy_fs_struct",
    "copy_sighand",
    "copy_signal",
    "dup_mm",
    "mm_init",
    "dup_mmap",
    "__vm_enough_memory",
    "vm_area_dup",
    "vma_dup_policy",
    "dup_userfaultfd",
    "anon_vma_fork",
    "copy_page_range",
    "ldt_dup_context",
    "copy_namespaces",
    "copy_mnt_ns",
    "copy_utsname",
    "copy_ipcs",
    "copy_pid_ns",
    "copy_cgroup_ns",
    "copy_net_ns",
    "copy_time_ns",
    "__copy_io",
    "copy_thread",
    "shstk_alloc_thread_stack",
    "alloc_pid",
    "pidfd_prepare",
    "cgroup_can_fork",
    "sched_cgroup_fork",
    "futex_hash_allocate_default",
    "pid_namespace_late",
    "signal_late",
] + ["mmap (thread stack)", "mprotect (thread stack)", "execve"]

ID = "0123456789ab" + "c" * 52
POD = "kubepods-burstable-podd3b07384_d113_4ec6_9c1a_0123456789ab.slice"
PODS = "/sys/fs/cgroup/kubepods.slice/kubepods-burstable.slice"
USER = "/sys/fs/cgroup/user.slice/user-1000.slice"
PLACES = {
    "service": "/sys/fs/cgroup/system.slice/app.service",
    "scope": "/sys/fs/cgroup/system.slice/run-r1.scope",
    "slice": "/sys/fs/cgroup/app.slice",
    "session": f"{USER}/session-3.scope",
    "user unit": f"{USER}/user@1000.service/app.slice/db.service",
    "docker": f"/sys/fs/cgroup/system.slice/docker-{ID}.scope",
    "podman": f"/sys/fs/cgroup/machine.slice/libpod-{ID}.scope",
    "pod": f"{PODS}/{POD}",
    "pod's container": f"{PODS}/{POD}/cri-containerd-{ID}.scope",
    "pods": "/sys/fs/cgroup/kubepods.slice",
    "plain": "/sys/fs/cgroup/app",
    "v1": "/sys/fs/cgroup/memory/app",
    "inner": f"/sys/fs/cgroup/docker/{ID}/inner.service",
    "own": f"/sys/fs/cgroup/docker/{ID}/workers",
    "nerdctl": f"/sys/fs/cgroup/system.slice/nerdctl-{ID}.scope",
    "lxc": "/sys/fs/cgroup/lxc.payload.web1",
    "in lxc": "/sys/fs/cgroup/lxc.payload.web1/system.slice/apache2.service",
    "in proxmox": "/sys/fs/cgroup/lxc/101/ns/system.slice/apache2.service",
    "in nspawn": "/sys/fs/cgroup/machine.slice/systemd-nspawn@web.service/payload/system.slice/a.service",
    "in podman": f"/sys/fs/cgroup/machine.slice/libpod-{ID}.scope/container/system.slice/a.service",
}
HOSTILE = [
    "{",
    "}",
    "{}",
    "{0}",
    "{limit}",
    "{limit.__class__}",
    "{dir!r:>99}",
    "%s",
    "{{x}}",
    "a b",
    "'",
    '"',
    "$(touch x)",
    "a;b&c|d>e",
    "a\nb",
    "\x1b[2J\x07",
    "-x",
    "caf\u00e9",
    "\u202e",
    "\ud800",
    "\\x2d",
    "!x",
]
by_cause = pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause.slug)


def commands(advice: tuple[Advice, ...]) -> list[str]:
    return [command for each in advice for command in each.commands]


def said(advice: Advice) -> str:
    return " ".join((advice.text, *advice.commands))


def advised(slug: str, place: str, **changes: object) -> tuple[Advice, ...]:
    evidence = make_evidence(where=PLACES[place], **changes)
    return advise(slug, [evidence], 1000, PLACES[place], 42)


def parse(script: str) -> str:
    """Return what bash says against a script's grammar."""
    done = subprocess.run(
        ["bash", "-n"], input=script.encode("utf-8", "surrogateescape"), capture_output=True
    )
    return done.stderr.decode()


def test_every_cause_of_the_contract_is_there_and_only_once() -> None:
    assert sorted(SLUGS) == sorted(cause.slug for cause in CAUSES)


def test_every_step_of_the_contract_has_its_entry_in_the_kernel_s_order() -> None:
    assert STEP_NAMES == [step.name for step in lookup.STEPS]


def test_every_step_has_causes_and_every_cause_has_a_step() -> None:
    named = {cause.slug for step in lookup.STEPS for cause in step.causes}

    assert sorted(SLUGS) == sorted([*named, *LATE])
    assert all(step.what for step in lookup.STEPS)


def test_what_a_step_decides_itself_comes_before_want_of_memory() -> None:
    slugs = [cause.slug for cause in lookup.BY_STEP["alloc_pid"].causes]

    assert ["pid-max", "pid-namespace-dead"] == slugs[:2]
    assert ["memory-cgroup", "kernel-memory"] == slugs[-2:]


def test_check_looks_at_what_the_causes_say(made_host: MadeHost) -> None:
    found: set[tuple[str, str, str]] = set()
    made_host.write("sys/user/max_user_namespaces", "1000")
    made_host.meminfo(MemTotal=1_000_000, MemAvailable=900_000, SwapTotal=0, SwapFree=0)
    made_host.add(2000, "shell", children=42, slots=64, limits={"open files": "64"})
    made_host.add(2001, "redis", anonymous=100_000)
    made_host.add(2002, "redis", anonymous=100_000, parent=2001, is_forked=True)
    for name, text in (("max", "9000000"), ("current", "8999999"), ("events", "oom_kill 0")):
        (made_host.cgroups / "app" / f"memory.{name}").write_text(text)
    for mode in ("0", "2"):
        made_host.write("sys/vm/overcommit_memory", mode)
        told = check.examine(80, 100, str(made_host.root))
        found |= {(each["cause"], each["name"], each["unit"]) for each in told["limits"]}

    named = {("namespace-limit", "user.max_user_namespaces"): "user.max_*_namespaces"}
    found = {(cause, named.get((cause, name), name), unit) for cause, name, unit in found}
    assert {(each.slug, *each.check[:2]) for each in CAUSES if each.check} == found


def test_a_rehearsal_is_named_for_every_cause_that_has_one() -> None:
    expected = {each.cause for each in (*SCENARIOS, *scenarios.LATE)} - {""}
    named = {cause.slug: find(cause.rehearsal.split()[-1]) for cause in CAUSES if cause.rehearsal}

    assert expected == set(named)
    for slug, scenario in named.items():
        assert slug == scenario.cause
        assert scenario.host_wide == BY_SLUG[slug].rehearsal.startswith("--host-wide ")


def test_what_is_seen_with_refused_only_is_told_so() -> None:
    early = {each.cause for each in SCENARIOS if each.is_early and each.cause != "thread-stack"}

    assert early == {cause.slug for cause in CAUSES if cause.is_early}
    assert "capture --refused" in lookup.by_tool(BY_SLUG["seccomp"])[0]


@by_cause
def test_a_cause_tells_all_and_each_sentence_ends(cause: Cause) -> None:
    assert cause.means and cause.limit
    assert not cause.means.endswith(".")
    for kind, remedies in lookup.remedies_of(cause):
        variants = offline(kind, remedies)
        assert "" in variants
        limits = {"vm.max_map_count", "RLIMIT_AS", "RLIMIT_DATA", "RLIMIT_MEMLOCK", "commit charge"}
        assert set(variants) <= set(VARIANTS) | limits
        for each in variants.values():
            assert each.text[0].isupper()
            assert each.text.endswith(".")
            assert "`" not in "".join(each.commands)
    assert cause.myths
    assert all(": " in myth and myth.endswith(".") for myth in cause.myths)


@by_cause
def test_advice_verifies_first_then_mitigates_then_fixes(cause: Cause) -> None:
    advice = advise(cause.slug, [make_evidence()], 1000, None, 42)

    assert ["verify", "mitigate", "fix"] == [each.kind for each in advice][:3]
    assert {"careful"} >= {each.kind for each in advice[3:]}


@by_cause
def test_advice_without_any_number_shows_no_hole_and_no_none(cause: Cause) -> None:
    for each in advise(cause.slug, [], None):
        assert not re.search(r"None|\{[a-z_]+\}|\?", said(each))


@pytest.mark.parametrize("place", PLACES)
def test_every_command_is_one_for_a_shell(place: str) -> None:
    found = [command for slug in BY_SLUG for command in commands(advised(slug, place))]

    assert "" == parse("\n".join(found))


def test_a_command_is_no_prose() -> None:
    """What stands in a sentence cannot be pasted; a command begins with a program."""
    programs = {
        *("aa-complain", "ausearch", "bpftool", "capsh", "cat", "chown", "chrt", "cut", "dmesg"),
        *("docker", "echo", "export", "find", "for", "fork-trace", "free", "grep", "incus"),
        *("kubectl", "ls", "lsns", "lxc", "mkdir", "nerdctl", "nsenter"),
        *("perf", "pmap", "podman", "prlimit", "ps", "readlink", "setcap"),
        *(
            "semanage",
            "setenforce",
            "stat",
            "strace",
            "sysctl",
            "systemctl",
            "systemd-run",
            "ulimit",
        ),
        *("uname", "unshare", "wc"),
    }
    found = [
        command
        for cause in CAUSES
        for kind, remedies in lookup.remedies_of(cause)
        for each in offline(kind, remedies).values()
        for command in each.commands
    ]

    assert programs == {command.split()[0] for command in found}
    assert not [command for command in found if command.endswith((".", ";", ","))]


@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_a_hostile_name_is_quoted_and_never_a_format(name: str) -> None:
    script = []
    for directory in (f"/sys/fs/cgroup/{name}", f"/sys/fs/cgroup/system.slice/{name}.service"):
        evidence = make_evidence(where=directory, name=name)
        for slug in BY_SLUG:
            advice = advise(slug, [evidence], 1000, directory, 42)
            assert 3 <= len(advice) <= 4
            found = commands(advice)
            assert all(shell(directory) in each for each in found if "/sys/fs/cgroup/" in each)
            script += found

    assert not any("\n" in command for command in script)
    assert "" == parse("\n".join(script))


@given(some.text(some.characters(blacklist_characters="\0"), min_size=1, max_size=12))
def test_a_shell_reads_back_any_name(name: str) -> None:
    script = f"printf %s {shell(name)}"
    done = subprocess.run(
        ["bash", "-c", script.encode("utf-8", "surrogatepass")], capture_output=True, check=True
    )

    assert name.encode("utf-8", "surrogatepass") == done.stdout


def test_a_harmless_name_is_not_quoted() -> None:
    assert "/sys/fs/cgroup/app.service" == shell("/sys/fs/cgroup/app.service")


@pytest.mark.parametrize(
    ("place", "now", "for_good"),
    [
        (
            "service",
            "systemctl set-property --runtime app.service TasksMax=32",
            "systemctl set-property app.service TasksMax=32",
        ),
        (
            "scope",
            "systemctl set-property --runtime run-r1.scope TasksMax=32",
            "systemd-run --scope -p TasksMax=32 COMMAND",
        ),
        (
            "slice",
            "systemctl set-property --runtime app.slice TasksMax=32",
            "systemctl set-property app.slice TasksMax=32",
        ),
        (
            "session",
            "systemctl set-property --runtime session-3.scope TasksMax=32",
            "user-.slice.d/50-tasks.conf",
        ),
        (
            "user unit",
            "systemctl --user --machine=1000@.host set-property --runtime db.service TasksMax=32",
            "user-1000.slice",
        ),
        ("docker", "docker update --pids-limit 32 0123456789ab", "docker run --pids-limit 32"),
        ("podman", "podman update --pids-limit 32 0123456789ab", "pids_limit under [containers]"),
        ("pod", f"echo 32 > {PLACES['pod']}/pids.max", "podPidsLimit"),
        (
            "pod's container",
            f"systemctl set-property --runtime cri-containerd-{ID}.scope TasksMax=32",
            "/etc/crio/crio.conf",
        ),
        ("pods", "echo 32 > /sys/fs/cgroup/kubepods.slice/pids.max", "systemReserved"),
        ("plain", "echo 32 > /sys/fs/cgroup/app/pids.max", "whatever creates the cgroup"),
        # what a container or unit makes for itself is not its own setting
        ("own", f"echo 32 > {PLACES['own']}/pids.max", "whatever creates the cgroup"),
        ("nerdctl", "nerdctl update --pids-limit 32 0123456789ab", "nerdctl run --pids-limit 32"),
        ("lxc", "incus config set web1 limits.processes 32", "/var/lib/lxc/web1/config"),
        # a unit of a service manager in a container is none of the host's
        *(
            (
                place,
                f"--all systemctl set-property --runtime {unit} TasksMax=32",
                "Inside the container",
            )
            for place, unit in {
                "inner": "inner.service",
                "in lxc": "apache2.service",
                "in proxmox": "apache2.service",
                "in nspawn": "a.service",
                "in podman": "a.service",
            }.items()
        ),
    ],
)
def test_a_pids_limit_is_raised_by_whoever_owns_it(place: str, now: str, for_good: str) -> None:
    _, mitigate, fix, _ = advised("pids-cgroup", place)

    assert now in said(mitigate)
    assert for_good in said(fix)


@pytest.mark.parametrize(
    ("place", "now", "for_good"),
    [
        (
            "service",
            "--runtime app.service MemoryMax=SIZE",
            "set-property app.service MemoryMax=SIZE",
        ),
        ("scope", "--runtime run-r1.scope MemoryMax=SIZE", "systemd-run --scope -p MemoryMax=SIZE"),
        ("slice", "--runtime app.slice MemoryMax=SIZE", "Slice="),
        ("session", "--runtime session-3.scope MemoryMax=SIZE", "50-memory.conf"),
        (
            "user unit",
            "systemctl --user --machine=1000@.host set-property --runtime db.service MemoryMax=SIZE",
            "systemctl --user",
        ),
        (
            "docker",
            "docker update --memory SIZE --memory-swap -1 0123456789ab",
            "docker run --memory",
        ),
        ("podman", "podman update --memory SIZE 0123456789ab", "podman run --memory"),
        ("pod", f"echo SIZE > {PLACES['pod']}/memory.max", "resources.limits.memory"),
        ("pods", "echo SIZE > /sys/fs/cgroup/kubepods.slice/memory.max", "systemReserved"),
        ("lxc", "lxc config set web1 limits.memory SIZE", "whatever creates the cgroup"),
        ("in lxc", "--all systemctl set-property --runtime apache2.service MemoryMax=SIZE", "stat"),
        ("plain", "echo SIZE > /sys/fs/cgroup/app/memory.max", "/sys/fs/cgroup/app/memory.stat"),
        ("v1", "echo SIZE > /sys/fs/cgroup/memory/app/memory.limit_in_bytes", "memory.stat"),
    ],
)
def test_a_memory_limit_is_raised_by_whoever_owns_it(place: str, now: str, for_good: str) -> None:
    _, mitigate, fix, _ = advised("memory-cgroup", place)

    assert now in said(mitigate)
    assert for_good in said(fix)


@pytest.mark.parametrize("counter", ["memsw", "kmem"])
def test_a_counter_that_only_v1_has_is_raised_in_its_own_file(counter: str) -> None:
    name = f"memory.{counter}.limit_in_bytes"
    verify, mitigate, *_ = advised("memory-cgroup", "v1", name=name)

    assert f"echo SIZE > /sys/fs/cgroup/memory/app/{name}" in said(mitigate)
    assert f"/sys/fs/cgroup/memory/app/memory.{counter}.usage_in_bytes" in said(verify)


@pytest.mark.parametrize(
    ("place", "for_good"),
    [
        ("service", "systemctl edit app.service"),
        ("scope", "keeps the limits of whatever started it"),
        ("session", "/etc/security/limits.d/90-nproc.conf"),
        ("user unit", "/etc/security/limits.d/90-nproc.conf"),
        ("docker", "docker run --ulimit nproc=32:32"),
        ("podman", "podman run --ulimit nproc=32:32"),
        ("pod's container", "securityContext.runAsUser"),
        ("plain", "ulimit -u 32"),
        # the limit is the task's, wherever in the container it sits
        ("inner", "docker run --ulimit nproc=32:32"),
    ],
)
def test_a_user_s_limit_is_raised_where_the_process_gets_it(place: str, for_good: str) -> None:
    evidence = make_evidence(name="RLIMIT_NPROC", where="uid 1000, the whole host")

    verify, mitigate, fix, _ = advise("rlimit-nproc", [evidence], 1000, PLACES[place], 42)

    assert "ps -L -U 1000 " in said(verify)
    each = "for p in $(cat /sys/fs/cgroup/system.slice/app.service/cgroup.procs); do prlimit"
    command = f"{each} --pid $p --nproc=32:32; done" if place == "service" else None
    assert (command or "prlimit --pid 42 --nproc=32:32",) == mitigate.commands
    assert for_good in said(fix)


def test_the_limiting_cgroup_decides_and_not_the_caller_s() -> None:
    slice_ = make_evidence(where="/sys/fs/cgroup/app.slice")
    own = "/app.slice/app.service"

    mitigate = advise("pids-cgroup", [slice_], 0, own)[1]

    assert (
        "systemctl set-property --runtime app.slice TasksMax=32",
        "echo 32 > /sys/fs/cgroup/app.slice/pids.max  # no fork left",
    ) == mitigate.commands


@pytest.mark.parametrize(
    ("where", "directory"),
    [
        ("/sys/fs/cgroup/app", "/sys/fs/cgroup/app"),
        ("/app", "/sys/fs/cgroup/app"),
        ("/", "/sys/fs/cgroup"),
        ("cgroup id 77", '"$(find /sys/fs/cgroup -type d -inum 77)"'),
        ("somewhere", "/sys/fs/cgroup/PATH"),
    ],
)
def test_a_cgroup_is_found_however_it_is_named(where: str, directory: str) -> None:
    verify = advise("pids-cgroup", [make_evidence(where=where)])[0]

    assert f"cat {directory}/pids.current" in verify.commands


@pytest.mark.parametrize(
    ("limit", "verify", "now"),
    [
        ("vm.max_map_count", "wc -l < /proc/42/maps", "sysctl vm.max_map_count=262144"),
        ("RLIMIT_AS", "address space", "prlimit --pid 42 --as=unlimited"),
        ("RLIMIT_DATA", "data size", "prlimit --pid 42 --data=unlimited"),
        ("RLIMIT_MEMLOCK", "locked memory", "prlimit --pid 42 --memlock=unlimited"),
        ("commit charge", "grep Commit /proc/meminfo", "sysctl vm.overcommit_ratio=R"),
        ("another", "cat /proc/42/limits", "smaller stacks"),
    ],
)
def test_the_advice_on_a_thread_s_stack_is_about_the_limit_it_hit(
    limit: str, verify: str, now: str
) -> None:
    evidence = make_evidence(name=limit, value=10, limit=9, unit="KiB", where="the process")

    advice = advise("thread-stack", [evidence], 0, None, 42)

    assert verify in said(advice[0])
    assert now in said(advice[1])


@pytest.mark.parametrize("kind", ["user", "mnt", "uts", "ipc", "pid", "cgroup", "net", "time"])
def test_the_advice_on_a_namespace_limit_names_its_sysctl(kind: str) -> None:
    evidence = make_evidence(name=f"user.max_{kind}_namespaces", value=5, limit=5)

    verify, mitigate, *_ = advise("namespace-limit", [evidence])

    assert (f"sysctl user.max_{kind}_namespaces", f"lsns --type {kind}") == verify.commands
    assert (
        f"sysctl user.max_{kind}_namespaces=32",
        f"echo 32 > /proc/sys/user/max_{kind}_namespaces  # no fork left",
    ) == mitigate.commands
    assert "(it was 5)" in mitigate.text


def test_a_name_that_is_no_sysctl_comes_into_no_command() -> None:
    evidence = make_evidence(name="user.max_$(x)_namespaces")

    assert "sysctl user.max_TYPE_namespaces" in advise("namespace-limit", [evidence])[0].commands


@pytest.mark.parametrize(("level", "is_nested"), [(0, False), (2, True)])
def test_a_full_pid_namespace_within_the_host_is_raised_inside_it(
    level: int, is_nested: bool
) -> None:
    where = f"pid namespace 4026 (level {level}), the fullest of its levels"

    mitigate = advise("pid-max", [make_evidence(where=where)], 0, None, 42)[1]

    # What enters it has to fork there, which is what cannot be done.
    assert (() if is_nested else ("sysctl kernel.pid_max=32",)) == mitigate.commands[:1]
    assert ("`echo 32 > /proc/sys/kernel/pid_max`" in mitigate.text) == is_nested


def test_the_numbers_of_the_evidence_stand_in_the_advice() -> None:
    evidence = make_evidence(name="fs.nr_open", value=128, limit=64, unit="descriptor slots")

    verify, mitigate, *_ = advise("fd-table-limit", [evidence], 0)

    assert "(128 of 64 descriptor slots when the fork failed)" in verify.text
    assert "(it was 64)" in mitigate.text


def test_a_cause_of_a_newer_version_has_no_advice_and_says_so() -> None:
    assert () == advise("deadline-policy-9", [], 0)
    assert "does not know" in means("deadline-policy-9")


def test_the_highest_pid_that_is_named_is_the_kernel_s() -> None:
    assert f"at most {4 * 1024 * 1024}" in advise("pid-max", [], 0)[1].text


def test_every_kind_of_place_has_advice_on_every_cause() -> None:
    kinds = {places.place(path).kind for path in PLACES.values()}

    assert {"kubernetes", "docker", "podman", "login-session", "plain"} <= kinds
    assert all(3 <= len(advised(slug, place)) <= 4 for slug in BY_SLUG for place in PLACES)


def test_quoting_is_the_standard_library_s_where_it_serves() -> None:
    assert shlex.quote("a b") == shell("a b")


@pytest.mark.parametrize(
    ("comm", "place", "now"),
    [
        ("runc:[2:INIT]", "docker", "docker inspect 0123456789ab"),
        ("crun", "podman", "podman inspect 0123456789ab"),
        ("runc", "pod's container", "kubectl --namespace web describe pod front-1"),
        # a program in a container that made the namespace itself: the container need not be restarted
        ("bash", "docker", "Leave that shell, or restart that program"),
        ("bash", "service", "Leave that shell, or restart that program"),
    ],
)
def test_a_container_that_was_ending_is_told_from_a_shell_that_cannot_go_on(
    comm: str, place: str, now: str
) -> None:
    about = About(comm, "ENOMEM", {"pod_name": "web/front-1", "name": "app"})

    mitigate = advise("pid-namespace-dead", [], 0, PLACES[place], 42, about)[1]

    assert now in said(mitigate)


@pytest.mark.parametrize(
    ("errno", "words"),
    [
        ("EBUSY", "echo -CONTROLLER"),
        ("ENOENT", "nsdelegate"),
        ("EACCES", "the ancestor that both have in common"),
        ("EBADF", "cgroup2fs"),
        ("EOPNOTSUPP", "cgroup.type is domain"),
    ],
)
def test_a_cgroup_that_takes_no_child_has_advice_by_its_errno(errno: str, words: str) -> None:
    advice = advise("cgroup-refused", [], 0, None, 42, About(errno=errno))

    assert words in said(advice[1])
    assert ("deletes all limits" in said(advice[3])) == (errno == "EBUSY")


def test_a_pod_is_resized_in_place_by_its_names() -> None:
    about = About("app", "ENOMEM", {"pod_name": "web/front-1", "name": "app"})
    where = PLACES["pod's container"]
    evidence = make_evidence(name="memory.max", value=65536, limit=65536, unit="KiB", where=where)

    mitigate = advise("memory-cgroup", [evidence], 0, where, 42, about)[1]

    patch = next(each for each in mitigate.commands if each.startswith("kubectl"))
    assert "--namespace web patch pod front-1 --subresource resize" in patch
    (container,) = json.loads(shlex.split(patch)[-1])["spec"]["containers"]
    assert ("app", "128Mi") == (container["name"], container["resources"]["limits"]["memory"])


def test_what_a_shell_can_do_without_a_fork_is_printed_too() -> None:
    evidence = make_evidence(name="kernel.threads-max", value=100, limit=100)

    mitigate = advise("threads-max", [evidence])[1]

    assert (
        "sysctl kernel.threads-max=200",
        "echo 200 > /proc/sys/kernel/threads-max  # no fork left",
    ) == mitigate.commands


def test_each_cause_that_is_mitigated_by_a_setting_says_what_that_risks() -> None:
    risky = {
        cause.slug
        for cause in CAUSES
        for each in offline("mitigate", cause.mitigate).values()
        if any(word in " ".join(each.commands) for word in ("sysctl", "echo", "set-property"))
    }

    assert [] == [slug for slug in risky if BY_SLUG[slug].careful is None]
    assert len(risky) > 10


@by_cause
def test_no_command_names_a_process_that_has_ended(cause: Cause) -> None:
    evidence = make_evidence(where="uid 0, user namespace level 1")
    living = advise(cause.slug, [evidence], 0, "/app", 4711)
    ended = advise(cause.slug, [evidence], 0, "/app", 4711, About(has_ended=True))
    either = advise(cause.slug, [evidence], 0, "/app", 4711, About(has_ended=None))

    for before, after, maybe in zip(living, ended, either):
        if "4711" in " ".join(before.commands):
            assert "4711" not in " ".join(after.commands)
            assert "Process 4711 has ended" in after.text
            assert "If process 4711 has ended by now" in maybe.text
            assert any("cgroup.procs" in each or "lsns" in each for each in after.commands)
            assert set(before.commands) <= set(maybe.commands)
        else:
            assert before == after == maybe


def test_of_a_namespace_whose_caller_has_ended_another_process_is_asked_for() -> None:
    evidence = make_evidence(
        name="user.max_user_namespaces", value=0, limit=0, where="uid 0, user namespace level 1"
    )
    about = About("unshare", "ENOSPC", has_ended=True)

    verify, mitigate, *_ = advise("namespace-limit", [evidence], 0, None, 4711, about)

    for each in (verify, mitigate):
        assert each.commands[0].startswith("nsenter --target PID --user")
        assert each.commands[-1].startswith("lsns --type user")
        assert "the namespace is gone" in each.text


# What each reason's own advice speaks of, and that of no other reason does.
DENIED = {
    "a chroot": "chroot",
    "unmapped ids": "uid_map",
    "kernel.unprivileged_userns_clone": "unprivileged_userns_clone",
    "kernel.apparmor_restrict_unprivileged_userns": "apparmor_restrict",
}


@pytest.mark.parametrize("reason", DENIED)
def test_of_a_denied_user_namespace_only_the_reason_that_was_read_is_spoken_of(reason: str) -> None:
    evidence = (make_evidence(name=reason, value=None, limit=None, unit="rule"),)
    told = advise("user-namespace-denied", evidence, 1000, "/", 7)
    for each in told:
        words = " ".join((each.text, *each.commands))
        assert [] == [word for name, word in DENIED.items() if name != reason and word in words]
    assert any(DENIED[reason] in " ".join((each.text, *each.commands)) for each in told)
