"""Where a cgroup runs, by the forms of path that are really made."""

from __future__ import annotations

import pytest

from fork_trace.model import places
from fork_trace.model.places import PLAIN, Place

ID = "3f2a9c41" * 8
POD = "d3b07384-d113-4ec6-9c1a-0123456789ab"
SLICE = f"kubepods-burstable-pod{POD.replace('-', '_')}.slice"
HASH = "9d5ed678fe57bcca610140957afab571"

PODS = [
    (
        f"/kubepods.slice/kubepods-burstable.slice/{SLICE}/cri-containerd-{ID}.scope",
        Place("kubernetes", "containerd", ID, POD, f"cri-containerd-{ID}.scope"),
    ),
    (
        f"/kubepods.slice/kubepods-burstable.slice/{SLICE}/crio-{ID}.scope",
        Place("kubernetes", "crio", ID, POD, f"crio-{ID}.scope"),
    ),
    (
        f"/kubepods.slice/kubepods-burstable.slice/{SLICE}/docker-{ID}.scope",
        Place("kubernetes", "docker", ID, POD, f"docker-{ID}.scope"),
    ),
    # guaranteed pods have no class of their own
    (
        f"/kubepods.slice/kubepods-pod{POD.replace('-', '_')}.slice/cri-containerd-{ID}.scope",
        Place("kubernetes", "containerd", ID, POD, f"cri-containerd-{ID}.scope"),
    ),
    # a static pod
    (
        f"/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod{HASH}.slice/crio-{ID}.scope",
        Place("kubernetes", "crio", ID, HASH, f"crio-{ID}.scope"),
    ),
    # the cgroupfs driver: nothing tells the runtime, except CRI-O's prefix
    (f"/kubepods/burstable/pod{POD}/{ID}", Place("kubernetes", None, ID, POD)),
    (f"/kubepods/pod{POD}/{ID}", Place("kubernetes", None, ID, POD)),
    (f"/kubepods/besteffort/pod{POD}/crio-{ID}", Place("kubernetes", "crio", ID, POD)),
    # the systemd driver's path, used by the cgroupfs driver
    (
        f"/system.slice/containerd.service/{SLICE}:cri-containerd:{ID}",
        Place("kubernetes", "containerd", ID, POD),
    ),
    # kind, as its node sees it: the kubelet's root is a cgroup of its own
    (
        "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/"
        f"kubelet-{SLICE}/cri-containerd-{ID}.scope",
        Place("kubernetes", "containerd", ID, POD, f"cri-containerd-{ID}.scope"),
    ),
    (f"/kubelet/kubepods/burstable/pod{POD}/{ID}", Place("kubernetes", None, ID, POD)),
    # above the containers
    (
        f"/kubepods.slice/kubepods-burstable.slice/{SLICE}",
        Place("kubernetes", pod=POD, unit=SLICE),
    ),
    (f"/kubepods/burstable/pod{POD}", Place("kubernetes", pod=POD)),
    ("/kubepods.slice", Place("kubernetes", unit="kubepods.slice")),
    (
        "/kubepods.slice/kubepods-burstable.slice",
        Place("kubernetes", unit="kubepods-burstable.slice"),
    ),
    ("/kubepods/burstable", Place("kubernetes")),
]
CONTAINERS = [
    (
        f"/system.slice/docker-{ID}.scope",
        Place("docker", "docker", ID, unit=f"docker-{ID}.scope"),
    ),
    (f"/docker/{ID}", Place("docker", "docker", ID)),
    # rootless docker
    (
        f"/user.slice/user-1000.slice/user@1000.service/user.slice/docker-{ID}.scope",
        Place("docker", "docker", ID, unit=f"docker-{ID}.scope", user=1000),
    ),
    # systemd inside
    (
        f"/system.slice/docker-{ID}.scope/system.slice/nginx.service",
        Place(
            "docker",
            "docker",
            ID,
            unit=f"docker-{ID}.scope",
            inner="system.slice/nginx.service",
        ),
    ),
    (
        f"/machine.slice/libpod-{ID}.scope",
        Place("podman", "podman", ID, unit=f"libpod-{ID}.scope"),
    ),
    (
        f"/machine.slice/libpod-{ID}.scope/container",
        Place("podman", "podman", ID, unit=f"libpod-{ID}.scope", inner="container"),
    ),
    (
        f"/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope/container",
        Place("podman", "podman", ID, unit=f"libpod-{ID}.scope", user=1000, inner="container"),
    ),
    (f"/libpod_parent/libpod-{ID}", Place("podman", "podman", ID)),
    (f"/system.slice/web.service/libpod-payload-{ID}", Place("podman", "podman", ID)),
    (
        f"/system.slice/nerdctl-{ID}.scope",
        Place("containerd", "containerd", ID, unit=f"nerdctl-{ID}.scope"),
    ),
]
UNITS = [
    ("/system.slice/nginx.service", Place("systemd-service", "systemd", unit="nginx.service")),
    (
        "/system.slice/system-getty.slice/getty@tty1.service",
        Place("systemd-service", "systemd", unit="getty@tty1.service"),
    ),
    (
        "/system.slice/nginx.service/worker",
        Place("systemd-service", "systemd", unit="nginx.service", inner="worker"),
    ),
    # below a unit only what it makes for itself: these are no units of the host's
    (
        "/system.slice/foo.service/bar.service",
        Place("systemd-service", "systemd", unit="foo.service", inner="bar.service"),
    ),
    ("/init.scope", Place("systemd-scope", "systemd", unit="init.scope")),
    (
        "/machine.slice/machine-qemu\\x2d1\\x2dvm.scope/libvirt/emulator",
        Place(
            "systemd-scope",
            "systemd",
            unit="machine-qemu\\x2d1\\x2dvm.scope",
            inner="libvirt/emulator",
        ),
    ),
    # podman's monitor is outside of its container
    (
        f"/machine.slice/libpod-conmon-{ID}.scope",
        Place("systemd-scope", "systemd", unit=f"libpod-conmon-{ID}.scope"),
    ),
    ("/system.slice", Place("slice", "systemd", unit="system.slice")),
    ("/app.slice/app-db.slice", Place("slice", "systemd", unit="app-db.slice")),
    (
        "/user.slice/user-1000.slice/session-3.scope",
        Place("login-session", "systemd", unit="session-3.scope"),
    ),
    (
        "/user.slice/user-0.slice/session-c1.scope",
        Place("login-session", "systemd", unit="session-c1.scope"),
    ),
    (
        "/user.slice/user-1000.slice",
        Place("login-session", "systemd", unit="user-1000.slice"),
    ),
    (
        "/user.slice/user-1000.slice/user@1000.service",
        Place("login-session", "systemd", unit="user@1000.service"),
    ),
    (
        "/user.slice/user-1000.slice/user@1000.service/app.slice/app-term-42.scope",
        Place("login-session", "systemd", unit="app-term-42.scope", user=1000),
    ),
    (
        "/user.slice/user-1000.slice/user@1000.service/init.scope",
        Place("login-session", "systemd", unit="init.scope", user=1000),
    ),
    ("/user.slice", Place("slice", "systemd", unit="user.slice")),
]
# What somebody inside a container, a unit or a user's own slice made, by the name of another's.
VICTIM = "b" * 64
USER = "/user.slice/user-1000.slice/user@1000.service"
FORGED = [
    # each of these lies inside what stands before it
    (
        f"/kubepods.slice/{SLICE}/cri-containerd-{ID}.scope/docker-{VICTIM}.scope",
        Place(
            *("kubernetes", "containerd", ID, POD, f"cri-containerd-{ID}.scope"),
            inner=f"docker-{VICTIM}.scope",
        ),
    ),
    (
        f"/docker/{ID}/kubelet/kubepods/burstable/pod{POD}/{VICTIM}",
        Place("docker", "docker", ID, inner=f"kubelet/kubepods/burstable/pod{POD}/{VICTIM}"),
    ),
    (f"/docker/{ID}/docker/{VICTIM}", Place("docker", "docker", ID, inner=f"docker/{VICTIM}")),
    (
        f"/system.slice/web.service/docker-{VICTIM}.scope",
        Place(*("systemd-service", "systemd"), unit="web.service", inner=f"docker-{VICTIM}.scope"),
    ),
    (
        f"/system.slice/web.service/{SLICE}:cri-containerd:{VICTIM}",
        Place(
            *("systemd-service", "systemd"),
            unit="web.service",
            inner=f"{SLICE}:cri-containerd:{VICTIM}",
        ),
    ),
    (
        f"/machine.slice/systemd-nspawn@web.service/payload/system.slice/docker-{VICTIM}.scope",
        Place(
            *("systemd-service", "systemd"),
            unit="systemd-nspawn@web.service",
            inner=f"payload/system.slice/docker-{VICTIM}.scope",
        ),
    ),
    # an inner unit is none of the host's, nor is a container in there
    *(
        (f"/{above}/{inner}", Place("lxc", "lxc", name="web1", inner=inner))
        for above in ("lxc.payload.web1", "lxc/web1")
        for inner in (
            f"system.slice/docker-{VICTIM}.scope",
            f"kubepods/burstable/pod{POD}/{VICTIM}",
            "system.slice/nginx.service",
        )
    ),
    # a user's own: the id is what that user says, the pod is not believed
    (
        f"{USER}/app.slice/docker-{VICTIM}.scope",
        Place("docker", "docker", VICTIM, unit=f"docker-{VICTIM}.scope", user=1000),
    ),
    (
        f"{USER}/kubepods.slice/{SLICE}/cri-containerd-{VICTIM}.scope",
        Place("containerd", "containerd", VICTIM, unit=f"cri-containerd-{VICTIM}.scope", user=1000),
    ),
    (
        f"{USER}/kubepods.slice/{SLICE}",
        Place("login-session", "systemd", unit=SLICE, user=1000),
    ),
    (
        f"{USER}/app.slice/own.service/docker-{VICTIM}.scope",
        Place(
            *("login-session", "systemd"),
            unit="own.service",
            user=1000,
            inner=f"docker-{VICTIM}.scope",
        ),
    ),
    (
        f"{USER}/app.slice/own.service/libpod-payload-{VICTIM}",
        Place("podman", "podman", VICTIM, user=1000),
    ),
]
MOUNTS = ["/sys/fs/cgroup", "/sys/fs/cgroup/pids", "/sys/fs/cgroup/unified"]
UNKNOWN = [
    None,
    "",
    "/",
    "/..",
    "/app",
    "/lxc",
    "/lxc.monitor.web",
    "/lxc.payload.",
    "/x/lxc.payload.web/x",
    f"/{ID}",
    f"/ecs/task/{ID}",
    f"/default/{ID}",
    "/docker/web",
    f"/docker/{ID[:63]}",
    f"/docker/{ID.upper()}",
    f"/kubepods2/pod{POD}/{ID}",
    f"/elsewhere/pod{POD[:-1]}/{ID}",
    f"/pod{POD}",
    "/.service",
    "cgroup id 77",
]


