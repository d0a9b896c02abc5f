"""The records of a capture: what one says, as JSON, and back. Pure: lines in, records out.

A capture file is JSON Lines: a `header`, any number of `failure` records, a closing `summary`. What
was seen beside refused forks has records among them (INCIDENTS); a recorder's have `checkpoint` and
`mark` too. The names are stable; the capture file's
page documents them. What a record means is `diagnosis`', what a file lacks is `reading`'s.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, field, fields, replace
from itertools import chain
from operator import itemgetter
from typing import Any, TypeVar, Union

from fork_trace.escape import MOST, cut, json_line
from fork_trace.model.dataclass import dataclass

VERSION = 1
MOST_BYTES = 64 << 10  # of one failure as a line of JSON
_MOST_DEPTH = 8
_MOST_DIGITS = 19  # of an integer that fits whatever they are
_MOST_FLOAT = 1e15
_MOST_KINDS = 1024
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


# What was taken down at the refusal points into this function's instructions.
CONFIRMED = "confirmed"
# It had called the next one when they were read; at the refusal that may have been another one.
UNCONFIRMED = "unconfirmed"


@dataclass(frozen=True)
class Frame:
    """One frame of a user stack; what is not known is None."""

    address: int
    symbol: str | None
    file: str | None
    offset: int | None = None  # of the address in the file
    build_id: str | None = None  # of the file
    note: str | None = None  # why there is no symbol, where that was a choice
    line: int | None = None  # of a Python function: where it begins in its source
    # Of a Python function, which is read from its process' memory after the refusal: what else tells it.
    read_later: str | None = None


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

    kind: str  # "verify", "mitigate", "fix" or "careful"
    text: str  # whole sentences
    commands: tuple[str, ...] = ()  # to paste into a shell; words in capitals are to be filled in


class _Alike:
    """What failures have in common that differ in when they were and whose alone: an object, by its identity."""

    __slots__ = ("alike",)  # beside the fields: it is no part of what a record says
    alike: object


@dataclass(frozen=True)
class Failure(_Alike):
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
    # Who in the kernel made the task; None: a system call asked for it, or it is not known.
    maker: dict[str, Any] | None = None
    # The steps that an allocation can have failed in which no program saw, in the kernel's order.
    possible_steps: tuple[str, ...] = ()


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
    boot_id: str | None = None  # /proc/sys/kernel/random/boot_id


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
    ended: str  # "duration", "command", "signal", "rotation"; of a checkpoint "running"
    command: dict[str, Any] | None = None  # argv and exit status of `capture -- COMMAND`
    rows: tuple[dict[str, Any], ...] = ()
    before_fork: int = 0  # of the failures: those that never reached copy_process
    untracked: int = 0  # refusals or calls that found no slot; their failures may lack their step
    early: int = 0  # failures counted before the programs that explain were loaded
    without_stack: int = 0  # samples whose user stack found no room: their caller may be unknown
    # Calls of a step that its program did not see: of a failure the cause is inferred, or unknown.
    step_misses: int = 0
    mismatched: int = 0  # refusals that did not fit the error of their fork; not blamed
    # Processes that the OOM killer killed meanwhile, whatever they were; None: not known.
    oom_kills: int | None = None
    # Of these, the ones that were seen, by cause; "unknown": not told apart. None: not watched.
    deaths: dict[str, int] | None = None


@dataclass(frozen=True)
class Checkpoint(Summary):
    """The totals up to an instant of a run that goes on: what is left if it never closes its file."""


@dataclass(frozen=True)
class Mark:
    """Something that happened to the watching itself: what a pause in the failures may be due to."""

    time: str  # as it was written
    host: str
    # "started", "stopped", "watching"; "gap": nothing watched; "resumed": after a suspend; "clock": it was set.
    kind: str
    from_: str | None = None  # ISO 8601, UTC; None: not known
    to: str | None = None


@dataclass(frozen=True)
class Allocator:
    """Whose wish for memory made the kernel kill."""

    comm: str
    pid: int
    tid: int


@dataclass(frozen=True)
class Fork:
    """The fork behind a death: parent and child, of which one was killed. Bytes are of anonymous memory."""

    parent_comm: str | None
    parent_pid: int
    child_pid: int
    age_s: float | None  # from the fork to the kill
    caller: str | None  # who forked; None: not known
    parent_anon_bytes: int | None
    child_anon_bytes: int | None
    unshared_bytes_max: int | None  # copied since at most; None: not to be told


@dataclass(frozen=True)
class Level:
    """A limit of memory, and what counted against it at the kill."""

    where: str  # the directory of a cgroup; or "host", with what its memory is confined to
    used: int | None
    limit: int | None  # None: none, or not known


@dataclass(frozen=True)
class Relative:
    """Another process of the same family: one that forked the victim, or was forked by the same parent."""

    comm: str
    pid: int
    kind: str  # "parent", "child" or "sibling" of the victim
    anon_bytes: int | None
    age_s: float | None


@dataclass(frozen=True)
class Death:
    """A process that the OOM killer ended."""

    time: str  # ISO 8601, UTC
    host: str
    cause: str
    certainty: str  # "observed": it came as a shared page was copied; or "inferred"
    comm: str | None
    pid: int | None
    uid: int | None
    cgroup: str | None
    allocator: Allocator | None
    fork: Fork | None  # None: none is behind it
    levels: tuple[Level, ...] = ()  # the one whose limit was hit comes first
    thp: str | None = None  # transparent huge pages: "always", "madvise", "never"
    relatives: tuple[Relative, ...] = ()  # that live


@dataclass(frozen=True)
class Slow:
    """Forks of one command and caller that took long; what is told of one fork is told of the sample."""

    time: str  # of the last one
    host: str
    comm: str
    pid: int | None
    caller: str | None
    count: int  # of those that took as long as over_ms or longer, and so are all times
    total_ms: float
    p50_ms: float  # to a hundredth of it
    p99_ms: float
    max_ms: float
    # Of the sample: how long each phase took, sample_ms in all; None: not seen.
    phases: dict[str, Any] | None
    reason: str  # what took most of the time of all; "unknown" where too little is explained
    certainty: str | None  # None: unknown
    evidence: tuple[Evidence, ...] = ()
    over_ms: float = 0.0
    sample_ms: float | None = None
    reasons: dict[str, Any] = field(default_factory=dict)  # how many were slow for each
    # Milliseconds, to a hundredth -> how many took so long: records of one command can be added up.
    times_ms: dict[str, Any] = field(default_factory=dict)
    holder: dict[str, Any] | None = None  # comm, pid, tid, of: who held what it waited for longest
    forks: int | None = None  # all forks of that command, slow or not
    exe: str | None = None
    uid: int | None = None
    cgroup: str | None = None
    syscall: str = "unknown"
    flags: tuple[str, ...] = ()
    stack: tuple[Frame, ...] = ()
    advice: tuple[Advice, ...] = ()


@dataclass(frozen=True)
class Forks:
    """All forks while slow ones were looked for: how long they took, and what was not seen."""

    time: str
    host: str
    kernel: str
    tool: str
    attach: str
    duration_s: float
    over_ms: float
    # comm, count, total_ms, slow, slow_ms, buckets: number n counts forks of less than 2 ** (n + 1) ns
    commands: tuple[dict[str, Any], ...]
    slow: int
    lost: int  # slow ones that are in no record, as the buffer was full
    unpaired: int  # forks whose begin or end was not seen
    missed: int | None  # forks that a program was left out of; None: the kernel does not count them
    untallied: int  # forks of commands for which there was no room
    unmeasured: int  # vforks, whose call lasts as long as their child wants; attach mode tracepoint
    waits: str  # whose waits were watched: "all", "some", "none" (no fork was slow)
    missing: tuple[dict[str, Any], ...] = ()  # program, reason
    ended: str = "signal"
    command: dict[str, Any] | None = None


# What is seen beside refused forks: each is counted apart from failures.
Incident = Death
INCIDENTS: tuple[type[Any], ...] = (Death,)
# Fields that hold records of their own, or several of them.
_PARTS: Mapping[type[Any], Mapping[str, type[Any]]] = {
    Death: {"allocator": Allocator, "fork": Fork, "levels": Level, "relatives": Relative},
}
# a Checkpoint is a Summary
Record = Union[Header, Failure, Summary, Mark, Death, Slow, Forks]
_TYPES: Mapping[str, type[Any]] = {
    "header": Header,
    "failure": Failure,
    "summary": Summary,
    "checkpoint": Checkpoint,
    "mark": Mark,
    "death": Death,
    "slow": Slow,
    "forks": Forks,
}
_NAMES = {type_: name for name, type_ in _TYPES.items()}
_T = TypeVar("_T")


_MOST_WRITTEN = 16
# By id: what is weighed is written soon after, with others that came at the same time.
_written: dict[int, tuple[Failure, str]] = {}


def to_json(record: Record) -> str:
    """Write one record as one line of JSON, without its newline; ASCII only."""
    known = _written.get(id(record))
    if known is not None and known[0] is record:
        return known[1]
    values = vars(record)
    if isinstance(record, Mark):
        values = {name.rstrip("_"): value for name, value in values.items()}
    text = json_line({"type": _NAMES[type(record)], **values})
    if isinstance(record, Failure):
        _written[id(record)] = (record, text)
        if len(_written) > _MOST_WRITTEN:
            del _written[next(iter(_written))]
    return text


def bounded(failure: Failure, most_bytes: int = MOST_BYTES) -> Failure:
    """Shorten names that are longer than any honest one, and leave out frames until a record has its size."""
    if len(to_json(failure)) + 6 <= most_bytes and not _has_long_names(failure):
        return failure  # nearly all
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


def _has_long_names(failure: Failure) -> bool:
    names = [failure.exe, failure.cgroup, failure.caller, failure.script]
    names += [each.where for each in failure.evidence]
    for group in (failure.container, failure.maker):
        names += [value for value in group.values() if isinstance(value, str)] if group else []
    texts = [text for each in failure.advice for text in (each.text, *each.commands)]
    return (
        max(map(len, filter(None, names)), default=0) > MOST
        or max(map(len, texts), default=0) > 4 * MOST
    )


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
    if failure.maker is not None:
        values["maker"] = {
            name: cut(value, most) if isinstance(value, str) else value
            for name, value in failure.maker.items()
        }
    is_same = all(getattr(failure, name) == value for name, value in values.items())
    return failure if is_same else replace(failure, **values)


def _short_advice(advice: Advice, most: int) -> Advice:
    # A command is whole or not there: half of one does something else.
    commands = tuple(each for each in advice.commands if len(each) <= most)
    return replace(advice, text=cut(advice.text, most), commands=commands)


class _Shape:
    """The fields of one type of record: which are there, and whether their values fit.

    A report reads millions of lines, so what is asked of each is asked at once: the types of all
    values together were seen to fit before, or are looked at one by one.
    """

    def __init__(self, type_: type[Any]) -> None:
        items = fields(type_)
        self.names = tuple(item.name for item in items)
        self._keys = tuple(item.name.rstrip("_") for item in items)  # "from" is no name in Python
        self._types = {item.name: str(item.type) for item in items}
        # Of a list of dicts the types tell nothing yet.
        self._has_dicts = any(type_.startswith("tuple[dict") for type_ in self._types.values())
        self._defaults: dict[str, Any] = {}
        for item in items:
            if item.default is not MISSING:
                self._defaults[item.name.rstrip("_")] = item.default
            elif item.default_factory is not MISSING:
                self._defaults[item.name.rstrip("_")] = item.default_factory()
        self._get = itemgetter(*self._keys)
        self._known: set[tuple[type[Any], ...]] = set()

    def rows(self, items: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Return each one's values of all fields, defaults for those that are not there; ValueError, TypeError."""
        try:
            rows = list(map(self._get, items))
        except KeyError:
            # Unknown keys are those of a later minor change: they do no harm.
            try:
                rows = [self._get({**self._defaults, **item}) for item in items]
            except KeyError as error:
                raise TypeError(f"{error.args[0]} is missing") from None
        kinds = tuple(map(type, chain.from_iterable(rows)))
        if kinds not in self._known:
            for row in rows:
                self._check(row)
            if len(self._known) >= _MOST_KINDS:
                self._known.clear()
            if not self._has_dicts and len(kinds) <= _MOST_KINDS:
                self._known.add(kinds)
        return rows

    def _check(self, values: Iterable[Any]) -> None:
        # The report computes with these values and cuts, sorts and counts by them.
        for name, value in zip(self.names, values):
            type_, _, optional = self._types[name].partition(" | ")
            if not (value is None and optional) and not _fits(value, type_):
                raise ValueError(f"{name} is no {type_.partition('[')[0]}")


