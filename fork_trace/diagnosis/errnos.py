"""The errno that a text tells: by name, by number, or by the words of a C library in any language. Pure.

Which causes an errno has is the causes' own; what a text is about is `kinds`'.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator

NAMES = {
    **errno.errorcode,
    # Of two names for one number Python gives the C library's; this is the kernel's.
    errno.EOPNOTSUPP: "EOPNOTSUPP",
    # include/linux/errno.h: the kernel's own; user space has no name for it.
    513: "ERESTARTNOINTR",
}
# The kernel's and Linux' other name for the same number.
_OTHER_NAMES = {"EWOULDBLOCK": "EAGAIN", "ENOTSUP": "EOPNOTSUPP"}
_BY_NAME = {
    **{name.lower(): name for name in NAMES.values()},
    **{other.lower(): name for other, name in _OTHER_NAMES.items()},
}

# What strerror returns: glibc (macOS and the BSDs have most of these too), musl, bionic. A longer one
# comes before one that it holds.
_WORDS = {
    "resource temporarily unavailable": "EAGAIN",
    "cannot allocate memory": "ENOMEM",
    "no child process": "EAGAIN",
    "no space left on device": "ENOSPC",
    "operation not permitted": "EPERM",
    "permission denied": "EACCES",
    "device or resource busy": "EBUSY",
    "function not implemented": "ENOSYS",
    "too many open files in system": "ENFILE",
    "too many open files": "EMFILE",
    "invalid argument": "EINVAL",
    "file exists": "EEXIST",
    "numerical result out of range": "ERANGE",
    "argument list too long": "E2BIG",
    "interrupted system call": "EINTR",
    "no such file or directory": "ENOENT",
    "not a directory": "ENOTDIR",
    "exec format error": "ENOEXEC",
    "text file busy": "ETXTBSY",
    "operation not supported": "EOPNOTSUPP",
    "too many users": "EUSERS",
    "no such process": "ESRCH",
    "bad file descriptor": "EBADF",
    "bad address": "EFAULT",
    "broken pipe": "EPIPE",
    "input/output error": "EIO",
    # musl, src/errno/__strerror.h
    "no file descriptors available": "EMFILE",
    "result not representable": "ERANGE",
    "resource busy": "EBUSY",
    # csh, and older systems
    "no more processes": "EAGAIN",
}
# What programs make of it by themselves, and bionic's "Try again", which is part of many a sentence.
_PHRASES = (
    (
        r"(?:can(?:no|')?t|can not|could ?n[o']t|could not|unable to|failed to|not) (?:be )?"
        r"allocate(?:d)? (?:any )?(?:enough )?memory",
        "ENOMEM",
    ),
    # musl and bionic; elsewhere it is a guess: "possibly out of memory or process limits".
    (r"(?:^|[:(\[='] ?)out of memory\b(?!: kill)", "ENOMEM"),
    (r"memory allocation (?:error|failed|failure)|allocation of memory failed", "ENOMEM"),
    (r"(?:not enough|insufficient) memory|memory exhausted", "ENOMEM"),
    (r"resources? (?:is |are )?(?:temporar\w+ )?(?:unavailable|not available)", "EAGAIN"),
    (r"temporarily unavailable", "EAGAIN"),
    (r"[:(\[,] ?try again(?=$|[\])}.,;!])|^try again$", "EAGAIN"),
    # As programs' own Spanish has it; glibc's says "pudo".
    (r"no se puede (?:asignar|reservar) memoria", "ENOMEM"),
    (r"file table overflow", "ENFILE"),
    (r"would ?block", "EAGAIN"),
    (r"\berr(?:or|no)?:? 0x0*b\b", "EAGAIN"),
    (r"\berr(?:or|no)?:? 0x0*c\b", "ENOMEM"),
)
# Words that say that the number behind them is an errno, and those that only may: of these, numbers that
# are also exit codes count for nothing.
_STRONG = (
    r"(?:errno|os error|system error|oserror|error code|errorcode|\berror=|\[system:|\brc=|"
    r"err(?:or)?(?: ?no|num)\b|generic:)\W{0,4}?(?:is )?-?([0-9]{1,3})\b"
    # Two ways of those who check what pthread_create returns.
    r"|(?:\breturn code from pthread_create\(\) is |== 0 \()([0-9]{1,3})\b"
)
_WEAK = (
    r"(?<!exit )(?<!exited with )\b(?:error|err|status|code|rc|ret|retval|result|returned|failed|depinfo|"
    r"with|reason|e)\b(?: is)?[ =:#(]{0,3}-?([0-9]{1,3})\b"
    # with 12 threads: a number of things
    r"(?! (?:[a-z]+ )?(?:threads?|workers?|process(?:es)?|child(?:ren)?|cores?|cpus?|seconds?|retries|attempts)\b)"
)
_BARE = r"[(\[]([0-9]{1,3})(?:[:\])])|(?:[=:(\[] ?|\bret )-([0-9]{1,3})\b"
# What has a pid, or a signal, in brackets behind it.
_BEFORE_A_PID = (
    r"\b(?:pid|child|worker|process|backend|daemon|master|parent|segmentation fault|killed|aborted|"
    r"terminated|hangup|bus error|illegal instruction)(?: #?\d+)? ?$"
)
_TELLING = {11: "EAGAIN", 12: "ENOMEM", 22: "EINVAL", 24: "EMFILE", 28: "ENOSPC", 38: "ENOSYS"}
# A number in brackets is a pid as well as an errno.
_BRACKETED = {**_TELLING, 13: "EACCES", 16: "EBUSY", 23: "ENFILE"}
# As the kernel returns it; -1 is only what a call returns.
_NEGATIVE = {**_BRACKETED, 4: "EINTR", 95: "EOPNOTSUPP"}
# What a person may get wrong in those two that all ask about, and a few more: two letters in a word.
_MISSPELT = (
    *("resource temporarily unavailable", "cannot allocate memory", "operation not permitted"),
    *("permission denied", "no space left on device", "too many open files"),
    *("temporarily unavailable", "allocate memory"),
)


def normal(text: str) -> str:
    """Return a text without what a log, a terminal or a person changes: case, quotes, blanks."""
    text = re.sub('[\u2018\u2019\u201c\u201d`"]', "'", text.lower())
    return " ".join(text.split())


def named(word: str) -> str | None:
    """Name an errno given by name, number or libc's words, and nothing else; None: it is none."""
    number = re.fullmatch(r"-?(?:errno[ =:]*)?-?([0-9]{1,4})", word.strip().lower())
    if number:
        return NAMES.get(int(number[1]))
    name = _BY_NAME.get(word.strip().lstrip("-").lower())
    return name or strerror(word)


