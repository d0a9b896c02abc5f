"""Names of containers and pods, from trees like those that their runtimes keep."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from fork_trace import files
from fork_trace.host import runtimes
from fork_trace.model.places import Place

ID = "0123456789abcdef" * 4
POD = "11111111-2222-3333-4444-555555555555"


def write(root: Path, path: str, value: Any) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(value if isinstance(value, str) else json.dumps(value))


def named(root: Path, **changes: Any) -> tuple[str | None, str | None]:
    values: dict[str, Any] = {"kind": "docker", "runtime": "docker", "id": ID}
    found = runtimes.Names(str(root)).named(Place(**{**values, **changes}))
    return found.name, found.pod_name


DOCKER = f"var/lib/docker/containers/{ID}/config.v2.json"
CONTAINERD = "run/containerd/io.containerd.runtime.v2.task"
STORAGE = "var/lib/containers/storage/overlay-containers/containers.json"


def test_docker_tells_its_names(tmp_path: Path) -> None:
    write(tmp_path, DOCKER, {"Name": "/web", "Config": {"Labels": {}}})

    assert ("web", None) == named(tmp_path)


def test_docker_under_kubernetes_tells_the_pod_s(tmp_path: Path) -> None:
    labels = {"io.kubernetes.pod.name": "shop-7d", "io.kubernetes.pod.namespace": "prod"}
    labels["io.kubernetes.container.name"] = "app"
    write(tmp_path, DOCKER, {"Name": "/k8s_app_shop", "Config": {"Labels": labels}})

    assert ("app", "prod/shop-7d") == named(tmp_path, pod=POD)


def test_containerd_tells_them_by_its_annotations(tmp_path: Path) -> None:
    annotations = {
        "io.kubernetes.cri.container-name": "app",
        "io.kubernetes.cri.sandbox-name": "shop-7d",
        "io.kubernetes.cri.sandbox-namespace": "prod",
    }
    write(tmp_path, f"{CONTAINERD}/k8s.io/{ID}/config.json", {"annotations": annotations})
    (tmp_path / CONTAINERD / "moby").mkdir()

    assert ("app", "prod/shop-7d") == named(tmp_path, runtime="containerd", pod=POD)


def test_nerdctl_tells_its_names(tmp_path: Path) -> None:
    config = {"annotations": {"nerdctl/name": "job"}}
    write(tmp_path, f"{CONTAINERD}/default/{ID}/config.json", config)

    assert ("job", None) == named(tmp_path, runtime="containerd")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["batch"], "batch"),
        ([f"k8s_app_shop-7d_prod_{POD}_0"], "app"),
        ([], None),
        ([7], None),
    ],
)
def test_podman_and_crio_list_theirs(
    tmp_path: Path, names: list[object], expected: str | None
) -> None:
    write(tmp_path, STORAGE, [{"id": "0" * 64, "names": ["other"]}, {"id": ID, "names": names}])

    assert (expected, None) == named(tmp_path, runtime="podman")


def test_the_kubelet_s_logs_tell_where_the_runtime_does_not(tmp_path: Path) -> None:
    write(tmp_path, f"var/log/containers/shop-7d_prod_app-{ID}.log", "")
    write(tmp_path, f"var/log/pods/prod_shop-7d_{POD}/app/0.log", "")

    assert ("app", "prod/shop-7d") == named(tmp_path, runtime=None, pod=POD)
    assert (None, "prod/shop-7d") == named(tmp_path, runtime=None, id=None, pod=POD)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "7",
        '{"Name": 7}',
        '{"Name": ["x"], "Config": []}',
        '{"Config": {"Labels": []}}',
        "[" * 100_000,
        "\x00",
        '{"Name": ""}',
    ],
)
def test_a_file_that_makes_no_sense_tells_nothing(tmp_path: Path, text: str) -> None:
    for path in (DOCKER, f"{CONTAINERD}/k8s.io/{ID}/config.json", STORAGE):
        write(tmp_path, path, text)

    assert (None, None) == named(tmp_path, pod=POD)


def test_a_name_is_bounded_and_can_be_written(tmp_path: Path) -> None:
    write(tmp_path, DOCKER, '{"Name": "/a\\u001b[31m\\ud800' + "x" * 10_000 + '"}')
    name, _ = named(tmp_path)

    assert name is not None
    assert len(name) <= 506
    assert name.startswith("a\x1b[31m\\ud800")  # escaped where it is shown


def test_a_file_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, DOCKER, {"Name": "/web", "Padding": "x" * 1000})
    monkeypatch.setattr(runtimes, "_MOST_BYTES", 100)

    assert (None, None) == named(tmp_path)


def test_a_name_is_remembered_and_one_that_is_not_there_yet_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, place = runtimes.Names(str(tmp_path)), Place("docker", "docker", ID)

    assert names.named(place).name is None
    write(tmp_path, DOCKER, {"Name": "/web"})
    assert names.named(place).name is None
    monkeypatch.setattr(time, "monotonic", lambda now=time.monotonic: now() + 60)
    assert "web" == names.named(place).name
    (tmp_path / DOCKER).unlink()
    assert "web" == names.named(place).name


def test_what_is_no_container_is_not_looked_for(tmp_path: Path) -> None:
    unit = Place("systemd-service", "systemd", unit="app.service")

    assert unit == runtimes.Names(str(tmp_path)).named(unit)


def test_of_a_user_s_container_nothing_of_the_host_s_is_told(tmp_path: Path) -> None:
    write(tmp_path, DOCKER, {"Name": "/victim"})
    write(tmp_path, STORAGE, [{"id": ID, "names": ["victim"]}])
    write(tmp_path, f"var/log/containers/shop-7d_prod_app-{ID}.log", "")

    assert (None, None) == named(tmp_path, user=1000)
    assert (None, None) == named(tmp_path, user=0, runtime="podman")
    assert ("victim", None) == named(tmp_path)


@pytest.mark.parametrize(
    ("owner", "mode", "expected"),
    [(0, 0o755, "victim"), (1000, 0o755, None), (0, 0o777, None)],
)
@pytest.mark.parametrize("inner", [None, "a/b"])
def test_a_cgroup_that_another_than_root_can_have_made_gets_no_name(
    tmp_path: Path, owner: int, mode: int, expected: str | None, inner: str | None
) -> None:
    if os.geteuid() != 0:
        pytest.skip("gives a directory away: run it as root")
    write(tmp_path, DOCKER, {"Name": "/victim"})
    above = tmp_path / "web.service"
    directory = above / f"libpod-payload-{ID}" / (inner or "")
    directory.mkdir(parents=True)
    above.chmod(mode)
    os.chown(above, owner, owner)
    place = Place("podman", "podman", ID, inner=inner)

    assert expected == runtimes.Names(str(tmp_path)).named(place, str(directory)).name


@pytest.mark.parametrize("driver", ["overlay", "vfs", "btrfs", "zfs"])
def test_podman_s_names_are_found_by_whichever_driver_it_stores(
    tmp_path: Path, driver: str
) -> None:
    path = f"var/lib/containers/storage/{driver}-containers/containers.json"
    write(tmp_path, path, [{"id": ID, "names": ["batch"]}])

    assert ("batch", None) == named(tmp_path, runtime="podman")


@pytest.mark.parametrize("above", ["var/lib/containers/storage", "run/containers/storage"])
def test_names_of_containers_that_are_to_be_removed_are_found_where_they_are_kept(
    tmp_path: Path, above: str
) -> None:
    others = [{"id": "f" * 64, "names": ["other"]}]
    write(tmp_path, "var/lib/containers/storage/vfs-containers/containers.json", others)
    write(
        tmp_path,
        f"{above}/vfs-containers/volatile-containers.json",
        [{"id": ID, "names": ["once"]}],
    )

    assert ("once", None) == named(tmp_path, runtime="podman")


def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are read from now on."""
    found: list[str] = []
    read = files.read

    def counting(path: str, most: int) -> bytes | None:
        found.append(path)
        return read(path, most)

    monkeypatch.setattr(files, "read", counting)
    return found


