"""A cgroup by the name of another's container does not get that one's name.

Runs natively too, in the lowest attach mode.
"""

from __future__ import annotations

import json
import os
import secrets
import shlex
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import own_cgroups
import pytest

from .conftest import FORK_TRACE, capture

pytestmark = pytest.mark.live

VICTIM = secrets.token_hex(32)
OTHER = secrets.token_hex(32)
DOCKER = Path("/var/lib/docker/containers")
COMM = "ft-rlimit-nproc"


@contextmanager
def containers(*ids: str) -> Iterator[None]:
    """What docker keeps of them; they are gone afterwards, and what was made for them."""
    missing = [each for each in (DOCKER, *DOCKER.parents) if not each.exists()]
    DOCKER.mkdir(parents=True, exist_ok=True)
    try:
        for number, id_ in enumerate(ids):
            (DOCKER / id_).mkdir()
            config = {"Name": f"/victim-{number}", "Config": {"Labels": {}}}
            (DOCKER / id_ / "config.v2.json").write_text(json.dumps(config))
        yield
    finally:
        for id_ in ids:
            shutil.rmtree(DOCKER / id_, ignore_errors=True)
        for each in missing:
            each.rmdir()


@contextmanager
def made(path: Path) -> Iterator[Path]:
    """A cgroup with all that are missing above it."""
    missing = [each for each in (path, *path.parents) if not each.exists()]
    path.mkdir(parents=True)
    try:
        yield path
    finally:
        for each in missing:
            own_cgroups.remove(each)


def test_the_outermost_container_is_told_and_none_of_a_user_s_is_the_host_s(
    usable: dict[str, Any], tmp_path: Path
) -> None:
    hierarchies = own_cgroups.pids_hierarchies()
    if not hierarchies:
        pytest.skip("no mounted hierarchy has the pids controller")
    top = Path(hierarchies[0][1])
    scope = f"docker-{VICTIM}.scope"
    user = top / "user.slice/user-1000.slice/user@1000.service/app.slice"
    places = {
        "real": top / f"ft{os.getpid()}.slice" / scope,
        "user": user / scope,
        "inner": top / f"ft{os.getpid()}.slice" / f"docker-{OTHER}.scope" / scope,
        "lent": top / f"ft{os.getpid()}.slice/lent.slice" / scope,
    }
    fork = shlex.join([*FORK_TRACE, "rehearse", "rlimit-nproc", "--count", "1"])
    with ExitStack() as stack:
        stack.enter_context(containers(VICTIM, OTHER))
        for place in places.values():
            stack.enter_context(made(place))
        # As of a unit with Delegate=yes: who owns it names what is below it.
        os.chown(places["lent"].parent, 1000, 1000)
        script = "; ".join(
            f"sh -c {shlex.quote(f'echo 0 >{place}/cgroup.procs; exec {fork}')}"
            for place in places.values()
        )
        captured = capture(tmp_path / "c.jsonl", "sh", "-c", script)
    told = {each["cgroup"]: each["container"] for each in captured.of(COMM)}
    found = {name: told[f"/{place.relative_to(top)}"] for name, place in places.items()}
    nothing = {"runtime": "docker", "pod": None, "pod_name": None}

    assert {
        "real": {**nothing, "id": VICTIM, "name": "victim-0", "unit": scope, "user": None},
        "user": {**nothing, "id": VICTIM, "name": None, "unit": scope, "user": 1000},
        "inner": {
            **{**nothing, "id": OTHER, "name": "victim-1", "user": None},
            "unit": f"docker-{OTHER}.scope",
        },
        "lent": {**nothing, "id": VICTIM, "name": None, "unit": scope, "user": None},
    } == found
