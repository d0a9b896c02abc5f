"""The metrics of a recorder: all there from the start, and few whatever fails and however it is called."""

from __future__ import annotations

import pickle
import random
import time
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
from conftest import make_death, make_evidence, make_failure, make_header
from prometheus_client.parser import text_string_to_metric_families

from fork_trace.diagnosis.causes import CAUSES
from fork_trace.model import places
from fork_trace.model.records import Failure
from fork_trace.output import exposition
from fork_trace.serve import owners
from fork_trace.serve.metrics import DEATHS, Metrics, Watch

POD = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0"
WATCH = Watch(make_header(), 0, 0)
# Nobody has more series than this, whatever happens on the host.
MOST_SERIES = 600

FAILURES = [cause for cause in CAUSES if cause.slug not in DEATHS]


def text(found: Metrics, now_s: float = 0.0, watch: Watch = WATCH, accept: str = "") -> str:
    return exposition.write(found.families(watch, now_s), accept)[0].decode()


def samples(found: str) -> dict[tuple[str, tuple[str, ...]], float]:
    """Each series with its labels in the order of their names; twice the same is none of ours."""
    read = {}
    for family in text_string_to_metric_families(found):  # type: ignore[no-untyped-call]
        for each in family.samples:
            key = (each.name, tuple(value for _, value in sorted(each.labels.items())))
            assert key not in read
            read[key] = each.value
    return read


def counted(found: Metrics, name: str) -> dict[tuple[str, ...], float]:
    return {
        labels: value
        for (each, labels), value in samples(text(found)).items()
        if each == name and value
    }


def failed(cgroup: str | None, count: int = 1, **changes: Any) -> Failure:
    """A failure in that cgroup, named as the session names it."""
    container = {**(places.place(cgroup).as_record() or {}), **changes.pop("named", {})} or None
    return make_failure(cgroup=cgroup, container=container, count=count, **changes)


def test_every_cause_and_errno_is_there_before_anything_fails() -> None:
    found = samples(text(Metrics()))

    for cause in FAILURES:
        for name in cause.errnos:
            assert 0 == found["fork_trace_failures_total", (cause.slug, name)]
        assert ("fork_trace_failures_total", (cause.slug, "other")) in found
    assert {0.0} == {
        value for (name, _), value in found.items() if name.startswith("fork_trace_failures")
    }
    assert 1 == found["fork_trace_build_info", ("fexit", "0.1.0")]
    assert len(found) < MOST_SERIES


def test_deaths_are_counted_apart_and_are_there_before_any() -> None:
    metrics = Metrics()
    assert {(each,): 0 for each in DEATHS} == {
        labels: value
        for (name, labels), value in samples(text(metrics)).items()
        if name == "fork_trace_deaths_total"
    }
    metrics.add_incidents([make_death(), make_death(), make_death(cause="host-oom")])
    found = samples(text(metrics))

    assert 2 == found["fork_trace_deaths_total", ("copy-on-write",)]
    assert 1 == found["fork_trace_deaths_total", ("host-oom",)]
    assert 0 == sum(
        value for (name, _), value in found.items() if name == "fork_trace_failures_total"
    )


def test_what_fails_is_counted_as_often_as_its_record_says() -> None:
    found = Metrics()
    found.add([failed("/system.slice/a.service", 23), failed("/system.slice/a.service", 7)], 0.0)

    assert {("pids-cgroup", "EAGAIN"): 30} == counted(found, "fork_trace_failures_total")
    owner = counted(found, "fork_trace_failures_by_owner_total")
    assert {("pids-cgroup", "", "", "", "a.service"): 30} == owner


@pytest.mark.parametrize(
    ("errno", "label"),
    [("EAGAIN", "EAGAIN"), ("EXDEV", "other"), ("unknown:4095", "other"), (None, "other")],
)
def test_an_errno_that_no_cause_has_is_other(errno: str | None, label: str) -> None:
    found = Metrics()
    found.add([failed(None, errno=errno)], 0.0)

    assert {("pids-cgroup", label): 1} == counted(found, "fork_trace_failures_total")


def test_a_failure_of_which_nothing_is_known_is_unknown() -> None:
    found = Metrics()
    found.add([failed(None, cause="unknown", errno=None, comm=None, evidence=())], 0.0)

    assert {("unknown", "unknown"): 1} == counted(found, "fork_trace_failures_total")
    assert {("unknown", "", "", "", ""): 1} == counted(found, "fork_trace_failures_by_owner_total")