_SHAPES: dict[type[Any], _Shape] = {}


def _shape(type_: type[Any]) -> _Shape:
    shape = _SHAPES.get(type_)
    if shape is None:
        shape = _SHAPES[type_] = _Shape(type_)
    return shape


def _made(type_: type[_T], values: Iterable[Any]) -> _T:
    # As the constructor does, of values that were checked, in a third of its time.
    made = object.__new__(type_)
    vars(made).update(zip(_shape(type_).names, values))
    return made


def _fits(value: object, type_: str) -> bool:
    if type_.startswith("tuple["):
        # Of their items, those that are records are checked by themselves.
        is_list = isinstance(value, (list, tuple))
        return is_list and ("dict[" not in type_ or all(isinstance(item, dict) for item in value))  # type: ignore[attr-defined]
    if type_.startswith("dict["):
        return isinstance(value, dict)
    if type_ == "float":
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if type_ == "int":
        return isinstance(value, int) and not isinstance(value, bool)
    if type_ == "bool":
        return isinstance(value, bool)
    # Else a text, or a record.
    return isinstance(value, dict if type_[0].isupper() else str)


def _texts(items: Any, name: str) -> tuple[str, ...]:
    if set(map(type, items)) - {str}:
        raise ValueError(f"{name} has what is no text")
    return tuple(items)