@pytest.mark.parametrize(("path", "place"), FORGED)
@pytest.mark.parametrize("mount", ["", *MOUNTS])
def test_what_is_inside_of_something_is_not_what_it_says(
    mount: str, path: str, place: Place
) -> None:
    assert place == places.place(mount + path)


@pytest.mark.parametrize(("path", "place"), [*PODS, *CONTAINERS, *UNITS])
@pytest.mark.parametrize("mount", ["", *MOUNTS])
def test_a_path_names_its_place_wherever_it_is_mounted(mount: str, path: str, place: Place) -> None:
    assert place == places.place(mount + path)


@pytest.mark.parametrize("path", UNKNOWN)
def test_an_unknown_form_is_plain_and_never_a_guess(path: str | None) -> None:
    assert PLAIN == places.place(path)
    assert places.place(path).as_record() is None


@pytest.mark.parametrize(("path", "place"), [*PODS, *CONTAINERS, *UNITS])
def test_a_record_has_its_seven_keys(path: str, place: Place) -> None:
    record = places.place(path).as_record()

    assert record is not None
    assert ["runtime", "id", "name", "pod", "pod_name", "unit", "user"] == list(record)
    assert (place.runtime, place.id, place.pod, place.unit, place.user) == tuple(
        record[key] for key in ("runtime", "id", "pod", "unit", "user")
    )


