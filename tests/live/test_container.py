"""The image and the DaemonSet: its steps run in a root, and what it runs with the manifest's rights on a real kernel.

Lane `container`. No registry and no builder is asked: the root is made from the machine's own release by
mmdebstrap, and the kubelet's part is done by programs/as_kubelet.py in a virtual machine.
"""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import schema

from .conftest import IS_GUEST
from .test_installed import CHECKOUT, run, sources

pytestmark = pytest.mark.live
yaml = pytest.importorskip("yaml", reason="kubernetes-validate brings it")
validate = pytest.importorskip("kubernetes_validate", reason="scripts/setup installs it")

DEPLOY = CHECKOUT / "fork_trace" / "deploy"
DOCKERFILE = (DEPLOY / "container" / "Dockerfile").read_text()
TEXT = (DEPLOY / "kubernetes" / "daemonset.yaml").read_text()
DAEMONSET = cast("dict[str, Any]", yaml.safe_load(TEXT))
POD = DAEMONSET["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
SECURITY = CONTAINER["securityContext"]
# The first that knows appArmorProfile, and the newest of which there are schemas.
VERSIONS = ("1.30", validate.latest_version())
COUNT, NODE = 23, "node-7"
TIMEOUT_S = 900


@pytest.mark.parametrize("version", VERSIONS)
def test_the_manifest_is_as_kubernetes_wants_it(version: str) -> None:
    validate.validate(DAEMONSET, version, strict=True)
    wrong = copy.deepcopy(DAEMONSET)
    wrong["spec"]["template"]["spec"]["containers"][0]["securityContext"]["readOnlyRoot"] = True

    with pytest.raises(validate.ValidationError):
        validate.validate(wrong, version, strict=True)


def test_it_has_no_more_than_it_needs_and_a_reason_beside_each() -> None:
    assert ["ALL"] == SECURITY["capabilities"]["drop"]
    assert SECURITY["readOnlyRootFilesystem"] and not SECURITY["privileged"]
    assert not SECURITY["allowPrivilegeEscalation"]
    assert (True, False, False) == tuple(
        POD[name] for name in ("hostPID", "hostNetwork", "hostIPC")
    )
    assert "system-node-critical" == POD["priorityClassName"]
    assert "exec" not in CONTAINER["livenessProbe"]
    for name in SECURITY["capabilities"]["add"]:
        assert re.search(rf"^ +- {name} +# \w", TEXT, re.MULTILINE), name
    for mount in CONTAINER["volumeMounts"]:
        assert re.search(rf"^ +- name: {mount['name']} +# \w", TEXT, re.MULTILINE), mount
    written = [each["name"] for each in CONTAINER["volumeMounts"] if not each.get("readOnly")]
    assert ["captures"] == written
    assert {each["name"] for each in CONTAINER["volumeMounts"]} == {
        each["name"] for each in POD["volumes"]
    }


def image_steps() -> tuple[str, list[str]]:
    """The packages' build step, and what the image itself runs."""
    build, image = re.split(r"^FROM .*$", DOCKERFILE, flags=re.MULTILINE)[1:]
    (made,) = re.findall(r"^RUN cd /src && (.+)$", build, re.MULTILINE)
    return made, re.findall(r"^RUN (.+)$", image, re.MULTILINE)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What the Dockerfile makes, from the machine's own release; beside it there is room for answers."""
    if os.geteuid() != 0 or IS_GUEST or not shutil.which("mmdebstrap"):
        pytest.skip("needs root, a network and mmdebstrap: scripts/setup --vm installs it")
    made, (step,) = image_steps()
    assert "scripts/setup --build && scripts/build-deb /out" == made
    share = tmp_path_factory.mktemp("share")
    deb = share / "out"
    subprocess.run([CHECKOUT / "scripts" / "build-deb", deb], check=True, timeout=TIMEOUT_S)
    codename = run("sh", "-c", '. /etc/os-release; echo "$VERSION_CODENAME"').strip()
    root: Path = share / "root"
    hook = share / "step"
    hook.write_text(f"#!/bin/sh\nexport DEBIAN_FRONTEND=noninteractive\n{step}\n")
    hook.chmod(0o755)
    try:
        run(
            *("mmdebstrap", "--mode=root", "--variant=apt", "--quiet"),
            "--dpkgopt=force-unsafe-io",
            f"--customize-hook=copy-in {deb} {hook} /tmp",
            '--customize-hook=chroot "$1" /tmp/step && rm "$1/tmp/step"',
            codename,
            root,
            *sources(codename),
        )
        yield share
    finally:
        shutil.rmtree(share, ignore_errors=True)


def spec() -> dict[str, Any]:
    """What of the manifest the kubelet hands to the runtime."""
    paths = {each["name"]: each["hostPath"]["path"] for each in POD["volumes"]}
    (host,) = CONTAINER["env"]
    assert "spec.nodeName" == host["valueFrom"]["fieldRef"]["fieldPath"]
    return {
        "args": CONTAINER["args"],
        "env": [f"{host['name']}={NODE}"],
        "capabilities": SECURITY["capabilities"]["add"],
        "mounts": [
            [paths[each["name"]], each["mountPath"], bool(each.get("readOnly"))]
            for each in CONTAINER["volumeMounts"]
        ],
        "host_pid": POD["hostPID"],
        "writable": not SECURITY["readOnlyRootFilesystem"],
    }


# Where it is run -> the attach modes that it may take there.
WHERE = {"here": ("fexit", "kprobe", "tracepoint"), "7.2": ("fexit",)}


@pytest.fixture(scope="module", params=sorted(WHERE))
def where(request: pytest.FixtureRequest) -> str:
    """The running kernel, and the newest in a virtual machine."""
    return str(request.param)


@pytest.fixture(scope="module")
def ran(image: Path, where: str) -> dict[str, Any]:
    """What the container said there."""
    (image / "spec.json").write_text(json.dumps(spec()))
    program = "python3 tests/live/programs/as_kubelet.py"
    share = image if where == "here" else "$FORK_TRACE_VM_SHARE"
    argv = ["sh", "-c", f"{program} {share}/root {share}/spec.json {share}/found.json"]
    if where != "here":
        argv = ["scripts/vm", "--kernel", where, "--timeout", "600", "--", *argv]
    environ = {**os.environ, "FORK_TRACE_VM_SHARE": str(image)}
    subprocess.run(argv, cwd=CHECKOUT, env=environ, check=True, timeout=TIMEOUT_S)
    found: dict[str, Any] = json.loads((image / "found.json").read_text())
    (image / "found.json").unlink()
    assert "failed" not in found, found["failed"]
    return found


def test_what_fails_in_a_pod_has_its_name_in_records_and_metrics(
    ran: dict[str, Any], where: str
) -> None:
    header, *rest = schema.read("\n".join(ran["records"]) + "\n")
    failures = [each for each in rest if each["type"] == "failure" and each["comm"] == "web"]
    (summary,) = [each for each in rest if each["type"] == "summary"]
    labels = 'cause="pids-cgroup",container="app",namespace="shop",pod="web-0",unit=""'

    assert NODE == header["host"]
    assert header["attach"] in WHERE[where]
    assert COUNT == sum(each["count"] for each in failures)
    certainty = "inferred" if header["attach"] == "tracepoint" else "observed"
    assert {("pids-cgroup", certainty)} == {(f["cause"], f["certainty"]) for f in failures}
    assert any(re.search(r"/python3(\.\d+)?$", each["exe"] or "") for each in failures)
    for each in failures:
        told = each["container"]
        assert ("app", "shop/web-0") == (told["name"], told["pod_name"])
        assert "containerd" == told["runtime"] and told["id"].startswith("c0ffee")
        assert each["cgroup"].startswith("/kubepods.slice/kubepods-burstable.slice/")
        assert each["evidence"][0]["where"].endswith(".slice")
    assert (0, 0) == (summary["lost"], summary["missed"] or 0)
    assert f"fork_trace_failures_by_owner_total{{{labels}}} {COUNT}.0\n" in ran["metrics"]


def test_it_ends_as_it_should_and_kept_no_more_than_it_may(ran: dict[str, Any]) -> None:
    held = re.search(r"^CapPrm:\s+([0-9a-f]+)$", ran["status"], re.MULTILINE)
    uid = re.search(r"^Uid:\s+(\d+)", ran["status"], re.MULTILINE)

    assert (0, 200, "") == (ran["ended"], ran["health"], ran["said"])
    assert uid and int(uid[1]) > 60_000
    # BPF, PERFMON, SYS_PTRACE, DAC_READ_SEARCH and CHECKPOINT_RESTORE: no SETUID, SETGID, CHOWN, SYSLOG.
    assert held and 5 == bin(int(held[1], 16)).count("1")


@pytest.mark.parametrize(
    ("name", "is_usable", "told"),
    [
        ("whole", True, ""),
        ("no BPF", False, "CAP_BPF"),
        ("no PERFMON", False, "CAP_PERFMON"),
        ("no SETUID", False, "CAP_SETUID"),
        ("no SYS_PTRACE", True, "without CAP_SYS_PTRACE"),
        ("no DAC_READ_SEARCH", True, "without CAP_DAC_READ_SEARCH"),
        ("no host pid", True, "pid namespace"),
        ("no cgroups", True, "cgroup namespace"),
    ],
)
def test_doctor_says_what_is_missing(
    ran: dict[str, Any], name: str, is_usable: bool, told: str
) -> None:
    found = ran["doctors"][name]
    lacking = {each: fact["why"] for each, fact in found["features"].items() if not fact["value"]}

    assert is_usable == found["usable"], found
    assert told in json.dumps([lacking, found["why"], found["remedy"]])
    if name == "whole":
        assert not {"privileges", "processes", "cgroups"} & set(lacking), lacking
