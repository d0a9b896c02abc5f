"""What this host offers: facts and plan as a report. Arms the programs once, to know and not to guess."""

from __future__ import annotations

from typing import Any

from fork_trace.collect.arm import read_facts
from fork_trace.collect.session import Session
from fork_trace.diagnosis import makers
from fork_trace.errors import ForkTraceError
from fork_trace.host import cgroup, procfs
from fork_trace.probes import kernel, privileges
from fork_trace.probes.plan import Fact
from fork_trace.probes.request import FEATURES, Request
from fork_trace.stacks.symbols import Symbols


def _demangling() -> Fact:
    symbols = Symbols()
    symbols.close()
    why = symbols.why_not_demangled
    return Fact(why is None, why or "C++ names are demangled")


def _fact(fact: Fact) -> dict[str, Any]:
    return {"value": fact.value, "why": fact.why}


def _privileges() -> Fact:
    lacks = privileges.missing()
    if lacks is None:
        return Fact(None, "/proc/self/status does not show them")
    if not lacks:
        return Fact(True, "has all that are useful here")
    return Fact(False, "; ".join(f"without {each.name}: {each.for_what}" for each in lacks))


def _processes() -> Fact:
    if procfs.is_initial_pid_namespace():
        return Fact(True, "pids are the host's")
    return Fact(
        False,
        "in a pid namespace of its own (Kubernetes: hostPID): no failure has a program, a caller's name "
        "or holders",
    )


def _cgroups() -> Fact:
    mounts = cgroup.mounts()
    if mounts and (any(mount.is_outer for mount in mounts) or procfs.is_initial_cgroup_namespace()):
        return Fact(True, "cgroups have the host's paths")
    if not mounts:
        return Fact(False, "no cgroup hierarchy is mounted: cgroups have ids and no paths")
    return Fact(
        False,
        "in a cgroup namespace of its own, without the host's /sys/fs/cgroup: cgroups of others have no "
        "paths, so containers and pods no names",
    )


def examine(request: Request = Request()) -> dict[str, Any]:
    """Return all that is known of this host, as JSON values; `usable` is the verdict."""
    facts, _ = read_facts(request)
    features = {name: _fact(facts.feature(name)) for name in FEATURES}
    for name in request.without:
        features[name] = {"value": False, "why": f"denied by --without {name}"}
    features["may_load"] = _fact(facts.may_load)
    features["privileges"] = _fact(_privileges())
    features["processes"] = _fact(_processes())
    features["cgroups"] = _fact(_cgroups())
    features["unlocked"] = _fact(facts.unlocked)
    features["tracepoints"] = _fact(facts.tracepoints)
    features["preemption"] = _fact(facts.preempts)
    features["libstdc++"] = _fact(_demangling())
    found: dict[str, Any] = {
        "kernel": facts.release,
        "machine": facts.machine,
        "lockdown": kernel.lockdown(),
        "features": features,
        "usable": False,
        "attach": None,
        "backend": None,
        "attached": [],
        "missing": [],
        "fallbacks": [],
        "unseen": None,
        "why": None,
        "remedy": None,
        "limits": kernel.limits(),
    }
    try:
        session = Session(request)
    except ForkTraceError as error:
        found["why"], found["remedy"] = error.message, error.hint
        return found
    try:
        header = session.header()
    finally:
        session.close()
    # These are known for sure by attaching only.
    for name in {"trampolines", "kprobes", "bcc"} - request.without:
        features[name] = _fact(session.facts.feature(name))
    found.update(
        usable=True,
        attach=header.attach,
        backend=header.backend,
        attached=list(header.attached),
        missing=list(header.missing),
        fallbacks=list(header.fallbacks),
        unseen=makers.unseen(header.attach),
    )
    return found
