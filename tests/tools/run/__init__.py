"""Runs the lanes of tests/live/matrix.py: scripts/test."""
