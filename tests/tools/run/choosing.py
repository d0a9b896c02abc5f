"""Which lanes are meant by the options. Pure: lanes in, lanes out."""

from __future__ import annotations

from collections.abc import Sequence

from live.matrix import ALL, DEFAULT, NAMED, QUICK, Lane


def short(file: str) -> str:
    """The name of a test file without what all of them have: test_blame.py is blame."""
    name = file.rpartition("/")[2].partition(".")[0]
    return name[len("test_") :] if name.startswith("test_") else name


def lanes(
    every: Sequence[Lane],
    *,
    is_quick: bool = False,
    is_all: bool = False,
    kernels: Sequence[str] = (),
    names: Sequence[str] = (),
) -> list[Lane]:
    """Choose; of kernels and names each lane that fits, whether it is in the default run or not.

    What lanes of several kernels have in common names all of them: "fault" is 5.10-fault, 6.1-fault, ...
    """
    if names:
        return [lane for lane in every if {lane.name, lane.name.rpartition("-")[2]} & {*names}]
    if kernels:
        return [lane for lane in every if lane.kernel in kernels and lane.when in (DEFAULT, ALL)]
    if is_quick:
        return [lane for lane in every if lane.when == QUICK]
    wanted = (DEFAULT, ALL) if is_all else (DEFAULT,)
    return [lane for lane in every if lane.when in wanted]


def names(every: Sequence[Lane]) -> list[str]:
    """Name what `lanes` takes as a name."""
    kinds = (lane.name.rpartition("-")[2] for lane in every if lane.kernel or lane.when == NAMED)
    return list(dict.fromkeys([*(lane.name for lane in every), *filter(None, kinds)]))


def only(chosen: Sequence[Lane], files: Sequence[str]) -> list[Lane]:
    """Keep of each lane these files; lanes without any of them fall out."""
    wanted = {short(file) for file in files}
    kept = [
        lane._replace(files=tuple(file for file in lane.files if short(file) in wanted))
        for lane in chosen
    ]
    return [lane for lane in kept if lane.files]


def is_quiet(lane: Lane) -> bool:
    """Say whether a lane watches this machine itself, and so goes first, while it is quiet."""
    return lane.kernel is None and not lane.command and lane.when in (DEFAULT, QUICK)
