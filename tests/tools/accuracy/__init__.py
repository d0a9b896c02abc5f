"""Runs every rehearsal on every kernel and attach mode, and judges what was said of it."""
