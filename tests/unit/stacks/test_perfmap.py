"""Names that a JIT compiler's process tells, from a tree like /proc."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as some

from fork_trace.mounts import OwnMounts
from fork_trace.stacks import perfmap

UID = os.getuid()


def maps_of(root: Path) -> perfmap.PerfMaps:
    return perfmap.PerfMaps(OwnMounts(), str(root))


def proc(root: Path, text: bytes, inner: int = 7, name: str | None = None) -> perfmap.PerfMaps:
    (root / "42/root/tmp").mkdir(parents=True, exist_ok=True)
    (root / "42/status").write_text(f"Name:\tjava\nNSpid:\t42\t{inner}\n")
    (root / f"42/root/tmp/{name or f'perf-{inner}.map'}").write_bytes(text)
    return maps_of(root)


MAP = b"""\
1000 20 void Caller.main(java.lang.String[])
0x0000000000001100 0x0000000000000010 Interpreter
1000 10 JS:~run_job /srv/app.js:3:18
nonsense
"""


@pytest.mark.parametrize(
    ("address", "name"),
    [
        (0x1000, "JS:~run_job /srv/app.js:3:18"),  # the later line counts
        (0x100F, "JS:~run_job /srv/app.js:3:18"),
        (0x1010, None),
        (0x1108, "Interpreter"),
        (0x1110, None),
        (0, None),
    ],
)
def test_a_function_is_named_where_it_lies(tmp_path: Path, address: int, name: str | None) -> None:
    assert name == proc(tmp_path, MAP).name(42, UID, address)


def test_the_number_is_the_one_that_the_process_itself_knows(tmp_path: Path) -> None:
    assert proc(tmp_path, MAP, inner=7, name="perf-42.map").name(42, UID, 0x1108) is None


def test_a_map_of_somebody_else_is_not_believed(tmp_path: Path) -> None:
    maps = proc(tmp_path, MAP)
    os.chown(tmp_path / "42/root/tmp/perf-7.map", UID + 7, -1) if UID == 0 else None
    if UID:
        pytest.skip("only root can give a file away; run it as root")

    assert maps.name(42, UID + 8, 0x1108) is None
    assert maps_of(tmp_path).name(42, UID + 7, 0x1108) == "Interpreter"


def test_neither_a_link_nor_a_pipe_is_read(tmp_path: Path) -> None:
    maps = proc(tmp_path, MAP)
    there = tmp_path / "42/root/tmp/perf-7.map"
    there.rename(tmp_path / "elsewhere")
    there.symlink_to(tmp_path / "elsewhere")

    assert maps.name(42, UID, 0x1108) is None
    there.unlink()
    os.mkfifo(there)
    assert maps_of(tmp_path).name(42, UID, 0x1108) is None


def test_a_map_that_grew_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    maps = proc(tmp_path, MAP)

    assert maps.name(42, UID, 0x5000) is None
    (tmp_path / "42/root/tmp/perf-7.map").write_bytes(MAP + b"5000 10 later\n")
    assert maps.name(42, UID, 0x5000) is None  # not at each frame
    monkeypatch.setattr(time, "monotonic", lambda now=time.monotonic: now() + 10)
    assert "later" == maps.name(42, UID, 0x5000)


def test_without_a_process_or_a_map_there_is_no_name(tmp_path: Path) -> None:
    maps = maps_of(tmp_path)

    assert maps.name(None, UID, 0x1000) is None
    assert maps.name(42, UID, 0x1000) is None


@given(some.binary(max_size=2000), some.integers(0, 0x2000))
def test_no_map_is_too_odd(raw: bytes, address: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        name = proc(Path(place), raw).name(42, UID, address)

    assert name is None or len(name) <= 4 * 512
