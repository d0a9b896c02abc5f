"""The arrows of the house, read from the imports: which room may know which, and who knows what outside."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "fork_trace"

# Room -> the rooms of this project that it may import. Each stands above all that it names, so
# an arrow back cannot be written.
MAY_IMPORT: dict[str, set[str]] = {
    # 0
    "__init__": set(),
    "errors": set(),
    "steps": set(),
    "names": set(),
    # 1
    "events": {"steps"},
    "plan": {"errors", "steps"},
    "records": {"errors", "names"},
    # 2
    "causes": {"events", "records", "steps"},
    "containers": set(),
    "texts": set(),
    "catalogue": {"containers", "records"},
    "explain": {"catalogue", "errors", "texts"},
    "limits": set(),
    # 3
    "aggregate": {"errors", "records"},
    "callers": {"records"},
    # 4
    "files": set(),
    "kernel": {"files", "plan"},
    "headers": {"files", "plan"},
    "procfs": set(),
    "cgroup": set(),
    "holders": {"records"},
    "documents": {"errors", "files"},
    "privileges": {"files"},
    "reserve": set(),
    "elf": set(),
    "cfi": {"elf"},
    "unwind": {"cfi", "events"},
    "demangle": set(),
    "perfmap": {"files"},
    "runtimes": {"containers", "files"},
    "symbols": {
        *("callers", "cfi", "demangle", "elf", "events", "files", "perfmap", "procfs"),
        *("records", "unwind"),
    },
    "survey": {"holders", "limits", "procfs"},
    "backends": {"errors", "plan"},
    "backends.kprobe_events": {"files"},
    "backends.settings": {"backends", "events", "plan", "steps"},
    "backends.libbpf": {
        *("backends", "backends.kprobe_events", "backends.settings", "errors", "events"),
        *("files", "plan", "steps"),
    },
    "backends.bcc": {
        *("backends", "backends.kprobe_events", "backends.settings", "errors", "events"),
        *("files", "plan", "steps"),
    },
    "wording": {"names", "records"},
    "tables": {"aggregate", "names", "records", "wording"},
    "report": {"aggregate", "catalogue", "names", "records", "tables", "wording"},
    "formats": {"aggregate", "catalogue", "names", "records", "report", "tables"},
    "screen": {"aggregate", "names", "report", "tables", "wording"},
    "terminal": {"screen", "wording"},
    "render": {"catalogue", "explain", "names", "records", "tables", "wording"},
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
        *("backends", "backends.libbpf", "borrowed", "errors", "files", "refusals", "stage"),
    },
    "rehearse": {
        *("borrowed", "errors", "refusals", "refused_arguments", "refused_memory"),
        *("refused_namespaces", "refused_policy", "refused_threads", "stage"),
    },
    # 5
    "session": {
        *("__init__", "backends", "backends.bcc", "backends.libbpf", "callers", "catalogue"),
        *("causes", "cgroup", "containers", "errors", "events", "headers", "holders", "kernel"),
        *("plan", "privileges", "procfs", "records", "reserve", "runtimes", "steps", "symbols"),
    },
    # 6
    "check": {
        *("__init__", "catalogue", "cgroup", "errors", "holders", "kernel", "limits", "procfs"),
        *("records", "survey"),
    },
    "doctor": {"errors", "kernel", "plan", "privileges", "session", "symbols"},
    "watch": {
        *("aggregate", "catalogue", "errors", "formats", "names", "records", "report", "screen"),
        *("privileges", "session", "terminal"),
    },
    # 7
    "cli": {
        *(
            "__init__",
            "aggregate",
            "check",
            "doctor",
            "documents",
            "errors",
            "events",
            "explain",
            "names",
            "plan",
        ),
        *("formats", "records", "rehearse", "render", "report", "session", "watch"),
    },
    "__main__": {"cli"},
}
PURE = (
    *(
        "errors",
        "steps",
        "names",
        "events",
        "plan",
        "records",
        "causes",
        "containers",
        "texts",
        "catalogue",
    ),
    *("explain", "aggregate", "callers", "limits", "wording", "report", "formats", "screen"),
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
    "click": {"cli"},
    "tabulate": {"tables"},
    "csv": {"formats"},
    "termios": {"terminal"},
    "bcc": {"backends.bcc"},
    "pathlib": set(),
    "subprocess": set(),
    "multiprocessing": set(),
    "threading": set(),
    "pickle": set(),
}
NAMED_ONLY_BY = {"libbpf.so": {"backends.libbpf"}, "libstdc++": {"demangle"}, "libdw": set()}
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
            "rehearse",
            "stage",
        ),
    },
    "os.posix_spawn": {"refusals", "refused_namespaces"},
    "os.posix_spawnp": {"watch"},
}
NO_ROOMS = {"utils", "util", "common", "helpers", "manager", "core", "base"}


def room_of(path: Path) -> str:
    name = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    return name[: -len(".__init__")] if name.endswith(".__init__") else name


TREES = {room_of(path): ast.parse(path.read_text()) for path in sorted(PACKAGE.rglob("*.py"))}


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
    assert sorted(MAY_IMPORT) == sorted(TREES)


@pytest.mark.parametrize("room", sorted(TREES))
def test_a_room_knows_only_those_below_it(room: str) -> None:
    rooms, _ = imports(TREES[room])

    assert set() == rooms - MAY_IMPORT[room]


def test_no_arrow_of_the_table_is_for_nothing() -> None:
    idle = {room: MAY_IMPORT[room] - imports(tree)[0] for room, tree in TREES.items()}

    assert {} == {room: names for room, names in idle.items() if names}


def test_no_arrow_goes_back_up() -> None:
    seen: set[str] = set()
    for room, below in MAY_IMPORT.items():
        assert below <= seen, f"{room} stands above {below - seen}"
        seen.add(room)


@pytest.mark.parametrize("room", PURE)
def test_a_pure_room_has_no_file_clock_or_library(room: str) -> None:
    _, outside = imports(TREES[room])

    assert set() == outside - PURE_MAY_IMPORT
    assert not any(
        isinstance(node, ast.Name) and node.id in ("open", "print", "input", "__import__")
        for node in ast.walk(TREES[room])
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


def test_no_room_has_a_name_that_says_nothing() -> None:
    assert not NO_ROOMS & {part for room in TREES for part in room.split(".")}


def test_only_the_standard_library_and_what_setup_installs_is_imported() -> None:
    outside = set().union(*(imports(tree)[1] for tree in TREES.values()))
    if sys.version_info >= (3, 10):
        outside -= sys.stdlib_module_names
        assert {"bcc", "click", "tabulate"} == outside
    else:
        assert {"bcc", "click", "tabulate"} <= outside