def _failure(values: dict[str, Any], keeps_stack: bool) -> Failure:
    shape = _shape(Failure)
    (row,) = shape.rows([values])
    failure = dict(zip(shape.names, row))
    if failure["count"] < 1:
        raise ValueError("count is not positive")
    if failure["container"] is not None and _is_deep(failure["container"], _MOST_DEPTH - 1):
        raise ValueError("nested too deep")
    for name in ("flags", "alternatives", "possible_steps"):
        failure[name] = _texts(failure[name], name)
    failure["evidence"] = _items(Evidence, failure["evidence"])
    if failure["holders"] is not None:
        failure["holders"] = _items(Holder, failure["holders"])
    if failure["advice"]:
        failure["advice"] = tuple(
            _made(Advice, (kind, text, _texts(commands, "commands")))
            for kind, text, commands in _shape(Advice).rows(failure["advice"])
        )
    else:
        failure["advice"] = ()
    if keeps_stack:
        failure["stack"] = _items(Frame, failure["stack"])
    else:
        # Looked at all the same: a file is what it is, whoever reads it.
        _shape(Frame).rows(failure["stack"])
        failure["stack"] = ()
    made = object.__new__(Failure)
    vars(made).update(failure)
    return made


def _items(type_: type[_T], items: Sequence[Any]) -> tuple[_T, ...]:
    return tuple(_made(type_, row) for row in _shape(type_).rows(items))


