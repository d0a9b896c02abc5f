"""Names that others chose, made harmless for where they are shown. Pure: text in, text out.

Commands, programs, cgroups, containers, symbols and files may be named with anything. Whoever writes one
of them to a terminal or into JSON does it through here.
"""

from __future__ import annotations

import json
import re
import unicodedata

MOST = 512  # characters of a symbol or path

# What is no JSON value is a record within a record: its fields, without copying them first. None is
# within itself.
_JSON = json.JSONEncoder(ensure_ascii=True, check_circular=False, default=vars)

_ESCAPE = re.compile(r"\\u(d[89ab][0-9a-f]{2})\\u(d[c-f][0-9a-f]{2})|\\u(d[89a-f][0-9a-f]{2})|\\.")


def safe(text: str) -> str:
    """Make a name harmless on a terminal: controls, direction marks and odd bytes are escaped."""
    out = []
    for char in text:
        if "\udc80" <= char <= "\udcff":
            out.append(f"\\x{ord(char) & 0xFF:02x}")  # a byte that is not UTF-8: surrogateescape
        elif unicodedata.category(char)[0] == "C" or char in "\u2028\u2029":
            out.append(char.encode("unicode_escape", "backslashreplace").decode())
        else:
            out.append(char)
    return "".join(out)


def cut(text: str, most: int = MOST) -> str:
    """Shorten a long name in its middle, where an ellipsis tells of it: its begin and end say most."""
    if len(text) <= most:
        return text
    head = most * 2 // 3
    return f"{text[:head]}\u2026{text[head + 1 - most :]}"


def json_line(value: object) -> str:
    """Write any JSON value as one line of ASCII that every reader takes.

    Half of a surrogate pair is no character: some readers refuse the whole line for it. Bytes that
    are not UTF-8 become \\x.., as everywhere here.
    """
    text = _JSON.encode(value)
    return _ESCAPE.sub(_whole, text) if "\\ud" in text else text


def _whole(match: re.Match[str]) -> str:
    half = match[3]
    if half is None:
        return match[0]
    number = int(half, 16)
    return f"\\\\x{number & 0xFF:02x}" if 0xDC80 <= number <= 0xDCFF else f"\\\\u{half}"
