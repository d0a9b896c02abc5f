"""The decoder against the wire, as the BTF of the built object tells it."""

from __future__ import annotations

import ctypes
import re
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from fork_trace.model import deaths, events, latency, sizes, steps
from fork_trace.probes import config, settings
from fork_trace.probes.config import Config
from fork_trace.probes.libbpf import gaps
from fork_trace.probes.libbpf import latency as loading

CHECKOUT = Path(__file__).resolve().parents[3]

# include/uapi/linux/btf.h
INT, ARRAY, STRUCT, UNION, ENUM, FUNC_PROTO, VAR, DATASEC = 1, 3, 4, 5, 6, 13, 14, 15
DECL_TAG, ENUM64 = 17, 19
ALIASES = (8, 9, 10, 11, 18)  # typedef, volatile, const, restrict, type tag
POINTER = 2


class Field(NamedTuple):
    name: str
    offset: int
    size: int


class Type(NamedTuple):
    kind: int
    name: str
    size_or_type: int
    members: list[tuple[Any, ...]]


def sections(image: bytes) -> dict[str, bytes]:
    """Read the sections of a 64-bit little-endian ELF file."""
    assert b"\x7fELF\x02\x01" == image[:6]
    table, entry_bytes, count, names_index = (
        struct.unpack_from("<Q", image, 40)[0],
        *struct.unpack_from("<HHH", image, 58),
    )
    headers = [
        struct.unpack_from("<IIQQQQIIQQ", image, table + entry_bytes * index)
        for index in range(count)
    ]
    _, _, _, _, names_offset, *_ = headers[names_index]
    found = {}
    for name, _, _, _, offset, size, *_ in headers:
        end = image.index(b"\0", names_offset + name)
        found[image[names_offset + name : end].decode()] = image[offset : offset + size]
    return found


