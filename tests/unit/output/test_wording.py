"""Names and numbers as people read them."""

from __future__ import annotations

import pytest

from fork_trace.output import units, wording


def test_a_cut_name_shows_that_it_is_cut_and_an_unknown_one_that_it_is_unknown() -> None:
    assert ("abc~", "abcd", "?") == tuple(wording.cell(t, 4) for t in ("abcde", "abcd", None))


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (None, "KiB", "?"),
        (0, "KiB", "0 KiB"),
        (10_239, "KiB", "10239 KiB"),
        (10_240, "KiB", "10.0 MiB"),
        (102_400, "KiB", "100 MiB"),
        (1 << 20, "KiB", "1.0 GiB"),
        (3 << 29, "KiB", "1.5 TiB"),
        (-5, "KiB", "-5 KiB"),
        (4_194_304, "tasks", "4194304"),
    ],
)
def test_an_amount_is_short_and_right(value: int | None, unit: str, text: str) -> None:
    assert text == units.amount(value, unit)


@pytest.mark.parametrize(
    ("text", "columns"), [("abc", 3), ("\u65e5\u672c", 4), ("e\u0301", 1), ("", 0)]
)
def test_letters_take_the_columns_that_a_terminal_gives_them(text: str, columns: int) -> None:
    assert columns == wording.columns(text)


@pytest.mark.parametrize(
    ("text", "width", "start", "end"),
    [
        ("abcdef", 6, "abcdef", "abcdef"),
        ("abcdef", 4, "abc~", "~def"),
        ("\u65e5\u672c\u8a9e", 5, "\u65e5\u672c~", "~\u672c\u8a9e"),
        ("\u65e5\u672c\u8a9e", 4, "\u65e5~", "~\u8a9e"),
        ("abcdef", 1, "~", "~"),
    ],
)
def test_what_is_cut_fits_and_shows_at_which_end(
    text: str, width: int, start: str, end: str
) -> None:
    assert (start, end) == (wording.cut(text, width), wording.tail(text, width))


@pytest.mark.parametrize(
    ("width", "shown"),
    [
        (40, "/kubepods/burstable/pod42/container"),
        (34, "/kubepods/.../pod42/container"),
        (25, "/kubepods/.../container"),
        (13, ".../container"),
        (12, "~./container"),
    ],
)
def test_a_path_is_shortened_in_its_middle(width: int, shown: str) -> None:
    assert shown == wording.middle("/kubepods/burstable/pod42/container", width)
