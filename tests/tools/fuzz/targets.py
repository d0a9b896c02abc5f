"""What is fuzzed: each target takes any bytes, as a stranger could hand them to us, and asserts what must hold.

A target raises nothing but for a defect. Its seeds are real inputs, from which a fuzzer goes on.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import hostile
from conftest import capture_text, make_evidence, make_failure, make_header, make_holder
from conftest import make_summary as make_end

from fork_trace import budget, escape, files
from fork_trace.budget import Budget, OverBudgetError
from fork_trace.diagnosis import evidence, log, lookup, makers
from fork_trace.diagnosis.causes import BY_SLUG
from fork_trace.diagnosis.readings import HostReadings, KernelReadings
from fork_trace.diagnosis.verdict import diagnose, errno_name
from fork_trace.errors import ForkTraceError
from fork_trace.host import cgroup, procfs
from fork_trace.model import events, places, reading, records
from fork_trace.mounts import Mounts, OwnMounts
from fork_trace.output import aggregate, columns, explanation, formats, telling, wording
from fork_trace.output.live import screen
from fork_trace.output.report_options import ReportOptions
from fork_trace.record.account import Account
from fork_trace.record.selection import Selection
from fork_trace.stacks import callers, cfi, elf, perfmap, unwind
from fork_trace.stacks.demangle import Demangler

MOST_SHOWN = 1 << 16
MOST_KEPT_BYTES = 16 << 20
_ADDRESSES = (hostile.CODE, hostile.CODE + 100, hostile.CALLED, 0x1000)
_demangler = Demangler()


def is_harmless(text: str) -> bool:
    """Say whether a terminal can take a text that is ours, line ends included."""
    return all(char == "\n" or escape.safe(char) == char for char in text)


def said(data: bytes) -> None:
    """What a person pastes, and what stands in a log."""
    found = log.Log()
    for line in data.split(b"\n"):
        found.add(line.decode("utf-8", "surrogateescape"))
    assert found.matched <= found.lines
    assert is_harmless(explanation.log(found))
    json.loads(escape.json_line(log.as_json(found)))
    with suppress(ForkTraceError):
        answer = lookup.look_up([data.decode("utf-8", "surrogateescape")])
        assert is_harmless(explanation.explanation(answer))
        json.loads(escape.json_line(lookup.as_json(answer)))


def event(data: bytes) -> None:
    """What comes from the ring buffer: its samples, keys and counters."""
    for decode in (events.decode, events.decode_key, events.decode_tally):
        try:
            decode(data)
        except events.BadEventError:
            continue
    if len(data) < events.EVENT_BYTES:
        return
    found = events.decode(data)
    verdict = diagnose(found.key, [found.key.syscall])
    seen = KernelReadings(found.numbers, found.levels, uid=found.key.uid, step=verdict.step)
    told = evidence.gather(
        BY_SLUG[verdict.cause], seen, HostReadings(page_bytes=4096, hugetlb_pages=0)
    )
    place = places.place(found.cgroup_path).as_record()
    failure = make_failure(
        comm=found.key.comm,
        cgroup=found.cgroup_path,
        container=place,
        flags=events.flag_names(found.flags),
        errno=errno_name(found.key.error),
        cause=verdict.cause,
        evidence=told,
        caller=makers.caller(found.maker),
        maker=makers.as_record(found.maker) if found.maker else None,
    )
    line = records.to_json(failure)

    assert line.isascii()
    assert records.from_json(line) == failure
    counted = aggregate.Table()
    counted.add(failure)
    for each in telling.tell_all(counted):
        assert is_harmless("\n".join(each.lines()))


def stack(data: bytes) -> None:
    """A piece of a caller's stack, its registers, program and arguments."""
    try:
        found = events.decode_stack(data)
    except events.BadEventError:
        return
    callers.script(found.exe, found.arguments)
    for machine in ("x86_64", "aarch64"):
        start = found.dwarf_registers(machine)
        if start is not None:
            held = unwind.Memory(found.start, found.slice, found.holes)
            assert len(unwind.walk(*start, held, lambda _: None, machine)) <= unwind.MOST_FRAMES


