"""Sizes that the programs and their reader agree on, in bytes: bpf/wire.h."""

COMM_BYTES = 16

# Of user stack with each sample: in whole chunks, at most, and unless asked otherwise.
STACK_CHUNK = 512
STACK_BYTES_MAX = 65536
STACK_BYTES = 8192
