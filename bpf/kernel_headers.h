/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What reading.h and the rest ask of CO-RE, answered by the installed kernel headers:
 * kernel_types.h's place in the bcc shell. Offsets are fixed when the host
 * compiles. Which fields its headers have is told by fork_trace/probes/headers.py, as
 * -DFT_HAS_<struct>_<field>=0 or 1 for each of those that came or went.
 */
#ifndef FORK_TRACE_KERNEL_HEADERS_H
#define FORK_TRACE_KERNEL_HEADERS_H

#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/sched/user.h>
#include <linux/cgroup-defs.h>
#include <linux/cred.h>
#include <linux/fdtable.h>
#include <linux/fs.h>
#include <linux/fs_struct.h>
#include <linux/kernfs.h>
#include <linux/mm_types.h>
#include <linux/nsproxy.h>
#include <linux/percpu_counter.h>
#include <linux/pid.h>
#include <linux/pid_namespace.h>
#include <linux/user_namespace.h>
#ifdef CONFIG_MEMCG
#include <linux/memcontrol.h>
#endif

#if defined(__x86_64__) && !defined(__TARGET_ARCH_x86)
#define __TARGET_ARCH_x86
#elif defined(__aarch64__) && !defined(__TARGET_ARCH_arm64)
#define __TARGET_ARCH_arm64
#endif

#define current_task ft_current_task /* x86 has a variable of that name */

/* bcc makes one program of each function and knows no calls between them. */
#define ft_inline static __always_inline
#define ft_outline ft_inline
#define ft_global ft_inline

/*
 * kernel/cgroup/pids.c: in no header. Its first fields since Linux commit
 * 49b786ea146f ("cgroup: implement the PIDs subsystem") (in v4.3).
 */
struct pids_cgroup {
	struct cgroup_subsys_state css;
	atomic64_t counter;
	atomic64_t limit;
};

/* Fields. What is not there has another's name: what stands behind the test must be parsed. */

#define has_field(type, field) FT_HAS_##type##_##field
#define has_value(type, value) FT_HAS_##type##_##value
#define optional(type, field) FT_FIELD_##type##_##field

/* Rules on flags that came or went after the last kernel that this shell is for: none is told. */
#define FT_HAS_pid_stashed 1
#define FT_HAS_signal_struct_autoreap 0
#define is_autoreaped(signal) 0
#define FT_HAS_fdtable_max_fds 1
#define FT_HAS_fdtable_open_fds 1
#define FT_HAS_fs_struct_in_exec 1
#define FT_HAS_fs_struct_users 1
#define FT_HAS_mm_struct_data_vm 1
#define FT_HAS_mm_struct_map_count 1
#define FT_HAS_mm_struct_pgtables_bytes 1
#define FT_HAS_mm_struct_stack_vm 1
#define FT_HAS_mm_struct_total_vm 1
#define FT_HAS_page_counter_max 1
#define FT_HAS_page_counter_usage 1
#define FT_HAS_pid_namespace_level 1
#define FT_HAS_pid_namespace_parent 1
#define FT_HAS_pid_namespace_pid_allocated 1
#define FT_HAS_pids_cgroup_counter 1
#define FT_HAS_pids_cgroup_limit 1
#define FT_HAS_ucounts_node \
	0 /* it has it; but all in one program, the walk is too much to verify */
#define FT_HAS_ucounts_ns 1
#define FT_HAS_ucounts_uid 1

#if FT_HAS_ucounts_rlimit
#define FT_FIELD_ucounts_rlimit rlimit
#else
#define FT_FIELD_ucounts_rlimit ucount
#endif
#if FT_HAS_user_namespace_rlimit_max
#define FT_FIELD_user_namespace_rlimit_max rlimit_max
#else
#define FT_FIELD_user_namespace_rlimit_max ucount_max
#endif
#define user_struct___v513 user_struct
#if FT_HAS_user_struct___v513_processes
#define FT_FIELD_user_struct___v513_processes processes
#else
#define FT_FIELD_user_struct___v513_processes uid
#endif
#if FT_HAS_cred_ucounts
#define FT_FIELD_cred_ucounts ucounts
#else
#define FT_FIELD_cred_ucounts user_ns->ucounts
#endif
#if FT_HAS_pid_namespace_pid_max
#define FT_FIELD_pid_namespace_pid_max pid_max
#else
#define FT_FIELD_pid_namespace_pid_max level
#endif
#if FT_HAS_nsproxy_time_ns_for_children
#define FT_FIELD_nsproxy_time_ns time_ns
#define FT_FIELD_nsproxy_time_ns_for_children time_ns_for_children
#else
#define FT_FIELD_nsproxy_time_ns net_ns
#define FT_FIELD_nsproxy_time_ns_for_children net_ns
#define UCOUNT_TIME_NAMESPACES 0 /* CLONE_NEWTIME is refused there */
#endif
#if FT_HAS_kernel_clone_args_cgroup
#define FT_FIELD_kernel_clone_args_cgroup cgroup
#else
#define FT_FIELD_kernel_clone_args_cgroup exit_signal
#endif

