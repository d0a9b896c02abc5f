"""Names of containers and pods, from trees like those that their runtimes keep."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from fork_trace import runtimes
from fork_trace.containers import Place

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
