"""Makes rehearsals one after the other: `python -m accuracy.making FILE SCENARIO...`.

Runs under a capture. Unlike `fork-trace rehearse` it goes on after a rehearsal that cannot be done. FILE
gets one JSON object for each, as soon as it is known.
"""

from __future__ import annotations

import argparse
import json

from accuracy.judging import COUNT
from fork_trace.errors import ForkTraceError, NotHereError
from fork_trace.output import rehearsals
from fork_trace.rehearse.run import run


def told(name: str, host_wide: bool) -> str:
    """Rehearse once, COUNT times; one line of JSON, with `error` where it could not be done."""
    try:
        return rehearsals.outcome(run(name, COUNT, host_wide), as_json=True)
    except NotHereError as error:
        return rehearsals.not_here(name, error.message, as_json=True)
    except ForkTraceError as error:
        why = error.message
    except Exception as error:
        # The others must have their turn.
        why = repr(error)
    return json.dumps({"scenario": name, "error": why}) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(prog="accuracy.making")
    parser.add_argument("--host-wide", action="store_true")
    parser.add_argument("file")
    parser.add_argument("scenarios", nargs="+")
    options = parser.parse_args()
    with open(options.file, "w", encoding="utf-8") as file:
        for name in options.scenarios:
            file.write(told(name, options.host_wide))
            file.flush()


if __name__ == "__main__":
    main()
