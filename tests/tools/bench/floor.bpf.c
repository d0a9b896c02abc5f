// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The floor: what any fexit program on these functions costs. Each only tests
 * the return, as ours must, and counts an error. Made of our own table, and
 * named as ours are, with floor_ for fexit_; hold.py loads those that match our plan.
 */
#include "kernel_types.h"
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "GPL";

/* Something that is done on an error, or the compiler would leave out the test. */
__u64 errors;

#define IS_ERR_PTR(value) ((__u64)(value) >= (__u64)-4095)
#define IS_INT(value) ((int)(value) < 0)
#define IS_PTR(value) (!(value))
#define IS_TRUE(value) ((__u8)(value))
#define IS_FALSE(value) (!(__u8)(value))

#define PROBE(step, name, function, parameters, returns, body, of, saves, callers, stage) \
	SEC("fexit/" #function)                                                           \
	int floor_##name(__u64 *ctx)                                                      \
	{                                                                                 \
		if (IS_##returns(ctx[parameters]))                                        \
			__sync_fetch_and_add(&errors, 1);                                 \
		return 0;                                                                 \
	}
#include "probes.def"

/* Of no step: steps.UNSHARED of fork_trace/model. */
SEC("fexit/unshare_nsproxy_namespaces")
int floor_unshare_namespaces(__u64 *ctx)
{
	return (int)ctx[4] < 0;
}

SEC("fexit/unshare_userns")
int floor_unshare_userns(__u64 *ctx)
{
	return (int)ctx[2] < 0;
}