def capture(data: bytes) -> None:
    """A capture file, from whoever sent it."""
    try:
        found = list(reading.read("some.jsonl", io.BytesIO(data)))
    except ForkTraceError:
        return
    whole = [each for each in found if not isinstance(each, reading.Ending)]
    account = Account(columns.COLUMNS, Selection())
    list(account.take(found))
    counted = account.counted
    more = ReportOptions(times=True, stacks=True)
    headers, summaries = account.captures.headers, account.captures.summaries
    for each in whole:
        text = records.to_json(each)
        assert text.isascii()
        assert records.to_json(records.from_json(text)) == text
        json.loads(text, parse_constant=_no_number)

    written = {
        name: formats.writer(name)(counted, summaries, headers, more) for name in formats.CAPTURED
    }
    for name in ("table", "markdown", "csv"):
        assert is_harmless(written[name])
    for name in ("json", "jsonl"):
        json.loads(written[name], parse_constant=_no_number)
    assert len({len(row) for row in csv.reader(written["csv"].splitlines())}) == 1
    new = screen.Changes().take(counted)
    moment = screen.Moment(host=headers[0].host, elapsed_s=1, quiet_s=None, keys_to_end="q")
    for size in ((80, 24), (20, 5)):
        for line in screen.frame(counted, new, moment, size, more):
            assert is_harmless(line.text) and "\n" not in line.text
    for text in screen.appended(counted.rows(), counted.by, new):
        assert is_harmless(text) and "\n" not in text


def _no_number(word: str) -> None:
    raise AssertionError(f"{word} is no JSON")


def image(data: bytes) -> None:
    """A file that is mapped somewhere: a program, a library, its debug file."""
    _ask(data, (0, 0x1000, 0x1040, 0x1119, 0x1139, 0x2000, 0x4010, (1 << 64) - 1))


def _ask(data: bytes, addresses: Iterable[int]) -> None:
    cost = Budget(budget.of_a_file().most)
    try:
        found = elf.Elf(lambda size, offset: data[offset : offset + size], cost)
        tables = cfi.Tables(found)
    except (elf.BadElfError, struct.error, OverBudgetError):
        return
    with suppress(OverBudgetError):
        found.interpreter()
        for address in addresses:
            tables.row(address)
            name = found.symbol(address)
            found.called(address)
            found.vaddr(address)
            if name is not None:
                assert len(name) <= 4096
    assert cost.left >= 0
    assert found.kept_bytes + tables.kept_bytes < MOST_KEPT_BYTES


