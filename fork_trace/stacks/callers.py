"""Frames -> who asked for the fork, in a few words. Pure.

The caller is the nearest frame that is not the machinery of forking. Functions that people call to get
a process or thread count as callers, with the next one behind them: popen <- run_job.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from fork_trace.model.records import CONFIRMED, Frame

# glibc and musl on the way to the system call; and what stands between it and the wrappers.
_MACHINERY = frozenset(
    {
        *("fork", "__fork", "__libc_fork", "_Fork", "vfork", "__vfork", "__libc_vfork"),
        *("clone", "__clone", "clone3", "__clone3", "__clone_internal", "syscall", "__syscall"),
        *("__clone_internal_fallback", "__clone3_internal", "__arch_fork", "arch_fork"),
        *("__spawni", "__spawnix", "do_posix_spawn", "spawn_process"),
        *("_IO_proc_open", "_IO_new_proc_open", "__new_proc_open", "create_thread"),
        *("allocate_stack", "setup_stack_prot", "advise_stack_range", "__start"),
        *("mmap", "mmap64", "__mmap", "__mmap64", "mprotect", "__mprotect"),
        *("execve", "__execve", "execv", "execvp", "execvpe", "execl", "execle", "execlp"),
        *("execveat", "fexecve", "__execvpe_common", "unshare"),
        *("do_fork_exec", "child_exec", "uv__fork", "start_child", "startChild", "forkChild"),
        *("vforkChild", "spawnChild"),
    }
)
_MACHINERY_OF_LIBUV = re.compile(r"uv__(spawn|do_create)\w*")
_WRAPPERS = {
    "popen": "popen",
    "_IO_popen": "popen",
    "_IO_new_popen": "popen",
    "system": "system",
    "__libc_system": "system",
    "do_system": "system",  # which system() jumps to
    "posix_spawn": "posix_spawn",
    "__posix_spawn": "posix_spawn",
    "posix_spawnp": "posix_spawnp",
    "__posix_spawnp": "posix_spawnp",
    "pthread_create": "pthread_create",
    "__pthread_create": "pthread_create",
    "__pthread_create_2_1": "pthread_create",
    "subprocess_fork_exec": "_fork_exec",
    "_posixsubprocess_fork_exec": "_fork_exec",
    "uv_spawn": "uv_spawn",
    "uv_thread_create": "uv_thread_create",
    "uv_thread_create_ex": "uv_thread_create",
    "thrd_create": "thrd_create",
}
# Functions of a C library by which a process or thread is asked for.
FORKING = frozenset(
    {
        *("fork", "vfork", "_Fork", "clone", "popen", "system", "posix_spawn", "posix_spawnp"),
        *("pthread_create", "thrd_create", "daemon", "forkpty", "wordexp", "syscall"),
    }
)
# Older glibc has libc-2.31.so, before 2.34 threads were in libpthread; musl is its own loader.
_C_LIBRARY = re.compile(r"(libc|libpthread)[-.]|ld-musl-|libc\.musl-")
# What runs others' programs: there the program is the caller.
_INTERPRETER = re.compile(
    r"(python|pypy|perl|ruby|node|nodejs|bash|sh|dash|zsh|ksh|ash|php|lua|java)[\d.]*(-\d[\d.]*)?"
)
# Options with a value of their own; and those whose value is the program's text or name.
_WITH_VALUE = {
    "python": ("-W", "-X", "--check-hash-based-pycs"),
    "perl": ("-I", "-M", "-F"),
    "ruby": ("-I", "-r", "-C"),
    "node": ("-r", "--require", "--import", "--loader"),
    "java": ("-cp", "-classpath", "--class-path", "-p", "--module-path", "--add-modules"),
    "php": ("-c", "-d"),
    "bash": ("-O", "+O", "--rcfile", "--init-file", "-o", "+o"),
}
_WITH_TEXT = {
    "python": ("-c",),
    "perl": ("-e", "-E"),
    "ruby": ("-e",),
    "node": ("-e", "-p", "--eval", "--print"),
    "php": ("-r",),
}
_WITH_NAME = {"python": ("-m",), "java": ("-jar", "-m", "--module"), "php": ("-f",)}
_SHELLS = ("bash", "sh", "dash", "zsh", "ksh", "ash")

# Frames of a perf map that say nothing of the program: stubs, and the runtime's own library.
_NOT_OF_PROGRAM = re.compile(
    r"StubRoutines|Builtin:|Handler:|Stub:|RegExp:|ByteCodeHandler:|BytecodeHandler:"
    r"|(void |int |long )?(java|jdk|sun)[./]|L(java|jdk|sun)/|.* node:|.*<frozen |.*\(native\)"
    r"|native method|vtable|ICHolder|call_stub|exception|i2c|c2i|DeoptimizationBlob"
)
_INTERPRETED = re.compile(r"Builtins_InterpreterEntryTrampoline$|Interpreter$")
_V8_MARK = re.compile(r"(LazyCompile|Function|Script|Eval|JS):[*~^+]?")
_PYTHON_MARK = re.compile(r"py::")
# Python's own library, where a program's functions call it: subprocess, multiprocessing, threading.
_PYTHON_LIBRARY = re.compile(r"/lib(64)?/python3\.\d+[a-z]*/(?!(site|dist)-packages/)|<frozen ")


def script(exe: str | None, arguments: Sequence[str]) -> str | None:
    """Return the program that an interpreter runs, by its command line; None: no interpreter, or none.

    The text of a program that was given on the command line is not returned, as it can hold secrets.
    """
    name = (exe or "").rpartition("/")[2]
    kind = _INTERPRETER.fullmatch(name)
    if kind is None:
        return None
    language = {"nodejs": "node", "pypy": "python"}.get(kind[1], kind[1])
    if language in _SHELLS:
        language = "bash"
    words = iter(arguments[1:])
    for word in words:
        if language == "bash" and re.fullmatch(r"-[a-z]*c[a-z]*", word):
            return None
        if word in _WITH_TEXT.get(language, ()):
            return None
        if word in _WITH_NAME.get(language, ()):
            value = next(words, None)
            return value if value is None or word in ("-jar", "-f") else f"{word} {value}"
        if word in _WITH_VALUE.get(language, ()):
            next(words, None)
        elif word == "--":
            return next(words, None)
        elif not word.startswith(("-", "+")) or word == "-":
            return None if word == "-" else word
    return None


def function(symbol: str) -> str:
    """Return the name of a function without its parameters."""
    depth = 0
    for at, char in enumerate(symbol):
        if char == "<" and not symbol[:at].endswith("operator"):
            depth += 1
        elif char == ">" and depth:
            depth -= 1
        elif char == "(" and not depth and at:
            if symbol.startswith("(anonymous namespace)", at) or symbol[:at].endswith("operator"):
                continue
            return symbol[:at]
    return symbol


@lru_cache(16)
def caller(frames: tuple[Frame, ...], script_: str | None = None) -> str | None:
    """Name who asked for the fork; None if no frame tells.

    Where a program is interpreted, its own function stands for what called, or else its file.
    """
    program = _of_python([frame for frame in frames if frame.read_later], _base(script_))
    read_at_once = [frame for frame in frames if not frame.read_later]
    wrapper, nearest = None, None
    for index, frame in enumerate(read_at_once):
        name = None if frame.symbol is None else function(frame.symbol)
        if name in _WRAPPERS:
            wrapper = _WRAPPERS[name]
        elif name is not None and (name in _MACHINERY or _MACHINERY_OF_LIBUV.fullmatch(name)):
            continue
        elif not is_c_library(frame.file):
            nearest = index
            break
        elif name is not None:
            wrapper = name  # another function of the C library that forks: forkpty, wordexp
    if nearest is None:
        # Only machinery is known: its outermost function is what was called.
        named = [function(frame.symbol) for frame in read_at_once if frame.symbol]
        first = wrapper or (named[-1] if named else None)
        return _joined(first, program)
    behind = _of_program(read_at_once[nearest:]) or program
    own = _text(read_at_once[nearest])
    if wrapper is not None:
        return _joined(wrapper, behind or own or "?")
    is_named = read_at_once[nearest].symbol is not None
    if behind is not None and (not is_named or behind == own):
        return behind
    return _joined(own, behind)


def _joined(first: str | None, second: str | None) -> str | None:
    return " <- ".join(filter(None, (first, second))) or None


def _base(script_: str | None) -> str | None:
    if script_ is None:
        return None
    head, blank, path = script_.rpartition(" ") if script_.startswith("-") else ("", "", script_)
    return f"{head}{blank}{path.rstrip('/').rpartition('/')[2]}"


def is_c_library(file: str | None) -> bool:
    """Say whether a file is the C library, by its name."""
    return bool(file and _C_LIBRARY.match(file.rpartition("/")[2]))


def _of_program(frames: Sequence[Frame]) -> str | None:
    """The nearest function that a JIT compiler made of the program's own text."""
    for frame in frames:
        if frame.symbol and _INTERPRETED.match(frame.symbol):
            return None  # a function of the program, but not which
        if frame.file is None and frame.symbol and not _NOT_OF_PROGRAM.match(frame.symbol):
            text = _PYTHON_MARK.sub("", _V8_MARK.sub("", frame.symbol))
            # Node and Python say where it is written: the file's name is enough.
            return re.sub(r"([ :])(?:file://)?/\S*/", r"\1", text).strip() or None
    return None


def _of_python(frames: Sequence[Frame], script_: str | None) -> str | None:
    """The nearest function that was read from a Python process, beyond Python's own library; else its script."""
    own = [frame for frame in frames if not _PYTHON_LIBRARY.search(frame.file or "")]
    for frame in own or (frames if script_ is None else ()):
        file = _base(frame.file)
        text = file if frame.symbol == "<module>" else f"{frame.symbol}:{file}"
        # That it is this script is known from the command line as well.
        is_sure = frame.read_later == CONFIRMED or text == script_
        return text if is_sure else f"probably {text}"
    return script_


def _text(frame: Frame) -> str | None:
    if frame.symbol is not None:
        return function(frame.symbol)
    if frame.file is None or frame.offset is None:
        return None
    return f"{frame.file.rpartition('/')[2]}+{frame.offset:#x}"
