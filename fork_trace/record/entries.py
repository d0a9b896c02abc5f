"""What the journal is told of a failure or a death: which fields, and a sentence. Pure: records in, fields out."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Union

from fork_trace.escape import cut, safe
from fork_trace.model import places
from fork_trace.model.records import Advice, Death, Evidence, Failure
from fork_trace.output.deaths import advice_of, evidence_of
from fork_trace.output.place import OTHERS, Key
from fork_trace.output.units import amount, count

Value = Union[str, int, None, list[str]]
Field = tuple[str, Value]
_MOST_FIELD = 1024  # characters
_WARNING = 4  # syslog(3)
# FNV-1a of 128 bits: draft-eastlake-fnv, section 5.
_FNV_BASIS, _FNV_PRIME = 0x6C62272E07BB014262B821756295C58D, (1 << 88) + 0x13B


def message_id(cause: str) -> str:
    """Return the MESSAGE_ID of a cause, 32 digits: fixed by its slug alone, an RFC 9562 UUID of version 8."""
    number = _FNV_BASIS
    for byte in f"fork-trace/{cause}".encode():
        number = (number ^ byte) * _FNV_PRIME % (1 << 128)
    number = number & ~(0xF << 76) | 8 << 76
    return f"{number & ~(3 << 62) | 2 << 62:032x}"


def place_of(death: Death) -> Key:
    """Return where a death was: the limit that was hit."""
    first = death.levels[0] if death.levels else None
    name = next((each.name for each in evidence_of(death)), None)
    if first is None:
        return Key(death.cause, None, name, "", None)
    if first.where.startswith("/"):
        path = places.path_of(first.where, death.cgroup)
        return Key(death.cause, None, name, "cgroup", f"cgroup {path}")
    return Key(death.cause, None, name, "host", first.where)


def unit_of(record: Failure | Death) -> str | None:
    """Return the unit, or else the container, that a record is of; None: of none, or not known."""
    if isinstance(record, Death):
        place = places.place(record.cgroup)
        return place.unit or place.id
    container = record.container or {}
    return container.get("unit") or container.get("id")


def fields(key: Key, latest: Failure | Death, number: int) -> Iterator[Field]:
    """Return the fields of an entry; what is not known is None, what has lines is a list of them."""
    yield "MESSAGE", _message(key, latest, number)
    yield "MESSAGE_ID", message_id(key.cause)
    yield "PRIORITY", _WARNING
    yield "SYSLOG_IDENTIFIER", "fork-trace"
    yield "FORK_TRACE_CAUSE", key.cause
    yield "FORK_TRACE_CERTAINTY", latest.certainty
    yield "FORK_TRACE_COUNT", number
    yield "FORK_TRACE_WHERE", key.where
    if key.where == OTHERS:
        return
    yield "FORK_TRACE_COMM", latest.comm
    yield "FORK_TRACE_PID", latest.pid
    yield "FORK_TRACE_UID", latest.uid
    yield "FORK_TRACE_CGROUP", latest.cgroup
    if isinstance(latest, Death):
        yield from _of_death(latest)
    else:
        yield from _of_failure(latest)


def _of_failure(failure: Failure) -> Iterator[Field]:
    container = failure.container or {}
    yield "FORK_TRACE_ERRNO", failure.errno
    yield "FORK_TRACE_STEP", failure.step
    yield from _of_numbers(failure.evidence)
    yield "FORK_TRACE_CALLER", failure.caller
    yield "FORK_TRACE_UNIT", container.get("unit")
    yield "FORK_TRACE_CONTAINER", container.get("name") or container.get("id")
    yield "FORK_TRACE_POD", container.get("pod_name") or container.get("pod")
    yield from _of_remedies(failure.advice)


def _of_death(death: Death) -> Iterator[Field]:
    place = places.place(death.cgroup)
    yield from _of_numbers(evidence_of(death))
    yield "FORK_TRACE_UNIT", place.unit
    yield "FORK_TRACE_CONTAINER", place.name or place.id
    yield "FORK_TRACE_POD", place.pod
    if death.fork is not None:
        yield "FORK_TRACE_CALLER", death.fork.caller
        yield "FORK_TRACE_PARENT_PID", death.fork.parent_pid
        yield "FORK_TRACE_CHILD_PID", death.fork.child_pid
    yield from _of_remedies(advice_of(death))


def _of_numbers(evidence: tuple[Evidence, ...]) -> Iterator[Field]:
    for first in evidence[:1]:
        yield "FORK_TRACE_LIMIT_NAME", first.name
        yield "FORK_TRACE_USED", first.value
        yield "FORK_TRACE_LIMIT", first.limit


def _of_remedies(remedies: tuple[Advice, ...]) -> Iterator[Field]:
    for advice in remedies:
        if advice.kind == "mitigate":
            yield "FORK_TRACE_MITIGATE", [advice.text, *advice.commands]


def _message(key: Key, latest: Failure | Death, number: int) -> str:
    if key.where == OTHERS:
        told = f"{count(number, 'fork or thread', 'forks or threads')} refused"
        if isinstance(latest, Death):
            told = f"{count(number, 'process', 'processes')} killed for lack of memory"
        return f"{key.cause}: {told} at {OTHERS}"
    known = "" if latest.certainty == "observed" else " (inferred)"
    whose = f"{latest.comm or '?'}[{'?' if latest.pid is None else latest.pid}]"
    if isinstance(latest, Death):
        # Of several the one that is named was the last.
        more = "" if number == 1 else f" and {number - 1} more before"
        text = f"{key.cause}{known}: {whose}{more} killed for lack of memory"
        return _with_place(text, key, evidence_of(latest))
    word = {"process": "fork", "thread": "thread"}.get(latest.creates or "", "fork or thread")
    told = count(number, word, word.replace(" or ", "s or ") + "s")
    text = f"{key.cause}{known}: {told} of {whose} refused ({latest.errno or 'errno unknown'})"
    return _with_place(text, key, latest.evidence)


def _with_place(text: str, key: Key, evidence: tuple[Evidence, ...]) -> str:
    first = evidence[0] if evidence else None
    if first is not None and first.value is not None:
        used = amount(first.value, first.unit)
        of = "" if first.limit is None else f" of {amount(first.limit, first.unit)}"
        unit = "" if first.unit in ("", "KiB") else f" {first.unit}"
        text += f", {first.name} {used}{of}{unit}"
    return f"{text}, {key.where}" if key.where else text


def encoded(found: Iterator[Field]) -> bytes:
    """Write fields as one datagram: NAME=VALUE lines, or with a length where a value has lines."""
    parts = []
    for name, value in found:
        if value is None:
            continue
        lines = value if isinstance(value, list) else [str(value)]
        data = "\n".join(safe(cut(line, _MOST_FIELD)) for line in lines).encode()
        if len(lines) == 1:
            parts.append(b"%s=%s\n" % (name.encode(), data))
        else:
            size = len(data).to_bytes(8, "little")
            parts.append(b"%s\n%s%s\n" % (name.encode(), size, data))
    return b"".join(parts)
