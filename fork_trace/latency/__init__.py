"""Forks that take long: what was seen of each, by command and caller, and why."""
