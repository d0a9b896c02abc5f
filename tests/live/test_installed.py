"""Installed as users do it: the Debian package in a root with nothing else, and pip into a venv.

Each is run there, on the running kernel, from a place that does not know this checkout.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import schema

from fork_trace import __version__, documents

from .conftest import IS_GUEST

pytestmark = pytest.mark.live

CHECKOUT = Path(__file__).resolve().parent.parent.parent
TIMEOUT_S = 1200  # packages come over the network
ENVIRON = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
}
SCENARIOS = {"rlimit-nproc": "rlimit-nproc", "pid-namespace-dead": "pid-namespace-dead"}
# Not built anew by whoever copies it, and nothing of it is needed.
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", ".*_cache", ".hypothesis", "__pycache__", "*.o")
MOUNT = (
    'for each in proc sys dev; do mount --rbind "/$each" "$0/$each"; done; exec chroot "$0" "$@"'
)


@pytest.fixture(autouse=True, scope="module")
def _host() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: run it by scripts/test, or with sudo")
    if IS_GUEST:
        pytest.skip("a guest has no network: scripts/test runs it natively")


def run(*argv: str | Path, status: int = 0, cwd: str | Path = "/") -> str:
    """Run a program without anything of this process' environment; what it prints."""
    done = subprocess.run(
        [str(word) for word in argv],
        capture_output=True,
        text=True,
        env=ENVIRON,
        cwd=cwd,
        timeout=TIMEOUT_S,
    )
    assert status == done.returncode, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def assert_works(*program: str | Path) -> None:
    """It says its version, can watch here, names what it rehearses and explains it."""
    assert f"fork-trace, version {__version__}\n" == run(*program, "--version")
    assert json.loads(run(*program, "doctor", "--json"))["usable"]
    told = run(
        *(*program, "capture", "--json", "--", "fork-trace", "rehearse", *SCENARIOS), status=1
    )
    header, *failures, summary = schema.read(told)
    counts = {cause: 0 for cause in SCENARIOS.values()}
    for each in failures:
        if each["comm"].startswith("ft-"):
            counts[each["cause"]] += each["count"]

    assert f"fork-trace {__version__}" == header["tool"]
    assert dict.fromkeys(SCENARIOS.values(), 23) == counts
    assert 0 == summary["lost"]
    assert schema.published() == json.loads(run(*program, "docs", "schema"))
    assert "Common misconceptions" in run(*program, "explain", "pids-cgroup")
    assert documents.text("runbook") == run(*program, "docs", "runbook")


@pytest.fixture(scope="module")
def package(_host: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("deb")
    done = subprocess.run(
        [CHECKOUT / "scripts" / "build-deb", place],
        capture_output=True,
        text=True,
        check=True,
        timeout=TIMEOUT_S,
    )
    (found,) = place.glob("*.deb")
    assert f"{found}\n" == done.stdout
    return found


def sources(codename: str) -> list[Path]:
    """The machine's own lists that have its own release."""
    places = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").iterdir())]
    return [
        each
        for each in places
        if each.suffix in (".list", ".sources") and each.exists() and codename in each.read_text()
    ]


@pytest.fixture(scope="module")
def clean_root(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A root of the machine's own release, with apt, the package and what that asks for."""
    if not shutil.which("mmdebstrap"):
        pytest.skip("there is no mmdebstrap: scripts/setup --vm installs it")
    codename = run("sh", "-c", '. /etc/os-release; echo "$VERSION_CODENAME"').strip()
    root = tmp_path_factory.mktemp("clean") / "root"
    install = f'chroot "$1" apt-get -q -y install --no-install-recommends /tmp/{package.name}'
    try:
        run(
            *("mmdebstrap", "--mode=root", "--variant=apt", "--quiet"),
            "--dpkgopt=force-unsafe-io",
            f"--customize-hook=copy-in {package} /tmp",
            f"--customize-hook={install}",
            codename,
            root,
            *sources(codename),
        )
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)


def inside(root: Path) -> tuple[str | Path, ...]:
    # Mounted for this one process, so that nothing is left to be unmounted.
    return ("unshare", "--mount", "--propagation", "private", "sh", "-c", MOUNT, root)


def within(root: Path, *argv: str, status: int = 0) -> str:
    return run(*inside(root), *argv, status=status)


def test_the_package_asks_for_what_it_needs(package: Path) -> None:
    depends = run("dpkg-deb", "-f", package, "Depends")

    for name in ("python3-click", "python3-tabulate", "libbpf1"):
        assert name in depends
    assert "bpfcc" not in depends
    assert (
        "python3-bpfcc, python3-prometheus-client"
        == run("dpkg-deb", "-f", package, "Suggests").strip()
    )
    assert "python3-jinja2" == run("dpkg-deb", "-f", package, "Recommends").strip()
    assert __version__ == run("dpkg-deb", "-f", package, "Version").strip()


def test_the_same_source_gives_the_same_package(package: Path, tmp_path: Path) -> None:
    subprocess.run([CHECKOUT / "scripts" / "build-deb", tmp_path], check=True, capture_output=True)

    assert package.read_bytes() == (tmp_path / package.name).read_bytes()


def test_the_package_works_in_a_clean_root(clean_root: Path) -> None:
    assert_works(*inside(clean_root), "fork-trace")


def test_the_package_is_whole_and_has_its_documents(clean_root: Path) -> None:
    listed = within(clean_root, "dpkg", "-L", "fork-trace").split()

    assert "" == within(clean_root, "dpkg", "--verify", "fork-trace")
    for name in (
        "/usr/share/man/man8/fork-trace.8.gz",
        "/usr/share/man/man5/fork-trace-capture.5.gz",
        "/usr/share/man/man7/fork-trace-causes.7.gz",
        "/usr/share/bash-completion/completions/fork-trace",
        "/usr/share/zsh/vendor-completions/_fork-trace",
        "/usr/share/fish/vendor_completions.d/fork-trace.fish",
        "/usr/share/doc/fork-trace/copyright",
        "/usr/lib/systemd/system/fork-trace.service",
        "/usr/lib/systemd/catalog/fork-trace.catalog",
    ):
        assert name in listed
        assert (clean_root / name[1:]).stat().st_size


def test_a_user_without_privileges_reads_the_book_and_is_told_what_he_lacks(
    clean_root: Path,
) -> None:
    user = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "fork-trace")

    assert "pids-cgroup" in within(clean_root, *user, "explain", "EAGAIN")
    assert not json.loads(within(clean_root, *user, "doctor", "--json", status=1))["usable"]


