"""Prometheus, with promtool, from Debian's archive in the cache (unpacked, not installed, no service); and one that runs."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

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


Ask = Callable[[str], list[dict[str, Any]]]


def free_port() -> int:
    """Return a port of this host that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def scraping(tools: Path, place: Path, target: str, path: str, rules: Path) -> Iterator[Ask]:
    """Run a Prometheus that scrapes a target each second; yield what answers queries."""
    (place / "prometheus.yml").write_text(
        f"global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: [{rules}]\n"
        f"scrape_configs:\n- job_name: fork-trace\n  metrics_path: {path}\n"
        f"  static_configs: [{{targets: ['{target}']}}]\n"
    )
    port = free_port()
    argv = [
        *(str(tools / "prometheus"), f"--config.file={place}/prometheus.yml"),
        *(f"--storage.tsdb.path={place}/data", f"--web.listen-address=127.0.0.1:{port}"),
    ]

    def ask(query: str) -> list[dict[str, Any]]:
        url = f"http://127.0.0.1:{port}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            result: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return result

    with (place / "prometheus.log").open("w") as log:
        running = subprocess.Popen(argv, stdout=log, stderr=log)
        try:
            yield ask
        finally:
            running.kill()
            running.wait()


def wait_for(ask: Ask, query: str, most_s: float = 60) -> list[dict[str, Any]]:
    """Return the answer to a query once there is one; the last one when it took too long."""
    found: list[dict[str, Any]] = []
    end_s = time.monotonic() + most_s
    while not found and time.monotonic() < end_s:
        with suppress(urllib.error.URLError, OSError):  # it does not listen yet
            found = ask(query)
        time.sleep(0.2)
    return found


def queries(dashboard: Any) -> dict[str, str]:
    """Return each query of a dashboard, with all hosts and causes chosen."""
    found = {}
    for panel in dashboard["panels"]:
        for target in panel["targets"]:
            query = target["expr"]
            for name, value in (("$instance", ".*"), ("$cause", ".*"), ("$__range", "5m")):
                query = query.replace(name, value)
            found[f"{panel['title']} {target['refId']}"] = query
    return found
