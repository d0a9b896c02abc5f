"""What this host offers: facts and plan as a report. Arms the programs once, to know and not to guess."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any

from fork_trace import kernel
from fork_trace.errors import ForkTraceError
from fork_trace.plan import FEATURES, Fact, Wishes
from fork_trace.session import Session, read_facts
from fork_trace.symbols import Symbols


def bcc_module(search: list[str] | None = None) -> Fact:
    """Say whether the Python module bcc is the BPF Compiler Collection; it is not imported."""
    if search is None:
        spec = importlib.util.find_spec("bcc")
        places = list(spec.submodule_search_locations or []) if spec else []
        if spec and not places and spec.origin:
            places = [os.path.dirname(spec.origin)]
    else:
        places = [os.path.join(path, "bcc") for path in search if Path(path, "bcc").exists()]
    if not places:
        return Fact(False, "the Python module bcc is not installed")
    if any(Path(place, "libbcc.py").exists() for place in places):
        return Fact(True, "installed")
    return Fact(
        False,
        f"the module bcc in {places[0]} is an unrelated project of the same name "
        "(PyPI's bcc), not the BPF Compiler Collection",
    )


BCC_REMEDY = (
    "pip uninstall bcc, and install the distribution's package: python3-bpfcc (Debian, Ubuntu), "
    "python3-bcc (Fedora, RHEL, SUSE), py3-bcc (Alpine), python-bcc (Arch)."
)


def _demangling() -> Fact:
    symbols = Symbols()
    symbols.close()
    why = symbols.why_not_demangled
    return Fact(why is None, why or "names of C++ are shown as people write them")


def _fact(fact: Fact) -> dict[str, Any]:
    return {"value": fact.value, "why": fact.why}


def examine(wishes: Wishes = Wishes()) -> dict[str, Any]:
    """Return all that is known of this host, as JSON values; `usable` is the verdict."""
    facts, _ = read_facts(wishes)
    features = {name: _fact(facts.feature(name)) for name in FEATURES}
    for name in wishes.without:
        features[name] = {"value": False, "why": f"denied by --without {name}"}
    features["may_load"] = _fact(facts.may_load)
    features["unlocked"] = _fact(facts.unlocked)
    features["tracepoints"] = _fact(facts.tracepoints)
    features["bcc"] = _fact(bcc_module())
    features["libstdc++"] = _fact(_demangling())
    found: dict[str, Any] = {
        "kernel": facts.release,
        "machine": facts.machine,
        "lockdown": kernel.lockdown(),
        "features": features,
        "usable": False,
        "rung": None,
        "backend": None,
        "attached": [],
        "missing": [],
        "why": None,
        "remedy": None,
        "limits": kernel.limits(),
    }
    try:
        session = Session(wishes)
    except ForkTraceError as error:
        found["why"], found["remedy"] = error.message, error.hint
        return found
    try:
        header = session.header()
    finally:
        session.close()
    if "trampolines" not in wishes.without:
        features["trampolines"] = {"value": True, "why": "a program was attached"}
    found.update(
        usable=True,
        rung=header.rung,
        backend=header.backend,
        attached=list(header.attached),
        missing=list(header.missing),
    )
    return found
