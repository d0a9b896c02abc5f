"""Runs the recorder in a guest as the kubelet would run a pod's container: as_kubelet.py ROOT SPEC OUT.

ROOT is the image; SPEC (JSON) has what the manifest says: `args`, `env`, `capabilities`, `mounts` of
[host path, path, read only], `host_pid`, `writable`. The namespaces, the read-only root, the mounts and
the bounding set are the kernel's own; what is left out of a runtime is its seccomp profile and the network.
Writes {"doctors": {name: doctor's JSON}, "metrics": text, "records": [lines]} to OUT.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

import own_cgroups  # noqa: E402

COUNT = 23
POD = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
ID = "c0ffee" + "0123456789" * 5 + "abcdef12"
VERSION, CGROUPS = own_cgroups.pids_hierarchies()[0]
SLICES = ("kubepods.slice", "kubepods-burstable.slice")
POD_SLICE = f"kubepods-burstable-pod{POD.replace('-', '_')}.slice"
OWN_ID = "1" * 64

# $0: the image, $1: read-only or not, then source, target and "ro" or "rw" of each mount up to "--".
MOUNT = r"""
set -e
root=$0; shown=$1; shift
mount --make-rprivate /
mount --bind "$root" "$root"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"
mount -t tmpfs -o mode=755,size=64k dev "$root/dev"
for each in null zero full random urandom; do
	: >"$root/dev/$each"; mount --bind "/dev/$each" "$root/dev/$each"
done
mount -t cgroup2 -o ro cgroup2 "$root/sys/fs/cgroup" || true
while [ "$1" != -- ]; do
	mkdir -p "$1" "$root$2"
	mount --rbind "$1" "$root$2"
	[ "$3" = rw ] || mount -o remount,bind,ro "$root$2"
	shift 3
done
shift
[ "$shown" = writable ] || mount -o remount,bind,ro "$root"
exec chroot "$root" "$@"
"""


def cgroup_of(*parts: str) -> Path:
    """Make a cgroup as the kubelet and the runtime do, with the pids controller all the way."""
    place = Path(CGROUPS)
    for part in parts:
        if VERSION == 2:
            (place / "cgroup.subtree_control").write_text("+pids")
        place = place / part
        place.mkdir(exist_ok=True)
    return place


def container(root: str, spec: dict[str, Any], *argv: str) -> list[str]:
    """The command line that runs a program of the image as the manifest says."""
    kept = ",".join(f"+{name.lower()}" for name in spec["capabilities"])
    namespaces = ["--mount", "--uts", "--ipc", "--cgroup"]
    if not spec["host_pid"]:
        namespaces += ["--pid", "--fork", "--kill-child"]
    mounts = [
        word
        for source, target, is_ro in spec["mounts"]
        for word in (source, target, "ro" if is_ro else "rw")
    ]
    shown = "writable" if spec["writable"] else "read-only"
    env = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", *spec["env"]]
    # setpriv is the image's own.
    bound = ["setpriv", f"--bounding-set=-all,{kept}", "--inh-caps=-all", "--no-new-privs", "--"]
    enter = ["sh", "-c", MOUNT, root, shown, *mounts, "--", *env, *bound, *argv]
    return ["unshare", *namespaces, *enter]


def into(place: Path) -> Any:
    """What a process does before it becomes what it is to be: it goes into a cgroup."""
    return lambda: (place / "cgroup.procs").write_text("0")


def fail(place: Path) -> None:
    """Fail to fork in the pod's container."""
    program = (
        "import os\nopen('/proc/self/comm', 'w').write('web')\n"
        f"for _ in range({COUNT}):\n"
        "    try:\n        os.fork() or os._exit(0)\n"
        "    except BlockingIOError:\n        continue\n    raise SystemExit('it went through')"
    )
    subprocess.run([sys.executable, "-c", program], preexec_fn=into(place), check=True)


def record(root: str, spec: dict[str, Any], own: Path, pod: Path) -> dict[str, Any]:
    """Run what the manifest runs while forks of another pod fail; what it served and wrote."""
    argv = container(root, spec, "/usr/bin/fork-trace", *spec["args"])
    running = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, preexec_fn=into(own))
    assert running.stderr is not None
    begun = running.stderr.readline()
    if not begun.startswith("Watching"):
        return {"failed": begun + running.stderr.read()}
    (pod.parent / "pids.max").write_text("1")
    fail(pod)
    time.sleep(15)
    url = "http://127.0.0.1:9835"
    with urllib.request.urlopen(f"{url}/metrics", timeout=20) as answer:
        metrics = answer.read().decode()
    with urllib.request.urlopen(f"{url}/healthz", timeout=20) as answer:
        health = answer.status
    status = Path(f"/proc/{running.pid}/status").read_text()
    running.terminate()
    running.wait(timeout=60)
    (captures,) = [each[0] for each in spec["mounts"] if not each[2]]
    lines = [
        line
        for file in sorted(Path(captures).glob("*.jsonl"))
        for line in file.read_text().splitlines()
    ]
    return {
        **{"begun": begun, "metrics": metrics, "health": health, "status": status},
        **{"ended": running.returncode, "records": lines, "said": running.stderr.read()},
    }


def variants(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The whole, and without one thing each."""
    found = {"whole": spec, "no host pid": {**spec, "host_pid": False}}
    for name in ("BPF", "PERFMON", "SYS_PTRACE", "DAC_READ_SEARCH", "SETUID"):
        kept = [each for each in spec["capabilities"] if each != name]
        found[f"no {name}"] = {**spec, "capabilities": kept}
    fewer = [each for each in spec["mounts"] if each[1] != "/sys/fs/cgroup"]
    return {**found, "no cgroups": {**spec, "mounts": fewer}}


def main(root: str, spec_file: str, out: str) -> None:
    """Ask doctor with all that the manifest gives and without one thing each; then record."""
    spec = json.loads(Path(spec_file).read_text())
    pod = cgroup_of(*SLICES, POD_SLICE, f"cri-containerd-{ID}.scope")
    own = cgroup_of(*SLICES, f"{POD_SLICE[:-7]}1.slice", f"cri-containerd-{OWN_ID}.scope")
    with tempfile.TemporaryDirectory() as node:
        for mount in spec["mounts"]:
            # The node's own logs are nobody's to be changed by a test.
            if mount[0].startswith("/var/"):
                mount[0] = node + mount[0]
                Path(mount[0]).mkdir(parents=True)
        (logs,) = [each[0] for each in spec["mounts"] if each[1] == "/var/log/containers"]
        target = f"/var/log/pods/shop_web-0_{POD}/app/0.log"
        (Path(logs) / f"web-0_shop_app-{ID}.log").symlink_to(target)
        doctors = {}
        for name, each in variants(spec).items():
            argv = container(root, each, "/usr/bin/fork-trace", "doctor", "--json")
            done = subprocess.run(argv, capture_output=True, text=True, preexec_fn=into(own))
            try:
                doctors[name] = json.loads(done.stdout)
            except ValueError:
                doctors[name] = {"failed": done.stdout + done.stderr}
        found = {"doctors": doctors, **record(root, spec, own, pod)}
    for place in (pod, own, pod.parent, own.parent, own.parents[1], own.parents[2]):
        own_cgroups.remove(place)
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    os.umask(0o022)
    main(*sys.argv[1:4])