/* Values of enumerations. */

#if FT_HAS_ucounts_rlimit || FT_HAS_ucount_type___v60_UCOUNT_RLIMIT_NPROC___v60
#define UCOUNT_RLIMIT_NPROC___v60 UCOUNT_RLIMIT_NPROC
#else
#define UCOUNT_RLIMIT_NPROC 0
#define UCOUNT_RLIMIT_NPROC___v60 0
#endif

/* Settings of the kernel. */

#ifdef CONFIG_SECCOMP
#define FT_HAS_seccomp_mode 1
#define seccomp_mode seccomp.mode
#else
#define FT_HAS_seccomp_mode 0
#define seccomp_mode ptrace /* struct seccomp is empty */
#endif
#ifdef CONFIG_CGROUP_PIDS
#define FT_HAS_cgroup_subsys_id_pids_cgrp_id 1
#else
#define FT_HAS_cgroup_subsys_id_pids_cgrp_id 0
#define pids_cgrp_id 0
#endif
/* Of the counters that only v1 has this shell reads none. */
#define FT_HAS_mem_cgroup_memsw 0
#define FT_HAS_mem_cgroup_kmem 0
#define FT_FIELD_mem_cgroup_memsw memory
#define FT_FIELD_mem_cgroup_kmem memory
#ifdef CONFIG_MEMCG
#define FT_HAS_mem_cgroup_memory 1
#define FT_HAS_cgroup_subsys_id_memory_cgrp_id 1
#else
#define FT_HAS_mem_cgroup_memory 0
#define FT_HAS_cgroup_subsys_id_memory_cgrp_id 0
#define memory_cgrp_id 0
struct page_counter {
	atomic_long_t usage;
	unsigned long max;
};
struct mem_cgroup {
	struct cgroup_subsys_state css;
	struct page_counter memory;
};
#endif

/*
 * The system call's registers end the kernel stack; the helper that tells where
 * is for kernels with BTF.
 */
#define FT_HAS_bpf_func_id_BPF_FUNC_task_pt_regs 0
#define FT_HAS_bpf_func_id_BPF_FUNC_get_current_task_btf 0
#define bpf_task_pt_regs(task) 0
#define bpf_get_current_task_btf() 0
#ifdef TOP_OF_KERNEL_STACK_PADDING
#define KERNEL_STACK_BYTES (THREAD_SIZE - TOP_OF_KERNEL_STACK_PADDING)
#else
#define KERNEL_STACK_BYTES THREAD_SIZE
#endif

/* Reading. */

#define bpf_core_read(target, bytes, source) \
	bpf_probe_read_kernel(target, bytes, (const void *)(source))
#define bpf_core_enum_value(type, value) ((__u64)(value))
#define bpf_core_type_size(type) sizeof(type)
#define bpf_core_field_size(field) sizeof(field)
#define bpf_core_field_offset(type, field) offsetof(type, field)
#define __builtin_preserve_access_index(field) (field)

#define register_of(regs, name) BPF_CORE_READ(regs, name)
#define pt_regs_bytes sizeof(struct pt_regs)

/* The value of a field behind up to five pointers; 0 if one of them cannot be followed. */
#define FT_READ_1(source, a)                                                                     \
	({                                                                                       \
		__auto_type ft_source = (source);                                                \
		__typeof__(({ ft_source->a; })) ft_value = 0;                                    \
		bpf_probe_read_kernel(&ft_value, sizeof(ft_value), (const void *)&ft_source->a); \
		ft_value;                                                                        \
	})
#define FT_READ_2(source, a, b) FT_READ_1(FT_READ_1(source, a), b)
#define FT_READ_3(source, a, b, c) FT_READ_1(FT_READ_2(source, a, b), c)
#define FT_READ_4(source, a, b, c, d) FT_READ_1(FT_READ_3(source, a, b, c), d)
#define FT_READ_5(source, a, b, c, d, e) FT_READ_1(FT_READ_4(source, a, b, c, d), e)
#define FT_READ_BY_COUNT(a, b, c, d, e, macro, ...) macro
#define BPF_CORE_READ(source, ...)                                                              \
	FT_READ_BY_COUNT(__VA_ARGS__, FT_READ_5, FT_READ_4, FT_READ_3, FT_READ_2, FT_READ_1, 0) \
	(source, __VA_ARGS__)
#define CURRENT_READ(...) BPF_CORE_READ(current_task(), __VA_ARGS__)

/*
 * A bit has no address. This one is the first after `personality`
 * (include/linux/sched.h), and it is the only one that is asked for.
 */
#define BPF_CORE_READ_BITFIELD_PROBED(task, sched_reset_on_fork)                 \
	({                                                                       \
		__u32 ft_bits = 0;                                               \
		bpf_probe_read_kernel(&ft_bits, sizeof(ft_bits),                 \
				      (const void *)(&(task)->personality + 1)); \
		ft_bits & 1;                                                     \
	})

#endif
