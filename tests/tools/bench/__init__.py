"""Measures what watching costs: per operation, to arm, in memory. Numbers to read, never a test."""