@pytest.mark.parametrize(
    ("cgroup", "named", "expected"),
    [
        ("/system.slice/a.service/worker", {}, ("", "", "", "a.service")),
        # Another user's unit of that name is not the host's.
        (
            "/user.slice/user-7.slice/user@7.service/app.slice/a.service",
            {},
            ("", "", "", "user@7.service/a.service"),
        ),
        ("/docker/" + "a" * 64, {}, ("", "", "a" * 12, "")),
        ("/docker/" + "a" * 64, {"name": "web"}, ("", "", "web", "")),
        (
            f"/kubepods.slice/kubepods-pod{POD.replace('-', '_')}.slice/cri-containerd-{'b' * 64}.scope",
            {"name": "app", "pod_name": "shop/web-0"},
            ("shop", "web-0", "app", ""),
        ),
        (
            f"/kubepods.slice/kubepods-pod{POD.replace('-', '_')}.slice/cri-containerd-{'b' * 64}.scope",
            {},
            ("", POD, "b" * 12, ""),
        ),
        ("/of/nobody", {}, ("", "", "", "")),
        (None, {}, ("", "", "", "")),
    ],
)
def test_an_owner_is_a_pod_a_container_or_a_unit(
    cgroup: str | None, named: dict[str, str], expected: tuple[str, ...]
) -> None:
    assert ("pids-cgroup", *expected) == owners.owner_of(failed(cgroup, named=named))


def test_names_that_others_chose_can_break_no_line() -> None:
    found = Metrics()
    evil = 'x"} 99\nfork_trace_failures_total{cause="host-oom",errno="\x1b[2J\\'
    named = {"name": evil * 50, "pod_name": f"{evil}/{evil}"}
    where = make_evidence(where=f"/sys/fs/cgroup/{evil * 50}")
    found.add([failed("/docker/" + "a" * 64, named=named, evidence=(where,))], 0.0)
    told = text(found)

    assert "\x1b" not in told
    read = samples(told)
    assert 1 == sum(v for (name, _), v in read.items() if name == "fork_trace_failures_total")
    longest = max(len(each) for _, labels in read for each in labels)
    assert 100 <= longest <= 200


def test_a_limit_is_told_in_bytes_and_not_for_ever() -> None:
    found = Metrics()
    number = make_evidence(value=3, limit=4, unit="KiB", name="memory.max")
    found.add([failed("/app.service", evidence=(number,))], 100.0)

    told = {name: v for (name, _), v in samples(text(found, 700.0)).items() if "_limit_" in name}
    assert {"fork_trace_limit_used": 3072, "fork_trace_limit_max": 4096} == told
    assert "fork_trace_limit_used{" not in text(found, 701.0)


def test_a_limit_of_each_process_is_one_series_of_its_command() -> None:
    found = Metrics()
    for pid in range(100):
        asked = make_evidence(where="the calling process", name="RLIMIT_NOFILE")
        found.add([failed("/app.service", pid=pid, evidence=(asked,), cause="rlimit-nofile")], 0.0)

    (where,) = [labels for (name, labels) in samples(text(found)) if name == "fork_trace_limit_max"]
    assert ("rlimit-nofile", "sh") == where


def test_what_is_not_watched_is_0_and_what_is_not_counted_is_not_there() -> None:
    header = make_header(
        attached=({"step": "copy_process", "function": "copy_process", "later": False},),
        missing=({"step": "dup_fd", "function": "dup_fd", "reason": "gone"},),
    )
    found = samples(text(Metrics(), watch=Watch(header, 3, None)))

    assert 1 == found["fork_trace_probe_attached", ("copy_process",)]
    assert 0 == found["fork_trace_probe_attached", ("dup_fd",)]
    assert 3 == found["fork_trace_samples_lost_total", ()]
    assert "fork_trace_missed_calls_total" not in {name for name, _ in found}
    over = samples(text(Metrics(), watch=Watch(header, 3, 5, is_over=True)))
    assert 0 == over["fork_trace_probe_attached", ("copy_process",)]
    assert 5 == over["fork_trace_missed_calls_total", ()]


def test_openmetrics_is_told_to_who_asks_for_it() -> None:
    told, content_type = exposition.write(
        Metrics().families(WATCH, 0.0), "application/openmetrics-text"
    )

    assert content_type.startswith("application/openmetrics-text")
    assert told.endswith(b"# EOF\n")
    assert b"# TYPE fork_trace_failures counter\n" in told


def everybody() -> Iterator[Failure]:
    """100,000 cgroups of every kind, none of which was there before; and 23 that fail again and again."""
    kinds = (
        lambda n: f"/system.slice/unit-{n}.service",
        lambda n: f"/docker/{n:064x}",
        lambda n: f"/kubepods/pod{n:08x}-4b5a-6978-8796-a5b4c3d2e1f0/{n:064x}",
        lambda n: f"/user.slice/user-7.slice/user@7.service/{n}.scope",
        lambda n: f"/made/by/hand/{n}",
        lambda n: None,
    )
    causes = [cause.slug for cause in FAILURES]
    for number in range(100_000):
        where = make_evidence(where=f"/sys/fs/cgroup/{number}", value=number, limit=number)
        cause = causes[number % len(causes)]
        errno = f"unknown:{number % 4096}" if number % 3 else "EAGAIN"
        cgroup = kinds[number % len(kinds)](number)
        yield failed(cgroup, evidence=(where,), cause=cause, errno=errno, comm=f"c{number}")
        if number % 5 == 0:
            yield failed(f"/system.slice/busy-{number % 23}.service", 3)


