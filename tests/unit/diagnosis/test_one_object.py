"""One cause, one object: who else names it, and what a new one takes. The recipes are those of CONTRIBUTING.md."""

from __future__ import annotations

import ast
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from fork_trace.diagnosis.cause import Cause
from fork_trace.diagnosis.causes import BY_SLUG, CAUSES
from fork_trace.model import events, steps
from fork_trace.probes.libbpf.gaps import READERS

TESTS = Path(__file__).resolve().parent.parent.parent
CHECKOUT = TESTS.parent
PACKAGE = CHECKOUT / "fork_trace"
RECIPES = (CHECKOUT / ".github" / "CONTRIBUTING.md").read_text(encoding="utf-8")

# A slug that stands in another file than its cause's -> why it is not the cause that is meant there.
WIRE = "a word of the kernel side (bpf/wire.h) that a cause is named for"
STEP = "the step of that name"
READER = "what reads the kernel's structures for it"
ELSEWHERE = {
    ("events", "pids-cgroup"): WIRE,
    ("events", "memory-cgroup"): WIRE,
    ("events", "pid-max"): WIRE,
    ("events", "overcommit-never"): WIRE,
    ("observe", "pids-cgroup"): WIRE,
    ("observe", "memory-cgroup"): WIRE,
    ("verdict", "overcommit-never"): WIRE,
    **{(name, "seccomp"): STEP for name in ("step_table", "plan", "verdict", "lookup")},
    ("gaps", "seccomp"): STEP,  # and the structure
    **{("gaps", name): READER for name in ("pids-cgroup", "memory-cgroup")},
}
# What a rehearsal makes happen is the rehearsal's own fact: the arrow from it to diagnosis is not ours.
REHEARSALS = ("scenarios",)
# A word of its own: a step, an errno and a limit can be unknown, too.
WORD = "unknown"