@pytest.mark.parametrize("name", ["{}", "a\nb.service", "$(id).service", "-x.service", "\ud800"])
def test_a_hostile_name_is_no_error(name: str) -> None:
    assert places.place(f"/system.slice/{name}").kind in ("slice", "systemd-service")


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        ("/lxc.payload.web/system.slice/a.service", "a.service"),
        ("/lxc/101/ns/system.slice/a.service", "a.service"),
        ("/lxc.payload.web/a.slice", "a.slice"),
        (f"/system.slice/docker-{ID}.scope/system.slice/a.service", "a.service"),
        ("/machine.slice/systemd-nspawn@web.service/payload/system.slice/a.service", "a.service"),
        ("/machine.slice/machine-web.scope/payload/a.slice", "a.slice"),
        # what the host's own service manager made, or a program in the container, or another manager
        ("/system.slice/a.service", None),
        ("/system.slice/a.service/b.service", None),
        ("/lxc.payload.web", None),
        ("/lxc.payload.web/workers", None),
        ("/lxc.payload.web/system.slice/a.service/workers", None),
        ("/lxc.payload.web/user.slice/user-1000.slice/user@1000.service/b.service", None),
        (f"/docker/{ID}/workers", None),
    ],
)
def test_a_unit_of_a_service_manager_inside_is_told_apart(path: str, unit: str | None) -> None:
    assert unit == places.unit_inside(places.place(path))
