"""Runs the unit tests on the oldest Python that is supported, and on the newest: scripts/test --lane python."""
