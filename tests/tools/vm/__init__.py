"""Boots a real kernel under QEMU and runs one command in it. Knows nothing of fork_trace."""
