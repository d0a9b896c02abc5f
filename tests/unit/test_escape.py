"""Names of every hostile form, on their way to a terminal and into JSON."""

from __future__ import annotations

import json
import unicodedata

import pytest
from conftest import HOSTILE, is_harmless, make_advice, make_failure
from hypothesis import given
from hypothesis import strategies as some

from fork_trace import escape
from fork_trace.model import records


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"\xff\xfe", r"\xff\xfe"),
        (b"caf\xc3\xa9", "caf\u00e9"),
        (b"cut \xe2\x82", r"cut \xe2\x82"),
        (b"\x1b[2J\x07", r"\x1b[2J\x07"),
        (b"a\r\nb", r"a\r\nb"),
        ("\u202egnp.exe".encode(), r"\u202egnp.exe"),
    ],
)
def test_bytes_that_are_no_text_show_as_bytes_on_a_terminal(raw: bytes, shown: str) -> None:
    assert shown == escape.safe(raw.decode("utf-8", "surrogateescape"))


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("\udcff", r"\xff"),
        ("\ud800", r"\ud800"),
        ("\udc00\ud800", r"\udc00\ud800"),
        ("\U0001f40d\udc80", "\U0001f40d\\x80"),
        (r"\udcff", r"\udcff"),  # six characters that somebody wrote
        ("\\\udcff", r"\\xff"),
        ('"\\u"\udcfe|', '"\\u"\\xfe|'),
    ],
)
def test_half_a_character_is_written_out_in_json(text: str, read: str) -> None:
    assert {"comm": read} == json.loads(escape.json_line({"comm": text}))


@given(some.recursive(some.text(some.characters()), lambda inner: some.lists(inner)))
def test_json_is_one_line_of_ascii_without_half_characters(value: object) -> None:
    line = escape.json_line(value)

    assert line.isascii() and line.isprintable()
    assert "Cs" not in {unicodedata.category(char) for char in str(json.loads(line))}


@given(some.text(some.characters(exclude_categories=["Cs"])))
def test_text_that_is_text_comes_back_as_it_was(text: str) -> None:
    assert text == json.loads(escape.json_line(text))


def test_a_record_with_bytes_in_every_name_is_read_by_those_who_want_characters() -> None:
    odd = "\udcff\udcfe" * 2048
    line = records.to_json(
        make_failure(
            comm=odd, exe=odd, cgroup=odd, container={"name": odd}, advice=(make_advice(text=odd),)
        )
    )

    assert r"\udc" not in line
    assert r"\xff\xfe" * 2048 == json.loads(line)["container"]["name"]


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_a_hostile_name_is_escaped(text: str) -> None:
    shown = escape.safe(text)

    assert is_harmless(shown)
    assert "\n" not in shown
    assert shown.encode("utf-8")


@given(some.text(some.characters()))
def test_no_name_can_reach_a_terminal_raw(text: str) -> None:
    shown = escape.safe(text)

    assert {"Zl", "Zp"}.isdisjoint(unicodedata.category(char) for char in shown)
    assert not any(unicodedata.category(char).startswith("C") for char in shown)


@pytest.mark.parametrize("text", ["sh", "caf\u00e9", "\u65e5\u672c", "a b", "C:\\x", "\U0001f40d"])
def test_a_harmless_name_stays_as_it_is(text: str) -> None:
    assert text == escape.safe(text)