def test_nothing_is_left_when_the_package_is_removed(clean_root: Path) -> None:
    within(clean_root, "dpkg", "--purge", "fork-trace")
    left = [each for each in clean_root.glob("usr/**/*fork[-_]trace*")]

    assert [] == left


def built(*words: str | Path, cwd: Path) -> None:
    """Run a build with the environment of whoever runs this: where packages come from may stand there."""
    done = subprocess.run(
        [str(word) for word in words], cwd=cwd, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert 0 == done.returncode, done.stdout[-2000:] + done.stderr[-2000:]


def test_a_package_for_another_architecture_leaves_the_checkouts_programs_alone(
    tmp_path: Path,
) -> None:
    ours = {path.name: path.read_bytes() for path in (CHECKOUT / "bpf").glob("*.bpf.o")}
    other, architecture, registers = {
        "x86_64": ("aarch64", "arm64", b"orig_x0"),
        "aarch64": ("x86_64", "amd64", b"orig_ax"),
    }[os.uname().machine]
    built("env", f"FORK_TRACE_ARCH={other}", "scripts/build-deb", tmp_path, cwd=CHECKOUT)
    (package,) = tmp_path.glob("*.deb")
    run("dpkg-deb", "-x", package, tmp_path / "root")
    carried = next((tmp_path / "root").rglob("_bpf"))

    assert f"{architecture}\n" == run("dpkg-deb", "-f", package, "Architecture")
    assert {path.name for path in carried.glob("*.bpf.o")} == set(ours)
    # Where a program finds the registers of a system call.
    assert registers in (carried / "fork_trace.bpf.o").read_bytes()
    assert registers not in ours["fork_trace.bpf.o"]
    assert ours == {path.name: path.read_bytes() for path in (CHECKOUT / "bpf").glob("*.bpf.o")}


@pytest.fixture(scope="module")
def source(_host: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source archive of this checkout, made in a copy of it."""
    place = tmp_path_factory.mktemp("source")
    shutil.copytree(CHECKOUT, place / "copy", ignore=LEFT_OUT)
    python = CHECKOUT / ".venv" / "bin" / "python"
    built(python, "setup.py", "-q", "sdist", "--dist-dir", place, cwd=place / "copy")
    shutil.rmtree(place / "copy")
    (found,) = place.glob("*.tar.gz")
    return found


def test_the_source_archive_has_what_a_checkout_has(source: Path) -> None:
    listed = {name.partition("/")[2] for name in run("tar", "tzf", source).split()}
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=CHECKOUT, check=True, capture_output=True, text=True
    ).stdout.split()

    assert [] == [name for name in tracked if name not in listed]
    assert not [name for name in listed if name.endswith((".o", ".pyc", ".so"))]


def test_pip_installs_the_wheel_of_the_source_archive_into_a_venv(
    source: Path, tmp_path: Path
) -> None:
    venv = tmp_path / "venv"
    run("/usr/bin/python3", "-m", "venv", "--system-site-packages", venv)
    pip = venv / "bin" / "pip"
    built(pip, "wheel", "-q", "--no-deps", "-w", tmp_path, source, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    built(pip, "install", "-q", wheel, cwd=tmp_path)

    assert f"fork_trace-{__version__}-py3-none-linux_{os.uname().machine}.whl" == wheel.name
    assert_works("env", f"PATH={venv}/bin:{ENVIRON['PATH']}", "fork-trace")
    for page in ("fork-trace.8", "fork-trace-capture.5", "fork-trace-causes.7"):
        assert (venv / "share" / "man" / f"man{page[-1]}" / page).stat().st_size
    assert str(venv) in run(
        venv / "bin" / "python", "-c", "import fork_trace as f; print(f.__file__)"
    )
