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

#define FLOOR(name, function, parameters, returns)        \
	SEC("fexit/" #function)                           \
	int floor_##name(__u64 *ctx)                      \
	{                                                 \
		if (IS_##returns(ctx[parameters]))        \
			__sync_fetch_and_add(&errors, 1); \
		return 0;                                 \
	}
#define PROBE(step, name, function, parameters, returns, body, of, saves, callers, stage) \
	FLOOR(name, function, parameters, returns)
#include "probes.def"

/* Beside the table: steps.EXECVES and steps.UNSHARED of fork_trace/model. */
FLOOR(__x64_sys_execve, __x64_sys_execve, 1, INT)
FLOOR(__x64_sys_execveat, __x64_sys_execveat, 1, INT)
FLOOR(__ia32_compat_sys_execve, __ia32_compat_sys_execve, 1, INT)
FLOOR(__ia32_compat_sys_execveat, __ia32_compat_sys_execveat, 1, INT)
FLOOR(__arm64_sys_execve, __arm64_sys_execve, 1, INT)
FLOOR(__arm64_sys_execveat, __arm64_sys_execveat, 1, INT)
FLOOR(__arm64_compat_sys_execve, __arm64_compat_sys_execve, 1, INT)
FLOOR(__arm64_compat_sys_execveat, __arm64_compat_sys_execveat, 1, INT)
FLOOR(unshare_namespaces, unshare_nsproxy_namespaces, 4, INT)
FLOOR(unshare_userns, unshare_userns, 2, INT)
