// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The security module of `fork-trace rehearse security-module`: it refuses every
 * new task of one comm. The context is taken raw, so no kernel type is needed.
 */
#include "kernel_types.h"
#include <bpf/bpf_helpers.h>

#define EACCES 13

char LICENSE[] SEC("license") = "GPL";

/* fork_trace/rehearse/scenarios.py, the scenario's comm, with the NUL. */
static const char refused[] = "ft-lsm";

SEC("lsm/task_alloc")
int refuse_task(__u64 *ctx)
{
	char comm[16];
	unsigned int i;

	if (bpf_get_current_comm(comm, sizeof(comm)))
		return 0;
	for (i = 0; i < sizeof(refused); i++)
		if (comm[i] != refused[i])
			return 0;
	return -EACCES;
}
