"""Gets Prometheus, with promtool, from Debian's archive into the cache: unpacked, not installed, no service."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from vm import cache


def prometheus() -> Path | None:
    """Return the directory of prometheus and promtool; None where it cannot be had."""
    found = shutil.which("promtool"), shutil.which("prometheus")
    if all(found):
        return Path(str(found[0])).parent
    place = cache.directory() / "prometheus"
    with cache.locked("prometheus"):
        if not place.is_dir():
            work = cache.directory() / "apt" / "prometheus"
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir(parents=True)
            try:
                subprocess.run(
                    ["apt-get", "-q", "download", "prometheus"],
                    cwd=work,
                    check=True,
                    capture_output=True,
                    timeout=300,
                )
                (package,) = work.glob("prometheus_*.deb")
                subprocess.run(["dpkg", "-x", package, work / "root"], check=True, timeout=300)
            except (OSError, subprocess.SubprocessError, ValueError):
                return None
            (work / "root").rename(place)
            shutil.rmtree(work, ignore_errors=True)
    return place / "usr" / "bin"
