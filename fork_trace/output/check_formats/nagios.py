"""`check` as a plugin of Nagios, Icinga, Naemon or Checkmk: one line, then "|" and the performance data.

Source: the Monitoring Plugins Development Guidelines, sections "Plugin Return Codes" and "Performance data".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fork_trace.escape import safe
from fork_trace.output.check import counted, summed_up

_WORDS = {"fine": "OK", "near": "WARNING", "full": "CRITICAL", "unknown": "UNKNOWN"}
# nagios.cfg, illegal_macro_output_chars: they would reach the shell of a notification. "|" would begin
# the performance data.
_ILLEGAL = str.maketrans({char: f"\\x{ord(char):02x}" for char in "`~$&|'\"<>"})


def write(found: Mapping[str, Any], is_all: bool) -> str:
    """Write the status, the worst limit, what was refused so far, and each cause's nearest limit."""
    return f"FORK {_WORDS[found['level']]}: {_plain(_told(found))} | {_performance(found)}\n"


def failed(sentence: str) -> str:
    """Write that nothing could be found out."""
    return f"FORK UNKNOWN: {_plain(sentence)}\n"


def _plain(text: str) -> str:
    return safe(text).translate(_ILLEGAL)


def _told(found: Mapping[str, Any]) -> str:
    pools: Sequence[Mapping[str, Any]] = found["limits"]
    bad = [pool for pool in pools if pool["level"] in ("full", "near")]
    measured = [pool for pool in pools if pool["level"] == "fine" and pool["percent"] is not None]
    if bad:
        text = summed_up(bad[0])
        text += f", and {len(bad) - 1} more" if len(bad) > 1 else ""
    elif found["level"] == "unknown":
        unread = [pool for pool in pools if pool["level"] == "unknown"]
        text = "; ".join(f"{pool['cause']}: {pool['why']}" for pool in unread[:2])
    elif measured:
        text = f"closest is {summed_up(measured[0])}"
    else:
        text = "nothing is limited"
    told = [text, *(counted(name, number) for name, number in found["refusals_total"].items())]
    return "; ".join(told)


def _performance(found: Mapping[str, Any]) -> str:
    nearest: dict[str, Mapping[str, Any]] = {}
    for pool in found["limits"]:
        kept = nearest.get(pool["cause"])
        if not pool["free"] and (kept is None or _share(kept) < _share(pool)):
            nearest[pool["cause"]] = pool
    parts = [_datum(cause, pool, found) for cause, pool in sorted(nearest.items())]
    parts += [f"'{_label(name)}'={count}c" for name, count in found["refusals_total"].items()]
    parts.append(f"'zombies'={found['zombies_total']};;;0")
    return " ".join(parts)


def _share(pool: Mapping[str, Any]) -> float:
    # One that is known tells more than one that is not.
    return -1.0 if pool["percent"] is None else float(pool["percent"])


def _datum(cause: str, pool: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    used, limit = pool["used"], pool["limit"]
    if pool["refuses"]:
        used, limit = 1, 1
    if used is None or limit is None:
        return f"'{cause}'=U"
    unit = "KB" if pool["unit"] == "KiB" else ""
    warning, critical = (limit * found[name] / 100 for name in ("near_percent", "full_percent"))
    return f"'{cause}'={used}{unit};{warning:.10g};{critical:.10g};0;{limit}"


def _label(name: str) -> str:
    # No quote, no equals sign.
    return name.replace(" ", "-").replace("'", "").replace("=", "")
