"""fork-trace: which step of the kernel's fork refused, and against which limit."""

__version__ = "0.1.0"
