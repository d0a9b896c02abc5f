"""scripts/fuzz: a bounded time of coverage-guided fuzzing for each target.

Each target has a process of its own, for libFuzzer ends its process with the first finding. What is found is
kept in tests/tools/fuzz/findings, where tests/tools/test_fuzz.py tries it from then on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
FINDINGS = HERE / "findings"
MOST_RSS_MB = 700
# Of one input: none may take so long, or so much at once.
MOST_SECONDS_EACH, MOST_MALLOC_MB = 3, 64


def _fuzz(name: str, corpus: str, words: str, seconds: int) -> None:
    """Fuzz one target in this process until the time is up; libFuzzer ends it."""
    import atheris

    with atheris.instrument_imports(include=["fork_trace"]):
        from fuzz.targets import TARGETS
    (target,) = (each for each in TARGETS if each.name == name)
    # Once without the fuzzer, so that what is imported late is there.
    for seed in target.seeds():
        target.ask(seed)
    options = [
        *("fuzz", f"-max_total_time={seconds}", f"-rss_limit_mb={MOST_RSS_MB}"),
        *(f"-timeout={MOST_SECONDS_EACH}", f"-malloc_limit_mb={MOST_MALLOC_MB}"),
        f"-max_len={target.most_bytes}",
        *("-print_final_stats=1", f"-artifact_prefix={corpus}/found-"),
    ]
    if target.words:
        options.append(f"-dict={words}")
    atheris.Setup([*options, corpus], target.ask)
    atheris.Fuzz()


def _run(name: str, seconds: int) -> dict[str, object]:
    from fuzz.targets import TARGETS

    (target,) = (each for each in TARGETS if each.name == name)
    with tempfile.TemporaryDirectory(prefix="fork-trace-fuzz-") as place:
        corpus, words = Path(place, "corpus"), Path(place, "words")
        corpus.mkdir()
        kept = sorted((FINDINGS / name).glob("*")) if (FINDINGS / name).is_dir() else []
        for number, seed in enumerate([*target.seeds(), *(path.read_bytes() for path in kept)]):
            (corpus / f"seed-{number}").write_bytes(seed)
        escaped = ("".join(f"\\x{byte:02x}" for byte in word) for word in target.words)
        words.write_text("".join(f'"{word}"\n' for word in escaped))
        done = subprocess.run(
            [sys.executable, "-m", "fuzz", "--inside", name, str(corpus), str(words), str(seconds)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="backslashreplace",
        )
        found = []
        for path in sorted(corpus.glob("found-*")):
            raw = path.read_bytes()
            kept_at = FINDINGS / name / hashlib.sha256(raw).hexdigest()[:12]
            kept_at.parent.mkdir(parents=True, exist_ok=True)
            kept_at.write_bytes(raw)
            found.append(str(kept_at))
    runs = re.search(r"stat::number_of_executed_units:\s*(\d+)", done.stdout)
    edges = re.findall(r"\bcov: (\d+)", done.stdout)
    peak = re.search(r"stat::peak_rss_mb:\s*(\d+)", done.stdout)
    if done.returncode or runs is None:
        sys.stderr.write(done.stdout[-6000:])
    return {
        "target": name,
        "seconds": seconds,
        "runs": int(runs[1]) if runs else None,
        "edges": int(edges[-1]) if edges else None,
        "peak_rss_mb": int(peak[1]) if peak else None,
        "status": done.returncode,
        "findings": found,
    }


def main() -> int:
    if sys.argv[1:2] == ["--inside"]:
        name, corpus, words, seconds = sys.argv[2:]
        _fuzz(name, corpus, words, int(seconds))
        return 0
    from fuzz.targets import TARGETS

    names = [target.name for target in TARGETS]
    parser = argparse.ArgumentParser(
        prog="scripts/fuzz",
        description="Fuzz whatever reads what strangers wrote. Exit status: 0 nothing found, 1 a finding, "
        "kept in tests/tools/fuzz/findings.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--seconds", type=int, default=30, help="for each target (default: %(default)s)"
    )
    parser.add_argument(
        "--target", choices=names, action="append", help="only this one; repeatable (default: all)"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object for each target")
    options = parser.parse_args()
    if options.seconds < 1:
        parser.error("--seconds must be 1 or more.")
    is_clean = True
    for name in options.target or names:
        told = _run(name, options.seconds)
        if options.json:
            print(json.dumps(told), flush=True)
        else:
            text = f"{name}: {told['runs']} runs in {options.seconds} s, {told['edges']} edges"
            print(f"{text}, {told['peak_rss_mb']} MB", flush=True)
            for path in told["findings"]:  # type: ignore[attr-defined]
                print(f"  found: {path}", flush=True)
        is_clean = is_clean and told["status"] == 0
    return 0 if is_clean else 1


sys.exit(main())
