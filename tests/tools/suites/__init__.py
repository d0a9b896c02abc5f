"""The kernel's own selftests and stress-ng, as programs whose forks fail in ways that nobody here thought of."""