def remade(failure: Failure, **changes: Any) -> Failure:
    """Return a failure with other values, which fit; it is `alike` the first one."""
    made = object.__new__(Failure)
    values = vars(made)
    values.update(vars(failure))
    values.update(changes)
    object.__setattr__(made, "alike", failure.alike)
    return made


def are_items(type_: type[Any], text: bytes) -> bool:
    """Say whether a text is a list of such records."""
    try:
        items = _DECODE(text.decode())
        if type(items) is list:
            _shape(type_).rows(items)
            return True
    except (ValueError, TypeError, RecursionError):
        pass
    return False


def as_zeros(text: bytes) -> bytes | None:
    """Return a text with a zero for each digit; None: a number of it is longer than one that fits."""
    shape = text.translate(_AS_ZEROS)
    return None if _LONG in shape else shape


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no number")


def _finite(digits: str) -> float:
    value = float(digits)
    # Nobody counts so far; and an int is computed with as exactly as a float is not.
    return value if abs(value) < _MOST_FLOAT else _no_number(f"{digits[:40]}, beyond every limit,")


def _is_deep(value: object, left: int) -> bool:
    # Ours have four levels. Copying a thousand of them would end in a RecursionError.
    inner = value.values() if isinstance(value, dict) else value
    if not isinstance(value, (dict, list)):
        return False
    return left == 0 or any(_is_deep(each, left - 1) for each in inner)  # type: ignore[attr-defined]