def sections(data: bytes) -> None:
    """Section headers as they come, over a text that is their names and whatever else they say."""
    count = min(len(data) // 64, 2000)
    body, headers = data[count * 64 :], data[: count * 64]
    file = hostile.image(body, [], (0x2000, len(body)))
    shoff = 0x2000 + len(body)
    file = file[:shoff] + headers + file[shoff:]
    # The last one is the section of names.
    _ask(file[:60] + struct.pack("<HH", count + 1, count) + file[64:], _ADDRESSES)


def _of(data: bytes, names: bytes, *kinds: tuple[int, int]) -> bytes:
    """A file with one section of each kind, all over the same data, linked to each other in turn."""
    table = names.ljust(64, b"\0")
    made = [
        hostile.section(name, kind, 0x2040, len(data), 1 + number % len(kinds), 0x20000)
        for number, (name, kind) in enumerate(kinds)
    ]
    return hostile.image(table + data, made, (0x2000, 64))


def relocations(data: bytes) -> None:
    """Relocations, and the dynamic symbols that they are about."""
    names = b"\0.rela.dyn\0.rela.plt\0"
    kinds = ((1, hostile.SHT_RELA), (11, hostile.SHT_RELA), (0, hostile.SHT_DYNSYM))
    _ask(_of(data, names, *kinds), _ADDRESSES)


def symbols(data: bytes) -> None:
    """A symbol table and the names that it tells of, in one: the innermost function is what is named."""
    file = _of(data, b"\0", (0, hostile.SHT_SYMTAB))
    _ask(file, _ADDRESSES)
    found = elf.Elf(lambda size, offset: file[offset : offset + size], Budget(1e9))
    for address in _ADDRESSES:
        name = found.symbol(address)
        if name is not None:
            assert name in data
            covers = [
                start <= address < start + size
                for _, _, _, _, start, size in struct.iter_unpack(
                    "<IBBHQQ", data[: len(data) // 24 * 24]
                )
            ]
            assert any(covers)


_CODE = 0x10000
_TABLES = 0x20000
_STACK = 0x7FFE0000


def _with_tables(section: bytes, tables: bytes) -> bytes:
    """A file that has code, one section of unwind tables, and nothing else."""
    strings = b"\0" + section + b"\0.shstrtab\0"
    place = 64 + 2 * 56
    headers_at = place + len(tables) + len(strings)
    head = struct.pack("<16sHHIQQQIHHHHHH", b"\x7fELF\x02\x01\x01", 3, 62, 1, 0, 64, headers_at,
                       0, 64, 56, 2, 64, 3, 2)  # fmt: skip
    code = struct.pack("<IIQQQQQQ", elf.PT_LOAD, 5, 0, _CODE, _CODE, 4096, 4096, 4096)
    data = struct.pack(
        "<IIQQQQQQ", elf.PT_LOAD, 4, place, _TABLES, _TABLES, len(tables), len(tables), 8
    )
    own = struct.pack("<IIQQQQIIQQ", 1, 1, 2, _TABLES, place, len(tables), 0, 0, 8, 0)
    text = struct.pack(
        *("<IIQQQQIIQQ", len(section) + 2, 3, 0, 0, place + len(tables), len(strings)),
        *(0, 0, 1, 0),
    )
    return head + code + data + tables + strings + bytes(64) + own + text


def tables(data: bytes) -> None:
    """Unwind tables, and a stack that is walked by their rules."""
    if len(data) < 65:
        return
    section = b".debug_frame" if data[0] & 1 else b".eh_frame"
    memory = unwind.Memory(_STACK, data[1:65] * 4)
    file = _with_tables(section, data[65:])
    found = cfi.Tables(elf.Elf(lambda size, offset: file[offset : offset + size]))
    registers = {number: _STACK + 8 * number for number in range(17)}
    walked = unwind.walk(_CODE, registers, memory, found.row, "x86_64")

    assert len(walked) <= unwind.MOST_FRAMES


def map_(data: bytes) -> None:
    """A perf map, which any process writes for itself, and which grows while it is read."""
    addresses = (0, 0x1000, 0x1010, (1 << 64) - 1)
    with tempfile.TemporaryDirectory() as place:
        tmp = Path(place, "42/root/tmp")
        tmp.mkdir(parents=True)
        uid = tmp.stat().st_uid
        own = OwnMounts()
        maps = perfmap.PerfMaps(own, place)
        for part in (data[: len(data) // 2], data):
            (tmp / "perf-42.map").write_bytes(part)
            maps._names.clear()
            known = maps._maps.get(42)
            if known is not None:
                known.looked_s -= 10
            told = [maps.name(42, uid, address) for address in addresses]
            for name in told:
                if name is not None:
                    assert is_harmless(escape.safe(name))
                    callers.function(name)
            assert maps.kept_bytes < MOST_KEPT_BYTES
        again = perfmap.PerfMaps(own, place)
        assert told == [again.name(42, uid, address) for address in addresses]
        own.close()


def symbol(data: bytes) -> None:
    """The name of a function, as a linker or an attacker wrote it."""
    text = _demangler.text(data.replace(b"\0", b""))
    frame = records.Frame(1, callers.function(text), "/srv/app")
    caller = callers.caller((frame,))

    assert len(text) <= MOST_SHOWN
    assert is_harmless(wording.cell(caller, 28))
    assert escape.json_line(text).isascii()


def proc(data: bytes) -> None:
    """What a process decides of its own files in /proc, and its containers' names."""
    with tempfile.TemporaryDirectory() as place:
        for number, name in enumerate(("maps", "cgroup", "mountinfo")):
            Path(place, str(number)).mkdir()
            Path(place, str(number), name).write_bytes(data)
        Path(place, "self").symlink_to("2")
        for mapping in procfs.mappings(0, place):
            assert mapping.path is None or escape.json_line(mapping.path).isascii()
        for line in procfs.cgroups(1, place):
            escape.json_line(places.place(line.path).as_record())
        for mount in cgroup.mounts(place):
            escape.json_line(mount.path)
        Mounts(data).at("/srv/app")
        assert files.read(f"{place}/0/maps", 1 << 20) == data


def _seed_event() -> list[bytes]:
    key = struct.pack("=16sQIiBBBBIQ", b"java", 77, 1000, -11, 6, 0, 3, 2, 0, 0)
    path = b"leaf\0docker-0123.scope\0"
    who = struct.pack("=QIIIIII16sQ", 0x11, 42, 43, 1, 2, 2, len(path), b"cron", (1 << 24) - 1)
    raw = struct.pack("=Q", 5) + key + who + struct.pack("=Q", 7) * len(events.NUMBERS)
    raw += struct.pack("=Q", 0x1000) * events.USER_FRAMES
    raw += struct.pack("=i20sQ", 1, b"\x01" * 20, 0x10) * events.USER_FRAMES
    raw += struct.pack("=QQQII", 99, 7, 8, 1, 0) * events.LEVEL_COUNT
    maker = struct.pack("=II16s48s48s", 3, 9, b"mount", b"jbd2/sda1-8", b"kjournald2")
    whole = raw + path.ljust(events.CGROUP_PATH_BYTES, b"\0") + maker
    assert len(whole) == events.EVENT_BYTES
    return [whole, key, struct.pack("=QQQQ", 23, 3, 0, 0)]


def _seed_stack() -> list[bytes]:
    slice_ = struct.pack("<8Q", *(_STACK + 16 * number for number in range(8))) * 8
    have, parts = 1, b"app".ljust(64, b"\0") + b"srv".ljust(64, b"\0")
    head = struct.pack("=QIIQQQQ16sII", 5, 43, len(slice_), _STACK, 0x2000, 99, 8 << 20 | 1,
                       have.to_bytes(16, "little"), 2, 12)  # fmt: skip
    registers = struct.pack(f"={events.REGISTERS}Q", *range(events.REGISTERS))
    tail = parts.ljust(768, b"\0") + b"app\0-x\0\xff\xfe\0".ljust(256, b"\0")
    whole = head + registers + tail + slice_
    assert len(whole) == events.STACK_HEAD_BYTES + len(slice_)
    return [whole, whole[:-256].replace(bytes([17]), bytes([0x33]))]


def _seed_capture() -> list[bytes]:
    full = make_failure(
        evidence=(make_evidence(), make_evidence(value=None, limit=None)),
        container={"runtime": "docker", "id": "0123", "name": "web", "pod": None, "unit": None},
        stack=(records.Frame(1, "run_job", "/srv/app", 16, "ab"), records.Frame(2, None, None)),
        alternatives=("pid-max",),
        holders=(make_holder(), make_holder(comm=None, pid=None)),
        holders_total=512,
    )
    missing = ({"step": "dup_fd", "function": "dup_fd", "reason": "inlined"},)
    header = make_header(missing=missing, fallbacks=({"attach": "fexit", "reason": "denied"},))
    end = make_end(totals=({"comm": "sh", "count": 1},), command={"argv": ["sh"], "status": 0})
    texts = [capture_text(), capture_text(header, full, replace(full, comm=None), end)]
    return [text.encode() for text in texts]


def _seed_image() -> list[bytes]:
    compiler = shutil.which("cc")
    if compiler is None:
        return [_with_tables(b".eh_frame", bytes(64))]
    source = "int own(int x){return x*3+1;} int main(int c,char**v){return own(c);}"
    seeds = []
    with tempfile.TemporaryDirectory() as place:
        for options in (("-O1",), ("-O1", "-s"), ("-O0", "-shared", "-fPIC", "-nostdlib")):
            built = Path(place, "built")
            subprocess.run(
                [compiler, "-x", "c", "-", "-o", built, *options],
                input=source.encode(),
                check=True,
            )
            seeds.append(built.read_bytes())
    return seeds


def _seed_sections() -> list[bytes]:
    text = b"\0.rela.dyn\0.gnu_debugdata\0.symtab\0.eh_frame\0"
    kinds = ((1, 4), (11, 1), (26, 2), (34, 1), (0, 3))
    made = [
        struct.pack("<IIQQQQIIQQ", *hostile.section(name, kind, 0x2000, 64, 4))
        for name, kind in kinds
    ]
    last = struct.pack("<IIQQQQIIQQ", *hostile.section(0, 3, 0x2000, len(text)))
    return [b"".join([*made, last]) + text, b"".join(made * 8) + text[1:].replace(b"\0", b"x")]


def _seed_relocations() -> list[bytes]:
    slot = struct.pack("<QQq", hostile.CODE + 0x1026, 7, 0)
    return [slot + struct.pack("<QQq", hostile.CODE + 0x1026, 1 << 32 | 7, 0) + b"\0name\0" * 8]


def _seed_symbols() -> list[bytes]:
    one = struct.pack("<IBBHQQ", 48, 2, 0, 1, hostile.CODE, 64)
    return [one + struct.pack("<IBBHQQ", 53, 18, 0, 1, hostile.CODE + 16, 8) + b"main\0run_job\0"]


def _entry(content: bytes) -> bytes:
    content += bytes(-len(content) % 4)
    return struct.pack("<I", len(content)) + content


def _seed_tables() -> list[bytes]:
    # DWARF's own words: a CIE (version 1, "zR", addresses of 8 bytes), an FDE, their instructions.
    cie = _entry(struct.pack("<I", 0) + b"\x01zR\0\x01\x78\x10\x01\x00" + b"\x0c\x07\x08\x90\x01")
    rules = (
        b"\x41\x0e\x10\x86\x02\x0a\x0f\x03\x77\x08\x06\x0b\x16\x06\x02\x77\x00\x05\x03\x04\x0d\x06"
    )
    fde = struct.pack("<IQQ", len(cie) + 4, _CODE, 4096) + b"\x00" + rules
    frames = b"\0" + struct.pack("<8Q", *[_CODE + 16] * 8) + cie + _entry(fde) + bytes(4)
    debug = _entry(b"\xff\xff\xff\xff" + b"\x03\0\x01\x78\x10" + b"\x0c\x07\x08\x90\x01")
    own = _entry(struct.pack("<IQQ", 0, _CODE, 4096) + b"\x44\x0e\x18")
    return [frames, b"\x01" + frames[1:65] + debug + own]


@dataclass(frozen=True)
class Target:
    """One thing to fuzz."""

    name: str
    ask: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]
    most_bytes: int
    words: tuple[bytes, ...] = ()  # what a fuzzer would take long to guess


TARGETS = (
    Target("event", event, _seed_event, 4096),
    Target(
        *("said", said),
        lambda: [
            b"Nov 28 03:00:01 web1 bash[8]: fork: retry: Resource temporarily unavailable\n",
            "-bash: fork: \u65e0\u6cd5\u5206\u914d\u5185\u5b58\nError: spawn EMFILE".encode(),
            b"clone3({flags=CLONE_THREAD}, 88) = -1 EAGAIN\n[ 1.000000] md0: thread (-11)\n",
        ],
        most_bytes=2048,
        words=(b"fork", b"thread", b"errno 11", b"unshare", b"cgroup", b"cannot allocate memory"),
    ),
    Target("stack", stack, _seed_stack, 4096),
    Target(
        *("capture", capture, _seed_capture, 16384),
        words=(b'"type": "failure"', b"null", b"1e999", b"NaN", b"\\ud800", b"[[[[", b"{}"),
    ),
    Target("image", image, _seed_image, 32768, words=(b".eh_frame", b".debug_frame", b".symtab")),
    Target("sections", sections, _seed_sections, 16384, words=(b".rela.dyn\0", b".eh_frame\0")),
    Target("relocations", relocations, _seed_relocations, 8192),
    Target("symbols", symbols, _seed_symbols, 8192),
    Target("tables", tables, _seed_tables, 2048),
    Target(
        *("map", map_, lambda: [b"1000 20 void Caller.main(String[])\n0x1010 10 JS:~run a.js\n"]),
        most_bytes=2048,
    ),
    Target(
        *("symbol", symbol),
        lambda: [
            b"_ZN5boost6thread3runEv",
            b"_ZNSt6vectorIS_IiSaIiEESaIS1_EE9push_backERKS1_",
            b"_RNvMs_NtC7mycrate3fooNtB4_3Bar3new",
            b"_RINvNtC3std3mem8align_ofdE",
            b"_ZN4core3fmt5Write9write_fmt17h0123456789abcdefE",
            b"_ZN80_$LT$core..option..Option$LT$T$GT$$u20$as$u20$fmt$GT$3fmt17h0123456789abcdefE",
        ],
        most_bytes=1200,
        words=(b"$u20$", b"$LT$", b"S_", b"T_", b"_R", b"NvC"),
    ),
    Target(
        *("proc", proc),
        lambda: [
            b"400000-401000 r-xp 00001000 08:01 99    /srv/app (deleted)\n",
            b"0::/kubepods.slice/kubepods-pod12.slice/cri-containerd-0123.scope\n3:pids:/app\n",
            b"25 24 0:23 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
            b"36 35 8:1 / /mnt\\040x rw - ext4 /dev/sda1 rw\n",
        ],
        most_bytes=4096,
    ),
)
