"""Who asked, of real programs that are interpreted or compiled as they run: CPython, Node, Java.

Runs natively too, in the lowest attach mode.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .conftest import Captured, capture, functions

pytestmark = [
    pytest.mark.live,
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="was tried on x86-64 only"),
]

PYTHON = """
import os, resource, subprocess
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
os.setgid(61013); os.setuid(61013)
try:
    subprocess.run(["true"])
except OSError as error:
    print(error.errno)
"""
FUNCTIONS = """
import os, resource, time
resource.setrlimit(resource.RLIMIT_NPROC, (1, 1))
os.setgid(61013); os.setuid(61013)
def spawn_worker():
    try:
        os.fork()
    except OSError:
        pass
    other()
def other():
    time.sleep(0.5)
class Pool:
    def grow(self):
        for _ in range(8):
            spawn_worker()
Pool().grow()
"""
NODE = """
const { spawn } = require('child_process');
function runJob() { spawn('sleep', ['5']).on('error', () => {}); }
function outerJob() { runJob(); runJob(); }
for (let i = 0; i < 20; i++) outerJob();
"""
JAVA = """
import java.lang.management.ManagementFactory;
import javax.management.ObjectName;

public class Caller {
    static void runJob() {
        Thread thread = new Thread(() -> {
            try { Thread.sleep(60000); } catch (InterruptedException e) { }
        });
        thread.setDaemon(true);
        thread.start();
    }
    static void outerJob() { runJob(); }
    public static void main(String[] arguments) throws Exception {
        int count = 0;
        try {
            // The first ones go through; by then these are compiled, and the map tells where they lie.
            for (; count < 5; count++) outerJob();
            if (arguments.length > 0)
                ManagementFactory.getPlatformMBeanServer().invoke(
                    new ObjectName("com.sun.management:type=DiagnosticCommand"),
                    "compilerPerfmap", null, null);
            for (; count < 2000; count++) outerJob();
        } catch (OutOfMemoryError error) {
            // A server would live on; a moment is enough for its map to be read.
            Thread.sleep(2000);
            System.out.println("refused");
            System.exit(0);
        }
    }
}
"""
LIMITED = ("setpriv", "--reuid", "61013", "--regid", "61013", "--clear-groups", "prlimit")


@pytest.fixture(scope="module")
def sources() -> Iterator[Path]:
    """Where another user may read; pytest's own directories are its user's alone."""
    with tempfile.TemporaryDirectory(prefix="ft-sources-") as directory:
        place = Path(directory)
        for name, text in (
            ("job.py", PYTHON),
            ("work.py", FUNCTIONS),
            ("app.js", NODE),
            ("Caller.java", JAVA),
        ):
            (place / name).write_text(text)
        place.chmod(0o755)
        yield place


def run_real(sources: Path, tmp_path: Path, *argv: str, needs: str) -> Captured:
    if not shutil.which(needs):
        pytest.skip(f"needs {needs}; scripts/setup --vm installs it")
    captured = capture(tmp_path / "c.jsonl", *argv, options=("--uid", "61013"), timeout_s=600)
    assert captured.failures, captured.done.stdout[-500:]
    return captured


def test_cpython_s_subprocess_is_named_with_its_script(
    any_host: dict[str, Any], sources: Path, tmp_path: Path
) -> None:
    captured = run_real(sources, tmp_path, sys.executable, f"{sources}/job.py", needs="python3")

    assert {f"{sources}/job.py"} == {failure["script"] for failure in captured.failures}
    # The symbols of a Python without its debug package do not have the C function.
    assert {failure["caller"] for failure in captured.failures} <= {
        "_fork_exec <- job.py",
        "job.py",
    }
    assert {"unwinding"} == {failure["stack_by"] for failure in captured.failures}


# They publish their offsets. No release of a distribution has all of them.
_WITH_OFFSETS = ("python3.13", "python3.14", "python3.15")


def _is_there(python: str) -> bool:
    # Some are there by name only, as what picks one of several.
    return bool(shutil.which(python)) and not subprocess.run([python, "-c", ""]).returncode


@pytest.mark.parametrize("python", [each for each in _WITH_OFFSETS if _is_there(each)])
def test_a_python_function_is_named_where_it_is_borne_out(
    any_host: dict[str, Any], sources: Path, tmp_path: Path, python: str
) -> None:
    captured = run_real(sources, tmp_path, python, f"{sources}/work.py", needs=python)
    read = [
        [(frame["symbol"], frame["read_later"], frame["line"]) for frame in failure["stack"]]
        for failure in captured.failures
    ]
    read = [[each for each in frames if each[1]] for frames in read]

    assert 8 == sum(failure["count"] for failure in captured.failures)
    assert {failure["caller"] for failure in captured.failures} <= {
        "spawn_worker:work.py",
        "work.py",  # it was not looked at in time
    }
    assert [("spawn_worker", "confirmed", 5)] in [frames[:1] for frames in read]
    # Who called it is only as sure as that the process had not moved on.
    assert ("Pool.grow", "unconfirmed", 14) in [each for frames in read for each in frames]
    assert not any(name == "other" for frames in read for name, *_ in frames)


def test_node_s_child_process_is_named_with_its_script(
    any_host: dict[str, Any], sources: Path, tmp_path: Path
) -> None:
    argv = (*LIMITED, "--nproc=30:30", "node", f"{sources}/app.js")
    captured = run_real(sources, tmp_path, *argv, needs="node")

    assert {"uv_spawn <- app.js"} == {failure["caller"] for failure in captured.failures}


def test_node_s_functions_are_named_by_its_map(
    any_host: dict[str, Any], sources: Path, tmp_path: Path
) -> None:
    argv = (*LIMITED, "--nproc=30:30", "node", "--perf-basic-prof", "--always-sparkplug")
    captured = run_real(sources, tmp_path, *argv, f"{sources}/app.js", needs="node")
    names = [name for name in functions(captured.failures[-1]) if "app.js" in (name or "")]

    assert ["runJob", "outerJob"] == [
        str(name).partition("JS:")[2].strip("*~^+").split()[0] for name in names[:2]
    ]
    assert str(captured.failures[-1]["caller"]).startswith("uv_spawn <- runJob app.js:")


def compile_java(sources: Path) -> None:
    if not shutil.which("javac"):
        pytest.skip("needs javac; scripts/setup --vm installs it")
    if not (sources / "Caller.class").exists():
        subprocess.run(["javac", "-d", sources, sources / "Caller.java"], check=True)
        for compiled in sources.glob("*.class"):
            compiled.chmod(0o644)


JVM = ("java", "-XX:+UseSerialGC", "-XX:+PreserveFramePointer", "-XX:TieredStopAtLevel=1")


def test_java_s_threads_are_named_with_its_class(
    any_host: dict[str, Any], sources: Path, tmp_path: Path
) -> None:
    compile_java(sources)
    argv = (*LIMITED, "--nproc=60:60", *JVM, "-Xint", "-cp", str(sources), "Caller")
    captured = run_real(sources, tmp_path, *argv, needs="java")
    callers = {failure["caller"] for failure in captured.of("java")}

    assert {"pthread_create <- Caller"} == callers


def test_java_s_methods_are_named_by_its_map(
    any_host: dict[str, Any], sources: Path, tmp_path: Path
) -> None:
    compile_java(sources)
    argv = [*LIMITED, "--nproc=60:60", *JVM, "-Xcomp", "-XX:CompileCommand=quiet"]
    argv += ["-XX:CompileCommand=dontinline,Caller::*", "-XX:CompileCommand=compileonly,Caller::*"]
    argv += ["-XX:CompileCommand=compileonly,java.lang.Thread::*"]
    captured = run_real(
        sources, tmp_path, *argv, "-cp", str(sources), "Caller", "map", needs="java"
    )
    names = [name for name in functions(captured.of("java")[0]) if "Caller." in (name or "")]

    assert ["runJob", "outerJob", "main"] == [
        str(name).partition("Caller.")[2].partition("(")[0] for name in names
    ]
    # Others are of the JVM's own threads, as it ends.
    assert "pthread_create <- void Caller.runJob()" == captured.of("java")[0]["caller"]