# Made once: with hooks, json.loads makes one for each line. No JSON has NaN, and no other reader
# would take it from us again.
_DECODE = json.JSONDecoder(parse_constant=_no_number, parse_float=_finite).decode
_AS_ZEROS = bytes(ord("0") if chr(each).isdecimal() else each for each in range(128)) + bytes(
    range(128, 256)
)
_LONG = b"0" * (_MOST_DIGITS + 1)


def from_json(line: str | bytes, keeps_stack: bool = True) -> Record:
    """Read one line; ValueError or TypeError says what is wrong with it.

    Without `keeps_stack` a failure's stack is checked, but left out of what is returned.
    """
    raw = line.encode("utf-8", "surrogatepass") if isinstance(line, str) else line
    values = _DECODE(line if isinstance(line, str) else line.decode())
    if type(values) is not dict:
        raise ValueError("not an object")
    if _LONG in raw.translate(_AS_ZEROS):
        _demand_short(values)
    kind = values.get("type")
    if type(kind) is not str or kind not in _TYPES:
        raise ValueError(f"unknown record type {kind!r}")
    if kind == "failure":
        return _failure(values, keeps_stack)
    del values["type"]
    if _is_deep(values, _MOST_DEPTH):
        raise ValueError("nested too deep")
    type_ = _TYPES[kind]
    (row,) = _shape(type_).rows([values])
    record: Record = _made(type_, row)
    for name, part in _PARTS.get(type_, {}).items():
        value = getattr(record, name)
        if isinstance(value, dict):
            vars(record)[name] = _items(part, [value])[0]
        elif value is not None:
            vars(record)[name] = _items(part, value)
    return _slow(record) if isinstance(record, Slow) else record


def _slow(record: Slow) -> Slow:
    """Make of a record's lists and numbers what the report computes with; ValueError."""
    for numbers in (record.phases or {}, record.reasons, record.times_ms):
        if not all(_fits(value, "float") for value in numbers.values()):
            raise ValueError("a time or a count is no number")
    rows = _shape(Advice).rows(record.advice)
    return replace(
        record,
        flags=_texts(record.flags, "flags"),
        evidence=_items(Evidence, record.evidence),
        stack=_items(Frame, record.stack),
        advice=tuple(
            _made(Advice, (kind, text, _texts(more, "commands"))) for kind, text, more in rows
        ),
    )


def _demand_short(value: Any) -> None:
    """Refuse an integer that no counter and no address can be. ValueError, RecursionError."""
    if isinstance(value, (dict, list)):
        for each in value.values() if isinstance(value, dict) else value:
            _demand_short(each)
    elif type(value) is int and not -(1 << 63) <= value < 1 << 64:
        raise ValueError("an integer is beyond every limit")