class Btf:
    """The types of an object, by name."""

    def __init__(self, raw: bytes) -> None:
        magic, _, _, header, type_offset, type_bytes, text_offset, text_bytes = struct.unpack_from(
            "<HBBIIIII", raw
        )
        assert 0xEB9F == magic
        text = raw[header + text_offset : header + text_offset + text_bytes]
        self.types = [Type(0, "void", 0, [])]
        at, end = header + type_offset, header + type_offset + type_bytes
        while at < end:
            name, info, size_or_type = struct.unpack_from("<III", raw, at)
            kind, count = info >> 24 & 0x1F, info & 0xFFFF
            at += 12
            shape, count = {
                INT: ("<I", 1),
                ARRAY: ("<III", 1),
                STRUCT: ("<III", count),
                UNION: ("<III", count),
                ENUM: ("<Ii", count),
                FUNC_PROTO: ("<II", count),
                VAR: ("<I", 1),
                DATASEC: ("<III", count),
                DECL_TAG: ("<i", 1),
                ENUM64: ("<III", count),
            }.get(kind, ("<", 0))
            members = []
            for _ in range(count):
                member = struct.unpack_from(shape, raw, at)
                at += struct.calcsize(shape)
                if kind in (STRUCT, UNION, ENUM):
                    member = (self._text(text, member[0]), *member[1:])
                members.append(member)
            self.types.append(Type(kind, self._text(text, name), size_or_type, members))

    @staticmethod
    def _text(text: bytes, offset: int) -> str:
        return text[offset : text.index(b"\0", offset)].decode()

    def find(self, kind: int, name: str) -> Type:
        found = [each for each in self.types if (each.kind, each.name) == (kind, name)]
        assert 1 == len(found), f"{name}: {len(found)} such types in the object's BTF"
        return found[0]

    def size(self, number: int) -> int:
        type_ = self.types[number]
        if type_.kind in ALIASES:
            return self.size(type_.size_or_type)
        if type_.kind == ARRAY:
            element, _, length = type_.members[0]
            return self.size(element) * int(length)
        return 8 if type_.kind == POINTER else type_.size_or_type

    def fields(self, name: str) -> list[Field]:
        return [
            Field(member, bits // 8, self.size(type_))
            for member, type_, bits in self.find(STRUCT, name).members
        ]

    def enum(self, name: str) -> dict[str, int]:
        return {member: value for member, value in self.find(ENUM, name).members}


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    if not shutil.which("clang"):
        pytest.skip("needs clang to build the object; scripts/setup installs it")
    built = CHECKOUT / "bpf" / "fork_trace.bpf.o"
    sources = [*CHECKOUT.glob("bpf/**/*.[ch]"), *CHECKOUT.glob("bpf/*.def")]
    # scripts/check has just built it.
    newest = max(source.stat().st_mtime for source in sources)
    if not built.exists() or built.stat().st_mtime < newest:
        place = tmp_path_factory.mktemp("abi")
        subprocess.run([str(CHECKOUT / "scripts" / "build-bpf"), str(place)], check=True)
        built = place / "fork_trace.bpf.o"
    return sections(built.read_bytes())


@pytest.fixture(scope="module")
def btf(parts: dict[str, bytes]) -> Btf:
    return Btf(parts[".BTF"])


def spans(*formats: struct.Struct, start: int = 0) -> list[tuple[int, int]]:
    """Return offset and size of each field of decoder layouts that follow each other."""
    found = []
    for layout in formats:
        assert layout.format.startswith("="), "a native layout would have padding of its own"
        for token in re.findall(r"\d*[a-zA-Z]", layout.format):
            size = struct.calcsize("=" + token)
            found.append((start, size))
            start += size
    return found


def places(fields: list[Field]) -> list[tuple[int, int]]:
    return [(field.offset, field.size) for field in fields]


def test_a_key_lies_as_the_decoder_reads_it(btf: Btf) -> None:
    names = ["comm", "cgroup", "uid", "error", "step", "detail", "syscall", "bits"]
    names += ["unused", "candidates"]

    assert names == [field.name for field in btf.fields("ft_key")]
    assert spans(events._KEY) == places(btf.fields("ft_key"))
    assert events.KEY_BYTES == btf.find(STRUCT, "ft_key").size_or_type


def test_a_tally_lies_as_the_decoder_reads_it(btf: Btf) -> None:
    names = ["count", "unsampled", "window_ns", "in_window"]

    assert names == [field.name for field in btf.fields("ft_tally")]
    assert spans(events._TALLY) == places(btf.fields("ft_tally"))
    assert events.TALLY_BYTES == btf.find(STRUCT, "ft_tally").size_or_type


def test_a_place_lies_as_the_decoder_reads_it(btf: Btf) -> None:
    assert ["status", "build_id", "offset"] == [each.name for each in btf.fields("ft_place")]
    assert spans(events._PLACE) == places(btf.fields("ft_place"))
    assert events._PLACE.size == btf.find(STRUCT, "ft_place").size_or_type


def test_an_event_lies_as_the_decoder_reads_it(btf: Btf) -> None:
    names = ["time_ns", "key", "flags", "pid", "tid", "ppid", "user_frame_count", "parent_comm"]
    names[-1:] = ["level_count", "cgroup_path_bytes", "parent_comm"]
    names += ["have", "number", "user_frame", "user_place", "level", "cgroup_path", "maker"]
    expected = [(0, 8), (8, events.KEY_BYTES)]
    expected += spans(events._EVENT_WHO, events._EVENT_TAIL, start=8 + events.KEY_BYTES)
    expected.append((sum(expected[-1]), events.USER_FRAMES * events._PLACE.size))
    expected.append((sum(expected[-1]), events.LEVEL_COUNT * events._LEVEL.size))
    expected.append((sum(expected[-1]), events.CGROUP_PATH_BYTES))
    expected.append((sum(expected[-1]), events._MAKER.size))

    assert names == [field.name for field in btf.fields("ft_event")]
    assert expected == places(btf.fields("ft_event"))
    assert events.EVENT_BYTES == btf.find(STRUCT, "ft_event").size_or_type


def test_a_death_for_want_of_a_huge_page_lies_as_the_decoder_reads_it(btf: Btf) -> None:
    head = spans(deaths._HUGE)

    assert head == places(btf.fields("ft_huge_death"))[: len(head)]
    assert deaths.HUGE_DEATH_BYTES == btf.find(STRUCT, "ft_huge_death").size_or_type


def test_a_fork_lies_as_the_decoder_reads_it(btf: Btf) -> None:
    assert spans(deaths._BIG_FORK) == places(btf.fields("ft_big_fork"))


def test_a_death_lies_as_the_decoder_reads_it(btf: Btf) -> None:
    head = spans(deaths._HEAD)
    kin = [each for each in btf.fields("ft_death") if each.name in ("victim", "parent", "kin")]

    assert spans(deaths._KIN) == places(btf.fields("ft_kin"))
    assert head == places(btf.fields("ft_death"))[: len(head)]
    assert deaths._HEAD.size == places(kin)[0][0]
    assert deaths.KIN_BYTES * (deaths.KIN + 2) == sum(each for _, each in places(kin))
    names = ["kernel_frame", "level", "cgroup_path"]
    assert names == [each.name for each in btf.fields("ft_death")[-3:]]
    assert deaths.DEATH_BYTES == btf.find(STRUCT, "ft_death").size_or_type


def test_a_maker_lies_as_the_decoder_reads_it(btf: Btf) -> None:
    names = ["kind", "asker_pid", "asker_comm", "name", "function"]

    assert names == [each.name for each in btf.fields("ft_maker")]
    assert spans(events._MAKER) == places(btf.fields("ft_maker"))
    assert events._MAKER.size == btf.find(STRUCT, "ft_maker").size_or_type
    expected = ["FT_MAKER_NONE", "FT_MAKER_IO_WORKER", "FT_MAKER_USER_WORKER"]
    expected += ["FT_MAKER_KTHREAD", "FT_MAKER_HELPER", "FT_MAKER_OTHER"]
    assert dict(zip(expected, range(len(events.MAKERS)))) == btf.enum("ft_maker_kind")


def test_a_level_lies_as_the_decoder_reads_it(btf: Btf) -> None:
    assert ["id", "used", "limit", "kind", "up"] == [each.name for each in btf.fields("ft_level")]
    assert spans(events._LEVEL) == places(btf.fields("ft_level"))
    assert events._LEVEL.size == btf.find(STRUCT, "ft_level").size_or_type


def test_a_stack_lies_as_the_decoder_reads_it(btf: Btf) -> None:
    names = ["time_ns", "tid", "byte_count", "start", "code_end", "exe_inode", "exe_device"]
    names += ["have", "part_count", "argument_count", "registers", "part", "argument"]
    expected = spans(events._STACK_HEAD)
    expected.append((sum(expected[-1]), events._STACK_REGISTERS.size))
    expected += spans(events._STACK_TAIL, start=sum(expected[-1]))

    assert names == [field.name for field in btf.fields("ft_stack")]
    assert expected == places(btf.fields("ft_stack"))
    assert events.STACK_HEAD_BYTES == btf.find(STRUCT, "ft_stack").size_or_type


def test_the_sizes_of_a_stack_are_those_of_the_header() -> None:
    text = (CHECKOUT / "bpf" / "wire.h").read_text()

    assert f"#define FT_REGISTERS {events.REGISTERS} " in text
    assert f"#define FT_STACK_CHUNK {sizes.STACK_CHUNK} " in text
    assert f"#define FT_STACK_BYTES_MAX {sizes.STACK_BYTES_MAX}\n" in text
    assert f"#define FT_EXE_PARTS {events._EXE_PARTS}\n" in text
    assert f"#define FT_EXE_PART_BYTES {events._EXE_PART_BYTES}\n" in text


def test_the_settings_lie_as_they_are_written(btf: Btf) -> None:
    expected = [
        Field(name, getattr(Config, name).offset, getattr(Config, name).size)
        for name, *_ in Config._fields_
    ]

    assert expected == btf.fields("ft_config")
    assert ctypes.sizeof(Config) == btf.find(STRUCT, "ft_config").size_or_type


def test_each_value_of_an_event_arrives_under_its_own_name(btf: Btf) -> None:
    """Write by the names of the BTF, read by those of the decoder."""
    event = {field.name: field for field in btf.fields("ft_event")}
    key = {field.name: field for field in btf.fields("ft_key")}
    place = {field.name: field for field in btf.fields("ft_place")}
    level = {field.name: field for field in btf.fields("ft_level")}
    raw = bytearray(events.EVENT_BYTES)

    def write(offset: int, field: Field, value: int | bytes, size: int | None = None) -> None:
        if isinstance(value, int):
            value = value.to_bytes(size or field.size, "little", signed=value < 0)
        raw[offset + field.offset : offset + field.offset + len(value)] = value

    for name, value in [("time_ns", 1), ("flags", 0x10100), ("pid", 3), ("tid", 4), ("ppid", 5)]:
        write(0, event[name], value)
    write(0, event["user_frame_count"], 2)
    write(0, event["parent_comm"], b"cron")
    write(0, event["have"], 1 << 2)
    write(2 * 8, event["number"], 6, 8)
    write(8, event["user_frame"], 0x7F, 8)
    write(event["user_place"].offset + 32, place["status"], 1)
    write(event["user_place"].offset + 32, place["build_id"], b"\xab" * 20)
    write(event["user_place"].offset + 32, place["offset"], 7)
    inner = event["key"].offset
    for name, value in [("cgroup", 8), ("uid", 9), ("error", -11), ("step", 5), ("detail", 4)]:
        write(inner, key[name], value)
    write(inner, key["comm"], b"sh")
    write(inner, key["syscall"], 3)
    write(inner, key["bits"], 7)
    write(inner, key["candidates"], 1 << 1 | 1 << 25)
    write(0, event["level_count"], 2)
    second = event["level"].offset + 32
    for name, value in [("id", 10), ("used", 11), ("limit", 12), ("kind", 3), ("up", 13)]:
        write(second, level[name], value)

    expected = events.Event(
        time_ns=1,
        key=events.Key(
            *("sh", 8, 9, 11, 5, "pidns-alive", "clone"),
            is_thread=True,
            is_observed=True,
            is_memcg=True,
            fits=frozenset({"threads", "copies-mm"}),
        ),
        flags=0x10100,
        pid=3,
        tid=4,
        ppid=5,
        parent_comm="cron",
        numbers={events.NUMBERS[2]: 6},
        user_frames=(events.Place(0), events.Place(0x7F, "ab" * 20, 7)),
        levels=(events.Level("", 0, 0, 0, 0), events.Level("memory-cgroup", 13, 10, 11, 12)),
    )

    assert expected == events.decode(bytes(raw))


def words(prefix: str, names: tuple[str, ...]) -> dict[str, int]:
    return {
        f"{prefix}_{name.upper().replace('-', '_')}": number for number, name in enumerate(names)
    }


@pytest.mark.parametrize(
    ("enum", "expected"),
    [
        ("ft_step", {f"FT_STEP_{step.ident}": step.number for step in steps.STEPS}),
        (
            "ft_number",
            {**words("FT_NUMBER", events.NUMBERS), "FT_NUMBER_COUNT": len(events.NUMBERS)},
        ),
        ("ft_stat", {**words("FT_STAT", events.STATS), "FT_STAT_COUNT": len(events.STATS)}),
        ("ft_detail", words("FT_DETAIL", ("none", *events.DETAILS[1:]))),
        ("ft_syscall", words("FT_SYSCALL", events.SYSCALLS)),
        ("ft_candidate", words("FT_CANDIDATE", events.FITS)),
        ("ft_reader", words("FT_READER", gaps.READERS)),
        (
            "ft_level_kind",
            {
                f"FT_LEVEL_{name.upper().replace('-', '_')}": number
                for number, name in enumerate(events.LEVELS)
                if name
            },
        ),
        (
            "ft_phase",
            {
                f"FT_PHASE_{name}": getattr(config, f"PHASE_{name}")
                for name in ("OFF", "MARKING", "ALONE", "COUNTING", "DETAILED")
            },
        ),
    ],
)
def test_each_enum_is_the_list_of_the_decoder(
    btf: Btf, enum: str, expected: dict[str, int]
) -> None:
    assert expected == btf.enum(enum)


CALLS = (*steps.SYSCALL_PROGRAMS, *steps.SECOND_PROGRAMS, *steps.COPIED_TWICE)
WATCHES = [
    *(watch for step in steps.STEPS for watch in step.watches),
    *(steps.MEMORY_CGROUP, *steps.UNSHARED, *steps.EXECVES),
]


# Where the programs of deaths hang; which of them are taken, test_plan.py has.
LATE = {
    "fentry/oom_kill_process": {"fentry_oom_kill_process"},
    "fentry/__oom_kill_process": {"fentry_oom_kill"},
    "kprobe/oom_kill_process": {"kprobe_oom_kill_process"},
    "kprobe/__oom_kill_process": {"kprobe_oom_kill"},
    "fexit/hugetlb_fault": {"fexit_hugetlb_fault"},
    "kprobe/hugetlb_fault": {"kprobe_hugetlb_fault"},
    "kretprobe/hugetlb_fault": {"kretprobe_hugetlb_fault"},
    "raw_tp/mark_victim": {"raw_mark_victim"},
}


def test_each_program_that_a_plan_can_name_is_in_the_object_and_no_other(btf: Btf) -> None:
    programs = {watch.program for watch in WATCHES} | set(CALLS)
    programs |= {watch.kretprobe for watch in WATCHES}
    programs |= {watch.kprobe for watch in WATCHES if watch.kprobe}
    programs |= {name for names in LATE.values() for name in names}
    functions = {type_.name for type_ in btf.types if type_.kind == 12}  # BTF_KIND_FUNC
    kinds = "(fentry|fexit|kretprobe|kprobe|raw)_"
    entries = {name for name in functions if re.match(kinds, name)}

    assert programs == entries
    assert len(WATCHES) == len({watch.program for watch in WATCHES})


def test_each_program_hangs_on_the_function_that_its_step_names(parts: dict[str, bytes]) -> None:
    expected: dict[str, set[str]] = {}
    for watch in WATCHES:
        for name in (watch.program, watch.kretprobe, watch.kprobe):
            if name:
                place = f"{name.partition('_')[0]}/{watch.function}"
                expected.setdefault(place, set()).add(name)
    for name in steps.SYSCALL_PROGRAMS:
        expected[f"raw_tp/{name[len('raw_') :]}"] = {name, f"{name}_again"}
    for name in steps.COPIED_TWICE:
        expected[f"{name.partition('_')[0]}/copy_process"].add(name)

    assert expected | LATE == programs_by_section(parts)


def programs_by_section(parts: dict[str, bytes]) -> dict[str, set[str]]:
    """Read the global functions of each section that libbpf attaches by."""
    names, found = list(parts), dict[str, set[str]]()
    for at in range(0, len(parts[".symtab"]), 24):
        # Elf64_Sym
        name, info, _, section = struct.unpack_from("<IBBH", parts[".symtab"], at)
        if (info & 0xF, info >> 4) != (2, 1) or "/" not in names[section]:  # STT_FUNC, STB_GLOBAL
            continue
        end = parts[".strtab"].index(b"\0", name)
        found.setdefault(names[section], set()).add(parts[".strtab"][name:end].decode())
    return found


def test_the_arrays_of_the_object_have_room_for_every_step() -> None:
    source = (CHECKOUT / "bpf" / "counters.h").read_text()
    room = re.search(r"max_entries, (\d+)\); /\* by enum ft_step \*/", source)

    assert room
    assert len(steps.STEPS) <= int(room[1])
    assert len(steps.STEPS) <= 64  # the masks of struct ft_config
    assert len(events.NUMBERS) <= 64  # `have`
    assert len(events.FITS) <= 64  # `candidates`


def test_what_is_noted_of_a_fork_under_way_is_as_long_as_it_is_read(btf: Btf) -> None:
    (attempt,) = (each for each in btf.types if each.name == "ft_attempt" and each.kind == 4)

    assert settings.ATTEMPT_BYTES == attempt.size_or_type


def test_the_bits_of_a_key_and_of_a_filter_are_those_of_the_header() -> None:
    text = "".join((CHECKOUT / "bpf" / name).read_text() for name in ("wire.h", "settings.h"))
    source = (CHECKOUT / "fork_trace" / "probes" / "settings.py").read_text()
    names = ("PID", "UID", "COMM", "CGROUP")
    filters = tuple(int(re.search(rf"FT_FILTER_{name} (\d+)", text)[1]) for name in names)  # type: ignore[index]

    assert f"#define FT_BIT_THREAD {events.BIT_THREAD} " in text
    assert f"#define FT_BIT_OBSERVED {events.BIT_OBSERVED} " in text
    assert f"#define FT_BIT_MEMCG {events.BIT_MEMCG} " in text
    assert f"#define FT_LEVELS {events.LEVEL_COUNT} " in text
    assert f"= {', '.join(str(bit) for bit in filters)}\n" in source
    assert 4 == len(set(filters))


def ways(instructions: bytes) -> dict[int, list[tuple[int, bool]]]:
    """Where each instruction leads, and whether by a jump. A call goes on behind itself."""
    found: dict[int, list[tuple[int, bool]]] = {}
    count, at = len(instructions) // 8, 0
    while at < count:
        # struct bpf_insn, include/uapi/linux/bpf.h
        code, _, offset, _ = struct.unpack_from("<BBhi", instructions, at * 8)
        is_jump = code & 7 in (5, 6) and code & 0xF0 not in (0x80, 0x90)
        size = 2 if code == 0x18 else 1  # a 64-bit constant fills two
        if code & 7 in (5, 6) and code & 0xF0 == 0x90:  # exit
            found[at] = []
        elif is_jump and code & 0xF0 == 0:  # ja
            found[at] = [(at + 1 + offset, True)]
        else:
            found[at] = [(at + size, is_jump)] + [(at + 1 + offset, True)] * is_jump
        at += size
    return found


def test_each_loop_goes_back_by_a_jump(parts: dict[str, bytes]) -> None:
    """Linux 5.10 refuses a program with another kind ("back-edge"); clang makes such at times."""
    names, faulty = list(parts), []
    for at in range(0, len(parts[".symtab"]), 24):
        # Elf64_Sym
        _, info, _, section, value, size = struct.unpack_from("<IBBHQQ", parts[".symtab"], at)
        if info & 0xF != 2 or not size:  # STT_FUNC
            continue
        leads = ways(parts[names[section]][value : value + size])
        state, path = {0: 1}, [(0, 0)]  # 1: on the way here, 2: done
        while path:
            here, number = path.pop()
            if number == len(leads[here]):
                state[here] = 2
                continue
            path.append((here, number + 1))
            target, is_jump = leads[here][number]
            if state.get(target) == 1 and not is_jump:
                faulty.append((names[section], value // 8 + here))
            elif target not in state and target in leads:
                state[target] = 1
                path.append((target, 0))

    assert [] == faulty


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Btf:
    """The types of the object that measures how long forks take."""
    built = CHECKOUT / "bpf" / "latency.bpf.o"
    if not built.exists():
        pytest.skip("needs the object; scripts/build-bpf builds it")
    return Btf(sections(built.read_bytes())[".BTF"])


def test_a_slow_fork_lies_as_the_decoder_reads_it(slow: Btf) -> None:
    fields = slow.fields("ft_slow")
    last = sum(places(fields)[-1])

    assert (latency.SLOW_BYTES, events.EVENT_BYTES) == (last, fields[1].offset)
    sizes = [field.size // 8 for field in fields[1:11]]
    assert [
        1,
        len(latency.PHASES) - 1,
        1,
        len(latency.SIZES),
        1,
        len(latency.WAITS),
        *(1, 1, 1, 1),
    ] == sizes
    names = ["holder_pid", "holder_tid", "holder_wait", "holder_comm"]
    assert ["other_flags", *names] == [field.name for field in fields[11:]]
    assert slow.fields("ft_event")[-1].name == "maker"


def test_the_words_of_slow_forks_are_in_the_order_of_their_numbers(slow: Btf) -> None:
    sizes = {f"FT_SIZE_{name.upper()}": at for at, name in enumerate(latency.SIZES)}
    stats = {f"FT_LATENCY_{name.upper()}": at for at, name in enumerate(loading.STATS)}

    assert {**sizes, "FT_SIZE_COUNT": len(sizes)} == slow.enum("ft_size")
    assert {"FT_LATENCY_UNSENT": 1, "FT_LATENCY_SLOW": 4}.items() <= stats.items()
    assert {**stats, "FT_LATENCY_STAT_COUNT": len(stats)} == slow.enum("ft_latency_stat")
    waits = ["OTHER", "CGROUP", "MMAP", "UPROBES", "RECLAIM", "CPU", "COUNT"]
    assert {f"FT_WAIT_{name}": at for at, name in enumerate(waits)} == slow.enum("ft_wait")
    assert len(waits) - 1 == len(latency.WAITS)
    assert len(latency.PHASES) - 1 == slow.enum("ft_stamp")["FT_STAMP_COUNT"]


def test_the_tally_of_a_command_and_its_settings_lie_as_they_are_read(slow: Btf) -> None:
    names = [field.name for field in slow.fields("ft_latency_tally")]
    assert ["total_ns", "slow", "slow_ns", "count"] == names
    assert loading._TALLY.size == slow.find(STRUCT, "ft_latency_tally").size_or_type
    expected = [name for name, *_ in loading._LatencyConfig._fields_]
    assert expected == [field.name for field in slow.fields("ft_latency_config")]
