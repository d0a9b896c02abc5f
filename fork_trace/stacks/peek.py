"""A process of our own that reads what Python processes run: reading the memory of others may never end.

Whatever /proc/PID/maps said a moment ago, a page can be one of a file by now whose FUSE server does not
answer, and who waits for that cannot always be killed. So it is not this process that waits. The reader
is forked when the first such process is met. One that does not answer in time is killed and left to the
kernel; as long as that keeps two of them there is no third.
"""

from __future__ import annotations

import json
import os
import select
import signal
import time
from contextlib import suppress
from typing import Any, NoReturn

from fork_trace.budget import Budget, OverBudgetError
from fork_trace.host import cgroup
from fork_trace.stacks import cpython
from fork_trace.stacks.cpython import Seen

_ANSWER_S = 0.5
_MOST_BYTES = 1 << 16  # of a question, or of an answer
_LENGTH_BYTES = 4
_MOST_STUCK = 2
_AGAIN_S = 10.0  # after it could not be started
# Of waiting: two seconds at once, and a quarter of the time.
_MOST_US, _US_PER_S = 2_000_000, 250_000
_MOST_DESCRIPTORS = 1 << 16

_NO_READER = "Python's functions are not known: no process could be started to read them"
STUCK = "Python's functions are not known: reading other processes did not end"
BUSY = "Python's functions are not known: reading others took too much time already"


class Peeker:
    """Asks the reader, and starts it."""

    def __init__(self, answer_s: float = _ANSWER_S) -> None:
        self._answer_s = answer_s
        self._pid: int | None = None
        self._to = self._from = -1
        self._killed: list[int] = []  # that the kernel may still keep
        self._not_before_s = 0.0
        self._allowed = Budget(_MOST_US, _US_PER_S)

    def ask(self, question: dict[str, Any]) -> Seen:
        """Ask `cpython.answer` in the reader; whatever goes wrong is its reason for having seen nothing."""
        try:
            self._allowed.pay()
        except OverBudgetError:
            return Seen((), (), BUSY)
        began_s = time.monotonic()
        try:
            if self._pid is None:
                why = self._start()
                if why is not None:
                    return Seen((), (), why)
            raw = self._exchange(_message(question), began_s + self._answer_s)
            return Seen.of_json(json.loads(raw))
        except (OSError, ValueError):
            self._end()
            return Seen((), (), cpython.GONE)
        finally:
            self._allowed.left -= 1e6 * (time.monotonic() - began_s)

    def close(self) -> None:
        """End the reader; safe to call twice."""
        self._end()

    def _start(self) -> str | None:
        self._reap()
        if len(self._killed) >= _MOST_STUCK:
            return STUCK
        if time.monotonic() < self._not_before_s:
            return _NO_READER
        if not cgroup.has_room():
            # Refused it would be counted like any other fork.
            self._not_before_s = time.monotonic() + _AGAIN_S
            return _NO_READER
        asked, self._to = os.pipe()
        self._from, answered = os.pipe()
        try:
            pid = os.fork()
        except OSError:
            self._not_before_s = time.monotonic() + _AGAIN_S
            self._close_pipes()
            return _NO_READER
        else:
            if pid == 0:
                _serve(asked, answered)
            self._pid = pid
            os.set_blocking(self._to, False)
            return None
        finally:
            os.close(asked)
            os.close(answered)

    def _exchange(self, message: bytes, deadline_s: float) -> bytes:
        # It is waiting for it: what does not fit at once never will.
        if os.write(self._to, message) != len(message):
            raise OSError("the reader does not read")
        answer, poll = b"", select.poll()
        poll.register(self._from, select.POLLIN)
        while len(answer) < _LENGTH_BYTES or len(answer) < _LENGTH_BYTES + _length(answer):
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 or not poll.poll(1000 * left_s):
                raise OSError("no answer in time")
            piece = os.read(self._from, _MOST_BYTES)
            answer += piece
            if not piece or len(answer) > _LENGTH_BYTES + _MOST_BYTES:
                raise OSError("not an answer")
        return answer[_LENGTH_BYTES:]

    def _end(self) -> None:
        if self._pid is None:
            return
        with suppress(OSError):
            os.kill(self._pid, signal.SIGKILL)
        self._killed.append(self._pid)
        self._pid = None
        self._close_pipes()
        self._reap()

    def _close_pipes(self) -> None:
        os.close(self._to)
        os.close(self._from)

    def _reap(self) -> None:
        for pid in list(self._killed):
            with suppress(OSError):
                if os.waitpid(pid, os.WNOHANG)[0] == 0:
                    continue
            self._killed.remove(pid)


def _length(answer: bytes) -> int:
    return int.from_bytes(answer[:_LENGTH_BYTES], "little")


def _message(content: Any) -> bytes:
    raw = json.dumps(content).encode()
    return len(raw).to_bytes(_LENGTH_BYTES, "little") + raw


def _serve(asked: int, answered: int) -> NoReturn:
    """Answer until nobody asks any more. It holds nothing else open, and signals are not its to handle."""
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        low = sorted((asked, answered))
        for start, end in zip((0, low[0] + 1, low[1] + 1), (*low, _MOST_DESCRIPTORS)):
            os.closerange(start, end)
        while True:
            length = _length(_exactly(asked, _LENGTH_BYTES))
            answer = cpython.answer(json.loads(_exactly(asked, length)))
            os.write(answered, _message(answer.as_json()))
    finally:
        os._exit(0)


def _exactly(fd: int, size: int) -> bytes:
    raw = b""
    while len(raw) < size:
        piece = os.read(fd, size - len(raw))
        if not piece:
            raise EOFError
        raw += piece
    return raw
