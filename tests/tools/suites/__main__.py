"""scripts/suites: builds what is run, then runs it on that kernel under fork-trace."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from vm.cache import VmError
from vm.kernels import KERNELS, NEWEST, named

from suites import building

CHECKOUT = Path(__file__).resolve().parents[3]
TIMEOUT_S = 1500


def main() -> int:
    """Build, then leave the rest to scripts/vm."""
    parser = argparse.ArgumentParser(
        prog="scripts/suites",
        description="Run the kernel's selftests and stress-ng under fork-trace: what it tells must be "
        "what strace saw. The first time builds them from Debian's kernel source.",
        allow_abbrev=False,
    )
    names = [kernel.version for kernel in KERNELS]
    parser.add_argument(
        "--kernel", default=NEWEST.version, choices=names, metavar="VERSION", help=", ".join(names)
    )
    kernel = named(parser.parse_args().kernel)
    assert kernel is not None
    try:
        selftests, stress_ng = building.selftests(kernel), building.stress_ng()
    except VmError as error:
        print(f"scripts/suites: {error}", file=sys.stderr)
        return error.status
    command = [str(CHECKOUT / "scripts/vm"), "--kernel", kernel.version]
    command += ["--timeout", str(TIMEOUT_S), "--", "env", f"FORK_TRACE_SELFTESTS={selftests}"]
    command += [f"FORK_TRACE_STRESS_NG={stress_ng}", ".venv/bin/pytest", "-q", "-rA", "-m", "live"]
    command += ["-p", "no:cacheprovider", "tests/live/test_suites.py"]
    os.execv(command[0], command)


if __name__ == "__main__":
    sys.exit(main())
