"""The records of a capture: what one says, as JSON, and back. Pure: lines in, records out.

A capture file is JSON Lines: a `header`, any number of `failure` records, a closing `summary`. The
names are stable; the capture file's page documents them. What a record means is `diagnosis`'.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from math import isfinite
from typing import Any, TypeVar, Union

from fork_trace.errors import ForkTraceError
from fork_trace.escape import MOST, cut, json_line

VERSION = 1
MOST_BYTES = 64 << 10  # of one failure as a line of JSON
_MOST_DEPTH = 8
_LEAST_NAME = 32  # characters that are left of a name where a record has no room for it


@dataclass(frozen=True)
class Evidence:
    """One number that decided, with where it stands and where it was read."""

    name: str
    value: int | None
    limit: int | None
    unit: str
    where: str
    read: str  # "kernel": in the kernel, at the refusal; "proc": from /proc or /sys, after it


@dataclass(frozen=True)
class Frame:
    """One frame of a user stack; what is not known is None."""

    address: int
    symbol: str | None
    file: str | None
    offset: int | None = None  # of the address in the file
    build_id: str | None = None  # of the file
    note: str | None = None  # why there is no symbol, where that was a choice


@dataclass(frozen=True)
class Holder:
    """What one command holds of an exhausted pool. Without a name: zombies of an unseen parent."""

    comm: str | None
    pid: int | None  # of its process that holds most
    tasks: int  # threads, main ones included; dead ones apart
    processes: int
    zombies: int  # dead processes that it has not reaped: each still counts in the pool


@dataclass(frozen=True)
class Advice:
    """One thing to do about a failure."""

    kind: str  # "verify", "mitigate" or "fix"
    text: str  # whole sentences
    commands: tuple[str, ...] = ()  # to paste into a shell; words in capitals are to be filled in


@dataclass(frozen=True)
class Failure:
    """One fork that the kernel refused, or `count` alike of which this is one."""

    time: str  # ISO 8601, UTC
    time_ns: int  # the same instant, ns since the epoch
    count: int
    comm: str | None
    exe: str | None
    pid: int | None
    tid: int | None
    uid: int | None
    ppid: int | None
    parent_comm: str | None
    cgroup: str | None
    container: dict[str, Any] | None
    syscall: str | None
    flags: tuple[str, ...]
    creates: str | None
    errno: str | None
    step: str
    function: str | None
    cause: str
    certainty: str
    evidence: tuple[Evidence, ...] = ()
    caller: str | None = None
    stack: tuple[Frame, ...] = ()
    advice: tuple[Advice, ...] = ()
    alternatives: tuple[str, ...] = ()  # other causes that fit as well, likeliest first
    # Who held the pool right after, most first, or up to 10 s before; None: not read.
    holders: tuple[Holder, ...] | None = None
    holders_total: int | None = None  # tasks and zombies of all, also those not named
    stack_by: str | None = None  # "unwinding", "frame-pointers"; None: there is no stack
    frames_omitted: int = 0  # of the stack, outermost ones for which the record has no room
    script: str | None = None  # what the interpreter runs, if the program is one
    # Which steps were watched as the cause was inferred; None: it was observed.
    watched: str | None = None  # "fork" (its end alone), "default", "all"


@dataclass(frozen=True)
class Header:
    """What was watched, where, and what could not be."""

    version: int
    time: str
    host: str
    kernel: str
    machine: str
    tool: str
    attach: str
    backend: str
    attached: tuple[dict[str, Any], ...]
    missing: tuple[dict[str, Any], ...]
    limits: dict[str, int | None]
    filter: dict[str, Any] = field(default_factory=dict)
    # Better ways of attaching, best first: attach mode, backend, and the reason why it was not taken.
    fallbacks: tuple[dict[str, Any], ...] = ()


@dataclass(frozen=True)
class Summary:
    """The exact totals of a whole run, whatever became of the samples."""

    time: str
    duration_s: float
    failures: int
    causes: dict[str, int]
    totals: tuple[dict[str, Any], ...]  # exact counts of what is alike in all else
    lost: int  # samples lost since the buffer was full; they are in the totals all the same
    # Calls whose failure may not be counted, for a program did not see them; None: the kernel does
    # not count these.
    missed: int | None
    rate_limited: int  # failures counted but not sampled: the rate limit of their key
    overflowed: (
        int  # failures counted without their command: a user had too many, or the table was full
    )
    restarted: int  # -ERESTARTNOINTR: the kernel restarted the call; no failure
    killed: int  # the caller was being killed and never saw the error; no failure
    filtered: int  # outside the filter; in no other number
    ended: str  # "duration", "command", "signal"
    command: dict[str, Any] | None = None  # argv and exit status of `capture -- COMMAND`
    rows: tuple[dict[str, Any], ...] = ()
    before_fork: int = 0  # of the failures: those that never reached copy_process
    untracked: int = 0  # refusals or calls that found no slot; their failures may lack their step
    without_stack: int = 0  # samples whose user stack found no room: their caller may be unknown
    # Calls of a step that its program did not see: of a failure the cause is inferred, or unknown.
    step_misses: int = 0
    mismatched: int = 0  # refusals that did not fit the error of their fork; not blamed


Record = Union[Header, Failure, Summary]
_TYPES: Mapping[str, type[Any]] = {"header": Header, "failure": Failure, "summary": Summary}
_NAMES = {type_: name for name, type_ in _TYPES.items()}
_T = TypeVar("_T")


def to_json(record: Record) -> str:
    """Write one record as one line of JSON, without its newline; ASCII only."""
    return json_line({"type": _NAMES[type(record)], **vars(record)})


def bounded(failure: Failure, most_bytes: int = MOST_BYTES) -> Failure:
    """Shorten names that are longer than any honest one, and leave out frames until a record has its size."""
    most_name = MOST
    while True:
        failure = _with_cut_names(failure, most_name)
        left = most_bytes - len(to_json(replace(failure, stack=())))
        kept = 0
        for frame in failure.stack:
            # A comma and a blank; and room for the number of those that are left out.
            left -= len(json_line(vars(frame))) + 2
            if left < 4:
                break
            kept += 1
        gone = len(failure.stack) - kept
        if gone:
            gone += failure.frames_omitted
            failure = replace(failure, stack=failure.stack[:kept], frames_omitted=gone)
        if left >= 0 or kept or most_name <= _LEAST_NAME:
            return failure
        most_name //= 2


def _with_cut_names(failure: Failure, most: int) -> Failure:
    values: dict[str, Any] = {
        name: value if value is None else cut(value, most)
        for name in ("exe", "cgroup", "caller", "script")
        for value in (getattr(failure, name),)
    }
    values["advice"] = tuple(_short_advice(each, 4 * most) for each in failure.advice)
    values["evidence"] = tuple(
        each if len(each.where) <= most else replace(each, where=cut(each.where, most))
        for each in failure.evidence
    )
    if failure.container is not None:
        values["container"] = {
            name: cut(value, most) if isinstance(value, str) else value
            for name, value in failure.container.items()
        }
    is_same = all(getattr(failure, name) == value for name, value in values.items())
    return failure if is_same else replace(failure, **values)


def _short_advice(advice: Advice, most: int) -> Advice:
    # A command is whole or not there: half of one does something else.
    commands = tuple(each for each in advice.commands if len(each) <= most)
    return replace(advice, text=cut(advice.text, most), commands=commands)


def _build(type_: type[_T], values: Mapping[str, Any]) -> _T:
    # Unknown keys are those of a later minor change: they do no harm.
    known = {item.name: values[item.name] for item in fields(type_) if item.name in values}  # type: ignore[arg-type]
    return type_(**known)


def _fits(value: object, type_: str) -> bool:
    if type_.startswith("tuple["):
        # Of their items, those that are records are checked by themselves.
        is_list = isinstance(value, (list, tuple))
        return is_list and ("dict[" not in type_ or all(isinstance(item, dict) for item in value))  # type: ignore[attr-defined]
    if type_.startswith("dict["):
        return isinstance(value, dict)
    if type_ == "float":
        return isinstance(value, (int, float)) and abs(value) < 1e15  # not NaN, not Infinity
    if type_ == "int":
        is_int = isinstance(value, int) and not isinstance(value, bool)
        return is_int and -(1 << 63) <= value < 1 << 64  # type: ignore[operator]
    return isinstance(value, str)


def _check(record: Any) -> None:
    # The report computes with these values and cuts, sorts and counts by them.
    for item in fields(record):
        value = getattr(record, item.name)
        type_, _, optional = str(item.type).partition(" | ")
        if not (value is None and optional) and not _fits(value, type_):
            raise ValueError(f"{item.name} is no {type_.partition('[')[0]}")


def _advice(values: Mapping[str, Any]) -> Advice:
    advice = _build(Advice, values)
    _check(advice)
    return replace(advice, commands=tuple(str(item) for item in advice.commands))


def _failure(values: dict[str, Any]) -> Failure:
    values["evidence"] = tuple(_build(Evidence, item) for item in values.get("evidence", ()))
    values["stack"] = tuple(_build(Frame, item) for item in values.get("stack", ()))
    if values.get("holders") is not None:
        values["holders"] = tuple(_build(Holder, item) for item in values["holders"])
    values["advice"] = tuple(_advice(item) for item in values.get("advice", ()))
    for name in ("flags", "alternatives"):
        values[name] = tuple(str(item) for item in values.get(name, ()))
    failure = _build(Failure, values)
    _check(failure)
    if failure.count < 1:
        raise ValueError("count is not positive")
    holders = failure.holders or ()
    for item in (*failure.evidence, *failure.stack, *holders):
        _check(item)
    return failure


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no number")


def _finite(digits: str) -> float:
    value = float(digits)
    return value if isfinite(value) else _no_number("a float beyond every limit")


def _is_deep(value: object, left: int) -> bool:
    # Ours have four levels. Copying a thousand of them would end in a RecursionError.
    inner = value.values() if isinstance(value, dict) else value
    if not isinstance(value, (dict, list)):
        return False
    return left == 0 or any(_is_deep(each, left - 1) for each in inner)  # type: ignore[attr-defined]


def from_json(line: str) -> Record:
    """Read one line; ValueError or TypeError says what is wrong with it."""
    # No JSON has these, and no other reader would take them from us again.
    values = json.loads(line, parse_constant=_no_number, parse_float=_finite)
    if not isinstance(values, dict):
        raise ValueError("not an object")
    if _is_deep(values, _MOST_DEPTH):
        raise ValueError("nested too deep")
    type_ = values.pop("type", None)
    if not isinstance(type_, str) or type_ not in _TYPES:
        raise ValueError(f"unknown record type {type_!r}")
    if type_ == "failure":
        return _failure(values)
    record: Record = _build(_TYPES[type_], values)
    _check(record)
    return record


def read(name: str, lines: Iterable[str]) -> Iterator[Record]:
    """Read a whole capture file; ForkTraceError with the line where it is not one."""
    number = 0
    last: Record | None = None
    for number, line in enumerate(lines, 1):
        try:
            record = from_json(line)
        except (ValueError, TypeError, RecursionError) as error:
            if not line.endswith("\n") and (number > 1 or line.startswith("{")):
                raise _truncated(name, number) from None
            raise ForkTraceError(
                f"{name}: line {number} is not a record of a capture: {_short(error)}",
                "Give a file that `fork-trace capture --output` wrote.",
            ) from None
        if number == 1 and not isinstance(record, Header):
            raise ForkTraceError(
                f"{name}: the first record is no header, so this is not a whole capture",
                "Give a file that `fork-trace capture --output` wrote.",
            )
        if isinstance(record, Header) and record.version > VERSION:
            raise ForkTraceError(
                f"{name}: written by a newer fork-trace (format {record.version}, this one reads "
                f"up to {VERSION})",
                "Read it with the version that wrote it, or newer.",
            )
        last = record
        yield record
    if number == 0:
        raise ForkTraceError(
            f"{name} is empty: no capture was written to it",
            "Give a file that `fork-trace capture --output` wrote.",
        )
    if not isinstance(last, Summary):
        raise _truncated(name, number)


def _short(error: BaseException) -> str:
    text = str(error)
    return text if len(text) <= 120 else text[:117] + "..."


def _truncated(name: str, number: int) -> ForkTraceError:
    return ForkTraceError(
        f"{name} is cut off after line {number}: the closing summary is missing, so its totals "
        "are not known",
        "Let a capture end by its duration, Ctrl-C or SIGTERM; for what is there, "
        "filter the lines of type failure yourself.",
    )