def literals(path: Path) -> set[str]:
    return {
        node.value
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


def homes() -> dict[str, str]:
    """Return the file that each cause's object stands in."""
    found = {}
    for path in (PACKAGE / "diagnosis" / "causes").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        found.update(dict.fromkeys(re.findall(r'^    slug="([a-z-]+)",$', text, re.M), path.stem))
    return found


def test_every_cause_has_one_home() -> None:
    assert sorted(BY_SLUG) == sorted(homes())
    assert [] == [
        slug for slug, number in Counter(each.slug for each in CAUSES).items() if number > 1
    ]


def test_a_slug_is_written_in_its_cause_s_own_file_alone() -> None:
    home = homes()
    elsewhere = {
        (path.stem, slug)
        for path in PACKAGE.rglob("*.py")
        for slug in literals(path) & set(BY_SLUG) - {WORD}
        if path.stem != home[slug]
        and not any(each in path.parts[-2:] + (path.stem,) for each in REHEARSALS)
    }

    assert set(ELSEWHERE) == elsewhere


def test_words_of_the_kernel_side_are_its_words() -> None:
    words = {*events.FITS, *events.LEVELS, *events.DETAILS}
    names = set(steps.BY_NAME)

    known = {WIRE: words, STEP: names, READER: set(READERS)}

    assert all(slug in known[why] for (_, slug), why in ELSEWHERE.items())


def test_the_kernel_side_names_no_cause() -> None:
    """It counts steps, errnos and what fits; what that means is not its business."""
    named = {
        word
        for path in (CHECKOUT / "bpf").glob("*.[ch]")
        for word in re.findall(r'"([a-z-]+)"', path.read_text(encoding="utf-8"))
    }

    assert set() == named & set(BY_SLUG)


def test_no_two_causes_claim_the_same_refusal() -> None:
    claims = Counter(refusal for cause in CAUSES for refusal in cause.refusals)

    assert [] == [refusal for refusal, number in claims.items() if number > 1]


def test_no_two_causes_claim_the_same_fit_or_the_same_place_among_those_of_an_errno() -> None:
    words = Counter((fit.errno, fit.word) for cause in CAUSES for fit in cause.fits if fit.word)
    places = Counter(
        (fit.errno, fit.place)
        for cause in CAUSES
        for fit in cause.fits
        if fit.strength != "refuses"
    )
    # Of an errno that only a cgroup asked for explains, it is said what the cgroup is.
    assert {(11, "asked-cgroup")} >= {word for word, number in words.items() if number > 1}
    assert [] == [place for place, number in places.items() if number > 1]


def test_no_two_causes_have_an_alias_in_common_and_none_is_another_s_slug() -> None:
    aliases = [alias for cause in CAUSES for alias in cause.aliases]

    assert len(set(aliases)) == len(aliases)
    assert set() == set(aliases) & set(BY_SLUG)
    assert aliases == [alias.lower() for alias in aliases]


@pytest.mark.parametrize("cause", CAUSES, ids=lambda cause: cause.slug)
def test_what_a_cause_names_exists(cause: Cause) -> None:
    assert set(cause.steps) <= set(steps.BY_NAME)
    assert list(cause.steps) == sorted(cause.steps, key=_kernel_order)
    assert set(cause.structures) <= set(events.MOVED)
    assert cause.reads in ("", "overcommit", "threads", "descriptors", "files")
    assert cause.pool in ("", "cgroup", "host", "pid-namespace", "user")


def _kernel_order(name: str) -> float:
    # The end of a fork is number 0 on the wire; before it come three others.
    number = steps.BY_NAME[name].number
    return number if number else steps.BY_NAME["kernel_clone"].number + 0.5


# The recipes, carried out on a copy.

CAUSE = """
MOON_PHASE = Cause(
    slug="moon-phase",
    errnos=("EXDEV",),
    means="the moon is full",
    limit="`moon.phase`",
    steps=("copy_thread",),
    refusals=(Refusal("copy_thread", errno.EXDEV),),
    fits=(Fit(errno.EXDEV, "flags", "copy_thread"),),
    evidence=lambda seen, host: (Evidence("moon.phase", 8, 8, "eighths", "the sky", "kernel"),),
    aliases=("moon.phase",),
    verify=do("Look up at night.", "cal"),
    mitigate=do("Wait{now}.", "sleep 1209600"),
    fix=do("Fork by day."),
    myths=("The moon is far: it is near enough.",),
)
"""
ASKED = """
import errno, json, sys
from docs import blocks, records
from fork_trace.model import steps
from fork_trace.diagnosis import advice, evidence, lookup, verdict
from fork_trace.diagnosis.causes import BY_SLUG, CAUSES
from fork_trace.diagnosis.readings import HostReadings, KernelReadings
from fork_trace.model.events import Key

def key(step, is_observed, fits=()):
    number = steps.BY_NAME[step].number
    return Key("sh", 1, 0, errno.EXDEV, number, "", "clone", False, is_observed, fits=frozenset(fits))

cause = BY_SLUG["moon-phase"]
found = evidence.gather(cause, KernelReadings({"policy": 1}), HostReadings(4096, 0))
print(json.dumps({
    "observed": verdict.diagnose(key("copy_thread", True)),
    "inferred": verdict.diagnose(key("copy_process", False, ["flags"])),
    "advice": [vars(each) for each in advice.advise("moon-phase", found)],
    "by errno": [each.slug for each in lookup.look_up(["EXDEV"]).causes],
    "by alias": [each.slug for each in lookup.look_up(["moon.phase"]).causes],
    "by step": [each.slug for each in lookup.look_up(["copy_thread"]).causes],
    "offered": dict(lookup.offers()).get("moon-phase"),
    "book": "- `moon-phase` (EXDEV): `moon.phase`" in blocks.causes(CAUSES),
    "schema": '"moon-phase"' in records.put_causes(open("fork_trace/records.schema.json").read(), CAUSES),
}))
"""


class Copy:
    """A checkout in which a recipe can be carried out; it remembers which files were touched."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.touched: list[str] = []
        ignore = shutil.ignore_patterns("__pycache__", "*.bpf.o")
        shutil.copytree(PACKAGE, root / "fork_trace", ignore=ignore)

    def change(self, name: str, old: str, new: str) -> None:
        path = self.root / name
        text = path.read_text(encoding="utf-8")
        assert 1 == text.count(old), f"{name}: {old}"
        path.write_text(text.replace(old, new), encoding="utf-8")
        self.touched += [name] if name not in self.touched else []

    def ask(self, script: str) -> Any:
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                f"import sys; sys.path[:0] = ['.', {str(TESTS)!r}, {str(TESTS / 'tools')!r}]\n{script}",
            ],
            cwd=self.root,
            capture_output=True,
            text=True,
        )
        assert "" == done.stderr
        return json.loads(done.stdout)


def test_a_new_cause_touches_two_files_and_its_test_and_is_known_everywhere(
    tmp_path: Path,
) -> None:
    copy = Copy(tmp_path)
    family = "fork_trace/diagnosis/causes/policy.py"
    copy.change(
        family,
        "\nSECCOMP = Cause(",
        f"\nfrom fork_trace.model.records import Evidence\n{CAUSE}\nSECCOMP = Cause(",
    )
    copy.change(
        "fork_trace/diagnosis/causes/__init__.py",
        "    policy.SCHED_EXT,\n",
        "    policy.SCHED_EXT,\n    policy.MOON_PHASE,\n",
    )

    found = copy.ask(ASKED)

    assert {
        "observed": ["moon-phase", "observed", "copy_thread", [], []],
        "inferred": ["moon-phase", "inferred", "copy_thread", [], []],
        "advice": [
            {"kind": "verify", "text": "Look up at night.", "commands": ["cal"]},
            {"kind": "mitigate", "text": "Wait (it was 8).", "commands": ["sleep 1209600"]},
            {"kind": "fix", "text": "Fork by day.", "commands": []},
        ],
        "by errno": ["moon-phase"],
        "by alias": ["moon-phase"],
        "by step": ["invalid-flags", "moon-phase"],
        "offered": "the moon is full",
        "book": True,
        "schema": True,
    } == found
    assert copy.touched == named_in("A new cause")[: len(copy.touched)]
    assert len(named_in("A new cause")) <= 4


GAUGE = 'check=Gauge("fs.mount-max", "mounts", "the mounts of pid 1 with `fs.mount-max`"),'
LIMIT = '''
def mounts(used: int | None, limit: int | None) -> Headroom:
    """Compare the mounts of the host with fs.mount-max."""
    why = _NOT_TOLD if None in (used, limit) else None
    return headroom(MOUNT_LIMIT, used, limit, HOST, why)


def open_files('''


def test_a_new_limit_of_check_touches_three_files_and_its_test(tmp_path: Path) -> None:
    copy = Copy(tmp_path)
    family = "fork_trace/diagnosis/causes/namespaces.py"
    copy.change(
        family, '    aliases=("fs.mount-max",),', f'    aliases=("fs.mount-max",),\n    {GAUGE}'
    )
    copy.change("fork_trace/headroom/limits.py", "\ndef open_files(", LIMIT)
    copy.change(
        "fork_trace/headroom/limits.py",
        "from fork_trace.diagnosis.causes.namespaces import NAMESPACE_LIMIT",
        "from fork_trace.diagnosis.causes.namespaces import MOUNT_LIMIT, NAMESPACE_LIMIT",
    )
    copy.change(
        "fork_trace/headroom/check.py",
        "        limits.open_files(",
        '        limits.mounts(95, procfs.number("sys/fs/mount-max", proc)),\n'
        "        limits.open_files(",
    )
    proc = tmp_path / "host" / "proc"
    (proc / "sys" / "fs").mkdir(parents=True)
    (proc / "self").mkdir()
    (proc / "sys" / "fs" / "mount-max").write_text("100\n")

    (found,) = copy.ask(
        "import json\nfrom fork_trace.headroom import check\n"
        "found = check.examine(80, 100, 'host')\n"
        "print(json.dumps([e for e in found['limits'] if e['cause'] == 'mount-limit']))\n"
    )

    assert ("near", "fs.mount-max", 95, 100, "mounts") == tuple(
        found[name] for name in ("level", "name", "used", "limit", "unit")
    )
    mitigate = next(each for each in found["advice"] if each["kind"] == "mitigate")
    assert "sysctl fs.mount-max=200" == mitigate["commands"][0]
    assert copy.touched == named_in("A new limit of `check`")[: len(copy.touched)]
    assert len(named_in("A new limit of `check`")) <= 4


def named_in(recipe: str) -> list[str]:
    """Return the files that a recipe says are to be touched, by its numbered steps."""
    section = re.split(r"^## ", RECIPES.split(f"## {recipe}\n")[1], flags=re.M)[0]
    files = re.findall(r"^\d+\. `([^`]+)`", section, re.M)
    known = {"FAMILY": {"A new cause": "policy"}.get(recipe, "namespaces")}
    return [each.replace("FAMILY", known["FAMILY"]) for each in files]
