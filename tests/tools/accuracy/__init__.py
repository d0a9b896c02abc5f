"""Runs every rehearsal on every kernel and rung, and judges what was said of it."""
