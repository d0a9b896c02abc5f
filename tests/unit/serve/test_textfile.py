"""The textfile: whole at every instant, readable by others, written by who owns nothing any more."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fork_trace.commands import cli
from fork_trace.errors import ForkTraceError
from fork_trace.serve.textfile import Textfile, replace

OWNER = 54_321
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Return what a command line says that exits with 2."""
    with pytest.raises(SystemExit) as ended:
        cli.main(argv)
    assert 2 == ended.value.code
    said = capsys.readouterr().err
    assert 1 == said.count("\n") and said.startswith("fork-trace: ")
    return said


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_it_is_replaced_at_once_and_others_may_read_it(tmp_path: Path) -> None:
    path = tmp_path / "fork-trace.prom"
    before = os.umask(0o077)
    try:
        file = Textfile(str(path))
        assert file.write(b"one") is None
        with path.open() as old:
            assert file.write(b"two") is None
            assert "one" == old.read()
    finally:
        os.umask(before)

    assert ("two", 0o644) == (path.read_text(), mode(path))
    assert [path] == list(tmp_path.iterdir())


def test_what_one_that_was_killed_left_is_no_obstacle(tmp_path: Path) -> None:
    # In a container each has the same pid.
    (tmp_path / f"x.prom.{os.getpid()}.tmp").write_text("half")

    assert Textfile(str(tmp_path / "x.prom")).write(b"whole") is None
    assert "whole" == (tmp_path / "x.prom").read_text()


def test_a_link_of_somebody_s_is_replaced_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "x.prom").symlink_to(tmp_path / "victim")
    (tmp_path / "victim").write_text("mine")
    replace(str(tmp_path / "x.prom"), b"text")

    assert "mine" == (tmp_path / "victim").read_text()
    assert "text" == (tmp_path / "x.prom").read_text()


@needs_root
def test_who_gave_root_up_writes_it_in_root_s_directory(tmp_path: Path) -> None:
    path = tmp_path / "fork-trace.prom"
    path.write_text("of an earlier version")
    program = (
        "import os, sys; from fork_trace.serve.textfile import Textfile\n"
        f"file = Textfile(sys.argv[1], {OWNER})\n"
        f"os.setgroups([]); os.setresgid(*3 * ({OWNER},)); os.setresuid(*3 * ({OWNER},))\n"
        "for number in range(int(sys.argv[2])):\n    assert file.write(b'%d\\n' % number * 9999) is None\n"
    )
    argv = [sys.executable, "-c", program, str(path)]
    # A second recorder finds what the first one made.
    for count in ("23", "7"):
        subprocess.run([*argv, count], check=True, cwd=Path(cli.__file__).parents[2])
        assert f"{int(count) - 1}\n" * 9999 == path.read_text()

    assert (0o644, OWNER) == (mode(path), path.stat().st_uid)
    assert {".fork-trace.prom.d", "fork-trace.prom"} == {each.name for each in tmp_path.iterdir()}
    assert ["metrics"] == os.listdir(tmp_path / ".fork-trace.prom.d")


@needs_root
def test_a_reader_sees_no_half_of_it(tmp_path: Path) -> None:
    path = tmp_path / "x.prom"
    file = Textfile(str(path), OWNER)
    file.write(b"0\n" * 50_000)
    reader = subprocess.Popen(
        [
            *(sys.executable, "-c"),
            "import sys\nseen = set()\nwhile True:\n"
            "    text = open(sys.argv[1]).read()\n    seen.add(text[:2])\n"
            "    assert text == text[:2] * 50_000\n    if text[0] == '9': break\n"
            "print(len(seen))",
            str(path),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    end_s = time.monotonic() + 2
    number = 0
    while time.monotonic() < end_s:
        number = (number + 1) % 9
        file.write(b"%d\n" % number * 50_000)
    file.write(b"9\n" * 50_000)

    assert int(reader.communicate(timeout=30)[0]) > 1
    assert 0 == reader.returncode


@needs_root
def test_a_directory_that_somebody_placed_there_is_not_taken_over(tmp_path: Path) -> None:
    (tmp_path / ".x.prom.d").mkdir()
    os.chown(tmp_path / ".x.prom.d", 12_345, 12_345)

    with pytest.raises(ForkTraceError, match="belongs to somebody else"):
        Textfile(str(tmp_path / "x.prom"), OWNER)
    os.rmdir(tmp_path / ".x.prom.d")
    (tmp_path / ".x.prom.d").symlink_to("/etc")
    with pytest.raises(ForkTraceError, match="cannot write"):
        Textfile(str(tmp_path / "x.prom"), OWNER)
    assert 0 == os.stat("/etc").st_uid


@needs_root
@pytest.mark.parametrize("name", ["", "/no/such/directory/x.prom", "/", "a\0b", "/proc/x.prom"])
def test_a_file_that_cannot_be_is_one_sentence(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = str(tmp_path / "log")
    said = refused(capsys, "record", "--directory", log, "--textfile", name)

    assert "cannot write" in said and "textfile collector" in said


def test_a_directory_that_is_gone_is_told(tmp_path: Path) -> None:
    file = Textfile(str(tmp_path / "gone" / "x.prom"))

    assert "No such file or directory" == file.write(b"x")
