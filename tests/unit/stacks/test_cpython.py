"""The memory of Python processes, as it is and as a hostile one has it: read from this very process."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from fork_trace.host import procfs
from fork_trace.stacks import cpython, peek
from fork_trace.stacks.cpython import Kept, Seen

TID = 4711
VERSION = 3 << 24 | 13 << 16 | 2 << 8 | 0xF << 4
# Where the parts of _Py_DebugOffsets begin in 3.13 (pycore_runtime.h), as words.
RUNTIME, INTERPRETER, THREAD, FRAME, CODE, OBJECT, TYPE, TEXT = 3, 6, 19, 28, 34, 44, 46, 67
NAME, FILE = 0x800, 0x900
RUNTIME_AT, INTERPRETER_AT, THREAD_AT, TYPE_AT = 0x400, 0x420, 0x440, 0x480
CODE_AT, FRAME_AT, FRAME_BYTES = 0xA00, 0x600, 64


class Lie:
    """What looks like an interpreter, in anonymous memory of this process."""

    def __init__(self) -> None:
        self._map = mmap.mmap(-1, 1 << 16, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.start = ctypes.addressof(ctypes.c_char.from_buffer(self._map))
        self.offsets = {1: VERSION, 2: 0}
        self._structures()
        self.word(RUNTIME_AT, self.start + INTERPRETER_AT)
        self.word(INTERPRETER_AT + 8, self.start + THREAD_AT)
        self.word(THREAD_AT + 8, self.start + FRAME_AT)
        self.word(THREAD_AT + 16, TID)
        self.word(FRAME_AT + 8, self.start + CODE_AT)
        for at, value in ((8, TYPE_AT), (24, FILE), (32, NAME)):
            self.word(CODE_AT + at, self.start + value)
        self.word(CODE_AT + 16, 32)
        self.word(CODE_AT + 40, 7)
        self.word(TYPE_AT + 8, self.start + TYPE_AT + 32)
        self._map[TYPE_AT + 32 : TYPE_AT + 37] = b"code\0"
        self.text(NAME, b"spawn")
        self.text(FILE, b"/srv/job.py")

    def _structures(self) -> None:
        parts = {
            RUNTIME: (RUNTIME_AT + 8, 0, RUNTIME_AT),
            INTERPRETER: (64, 0, 0, 8),
            THREAD: (32, 0, 0, 0, 8, 0, 16),
            FRAME: (FRAME_BYTES, 0, 8, 16, 0, 32),
            CODE: (65, 24, 0, 32, 0, 40, 0, 0, 0, 64),
            OBJECT: (16, 8),
            TYPE: (64, 8),
            TEXT: (48, 16, 24, 48),
        }
        for start, words in parts.items():
            self.offsets.update({start + number: word for number, word in enumerate(words)})

    def word(self, at: int, value: int) -> None:
        self._map[at : at + 8] = struct.pack("<Q", value)

    def text(self, at: int, raw: bytes, length: int | None = None, state: int = 0x64) -> None:
        self._map[at + 16] = state
        self.word(at + 24, len(raw) if length is None else length)
        self._map[at + 48 : at + 48 + len(raw)] = raw

    def look(self, *words: int, cookie: bytes = b"xdebugpy") -> Seen:
        raw = [self.offsets.get(number, 0) for number in range(93)]
        self._map[: 93 * 8] = struct.pack("<93Q", *raw)
        self._map[:8] = cookie
        memory = cpython.Memory(os.getpid(), ("00:00", -1))
        try:
            return cpython.look(memory, self.start, TID, words)
        finally:
            memory.close()


@pytest.fixture
def lie() -> Lie:
    return Lie()


def names(seen: Seen) -> list[str]:
    return [each.name for each in seen.running]


def test_what_a_thread_runs_is_read_by_the_offsets_that_are_published(lie: Lie) -> None:
    inside = lie.start + CODE_AT + 64 + 8
    seen = lie.look(1 << 20, inside)

    assert seen.why is None
    assert [("spawn", "/srv/job.py", 7)] == [each[:3] for each in seen.running]
    assert seen.running == seen.pointed_at
    assert seen.running[0] == seen.at(inside)
    assert seen.at(lie.start) is None


@pytest.mark.parametrize("cookie", [b"xdebugpx", bytes(8)])
def test_a_wrong_cookie_names_nothing(lie: Lie, cookie: bytes) -> None:
    assert lie.look(cookie=cookie) == ((), (), cpython.STRANGE)


@pytest.mark.parametrize(
    ("word", "value"),
    [
        (1, VERSION & ~0xF0 | 0xB0),  # a beta
        (1, VERSION + (9 << 16)),  # no such release
        (2, 1),  # free-threaded
        *((start, 1 << 63) for start in (RUNTIME, INTERPRETER, FRAME, CODE, TYPE, TEXT)),
        *((start + 1, (1 << 64) - 8) for start in (FRAME, CODE, OBJECT, TYPE, TEXT)),
        (THREAD + 4, 1 << 62),
    ],
)
def test_offsets_that_make_no_sense_name_nothing(lie: Lie, word: int, value: int) -> None:
    lie.offsets[word] = value

    assert lie.look() == ((), (), cpython.STRANGE)


def test_frames_in_a_circle_end(lie: Lie) -> None:
    lie.word(FRAME_AT, lie.start + FRAME_AT)

    assert 16 == len(lie.look().running)


def test_frames_of_the_interpreter_itself_in_a_circle_end(lie: Lie) -> None:
    lie.word(FRAME_AT, lie.start + FRAME_AT)
    lie.word(FRAME_AT + 32, 3)

    assert [] == names(lie.look())


def test_threads_and_interpreters_in_a_circle_end(lie: Lie) -> None:
    lie.word(INTERPRETER_AT, lie.start + INTERPRETER_AT)
    lie.word(THREAD_AT, lie.start + THREAD_AT)
    lie.word(THREAD_AT + 16, TID + 1)

    assert lie.look() == ((), (), cpython.MOVED_ON)


@pytest.mark.parametrize("length", [1 << 13, 1 << 40, (1 << 64) - 1])
def test_a_text_of_absurd_length_names_nothing(lie: Lie, length: int) -> None:
    lie.text(NAME, b"spawn", length)

    assert lie.look() == ((), (), None)


@pytest.mark.parametrize("state", [0x60, 0x6C, 0x44, 0xFF])
def test_a_text_of_no_known_kind_names_nothing(lie: Lie, state: int) -> None:
    lie.text(NAME, b"spawn", state=state)

    assert [] == names(lie.look())


def test_code_of_absurd_size_names_nothing(lie: Lie) -> None:
    lie.word(CODE_AT + 16, 1 << 61)

    assert [] == names(lie.look())


@pytest.mark.parametrize("at", [THREAD_AT + 8, FRAME_AT + 8, CODE_AT + 8, CODE_AT + 24])
@pytest.mark.parametrize("address", [1, 1 << 47, (1 << 64) - 1])
def test_an_address_of_nothing_names_nothing(lie: Lie, at: int, address: int) -> None:
    lie.word(at, address)

    assert [] == names(lie.look())


def test_words_into_all_of_the_memory_cost_a_bounded_time(lie: Lie) -> None:
    began_s = time.process_time()
    lie.look(*range(lie.start, lie.start + (1 << 30), 1 << 20))

    assert time.process_time() - began_s < 2


def test_a_name_of_control_characters_and_lone_surrogates_is_text(lie: Lie) -> None:
    lie.text(NAME, "\x1b[2J\ud800".encode("utf-16-le", "surrogatepass"), 5, 0x28)
    lie.word(NAME + 48 + 16, int.from_bytes("\x1b[2J".encode("utf-16-le"), "little"))
    (name,) = names(lie.look())

    assert name.encode()  # JSON takes it


def test_a_mapping_of_a_file_is_not_read() -> None:
    with (
        open(sys.executable, "rb") as file,
        mmap.mmap(file.fileno(), 4096, flags=mmap.MAP_PRIVATE) as mapped,
    ):
        address = ctypes.addressof(ctypes.c_char.from_buffer(mapped))
        memory = cpython.Memory(os.getpid(), ("00:00", -1))
        with pytest.raises(cpython.UnreadError):
            memory.read(address, 8)
        memory.close()


def test_the_memory_of_a_process_that_ran_another_program_is_gone() -> None:
    turns = "import os, sys; input(); os.execvp('sleep', ['sleep', '60'])"
    with subprocess.Popen([sys.executable, "-c", turns], stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        time.sleep(0.5)
        memory = cpython.Memory(process.pid, ("00:00", -1))
        address = memory._areas[0][0]
        process.stdin.write(b"\n")
        process.stdin.close()
        while procfs.exe(process.pid) is None or "sleep" not in str(procfs.exe(process.pid)):
            time.sleep(0.02)
        with pytest.raises(cpython.UnreadError, match="gone"):
            memory.read(address, 8)
        memory.close()
        process.kill()


def test_a_process_that_is_gone_has_no_memory() -> None:
    done = subprocess.Popen(["true"])
    done.wait()

    with pytest.raises(cpython.UnreadError, match="gone"):
        cpython.Memory(done.pid, ("00:00", -1))


@pytest.fixture
def peeker() -> Iterator[peek.Peeker]:
    peeker = peek.Peeker(answer_s=0.3)
    yield peeker
    peeker.close()


def question(lie: Lie) -> dict[str, object]:
    lie.look()
    who = {"pid": os.getpid(), "tid": TID, "device": "00:00", "inode": -1}
    return {**who, "runtime": lie.start, "words": [lie.start + CODE_AT + 72]}


def test_the_reader_answers_what_is_read(lie: Lie, peeker: peek.Peeker) -> None:
    assert peeker.ask(question(lie)) == lie.look(lie.start + CODE_AT + 72)


def test_a_reader_that_does_not_answer_is_waited_for_a_bounded_time(
    lie: Lie, peeker: peek.Peeker
) -> None:
    peeker.ask(question(lie))
    assert peeker._pid is not None
    os.kill(peeker._pid, signal.SIGSTOP)
    began_s = time.monotonic()

    assert peeker.ask(question(lie)).why == cpython.GONE
    assert time.monotonic() - began_s < 1
    assert ["spawn"] == names(peeker.ask(question(lie)))


def test_a_reader_that_died_is_started_again(lie: Lie, peeker: peek.Peeker) -> None:
    peeker.ask(question(lie))
    assert peeker._pid is not None
    os.kill(peeker._pid, signal.SIGKILL)

    assert peeker.ask(question(lie)).why in (None, cpython.GONE)
    assert ["spawn"] == names(peeker.ask(question(lie)))


def test_a_question_that_breaks_the_reader_is_answered_by_a_reason(
    lie: Lie, peeker: peek.Peeker
) -> None:
    assert peeker.ask({"pid": "none"}).why == cpython.GONE


def test_the_reader_holds_nothing_else_open(lie: Lie, peeker: peek.Peeker) -> None:
    peeker.ask(question(lie))

    assert 2 == len(os.listdir(f"/proc/{peeker._pid}/fd"))


def test_the_reader_ends_with_who_asks(lie: Lie) -> None:
    peeker = peek.Peeker()
    peeker.ask(question(lie))
    pid = peeker._pid
    assert pid is not None
    os.close(peeker._to)
    os.waitpid(pid, 0)
    peeker._pid = None
    os.close(peeker._from)


def test_reading_takes_no_more_than_its_share_of_the_time(lie: Lie, peeker: peek.Peeker) -> None:
    peeker._allowed.left = -1e9

    assert peeker.ask(question(lie)).why == peek.BUSY


# movzwl (REGISTER),%eax; jmp *TABLE(,%rax,8)
JUMP = b"\xff\x24\xc5\0\0\0\0"
BY_R12 = b"\x41\x0f\xb7\x04\x24" + JUMP
BY_R10 = b"\x41\x0f\xb7\x02" + JUMP
LOAD_R10 = b"\x4c\x8b\x95\xa8\xfd\xff\xff"  # mov -0x258(%rbp),%r10


@pytest.mark.parametrize(
    ("code", "places"),
    [
        (20 * BY_R12, [Kept(12)]),
        (20 * b"\x0f\xb7\x45\0\x90" + JUMP, []),  # jumps but once
        (20 * (b"\x0f\xb7\x45\0" + JUMP), [Kept(6)]),
        (20 * BY_R10, []),
        (20 * (LOAD_R10 + BY_R10), [Kept(6, -600)]),
        (10 * (LOAD_R10 + BY_R10) + 20 * BY_R12, [Kept(12), Kept(6, -600)]),
        (4 * BY_R12, []),
        (b"\xff" * 70000, []),
        (b"", []),
    ],
)
def test_where_a_loop_keeps_its_next_instruction_is_told_by_its_code(
    code: bytes, places: list[Kept]
) -> None:
    assert places == list(cpython.kept(code))