def test_of_100_000_cgroups_there_are_few_series_in_little_memory() -> None:
    found, truth = Metrics(), Counter[str]()
    before: dict[tuple[str, tuple[str, ...]], float] = {}
    failures = everybody()
    now_s = 0.0
    while batch := list(islice(failures, 12_000)):
        for at in range(0, len(batch), 1000):
            found.add(batch[at : at + 1000], now_s)
            now_s += 61.0
        for each in batch:
            truth[each.cause] += each.count
        after = samples(text(found, now_s))
        assert len(after) < MOST_SERIES
        for key, value in after.items():
            if key[0].endswith("_total"):
                assert value >= before.get(key, 0)
        before = after
        del batch

    causes: Counter[str] = Counter()
    for (name, labels), value in before.items():
        if name == "fork_trace_failures_total":
            causes[labels[0]] += int(value)
    assert +causes == +truth
    assert 160_000 == sum(causes.values())
    shown = {labels[4] for (name, labels) in before if name == "fork_trace_failures_by_owner_total"}
    assert {f"busy-{number}.service" for number in range(23)} <= shown
    # All that is kept of them.
    assert len(pickle.dumps(vars(found))) < 1 << 20


def test_a_scrape_is_quick_with_as_many_series_as_there_can_be() -> None:
    found = Metrics()
    for number in range(200):
        where = make_evidence(where=f"/sys/fs/cgroup/{number}{'x' * 500}")
        found.add([failed(f"/system.slice/{number}{'x' * 200}.service", evidence=(where,))], 0.0)
    text(found)
    begun_s = time.process_time()
    told = text(found)

    assert time.process_time() - begun_s < 0.1
    assert len(told) < 100_000


def units(found: owners.Owners) -> dict[str, int]:
    return {owner.unit: count for owner, count in found.counts(("pids-cgroup",))}


def unit(name: object) -> owners.Owner:
    return owners.Owner("pids-cgroup", unit=f"{name}.service")


def test_a_series_that_comes_again_goes_on_where_it_was() -> None:
    found = owners.Owners()
    found.add(unit("first"), 23, 0.0)
    for now_s in (0.0, 60.0, 120.0):
        for number in range(owners.MOST):
            found.add(unit(number), 100, now_s)
        found.tend(now_s)
    assert "first.service" not in units(found)
    others = units(found)["(other)"]
    # In this window it has no series, in the next one it has.
    found.add(unit("first"), 50, 180.0)
    found.tend(180.0)
    assert (23, others + 50) == (units(found)["first.service"], units(found)["(other)"])
    found.add(unit("first"), 5, 181.0)

    assert 28 == units(found)["first.service"]


def test_who_fails_once_takes_no_series_from_who_fails_more() -> None:
    found = owners.Owners()
    for number in range(owners.MOST):
        found.add(unit(number), 1, 0.0)
    for now_s in range(60, 3600, 60):
        found.add(unit(f"new-{now_s}"), owners._LEAST - 1, float(now_s))
        found.tend(float(now_s))

    assert {f"{number}.service" for number in range(owners.MOST)} < set(units(found))
    found.add(unit("late"), 1, 3601.0)
    found.tend(3661.0)
    assert "late.service" in units(found)


def test_every_failure_is_in_one_series_and_no_series_goes_back() -> None:
    found, chance = owners.Owners(), random.Random(23)
    latest: dict[str, int] = {}
    for now_s in range(0, 36_000, 20):
        before = units(found)
        number, count = int(chance.paretovariate(0.7)) % 1000, chance.randrange(1, 50)
        found.add(unit(number), count, float(now_s))
        after = units(found)
        # A new series may bring what it had before it went.
        grown = sum(value - before.get(key, latest.get(key, 0)) for key, value in after.items())
        assert count == grown
        found.tend(float(now_s))
        assert all(value >= latest.get(key, 0) for key, value in units(found).items())
        latest.update(units(found))

    assert len(latest) > 2 * owners.MOST


def test_how_long_forks_take_is_there_where_it_is_watched() -> None:
    metrics = Metrics()
    assert not [name for name, _ in samples(text(metrics)) if "duration" in name or "slow" in name]

    buckets = [0] * 40
    buckets[14], buckets[15], buckets[20], buckets[39] = 1, 10, 100, 1000
    metrics.add_slow([("swap", 0.5), ("swap", 1.5)])
    families = metrics.families(WATCH, 0.0, (buckets, 3_000_000_000))
    found = samples(exposition.write(families)[0].decode())

    name = "fork_trace_fork_duration_seconds"
    up_to = {
        float(labels[0]): value for (each, labels), value in found.items() if "_bucket" in each
    }
    assert sorted(up_to.values()) == [up_to[bound] for bound in sorted(up_to)]
    assert (1, 11, 111, 1111) == tuple(
        up_to[bound] for bound in (2**15 / 1e9, 2**16 / 1e9, 2**21 / 1e9, float("inf"))
    )
    assert (1111, 3.0) == (found[f"{name}_count", ()], found[f"{name}_sum", ()])
    assert 2 == found["fork_trace_slow_forks_total", ("swap",)]
    assert 2.0 == found["fork_trace_slow_forks_seconds_total", ("swap",)]
    assert 0 == found["fork_trace_slow_forks_total", ("page-tables",)]
