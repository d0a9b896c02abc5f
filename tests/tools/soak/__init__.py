"""Watches for long, while forks fail and succeed and another fork-trace comes and goes; scripts/soak runs it."""
