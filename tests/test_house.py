"""The arrows of the house, read from the imports: which room may know which, and who knows what outside."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from fork_trace.commands.cli import COMMANDS
from fork_trace.output.check_formats import FORMATS as CHECK_FORMATS
from fork_trace.output.formats import FORMATS

PACKAGE = Path(__file__).resolve().parent.parent / "fork_trace"

# Package, or file at the top -> those that it may import. Each stands above all that it names, so an arrow
# back cannot be written.
MAY_IMPORT: dict[str, set[str]] = {
    "__init__": set(),
    "errors": set(),
    "escape": set(),
    "budget": set(),
    "mounts": {"budget"},
    "files": {"mounts"},
    "documents": {"errors", "files"},
    "model": {"errors", "escape"},
    "host": {"budget", "files", "model"},
    "stacks": {"budget", "escape", "files", "host", "model", "mounts"},
    "probes": {"errors", "files", "model"},
    "diagnosis": {"errors", "model"},
    # probes: the limits of the running kernel, by whatever file tells them; files: systemd's settings
    "headroom": {
        *("__init__", "budget", "diagnosis", "errors", "files", "host", "model", "probes"),
    },
    "collect": {"__init__", "budget", "diagnosis", "errors", "host", "model", "probes", "stacks"},
    "output": {"diagnosis", "errors", "escape", "files", "model"},
    "record": {"collect", "errors", "escape", "host", "model", "output"},
    "serve": {"diagnosis", "errors", "model", "output"},
    "latency": {"collect", "diagnosis", "escape", "model", "output"},
    # probes: the loader, for a security module of its own
    "rehearse": {"errors", "files", "probes"},
    "commands": {
        *("__init__", "collect", "diagnosis", "documents", "errors", "escape", "headroom", "model"),
        *("latency", "output", "probes", "record", "rehearse", "serve"),
    },
    "__main__": {"commands"},
}
PURE = (
    *(
        "errors",
        "model.steps",
        "escape",
        "model.events",
        "probes.plan",
        "model.records",
        "model.places",
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
        "functools",
        "itertools",
        "json",
        "math",
        "operator",
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
        *("commands.docs", "commands.record", "commands.rehearse"),
        *("commands.snapshot", "commands.latency"),
    },
    "tabulate": {"output.tables"},
    "socket": {"record.notify", "record.journal", "serve.endpoint"},
    "csv": {"output.formats.csv"},
    "termios": {"output.live.terminal"},
    "bcc": {"probes.bcc"},
    "prometheus_client": {"output.exposition"},
    "jinja2": {"output.formats.html"},
    "markupsafe": {"output.formats.html"},
    "pathlib": set(),
    "subprocess": set(),
    "multiprocessing": set(),
    "threading": set(),
    "pickle": set(),
}
NAMED_ONLY_BY = {
    "libbpf.so": {"probes.libbpf.bindings"},
    "libstdc++": {"stacks.demangle"},
    "libdw": set(),
}
# How a process is made -> who does so: rehearsals, the command of a capture, and what may hang.
MAKERS = {
    "os.system": set(),
    "os.popen": set(),
    "os.fork": {
        *(
            "rehearse.recipes.late",
            "rehearse.recipes.limits",
            "rehearse.recipes.memory",
            "rehearse.recipes.namespaces",
            *("rehearse.recipes.policy", "rehearse.recipes.slow"),
            "rehearse.run",
            "rehearse.child",
            "stacks.peek",
        ),
    },
    "os.posix_spawn": {"rehearse.recipes.limits", "rehearse.recipes.namespaces"},
    "os.posix_spawnp": {"commands.child"},
}
# Who touches paths by itself -> why none of them can be a stranger's. All else goes through `files`.
TOUCHES = {
    "files": "the one way to open what strangers placed",
    "mounts": "mountinfo and fdinfo of procfs, whose names are numbers",
    "probes.objects": "the package's own object",
    "probes.bcc": "a memfd of our own",
    "probes.kprobe_events": "tracefs",
    "probes.libbpf.btf": "a descriptor that the kernel gave",
    "rehearse.restore": "sysctls and cgroups that a rehearsal borrows, by names of ours",
    "host.cgroup": "cgroupfs and procfs, by cgroup ids and by what the user names",
    "headroom.processes": "host.procfs",
    "headroom.units": "the settings of systemd, which root placed",
    "host.cgroup_limits": "cgroupfs, below its mounts",
    "commands.cli": "/dev/null",
    "record.segments": "the recorder's own directory",
    "record.packing": "the recorder's own directory",
    "record.captures": "captures that the user names",
    "serve.textfile": "the textfile that the user names",
    "output.destination": "the capture file that the user names",
    "probes.headers": "the kernel's headers, below /lib/modules and /usr/src",
    "host.holders": "host.procfs",
    "probes.kernel": "procfs, sysfs and tracefs",
    "stacks.perfmap": "procfs: the status of a process",
    "host.procfs": "host.procfs",
    "rehearse.recipes.late": "a descriptor of the rehearsal's own",
    "rehearse.recipes.limits": "procfs, in a rehearsal",
    "rehearse.recipes.arguments": "a cgroup of the rehearsal's own",
    "rehearse.recipes.namespaces": "procfs, in a rehearsal",
    "rehearse.recipes.threads": "a descriptor of the rehearsal's own",
    "host.runtimes": "directories that root's runtimes made",
    "rehearse.identity": "procfs, in a rehearsal",
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
CHECK_TABLE = {"formats": "", "check_formats": "table"}
WITHOUT_STANDARD = {"bcc", "click", "jinja2", "markupsafe", "prometheus_client", "tabulate"}
NO_ROOMS = {"utils", "util", "common", "helpers", "manager", "core", "base"}


def room_of(path: Path) -> str:
    name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    return name[: -len(".__init__")] if name.endswith(".__init__") else name


TREES = {room_of(path): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}


def package_of(room: str) -> str:
    return room.partition(".")[0]


def trees_of(package: str) -> dict[str, ast.Module]:
    return {
        room: tree for room, tree in TREES.items() if room == package or package_of(room) == package
    }


def known_by(package: str) -> set[str]:
    """Return the packages outside of itself that a package imports."""
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


def test_no_file_leads_back_to_itself() -> None:
    below = {room: imports(tree)[0] - {room} for room, tree in TREES.items()}
    # An empty file of a package is no one's errand.
    below = {room: rooms & set(below) for room, rooms in below.items()}
    while True:
        free = {room for room, rooms in below.items() if not rooms}
        if not free:
            break
        below = {room: rooms - free for room, rooms in below.items() if room not in free}

    assert {} == below


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


@pytest.mark.parametrize("room", sorted(TREES))
def test_what_is_written_can_be_taken_in_at_a_glance(room: str) -> None:
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
    for package, names in (("formats", FORMATS), ("check_formats", CHECK_FORMATS)):
        # The table of a check is drawn with the words that the others use.
        assert {f"output.{package}.{name}" for name in names if name != CHECK_TABLE[package]} == {
            room for room in TREES if room.startswith(f"output.{package}.")
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
    readers = {
        "stacks.symbols",
        "stacks.symbol_files",
        "stacks.elf",
        "stacks.cfi",
        "stacks.unwind",
        "stacks.demangle",
        "stacks.callers",
    }

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
        assert WITHOUT_STANDARD == outside
    else:
        assert WITHOUT_STANDARD <= outside
