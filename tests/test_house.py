"""The arrows of the house, read from the imports: which room may know which, and who knows what outside."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from fork_trace.commands.cli import COMMANDS
from fork_trace.output.formats import FORMATS

PACKAGE = Path(__file__).resolve().parent.parent / "fork_trace"

# Room -> the rooms of this project that it may import. Each stands above all that it names, so
# an arrow back cannot be written.
MAY_IMPORT: dict[str, set[str]] = {
    # 0
    "__init__": set(),
    "errors": set(),
    "step_table": set(),
    "names": set(),
    # 1
    "steps": {"step_table"},
    "events": {"steps"},
    "plan": {"errors", "steps"},
    "records": {"errors", "names"},
    # 2
    "containers": set(),
    "diagnosis": {"containers", "errors", "events", "records", "steps"},
    "limits": {"diagnosis"},
    # 3
    "callers": {"records"},
    # 4
    "budget": set(),
    "mounts": {"budget"},
    "files": {"mounts"},
    "kernel": {"files", "plan"},
    "headers": {"files", "plan"},
    "procfs": set(),
    "cgroup": set(),
    "holders": {"records"},
    "documents": {"errors", "files"},
    "privileges": {"files"},
    "destination": {"errors", "files"},
    "reserve": set(),
    "runs": set(),
    "elf": {"budget", "runs"},
    "cfi": {"elf"},
    "unwind": {"budget", "cfi", "events"},
    "demangle": set(),
    "perfmap": {"budget", "files", "mounts", "runs"},
    "runtimes": {"containers", "files"},
    "symbol_files": {"budget", "cfi", "elf", "events", "files", "mounts", "procfs"},
    "symbols": {
        *("budget", "callers", "cfi", "demangle", "events", "mounts", "names", "perfmap"),
        *("procfs", "records", "symbol_files", "unwind"),
    },
    "survey": {"holders", "limits", "procfs"},
    "backends": {"errors", "plan"},
    "backends.kprobe_events": {"files"},
    "backends.settings": {"backends", "events", "plan", "steps"},
    "backends.libbpf": set(),
    "backends.libbpf.bindings": {"errors"},
    "backends.libbpf.btf": {"backends", "backends.libbpf.bindings", "errors", "files"},
    "backends.libbpf.loading": {
        *("backends", "backends.kprobe_events", "backends.libbpf.bindings"),
        *("backends.libbpf.btf", "backends.settings", "errors", "plan"),
    },
    "backends.libbpf.counters": {
        *("backends.kprobe_events", "backends.settings", "errors", "events", "plan", "steps"),
    },
    "backends.libbpf.backend": {
        *("backends", "backends.libbpf.bindings", "backends.libbpf.counters"),
        *("backends.libbpf.loading", "backends.settings", "errors", "files", "plan"),
    },
    "backends.bcc": {
        *("backends", "backends.kprobe_events", "backends.settings", "errors", "events"),
        *("files", "plan", "steps"),
    },
    "output": set(),
    "output.report_options": set(),
    "output.times": set(),
    "output.units": set(),
    "output.aggregate": {"errors", "records"},
    "output.wording": {"names", "output.units", "records"},
    "output.tables": {
        *("names", "output.aggregate", "output.times", "output.units", "output.wording"),
        "records",
    },
    "output.report": {
        *("diagnosis", "names", "output.aggregate", "output.report_options"),
        *("output.tables", "output.units", "output.wording", "records"),
    },
    "output.summary": {"output.aggregate", "output.report_options", "records"},
    "output.formats": {"output.aggregate", "output.report_options", "records"},
    "output.formats.table": {"output.report"},
    "output.formats.json": {
        *("diagnosis", "names", "output.aggregate", "output.report"),
        *("output.report_options", "output.summary", "records"),
    },
    "output.formats.jsonl": {
        *("names", "output.aggregate", "output.report_options", "output.summary"),
        *("records",),
    },
    "output.formats.markdown": {
        *("output.aggregate", "output.report", "output.report_options", "output.tables"),
        *("records",),
    },
    "output.formats.csv": {
        *("names", "output.aggregate", "output.report_options", "output.times", "records"),
    },
    "output.capture_file": {"destination", "names", "records"},
    "output.live": set(),
    "output.live.screen": {
        *("names", "output.aggregate", "output.report", "output.report_options"),
        *("output.tables", "output.times", "output.units", "output.wording"),
    },
    "output.live.terminal": {"output.live.screen", "output.wording"},
    "output.live.views": {
        *("output.aggregate", "output.live.screen", "output.live.terminal"),
        *("output.report", "output.report_options"),
    },
    "output.doctor": {"names", "output.tables", "output.wording"},
    "output.check": {"names", "output.tables", "output.units", "output.wording", "records"},
    "output.rehearsals": {"names", "output.tables", "output.wording"},
    "output.explanation": {"diagnosis", "output.wording"},
    "borrowed": {"errors", "files"},
    "stage": {"borrowed"},
    "calls": set(),
    "refusals": {"borrowed", "errors", "files", "stage"},
    "users": {"calls", "errors", "refusals", "stage"},
    "refused_arguments": {"borrowed", "calls", "errors", "refusals", "stage", "users"},
    "refused_namespaces": {
        *("borrowed", "calls", "errors", "refusals", "refused_arguments", "stage", "users"),
    },
    "refused_memory": {"borrowed", "errors", "files", "stage"},
    "refused_threads": {"borrowed", "errors", "files", "refusals", "stage"},
    "refused_policy": {
        *("backends", "backends.libbpf.bindings", "backends.libbpf.loading", "borrowed"),
        *("errors", "files", "refusals", "stage"),
    },
    "rehearse": {
        *("borrowed", "errors", "refusals", "refused_arguments", "refused_memory"),
        *("refused_namespaces", "refused_policy", "refused_threads", "stage"),
    },
    # 5
    "collect": set(),
    "collect.ledger": {"events"},
    "collect.ration": {"budget", "records"},
    "collect.clock": set(),
    "collect.arm": {
        *(
            "backends",
            "backends.bcc",
            "backends.libbpf.backend",
            "backends.libbpf.bindings",
            "backends.libbpf.btf",
            "cgroup",
            "errors",
            "events",
            "headers",
        ),
        *("kernel", "plan", "privileges", "reserve", "steps"),
    },
    "collect.observe": {
        *("cgroup", "diagnosis", "events", "holders", "kernel", "procfs", "symbols"),
    },
    "collect.judge": {"backends", "diagnosis", "events", "plan", "steps"},
    "collect.compose": {
        *("__init__", "backends", "callers", "collect.clock", "collect.judge", "collect.observe"),
        *("containers", "diagnosis", "events", "holders", "plan", "records", "runtimes", "steps"),
        *("symbols",),
    },
    "collect.owed": {"collect.compose", "records"},
    "collect.session": {
        *("backends", "cgroup", "collect.arm", "collect.clock", "collect.compose"),
        *("collect.judge", "collect.ledger", "collect.observe", "collect.owed", "collect.ration"),
        *("diagnosis", "events", "kernel", "plan", "privileges", "procfs", "records", "reserve"),
        *("steps", "symbols"),
    },
    # 6
    "check": {
        *("__init__", "cgroup", "diagnosis", "errors", "holders", "kernel", "limits", "procfs"),
        *("records", "survey"),
    },
    "doctor": {
        *("collect.arm", "collect.session", "errors", "kernel", "plan", "privileges", "symbols"),
    },
    # 7
    "commands": set(),
    "commands.options": {"events", "output.aggregate", "output.report_options", "plan"},
    "commands.stop_signals": set(),
    "commands.child": {"commands.stop_signals", "errors"},
    "commands.startup": {"collect.arm", "collect.session", "commands.options", "records"},
    "commands.capture_run": {
        *("commands.child", "commands.startup", "commands.stop_signals"),
        *(
            "diagnosis",
            "errors",
            "names",
            "output.aggregate",
            "output.capture_file",
            "output.formats",
        ),
        *("output.live.terminal", "output.report_options", "output.summary", "records"),
        *("collect.session",),
    },
    "commands.live_run": {
        *("commands.startup", "commands.stop_signals", "output.aggregate"),
        *("output.live.terminal", "output.live.views", "output.report"),
        *("collect.session", "output.report_options", "output.summary", "records"),
    },
    "commands.live": {
        *("commands.live_run", "commands.options", "commands.startup"),
        *("commands.stop_signals", "output.formats"),
    },
    "commands.capture": {
        *("commands.capture_run", "commands.child", "commands.options", "commands.startup"),
        *("commands.stop_signals", "output.capture_file", "output.formats"),
    },
    "commands.report": {
        *("commands.options", "errors", "output.aggregate", "output.formats"),
        *("output.report", "records"),
    },
    "commands.check": {"check", "commands.options", "names", "output.check"},
    "commands.docs": {"commands.options", "documents"},
    "commands.doctor": {"commands.options", "doctor", "names", "output.doctor"},
    "commands.explain": {
        *("commands.options", "diagnosis", "names", "output.explanation"),
    },
    "commands.rehearse": {"commands.options", "errors", "output.rehearsals", "rehearse"},
    # 8; what it loads by name is beside it
    "commands.cli": {"__init__", "errors", "names"},
    "__main__": {"commands.cli"},
}
# A package is one room to all others. Within, a file may import only those that stand before it.
WITHIN: dict[str, tuple[str, ...]] = {
    "diagnosis": (
        *("__init__", "readings", "cause", "evidence"),
        *("causes.namespaces", "causes.arguments", "causes.descriptors", "causes.memory"),
        *("causes.policy", "causes.state", "causes.tasks", "causes"),
        *("verdict", "advice", "texts", "lookup"),
    ),
    "rehearse": ("__init__", "scenarios", "run"),
}
PURE = (
    *(
        "errors",
        "steps",
        "names",
        "events",
        "plan",
        "records",
        "containers",
        "diagnosis",
    ),
)
# A pure room's whole outside world.
PURE_MAY_IMPORT = {
    *(
        "__future__",
        "collections",
        "dataclasses",
        "difflib",
        "enum",
        "errno",
        "json",
        "math",
        "re",
        "shlex",
    ),
    *("csv", "struct", "textwrap", "typing", "unicodedata"),
}
# What is outside -> the one room that knows it.
OWNERS = {
    "click": {
        *("commands.cli", "commands.options", "commands.live", "commands.capture"),
        *("commands.report", "commands.check", "commands.doctor", "commands.explain"),
        *("commands.docs", "commands.rehearse"),
    },
    "tabulate": {"output.tables"},
    "csv": {"output.formats.csv"},
    "termios": {"output.live.terminal"},
    "bcc": {"backends.bcc"},
    "pathlib": set(),
    "subprocess": set(),
    "multiprocessing": set(),
    "threading": set(),
    "pickle": set(),
}
NAMED_ONLY_BY = {
    "libbpf.so": {"backends.libbpf.bindings"},
    "libstdc++": {"demangle"},
    "libdw": set(),
}
# How a process is made -> who does so: rehearsals, and the command of a capture.
MAKERS = {
    "os.system": set(),
    "os.popen": set(),
    "os.fork": {
        *(
            "refusals",
            "refused_memory",
            "refused_namespaces",
            "refused_policy",
            "rehearse.run",
            "stage",
        ),
    },
    "os.posix_spawn": {"refusals", "refused_namespaces"},
    "os.posix_spawnp": {"commands.child"},
}
# Who touches paths by itself -> why none of them can be a stranger's. All else goes through `files`.
TOUCHES = {
    "files": "the one way to open what strangers placed",
    "mounts": "mountinfo and fdinfo of procfs, whose names are numbers",
    "backends": "the package's own object",
    "backends.bcc": "a memfd of our own",
    "backends.kprobe_events": "tracefs",
    "backends.libbpf.btf": "a descriptor that the kernel gave",
    "borrowed": "sysctls and cgroups that a rehearsal borrows, by names of ours",
    "cgroup": "cgroupfs and procfs, by cgroup ids and by what the user names",
    "check": "procfs",
    "commands.cli": "/dev/null",
    "commands.report": "captures that the user names",
    "destination": "the capture file that the user names",
    "headers": "the kernel's headers, below /lib/modules and /usr/src",
    "holders": "procfs",
    "kernel": "procfs, sysfs and tracefs",
    "perfmap": "procfs: the status of a process",
    "procfs": "procfs",
    "refusals": "procfs, in a rehearsal",
    "refused_arguments": "a cgroup of the rehearsal's own",
    "refused_namespaces": "procfs, in a rehearsal",
    "refused_threads": "a descriptor of the rehearsal's own",
    "runtimes": "directories that root's runtimes made",
    "users": "procfs, in a rehearsal",
}
TOUCHING = {
    *(
        "open",
        "os.open",
        "os.stat",
        "os.lstat",
        "os.statvfs",
        "os.scandir",
        "os.listdir",
        "os.walk",
    ),
    *("os.access", "os.path.exists", "os.path.lexists", "os.path.isfile", "os.path.isdir"),
    *("os.path.islink", "os.path.getsize", "os.path.getmtime", "os.path.samefile"),
}
NO_ROOMS = {"utils", "util", "common", "helpers", "manager", "core", "base"}


def room_of(path: Path) -> str:
    name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    return name[: -len(".__init__")] if name.endswith(".__init__") else name


TREES = {room_of(path): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}


def package_of(room: str) -> str:
    package = room.partition(".")[0]
    return package if package in WITHIN else room


def trees_of(package: str) -> dict[str, ast.Module]:
    return {room: tree for room, tree in TREES.items() if package_of(room) == package}


def known_by(package: str) -> set[str]:
    """Return the rooms outside of itself that a room imports, packages as one."""
    rooms = {each for tree in trees_of(package).values() for each in imports(tree)[0]}
    return {package_of(room) for room in rooms} - {package}


def imports(tree: ast.AST) -> tuple[set[str], set[str]]:
    """Return the rooms and the outside modules that a file imports, wherever in it."""
    rooms, outside = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import hides where an arrow goes"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] != "fork_trace":
                outside.add(name.split(".")[0])
                continue
            inner = name[len("fork_trace.") :]
            while inner and inner not in TREES:
                inner = inner.rpartition(".")[0]
            rooms.add(inner or "__init__")
    return rooms, outside


def test_every_room_has_its_place_in_the_house() -> None:
    assert sorted(MAY_IMPORT) == sorted({package_of(room) for room in TREES})


@pytest.mark.parametrize("room", sorted(MAY_IMPORT))
def test_a_room_knows_only_those_below_it(room: str) -> None:
    assert set() == known_by(room) - MAY_IMPORT[room]


@pytest.mark.parametrize("package", sorted(WITHIN))
def test_within_a_package_no_arrow_goes_back_up(package: str) -> None:
    inner = {
        room[len(package) + 1 :] or "__init__": {
            each[len(package) + 1 :] or "__init__"
            for each in imports(tree)[0]
            if package_of(each) == package
        }
        for room, tree in trees_of(package).items()
    }
    order = WITHIN[package]

    assert sorted(order) == sorted(inner)
    for number, room in enumerate(order):
        assert inner[room] <= set(order[:number]), room


def test_no_arrow_of_the_table_is_for_nothing() -> None:
    idle = {room: MAY_IMPORT[room] - known_by(room) for room in MAY_IMPORT}

    assert {} == {room: names for room, names in idle.items() if names}


def test_no_arrow_goes_back_up() -> None:
    seen: set[str] = set()
    for room, below in MAY_IMPORT.items():
        assert below <= seen, f"{room} stands above {below - seen}"
        seen.add(room)


@pytest.mark.parametrize("room", PURE)
def test_a_pure_room_has_no_file_clock_or_library(room: str) -> None:
    for tree in trees_of(room).values():
        _, outside = imports(tree)

        assert set() == outside - PURE_MAY_IMPORT
        assert not any(
            isinstance(node, ast.Name) and node.id in ("open", "print", "input", "__import__")
            for node in ast.walk(tree)
        )


@pytest.mark.parametrize("module", sorted(OWNERS))
def test_each_thing_outside_is_known_by_its_owner_alone(module: str) -> None:
    assert OWNERS[module] == {room for room, tree in TREES.items() if module in imports(tree)[1]}


@pytest.mark.parametrize("name", sorted(NAMED_ONLY_BY))
def test_a_system_library_is_opened_in_one_room(name: str) -> None:
    opened = {
        room
        for room, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and node.value.startswith(name)
        and " " not in node.value
        and ".so" in node.value
    }

    assert NAMED_ONLY_BY[name] == opened


@pytest.mark.parametrize("name", ["eval", "exec", "compile"])
def test_nothing_is_made_code_at_run_time(name: str) -> None:
    users = {
        room
        for room, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and (
            (isinstance(node.func, ast.Name) and node.func.id == name)
            or (isinstance(node.func, ast.Attribute) and ast.unparse(node.func) == f"os.{name}")
        )
    }

    assert set() == users


@pytest.mark.parametrize("call", sorted(MAKERS))
def test_processes_are_made_only_where_the_user_asked_for_one(call: str) -> None:
    makers = {
        room
        for room, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node) == call
    }

    assert MAKERS[call] == makers


@pytest.mark.parametrize(
    "room", [room for room in TREES if room.startswith(("collect", "commands", "output"))]
)
def test_what_is_written_there_can_be_taken_in_at_a_glance(room: str) -> None:
    lines = {ast.FunctionDef: 60, ast.ClassDef: 300}
    long = [
        node.name
        for node in ast.walk(TREES[room])
        if isinstance(node, (ast.FunctionDef, ast.ClassDef))
        and (node.end_lineno or 0) - node.lineno >= lines[type(node)]
    ]
    wide = [
        node.name
        for node in ast.walk(TREES[room])
        if isinstance(node, ast.FunctionDef) and len(node.args.args + node.args.kwonlyargs) > 8
    ]

    assert ([], []) == (long, wide)


def test_each_command_and_each_format_has_the_file_that_is_loaded_for_it() -> None:
    assert {f"commands.{name}" for name in COMMANDS} <= set(TREES)
    assert {f"output.formats.{name}" for name in FORMATS} == {
        room for room in TREES if room.startswith("output.formats.")
    }


def test_only_one_room_opens_what_a_stranger_may_have_placed() -> None:
    rooms = {
        room
        for room, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) in TOUCHING
    }

    assert sorted(TOUCHES) == sorted(rooms)


def test_whoever_reads_the_files_of_callers_opens_none_by_itself() -> None:
    readers = {"symbols", "symbol_files", "elf", "cfi", "unwind", "demangle", "callers"}

    assert not readers & set(TOUCHES)
    assert not {
        (room, ast.unparse(node.func))
        for room in readers
        for node in ast.walk(TREES[room])
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("os.pread", "os.read")
    }


def test_no_room_has_a_name_that_says_nothing() -> None:
    assert not NO_ROOMS & {part for room in TREES for part in room.split(".")}


def test_only_the_standard_library_and_what_setup_installs_is_imported() -> None:
    outside = set().union(*(imports(tree)[1] for tree in TREES.values()))
    if sys.version_info >= (3, 10):
        outside -= sys.stdlib_module_names
        assert {"bcc", "click", "tabulate"} == outside
    else:
        assert {"bcc", "click", "tabulate"} <= outside
