"""A real terminal: drawn on in place, and always left as it was found."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ttys import Tty

# Draws until q is pressed: its size, and how often it was drawn.
PROGRAM = """
import sys, time
from fork_trace.output.live.line import Line
from fork_trace.output.live.terminal import Terminal
terminal = Terminal()
print("redraws" if terminal.redraws else "appends", terminal.keys_to_end, flush=True)
drawn = 0
try:
    terminal.enter()
    while "q" not in terminal.pressed():
        terminal.attend()
        columns, lines = terminal.size()
        terminal.draw([Line("a bar", "bar"), Line(f"{columns} by {lines}"), Line("x" * 500),
                       *[Line("")] * 100])
        drawn += 1
        if drawn == int(sys.argv[1]):
            raise SystemExit("enough")
        time.sleep(0.02)
finally:
    terminal.leave()
print("left", flush=True)
"""
ALTERNATE, CURSOR, WRAPS = "1049", "25", "7"


@pytest.fixture
def program(tmp_path: Path) -> Callable[..., list[str]]:
    path = tmp_path / "drawing.py"
    path.write_text(PROGRAM)
    return lambda draws=-1: [sys.executable, str(path), str(draws)]


def in_a_shell(tty: Tty, command: str) -> None:
    tty.wait_for("$")
    tty.type(f"{command}\n")


def assert_as_found(tty: Tty) -> None:
    assert {ALTERNATE: False, CURSOR: True, WRAPS: True}.items() <= tty.screen.modes.items()
    assert tty.is_echoing()


def test_a_screen_is_drawn_in_place_and_a_key_ends_it(on_a_tty: Any, program: Any) -> None:
    tty = on_a_tty(program())
    screen = tty.wait_for("80 by 24")

    assert ["a bar", "80 by 24", "x" * 78 + "~"] == screen.splitlines()
    assert {ALTERNATE: True, CURSOR: False, WRAPS: False} == tty.screen.modes
    assert not tty.is_echoing()

    tty.type("xq")

    assert 0 == tty.end()
    assert tty.screen.text().endswith("left")
    assert "redraws q or Ctrl-C" in tty.raw
    assert tty.found == tty.modes()
    assert_as_found(tty)


def test_what_has_not_changed_is_not_written_again(on_a_tty: Any, program: Any) -> None:
    tty = on_a_tty(program(draws=50))
    tty.end()

    assert 1 == tty.raw.count("80 by 24")
    assert 1 == tty.raw.count("a bar")


def test_an_error_leaves_the_terminal_as_it_was(on_a_tty: Any, program: Any) -> None:
    tty = on_a_tty(program(draws=3))

    assert 1 == tty.end()
    assert tty.screen.text().endswith("enough")
    assert_as_found(tty)


def test_a_quit_leaves_the_terminal_as_it_was(on_a_tty: Any, program: Any) -> None:
    tty = on_a_tty(["sh", "-c", 'ulimit -c 0; exec "$@"', "sh", *program()])
    tty.wait_for("80 by 24")

    tty.type("\x1c")

    assert -signal.SIGQUIT == tty.end()
    assert_as_found(tty)


def test_a_new_size_is_drawn_at_once(on_a_tty: Any, program: Any) -> None:
    tty = on_a_tty(program())
    tty.wait_for("80 by 24")

    tty.resize(50, 10)

    assert ["a bar", "50 by 10", "x" * 48 + "~"] == tty.wait_for("50 by 10").splitlines()


def test_a_terminal_that_does_not_tell_its_size_is_taken_for_one_of_80_by_24(
    on_a_tty: Any, program: Any
) -> None:
    tty = on_a_tty(program(), size=(0, 0))

    assert "80 by 24" in tty.wait_for("x~")


def test_a_stop_gives_the_terminal_back_and_going_on_takes_it_again(
    on_a_tty: Any, program: Any
) -> None:
    tty = on_a_tty(["bash", "--norc", "--noediting", "-i"], PS1="$ ")
    in_a_shell(tty, " ".join(program()))
    tty.wait_for("80 by 24")

    tty.type("\x1a")
    tty.wait_for("Stopped")

    assert_as_found(tty)

    tty.type("fg\n")
    tty.wait_for("80 by 24")

    assert {ALTERNATE: True, CURSOR: False, WRAPS: False}.items() <= tty.screen.modes.items()
    assert not tty.is_echoing()

    tty.type("q")
    tty.wait_for("left")

    assert_as_found(tty)


def test_a_job_in_the_background_draws_nothing(on_a_tty: Any, program: Any) -> None:
    tty = on_a_tty(["bash", "--norc", "--noediting", "-i"], PS1="$ ")
    in_a_shell(tty, f"{' '.join(program(3))} & wait")
    tty.wait_for("enough")

    assert "appends" in tty.raw
    assert ALTERNATE not in tty.screen.modes


@pytest.mark.parametrize("term", ["dumb", ""])
def test_a_dumb_terminal_is_appended_to(on_a_tty: Any, program: Any, term: str) -> None:
    tty = on_a_tty(program(draws=3), TERM=term)
    tty.end()

    assert "appends Ctrl-C" in tty.raw
    assert "\033" not in tty.raw


@pytest.mark.parametrize(("environ", "styles"), [({}, {"7", "0"}), ({"NO_COLOR": "1"}, {"0"})])
def test_no_color_is_respected(
    on_a_tty: Any, program: Any, environ: dict[str, str], styles: set[str]
) -> None:
    tty = on_a_tty(program(draws=3), **environ)
    tty.end()

    assert styles == tty.screen.styles
