// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The floor: what any fexit program on these functions costs. Each only tests
 * the return, as ours must, and counts an error. Named as ours are, with floor_
 * for fexit_; hold.py loads those that match our plan.
 */
#include "kernel_types.h"
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "GPL";

/* Something that is done on an error, or the compiler would leave out the test. */
__u64 errors;

#define IS_ERROR_POINTER(value) ((__u64)(value) >= (__u64)-4095)
#define IS_ERROR_INT(value) ((int)(value) < 0)
#define IS_TRUE(value) ((__u8)(value))
#define IS_NULL(value) (!(value))

#define FLOOR(name, function, params, is_error)            \
	SEC("fexit/" function)                              \
	int floor_##name(__u64 *ctx)                        \
	{                                                   \
		if (is_error(ctx[params]))                  \
			__sync_fetch_and_add(&errors, 1);   \
		return 0;                                   \
	}

FLOOR(copy_process, "copy_process", 4, IS_ERROR_POINTER)
FLOOR(is_rlimit_overlimit, "is_rlimit_overlimit", 3, IS_TRUE)
FLOOR(dup_fd, "dup_fd", 2, IS_ERROR_POINTER)
FLOOR(dup_fd_510, "dup_fd", 3, IS_NULL)
FLOOR(vm_enough_memory, "__vm_enough_memory", 3, IS_ERROR_INT)
FLOOR(alloc_pid, "alloc_pid", 3, IS_ERROR_POINTER)
FLOOR(cgroup_can_fork, "cgroup_can_fork", 2, IS_ERROR_INT)
FLOOR(vm_mmap_pgoff, "vm_mmap_pgoff", 6, IS_ERROR_POINTER)
FLOOR(do_mprotect_pkey, "do_mprotect_pkey", 4, IS_ERROR_INT)
FLOOR(copy_clone_args, "copy_clone_args_from_user", 3, IS_ERROR_INT)
FLOOR(create_user_ns, "create_user_ns", 1, IS_ERROR_INT)
FLOOR(set_cred_ucounts, "set_cred_ucounts", 1, IS_ERROR_INT)
FLOOR(io_uring_fork, "__io_uring_fork", 1, IS_ERROR_INT)
FLOOR(ldt_dup_context, "ldt_dup_context", 2, IS_ERROR_INT)
FLOOR(copy_mnt_ns, "copy_mnt_ns", 4, IS_ERROR_POINTER)
FLOOR(copy_utsname, "copy_utsname", 3, IS_ERROR_POINTER)
FLOOR(copy_ipcs, "copy_ipcs", 3, IS_ERROR_POINTER)
FLOOR(copy_pid_ns, "copy_pid_ns", 3, IS_ERROR_POINTER)
FLOOR(copy_cgroup_ns, "copy_cgroup_ns", 3, IS_ERROR_POINTER)
FLOOR(copy_net_ns, "copy_net_ns", 3, IS_ERROR_POINTER)
FLOOR(copy_time_ns, "copy_time_ns", 3, IS_ERROR_POINTER)
FLOOR(shstk, "shstk_alloc_thread_stack", 3, IS_ERROR_POINTER)
FLOOR(pidfd_prepare, "pidfd_prepare", 3, IS_ERROR_INT)
FLOOR(pidfd_prepare_510, "__pidfd_prepare", 3, IS_ERROR_INT)
FLOOR(mem_cgroup_out_of_memory, "mem_cgroup_out_of_memory", 3, IS_TRUE)