def strerror(text: str) -> str | None:
    """Name the errno whose words these are, in any language, and nothing else; else None."""
    wanted = normal(text).strip(" .'!")
    if wanted in ("no child processes", "out of memory"):
        return "EAGAIN" if "child" in wanted else "ENOMEM"
    return _WORDS.get(wanted) or next(
        (name for words, name in _translated() if words == wanted), None
    )


def told(text: str, is_typed: bool = True) -> str | None:
    """Name the errno that a message tells; else None.

    By name, in a C library's words, or as a number; if a person may have typed it, misspelt as well.
    """
    text = normal(text)
    return (
        _by_name(text)
        or _by_words(text)
        or _by_number(text)
        or _by_translation(text)
        or (_by_likeness(text) if is_typed else None)
    )


def _by_name(text: str) -> str | None:
    # "eio" and the like are parts of other words; a name that a fork can give comes first.
    for word in re.findall(r"(?<![\w/])-?(e[a-z0-9]{3,13})(?![\w/])", text):
        if word in _BY_NAME:
            return _BY_NAME[word]
    return None


def _by_words(text: str) -> str | None:
    for words, name in _WORDS.items():
        if words in text:
            return name
    return next((name for pattern, name in _PHRASES if re.search(pattern, text)), None)


def _by_number(text: str) -> str | None:
    for match in re.finditer(_STRONG, text):
        name = NAMES.get(int(match[1] or match[2]))
        if name:
            # macOS and the BSDs have EAGAIN where Linux has EDEADLK, which no fork gives.
            return "EAGAIN" if name in ("EDEADLK", "EDEADLOCK") else name
    for match in re.finditer(_WEAK, text):
        name = _TELLING.get(int(match[1]))
        if name:
            return name
    for match in re.finditer(_BARE, text):
        name = _BRACKETED.get(int(match[1])) if match[1] else _NEGATIVE.get(int(match[2]))
        if name and not _is_pid(text, match.start()):
            return name
    return None


def _is_pid(text: str, at: int) -> bool:
    """Say whether what is in brackets here is no errno: sshd[812], worker (8), Segmentation fault (11)."""
    if text[at] == "[" and at > 0 and text[at - 1].isalnum():
        return True
    return re.search(_BEFORE_A_PID, text[:at]) is not None


def _translated() -> tuple[tuple[str, str], ...]:
    """Every language's words with their errno; a table that only a text that is not English needs."""
    from fork_trace.diagnosis.translations import BY_WORDS

    return BY_WORDS


def _by_translation(text: str) -> str | None:
    return next((name for words, name in _translated() if words in text), None)


def _by_likeness(text: str) -> str | None:
    words = re.findall(r"[^\W_]+(?:'[^\W_]+)?", text)[:60]
    for phrase in _MISSPELT:
        length = phrase.count(" ") + 1
        wanted = phrase.replace(" ", "")
        if any(is_like(each, wanted) for each in _windows(words, length)):
            return _WORDS.get(phrase) or ("ENOMEM" if "memory" in phrase else "EAGAIN")
    return None


def _windows(words: list[str], length: int) -> Iterator[str]:
    """As many words as a phrase has, and one more or less: a blank can be mistyped too."""
    for size in (length, length + 1, length - 1):
        for start in range(len(words) - size + 1):
            yield "".join(words[start : start + size])


def is_like(word: str, wanted: str) -> bool:
    """Say whether a word is another one misspelt: one letter in six added, lost, wrong or exchanged."""
    most = min(max(len(wanted) // 6, 1), 3)
    if abs(len(word) - len(wanted)) > most or len(wanted) < 4:
        return False
    return _distance(word, wanted, most) <= most


def _distance(one: str, other: str, most: int) -> int:
    """Count the letters between two words (Damerau-Levenshtein); more than `most` is `most` + 1."""
    # What both begin and end with costs nothing.
    while one and other and one[0] == other[0]:
        one, other = one[1:], other[1:]
    while one and other and one[-1] == other[-1]:
        one, other = one[:-1], other[:-1]
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        above, before_above = row, before
        row = [i]
        for j, wanted in enumerate(other, 1):
            cost = min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (letter != wanted))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == wanted:
                cost = min(cost, before_above[j - 2] + 1)
            row.append(cost)
        if min(row) > most:
            return most + 1
        before = above
    return row[-1]