def test_a_list_is_read_once_however_many_ids_are_invented(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])
    write(tmp_path, STORAGE, [{"id": ID, "names": ["batch"]}])
    names, read = runtimes.Names(str(tmp_path)), reads(monkeypatch)
    for number in range(500):
        now_s[0] += 0.1
        assert names.named(Place("podman", "podman", f"{number:064x}")).name is None

    assert 1 == sum(path.endswith(STORAGE) for path in read)
    assert "batch" == names.named(Place("podman", "podman", ID)).name
    write(tmp_path, STORAGE, [{"id": "7" * 64, "names": ["newer"]}])
    now_s[0] += 2
    assert "newer" == names.named(Place("podman", "podman", "7" * 64)).name
    assert 2 == sum(path.endswith(STORAGE) for path in read)


def test_so_many_ids_are_looked_for_in_a_second_and_the_rest_in_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now_s[0])
    write(tmp_path, DOCKER, {"Name": "/web"})
    names, read = runtimes.Names(str(tmp_path)), reads(monkeypatch)
    for number in range(500):
        names.named(Place("docker", "docker", f"{number:064x}"))
    web = Place("docker", "docker", ID)

    assert runtimes._LOOKS_PER_S == sum("/docker/" in path for path in read)
    assert names.named(web).name is None
    now_s[0] += 1
    assert "web" == names.named(web).name
    for number in range(3000):
        now_s[0] += 0.1
        names.named(Place("docker", "docker", f"{number:064x}"))
    before = len(read)
    assert "web" == names.named(web).name
    assert before == len(read), "a name that was found is not forgotten for ids that have none"
